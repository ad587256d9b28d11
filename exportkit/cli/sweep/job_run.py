"""A job of a sweep, where it runs: it always writes its record, and never exports a second time."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from exportkit.cli import tables
from exportkit.cli.export_run import failed_report, unplanned_report
from exportkit.cli.sweep import job_record, worker_side
from exportkit.report import ExportReport
from exportkit.version.claim import size

LOST = "made by an earlier attempt of this job, which was lost before it could say so"


def run(config: DictConfig, work: Callable[[DictConfig], ExportReport]) -> str:
    """Do the work of a job and return its status; the record is written before an exception leaves."""
    if worker_side.is_external_worker():
        return worker_side.run(config, partial(run, work=work))
    started = time.perf_counter()
    try:
        report = work(config)
    except Exception as error:
        _record(failed_report(error, unplanned_report(config)), started)
        raise
    return _record(report, started)


def _record(report: ExportReport, started: float) -> str:
    seconds = time.perf_counter() - started
    job_record.record(report, seconds)
    tables.line(tables.summary(report, seconds))
    return report.status


def find_earlier(config: DictConfig) -> ExportReport | None:
    """Return the report of a version that a lost attempt of this job has made; None if there is no such version."""
    from exportkit.cli.sweep import preflight  # imports the pipeline

    before = job_record.lost_attempt()
    made = None if before is None else preflight.made_since(config, before)
    if made is None:
        return None
    directory = Path(made.base) / str(made.made)
    found = ExportReport(
        name=made.name,
        status="exported",
        version=made.made,
        base_path=made.base,
        directory=str(directory),
        bytes=size(directory),
    )
    found.warnings.append(LOST)
    return found
