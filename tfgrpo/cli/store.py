"""`tfgrpo store COMMAND STORE[@REF]`: everything about what was learned."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import experience_store
from experience_store import ExperienceStore, Snapshot, Version
from tfgrpo.cli.options import add_namespace, open_store
from tfgrpo.cli.output import add_output, show, table
from tfgrpo.cli.parsing import commands_of, number
from tfgrpo.errors import InputError
from tfgrpo.forget import forget
from tfgrpo.provenance import verify
from tfgrpo.runs import DEFAULT_FOLDER

DAY_S = 86_400
SIGNS = {"add": "+", "revise": "~", "drop": "-", "accept": "="}


def configure(parser: argparse.ArgumentParser) -> None:
    commands_of(parser, COMMANDS)


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE[@REF]", help="a folder or URL; REF is v7, 7, a tag or head")
    add_namespace(parser)
    add_output(parser)


def _with(*arguments: tuple[tuple[str, ...], dict[str, Any]]) -> Callable[[argparse.ArgumentParser], None]:
    """`configure` for a command that takes a store and these."""

    def configure(parser: argparse.ArgumentParser) -> None:
        _place(parser)
        for names, options in arguments:
            parser.add_argument(*names, **options)

    return configure


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[tuple[ExperienceStore, str]]:
    place, ref = experience_store.parse_ref(args.store)
    with open_store(place, args, create=False) as store:
        yield store, ref


def _log(args: argparse.Namespace) -> int:
    with _opened(args) as (store, _):
        versions = store.log(args.limit)
        names: dict[int, list[str]] = {}
        for tag, version in store.tags().items():
            names.setdefault(version, []).append(tag)
    rows = [
        (v.name, v.time[:19].replace("T", " "), _changes(v), len(v.rows), len(v.trial), _note(v, names))
        for v in versions
    ]
    text = table(("VERSION", "TIME (UTC)", "CHANGES", "ENTRIES", "ON TRIAL", "NOTE"), rows)
    show(args, [_version(v) for v in versions], text if versions else "v0: empty, nothing was committed yet")
    return 0


def _changes(version: Version) -> str:
    ops = [edit.op for edit in version.edits]
    return " ".join(f"{sign}{ops.count(op)}" for op, sign in SIGNS.items() if op in ops) or "none"


def _note(version: Version, names: dict[int, list[str]]) -> str:
    tags = "".join(f"[{tag}] " for tag in names.get(version.number, ()))
    return f"{tags}{version.note}" + (f" ({version.writer})" if version.writer else "")


def _version(version: Version) -> dict[str, Any]:
    return {"name": version.name, **dataclasses.asdict(version)}


def _show(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        snapshot = store.at(ref)
    entries = [{**dataclasses.asdict(e), "on_trial": e.id in snapshot.version.trial} for e in snapshot.experiences]
    show(args, {**_version(snapshot.version), "experiences": entries}, _shown(snapshot))
    return 0


def _shown(snapshot: Snapshot) -> str:
    v, layout = snapshot.version, snapshot.layout
    lines = [f"{v.name} of {v.time[:19] or 'the beginning'}: {v.note or 'no note'}", *_edits(v)]
    most = f", at most {layout.max_entries} at a time" if layout.max_entries else ""
    lines.append(f"in prompts: {layout.placement}, {layout.select}{most}; {len(snapshot.served)} entries served")
    for e in snapshot.experiences:
        marks = [e.kind, *(["on trial"] if e.id in v.trial else []), *([e.taint] if e.taint != "clean" else [])]
        effect = _effect(v, e.id)
        lines += [f"{e.label} [{', '.join(marks)}]{effect}", *([f"    Q: {e.question}"] if e.question else [])]
        lines += [f"    {line}" for line in e.text.splitlines()]
    return "\n".join(lines)


def _edits(version: Version) -> list[str]:
    reasons = [f"  {SIGNS[edit.op]} {edit.id}: {edit.reason}" for edit in version.edits if edit.reason]
    return ["changed:", *reasons] if reasons else []


def _effect(version: Version, id: str) -> str:
    belief = (version.evidence.get("effects") or {}).get(id) or {}
    if "effect" not in belief:
        return ""
    return f" effect {belief['effect']:+.2f} ({belief['low']:+.2f}..{belief['high']:+.2f}), {belief['groups']} groups"


def _render(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        snapshot = store.at(ref)
        text = snapshot.text(args.question)
        question = args.question or "..."
        messages = snapshot.apply([{"role": "user", "content": question}]).messages
    data = {"version": snapshot.version.name, "text": text, "messages": messages}
    show(args, data, text or f"{snapshot.version.name} puts nothing into a prompt")
    return 0


def _diff(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        before, after = args.before, args.after
        if before is None:
            version = store.version(ref)
            before, after = version.parent, version.number
        diff = store.diff(before, after or ref)
    show(args, dataclasses.asdict(diff), str(diff))
    return 0


def _rollback(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        to = args.to or ref
        if to == "head":
            raise InputError("rollback to which version? Such as: tfgrpo store rollback ./experience v7")
        version = store.rollback(to, args.note, writer="command line")
    show(args, _version(version), f"{version.name} serves what {store_ref(to)} did; nothing of the history was changed")
    return 0


def store_ref(ref: str) -> str:
    """v7 for 7; a tag as it is."""
    return f"v{ref}" if ref.isdigit() else ref


def _tag(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        if args.name is None:
            tags = store.tags()
            rows = [(name, f"v{number}") for name, number in tags.items()]
            show(args, tags, table(("TAG", "VERSION"), rows) if rows else "no tags")
            return 0
        number = store.tag(args.name, ref)
    show(args, {args.name: number}, f"{args.name} is v{number}")
    return 0


def _export(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        path = store.export(ref, args.file)
        name = store.version(ref).name
    show(args, {"file": str(path), "version": name}, f"{name} is in {path}")
    return 0


def _import(args: argparse.Namespace) -> int:
    place, _ = experience_store.parse_ref(args.store)
    with open_store(place, args, create=True, embedder=args.embedder) as store:
        before = store.head().number
        version = store.import_(args.file, writer="command line")
    new = "nothing is new" if version.number == before else f"{len(version.edits)} experiences are new"
    show(args, _version(version), f"{version.name}: {new}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """A file's own hashes, and those of a store's rows and versions, are checked when they are read."""
    if Path(args.store).is_file():
        experiences, name = experience_store.Library.load(args.store).experiences, args.store
    else:
        with _opened(args) as (store, ref):
            snapshot = store.at(ref)
        experiences, name = snapshot.experiences, f"{snapshot.version.name} of {store.location}"
    runs = args.runs or (DEFAULT_FOLDER if Path(DEFAULT_FOLDER).is_dir() else None)
    done = verify(experiences, runs)
    show(args, {"place": name, **done.as_json()}, f"{name}: every hash fits its text\n{done}")
    return 2 if done.broken else 0


def _gc(args: argparse.Namespace) -> int:
    with _opened(args) as (store, _):
        if args.erase is not None:
            forgotten = forget(store, args.erase, args.runs, older_than_s=args.older_than)
            show(args, dataclasses.asdict(forgotten), str(forgotten))
            return 0
        counts = store.gc(args.older_than)
    show(args, counts, f"{counts['rows_dropped']} rows of unfinished commits dropped")
    return 0


def _stats(args: argparse.Namespace) -> int:
    with _opened(args) as (store, _):
        stats = store.stats()
    show(args, stats, "\n".join(f"{name.replace('_', ' '):<14} {value}" for name, value in stats.items()))
    return 0


def _search(args: argparse.Namespace) -> int:
    with _opened(args) as (store, ref):
        hits = store.search(args.query, args.k, ref)
    data = [{"similarity": round(hit.similarity, 4), **dataclasses.asdict(hit.experience)} for hit in hits]
    rows = [(f"{h.similarity:.3f}", h.experience.label, f"{h.experience.question} {h.experience.text}") for h in hits]
    show(args, data, table(("COSINE", "ENTRY", "TEXT"), rows) if rows else "nothing is in this version")
    return 0


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "log": (
        "versions, the newest first",
        _with((("--limit",), {"metavar": "N", "type": number(1)})),
        _log,
    ),
    "show": ("one version: what changed, why, and every entry", _with(), _show),
    "render": (
        "what a version puts into a prompt",
        _with((("--question",), {"metavar": "TEXT", "help": "for layouts that pick entries by the question"})),
        _render,
    ),
    "diff": (
        "what changed: in STORE@REF, from BEFORE to it, or from BEFORE to AFTER",
        _with(
            (("before",), {"metavar": "BEFORE", "nargs": "?"}),
            (("after",), {"metavar": "AFTER", "nargs": "?"}),
        ),
        _diff,
    ),
    "rollback": (
        "a new version that serves what an earlier one did",
        _with(
            (("to",), {"metavar": "VERSION", "nargs": "?"}),
            (("--note",), {"metavar": "TEXT", "default": ""}),
        ),
        _rollback,
    ),
    "tag": ("name a version, or list the names", _with((("name",), {"metavar": "NAME", "nargs": "?"})), _tag),
    "export": ("write a version to one file that needs no store", _with((("file",), {"metavar": "FILE"})), _export),
    "import": (
        "add the experiences of an exported file",
        _with(
            (("file",), {"metavar": "FILE"}),
            (("--embedder",), {"metavar": "NAME", "help": "of a new store: minilm or hashing"}),
        ),
        _import,
    ),
    "gc": (
        "drop leftovers of crashed commits; with --erase, forget a person, problem or experience for good",
        _with(
            (("--older-than",), {"metavar": "S", "type": number(0), "default": DAY_S, "help": "seconds (a day)"}),
            (("--erase",), {"metavar": "KEY", "help": "an experience id, a problem id, or a person in a source"}),
            (("--runs",), {"metavar": "FOLDER", "default": DEFAULT_FOLDER, "help": "run records to erase in too"}),
        ),
        _gc,
    ),
    "verify": (
        "check hashes, and the chain from every entry to the answers and scores that taught it; STORE may be a file",
        _with(
            (
                ("--runs",),
                {"metavar": "FOLDER", "help": "run records to look the answers up in (./runs if it is there)"},
            )
        ),
        _verify,
    ),
    "stats": ("counts and sizes", _with(), _stats),
    "search": (
        "the entries nearest to a question",
        _with((("query",), {"metavar": "TEXT"}), (("-k",), {"metavar": "N", "type": number(1), "default": 5})),
        _search,
    ),
}
