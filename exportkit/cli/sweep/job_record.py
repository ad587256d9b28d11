"""The record of a sweep's job, in its directory, written where it runs.

Jobs may run in other processes and on other machines, and may die; so what became of them is read from their records.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from exportkit.report import ExportReport, plain
from exportkit.version.claim import numbers

RECORD = "job.json"
ATTEMPT = "attempt.json"
LOCK = "attempt.lock"
GOOD = ("exported", "unchanged", "built", "planned")


@dataclass(kw_only=True)
class Job:
    """One job of a sweep.

    Attributes:
        status: ``exported``, ``unchanged`` (its version was there), ``failed``, ``died``,
            ``interrupted``, ``running``, ``not run``; by plan ``planned`` and ``built``.
        version: its number; of a planned one also how it will be chosen.
        reason: why, where it is not ``exported``.
        seconds: from its start to its end.
        bytes: of all files of the version.
        proof: what was proved of its weights.
    """

    number: int
    name: str = "?"
    status: str = "not run"
    version: int | str | None = None
    base: str | None = None
    directory: str | None = None
    seconds: float = 0.0
    bytes: int = 0
    proof: str = ""
    reason: str = ""
    overrides: Sequence[str] = ()
    report: dict | None = field(default=None, repr=False)

    @property
    def good(self) -> bool:
        return self.status in GOOD


class RememberDirectory(Callback):
    """A Hydra callback that learns where the sweep's record is, and records the jobs that could not do so themselves."""

    directory: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        RememberDirectory.directory = Path(str(config.hydra.sweep.dir)).absolute()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        where = Path(config.hydra.runtime.output_dir)
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED and not (where / RECORD).exists():
            write_job(_dead(job_return.cfg, config.hydra, str(job_return._return_value)), where)


def _dead(task: DictConfig, hydra: DictConfig, reason: str, seconds: float = 0.0) -> Job:
    return Job(
        number=_number(Path(hydra.runtime.output_dir), hydra.job.num),
        name=str(OmegaConf.select(task, "name", throw_on_resolution_failure=False)),
        status="died",
        base=_base(task),
        seconds=seconds,
        reason=reason,
        overrides=OmegaConf.to_container(hydra.overrides.task),
    )


def record_death(task: DictConfig, reason: str, seconds: float) -> None:
    """Write that the running job died, in its stead."""
    write_job(_dead(task, HydraConfig.get(), reason, seconds), place())


def _number(where: Path, number: int) -> int:
    """A job's number is that of its directory: a launcher may have been given only some of a sweep's jobs."""
    return int(where.name) if where.name.isdecimal() else int(number)


def _base(task: DictConfig) -> str | None:
    base = OmegaConf.select(task, "export_dir", throw_on_resolution_failure=False)
    return None if base is None else str(Path(base).absolute())


def is_sweep() -> bool:
    """Whether the running job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_planned(hydra: DictConfig) -> bool:
    """Whether the sweep was written down (`write_sweep`) before its first job started."""
    return str(hydra.sweeper._target_).endswith(".FleetSweeper")


def place() -> Path:
    """The directory of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def record(report: ExportReport, seconds: float) -> Job:
    """Write what became of the running job into its directory."""
    hydra = HydraConfig.get()
    job = Job(
        number=_number(place(), hydra.job.num),
        name=report.name,
        status=report.status,
        version=report.version,
        base=report.base_path,
        directory=report.directory,
        seconds=seconds,
        bytes=report.bytes,
        proof=report.weights.proof,
        reason=report.error or "",
        overrides=OmegaConf.to_container(hydra.overrides.task),
        report=plain(asdict(report)),
    )
    write_job(job, place())
    return job


def write_job(job: Job, directory: Path) -> None:
    """Write the record of a job, of one that could not do it itself too."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / RECORD, json.dumps(asdict(job), indent=2) + "\n")


def begin_attempt(base: Path) -> None:
    """Remember which versions there are before the running job makes its own."""
    write_whole(place() / ATTEMPT, json.dumps({"versions": sorted(numbers(base))}) + "\n")


@contextmanager
def only_attempt() -> Iterator[None]:
    """Be the one process that makes the running job; wait for an earlier one that its engine believes to be lost already."""
    with (place() / LOCK).open("w") as file:
        with suppress(OSError):  # a file system that knows no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lost_attempt() -> set[int] | None:
    """The versions that there were before an attempt of the running job that was lost; None where this one is the first.

    A cluster runs a job again whose machine was lost, and that may have made its version just before.
    """
    file = place() / ATTEMPT
    return set(json.loads(file.read_text())["versions"]) if file.is_file() else None


def is_held(path: Path) -> bool:
    """Whether a process is at the job whose directory this is (`only_attempt`)."""
    with suppress(FileNotFoundError), (path / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def write_whole(file: Path, text: str) -> None:
    """Write a file as a whole: a reader, or a run that is killed, never sees a part of it."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)
