"""The jobs of ``exportkit export``: one export in a process of its own or in this one, and what is printed of it."""

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from exportkit import processes
from exportkit.cli import channel, export_run, handover, hydra_app, packed_plan, wants_tracebacks
from exportkit.cli.early import WORKERS
from exportkit.cli.failures import JobFailed, report_failure
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run, process_launcher, worker_side
from exportkit.cli.sweep.summary import closing
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

_debugged = ContextVar("debugged", default=False)  # whether the user asked for tracebacks; inside Hydra that is always set


def export_all(arguments: Sequence[str], quiet: bool) -> int:
    """Run one export or a sweep and return the exit code."""
    rest, switches = hydra_app.sweep_switches(arguments)
    _debugged.set(wants_tracebacks())
    with channel.quiet(quiet), closing() as swept:
        try:
            hydra_app.run(rest, job, switches)
        except JobFailed as failed:
            if not swept.is_sweep:
                return report_failure(failed)
    return swept.code


class HydraState:
    """The state of Hydra's running job, for the process of its export (`exportkit.cli.single.State`)."""

    def __init__(self) -> None:
        self._config: DictConfig | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": handover.pack()}

    def install(self) -> None:
        if self._config is not None:
            handover.unpack(self._config)

    def take_over(self) -> None:
        handover.take_over()

    def directories(self) -> Sequence[Path]:
        return hydra_app.directories()

    def preload(self, uses_tensorflow: bool) -> Sequence[str]:
        return process_launcher.preload(uses_tensorflow)

    def timeout(self) -> float | None:
        launcher = HydraConfig.get().launcher
        if launcher._target_ != process_launcher.LAUNCHER:
            return None
        process_launcher.check_options(launcher)
        return launcher.timeout


@hydra_app.reporting
def job(config: DictConfig) -> str:
    """Export `config` and return its status: a job of Hydra's."""
    hydra_app.unmute_tensorflow()
    if job_record.is_sweep():
        return job_run.run(config, _export_once)
    state = HydraState()
    if not _runs_here():
        return export_run.run_apart(config, state)
    planned = export_run.make_plan(config, state)
    report = _export(planned, moving=False)
    export_run.show(report, planned)
    return report.status


def _runs_here() -> bool:
    """Return whether the export runs in this process, where debuggers work and tracebacks go back to their cause."""
    return _debugged.get() or worker_side.is_basic_launcher()


def _export_once(config: DictConfig) -> ExportReport:
    """Export a job of a sweep, or return the report of an earlier attempt that exported it before its worker was lost."""
    if made := job_run.find_earlier(config):
        return made
    planned = packed_plan.unpack(packed_plan.read(), lambda: export_run.make_plan(config, HydraState()))
    job_record.begin_attempt(planned.export_dir)
    return _export(planned)


def _export(planned: ExportPlan, moving: bool = True) -> ExportReport:
    from exportkit.exporting import pipeline

    if processes.inside() and processes.shared() is None:
        processes.reserve(WORKERS)
    with processes.terminable(), progress(planned.name, moving) as stage:
        return pipeline.run(planned, hydra_app.plugins(), progress=stage)
