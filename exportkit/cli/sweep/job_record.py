"""The record of a sweep's job: a file in the job's directory, written where the job runs.

Jobs may run in other processes and on other machines, and may die; so their results are read from their records.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from exportkit import files
from exportkit.cli import running
from exportkit.cli.export_run import value_at
from exportkit.cli.running import RunningJob
from exportkit.errors import EnvironmentFailed, Problem
from exportkit.planning.plain import PlainConfig
from exportkit.report import ExportReport, plain
from exportkit.version.claim import numbers

RECORD = "job.json"
ATTEMPT = "attempt.json"
LOCK = "attempt.lock"
T = TypeVar("T")
GOOD = ("exported", "unchanged", "built", "planned")


@dataclass(kw_only=True)
class Job:
    """One job of a sweep.

    Attributes:
        status: ``exported``, ``unchanged`` (its version exists), ``failed``, ``died``, ``interrupted``, ``running`` or
            ``not run``; from the command plan ``planned`` or ``built``.
        version: the version's number; of a planned job also the rule that will choose it.
        seconds: from start to end.
        bytes: the size of all files of the version.
        proof: the result of comparing its weights with the checkpoint.
        reason: why the status is not ``exported``.
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
    """A Hydra callback that remembers the sweep's directory, and writes the records of jobs that failed without one."""

    directory: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        RememberDirectory.directory = Path(str(config.hydra.sweep.dir)).absolute()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        where = Path(config.hydra.runtime.output_dir)
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED and not (where / RECORD).exists():
            task = config if job_return.cfg is None else job_return.cfg
            write_job(_dead_job(task, config.hydra, str(job_return._return_value)), where)


def _dead_job(task: DictConfig, hydra: HydraConf, reason: str, seconds: float = 0.0) -> Job:
    number = _number(Path(hydra.runtime.output_dir), hydra.job.num)
    return _dead(number, task, task_overrides(hydra), reason, seconds)


def _dead(number: int, task: DictConfig | PlainConfig, overrides: Sequence[str], reason: str, seconds: float) -> Job:
    return Job(
        number=number,
        name=str(value_at(task, "name")),
        status="died",
        base=_base(task),
        seconds=seconds,
        reason=reason,
        overrides=overrides,
    )


def record_failure(job: RunningJob, task: PlainConfig, reason: str) -> None:
    """Write the record of a failed job that Hydra did not compose, if it has none: as `RememberDirectory` does for others."""
    if not (job.directory / RECORD).exists():
        write_job(_dead(job.number, task, job.overrides, reason, 0.0), job.directory)


def task_overrides(hydra: HydraConf) -> list[str]:
    """Return a job's overrides as they were written: to iterate over the config would resolve interpolations in them."""
    words = OmegaConf.to_container(hydra.overrides.task)
    return words if isinstance(words, list) else []


def record_death(task: DictConfig, reason: str, seconds: float) -> None:
    """Write the record of the running job after its process died."""
    write_job(_dead_job(task, HydraConfig.get(), reason, seconds), job_directory())


def _number(where: Path, number: int) -> int:
    """Return the number in the job's directory name: Hydra's counts only the jobs that the launcher was given."""
    return int(where.name) if where.name.isdecimal() else int(number)


def _base(task: DictConfig | PlainConfig) -> str | None:
    base = value_at(task, "export_dir")
    return None if base is None else str(Path(base).absolute())


def is_sweep() -> bool:
    """Return whether the running job is part of a sweep."""
    return running.job() is not None or (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def is_planned(hydra: HydraConf) -> bool:
    """Return whether the sweep wrote ``sweep.json`` (`write_sweep`) before its first job started."""
    return str(hydra.sweeper._target_).endswith(".FleetSweeper")


def job_directory() -> Path:
    """Return the directory of the running job."""
    if (job := running.job()) is not None:
        return job.directory
    return Path(HydraConfig.get().runtime.output_dir)


def record(report: ExportReport, seconds: float) -> Job:
    """Write the record of the running job into its directory, and return it."""
    number, overrides = _number_and_overrides()
    job = Job(
        number=number,
        name=report.name,
        status=report.status,
        version=report.version,
        base=report.base_path,
        directory=report.directory,
        seconds=seconds,
        bytes=report.bytes,
        proof=report.weights.proof,
        reason=report.error or "",
        overrides=overrides,
        report=plain(asdict(report)),
    )
    write_job(job, job_directory())
    return job


def _number_and_overrides() -> tuple[int, list[str]]:
    """Return the number and the overrides of the running job."""
    if (job := running.job()) is not None:
        return job.number, list(job.overrides)
    hydra = HydraConfig.get()
    return _number(job_directory(), hydra.job.num), task_overrides(hydra)


def write_job(job: Job, directory: Path) -> None:
    """Write the record of any job into its directory, which is made if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / RECORD, json.dumps(asdict(job), indent=2) + "\n")


def begin_attempt(base: Path) -> None:
    """Record which versions exist before the running job makes its own."""
    write_whole(job_directory() / ATTEMPT, json.dumps({"versions": sorted(numbers(base))}) + "\n")


@contextmanager
def only_attempt() -> Iterator[None]:
    """Hold the running job's lock, so that only one process works on it.

    Waits for an earlier process of the job, which its engine may wrongly believe to be dead.
    """
    with (job_directory() / LOCK).open("w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lost_attempt() -> set[int] | None:
    """Return the versions that existed before a lost attempt of the running job; None if this is its first attempt.

    A cluster runs a job again when its machine was lost, and the job may have made its version just before.
    """
    file = job_directory() / ATTEMPT
    return read_record(file, lambda content: set(content["versions"])) if file.exists() else None


def read_record(file: Path, convert: Callable[[Any], T]) -> T:
    """Return what `convert` makes of the plain data in a record.

    Raises:
        EnvironmentFailed: the file cannot be read, or is no record of a sweep.
    """
    try:
        return convert(json.loads(files.read(file, files.ARRAYS)))
    except OSError as cause:
        raise EnvironmentFailed(Problem(str(file), f"cannot be read: {cause.strerror}", "remove it")) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise EnvironmentFailed(Problem(str(file), "is no whole record of a sweep", "remove it")) from None


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of the job in the directory `path` (`only_attempt`)."""
    with suppress(FileNotFoundError), (path / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def write_whole(file: Path, text: str) -> None:
    """Write a file atomically: readers never see a part of it, even after a power cut."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())  # a rename can be on the disk before the bytes of what is renamed
    partial.replace(file)
