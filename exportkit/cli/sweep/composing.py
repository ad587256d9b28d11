"""All jobs of a sweep, composed and inspected before the first starts: each once, in parallel, with the same result as Hydra.

The work is spread over forked processes (`exportkit.processes.pool`), which inherit Hydra's registries and search path. Threads
that the parent has by then (a live view, NumPy's) are harmless: a child composes, reads files and answers through its pipe, and
waits for no lock that a thread may have held.
"""

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Generic, Protocol, TypeVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from exportkit.cli.sweep.composition_cache import Composition, composition
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem
from exportkit.processes import pool
from exportkit.processes.death import Death

T = TypeVar("T")
ENOUGH = 4  # jobs that justify a process: fewer are composed before it would have started
BATCH = 4  # jobs sent to a process at once: enough to keep the pipe cheap, few enough that all processes end together


@dataclass(frozen=True)
class Composed(Generic[T]):
    """A composed job.

    Attributes:
        number: from 0, Hydra's ``hydra.job.num``.
        overrides: the job's overrides.
        config: the pickled DictConfig, with its ``hydra`` node; empty where it could not be composed.
        plain: whether Hydra did not compose it; then `config` is a pickled PlainConfig.
        directory: the job's output directory, absolute.
        result: what the inspection of the config returned.
        error: why the config could not be composed, or why its inspection failed.
    """

    number: int
    overrides: Sequence[str]
    config: bytes = b""
    directory: str = ""
    result: T | None = None
    error: ExportKitError | None = None
    plain: bool = False


class Direct(Protocol[T]):
    """Composes jobs without Hydra, and inspects them, in any process."""

    def composes(self, overrides: Sequence[str]) -> bool:
        """Return whether a job with these overrides is composed without Hydra."""

    def compose(self, number: int, overrides: Sequence[str]) -> Composed[T] | None:
        """Return a job; None where Hydra has to compose it, or to report what is wrong with it."""


def expand(overrides: Sequence[str], loader: ConfigLoader, params: Mapping[str, str] | None = None) -> list[list[str]]:
    """Return the overrides of each job of a sweep, as Hydra's own sweeper does: all combinations, the last override fastest.

    Args:
        overrides: the overrides of the command line.
        loader: resolves the groups that ``glob(*)`` stands for.
        params: ``hydra.sweeper.params``; overrides replace them.

    Raises:
        HydraException: an override cannot be parsed, or is a sweep without an end.
    """
    parsed = OverridesParser.create(loader).parse_overrides(
        [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
    )
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return jobs


def compose_all(
    loader: ConfigLoader,
    master: DictConfig,
    jobs: Sequence[Sequence[str]],
    inspect: Callable[[int, DictConfig], T],
    convert_error: Callable[[Exception], ExportKitError],
    n_jobs: int | None = None,
    direct: "Direct[T] | None" = None,
) -> Iterator[Composed[T]]:
    """Compose every job and inspect its config, the same one that the job will get.

    Args:
        loader: the loader that composed `master`.
        master: the config of the sweep itself.
        jobs: the overrides of each job.
        inspect: called with a job's number and config, in any process, under that job's HydraConfig; returns plain data.
        convert_error: turns an exception of Hydra or `inspect` into one of exportkit.
        n_jobs: the maximal number of processes; default: one for each CPU.
        direct: composes jobs without Hydra, and inspects them.

    Yields:
        The jobs in their order, each as soon as it and all before it are done.

    Raises:
        EnvironmentFailed: a process died.
    """
    composer = _Composer(partial(composition, loader, master, jobs), jobs, inspect, convert_error, direct)
    composer.prepare()
    processes = min(n_jobs or len(os.sched_getaffinity(0)), len(jobs) // ENOUGH)
    if processes < 2:
        yield from map(composer.compose, range(len(jobs)))
    else:
        yield from _in_order(_in_parallel(composer, processes))


@dataclass(frozen=True)
class _Composer(Generic[T]):
    make_composition: Callable[[], Composition]
    jobs: Sequence[Sequence[str]]
    inspect: Callable[[int, DictConfig], T]
    convert_error: Callable[[Exception], ExportKitError]
    direct: "Direct[T] | None" = None

    @cached_property
    def composition(self) -> Composition:
        return self.make_composition()

    @cached_property
    def first_is_direct(self) -> bool:
        """Whether the first job is composed without Hydra, and so, presumably, are the others."""
        return self.direct is not None and self.direct.composes(self.jobs[0])

    def prepare(self) -> None:
        """Make before a fork what all processes need."""
        if not self.first_is_direct:
            self.composition  # noqa: B018 - it is kept

    def compose(self, number: int) -> Composed[T]:
        overrides, config, directory = self.jobs[number], b"", ""
        if self.direct is not None and (done := self.direct.compose(number, overrides)) is not None:
            return done
        try:
            composed = self.composition.compose(overrides)
            with open_dict(composed):
                composed.hydra.job.id = composed.hydra.job.num = number
            config = pickle.dumps(composed, pickle.HIGHEST_PROTOCOL)
            with _job(composed) as task:
                directory = HydraConfig.get().runtime.output_dir
                return Composed(number, overrides, config, directory, self.inspect(number, task))
        except Exception as error:
            return Composed(number, overrides, config, directory, error=self.convert_error(error))

    def compose_batch(self, numbers: Sequence[int]) -> list[Composed[T]]:
        return [self.compose(number) for number in numbers]

    def shares(self, count: int) -> list[deque[int]]:
        """Divide the job numbers among `count` processes.

        Jobs with the same choices of config groups go to one process, but no more than an even share of all jobs.
        """
        groups: dict[object, list[int]] = {}
        most = -(-len(self.jobs) // count)
        for number, overrides in enumerate(self.jobs):
            key = () if self.first_is_direct else self.composition.choices(overrides)
            part = 0
            while len(groups.setdefault((key, part), [])) == most:
                part += 1
            groups[key, part].append(number)
        shares: list[list[int]] = [[] for _ in range(count)]
        for group in groups.values():
            min(shares, key=len).extend(group)
        return [deque(sorted(share)) for share in shares]


@contextmanager
def _job(config: DictConfig) -> Iterator[DictConfig]:
    """Yield the config that a job is called with, under the HydraConfig that it will have; modifies `config`."""
    current = HydraConfig.instance()
    before = current.cfg
    current.cfg = config  # type: ignore[assignment]  # Hydra annotates it with its schema, and sets a DictConfig
    try:
        hydra = config.hydra
        with read_write(hydra.runtime), open_dict(hydra.runtime):
            hydra.runtime.output_dir = os.path.abspath(os.path.join(str(hydra.sweep.dir), str(hydra.sweep.subdir)))
        with read_write(config), open_dict(config):
            del config["hydra"]
        OmegaConf.set_readonly(hydra, True)
        own = DictConfig({"hydra": hydra}, flags={"no_deepcopy_set_nodes": True})
        current.cfg = own  # type: ignore[assignment]
        yield config
    finally:
        current.cfg = before


def _in_order(jobs: Iterable[Composed[T]]) -> Iterator[Composed[T]]:
    """Yield the jobs by their numbers, each as soon as all before it have come."""
    early: dict[int, Composed[T]] = {}
    following = 0
    for job in jobs:
        early[job.number] = job
        while following in early:
            yield early.pop(following)
            following += 1


def _in_parallel(composer: _Composer[T], count: int) -> Iterator[Composed[T]]:
    """Yield the jobs as they come. A process that has done its share takes jobs from the end of the longest share."""
    shares = composer.shares(count)
    with pool.forked(composer.compose_batch, count) as processes:
        pending: dict[int, list[int]] = {}

        def send_batch(member: int) -> None:
            own = shares[member]
            share, take = (own, own.popleft) if own else (longest := max(shares, key=len), longest.pop)
            pending[member] = sorted(take() for _ in range(min(BATCH, len(share))))
            if pending[member]:
                processes.send(member, pending[member])

        for member in range(count):
            send_batch(member)
        for member, done in processes.replies():
            if isinstance(done, Death):
                raise _death_error(done, pending[member])
            send_batch(member)
            yield from done


def _death_error(death: Death, numbers: Sequence[int]) -> EnvironmentFailed:
    """Return the error of a process that died while it composed the jobs `numbers`."""
    where = f"one of jobs {', '.join(map(str, numbers))}" if len(numbers) > 1 else f"job {numbers[0]}"
    do = "choose a smaller hydra.launcher.n_jobs if memory ran out"
    return EnvironmentFailed(Problem(where, f"the process that composed it {death}", do))
