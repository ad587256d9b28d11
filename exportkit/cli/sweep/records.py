"""What a sweep leaves behind: each job's record in its directory, and at the end one table of all jobs.

Jobs may run in other processes and on other machines, and may die; so what became of them is read from their records.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from exportkit.report import ExportReport

RECORD = "job.json"


@dataclass(kw_only=True)
class Job:
    """One job of a sweep."""

    number: str
    name: str
    status: str
    overrides: Sequence[str] = ()
    version: int | None = None
    directory: str | None = None
    seconds: float = 0.0
    error: str = ""
    report: dict = field(default_factory=dict)


class RememberDirectory(Callback):
    """A Hydra callback that learns where the sweep's record is, and records the jobs that could not do so themselves."""

    directory: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        RememberDirectory.directory = Path(str(config.hydra.sweep.dir)).absolute()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        place = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.FAILED and config.hydra.mode == RunMode.MULTIRUN and not (place / RECORD).exists():
            name = OmegaConf.select(job_return.cfg, "name", throw_on_resolution_failure=False)
            job = Job(number=str(config.hydra.job.num), name=str(name), status="died", error=str(job_return._return_value))
            job.overrides = list(job_return.overrides or ())
            _write(place, job)


def is_sweep() -> bool:
    """Whether the running job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def record(report: ExportReport) -> Job:
    """Write what became of the running job into its directory."""
    hydra = HydraConfig.get()
    shown = {key: getattr(report, key) for key in ("name", "status", "version", "directory", "seconds")}
    overrides = OmegaConf.to_container(hydra.overrides.task)
    job = Job(number=str(hydra.job.num), overrides=overrides, error=report.error or "", report=asdict(report), **shown)
    _write(Path(hydra.runtime.output_dir), job)
    return job


def _write(place: Path, job: Job) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / RECORD).write_text(json.dumps(asdict(job), indent=2) + "\n")


def jobs(directory: Path) -> list[Job]:
    """All jobs of the sweep in `directory`, in order. One that left no record died before it could."""
    found = [_job(place) for place in directory.glob("*") if place.is_dir()]
    return sorted(found, key=lambda job: (not job.number.isdecimal(), int(job.number) if job.number.isdecimal() else 0))


def _job(place: Path) -> Job:
    file = place / RECORD
    if file.is_file():
        return Job(**json.loads(file.read_text()))
    return Job(number=place.name, name="?", status="died", error="died without a word; its last output says more")
