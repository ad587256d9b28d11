"""The steps of a sweep: expand, compose and check every job, leave out those whose version exists, launch the rest.

Launchers are used through Hydra's interface only; exportkit's own also takes the configs as they were composed here.
"""

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from omegaconf import DictConfig, OmegaConf, read_write

from exportkit.cli import hydra_app
from exportkit.cli.packed_plan import Shelf
from exportkit.cli.sweep import direct_jobs, engine_side, job_record, preflight, process_launcher, sweep_record
from exportkit.cli.sweep.composing import compose_all, expand
from exportkit.cli.sweep.engine_side import ReadyLauncher
from exportkit.cli.sweep.job_process import PackedJob
from exportkit.cli.sweep.preflight import Outlook
from exportkit.cli.sweep.view import View
from exportkit.errors import ConfigError, Problem
from exportkit.processes.scratch import scratch
from exportkit.version import claim, identity

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

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
        plain: the jobs whose config is a PlainConfig: Hydra did not compose them.
        directories: the output directories that the configs name.
        outlooks: what the jobs would make.
        problems: why jobs cannot be exported.
        unchanged: the versions that exist and equal what the job would make.
        assigned: the version numbers of jobs with ``version=auto`` that share a base path, in the order of the jobs.
        directory: the sweep's directory, where it is not the one that the configs name.
        shelf: where the plans are, for jobs whose configs are as they were planned; None: their processes plan them.
    """

    overrides: list[list[str]]
    configs: dict[int, bytes] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)
    directories: dict[int, str] = field(default_factory=dict)
    outlooks: dict[int, Outlook] = field(default_factory=dict)
    problems: dict[int, list[Problem]] = field(default_factory=dict)
    unchanged: dict[int, int] = field(default_factory=dict)
    assigned: dict[int, int] = field(default_factory=dict)
    directory: Path | None = None
    shelf: Shelf | None = None

    @property
    def due(self) -> list[int]:
        """The jobs that have to run."""
        return [n for n in range(len(self.overrides)) if n not in self.problems and n not in self.unchanged]

    @property
    def uses_tensorflow(self) -> bool:
        """Whether a job that has to run has a source that runs TensorFlow's Python."""
        return any(self.outlooks[number].uses_tensorflow for number in self.due)

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

    def packed(self, number: int) -> PackedJob:
        """Return a job as its process gets it."""
        if number in self.plain:
            return self._packed_plain(number)
        if number not in self.assigned and self.directory is None:
            plan = self.shelf.file(number) if self.shelf else None
            return PackedJob(number, self.configs[number], Path(self.directories[number]), plan)
        config = self.config(number)
        directory = self.directories[number] if self.directory is None else str(config.hydra.runtime.output_dir)
        return PackedJob(number, pickle.dumps(config, pickle.HIGHEST_PROTOCOL), Path(directory))

    def _packed_plain(self, number: int) -> PackedJob:
        content = self.configs[number]
        plan = self.shelf.file(number) if self.shelf and number not in self.assigned else None
        if number in self.assigned:
            content = pickle.dumps(preflight.with_version(pickle.loads(content), self.assigned[number]))
        directory = self.directories[number] if self.directory is None else self.directory / str(number)
        return PackedJob(number, content, Path(directory), plan, self.overrides[number])

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
    jobs = expand(arguments, launcher.hydra_context.config_loader, params)
    if options.dry_run or not _is_ours(launcher):
        _run(jobs, launcher, options)
        return
    identity.packages()  # read once, for all processes that are forked from this one
    with process_launcher.server(launcher), scratch() as plans:
        _run(jobs, launcher, options, plans)


def _run(jobs: list[list[str]], launcher: ReadyLauncher, options: Options, plans: Path | None = None) -> None:
    view = View()
    fleet = prepare(jobs, launcher, view, options.force, plans)
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


def prepare(jobs: list[list[str]], launcher: ReadyLauncher, view: View, force: bool, plans: Path | None = None) -> Fleet:
    """Compose and plan all jobs, and find those whose version exists.

    Args:
        plans: a directory for their plans, which their processes take; None: they make their own.

    Raises:
        ConfigError: there are no jobs.
    """
    if not jobs:
        raise ConfigError(Problem("sweep", "there are no jobs", "a glob(…) that matches nothing makes none"))
    fleet = Fleet(overrides=jobs, shelf=None if plans is None else Shelf.of(plans, len(jobs)))
    started = time.perf_counter()
    loader = launcher.hydra_context.config_loader
    plan_job = partial(preflight.plan_job, shelf=fleet.shelf)
    direct = direct_jobs.composer(launcher, fleet.shelf) if _is_ours(launcher) else None
    with view.preparing(len(jobs)) as advance:
        for job in compose_all(loader, launcher.config, jobs, plan_job, hydra_app.refusal, direct=direct):
            if job.config:
                fleet.configs[job.number], fleet.directories[job.number] = job.config, job.directory
            if job.plain:
                fleet.plain.add(job.number)
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


def _is_ours(launcher: ReadyLauncher) -> TypeGuard["ProcessLauncher"]:
    return hasattr(launcher, "launch_composed")


def _launch(launcher: ReadyLauncher, fleet: Fleet, view: View) -> None:
    if _is_ours(launcher):
        launcher.launch_composed(map(fleet.packed, fleet.due), view.event, fleet.uses_tensorflow)
        return
    if any(NUMBERED in config for config in fleet.configs.values()):
        fleet.unchanged = {}  # other launchers number their jobs from 0: the numbers are right only if they get all jobs
    jobs = fleet.jobs("not run")
    for number, version in fleet.assigned.items():
        jobs[number].overrides = [*jobs[number].overrides, f"version={version}"]
    engine_side.launch(launcher, [jobs[number] for number in fleet.due], view.recorded)
