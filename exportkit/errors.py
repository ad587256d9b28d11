"""Every way in which an export can be refused, and the one form in which it is said.

A problem reads ``where: what is wrong; what to do``. An error carries all the problems that one stage found, survives
pickling (a worker hands it to its parent), and knows the exit code of the command that it ends.
"""

import difflib
import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exportkit.printable import printable


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at one place, with one thing to do.

    Attributes:
        where: config path (``bindings.images.tensor``), file or stage.
        what: what is wrong there, on one line.
        do: what the user can do; may be empty where `what` already says it.
    """

    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        text = (f"{self.where}: " if self.where else "") + self.what + (f"; {self.do}" if self.do else "")
        return printable(" ".join(text.splitlines()))

    def under(self, prefix: str) -> "Problem":
        """The same problem seen from one level further out: ``checkpoint`` under ``source`` is ``source.checkpoint``."""
        return replace(self, where=f"{prefix}.{self.where}" if self.where else prefix)

    def located(self, where: str) -> "Problem":
        """Return the problem at `where`, if it has no place of its own."""
        return self if self.where else replace(self, where=where)


class ExportKitError(Exception):
    """The root of all errors that exportkit raises on purpose, made of problems: ``StepFailed(Problem(…), Problem(…))``.

    A text stands for a problem without a place; who catches the error knows the place.
    """

    exit_code = 1

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong; never empty, whatever the error was made of, for an error without a problem would go unseen."""
        return tuple(map(_problem, self.args)) or (Problem("", f"{type(self).__name__} gives no reason"),)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def _problem(argument: Any) -> Problem:
    """Return what an error was made of, as a problem."""
    if isinstance(argument, Problem):
        return argument
    text = brief(argument) if isinstance(argument, BaseException) else " ".join(str(argument).split())
    return Problem("", text or "gives no reason")


class ConfigError(ExportKitError):
    """The configuration is wrong, which was found without building anything."""

    exit_code = 2


class BindingError(ExportKitError):
    """The configuration does not fit the graph: a name, dtype, shape, op or signature rule."""

    exit_code = 2


class WeightsError(ExportKitError):
    """The checkpoint does not give every variable its value, or cannot be read."""

    exit_code = 2


class PluginError(ExportKitError):
    """A plugin cannot be loaded, clashes with another one, or broke its contract."""


class StepFailed(ExportKitError):
    """A post-export step refused the export."""


class EnvironmentFailed(ExportKitError):
    """The machine refused: a directory that cannot be written, a full disk, a process that died."""


def system_error(cause: OSError, path: str | os.PathLike[str]) -> EnvironmentFailed:
    """What the operating system refused at `path`, or at the path that it names itself, and what to do about it.

    Where it is the network that refused, no path is named: the local directory has nothing to do with it.
    """
    if what := _network_failure(cause):
        return EnvironmentFailed(Problem(NETWORK, what, "see whether the address is right and can be reached from here"))
    advice = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
        errno.EACCES: "make it writable, or choose another directory",
        errno.EPERM: "make it writable, or choose another directory",
    }
    where = cause.filename if isinstance(cause.filename, str | os.PathLike) else path
    do = advice.get(cause.errno or 0, "choose another directory")
    return EnvironmentFailed(Problem(os.fspath(where), (cause.strerror or str(cause)).lower(), do))


NETWORK = "network"
DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}  # of a write, which names no file
_NETWORK_ERRNOS = {
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EADDRNOTAVAIL),
}
_NETWORK_CLASSES = {"socket.gaierror", "socket.herror", "ssl.SSLError", "urllib.error.URLError"}  # named, not imported


def _network_failure(cause: OSError) -> str:
    """Return what the network refused, without any address (it may hold a password); empty where it was something else."""
    reason = getattr(cause, "reason", None)  # urllib's URLError wraps the socket's error; an HTTPError's reason is a text
    if isinstance(reason, OSError):
        return _network_failure(reason) or brief(reason)
    if isinstance(code := getattr(cause, "code", None), int) and isinstance(reason, str):
        return f"answered {code} {reason}".lower()
    if cause.filename is not None:
        return ""
    classes = {f"{cls.__module__}.{cls.__name__}" for cls in type(cause).__mro__}
    if cause.errno in _NETWORK_ERRNOS or _NETWORK_CLASSES & classes or _is_socket_timeout(cause):
        return (cause.strerror or str(cause) or type(cause).__name__).lower()
    return ""


def _is_socket_timeout(cause: OSError) -> bool:
    """Return whether this is the TimeoutError of a socket, which is called "timed out"; those of other waits are not."""
    return isinstance(cause, TimeoutError) and str(cause) in ("timed out", "The read operation timed out")


def brief(cause: BaseException) -> str:
    """Somebody else's exception on one line: ``ValueError: what it said``."""
    return shortened(f"{type(cause).__name__}: {' '.join(str(cause).split())}".removesuffix(": "))


def brief_in(cause: BaseException, module: str) -> str:
    """Return a plugin's exception on one line, with the innermost line of its own code: ``KeyError: 'a' (/x/acme/y.py:12)``.

    Args:
        cause: the exception.
        module: a module of the plugin; the whole top-level package is its own. exportkit's own plugins get no line.
    """
    package, _, _ = module.partition(".")
    places, frame = [], cause.__traceback__
    while frame is not None and package != "exportkit":
        if frame.tb_frame.f_globals.get("__name__", "").partition(".")[0] == package:
            places.append(f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})")
        frame = frame.tb_next
    return brief(cause) + "".join(places[-1:])


def shortened(text: str, most: int = 300) -> str:
    """At most so much of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def some(names: Sequence[str], most: int = 5) -> str:
    """A list of names in a sentence, a long one shortened: ``a, b and 4 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def type_of(value: object) -> str:
    """Return the type of `value` with its article: ``an int``, ``a list``."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """What to do about an unknown name: its nearest neighbours among `known`, or all of a few, or nothing."""
    known = sorted(set(known))
    if near := nearest(name, known, most):
        return f"did you mean {_either(near)}?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 8 else ""


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names that are spelt nearly the same, the nearest first, equals in alphabetical order; or else end the same.

    A name that is clearly nearer than the others stands alone.
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.6)
    ratios = {k: difflib.SequenceMatcher(None, k, name).ratio() for k in close}
    close = sorted((k for k in close if ratios[k] > max(ratios.values()) - 0.15), key=lambda k: (-ratios[k], k))
    return (close or _same_leaf(name, known))[:most]


def _same_leaf(name: str, known: Iterable[str]) -> list[str]:
    """Names whose last path component is that of `name`: ``kernel`` finds ``dense/kernel``."""
    leaf = name.rsplit("/", 1)[-1].split(":")[0].lower()
    return [k for k in known if leaf and k.rsplit("/", 1)[-1].split(":")[0].lower() == leaf]


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
