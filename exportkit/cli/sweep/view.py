"""The progress of a sweep on stderr: a live view on a terminal, otherwise a line for each job that has ended."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from exportkit.cli import print_line
from exportkit.cli.channel import is_quiet
from exportkit.cli.sweep.job_record import Job
from exportkit.printable import printable
from exportkit.processes import Died, Ended, Event, Reported, Started


@dataclass
class Running:
    """A running job: its stage, and the time of its start (`time.monotonic`)."""

    stage: str = "start"
    since: float = field(default_factory=time.monotonic)


class View:
    """Shows a sweep from its first composed job to its last one that ended."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()
        self.jobs: dict[int, Job] = {}
        self.running: dict[int, Running] = {}
        self.ended: dict[str, int] = {}
        self.total = 0
        self.started = time.monotonic()

    @contextmanager
    def preparing(self, total: int) -> Iterator[Callable[[], None]]:
        """Show the progress of composing; yield a function to call after each job that was composed and checked."""
        if not self.live:
            yield lambda: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("compose and check"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
            bar = progress.add_task("", total=total)
            yield lambda: progress.advance(bar)

    def prepared(self, total: int, unchanged: int, wrong: int, seconds: float) -> None:
        """Print the number of jobs, and how many are unchanged or have problems, before the first job starts."""
        found = {"unchanged": unchanged, "cannot be exported": wrong}
        known = "".join(f", {number} {what}" for what, number in found.items() if number)
        self._print(f"{total} {'job' if total == 1 else 'jobs'} composed and checked in {seconds:.1f} s{known}")

    @contextmanager
    def launched(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Show the jobs that run inside of this context; `event` and `recorded` report their progress."""
        self.jobs = {job.number: job for job in jobs}
        self.total = sum(job.status == "not run" for job in jobs)
        self.started = time.monotonic()
        if not self.live:
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(get_renderable=self._render, console=Console(file=sys.stderr), refresh_per_second=5, transient=True):
            yield

    def event(self, event: Event) -> None:
        """Update the view with an event of a job."""
        match event:
            case Started(number):
                self.running[number] = Running()
            case Reported(number, text):
                self.running[number].stage = text
            case Ended(number, _, seconds) | Died(number, _, seconds):
                self.running.pop(number, None)
                self._count_end(number, seconds, "died" if isinstance(event, Died) else _status(event.value))

    def recorded(self, job: Job) -> None:
        """Update the view with the record of a job that another engine ran."""
        self._count_end(job.number, job.seconds, job.status)

    def _count_end(self, number: int, seconds: float, status: str) -> None:
        self.ended[status] = self.ended.get(status, 0) + 1
        done = sum(self.ended.values())
        if not self.live:
            self._print(f"[{done}/{self.total}] job {number} {self.jobs[number].name}: {status} in {seconds:.1f} s")

    def _render(self) -> Any:
        """Return the live view, a rich table: a line for each running job, and one for the sweep."""
        from rich.table import Table

        done = sum(self.ended.values())
        grid = Table.grid(padding=(0, 2))
        for number, running in sorted(self.running.items()):
            age = time.monotonic() - running.since
            grid.add_row(f"job {number}", *map(printable, (self.jobs[number].name, running.stage)), f"{age:.1f} s")
        grid.add_row("sweep", f"{done} of {self.total}", self._format_counts(), self._format_time(done))
        return grid

    def _format_counts(self) -> str:
        if not (self.ended or self.running):
            return "importing TensorFlow"
        return ", ".join(f"{number} {status}" for status, number in self.ended.items())

    def _format_time(self, done: int) -> str:
        """Return the elapsed time and, after two jobs, an estimate of the time left from the jobs that have ended."""
        age = time.monotonic() - self.started
        if done < 2:
            return f"{age:.0f} s"
        return f"{age:.0f} s, about {age / done * (self.total - done):.0f} s left"

    def _print(self, text: str) -> None:
        if not is_quiet():
            print_line(f"sweep: {text}")


def _status(returned: JobReturn) -> str:
    return "failed" if returned.status is JobStatus.FAILED else str(returned.return_value)
