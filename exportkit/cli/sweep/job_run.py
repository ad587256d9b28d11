"""A job of a sweep, where it runs: its record is written whatever comes of it, and nothing is exported a second time."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from exportkit.cli import hydra_app, tables
from exportkit.cli.sweep import job_record, preflight, worker_side
from exportkit.errors import ExportKitError
from exportkit.report import ExportReport
from exportkit.version.claim import size

LOST = "made by an earlier attempt of this job, which was lost before it could say so"


def run(config: DictConfig, work: Callable[[DictConfig], ExportReport]) -> str:
    """Do the work of a job and return its status; the record is there before anything is raised."""
    if worker_side.is_elsewhere():
        return worker_side.run(config, partial(run, work=work))
    started = time.perf_counter()
    try:
        report = work(config)
    except Exception as error:
        _record(failed(error, named(config)), started)
        raise
    return _record(report, started)


def _record(report: ExportReport, started: float) -> str:
    seconds = time.perf_counter() - started
    job_record.record(report, seconds)
    tables.line(tables.summary(report, seconds))
    return report.status


def named(config: DictConfig) -> ExportReport:
    """The report of an export that was not even planned."""
    return ExportReport(name=str(OmegaConf.select(config, "name", throw_on_resolution_failure=False)))


def failed(error: Exception, report: ExportReport) -> ExportReport:
    """The report that the pipeline had come to, or the bare one, with `error`."""
    report = getattr(error, "report", None) or report
    report.error = str(error if isinstance(error, ExportKitError) else hydra_app.unexpected(error))
    return report


def earlier(config: DictConfig) -> ExportReport | None:
    """What an attempt of this job that was lost had made, as the report of this one; None where there is nothing."""
    before = job_record.lost_attempt()
    made = None if before is None else preflight.made_since(config, before)
    if made is None:
        return None
    directory = Path(made.base) / str(made.version)
    found = ExportReport(
        name=made.name,
        status="exported",
        version=made.version,
        base_path=made.base,
        directory=str(directory),
        bytes=size(directory),
    )
    found.warnings.append(LOST)
    return found
