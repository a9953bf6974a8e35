"""The process that compares mathematical expressions; run as a script, never imported by the package.

Reads one JSON object per line, `{"gold", "answer", "boxed"}`, and writes `{"equal": bool}`. It lives apart because the
comparison can run for ever or exhaust memory on a hostile expression, and must then be killed.
"""

import json
import logging
import sys
from typing import Any

MEMORY_BYTES = 2 << 30


def limit_memory() -> None:
    """Bounds the address space where the system can."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def as_latex(text: str) -> str:
    """A bare expression in a form that the parser takes as a whole."""
    return text if "\\boxed" in text or "$" in text else f"\\boxed{{{text}}}"


def equal(request: dict[str, Any], parse: Any, verify: Any) -> bool:
    """Whether the answer means the same as the reference; everything unreadable is unequal."""
    answer = as_latex(request["answer"]) if request["boxed"] else request["answer"]
    gold = parse(as_latex(request["gold"]), parsing_timeout=None)
    got = parse(answer, parsing_timeout=None)
    return bool(gold and got and verify(gold, got, timeout_seconds=None))


def main() -> None:
    """Answers requests until its input ends."""
    logging.disable(logging.CRITICAL)
    limit_memory()
    sys.set_int_max_str_digits(5_000)
    from math_verify import parse, verify  # noqa: PLC0415

    print("ready", flush=True)
    for line in sys.stdin:
        try:
            reply = {"equal": equal(json.loads(line), parse, verify)}
        except (
            ValueError,
            TypeError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            MemoryError,
        ) as error:
            reply = {"equal": False, "error": f"{type(error).__name__}: {error}"[:200]}  # type: ignore[dict-item]
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
