"""One writer per run folder: a lock file whose lock the kernel drops when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from tfgrpo.errors import RunStateError


class RunLock:
    """An exclusive lock on `FILE.lock`; the file says which process holds it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @staticmethod
    def take(file: Path) -> RunLock:
        """Lock the run that `file` belongs to.

        Raises:
            RunStateError: another process has it, or the folder cannot be written.
        """
        path = file.with_name(file.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise RunStateError(f"cannot write to the run folder {path.parent}: {error.strerror or error}") from error
        if not _lock(descriptor):
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
            os.close(descriptor)
            raise RunStateError(
                f"the run at {path.parent} is in use by another process{f' (pid {holder})' if holder else ''}; "
                f"wait for it to end, stop it, or use another run folder"
            )
        with contextlib.suppress(OSError):  # a full disk is told by the record, in its own words
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        return RunLock(path, descriptor)

    def release(self) -> None:
        """Let another process in. The file stays: removing it would race with who opens it next."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte beyond the words, so that they stay readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
