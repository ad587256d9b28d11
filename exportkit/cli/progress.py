"""What a person sees while an export works, on stderr: one moving line on a terminal, elsewhere nothing, or all if asked for.

A job of a sweep that has a process of its own tells its stages to the sweep.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from exportkit import processes
from exportkit.cli.channel import is_quiet, is_verbose

Tell = Callable[[str], None]


@contextmanager
def progress(name: str, moving: bool = True) -> Iterator[Tell]:
    """Yield what is to be called with the name of each stage of exporting `name`.

    Args:
        moving: whether the line may move; where a debugger may want the terminal it must not.
    """
    if processes.inside():
        yield processes.tell
        return
    stages = Stages(name)
    try:
        if is_verbose():
            yield stages.print
        elif moving and not is_quiet() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with _moving(stages):
                yield stages.begin
        else:
            yield stages.begin
    finally:
        if is_verbose():
            stages.print("")


@dataclass
class Stages:
    """The stages of an export: those that are done, with their seconds, and the one that runs."""

    name: str
    running: str = "plan"
    since: float = field(default_factory=time.monotonic)
    done: list[tuple[str, float]] = field(default_factory=list)

    def begin(self, stage: str) -> None:
        """End the stage that runs, and begin another."""
        if stage != self.running:
            self.done.append((self.running, self.seconds))
            self.running, self.since = stage, time.monotonic()

    def print(self, stage: str) -> None:
        """As `begin`, with a line for the stage that has ended."""
        ended, seconds = self.running, self.seconds
        self.begin(stage)
        if stage != ended:
            with suppress(OSError):  # an export does not fail because nobody reads on
                print(f"{self.name}: {ended} {seconds:.1f} s", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since when the stage runs."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        done = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.done if seconds >= 0.05)
        return f"{self.name}: {self.running} {self.seconds:.1f} s" + (f" (done: {done})" if done else "")


@contextmanager
def _moving(stages: Stages) -> Iterator[None]:
    """A spinner and the stages. It writes to a terminal of its own: file descriptor 2 is held while TensorFlow is imported."""
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    spinner = Spinner("dots")

    def shown() -> Any:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(spinner, Text(str(stages), no_wrap=True, overflow="ellipsis"))
        return grid

    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        console = Console(file=terminal, highlight=False)
        with Live(get_renderable=shown, console=console, refresh_per_second=10, transient=True):
            yield
