"""Hydra's jobs, each in its own process: the launcher ``exportkit``, in the parent and in the job's process."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.basecontainer import BaseContainer

from exportkit import processes
from exportkit.cli import handover
from exportkit.cli.hydra_app import JobFailed, task_config
from exportkit.cli.sweep.job_record import task_overrides
from exportkit.errors import ConfigError, EnvironmentFailed, Problem, brief
from exportkit.processes import Died, Ended, Event, Task

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

LAUNCHER = "hydra_plugins.exportkit.ProcessLauncher"
LOG = "output.log"
DIRECTORY_KEY, SUBDIRECTORY_KEY = "hydra.sweep.dir", "hydra.sweep.subdir"

log = logging.getLogger(__name__)
OnEvent = Callable[[Event], None]


def launch(launcher: "ProcessLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Compose jobs, each just before its process starts, run them, and return their results in the order of the jobs."""
    setup_globals()
    _configure_log(launcher)
    log.info("Launching %d jobs", len(job_overrides))

    def composed() -> Iterator[tuple[int, DictConfig]]:
        for number, overrides in enumerate(job_overrides, first):
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            yield number, config

    returns = dict(_returned(launcher, composed(), _Lines(job_overrides, first)))
    return [returns[number] for number in sorted(returns)]


def launch_composed(
    launcher: "ProcessLauncher", composed: Iterable[tuple[int, DictConfig]], on_event: OnEvent, uses_tensorflow: bool
) -> None:
    """Run composed jobs. Their results are in their records and events; nothing else is kept, as there may be thousands.

    Args:
        uses_tensorflow: whether a job's source runs TensorFlow's Python.
    """
    for _ in _returned(launcher, composed, on_event, uses_tensorflow):
        pass


def preload(uses_tensorflow: bool) -> tuple[str, ...]:
    """Return the modules that the server of jobs imports, with TensorFlow's Python or without."""
    return ("exportkit.cli.sweep.preload_tensorflow" if uses_tensorflow else "exportkit.cli.sweep.preload",)


def _returned(
    launcher: "ProcessLauncher",
    composed: Iterable[tuple[int, DictConfig]],
    on_event: OnEvent,
    uses_tensorflow: bool = True,
) -> Iterator[tuple[int, JobReturn]]:
    """Run jobs, and yield the number and the result of each when it ends."""
    check_options(launcher)
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    running: dict[int, DictConfig] = {}
    tasks = _tasks(_shared(launcher), composed, running)
    with closing(processes.run(tasks, launcher.n_jobs, launcher.timeout, preload(uses_tensorflow))) as events:
        for event in events:
            if isinstance(event, Ended | Died):
                config = running.pop(event.number)
                if isinstance(event, Died):
                    yield event.number, _failed_return(launcher.hydra_context, config, event)
                else:
                    yield event.number, event.value
            on_event(event)
    _configure_log(launcher)


def _tasks(shared: bytes, composed: Iterable[tuple[int, DictConfig]], running: dict[int, DictConfig]) -> Iterator[Task]:
    """Yield the jobs as tasks; `running` holds the config of each until it ends."""
    for number, config in composed:
        running[number] = config
        yield Task(number, _run, (shared, config), _output_directory(config) / LOG)


def _output_directory(config: DictConfig) -> Path:
    """Return the directory that `run_job` will set as the job's output directory."""
    HydraConfig.instance().set_config(config)
    return Path(*(str(OmegaConf.select(config, key)) for key in (DIRECTORY_KEY, SUBDIRECTORY_KEY))).absolute()


def _failed_return(context: HydraContext, config: DictConfig, died: Died) -> JobReturn:
    """Return Hydra's result of a job whose process died, and call the callbacks for its end, which the job could not do."""
    task = task_config(config)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(_output_directory(config))
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


def _shared(launcher: "ProcessLauncher") -> bytes:
    """Return the pickled state of this process that jobs need."""
    plugins = "Plugins"  # left out: loading them is slow, so only a job that asks for plugins does it
    singletons = {cls: instance for cls, instance in Singleton._instances.items() if cls.__name__ != plugins}
    resolvers = {name: function for name, function in BaseContainer._resolvers.items() if name not in _known_resolvers()}
    return _pickle(_Shared(launcher.hydra_context, launcher.task_function, singletons, resolvers))


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


def _run(shared: bytes, config: DictConfig) -> JobReturn:
    """Run a job; called in its own process."""
    setup_globals()
    handover.refuse_breakpoints()
    known: _Shared = pickle.loads(shared)
    Singleton._instances.update(known.singletons)
    BaseContainer._resolvers.update(known.resolvers)
    done = run_job(
        task_function=known.function,
        config=config,
        job_dir_key=DIRECTORY_KEY,
        job_subdir_key=SUBDIRECTORY_KEY,
        hydra_context=known.context,
    )
    if done.status == JobStatus.FAILED:
        done.return_value = _printed_error(done._return_value)
    return done


def _printed_error(error: Exception) -> Exception:
    """Print the traceback of `error` to the job's log, and return an error that the parent can unpickle."""
    traceback.print_exception(error)
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return JobFailed(brief(error))
