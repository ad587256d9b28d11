"""One export in a process of its own, forked from one that has only imported TensorFlow, as a sweep's jobs are.

So what kills it is reported here, and cleaned up; and what it prints never gets between the lines of the result.
"""

import codecs
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from exportkit import processes
from exportkit.cli import handover, hydra_app
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import Tell, progress
from exportkit.cli.sweep.process_launcher import PRELOAD
from exportkit.errors import Problem
from exportkit.processes import Died, Ended, Reported, Task, workers
from exportkit.processes.crash_log import FATAL, last_words
from exportkit.processes.scratch import scratch
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan
from exportkit.version import claim

LOG = "output.log"
PERIOD = 0.1  # seconds between two looks for what the process printed


def run(planned: ExportPlan, config: DictConfig, timeout: float | None) -> ExportReport:
    """Carry out a plan.

    Args:
        planned: the plan of `config`.
        timeout: seconds that it may take.

    Raises:
        JobFailed: it raised, or its process died.
    """
    before = claim.numbers(planned.export_dir)
    try:
        with progress(planned.name) as stage, scratch() as place:
            stage("import tensorflow")
            end, last = _end(Task(0, _run, (_packed(planned, config),), place / LOG), timeout, stage)
            words = _said(place / LOG)
    except BaseException:
        claim.remove_stale(planned.export_dir)
        raise
    if isinstance(end, Died):
        claim.remove_stale(planned.export_dir)
        raise _failure(planned, end, last, words, claim.numbers(planned.export_dir) - before)
    if isinstance(end.value, JobFailed):
        raise end.value
    return end.value


def _end(task: Task, timeout: float | None, stage: Tell) -> tuple[Ended | Died, str]:
    """How a task ended, and its last stage; what it prints is shown."""
    last = "start"
    with closing(processes.run([task], 1, timeout, PRELOAD)) as events, _shown(task.log):
        for event in events:
            if isinstance(event, Reported):
                last = event.text
                stage(last)
    return event, last


def _failure(planned: ExportPlan, died: Died, stage: str, words: str, made: set[int]) -> JobFailed:
    """What to say of an export whose process died; its report is written, and observers are called, as of any that failed."""
    from exportkit.exporting import pipeline

    what = f"at {stage} its process {died.reason}"
    what += " (hydra.launcher.timeout)" if died.timed_out else ""
    what += ", before the export was done" if died.reason.startswith("ended") else ""
    what += f"; its last line: {words}" if words else ""
    there = "; ".join(f"version {number} is in {planned.export_dir}" for number in sorted(made))
    problem = Problem(planned.name, what, there)
    report = ExportReport(name=planned.name, base_path=str(planned.export_dir), error=str(problem))
    pipeline.finish(planned, hydra_app.plugins(), report)
    return JobFailed(str(problem))


def _said(log: Path) -> str:
    """The last words in a log."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        return last_words(file)
    return ""


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Print what is appended to a log, as it comes."""
    over, decoder = threading.Event(), codecs.getincrementaldecoder("utf-8")("replace")

    def show() -> None:
        last, at = False, 0
        while not last:
            last = over.wait(PERIOD)
            with suppress(OSError), log.open("rb") as file:
                file.seek(at)
                text, found, _ = file.read().partition(FATAL.encode())
                at += len(text)
                sys.stderr.write(decoder.decode(text))
                sys.stderr.flush()
                last = last or bool(found)  # a stack follows, of a process that died

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _packed(planned: ExportPlan, config: DictConfig) -> bytes:
    """All that the process needs, and when it was asked for.

    Where a plugin's object in the plan cannot be pickled, there is none: the config makes it again.
    """
    try:
        plan = pickle.dumps(planned)
    except Exception:
        plan = b""
    return pickle.dumps((plan, OmegaConf.to_container(config, resolve=True), handover.pack(), time.monotonic()))


def _run(content: bytes) -> ExportReport | JobFailed:
    """The export, in its process."""
    from exportkit.exporting import pipeline

    plan, config, hydra, asked = pickle.loads(content)
    waited = time.monotonic() - asked  # for the server's import
    handover.unpack(hydra)
    hydra_app.unmute_tensorflow()
    try:
        planned = _unpacked(plan, config)
        if planned.post:
            workers.reserve()
        report = ExportReport(name=planned.name, stages={"import tensorflow": waited})
        pipeline.fill(report, planned, hydra_app.plugins(), processes.tell)
        return report
    except Exception as error:
        return hydra_app.failure(error)


def _unpacked(content: bytes, config: Mapping[str, Any]) -> ExportPlan:
    from exportkit.planning.plan import plan

    with suppress(Exception):  # its classes cannot be imported here
        return pickle.loads(content)
    return plan(config, hydra_app.plugins())
