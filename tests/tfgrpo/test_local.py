"""LocalPolicy on a tiny random model: what it writes does not depend on who else is being answered."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from tfgrpo.errors import InputError, MissingExtraError, RequestError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.local import LocalPolicy
from tfgrpo.types import Completion

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = ["the", "largest", "of", "is", "a", "number", "answer", "and", "then", "which", *NUMBERS]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}{% if add_generation_prompt %}<s> assistant {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer llama with random weights and a word tokenizer, saved as a transformers folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "user", "assistant", "system", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.6,
    )
    path = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def policy_at(folder: Path, **options: object) -> LocalPolicy:
    return LocalPolicy(f"local/{folder}", device="cpu", dtype="float32", threads=1, **options)  # type: ignore[arg-type]


def ask(text: str, *, system: str = "") -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


async def answers(policy: LocalPolicy, questions: list[tuple[str, Sampling]]) -> list[Completion]:
    return await asyncio.gather(*(policy.complete(ask(text), sampling) for text, sampling in questions))


async def test_greedy_answers_equal_transformers_generate(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [" ".join(WORDS[i : i + 3 + 2 * i]) for i in range(6)] + ["the largest of two"] * 2
    policy = policy_at(folder, max_rows=3)
    got = await answers(policy, [(t, Sampling(temperature=0, max_tokens=12, extra={"segments": True})) for t in texts])
    await policy.aclose()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, completion in zip(texts, got, strict=True):
        prompt = tokenizer.apply_chat_template(ask(text), add_generation_prompt=True, return_tensors="pt")["input_ids"]
        expected = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=2)[0]
        asked, written = completion.segments
        assert [*asked.token_ids, *written.token_ids] == expected.tolist()
        assert completion.usage.prompt_tokens == prompt.shape[1]
        assert completion.usage.completion_tokens == len(expected) - prompt.shape[1]
        logps = torch.log_softmax(model(expected[None]).logits[0], -1)
        for at, (token, logp) in enumerate(zip(written.token_ids, written.logps, strict=True)):
            assert logp == pytest.approx(logps[prompt.shape[1] + at - 1, token].item(), abs=1e-4)


async def test_a_seed_decides_whatever_the_batch(folder: Path) -> None:
    questions = [
        (" ".join(WORDS[: 1 + i % 5]), Sampling(seed=i, max_tokens=3 + i % 9, temperature=0.5 + i / 20))
        for i in range(24)
    ]
    together = policy_at(folder, max_rows=24)
    few = policy_at(folder, max_rows=4)
    first = await answers(together, questions)
    second = await answers(few, list(reversed(questions)))
    alone = await few.complete(ask(questions[7][0]), questions[7][1])
    assert [c.text for c in first] == [c.text for c in reversed(second)]
    assert alone.text == first[7].text
    assert len({c.text for c in first}) > 12
    await asyncio.gather(together.aclose(), few.aclose())


async def test_each_row_has_its_own_limit_and_counts(folder: Path) -> None:
    policy = policy_at(folder)
    got = await answers(policy, [("the largest", Sampling(seed=n, max_tokens=n, temperature=5)) for n in range(1, 9)])
    for limit, completion in enumerate(got, start=1):
        assert completion.usage.completion_tokens <= limit
        assert completion.finish_reason == "stop" or completion.usage.completion_tokens == limit
        assert completion.cost_usd == 0.0
        assert completion.messages == ({"role": "assistant", "content": completion.text},)
        assert completion.segments == ()
        assert completion.latency_s > 0
    assert policy.price.cost_usd(10, 10) == 0
    assert policy.setup == "float32 on cpu, 1 thread"
    await policy.aclose()


async def test_a_stop_string_ends_the_answer_and_is_cut(folder: Path) -> None:
    policy = policy_at(folder)
    free = await policy.complete(ask("one two"), Sampling(seed=3, max_tokens=20, temperature=3))
    word = free.text.split()[2]
    cut = await policy.complete(ask("one two"), Sampling(seed=3, max_tokens=20, temperature=3, stop=(word, "never")))
    assert cut.text == free.text[: free.text.index(word)]
    assert cut.finish_reason == "stop"
    assert cut.usage.completion_tokens <= 3
    await policy.aclose()


async def test_top_p_keeps_the_nucleus(folder: Path) -> None:
    policy = policy_at(folder)
    best = await policy.complete(ask("one"), Sampling(temperature=0, max_tokens=6))
    narrow = await answers(policy, [("one", Sampling(seed=i, top_p=1e-6, max_tokens=6)) for i in range(5)])
    assert {c.text for c in narrow} == {best.text}
    await policy.aclose()


async def test_shared_beginnings_change_nothing(folder: Path) -> None:
    system = " ".join(WORDS * 2)
    wanted = [ask(" ".join(WORDS[i : i + 4]), system=system) for i in range(8)]
    sampling = [Sampling(seed=i, max_tokens=8) for i in range(8)]
    shared, apart = policy_at(folder), policy_at(folder)
    together = await asyncio.gather(*(shared.complete(m, s) for m, s in zip(wanted, sampling, strict=True)))
    for messages, options, expected in zip(wanted, sampling, together, strict=True):
        assert (await apart.complete(messages, options)).text == expected.text
    await asyncio.gather(shared.aclose(), apart.aclose())


async def test_cancelled_calls_leave_the_batch(folder: Path) -> None:
    policy = policy_at(folder, max_rows=2)
    tasks = [asyncio.create_task(policy.complete(ask("a"), Sampling(seed=i, max_tokens=60))) for i in range(6)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    assert (await tasks[5]).usage.completion_tokens > 0
    assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks[:5], return_exceptions=True))
    await policy.aclose()


async def test_a_request_that_cannot_be_asked_fails_alone(folder: Path) -> None:
    policy = policy_at(folder)
    too_long = policy.complete(ask("one " * 200), Sampling(max_tokens=4))
    tool = policy.complete([{"role": "tool", "content": "x"}], Sampling(max_tokens=4))
    good = policy.complete(ask("one"), Sampling(max_tokens=4))
    results = await asyncio.gather(too_long, tool, good, return_exceptions=True)
    assert isinstance(results[0], RequestError)
    assert "reads 1 to 95" in str(results[0])
    assert isinstance(results[1], RequestError)
    assert "no tools here" in str(results[1])
    assert isinstance(results[2], Completion)
    with pytest.raises(RequestError, match="no option"):
        await policy.complete(ask("one"), Sampling(extra={"top_k": 3}))
    with pytest.raises(RequestError, match="at least 1"):
        await policy.complete(ask("one"), Sampling(max_tokens=0))
    await policy.aclose()


async def test_answers_end_where_the_context_ends(folder: Path) -> None:
    policy = policy_at(folder)
    got = await answers(policy, [("one " * 80, Sampling(seed=i, max_tokens=1000, temperature=9)) for i in range(4)])
    assert all(c.usage.total_tokens <= 96 for c in got)
    await policy.aclose()


async def test_a_schema_is_asked_for_in_words(folder: Path) -> None:
    policy = policy_at(folder)
    schema = {"type": "object"}
    got = await policy.complete(ask("one"), Sampling(max_tokens=2, schema=schema))
    assert json.dumps(schema) in got.prompt[-1]["content"]
    await policy.aclose()


async def test_after_closing_it_says_so(folder: Path) -> None:
    policy = policy_at(folder)
    await policy.start()
    await policy.aclose()
    with pytest.raises(TransportError, match="closed"):
        await policy.complete(ask("one"), Sampling(max_tokens=2))


async def test_a_damaged_folder_is_an_input_error_for_everyone_who_waits(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    policy = policy_at(tmp_path)
    both = [policy.complete(ask("one"), Sampling(max_tokens=2)) for _ in range(2)]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert all(isinstance(e, InputError) for e in results)
    await policy.aclose()


def test_names(folder: Path) -> None:
    assert policy_at(folder).name == f"local/{folder}"
    with pytest.raises(InputError, match="local/smollm2"):
        LocalPolicy("local/smolm")


@pytest.mark.slow
async def test_the_packaged_model_knows_the_capital_of_france() -> None:
    policy = LocalPolicy("local/smollm2")
    try:
        questions = [
            ("What is the capital of France?", Sampling(seed=i, temperature=0.2, max_tokens=24)) for i in (1, 2)
        ]
        got = await answers(policy, questions)
        again = await answers(policy, questions)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
    assert any("Paris" in c.text for c in got)
    assert [c.text for c in again] == [c.text for c in got]
    assert math.isclose(sum(c.cost_usd or 0 for c in got), 0)


async def test_log_probs_at_the_sampling_temperature(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    policy = policy_at(folder)
    extra = {"segments": True, "tempered": True}
    (done,) = await answers(policy, [("the largest", Sampling(seed=1, max_tokens=9, temperature=0.6, extra=extra))])
    await policy.aclose()
    asked, written = done.segments
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = model(torch.tensor([[*asked.token_ids, *written.token_ids]])).logits[0, len(asked.token_ids) - 1 : -1]
    expected = torch.log_softmax(logits / 0.6, -1).gather(-1, torch.tensor(written.token_ids)[:, None])[:, 0]
    assert list(written.logps) == pytest.approx(expected.tolist(), abs=1e-4)
