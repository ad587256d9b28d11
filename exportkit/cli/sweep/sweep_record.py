"""All jobs of a sweep together: ``sweep.json``, ``models.config`` for a model server, and what is said at the end."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from exportkit.cli.sweep.job_record import RECORD, Job, is_held, write_whole
from exportkit.version.claim import numbers

SWEEP = "sweep.json"
SERVER = "models.config"
DIED = "died without a word; its last output says more"
RUNS = "still runs where its engine has put it"


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
    write_whole(directory / SWEEP, json.dumps(content, indent=2) + "\n")
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
    if is_held(path):
        return replace(job, status="running", reason=RUNS)
    return replace(job, status="interrupted") if interrupted else replace(job, status="died", reason=DIED)


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
    write_whole(directory / SERVER, f"model_config_list {{\n{blocks}}}\n")
    return directory / SERVER, ""


def _block(name: str, base: str) -> str:
    said = {"name": name, "base_path": base, "model_platform": "tensorflow"}
    return (
        "  config {\n"
        + "".join(f"    {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in said.items())
        + "  }\n"
    )


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
