"""How long `import tfgrpo` takes, as a ratio to `import pydantic`, each in fresh interpreters.

    python benchmarks/import_time.py [--runs 15]

Prints medians in milliseconds over the bare interpreter, the ratio, and how many modules each import loads.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

SUBJECTS = ("pydantic", "tfgrpo", "experience_store", "tfgrpo.policy", "tfgrpo.api")


def seconds(code: str) -> float:
    """Wall time of one fresh interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def modules(name: str) -> int:
    """How many modules the import adds."""
    code = f"import sys; before = len(sys.modules); import {name}; print(len(sys.modules) - before)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in ("", *SUBJECTS)}
    for _ in range(options.runs):  # interleaved, so that a busy moment hits all alike
        for name, taken in times.items():
            taken.append(seconds(f"import {name}" if name else "pass"))
    bare = statistics.median(times.pop(""))
    over = {name: statistics.median(taken) - bare for name, taken in times.items()}
    for name, taken_s in over.items():
        print(
            f"{name:18} {1000 * taken_s:7.1f} ms  {taken_s / over['pydantic']:5.2f} x pydantic  {modules(name)} modules"
        )


if __name__ == "__main__":
    main()
