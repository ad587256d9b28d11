"""The command line: the first word picks a command of `exportkit.commands` or of a plugin; without one it is ``export``.

Nothing here imports TensorFlow, and Hydra and rich are imported by the commands that need them. Problems go to stderr, one
line each; the exit code is 2 where the configuration is wrong, 1 where anything else failed, 130 after Ctrl-C.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from exportkit.commands import COMMANDS, DEFAULT, load
from exportkit.errors import ConfigError, EnvironmentFailed, ExportKitError, Problem, did_you_mean, system_error
from exportkit.printable import printable

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # `exportkit.processes.terminable` makes them SystemExit
COLLECTED = 100_000  # objects after which Python looks for garbage: imports make two thirds of that, and leave none


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit code."""
    _open_streams()
    gc.set_threshold(COLLECTED)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    raises = wants_tracebacks()
    try:
        _check_directory()
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _discard_output()
    except KeyboardInterrupt:
        if not is_completion(arguments):  # where it is, the user goes on typing
            print_line("exportkit: interrupted")
        return 130
    except SystemExit as end:
        if not isinstance(end.code, int) or end.code - 128 not in ENDING:
            raise
        with suppress(OSError):  # after SIGHUP there is no terminal
            print_line(f"exportkit: ended by {signal.Signals(end.code - 128).name}")
        return end.code
    except ExportKitError as error:
        if raises:
            raise
        print_problems(str(error))
        return error.exit_code
    except OSError as cause:
        if raises:
            raise
        print_problems(str(system_error(cause, "exportkit")))
        return EnvironmentFailed.exit_code


def _open_streams() -> None:
    """Open those of the three standard streams that the caller closed: else the next file opened would take their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _check_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise EnvironmentFailed(Problem("working directory", "was removed", "change to another one")) from None


def is_completion(arguments: Sequence[str]) -> bool:
    """Return whether a shell asks, for the tab key."""
    return any(word.startswith("query=") for word in arguments)


def wants_tracebacks() -> bool:
    """Return whether the user asked for tracebacks: with ``HYDRA_FULL_ERROR=1``, as of Hydra."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def print_problems(text: str) -> None:
    """Print problems to stderr, one a line; where there are several, their number first."""
    lines = text.splitlines()
    print_line("\n".join([f"exportkit: {len(lines)} problems"] * (len(lines) > 1) + lines))


def print_line(text: str) -> None:
    """Print a line, or several, to stderr; what a terminal would obey is escaped."""
    print(printable(text, "\n\t"), file=sys.stderr, flush=True)


def _run(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "-"
    if first in ("--version", "-V"):
        return _version()
    if first in COMMANDS:
        return load(first).run(arguments[1:])
    if first.startswith(("-", "+", "~")) or "=" in first:
        return load(DEFAULT).run(arguments)
    return _run_plugin(first, arguments[1:])


def _run_plugin(name: str, arguments: list[str]) -> int:
    from exportkit.registry import load_plugins  # not for the commands of exportkit: some need no plugins

    plugins = load_plugins()
    if name in plugins.commands:
        return plugins.run_command(name, arguments)
    known = [*COMMANDS, *plugins.commands]
    do = did_you_mean(name, known) or f"commands: {', '.join(known)}"
    raise ConfigError(Problem(name, "is neither a command nor key=value", do))


def _version() -> int:
    from importlib.metadata import version

    print(f"exportkit {version('exportkit')}")
    return 0


def _discard_output() -> int:
    """Discard what is left to print, silently, as any Unix command does in ``exportkit … | head``; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
