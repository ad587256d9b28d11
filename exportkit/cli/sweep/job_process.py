"""A job of a sweep on its way into its process, and in it: what is sent, and how it is run there as Hydra's `run_job` would."""

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core import hydra_config
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.basecontainer import BaseContainer

from exportkit.cli import hydra_app, packed_plan, process, running
from exportkit.cli.direct import stand_in
from exportkit.cli.failures import JobFailed
from exportkit.cli.running import RunningJob
from exportkit.cli.sweep import job_record
from exportkit.errors import EnvironmentFailed, Problem, brief
from exportkit.planning.plain import PlainConfig

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

DIRECTORY_KEY, SUBDIRECTORY_KEY = "hydra.sweep.dir", "hydra.sweep.subdir"


@dataclass(frozen=True)
class PackedJob:
    """A composed job on its way to its process.

    Attributes:
        number: from 0, Hydra's ``hydra.job.num``.
        config: the pickled DictConfig, with its ``hydra`` node; the pickled PlainConfig of a job that Hydra did not compose.
        directory: its output directory.
        plan: the file with its plan (`exportkit.cli.packed_plan`); None: its process makes it.
        overrides: those of a job that Hydra did not compose; None: Hydra did.
    """

    number: int
    config: bytes
    directory: Path
    plan: Path | None = None
    overrides: Sequence[str] | None = None

    def running(self, conf: Sequence[Path] = ()) -> RunningJob:
        """Return what exportkit asks for of a job that Hydra did not compose."""
        return RunningJob(self.number, self.overrides or (), self.directory, conf)


@dataclass(frozen=True)
class _Shared:
    """State that all jobs of a sweep need beside their configs; Hydra's other launchers send the same."""

    context: HydraContext
    function: Callable[[DictConfig | PlainConfig], Any]
    singletons: dict[type, Any]
    resolvers: dict[str, Any]
    master: DictConfig  # the sweep's own config
    conf: Sequence[Path]  # the directories of the user's configs


_inherited: tuple[bytes, _Shared] | None = None
"""The key and the state of the sweep that this process launches, or in which it was forked; the server outlives a sweep."""


@contextmanager
def inherited(launcher: "ProcessLauncher") -> Iterator[None]:
    """Let what is forked from this process have the state that jobs need: it is not unpickled there."""
    global _inherited
    _inherited = os.urandom(8), _state(launcher)
    try:
        yield
    finally:
        _inherited = None


def key() -> bytes:
    """Return the key of the sweep whose state is inherited; empty where none is."""
    return _inherited[0] if _inherited else b""


def shared(launcher: "ProcessLauncher") -> bytes:
    """Return the pickled state of this process that jobs need."""
    return _pickle(_state(launcher))


def output_directory(config: DictConfig) -> Path:
    """Return the directory that `run_job` will set as the job's output directory."""
    _set_hydra_config(config)
    return Path(*(str(OmegaConf.select(config, key)) for key in (DIRECTORY_KEY, SUBDIRECTORY_KEY))).absolute()


def _set_hydra_config(config: DictConfig) -> None:
    """Do as Hydra's `set_config`, without its copy of the node."""
    OmegaConf.set_readonly(config.hydra, True)
    alone = DictConfig({"hydra": config.hydra}, flags={"no_deepcopy_set_nodes": True})
    config.hydra._set_parent(config)  # its interpolations reach the whole config
    HydraConfig.instance().cfg = alone  # type: ignore[assignment]  # Hydra annotates it with its schema


def _state(launcher: "ProcessLauncher") -> _Shared:
    plugins = "Plugins"  # left out: loading them is slow, so only a job that asks for plugins does it
    singletons = {cls: instance for cls, instance in Singleton._instances.items() if cls.__name__ != plugins}
    resolvers = {name: function for name, function in BaseContainer._resolvers.items() if name not in _known_resolvers()}
    conf = hydra_app.directories()
    return _Shared(launcher.hydra_context, launcher.task_function, singletons, resolvers, launcher.config, conf)


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


def run(key: bytes, shared: bytes, job: PackedJob, whole: bool) -> JobReturn:
    """Run a job; called in its own process.

    Args:
        key: of the sweep; a process that was forked in it has the state `shared` already.
        shared: what all jobs need (`shared`).
        job: the job.
        whole: whether to return all that Hydra's launchers return, the configs included.
    """
    process.refuse_breakpoints()
    known = _inherited[1] if _inherited and _inherited[0] == key else _unpacked(shared)
    packed_plan.set_file(job.plan)
    config = pickle.loads(job.config)
    if isinstance(config, PlainConfig):
        done = _run_plain(known, config, job)
    else:
        done = _run_by_hydra(known, config) if whole or _needs_hydra(config) else _run_job(known, config, job)
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


def _run_job(known: _Shared, config: DictConfig, job: PackedJob) -> JobReturn:
    """Run a job as Hydra's `run_job` does, without its four copies of the config: a quarter of the time of a small job."""
    _set_hydra_config(config)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(job.directory)
    job.directory.mkdir(parents=True, exist_ok=True)
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    known.context.callbacks.on_job_start(config=config, task_function=known.function)
    task = _task_config(job)
    done = _called(known, task)
    known.context.callbacks.on_job_end(config=config, job_return=done)
    logging.shutdown()
    return done


def _called(known: _Shared, task: DictConfig | PlainConfig) -> JobReturn:
    """Return what a job's function returns or raises, as Hydra does."""
    done = JobReturn(task_name=JobRuntime.instance().get("name"))
    if isinstance(task, DictConfig):
        done.cfg = task
    try:
        done.return_value, done.status = known.function(task), JobStatus.COMPLETED
    except Exception as error:
        done.return_value, done.status = error, JobStatus.FAILED
    return done


def _run_plain(known: _Shared, task: PlainConfig, job: PackedJob) -> JobReturn:
    """Run a job that Hydra did not compose; where the user's code asks for Hydra's config, it is composed then."""
    running.set_job(job.running(known.conf))
    stand_in.offer_config(hydra_config, lambda: _composed(known, job))
    job.directory.mkdir(parents=True, exist_ok=True)
    stand_in.configure_log()
    done = _called(known, task)
    if done.status == JobStatus.FAILED:
        job_record.record_failure(job.running(), task, str(done._return_value))
    logging.shutdown()
    return done


def _composed(known: _Shared, job: PackedJob) -> DictConfig:
    """Return the whole config of a job as Hydra composes it."""
    config = known.context.config_loader.load_sweep_config(known.master, list(job.overrides or ()))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = job.number
        if Path(str(config.hydra.sweep.dir)).absolute() != job.directory.parent:
            config.hydra.sweep.dir = str(job.directory.parent)  # as the sweep has set it since
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(job.directory)
    return config


def _task_config(job: PackedJob) -> DictConfig:
    """Return a job's config without Hydra's node: to unpickle it again takes less time than to copy it."""
    task = pickle.loads(job.config)
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
