"""Hydra's jobs, each in its own process: the launcher ``exportkit``, in the process that runs the sweep."""

import atexit
import gc
import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from exportkit import processes
from exportkit.cli.failures import JobFailed
from exportkit.cli.hydra_app import task_config
from exportkit.cli.sweep import job_process, job_record
from exportkit.cli.sweep.job_process import PackedJob
from exportkit.cli.sweep.job_record import task_overrides
from exportkit.errors import ConfigError, Problem
from exportkit.planning.plain import PlainConfig
from exportkit.processes import Died, Ended, Event, Task
from exportkit.processes.sandbox import installation

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

LAUNCHER = "hydra_plugins.exportkit.ProcessLauncher"
LOG = "output.log"

log = logging.getLogger(__name__)
OnEvent = Callable[[Event], None]


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
            yield PackedJob(number, pickle.dumps(config), job_process.output_directory(config))

    tasks = _Tasks(job_process.shared(launcher), composed())
    returns = dict(_returned(launcher, tasks, _Lines(job_overrides, first), _preload_of_any(launcher)))
    return [returns[number] for number in sorted(returns)]


def _preload_of_any(launcher: "ProcessLauncher") -> tuple[str, ...]:
    """Return the modules that the server of jobs imports, which may be exports, or jobs of another application.

    Both may run TensorFlow's Python, the other application's jobs if that has imported it.
    """
    if "source" in launcher.config.keys() or "tensorflow" in sys.modules:  # noqa: SIM118 - what is ??? is a key too
        return preload(uses_tensorflow=True)
    return ("exportkit.cli.sweep.preload_other",)


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
    tasks = _Tasks(job_process.shared(launcher), composed, whole=False, key=job_process.key())
    for _ in _returned(launcher, tasks, on_event, preload(uses_tensorflow)):
        pass
    atexit.unregister(gc.freeze)  # it is there once, however many sweeps there were
    atexit.register(gc.freeze)  # else Python ends with a search for garbage in all that was imported: 0.15 s


@contextmanager
def server(launcher: "ProcessLauncher") -> Iterator[None]:
    """Fork the server of jobs from this process, where that is safe, so that a job finds done what was done here by now.

    Call it while this process has one thread, and before a job is planned: no state of one model reaches another's job.
    """
    installation()  # looked for once, on this process's path
    with job_process.inherited(launcher), processes.prestarted(preload(uses_tensorflow=False)):
        yield


def preload(uses_tensorflow: bool) -> tuple[str, ...]:
    """Return the modules that the server of jobs imports, with TensorFlow's Python or without."""
    return ("exportkit.cli.sweep.preload_tensorflow" if uses_tensorflow else "exportkit.cli.sweep.preload",)


def _returned(
    launcher: "ProcessLauncher", tasks: "_Tasks", on_event: OnEvent, modules: Sequence[str]
) -> Iterator[tuple[int, JobReturn]]:
    """Run jobs, forked from a server that imports `modules`, and yield the number and the result of each when it ends."""
    check_options(launcher)
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    with closing(processes.run(tasks, launcher.n_jobs, launcher.timeout, modules)) as events:
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
            yield Task(job.number, job_process.run, (self._key, self._shared, job, self._whole), job.directory / LOG)


def _failed_return(context: HydraContext, job: PackedJob, died: Died) -> JobReturn:
    """Return Hydra's result of a job whose process died, and call the callbacks for its end, which the job could not do."""
    config = pickle.loads(job.config)
    if isinstance(config, PlainConfig):
        job_record.record_failure(job.running(), config, died.death.describe("hydra.launcher.timeout"))
        return JobReturn(status=JobStatus.FAILED)
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
