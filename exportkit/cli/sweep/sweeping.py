"""The steps of a sweep: expand, compose and check every job, leave out those whose version exists, launch the rest.

Launchers are used through Hydra's interface only; exportkit's own also takes the configs as they were composed here.
"""

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, read_write

from exportkit.cli import hydra_app
from exportkit.cli.sweep import engine_side, job_record, preflight, sweep_record
from exportkit.cli.sweep.composing import compose_all, expand
from exportkit.cli.sweep.engine_side import ReadyLauncher
from exportkit.cli.sweep.preflight import Outlook
from exportkit.cli.sweep.view import View
from exportkit.errors import ConfigError, Problem
from exportkit.version import claim

NUMBERED = b"hydra:job."  # in a pickled config: an interpolation of the job's number


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a sweep.

    Attributes:
        force: export jobs whose version exists too.
        keep_going: export the good jobs even if others have problems.
        dry_run: stop before the first job.
    """

    force: bool = False
    keep_going: bool = False
    dry_run: bool = False


@dataclass(kw_only=True)
class Fleet:
    """All jobs of a sweep, as they are known before the first one starts; each by its number, from 0.

    Attributes:
        overrides: the overrides of each job.
        configs: the pickled configs.
        outlooks: what the jobs would make.
        problems: why jobs cannot be exported.
        unchanged: the versions that exist and equal what the job would make.
        assigned: the version numbers of jobs with ``version=auto`` that share a base path, in the order of the jobs.
        directory: the sweep's directory, where it is not the one that the configs name.
    """

    overrides: list[list[str]]
    configs: dict[int, bytes] = field(default_factory=dict)
    outlooks: dict[int, Outlook] = field(default_factory=dict)
    problems: dict[int, list[Problem]] = field(default_factory=dict)
    unchanged: dict[int, int] = field(default_factory=dict)
    assigned: dict[int, int] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def due(self) -> list[int]:
        """The jobs that have to run."""
        return [n for n in range(len(self.overrides)) if n not in self.problems and n not in self.unchanged]

    def config(self, number: int) -> DictConfig:
        """Return a job's config; the fleet keeps configs pickled, which takes a tenth of the memory."""
        config = pickle.loads(self.configs[number])
        if number in self.assigned:
            with read_write(config):
                config.version = self.assigned[number]
        if self.directory is not None:
            with read_write(config):
                config.hydra.sweep.dir = str(self.directory)
                config.hydra.runtime.output_dir = str(self.directory / str(config.hydra.sweep.subdir))
        return config

    def describe_problems(self) -> list[Problem]:
        """Return every problem, placed under its job and the overrides that distinguish the job from the others."""
        return preflight.group_problems(self.problems, dict(enumerate(sweep_record.distinct_overrides(self.overrides))))

    def jobs(self, due: str) -> list[job_record.Job]:
        """Return the record of each job before it starts; those that have to run get the status `due`."""
        return [self._job(number, overrides, due) for number, overrides in enumerate(self.overrides)]

    def _job(self, number: int, overrides: Sequence[str], due: str) -> job_record.Job:
        outlook = self.outlooks.get(number)
        job = job_record.Job(number=number, overrides=overrides, status=due)
        if outlook is not None:
            job.name, job.base = outlook.name, outlook.base
            job.version = self.assigned.get(number, outlook.version) if due == "planned" else None
        elif number in self.configs:
            job.name = str(OmegaConf.select(self.config(number), "name", throw_on_resolution_failure=False))
        if number in self.problems:
            job.status, job.reason = "failed", "\n".join(map(str, self.problems[number]))
        elif number in self.unchanged:
            job.status, job.version = "unchanged", self.unchanged[number]
            job.directory = str(Path(job.base or "") / str(job.version))
        return job


def sweep(arguments: Sequence[str], params: Mapping[str, str], launcher: ReadyLauncher, options: Options) -> None:
    """Run the jobs that `arguments` and `params` expand to.

    Raises:
        ConfigError: a job cannot be composed or planned, or conflicts with another. Nothing was started.
    """
    view = View()
    fleet = prepare(expand(arguments, launcher.hydra_context.config_loader, params), launcher, view, options.force)
    if fleet.problems and not options.keep_going:
        raise ConfigError(*fleet.describe_problems())
    directory = _take_directory(launcher.config)
    if directory != Path(str(launcher.config.hydra.sweep.dir)).absolute():
        fleet.directory = job_record.RememberDirectory.directory = directory
        with read_write(launcher.config):
            launcher.config.hydra.sweep.dir = str(directory)
    sweep_record.write_sweep(directory, fleet.jobs("planned" if options.dry_run else "not run"))
    if options.dry_run:
        return
    for base in {outlook.base for outlook in fleet.outlooks.values()}:
        claim.remove_stale(Path(base))  # left by a killed sweep
    if not fleet.due:
        return
    OmegaConf.save(launcher.config, directory / "multirun.yaml")
    with view.launched(fleet.jobs("not run")):
        _launch(launcher, fleet, view)


def _take_directory(config: DictConfig) -> Path:
    """Create the sweep's directory and return it.

    One that is named by the time is this sweep's alone: another sweep may have begun in the same second, or the clock was set
    back. So a number is appended where it exists.
    """
    named, raw = Path(str(config.hydra.sweep.dir)).absolute(), OmegaConf.to_container(config.hydra.sweep)
    named.parent.mkdir(parents=True, exist_ok=True)
    if not (isinstance(raw, dict) and "${now:" in str(raw.get("dir"))):
        named.mkdir(exist_ok=True)
        return named
    directory, numbers = named, count(2)
    while not _made(directory):
        directory = named.with_name(f"{named.name}-{next(numbers)}")
    return directory


def _made(directory: Path) -> bool:
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def prepare(jobs: list[list[str]], launcher: ReadyLauncher, view: View, force: bool) -> Fleet:
    """Compose and plan all jobs, and find those whose version exists.

    Raises:
        ConfigError: there are no jobs.
    """
    if not jobs:
        raise ConfigError(Problem("sweep", "there are no jobs", "a glob(…) that matches nothing makes none"))
    fleet = Fleet(overrides=jobs)
    started = time.perf_counter()
    loader = launcher.hydra_context.config_loader
    with view.preparing(len(jobs)) as advance:
        for job in compose_all(loader, launcher.config, jobs, preflight.plan_job, hydra_app.refusal):
            if job.config:
                fleet.configs[job.number] = job.config
            if job.error is not None:
                fleet.problems[job.number] = list(job.error.problems)
            elif job.result is not None:
                fleet.outlooks[job.number] = job.result
            advance()
    if not force:
        fleet.unchanged = preflight.unchanged(fleet.outlooks)
    fleet.assigned = preflight.assigned(fleet.outlooks, fleet.due)
    for number, problem in [*preflight.clashes(fleet.outlooks), *(preflight.taken(fleet.outlooks) if force else ())]:
        fleet.problems.setdefault(number, []).append(problem)
    view.prepared(len(jobs), len(fleet.unchanged), len(fleet.problems), time.perf_counter() - started)
    return fleet


def _launch(launcher: ReadyLauncher, fleet: Fleet, view: View) -> None:
    own = getattr(launcher, "launch_composed", None)
    if own is not None:
        uses_tensorflow = any(fleet.outlooks[number].uses_tensorflow for number in fleet.due)
        own(((number, fleet.config(number)) for number in fleet.due), view.event, uses_tensorflow)
        return
    if any(NUMBERED in config for config in fleet.configs.values()):
        fleet.unchanged = {}  # other launchers number their jobs from 0: the numbers are right only if they get all jobs
    jobs = fleet.jobs("not run")
    for number, version in fleet.assigned.items():
        jobs[number].overrides = [*jobs[number].overrides, f"version={version}"]
    engine_side.launch(launcher, [jobs[number] for number in fleet.due], view.recorded)
