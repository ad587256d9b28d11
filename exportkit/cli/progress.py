"""Progress of an export on stderr: one moving line on a terminal, else nothing; with ``hydra.verbose=true`` a line per stage.

A job that has a process of its own sends its stages to the parent process.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from exportkit import processes
from exportkit.cli import print_line
from exportkit.cli.channel import is_quiet, is_verbose
from exportkit.printable import printable

StageCallback = Callable[[str], None]  # called with the name of each stage when it begins


@contextmanager
def progress(name: str, moving: bool = True) -> Iterator[StageCallback]:
    """Yield a function to call with the name of each stage of exporting `name`, when it begins.

    Args:
        moving: whether the line may move; False where a debugger may use the terminal.
    """
    if processes.inside():
        yield processes.send_message
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
    """The stages of an export.

    Attributes:
        name: of the model.
        running: the stage that runs.
        since: when it began, in seconds of the monotonic clock.
        done: the stages before it, each with its duration in seconds.
    """

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
        """Do as `begin`, and print a line for the stage that ended."""
        ended, seconds = self.running, self.seconds
        self.begin(stage)
        if stage != ended:
            with suppress(OSError):  # an export does not fail because its reader has gone
                print_line(f"{self.name}: {ended} {seconds:.1f} s")

    @property
    def seconds(self) -> float:
        """How long the stage has been running."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        done = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.done if seconds >= 0.05)
        return f"{self.name}: {self.running} {self.seconds:.1f} s" + (f" (done: {done})" if done else "")


@contextmanager
def _moving(stages: Stages) -> Iterator[None]:
    """Show a spinner and the stages, on a duplicate of stderr: file descriptor 2 is redirected while TensorFlow is imported."""
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    spinner = Spinner("dots")

    def render() -> Any:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(spinner, Text(printable(str(stages)), no_wrap=True, overflow="ellipsis"))
        return grid

    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        console = Console(file=terminal, highlight=False)
        with Live(get_renderable=render, console=console, refresh_per_second=10, transient=True):
            yield
