"""What a sweep leaves behind: each job's record in its directory, and ``sweep.json`` and ``models.config`` for all of them.

Jobs may run in other processes and on other machines, and may die; so what became of them is read from their records.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from exportkit.report import ExportReport, plain
from exportkit.versions import numbers

RECORD = "job.json"
ATTEMPT = "attempt.json"
LOCK = "attempt.lock"
SWEEP = "sweep.json"
SERVER = "models.config"
DIED = "died without a word; its last output says more"
RUNS = "still runs where its engine has put it"
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
    _write(directory / RECORD, json.dumps(asdict(job), indent=2) + "\n")


def begin_attempt(base: Path) -> None:
    """Remember which versions there are before the running job makes its own."""
    _write(place() / ATTEMPT, json.dumps({"versions": sorted(numbers(base))}) + "\n")


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


def write_sweep(directory: Path, jobs: Iterable[Job], seconds: float | None = None) -> Path:
    """Write ``sweep.json``: once with what is to be done, and at the end with what was."""
    listed = sorted(jobs, key=lambda job: job.number)
    content = {
        "directory": str(directory),
        "seconds": seconds,
        "counts": counts(listed),
        "jobs": [asdict(replace(job, report=None)) for job in listed],
    }
    for job in content["jobs"]:
        del job["report"]
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / SWEEP, json.dumps(content, indent=2) + "\n")
    return directory / SWEEP


def counts(jobs: Iterable[Job]) -> dict[str, int]:
    """Status → number of jobs."""
    found: dict[str, int] = {}
    for job in jobs:
        found[job.status] = found.get(job.status, 0) + 1
    return found


def read_sweep(directory: Path, interrupted: bool = False) -> list[Job]:
    """All jobs of the sweep in `directory`, by number: as planned, and each with what its own record says.

    A job that left a directory and no record died before it could write one, or was killed as the sweep was interrupted.
    """
    planned = _planned(directory)
    known = {job.number: job for job in planned}
    for path in directory.glob("*"):
        if path.is_dir() and (path.name.isdecimal() or (path / RECORD).is_file()):
            job = _job(path, known, interrupted)
            known[job.number] = job
    return [known[number] for number in sorted(known)]


def read_jobs(directory: Path, numbers: Iterable[int]) -> list[Job]:
    """Those of the jobs that have ended and said so."""
    return [_job(path, {}, False) for number in numbers if ((path := directory / str(number)) / RECORD).is_file()]


def _planned(directory: Path) -> list[Job]:
    file = directory / SWEEP
    return [Job(**job) for job in json.loads(file.read_text())["jobs"]] if file.is_file() else []


def _job(path: Path, known: Mapping[int, Job], interrupted: bool) -> Job:
    file = path / RECORD
    if file.is_file():
        return Job(**json.loads(file.read_text()))
    job = known.get(int(path.name), Job(number=int(path.name)))
    if _is_held(path):
        return replace(job, status="running", reason=RUNS)
    return replace(job, status="interrupted") if interrupted else replace(job, status="died", reason=DIED)


def _is_held(path: Path) -> bool:
    """Whether a process is at the job whose directory this is (`only_attempt`)."""
    with suppress(FileNotFoundError), (path / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def write_server_config(directory: Path, jobs: Sequence[Job]) -> tuple[Path | None, str]:
    """Write ``models.config`` for a model server: every model of the sweep that has a version, this sweep's or an older one.

    Returns:
        the file, or None and why there is none.
    """
    bases: dict[str, set[str]] = {}
    for job in jobs:
        if job.base and numbers(Path(job.base)):
            bases.setdefault(job.name, set()).add(job.base)
    if twice := [name for name, found in bases.items() if len(found) > 1]:
        name = twice[0]
        return None, f"no {SERVER}: {name} is the name of {len(bases[name])} base paths; give each its own name"
    if not bases:
        return None, ""
    blocks = "".join(_block(name, *found) for name, found in sorted(bases.items()))
    _write(directory / SERVER, f"model_config_list {{\n{blocks}}}\n")
    return directory / SERVER, ""


def _block(name: str, base: str) -> str:
    said = {"name": name, "base_path": base, "model_platform": "tensorflow"}
    return (
        "  config {\n"
        + "".join(f"    {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in said.items())
        + "  }\n"
    )


def _write(file: Path, text: str) -> None:
    """Write a file as a whole: a reader, or a run that is killed, never sees a part of it."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)


def summary(jobs: Sequence[Job], seconds: float) -> str:
    """``50 jobs in 12.3 s: 47 exported, 2 unchanged, 1 failed``."""
    found = ", ".join(f"{number} {status}" for status, number in counts(jobs).items())
    return f"{_jobs(len(jobs))} in {seconds:.1f} s: {found}"


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def problems(jobs: Sequence[Job]) -> list[str]:
    """The lines that say why jobs failed; those that were not run are counted."""
    waiting = [job.number for job in jobs if job.status in ("interrupted", "not run")]
    lines = [f"job {job.number}: {line}" for job in jobs if not job.good for line in job.reason.splitlines()]
    if waiting:
        lines.append(f"{_jobs(len(waiting))} not run, from job {waiting[0]} on: run the sweep again, and it goes on there")
    return lines


def apart(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job the overrides that not all jobs have."""
    shared: set[str] = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[word for word in job if word not in shared] for job in jobs]
