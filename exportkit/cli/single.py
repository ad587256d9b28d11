"""One export in a process of its own: a fork of this one, which has the plan; or, where that has threads or Python builds the
graph, of one that has only imported, as the jobs of a sweep are.

So this process reports what kills the export and cleans up after it, and the export's output is never mixed with the result.
"""

import codecs
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from exportkit import processes
from exportkit.cli.choices import plugins
from exportkit.cli.early import WORKERS
from exportkit.cli.failures import JobFailed, failure
from exportkit.cli.packed_plan import pack, unpack
from exportkit.cli.progress import progress
from exportkit.errors import Problem
from exportkit.printable import Output
from exportkit.processes import Died, Ended, Reported, Task
from exportkit.processes.death import FATAL
from exportkit.processes.scratch import scratch
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan
from exportkit.version import claim

LOG = "output.log"
PERIOD = 0.1  # seconds between two reads of what the process has printed


class State(Protocol):
    """What an export's process needs beside its config; it is pickled for one that is no fork of this."""

    def install(self) -> None:
        """Set the logging, and what Hydra's config is for user code, in a new process."""

    def take_over(self) -> None:
        """Set the logging in a fork, whose streams are its own, and refuse breakpoints."""

    def directories(self) -> Sequence[Path]:
        """Return the directories of the config's files."""

    def preload(self, uses_tensorflow: bool) -> Sequence[str]:
        """Return the modules that the server of the export's process imports."""

    def timeout(self) -> float | None:
        """Return the seconds that the export may take; None: no limit."""


def run(planned: ExportPlan, config: Mapping[str, Any], state: State) -> ExportReport:
    """Carry out a plan.

    Args:
        planned: the plan of `config`.
        config: plain data, interpolations resolved.
        state: of the composition.

    Raises:
        JobFailed: the export raised, or its process died.
    """
    before, timeout = claim.numbers(planned.export_dir), state.timeout()
    try:
        with scratch() as place:
            end, last = _run_task(planned, config, state, place / LOG, timeout)
    except BaseException:
        claim.remove_stale(planned.export_dir)
        raise
    if isinstance(end, Died):
        claim.remove_stale(planned.export_dir)
        raise _failure(planned, end, last, claim.numbers(planned.export_dir) - before)
    if isinstance(end.value, JobFailed):
        raise end.value
    return end.value


def _first_stage(planned: ExportPlan) -> str:
    """Return the name of the stage before the export's own: its process starts."""
    return "import tensorflow" if planned.uses_tensorflow else "start"


def _run_task(
    planned: ExportPlan, config: Mapping[str, Any], state: State, log: Path, timeout: float | None
) -> tuple[Ended | Died, str]:
    """Run the export and show what it prints; return the last event of its process and its last stage."""
    last = "start"
    task, modules = _task(planned, config, state, log), state.preload(planned.uses_tensorflow)
    with closing(processes.run([task], 1, timeout, modules)) as events:
        end = next(events)  # it has started, before there are threads here, or could not be
        with progress(planned.name) as stage, _shown(log):
            stage(_first_stage(planned))
            for event in events:
                if isinstance(event, Reported):
                    last = event.text
                    stage(last)
                elif isinstance(event, Ended | Died):
                    end = event
    assert isinstance(end, Ended | Died)  # the last event is an end
    return end, last


def _task(planned: ExportPlan, config: Mapping[str, Any], state: State, log: Path) -> Task:
    if processes.single_threaded() and not planned.uses_tensorflow:
        return Task(0, _run_fork, (planned, state, time.monotonic()), log, here=True)
    return Task(0, _run, (_packed(planned, config, state),), log)


def _failure(planned: ExportPlan, died: Died, stage: str, made: set[int]) -> JobFailed:
    """Return the error of an export whose process died; write its report and call observers, as after any failure.

    Args:
        stage: the last stage that it reported.
        made: the versions that it published before it died.
    """
    from exportkit.exporting import pipeline

    death = replace(died.death, output=None)  # it was shown, and is removed
    published = "; ".join(f"version {number} is in {planned.export_dir}" for number in sorted(made))
    problem = Problem(planned.name, f"at {stage} its process {death.describe('hydra.launcher.timeout')}", published)
    report = ExportReport(name=planned.name, base_path=str(planned.export_dir), error=str(problem))
    pipeline.finish(planned, plugins(), report)
    return JobFailed(str(problem))


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Print what is appended to a log, as it is written."""
    done, decoder, output = threading.Event(), codecs.getincrementaldecoder("utf-8")("replace"), Output()

    def show() -> None:
        last, at = False, 0
        while not last:
            last = done.wait(PERIOD)
            with suppress(OSError), log.open("rb") as file:
                file.seek(at)
                text, found, _ = file.read().partition(FATAL.encode())
                at += len(text)
                last = last or bool(found)  # the stack of a crash follows
                sys.stderr.write(output.piece(decoder.decode(text), last))
                sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _packed(planned: ExportPlan, config: Mapping[str, Any], state: State) -> bytes:
    """Pickle what the process needs, and the time now."""
    return pickle.dumps((pack(planned), config, state, time.monotonic()))


def _run_fork(planned: ExportPlan, state: State, forked_at: float) -> ExportReport | JobFailed:
    """Export; called in a fork of the process that planned it."""
    state.take_over()
    return _exported(lambda: planned, forked_at)


def _run(content: bytes) -> ExportReport | JobFailed:
    """Export; called in its own process."""
    plan, config, state, packed_at = pickle.loads(content)
    state.install()
    return _exported(lambda: _unpacked(plan, config, state), packed_at)


def _exported(planned: Callable[[], ExportPlan], since: float) -> ExportReport | JobFailed:
    """Export; `since` is when the time began that counts as the first stage."""
    waited = time.monotonic() - since  # for the process, and the server's import
    try:
        from exportkit.exporting import pipeline

        plan = planned()
        if processes.shared() is None:
            processes.reserve(WORKERS)
        report = ExportReport(name=plan.name, stages={_first_stage(plan): waited})
        pipeline.fill(report, plan, plugins(), processes.send_message)
        return report
    except Exception as error:
        return failure(error)


def _unpacked(content: bytes, config: Mapping[str, Any], state: State) -> ExportPlan:
    from exportkit.planning.plan import plan

    return unpack(content, lambda: plan(config, plugins(), state.directories()))
