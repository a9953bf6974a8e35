"""Options that commands share, and what they become: a task, models, a budget, a store."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import experience_store
from experience_store import ExperienceStore
from tfgrpo.budget import Budget
from tfgrpo.cli.parsing import number
from tfgrpo.critic import CriticSpec
from tfgrpo.errors import InputError
from tfgrpo.grouping import GROUPINGS, grouping_spec
from tfgrpo.late import LateCaller
from tfgrpo.policy import Policy, connect
from tfgrpo.rewards.base import Reward
from tfgrpo.rewards.named import REWARDS, resolve_reward
from tfgrpo.runs import DEFAULT_FOLDER
from tfgrpo.strategies.base import Strategy
from tfgrpo.strategies.named import STRATEGIES, accepted, resolve_strategy
from tfgrpo.task import FILE_ENDINGS, Task, load_task

DEFAULT_STORE = "./experience"
MODEL_HELP = (
    "openai/NAME, http://HOST:8000/v1#NAME, azure/DEPLOYMENT, vllm/MODEL, local/smollm2 or PROVIDER/NAME (litellm)"
)


def add_task(parser: argparse.ArgumentParser, *, by_name: bool = False) -> None:
    """The task and what scores its answers; `by_name` as --task, where other things come first."""
    said = "problems.jsonl, a task's name (see: tfgrpo tasks), or module:function"
    if by_name:
        parser.add_argument("--task", metavar="TASK", required=True, help=said)
    else:
        parser.add_argument("task", metavar="TASK", help=said)
    group = parser.add_argument_group("task")
    group.add_argument("--reward", metavar="NAME", help=f"{', '.join(REWARDS)}, or module:function")
    group.add_argument("--reward-option", metavar="K=V", action="append", default=[], help="such as tolerance=0.01")
    group.add_argument("--judge", metavar="MODEL", help="the model that the reward asks: judge, tournament, safety")
    group.add_argument("--rubric", metavar="TEXT", help="what the judge grades by; @FILE reads it from a file")
    group.add_argument("--val", metavar="FILE", help="problems for the gate (else dealt from TASK by id)")
    group.add_argument("--test", metavar="FILE", help="problems to measure on (else dealt from TASK by id)")
    group.add_argument("--data", metavar="FILE", help="problems for a named task, instead of its own source")
    group.add_argument("--task-option", metavar="K=V", action="append", default=[], help="for the task's function")
    group.add_argument("--max-tokens", metavar="N", type=number(1), help="of one answer")
    group.add_argument("--temperature", metavar="T", type=number(0, whole=False))


def add_methods(parser: argparse.ArgumentParser) -> None:
    """How groups are asked, valued and ordered, instead of the task's own way."""
    from tfgrpo.advantage import ADVANTAGES  # noqa: PLC0415 - numpy; only `learn` asks for it
    from tfgrpo.samplers import SAMPLERS  # noqa: PLC0415

    text = "Each also as module:function; what they do: tfgrpo methods."
    group = parser.add_argument_group("methods", description=text)
    group.add_argument("--grouping", metavar="NAME", help=f"prompts of a group: {', '.join(GROUPINGS)}")
    group.add_argument("--grouping-option", metavar="K=V", action="append", default=[], help="such as levels=2")
    group.add_argument("--advantage", metavar="NAME", help=f"values of rewards: {', '.join(ADVANTAGES)}")
    group.add_argument("--sampler", metavar="NAME", help=f"order of problems: {', '.join(SAMPLERS)}")


def add_model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The model that solves, its server and price, and the judge's."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="MODEL", required=required, help=MODEL_HELP)
    group.add_argument("--base-url", metavar="URL", help="a server of your own for openai/, azure/, vllm/ and litellm")
    group.add_argument("--price", metavar="IN/OUT", help="dollars per million tokens, where the list price is unknown")
    group.add_argument("--judge-base-url", metavar="URL", help="default: --base-url, for the same kind of name")
    group.add_argument("--judge-price", metavar="IN/OUT")


def add_budget(parser: argparse.ArgumentParser, default: str) -> None:
    """The four limits."""
    group = parser.add_argument_group("budget", description=default)
    group.add_argument("--budget-usd", metavar="X", type=number(0, whole=False), help="dollars, of all calls")
    group.add_argument("--budget-calls", metavar="N", type=number(0), help="solver calls of every kind")
    group.add_argument("--budget-tokens", metavar="N", type=number(0), help="of all calls")
    group.add_argument("--budget-seconds", metavar="X", type=number(0, whole=False))


def add_run(parser: argparse.ArgumentParser) -> None:
    """How a run goes and where it is kept."""
    group = parser.add_argument_group("run")
    group.add_argument("--samples", metavar="K", type=number(1), help="of each test problem (the task's, else 1)")
    group.add_argument("--seed", metavar="N", type=number(0), default=0)
    group.add_argument(
        "--concurrency", metavar="N", type=number(1), default=64, help="requests in flight (%(default)s)"
    )
    group.add_argument("--runs", metavar="FOLDER", default=DEFAULT_FOLDER, help="where run folders are kept (./runs)")


def add_namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", metavar="NAME", default="default", help="of the store")


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """More than one answer to a question, and what chooses among them."""
    text = "What they do: tfgrpo methods --kind strategy."
    group = parser.add_argument_group("strategy", description=text)
    group.add_argument("--strategy", metavar="NAME[:N]", help=f"N answers to each: {', '.join(STRATEGIES)}")
    group.add_argument("--strategy-option", metavar="K=V", action="append", default=[], help="such as reading=number")


def strategy_of(args: argparse.Namespace, judge: LateCaller | None = None) -> Strategy | None:
    """The strategy with its options, whose judge is the given model where there is one."""
    options = pairs_of(args.strategy_option, "--strategy-option")
    if args.strategy is None:
        if options or judge is not None:
            raise InputError("--strategy-option and --strategy-judge need --strategy, such as --strategy vote:5")
        return None
    if judge is not None:
        name = args.strategy.partition(":")[0]
        if "caller" not in accepted(name) or options.get("by", "judge") != "judge":
            raise InputError(f"--strategy-judge is for the strategies best and tournament, got {args.strategy}")
        options["caller"] = judge
    return resolve_strategy(args.strategy, **options)


def budget_of(args: argparse.Namespace) -> Budget | None:
    """The budget, None when no limit was given."""
    given = (args.budget_usd, args.budget_calls, args.budget_tokens, args.budget_seconds)
    if all(limit is None for limit in given):
        return None
    return Budget(usd=given[0], calls=given[1], tokens=given[2], seconds=given[3])


def pairs_of(given: Sequence[str], option: str) -> dict[str, Any]:
    """K=V as a mapping; a value is read as JSON where it is some, and @FILE is that file's content."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{option} needs the form K=V, such as limit=100; got {pair!r}")
        found[name.replace("-", "_")] = _value(text_of(value))
    return found


def text_of(value: str) -> str:
    """The text itself, or that of the file behind @."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {value[1:]!r}: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def model_of(stack: AsyncExitStack, name: str, *, base_url: str | None = None, price: str | None = None) -> Policy:
    """The model, closed with the stack."""
    policy = connect(name, base_url=base_url, price=price)
    stack.push_async_callback(policy.aclose)
    return policy


def beside(args: argparse.Namespace, name: str, own_url: str | None) -> str | None:
    """The server of a second model: its own, else that of --model when both names are of one kind."""
    model = args.model or name
    same_kind = name.partition("/")[0] == model.partition("/")[0] and "://" not in name
    return own_url or (args.base_url if same_kind else None)


def solver_of(stack: AsyncExitStack, args: argparse.Namespace) -> Policy:
    return model_of(stack, args.model, base_url=args.base_url, price=args.price)


def task_of(stack: AsyncExitStack, args: argparse.Namespace) -> Task:
    """The task with the reward, options and sampling that were asked for."""
    options = pairs_of(args.task_option, "--task-option")
    options |= {k: getattr(args, k) for k in ("val", "test", "data") if getattr(args, k) is not None}
    reward, judges = reward_of(stack, args)
    from_file = args.task.lower().endswith(FILE_ENDINGS)
    if from_file and reward is None:
        raise InputError(f"a file of problems needs --reward: {', '.join(REWARDS)}, or module:function")
    task = load_task(args.task, **options, **({"reward": reward} if from_file else {}))
    given = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    sampling = dataclasses.replace(task.sampling, **{k: v for k, v in given.items() if v is not None})
    models = (*task.models, *judges)
    samples = args.samples or task.test_samples
    return dataclasses.replace(
        task, reward=reward or task.reward, sampling=sampling, models=models, test_samples=samples
    )


def with_methods(task: Task, args: argparse.Namespace) -> Task:
    """The task with the grouping, advantage and sampler that were asked for."""
    options = pairs_of(args.grouping_option, "--grouping-option")
    if options and args.grouping is None:
        raise InputError("--grouping-option needs --grouping")
    given: dict[str, Any] = {name: getattr(args, name) for name in ("advantage", "sampler") if getattr(args, name)}
    if args.grouping is not None:
        given["grouping"] = grouping_spec(args.grouping, **options)
    return dataclasses.replace(task, **given)


def reward_of(stack: AsyncExitStack, args: argparse.Namespace) -> tuple[Reward | None, tuple[LateCaller, ...]]:
    """The reward, and the models that it asks."""
    options = pairs_of(args.reward_option, "--reward-option")
    accepted = options_of(args.reward)
    for name, value, option in (("--judge", args.judge, "caller"), ("--rubric", args.rubric, "rubric")):
        if value is not None and option not in accepted:
            takers = ", ".join(known for known in REWARDS if option in options_of(known))
            raise InputError(f"{name} is for --reward {takers}, got --reward {args.reward}")
    if args.reward is None:
        if options:
            raise InputError("--reward-option needs --reward")
        return None, ()
    if args.rubric is not None:
        options["rubric"] = text_of(args.rubric)
    if args.judge is None:
        if accepted.get("caller") is Parameter.empty:
            raise InputError(f"--reward {args.reward} needs the model that judges: --judge openai/NAME")
        return resolve_reward(args.reward, **options), ()
    url = beside(args, args.judge, args.judge_base_url)
    late = LateCaller(model_of(stack, args.judge, base_url=url, price=args.judge_price))
    return resolve_reward(args.reward, caller=late, **options), (late,)


def options_of(reward: str | None) -> dict[str, object]:
    """The options of a reward by name, with their defaults; none for a user's own function."""
    if reward not in REWARDS:
        return {}
    return {name: p.default for name, p in signature(REWARDS[reward].make).parameters.items()}


def critic_of(
    stack: AsyncExitStack, args: argparse.Namespace, task: Task, solver: Policy
) -> tuple[Task, Policy | None]:
    """The task with the kind of critic that was asked for, and the critic's model where it is another one."""
    if args.critic is None:
        return task, None
    spec = CriticSpec.parse(args.critic, solver.name)
    task = dataclasses.replace(task, critic=spec.kind)
    own = args.critic_base_url is not None or args.critic_price is not None
    if spec.kind == "examples" or (spec.model == solver.name and not own):
        return task, None
    url = beside(args, spec.model, args.critic_base_url)
    return task, model_of(stack, spec.model, base_url=url, price=args.critic_price)


def open_store(
    location: str, args: argparse.Namespace, *, create: bool, embedder: str | None = None
) -> ExperienceStore:
    return experience_store.open(location, namespace=args.namespace, create=create, embedder=embedder)
