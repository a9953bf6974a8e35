"""Every error of the SDK. Each says what happened, what was got, and what to do next.

TfgrpoError
├── InputError(ValueError)            a file, option, name or argument is wrong; nothing was started
├── MissingExtraError(ImportError)    an optional package is needed; names the install command
├── RewardError(ValueError)           the reward raised, or returned something that is no score
├── PolicyError(RuntimeError)         the model could not be asked
│   ├── TransportError(ConnectionError)   unreachable, 5xx, 429 or time-out after all retries: missing data
│   │   └── AgentError                        an agent's own code raised: its rollout is missing data too
│   ├── AuthError(PermissionError)        no key or a wrong key: stops the run, retrying cannot help
│   └── RequestError(ValueError)          the server refuses the request itself (unknown model, too long, ...)
├── BudgetExhausted(RuntimeError)     the next call could cross the budget; it was not made
├── RunStateError(RuntimeError)       a run folder that is damaged, newer, or of another configuration
└── Interrupted(RuntimeError)         stopped by the user; the message says how to go on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfgrpoError(Exception):
    """Base of all errors raised on purpose by this package."""


class InputError(TfgrpoError, ValueError):
    """A file, option, name or argument is wrong. Nothing was started and nothing was spent."""


class MissingExtraError(TfgrpoError, ImportError):
    """An optional package is needed. The message names the command that installs it."""


class RewardError(TfgrpoError, ValueError):
    """A reward raised, or returned something that is not a score."""


class PolicyError(TfgrpoError, RuntimeError):
    """The model could not be asked."""


class TransportError(PolicyError, ConnectionError):
    """No reply after all retries: missing data, never a wrong answer."""


class AgentError(TransportError):
    """The code of an agent raised. Its rollout is lost as if no reply had come; the others go on."""


class AuthError(PolicyError, PermissionError):
    """No key or a wrong key. Retrying cannot help, so the run stops."""


class RequestError(PolicyError, ValueError):
    """The server refuses the request itself: unknown model, prompt too long, unsupported option."""


class BudgetExhausted(TfgrpoError, RuntimeError):
    """The next call could cross the budget, so it was not made."""


class RunStateError(TfgrpoError, RuntimeError):
    """A run folder is damaged, was written by a newer version, or belongs to another configuration."""


class Interrupted(TfgrpoError, RuntimeError):
    """The user stopped the run. The message says how to go on."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, listing the near ones.

    Example:
        >>> str(unknown_name("reward", "exat", ["exact", "regex"]))
        "unknown reward 'exat'; did you mean 'exact'? Known: exact, regex"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return InputError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional package that is not installed."""
    return MissingExtraError(f"{purpose} needs the package {package!r}; install it with: pip install 'tfgrpo[{extra}]'")
