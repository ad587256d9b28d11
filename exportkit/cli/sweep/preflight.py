"""What can be told of a sweep's job before any job starts: its plan, its problems, and whether its version is there already."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from exportkit.cli import hydra_app
from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.exporting.pipeline import publishes
from exportkit.planning.plan import plan
from exportkit.version.claim import exists, numbers
from exportkit.version.identity import identity, is_complete
from exportkit.version.published import identity_of, is_published, newest


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a job would make.

    Attributes:
        identity: of what it would make; None where that is not known, as where a source does not say which files its weights
            come from.
        made: the version of just this number and content that is there already.
        publishes: whether it has steps that run on the visible version.
    """

    name: str
    base: str
    version: int | str
    identity: str | None = None
    made: int | None = None
    publishes: bool = False


def look(number: int, task: DictConfig) -> Outlook:
    """Plan a composed job.

    Raises:
        ExportKitError: as `exportkit.plan`.
    """
    try:
        planned = plan(task, hydra_app.plugins())
    except ConfigError as error:
        return _made(task, error)
    return Outlook(
        name=planned.name,
        base=str(planned.export_dir),
        version=planned.version,
        identity=identity(planned)["sha256"] if is_complete(planned) else None,
        publishes=publishes(planned),
    )


def made_since(task: DictConfig, before: Collection[int]) -> Outlook | None:
    """What the config would make, with the version that is just that and was not there `before`; None where there is none."""
    with suppress(ExportKitError):
        outlook = look(0, task)
        explicit = [] if outlook.made is None else [outlook.made]
        for version in explicit or sorted(numbers(Path(outlook.base)), reverse=True):
            if version not in before and _is(outlook, version):
                return replace(outlook, version=version)
    return None


def _is(outlook: Outlook, version: int) -> bool:
    """Whether a version is what a job would make, with all that comes after."""
    base = Path(outlook.base)
    known = outlook.identity is not None and identity_of(base / str(version)) == outlook.identity
    return known and (not outlook.publishes or is_published(base, version))


def _made(task: DictConfig, error: ConfigError) -> Outlook:
    """The outlook of an explicit version that is refused only for being there already, and is what it would be."""
    version = OmegaConf.select(task, "version")
    if not isinstance(version, int) or [problem.where for problem in error.problems] != ["version"]:
        raise error
    outlook = replace(look(0, OmegaConf.merge(task, {"version": "auto"})), version=version, made=version)
    if not _is(outlook, version):
        raise error
    return outlook


def unchanged(outlooks: Mapping[int, Outlook]) -> dict[int, int]:
    """Job → the version that is already what the job would make.

    A number that the config leaves open is that of one of the newest versions: as far back as this sweep made them.
    """
    found = {number: outlook.made for number, outlook in outlooks.items() if outlook.made is not None}
    of_base = sorted(outlooks, key=lambda number: outlooks[number].base)
    for base, group in groupby(of_base, key=lambda number: outlooks[number].base):
        jobs = {outlooks[n].identity: n for n in group if outlooks[n].identity and n not in found}
        jobs = {i: n for i, n in jobs.items() if isinstance(outlooks[n].version, str)}
        for known, version in newest(Path(base), jobs):
            if not outlooks[jobs[known]].publishes or is_published(Path(base), version):
                found.setdefault(jobs[known], version)
    return found


def assigned(outlooks: Mapping[int, Outlook], due: Collection[int]) -> dict[int, int]:
    """Job → its version's number, for jobs that leave it open below one base path: in their order, whichever ends first.

    A model server serves the largest number; which model that is must not be an accident of a race.
    """
    found = {}
    for base, group in groupby(sorted(due, key=lambda number: (outlooks[number].base, number)), lambda n: outlooks[n].base):
        jobs = [number for number in group if outlooks[number].version == "auto"]
        if len(jobs) > 1:
            first = max(numbers(Path(base)), default=0) + 1
            found |= {number: first + place for place, number in enumerate(jobs)}
    return found


def clashes(outlooks: Mapping[int, Outlook]) -> Iterator[tuple[int, Problem]]:
    """The jobs that would get into the way of an earlier one, and how."""
    first: dict[tuple, int] = {}
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
    """The jobs whose explicit version is there, where it shall be made all the same: a version is never overwritten."""
    for number, outlook in outlooks.items():
        if outlook.made is not None:
            yield from ((number, problem) for problem in exists(Path(outlook.base), outlook.made).problems)


def told(problems: Mapping[int, Sequence[Problem]], overrides: Mapping[int, Sequence[str]]) -> list[Problem]:
    """The problems of all jobs, each under its job and what sets that apart; what many jobs share is said once."""
    jobs: dict[Problem, list[int]] = {}
    for number, found in problems.items():
        for problem in found:
            jobs.setdefault(problem, []).append(number)
    return [Problem(_who(numbers, overrides), str(problem)) for problem, numbers in jobs.items()]


def _who(numbers: Sequence[int], overrides: Mapping[int, Sequence[str]]) -> str:
    first, more = numbers[0], len(numbers) - 1
    words = " ".join(overrides[first])
    return f"job {first}" + (f" ({words})" if words else "") + (f" and {more} more" if more else "")
