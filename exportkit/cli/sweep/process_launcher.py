"""Hydra's jobs, each in its own process: the launcher ``exportkit``, in the parent and in the job's process."""

import copy
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.basecontainer import BaseContainer

from exportkit import processes
from exportkit.cli import packed_plan, process
from exportkit.cli.failures import JobFailed
from exportkit.cli.hydra_app import task_config
from exportkit.cli.sweep.job_record import task_overrides
from exportkit.errors import ConfigError, EnvironmentFailed, Problem, brief
from exportkit.processes import Died, Ended, Event, Task
from exportkit.processes.sandbox import installation

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

LAUNCHER = "hydra_plugins.exportkit.ProcessLauncher"
LOG = "output.log"
DIRECTORY_KEY, SUBDIRECTORY_KEY = "hydra.sweep.dir", "hydra.sweep.subdir"

log = logging.getLogger(__name__)
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class PackedJob:
    """A composed job on its way to its process.

    Attributes:
        number: from 0, Hydra's ``hydra.job.num``.
        config: the pickled DictConfig, with its ``hydra`` node.
        directory: its output directory.
        plan: the file with its plan (`exportkit.cli.packed_plan`); None: its process makes it.
    """

    number: int
    config: bytes
    directory: Path
    plan: Path | None = None


def launch(launcher: "ProcessLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Compose jobs, each just before its process starts, run them, and return their results in the order of the jobs."""
    setup_globals()
    _configure_log(launcher)
    log.info("Launching %d jobs", len(job_overrides))

    def composed() -> Iterator[PackedJob]:
        for number, overrides in enumerate(job_overrides, first):
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            yield PackedJob(number, pickle.dumps(config), _output_directory(config))

    tasks = _Tasks(_shared(launcher), composed())
    returns = dict(_returned(launcher, tasks, _Lines(job_overrides, first), _may_use_tensorflow(launcher)))
    return [returns[number] for number in sorted(returns)]


def _may_use_tensorflow(launcher: "ProcessLauncher") -> bool:
    """Return whether jobs may run TensorFlow's Python: they are exports, or jobs of an application that has imported it."""
    return "source" in launcher.config.keys() or "tensorflow" in sys.modules  # noqa: SIM118 - what is ??? is a key too


def launch_composed(
    launcher: "ProcessLauncher", composed: Iterable[PackedJob], on_event: OnEvent, uses_tensorflow: bool
) -> None:
    """Run composed jobs. Their results are in their records and events; nothing else is kept, as there may be thousands.

    Args:
        uses_tensorflow: whether a job's source runs TensorFlow's Python: then a server that has imported that takes the place
            of the one that `server` forked.
    """
    if uses_tensorflow:
        processes.end_server()
    tasks = _Tasks(_shared(launcher), composed, whole=False, key=_inherited[0] if _inherited else b"")
    for _ in _returned(launcher, tasks, on_event, uses_tensorflow):
        pass


@contextmanager
def server(launcher: "ProcessLauncher") -> Iterator[None]:
    """Fork the server of jobs from this process, where that is safe, so that a job finds done what was done here by now.

    Call it while this process has one thread, and before a job is planned: no state of one model reaches another's job.
    """
    global _inherited
    _inherited = os.urandom(8), _state(launcher)
    installation()  # looked for once, on this process's path
    try:
        with processes.prestarted(preload(uses_tensorflow=False)):
            yield
    finally:
        _inherited = None


def preload(uses_tensorflow: bool) -> tuple[str, ...]:
    """Return the modules that the server of jobs imports, with TensorFlow's Python or without."""
    return ("exportkit.cli.sweep.preload_tensorflow" if uses_tensorflow else "exportkit.cli.sweep.preload",)


def _returned(
    launcher: "ProcessLauncher", tasks: "_Tasks", on_event: OnEvent, uses_tensorflow: bool
) -> Iterator[tuple[int, JobReturn]]:
    """Run jobs, and yield the number and the result of each when it ends."""
    check_options(launcher)
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    with closing(processes.run(tasks, launcher.n_jobs, launcher.timeout, preload(uses_tensorflow))) as events:
        for event in events:
            if isinstance(event, Ended | Died):
                job = tasks.running.pop(event.number)
                if isinstance(event, Died):
                    yield event.number, _failed_return(launcher.hydra_context, job, event)
                else:
                    yield event.number, event.value
            on_event(event)
    _configure_log(launcher)


class _Tasks:
    """The jobs as tasks, to be iterated over once.

    Args:
        shared: what all jobs need, pickled.
        jobs: taken one by one, each when its process can be started.
        whole: whether a job returns all that Hydra's launchers return, its configs included.
        key: of the sweep; a job's process that was forked in it has `shared` already.

    Attributes:
        running: the jobs that have not ended, by number.
    """

    def __init__(self, shared: bytes, jobs: Iterable[PackedJob], whole: bool = True, key: bytes = b""):
        self._key, self._shared, self._jobs, self._whole = key, shared, jobs, whole
        self.running: dict[int, PackedJob] = {}

    def __iter__(self) -> Iterator[Task]:
        for job in self._jobs:
            self.running[job.number] = job
            yield Task(job.number, _run, (self._key, self._shared, job, self._whole), job.directory / LOG)


def _output_directory(config: DictConfig) -> Path:
    """Return the directory that `run_job` will set as the job's output directory."""
    _set_hydra_config(config)
    return Path(*(str(OmegaConf.select(config, key)) for key in (DIRECTORY_KEY, SUBDIRECTORY_KEY))).absolute()


def _set_hydra_config(config: DictConfig) -> None:
    """Do as Hydra's `set_config`, without its copy of the node."""
    OmegaConf.set_readonly(config.hydra, True)
    alone = DictConfig({"hydra": config.hydra}, flags={"no_deepcopy_set_nodes": True})
    config.hydra._set_parent(config)  # its interpolations reach the whole config
    HydraConfig.instance().cfg = alone  # type: ignore[assignment]  # Hydra annotates it with its schema


def _failed_return(context: HydraContext, job: PackedJob, died: Died) -> JobReturn:
    """Return Hydra's result of a job whose process died, and call the callbacks for its end, which the job could not do."""
    config = pickle.loads(job.config)
    HydraConfig.instance().set_config(config)
    task = task_config(config)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(job.directory)
    failed = JobReturn(
        overrides=task_overrides(config.hydra),
        cfg=task,
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        task_name=JobRuntime.instance().get("name"),
        status=JobStatus.FAILED,
    )
    failed.return_value = JobFailed(died.death.describe("hydra.launcher.timeout"))
    context.callbacks.on_job_end(config=config, job_return=failed)
    return failed


def check_options(launcher: "ProcessLauncher | DictConfig") -> None:
    """Check the launcher's numbers.

    Raises:
        ConfigError: one is not positive.
    """
    for key, value in (("n_jobs", launcher.n_jobs), ("timeout", launcher.timeout)):
        if value is not None and value <= 0:
            raise ConfigError(Problem(f"hydra.launcher.{key}", f"is {value}", "write a positive number, or null"))


def _configure_log(launcher: "ProcessLauncher") -> None:
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)


class _Lines:
    """Logs a line for each job that has ended."""

    def __init__(self, job_overrides: Sequence[Sequence[str]], first: int):
        self._overrides, self._first, self._done = job_overrides, first, 0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Ended | Died):
            return
        self._done += 1
        what = "done" if isinstance(event, Ended) and event.value.status == JobStatus.COMPLETED else "failed"
        overrides = " ".join(filter_overrides(self._overrides[event.number - self._first]))
        log.info("[%d/%d] %s: %s in %.1f s", self._done, len(self._overrides), overrides, what, event.seconds)


# What is sent to the jobs' processes, and their side


@dataclass(frozen=True)
class _Shared:
    """State that all jobs of a sweep need beside their configs; Hydra's other launchers send the same."""

    context: HydraContext
    function: Callable[[DictConfig], Any]
    singletons: dict[type, Any]
    resolvers: dict[str, Any]


_inherited: tuple[bytes, _Shared] | None = None
"""The key and the state of the sweep that this process launches, or in which it was forked; the server outlives a sweep."""


def _shared(launcher: "ProcessLauncher") -> bytes:
    """Return the pickled state of this process that jobs need."""
    return _pickle(_state(launcher))


def _state(launcher: "ProcessLauncher") -> _Shared:
    plugins = "Plugins"  # left out: loading them is slow, so only a job that asks for plugins does it
    singletons = {cls: instance for cls, instance in Singleton._instances.items() if cls.__name__ != plugins}
    resolvers = {name: function for name, function in BaseContainer._resolvers.items() if name not in _known_resolvers()}
    return _Shared(launcher.hydra_context, launcher.task_function, singletons, resolvers)


def _known_resolvers() -> set[str]:
    """Return the names of OmegaConf's own resolvers and those of `setup_globals`: a new process has them."""
    return {name for name in BaseContainer._resolvers if name.startswith("oc.")} | {"hydra", "now", "python_version"}


def _pickle(shared: _Shared) -> bytes:
    """Pickle `shared`; with cloudpickle if it holds what cannot be imported by name: a closure, a resolver, the main script.

    Raises:
        EnvironmentFailed: cloudpickle is needed and not installed.
    """
    try:
        content = pickle.dumps(shared)
        if b"__main__" not in content:
            return content
        problem = "is of the main script"
    except Exception as error:
        problem = f"cannot be pickled: {brief(error)}"
    try:
        import cloudpickle
    except ImportError:
        name = getattr(shared.function, "__qualname__", repr(shared.function))
        raise EnvironmentFailed(Problem(name, problem, "install cloudpickle, or move it into a module")) from None
    return cloudpickle.dumps(shared)


def _run(key: bytes, shared: bytes, job: PackedJob, whole: bool) -> JobReturn:
    """Run a job; called in its own process."""
    process.refuse_breakpoints()
    known = _inherited[1] if _inherited and _inherited[0] == key else _unpacked(shared)
    packed_plan.set_file(job.plan)
    config = pickle.loads(job.config)
    done = _run_by_hydra(known, config) if whole or _needs_hydra(config) else _run_job(known, config)
    if done.status == JobStatus.FAILED:
        done.return_value = _printed_error(done._return_value)
    return done if whole else replace(done, cfg=None, hydra_cfg=None)


def _run_by_hydra(known: _Shared, config: DictConfig) -> JobReturn:
    return run_job(
        task_function=known.function,
        config=config,
        job_dir_key=DIRECTORY_KEY,
        job_subdir_key=SUBDIRECTORY_KEY,
        hydra_context=known.context,
    )


def _needs_hydra(config: DictConfig) -> bool:
    """Return whether a job changes the working directory or the environment, or has its configs written beside its output."""
    job = config.hydra.job
    return bool(job.chdir or job.env_set) or config.hydra.output_subdir is not None


def _run_job(known: _Shared, config: DictConfig) -> JobReturn:
    """Run a job as Hydra's `run_job` does, without its four copies of the config: a quarter of the time of a small job."""
    directory = _output_directory(config)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)
    directory.mkdir(parents=True, exist_ok=True)
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    known.context.callbacks.on_job_start(config=config, task_function=known.function)
    task = _copy_without_hydra(config)
    done = JobReturn(cfg=task, task_name=JobRuntime.instance().get("name"))
    try:
        done.return_value, done.status = known.function(task), JobStatus.COMPLETED
    except Exception as error:
        done.return_value, done.status = error, JobStatus.FAILED
    known.context.callbacks.on_job_end(config=config, job_return=done)
    logging.shutdown()
    return done


def _copy_without_hydra(config: DictConfig) -> DictConfig:
    """Return a copy of a config without Hydra's node, which is not copied to be left out."""
    hydra = config.hydra
    task = copy.deepcopy(config, {id(hydra): hydra})
    with read_write(task), open_dict(task):
        del task["hydra"]
    return task


def _unpacked(shared: bytes) -> _Shared:
    """Set Hydra's state in this process, which was not forked from one that has it."""
    setup_globals()
    known: _Shared = pickle.loads(shared)
    Singleton._instances.update(known.singletons)
    BaseContainer._resolvers.update(known.resolvers)
    return known


def _printed_error(error: Exception) -> Exception:
    """Print the traceback of `error` to the job's log, and return an error that the parent can unpickle."""
    traceback.print_exception(error)
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return JobFailed(brief(error))
