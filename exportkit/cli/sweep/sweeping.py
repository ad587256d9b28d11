"""The way of a sweep: expand, compose and check every job, leave out what is there already, launch the rest.

It knows no launcher but by Hydra's interface; exportkit's own takes configs as they were composed here.
"""

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, read_write

from exportkit.cli import hydra_app
from exportkit.cli.sweep import engine_side, job_record, preflight, sweep_record
from exportkit.cli.sweep.composing import compose_all, expand
from exportkit.cli.sweep.preflight import Outlook
from exportkit.cli.sweep.view import View
from exportkit.errors import ConfigError, Problem
from exportkit.version import claim

NUMBERED = b"hydra:job."  # in a pickled config: it asks for its job's number


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep goes.

    Attributes:
        force: export what is unchanged too.
        keep_going: export the good jobs where others cannot be.
        dry_run: stop before the first job.
    """

    force: bool = False
    keep_going: bool = False
    dry_run: bool = False


@dataclass(kw_only=True)
class Fleet:
    """All jobs of a sweep, as they are known before the first one starts."""

    overrides: list[list[str]]
    configs: dict[int, bytes] = field(default_factory=dict)
    outlooks: dict[int, Outlook] = field(default_factory=dict)
    problems: dict[int, list[Problem]] = field(default_factory=dict)
    unchanged: dict[int, int] = field(default_factory=dict)
    assigned: dict[int, int] = field(default_factory=dict)

    @property
    def due(self) -> list[int]:
        """The jobs that have to run."""
        return [n for n in range(len(self.overrides)) if n not in self.problems and n not in self.unchanged]

    def config(self, number: int) -> DictConfig:
        """A job's config; they are kept pickled, which takes a tenth of the memory."""
        config = pickle.loads(self.configs[number])
        if number in self.assigned:
            with read_write(config):
                config.version = self.assigned[number]
        return config

    def told(self) -> list[Problem]:
        """Every problem under its job and what sets that apart from the others."""
        return preflight.told(self.problems, dict(enumerate(sweep_record.apart(self.overrides))))

    def jobs(self, due: str) -> list[job_record.Job]:
        """The record of each job before it starts; of those that have to run the status is `due`."""
        return [self._job(number, words, due) for number, words in enumerate(self.overrides)]

    def _job(self, number: int, words: Sequence[str], due: str) -> job_record.Job:
        outlook = self.outlooks.get(number)
        job = job_record.Job(number=number, overrides=words, status=due)
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


def sweep(arguments: Sequence[str], params: Mapping[str, str], launcher: Launcher, options: Options) -> None:
    """Run the jobs that `arguments` and `params` span.

    Raises:
        ConfigError: a job cannot be composed or planned, or gets into another's way. Nothing was started.
    """
    directory = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    view = View()
    fleet = prepare(expand(arguments, launcher.hydra_context.config_loader, params), launcher, view, options.force)
    if fleet.problems and not options.keep_going:
        raise ConfigError(*fleet.told())
    sweep_record.write_sweep(directory, fleet.jobs("planned" if options.dry_run else "not run"))
    if options.dry_run:
        return
    for base in {outlook.base for outlook in fleet.outlooks.values()}:
        claim.remove_stale(Path(base))  # what a sweep that was killed has left
    if not fleet.due:
        return
    OmegaConf.save(launcher.config, directory / "multirun.yaml")
    with view.launched(fleet.jobs("not run")):
        _launch(launcher, fleet, view)


def prepare(jobs: list[list[str]], launcher: Launcher, view: View, force: bool) -> Fleet:
    """Compose and plan all jobs, and see which are there already."""
    if not jobs:
        raise ConfigError(Problem("sweep", "there are no jobs", "a glob(…) that matches nothing makes none"))
    fleet = Fleet(overrides=jobs)
    started = time.perf_counter()
    loader = launcher.hydra_context.config_loader
    with view.preparing(len(jobs)) as tell:
        for job in compose_all(loader, launcher.config, jobs, preflight.look, hydra_app.refusal):
            if job.config:
                fleet.configs[job.number] = job.config
            if job.error is None:
                fleet.outlooks[job.number] = job.seen
            else:
                fleet.problems[job.number] = list(job.error.problems)
            tell()
    if not force:
        fleet.unchanged = preflight.unchanged(fleet.outlooks)
    fleet.assigned = preflight.assigned(fleet.outlooks, fleet.due)
    for number, problem in [*preflight.clashes(fleet.outlooks), *(preflight.taken(fleet.outlooks) if force else ())]:
        fleet.problems.setdefault(number, []).append(problem)
    view.prepared(len(jobs), len(fleet.unchanged), len(fleet.problems), time.perf_counter() - started)
    return fleet


def _launch(launcher: Launcher, fleet: Fleet, view: View) -> None:
    own = getattr(launcher, "launch_composed", None)
    if own is not None:
        own(((number, fleet.config(number)) for number in fleet.due), view.event)
        return
    if any(NUMBERED in config for config in fleet.configs.values()):
        fleet.unchanged = {}  # others number what they are given from 0: so that numbers are right, they are given all
    jobs = fleet.jobs("not run")
    for number, version in fleet.assigned.items():
        jobs[number].overrides = [*jobs[number].overrides, f"version={version}"]
    engine_side.launch(launcher, [jobs[number] for number in fleet.due], view.recorded)
