"""A job in a worker of another engine (joblib, Ray, Submitit), run as exportkit's own launcher would run it.

Such a worker may stand in another directory, on another machine. It serves one job after the other, and the sweep may end with
it. So a job goes to where the sweep was started, and from there into a process of its own: one that crashes, or leaves
TensorFlow changed, does that to nobody else, and the engine hears of a failure that it can carry home.
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
from exportkit.cli import handover, hydra_app, process
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.sweep import job_record, process_launcher, sweep_record
from exportkit.errors import EnvironmentFailed, Problem, brief
from exportkit.processes import Cause, Death, Died, Ended, Task

HERE = ".BasicLauncher"  # Hydra's own, which is chosen to have all in one process
SHARED = "start the sweep in a directory that all machines share under the same path"

Run = Callable[[DictConfig], str]


def is_elsewhere() -> bool:
    """Whether the running job of a sweep is in a worker that is not its own."""
    return not processes.inside() and not is_here()


def is_here() -> bool:
    """Whether the launcher is chosen that keeps all in the process that was started."""
    return str(HydraConfig.get().launcher._target_).endswith(HERE)


def run(config: DictConfig, job: Run) -> str:
    """Call `job` with `config` at home, in a process of its own, as the only attempt at this job, and return its status.

    Raises:
        JobFailed: `job` raised, or its process died.
        EnvironmentFailed: the sweep's directories are not to be seen from here.
    """
    with _at_home():
        content = pickle.dumps((job, config, handover.pack()))
        task = Task(0, _run, (content,), job_record.place() / process_launcher.LOG)
        end = _end(task)
        if isinstance(end, Died):
            job_record.record_death(config, str(end), end.seconds)
            raise JobFailed(str(end))
    if isinstance(end.value, JobFailed):
        raise end.value
    return end.value


def _end(task: Task) -> Ended | Died:
    """What becomes of a task."""
    started = time.monotonic()
    try:
        with contextlib.closing(processes.run([task], 1, preload=process_launcher.PRELOAD)) as events:
            *_, end = events
            return end
    except Exception as error:  # out of a signal's handler, as Submitit's, when a job's time is over
        death = Death(Cause.KILLED, f"was ended by its engine: {brief(error)}")
        return Died(task.number, death, time.monotonic() - started)


def _run(content: bytes) -> str | JobFailed:
    """The job, in its own process."""
    job, config, hydra = pickle.loads(content)
    handover.unpack(hydra)
    try:
        with job_record.only_attempt():
            return job(config)
    except Exception as error:
        return hydra_app.failure(error)


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Be where the sweep was started: its relative paths, its modules."""
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
