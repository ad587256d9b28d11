"""Changes to the state of the process that Hydra and the user's code read; temporary ones are contexts."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from exportkit.errors import EnvironmentFailed, Problem


@contextmanager
def for_user_code(arguments: Sequence[str], here: str) -> Iterator[None]:
    """Let the user's code be imported from the directory `here`, in workers too, and put `arguments` into ``sys.argv``."""
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with environment({"PYTHONPATH": path}), interpreter(arguments, here):
        yield


@contextmanager
def interpreter(arguments: Sequence[str], here: str) -> Iterator[None]:
    """Put `arguments` into ``sys.argv`` for Hydra, and the directory `here` on ``sys.path``: a console script lacks it."""
    argv, path = sys.argv, sys.path[:]
    sys.argv = [argv[0], *arguments]
    sys.path[:0] = [here] if here not in path else []
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def refuse_breakpoints() -> None:
    """Make breakpoint() raise an error that says where it works, unless PYTHONBREAKPOINT names another debugger."""
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse


def _refuse(*_: Any, **__: Any) -> None:
    do = "add hydra/launcher=basic, which runs an export in the process that you started"
    raise EnvironmentFailed(Problem("breakpoint()", "this process has no terminal", do))


class WithoutHydrasLine:
    """stderr without the line that Hydra writes when a job fails: exportkit reports the failure itself."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides:") else self._stream.write(text)

    def close(self) -> None:
        """Do nothing: absl's log handler closes any stream that is no longer ``sys.stderr``, and must not close this one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
