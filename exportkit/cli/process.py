"""The state of the process that Hydra and the user's code look at, changed for a while."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def interpreter(arguments: Sequence[str], here: str) -> Iterator[None]:
    """Hydra reads its arguments from ``sys.argv``; a console script does not find modules in the working directory."""
    argv, path = sys.argv, sys.path[:]
    sys.argv = [argv[0], *arguments]
    sys.path[:0] = [here] if here not in path else []
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have `values` in the environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class WithoutHydrasLine:
    """stderr without the line that Hydra writes where a job failed: what failed is said anyway."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides:") else self._stream.write(text)

    def close(self) -> None:
        """absl's log handler closes a stream that is not ``sys.stderr`` any more; this one is not its own to close."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
