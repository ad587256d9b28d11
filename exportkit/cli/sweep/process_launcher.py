"""Hydra's jobs in processes of their own: what the launcher ``exportkit`` does, on both sides."""

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
from exportkit.errors import ConfigError, EnvironmentFailed, Problem, brief
from exportkit.processes import Died, Ended, Event, Task

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

PRELOAD = ("exportkit.cli.sweep.preload",)
LAUNCHER = "hydra_plugins.exportkit.ProcessLauncher"
LOG = "output.log"
DIRECTORY = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}

log = logging.getLogger(__name__)
OnEvent = Callable[[Event], None]


def launch(launcher: "ProcessLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Compose jobs one by one, each when its turn comes, and run them."""
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


def launch_composed(launcher: "ProcessLauncher", composed: Iterable[tuple[int, DictConfig]], on_event: OnEvent) -> None:
    """Run composed jobs. What came of them is in their records and events; of thousands nothing more is kept."""
    for _ in _returned(launcher, composed, on_event):
        pass


def _returned(
    launcher: "ProcessLauncher", composed: Iterable[tuple[int, DictConfig]], on_event: OnEvent
) -> Iterator[tuple[int, JobReturn]]:
    """Run jobs; the number of each as it ends, and what came of it."""
    check(launcher)
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    running: dict[int, DictConfig] = {}
    tasks = _tasks(_shared(launcher), composed, running)
    with closing(processes.run(tasks, launcher.n_jobs, launcher.timeout, PRELOAD)) as events:
        for event in events:
            if isinstance(event, Ended | Died):
                config = running.pop(event.number)
                died = isinstance(event, Died)
                yield event.number, _died(launcher.hydra_context, config, event) if died else event.value
            on_event(event)
    _configure_log(launcher)


def _tasks(shared: bytes, composed: Iterable[tuple[int, DictConfig]], running: dict[int, DictConfig]) -> Iterator[Task]:
    """The jobs as tasks; while one runs its config is in `running`."""
    for number, config in composed:
        running[number] = config
        yield Task(number, _run, (shared, config), _output_directory(config) / LOG)


def _output_directory(config: DictConfig) -> Path:
    """Where `run_job` will have a job put what it leaves."""
    HydraConfig.instance().set_config(config)
    return Path(*(str(OmegaConf.select(config, key)) for key in DIRECTORY.values())).absolute()


def _died(context: HydraContext, config: DictConfig, died: Died) -> JobReturn:
    """What Hydra is to know of a job whose process died; callbacks hear of its end here, for the job could not tell them."""
    task = task_config(config)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(_output_directory(config))
    failed = JobReturn(
        overrides=OmegaConf.to_container(config.hydra.overrides.task),
        cfg=task,
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        task_name=JobRuntime.instance().get("name"),
        status=JobStatus.FAILED,
    )
    failed.return_value = JobFailed(died.death.describe("hydra.launcher.timeout"))
    context.callbacks.on_job_end(config=config, job_return=failed)
    return failed


def check(launcher: "ProcessLauncher | DictConfig") -> None:
    """Raise ConfigError where the launcher's numbers make no sense."""
    for key, value in (("n_jobs", launcher.n_jobs), ("timeout", launcher.timeout)):
        if value is not None and value <= 0:
            raise ConfigError(Problem(f"hydra.launcher.{key}", f"is {value}", "write a positive number, or null"))


def _configure_log(launcher: "ProcessLauncher") -> None:
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)


class _Lines:
    """A line per job that has ended."""

    def __init__(self, job_overrides: Sequence[Sequence[str]], first: int):
        self._overrides, self._first, self._done = job_overrides, first, 0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Ended | Died):
            return
        self._done += 1
        what = "done" if isinstance(event, Ended) and event.value.status == JobStatus.COMPLETED else "failed"
        overrides = " ".join(filter_overrides(self._overrides[event.number - self._first]))
        log.info("[%d/%d] %s: %s in %.1f s", self._done, len(self._overrides), overrides, what, event.seconds)


# What both sides know of


@dataclass(frozen=True)
class _Shared:
    """What all jobs of a sweep need beside their configs: what Hydra's other launchers hand over as well."""

    context: HydraContext
    function: Callable[[DictConfig], Any]
    singletons: dict[type, Any]
    resolvers: dict[str, Any]


def _shared(launcher: "ProcessLauncher") -> bytes:
    plugins = "Plugins"  # found anew where a job asks for them, for that takes its time
    singletons = {cls: instance for cls, instance in Singleton._instances.items() if cls.__name__ != plugins}
    resolvers = {name: function for name, function in BaseContainer._resolvers.items() if name not in _known_resolvers()}
    return _dumped(_Shared(launcher.hydra_context, launcher.task_function, singletons, resolvers))


def _known_resolvers() -> set[str]:
    """OmegaConf's own and those of `setup_globals`: a new process has them."""
    return {name for name in BaseContainer._resolvers if name.startswith("oc.")} | {"hydra", "now", "python_version"}


def _dumped(shared: _Shared) -> bytes:
    """`shared`, pickled; with cloudpickle where something has no name to import it by: a closure, a resolver, the main script.

    Raises:
        EnvironmentFailed: it takes cloudpickle, which is not installed.
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
    """A job, in its own process."""
    setup_globals()
    handover.refuse_breakpoints()
    known: _Shared = pickle.loads(shared)
    Singleton._instances.update(known.singletons)
    BaseContainer._resolvers.update(known.resolvers)
    done = run_job(task_function=known.function, config=config, hydra_context=known.context, **DIRECTORY)
    if done.status == JobStatus.FAILED:
        done.return_value = _shown(done._return_value)
    return done


def _shown(error: Exception) -> Exception:
    """`error`, shown in the job's log with its traceback, and such that the parent can read it."""
    traceback.print_exception(error)
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return JobFailed(brief(error))
