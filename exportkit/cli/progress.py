"""What a person sees while an export works: one moving line on a terminal, a line per stage elsewhere. Always stderr.

A job of a sweep that has a process of its own tells its stages to the sweep.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exportkit import processes


@contextmanager
def progress(name: str) -> Iterator[Callable[[str], None]]:
    """Yield what is to be called with the name of each stage of exporting `name`."""
    if processes.inside():
        yield processes.tell
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _moving(name) as tell:
            yield tell
    else:
        yield lambda stage: print(f"{name}: {stage}", file=sys.stderr, flush=True)


@contextmanager
def _moving(name: str) -> Iterator[Callable[[str], None]]:
    """A spinner. It writes to a terminal of its own: file descriptor 2 is held while TensorFlow is imported."""
    from rich.console import Console

    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        console = Console(file=terminal, highlight=False)
        with console.status(f"{name}: plan") as status:
            yield lambda stage: status.update(f"{name}: {stage}")
