"""A job in a worker of another engine (joblib, Ray, Submitit), run as exportkit's own launcher would run it.

Such a worker may have another working directory, on another machine. It runs one job after the other, and if it dies the sweep
may fail. So a job changes to the directory where the sweep was started and runs there in a process of its own: if it crashes or
changes TensorFlow's state, no other job is affected, and the engine gets an exception that it can pickle.
"""

import contextlib
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from exportkit import processes
from exportkit.cli import handover, process
from exportkit.cli.export_run import uses_tensorflow
from exportkit.cli.failures import JobFailed, failure
from exportkit.cli.sweep import job_record, process_launcher, sweep_record
from exportkit.errors import EnvironmentFailed, Problem, brief
from exportkit.processes import Cause, Death, Died, Ended, Task

HERE = ".BasicLauncher"  # Hydra's own; whoever chooses it wants everything in one process
SHARED = "start the sweep in a directory that all machines share under the same path"

Run = Callable[[DictConfig], str]


def is_external_worker() -> bool:
    """Return whether the running job of a sweep is in a worker of another engine, not in a process of its own."""
    return not processes.inside() and not is_basic_launcher()


def is_basic_launcher() -> bool:
    """Return whether the launcher is Hydra's own, which runs every job in the process that the user started."""
    return str(HydraConfig.get().launcher._target_).endswith(HERE)


def run(config: DictConfig, job: Run) -> str:
    """Call `job` with `config` in the directory of the sweep's start, in a process of its own, and return its status.

    A lock keeps other attempts at the same job waiting.

    Raises:
        JobFailed: `job` raised, or its process died.
        EnvironmentFailed: this machine does not see the sweep's directories.
    """
    with _in_launch_directory():
        content = pickle.dumps((job, config, handover.pack()))
        task = Task(0, _run, (content,), job_record.job_directory() / process_launcher.LOG)
        end = _run_task(task, uses_tensorflow(config))
        if isinstance(end, Died):
            job_record.record_death(config, str(end), end.seconds)
            raise JobFailed(str(end))
    if isinstance(end.value, JobFailed):
        raise end.value
    return end.value


def _run_task(task: Task, uses_tensorflow: bool) -> Ended | Died:
    """Run a task, and return its last event."""
    started = time.monotonic()
    try:
        with contextlib.closing(processes.run([task], 1, preload=process_launcher.preload(uses_tensorflow))) as events:
            for event in events:
                if isinstance(event, Ended | Died):
                    end = event
            return end
    except Exception as error:  # raised by a signal handler, as Submitit's when a job's time is over
        death = Death(Cause.KILLED, f"was ended by its engine: {brief(error)}")
        return Died(task.number, death, time.monotonic() - started)


def _run(content: bytes) -> str | JobFailed:
    """Run the job; called in its own process."""
    job, config, hydra = pickle.loads(content)
    handover.unpack(hydra)
    try:
        with job_record.only_attempt():
            return job(config)
    except Exception as error:
        return failure(error)


@contextlib.contextmanager
def _in_launch_directory() -> Iterator[None]:
    """Change to the directory where the sweep was started, for its relative paths and its modules.

    Raises:
        EnvironmentFailed: this machine does not see that directory.
    """
    hydra = HydraConfig.get()
    home = str(hydra.runtime.cwd)
    seen = Path(str(hydra.sweep.dir), sweep_record.SWEEP) if job_record.is_planned(hydra) else Path(home)
    if not seen.exists():
        raise EnvironmentFailed(
            Problem(home, f"is not on {socket.gethostname()} what it is where the sweep was started", SHARED)
        )
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    with contextlib.chdir(home), process.environment({"PYTHONPATH": path}), process.interpreter(sys.argv[1:], home):
        yield
