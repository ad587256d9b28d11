"""Checks of a sweep's jobs before the first one starts: their plans, their problems, and whether their versions exist."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from omegaconf import DictConfig, read_write

from exportkit.cli import hydra_app
from exportkit.cli.export_run import value_at
from exportkit.cli.packed_plan import Shelf
from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.exporting.pipeline import publishes
from exportkit.planning.plain import PlainConfig
from exportkit.planning.plan import plan
from exportkit.version.claim import exists, numbers
from exportkit.version.identity import identity, is_complete
from exportkit.version.published import identity_of, is_published, newest


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The version that a job would make.

    Attributes:
        identity: the hash of the version's content (`exportkit.version.identity`); None where it is not known, for example
            because a source does not name the files of its weights.
        made: the number of a version that exists already and equals this one; None if there is none, or it was not looked for.
        publishes: whether the job has steps that run on the visible version.
        uses_tensorflow: whether its sources run TensorFlow's Python.
    """

    name: str
    base: str
    version: int | str
    identity: str | None = None
    made: int | None = None
    publishes: bool = False
    uses_tensorflow: bool = True


def plan_job(number: int, task: DictConfig | PlainConfig, shelf: Shelf | None = None) -> Outlook:
    """Plan a composed job.

    Args:
        shelf: where its process finds the plan; None: it makes its own, as does one that has TensorFlow's Python.

    Raises:
        ExportKitError: the job cannot be planned (`exportkit.planning.plan.plan`).
    """
    try:
        planned = plan(task, hydra_app.plugins(), hydra_app.directories())
    except ConfigError as error:
        return _existing_version(task, error)
    if shelf is not None and not planned.uses_tensorflow:
        shelf.put(number, planned)
    return Outlook(
        name=planned.name,
        base=str(planned.export_dir),
        version=planned.version,
        identity=identity(planned)["sha256"] if is_complete(planned) else None,
        publishes=publishes(planned),
        uses_tensorflow=planned.uses_tensorflow,
    )


def made_since(task: DictConfig | PlainConfig, before: Collection[int]) -> Outlook | None:
    """Return the outlook of a config with an existing version that equals it and is not one of `before`, or None."""
    with suppress(ExportKitError):
        outlook = plan_job(0, task)
        explicit = [] if outlook.made is None else [outlook.made]
        for version in explicit or sorted(numbers(Path(outlook.base)), reverse=True):
            if version not in before and _equals(outlook, version):
                return replace(outlook, version=version, made=version)
    return None


def _equals(outlook: Outlook, version: int) -> bool:
    """Return whether an existing version is what a job would make, and the steps after its publication have run."""
    base = Path(outlook.base)
    known = outlook.identity is not None and identity_of(base / str(version)) == outlook.identity
    return known and (not outlook.publishes or is_published(base, version))


def _existing_version(task: DictConfig | PlainConfig, error: ConfigError) -> Outlook:
    """Return the outlook of a job whose only problem is that its explicit version exists, if that is what it would make.

    Raises:
        ConfigError: `error`, in all other cases.
    """
    version = value_at(task, "version")
    if not isinstance(version, int) or [problem.where for problem in error.problems] != ["version"]:
        raise error
    outlook = replace(plan_job(0, with_version(task, "auto")), version=version, made=version)
    if not _equals(outlook, version):
        raise error
    return outlook


def with_version(task: DictConfig | PlainConfig, version: int | str) -> DictConfig | PlainConfig:
    """Return a copy of a config with another version."""
    if isinstance(task, PlainConfig):
        return PlainConfig({**task, "version": version})
    changed = copy.deepcopy(task)
    with read_write(changed):
        changed.version = version
    return changed


def unchanged(outlooks: Mapping[int, Outlook]) -> dict[int, int]:
    """Return job number → the number of an existing version that equals what the job would make.

    For a job that leaves its version's number open, only the newest versions are compared, as many as there are such jobs.
    """
    found = {number: outlook.made for number, outlook in outlooks.items() if outlook.made is not None}
    of_base = sorted(outlooks, key=lambda number: outlooks[number].base)
    for base, group in groupby(of_base, key=lambda number: outlooks[number].base):
        jobs = {known: n for n in group if (known := outlooks[n].identity) and n not in found}
        jobs = {i: n for i, n in jobs.items() if isinstance(outlooks[n].version, str)}
        for known, version in newest(Path(base), jobs):
            if not outlooks[jobs[known]].publishes or is_published(Path(base), version):
                found.setdefault(jobs[known], version)
    return found


def assigned(outlooks: Mapping[int, Outlook], due: Collection[int]) -> dict[int, int]:
    """Return job number → version number, for jobs below one base path that leave it open: in the order of the jobs.

    A model server serves the largest number; which model that is must not depend on which job ends first.
    """
    found: dict[int, int] = {}
    for base, group in groupby(sorted(due, key=lambda number: (outlooks[number].base, number)), lambda n: outlooks[n].base):
        jobs = [number for number in group if outlooks[number].version == "auto"]
        if len(jobs) > 1:
            first = max(numbers(Path(base)), default=0) + 1
            found |= {number: first + place for place, number in enumerate(jobs)}
    return found


def clashes(outlooks: Mapping[int, Outlook]) -> Iterator[tuple[int, Problem]]:
    """Yield each job that would make the same version as an earlier one, with the problem."""
    first: dict[tuple[str, int | str], int] = {}
    key: tuple[str, int | str]
    for number, outlook in sorted(outlooks.items()):
        if isinstance(outlook.version, int):
            key, what = (outlook.base, outlook.version), f"is also made by job {{}}, below {outlook.base}"
            where, do = f"version {outlook.version}", "sweep over export_dir or version too"
        elif outlook.identity:
            key, what = (outlook.base, outlook.identity), f"job {{}} exports the same to {outlook.base}"
            where, do = "sweep", "leave one of them out"
        else:
            continue
        earlier = first.setdefault(key, number)
        if earlier != number:
            yield number, Problem(where, what.format(earlier), do)


def taken(outlooks: Mapping[int, Outlook]) -> Iterator[tuple[int, Problem]]:
    """Yield each job whose explicit version exists, with the problem: even a forced sweep never overwrites a version."""
    for number, outlook in outlooks.items():
        if outlook.made is not None:
            yield from ((number, problem) for problem in exists(Path(outlook.base), outlook.made).problems)


def group_problems(problems: Mapping[int, Sequence[Problem]], overrides: Mapping[int, Sequence[str]]) -> list[Problem]:
    """Return the problems of all jobs, each placed under its job and that job's overrides; a problem of several jobs once."""
    jobs: dict[Problem, list[int]] = {}
    for number, found in problems.items():
        for problem in found:
            jobs.setdefault(problem, []).append(number)
    return [Problem(_describe_jobs(numbers, overrides), str(problem)) for problem, numbers in jobs.items()]


def _describe_jobs(numbers: Sequence[int], overrides: Mapping[int, Sequence[str]]) -> str:
    first, more = numbers[0], len(numbers) - 1
    words = " ".join(overrides[first])
    return f"job {first}" + (f" ({words})" if words else "") + (f" and {more} more" if more else "")
