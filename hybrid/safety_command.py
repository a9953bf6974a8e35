"""`tfgrpo safety-model train DATA --out DIR` and `tfgrpo safety-model report DIR DATA`.

The command line finds it by the entry point "safety-model".
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hybrid.safety.settings import CALIBRATIONS, FitSettings
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import commands_of, number
from tfgrpo.errors import InputError, missing_extra, unknown_name

if TYPE_CHECKING:
    from hybrid.safety.data import LabelledSet

PACKAGES = ("torch", "transformers", "safetensors")


def configure(parser: argparse.ArgumentParser) -> None:
    commands_of(parser, COMMANDS)


def _configure_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="labelled answers: JSONL, JSON, CSV or Parquet")
    parser.add_argument("--out", metavar="DIR", required=True, help="a folder that is not there yet")
    parser.add_argument("--encoder", metavar="NAME", default="minilm", help="or a folder of transformers (%(default)s)")
    _add_columns(parser)
    parser.add_argument("--heads", metavar="A,B", help="which scores (politeness,meaningfulness,actionability,safety)")
    parser.add_argument("--hold-out", metavar="FAMILY", action="append", default=[], help="else drawn by --seed")
    parser.add_argument("--calibration", choices=CALIBRATIONS, default="auto", help="(%(default)s)")
    parser.add_argument("--unfreeze", metavar="N", type=number(0), default=0, help="layers of the encoder to train too")
    parser.add_argument("--seed", metavar="N", type=number(0), default=0)
    names = ", ".join(f.name for f in fields(FitSettings) if f.name not in ("calibration", "unfreeze", "seed"))
    parser.add_argument("--set", metavar="K=V", action="append", default=[], help=f"any of: {names}")
    add_output(parser, progress=True)


def _configure_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="what `train` wrote")
    parser.add_argument("data", metavar="DATA", help="labelled answers; those the model was made with are left out")
    _add_columns(parser)
    parser.add_argument("--seed", metavar="N", type=number(0), default=0, help="of the intervals")
    add_output(parser)


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--column",
        metavar="OURS=THEIRS",
        action="append",
        default=[],
        help="question, answer, system, family, or a head, such as safety=is_safe",
    )
    parser.add_argument(
        "--scale", metavar="LOW..HIGH", default="0..1", help="of the labels, such as 1..5 (%(default)s)"
    )


def _train(args: argparse.Namespace) -> int:
    settings = _settings(args)
    _check_packages()
    from hybrid.safety.fitting import fit  # noqa: PLC0415 - torch

    heads = [name.strip() for name in (args.heads or "").split(",") if name.strip()]
    report = fit(
        _read(args, heads),
        out=args.out,
        encoder=args.encoder,
        held=args.hold_out,
        settings=settings,
        tell=_silent if args.json or args.quiet else _tell,
    )
    show(args, report.as_json(), str(report))
    hint(args, f"As a reward, in either arm: tfgrpo train safety --task-option scorer={args.out} --model MODEL")
    return 0


def _report(args: argparse.Namespace) -> int:
    _check_packages()
    from hybrid.safety.fitting import report_on  # noqa: PLC0415 - torch
    from hybrid.safety.model import SafetyModel  # noqa: PLC0415

    model = SafetyModel.load(args.model)
    report = report_on(model, _read(args, model.names), name=args.model, seed=args.seed)
    show(args, report.as_json(), str(report))
    return 0


COMMANDS: dict[str, tuple[str, Callable[[Any], None], Callable[[Any], int]]] = {
    "train": ("train a safety model from labelled answers, calibrate and report it", _configure_train, _train),
    "report": ("measure a safety model on labelled answers that it has not seen", _configure_report, _report),
}


def _read(args: argparse.Namespace, heads: Any) -> LabelledSet:
    from hybrid.safety.data import labelled_file  # noqa: PLC0415 - numpy

    columns = {name: str(value) for name, value in options.pairs_of(args.column, "--column").items()}
    return labelled_file(args.data, heads=heads, columns=columns, scale=_scale(args.scale))


def _scale(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (0.0, 0.0)
    if not dots or not found[0] < found[1]:
        raise InputError(f"--scale is the lowest and the highest grade, such as 1..5; got {text!r}")
    return found


def _settings(args: argparse.Namespace) -> FitSettings:
    given = options.pairs_of(args.set, "--set")
    known = [f.name for f in fields(FitSettings)]
    for name in given:
        if name not in known:
            raise unknown_name("setting", name, known)
    chosen: dict[str, Any] = {"calibration": args.calibration, "unfreeze": args.unfreeze, "seed": args.seed}
    return FitSettings(**{**chosen, **given})


def _check_packages() -> None:
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "train", "a safety model")


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _silent(words: str) -> None:
    return None
