"""All jobs of a sweep, composed and looked at before the first starts: each once, in parallel, and told as Hydra would.

Work is shared out to forked processes, which know Hydra's registries and search path without being told. They are forked before
the first job is composed and import no TensorFlow. Threads that the parent has by then (a live view, numpy's) are no danger:
a child composes, reads files and answers through its pipe, and waits for no lock that a thread may have held.
"""

import os
import pickle
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from exportkit.cli.sweep.composition_cache import TemplateLoader
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem

T = TypeVar("T")
ENOUGH = 4  # jobs that are worth a process: fewer are composed before it would have started
BATCH = 4  # jobs handed to a process at once: large enough for a cheap pipe, small enough that all end together


@dataclass(frozen=True)
class Composed(Generic[T]):
    """One job.

    Attributes:
        number: from 0, Hydra's ``hydra.job.num``.
        overrides: what makes this job differ from the others.
        config: the pickled DictConfig, with its ``hydra`` node; empty where it could not be composed.
        seen: what a look at the config found out.
        error: why there is no config, or why the look failed.
    """

    number: int
    overrides: Sequence[str]
    config: bytes = b""
    seen: T | None = None
    error: ExportKitError | None = None


def expand(overrides: Sequence[str], loader: ConfigLoader, params: Mapping[str, str] | None = None) -> list[list[str]]:
    """The jobs of a sweep, as Hydra's own sweeper makes them: every combination, the last override moving fastest.

    Args:
        overrides: of the command line.
        loader: knows the groups that ``glob(*)`` stands for.
        params: ``hydra.sweeper.params``, which overrides replace.

    Raises:
        HydraException: an override cannot be read, or is a sweep that has no end.
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
    look: Callable[[int, DictConfig], T],
    tell: Callable[[Exception], ExportKitError],
    n_jobs: int | None = None,
) -> Iterator[Composed[T]]:
    """Compose every job and look at its config, where the job will get the same one.

    Args:
        loader: the one that composed `master`.
        master: the config of the sweep itself.
        jobs: each one's overrides.
        look: is called with a job's number and config, in any process, under that job's HydraConfig; returns plain data.
        tell: says in exportkit's words what Hydra or `look` raised.
        n_jobs: so many processes at most; default: one for each CPU.

    Yields:
        the jobs in their order, as soon as they are known.

    Raises:
        EnvironmentFailed: a process died.
    """
    composer = _Composer(loader, TemplateLoader(loader.get_search_path()), master, jobs, look, tell)
    processes = min(n_jobs or len(os.sched_getaffinity(0)), len(jobs) // ENOUGH)
    if processes < 2:
        yield from map(composer.compose, range(len(jobs)))
    else:
        yield from _in_order(_in_parallel(composer, processes))


@dataclass(frozen=True)
class _Composer(Generic[T]):
    loader: ConfigLoader
    templates: TemplateLoader
    master: DictConfig
    jobs: Sequence[Sequence[str]]
    look: Callable[[int, DictConfig], T]
    tell: Callable[[Exception], ExportKitError]

    def compose(self, number: int) -> Composed[T]:
        overrides, config = self.jobs[number], b""
        try:
            composed = self._composed(list(overrides))
            with open_dict(composed):
                composed.hydra.job.id = composed.hydra.job.num = number
            config = pickle.dumps(composed, pickle.HIGHEST_PROTOCOL)
            with _job(composed) as task:
                return Composed(number, overrides, config, self.look(number, task))
        except Exception as error:
            return Composed(number, overrides, config, error=self.tell(error))

    def _composed(self, overrides: list[str]) -> DictConfig:
        """From a template; what that does not manage is Hydra's, to compose or to refuse."""
        with suppress(Exception):
            return self.templates.load_sweep_config(self.master, overrides)
        return self.loader.load_sweep_config(self.master, overrides)

    def shares(self, count: int) -> list[deque[int]]:
        """The numbers for each of so many processes: jobs of one template go to the same, unless that were too many."""
        groups: dict[object, list[int]] = {}
        most = -(-len(self.jobs) // count)
        for number, overrides in enumerate(self.jobs):
            key = self.templates.choices(self.master, overrides)
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
    """What a job is called with, and HydraConfig as it will be then; `config` is used up."""
    current = HydraConfig.instance()
    before, current.cfg = current.cfg, config
    try:
        hydra = config.hydra
        with read_write(hydra.runtime), open_dict(hydra.runtime):
            hydra.runtime.output_dir = os.path.abspath(os.path.join(str(hydra.sweep.dir), str(hydra.sweep.subdir)))
        with read_write(config), open_dict(config):
            del config["hydra"]
        OmegaConf.set_readonly(hydra, True)
        current.cfg = DictConfig({"hydra": hydra}, flags={"no_deepcopy_set_nodes": True})
        yield config
    finally:
        current.cfg = before


def _in_order(jobs: Iterable[Composed[T]]) -> Iterator[Composed[T]]:
    early: dict[int, Composed[T]] = {}
    following = 0
    for job in jobs:
        early[job.number] = job
        while following in early:
            yield early.pop(following)
            following += 1


def _in_parallel(composer: _Composer[T], count: int) -> Iterator[Composed[T]]:
    """The jobs as they come. A process that has done its share takes from the end of the longest."""
    shares = composer.shares(count)
    with _processes(composer, count) as processes:
        given: dict[Connection, list[int]] = {}

        def give(connection: Connection) -> None:
            own = shares[list(processes).index(connection)]
            share, take = (own, own.popleft) if own else (longest := max(shares, key=len), longest.pop)
            given[connection] = sorted(take() for _ in range(min(BATCH, len(share))))
            if given[connection]:
                with suppress(BrokenPipeError, ConnectionResetError):  # it died while it had nothing to do: told by its end
                    connection.send(given[connection])

        for connection in processes:
            give(connection)
        while busy := [connection for connection, numbers in given.items() if numbers]:
            for connection in wait(busy):
                try:
                    done = connection.recv()
                except (EOFError, OSError):
                    raise _died(processes[connection], given[connection]) from None
                give(connection)
                yield from done


@contextmanager
def _processes(composer: _Composer, count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """So many processes by the pipes to them; none is left behind."""
    context = get_context("fork")
    processes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(composer, theirs, [ours, *processes]), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's on threads: see above
                process.start()
            theirs.close()
            processes[ours] = process
        yield processes
    finally:
        for connection, process in processes.items():
            process.kill()
            process.join()
            connection.close()


def _serve(composer: _Composer, connection: Connection, others: Iterable[Connection]) -> None:
    """A process's life: batches of numbers in, composed jobs out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()  # or nobody would see its end
    try:
        while True:
            connection.send([composer.compose(number) for number in connection.recv()])
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _died(process: BaseProcess, numbers: Sequence[int]) -> EnvironmentFailed:
    process.join()
    code = process.exitcode or 0
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    where = f"one of jobs {', '.join(map(str, numbers))}" if len(numbers) > 1 else f"job {numbers[0]}"
    do = "choose a smaller hydra.launcher.n_jobs if memory ran out"
    return EnvironmentFailed(Problem(where, f"the process that composed it {end}", do))
