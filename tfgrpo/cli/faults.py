"""What a user sees when something goes wrong: one line and an exit code. A bug of ours stays a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from experience_store import StoreError
from tfgrpo.errors import AuthError, Interrupted, TfgrpoError, TransportError

INPUT, UNREACHABLE, STOPPED, PIPE_CLOSED = 2, 3, 130, 141


def guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace, *, debug: bool) -> int:
    """The exit code of a command; with `debug` errors are raised."""
    try:
        with _termination_is_an_interrupt():
            code = run(args)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, Interrupted) as error:
        said = str(error) or "stopped; nothing that was recorded is lost, the same command goes on"
        print(f"tfgrpo: {said}", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `tfgrpo store log ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (TfgrpoError, StoreError) as error:
        if debug:
            raise
        print(f"tfgrpo: error: {error}", file=sys.stderr)
        return UNREACHABLE if isinstance(error, AuthError | TransportError) else INPUT


@contextmanager
def _termination_is_an_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, so that servers that were started here are stopped."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # someone else decides about signals here
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
