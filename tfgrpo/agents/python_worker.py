"""The process that runs model-written code; run as a script (`python -I -S`), never imported by the package.

    launcher     takes namespaces of its own where it is told to: no network, no other process in sight, a root folder
                 that holds the system's libraries and Python read-only and an empty folder in memory to work in
      keeper     process 1 in there: waits for the code or for its time to end; whatever is left dies with it
        code     without rights, its memory, CPU, files and processes limited

Without namespaces the launcher is the keeper itself, and kills what descends from it. Arguments: the settings as JSON.
The code comes on standard input, its output goes to standard output, and so do tracebacks.
"""

import ast
import ctypes
import json
import linecache
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = 1 | 2 | 4 | 8 | 1024 | 2048  # what a mount had must stay when it is mounted again: ro, nosuid, nodev, ...
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CHILD_SUBREAPER, PR_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION = 0x20080522
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")
STRANGERS = 1_000_000_000  # user ids from here on belong to nobody; each run of a root user takes one of its own
TIME_OVER, KILLED = 124, 128
WORK = "/work"


class TimeOver(BaseException):
    """The code's time has ended, or the parent asks to end."""


def main() -> None:
    """Reads the code, builds its surroundings, runs it."""
    settings = json.loads(sys.argv[1])
    code = sys.stdin.buffer.read().decode("utf-8", "replace")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    stranger = STRANGERS + os.getpid() if os.getuid() == 0 else None
    signal.signal(signal.SIGTERM, _over)
    signal.signal(signal.SIGALRM, _over)
    if settings["namespaces"]:
        enter_namespaces(settings["folder"], settings["readable"], settings["files_mb"], own_user=stranger is None)
        keeper = os.fork()
        if keeper:
            os._exit(_waited(keeper))
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()
    if child:
        keep(child, settings["seconds"], alone=settings["namespaces"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    give_up_rights(settings, stranger)
    sys.path += ["", *settings["packages"]]
    run(code)


def _over(*_: object) -> None:
    raise TimeOver


def enter_namespaces(folder: str, readable: list[str], size_mb: int, *, own_user: bool) -> None:
    """Leaves the machine behind: see the head of this file. Whatever fails raises OSError."""
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | (NEWUSER if own_user else 0))
    if own_user:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(line)
    _mount(None, "/", MS_REC | MS_PRIVATE)
    _mount("tmpfs", folder, MS_NOSUID | MS_NODEV, kind="tmpfs", options=f"mode=755,size={size_mb}m")
    for path in dict.fromkeys((*SYSTEM, *readable)):
        _show(path, folder)
    for name in (WORK, "/tmp"):
        place = Path(folder + name)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o1777)
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir(WORK)


def _show(path: str, folder: str) -> None:
    """Puts a file or folder of the machine into the new root, read-only."""
    source, target = Path(path), Path(folder + path)
    if not source.exists() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(path, str(target), MS_BIND | MS_REC)
    kept = os.statvfs(target).f_flag & KEPT_FLAGS
    _mount(None, str(target), MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def keep(child: int, seconds: float, *, alone: bool) -> None:
    """Waits for the code and leaves nothing of it behind; ends with the code's exit status, or says why it had none."""
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_CHILD_SUBREAPER, 1)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        status = _waited(child)
    except TimeOver:
        status = TIME_OVER
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not alone:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        kill_descendants()
    os._exit(status)  # in a process namespace the kernel kills all others when this one, its first, ends


def kill_descendants() -> None:
    """Kills children until there are none: as their subreaper this process inherits those of the killed ones."""
    while True:
        for pid in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found, me = [], str(os.getpid())
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if place.read_text(errors="replace").rpartition(")")[2].split()[1] == me:
                found.append(int(place.parent.name))
    return found


def _waited(child: int) -> int:
    """The exit status of the child, 128 + the signal that killed it; other children are reaped on the way."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else KILLED - code


def give_up_rights(settings: dict[str, Any], stranger: int | None) -> None:
    """From here on the process may do nothing that its limits do not allow."""
    if not settings["namespaces"]:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    room = settings["processes"] + (0 if settings["namespaces"] or stranger else _my_processes())
    memory, files = settings["memory_mb"] << 20, settings["files_mb"] << 20
    limits = {"AS": memory, "CPU": int(settings["seconds"]) + 1, "FSIZE": files, "NPROC": room, "NOFILE": 64, "CORE": 0}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        with suppress(ValueError, OSError):  # macOS has no limit of address space; a lower limit may stand already
            if kind is not None:
                resource.setrlimit(kind, (value, value))
    if stranger is not None:
        os.setgroups([])
        os.setresgid(stranger, stranger, stranger)
        os.setresuid(stranger, stranger, stranger)
    _prctl(PR_NO_NEW_PRIVS, 1)
    if settings["namespaces"]:
        none = (ctypes.c_uint32 * 6)()
        _call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), none)


def _my_processes() -> int:
    """Processes and threads of this user: the limit counts them, outside of a user namespace, all together."""
    count = 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if place.stat().st_uid == os.getuid():
                count += sum(1 for _ in (place / "task").iterdir())
    return count


def run(code: str) -> None:
    """Runs the code as a program and prints the value of its last line where that is an expression."""
    linecache.cache["<code>"] = (len(code), None, code.splitlines(keepends=True), "<code>")
    sys.excepthook = _told
    sys.executable = getattr(sys, "_base_executable", sys.executable)
    tree = compile(code, "<code>", "exec", ast.PyCF_ONLY_AST)
    assert isinstance(tree, ast.Module)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(tree, "<code>", "exec"), scope)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), scope)
        if value is not None:
            print(repr(value))


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback without the frames of this file."""
    while trace is not None and _file(trace.tb_frame) == __file__:
        trace = trace.tb_next
    sys.stdout.flush()
    traceback.print_exception(kind, error, trace, file=sys.stdout)
    sys.stdout.flush()


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _mount(source: str | None, target: str, flags: int, *, kind: str | None = None, options: str | None = None) -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind, options)]
    _call("mount", names[0], names[1], names[2], ctypes.c_ulong(flags), names[3])


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library that Python does not offer.

    Raises:
        OSError: it is missing here, or the system refused.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, name):
        raise OSError(f"the C library has no {name}")
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
