"""Hydra's launcher and sweeper ``exportkit``: all jobs are planned before the first starts, each runs in a process of its own.

Hydra imports this module, as ``hydra_plugins.exportkit``, in every Hydra application of an environment with exportkit. So it
imports nothing of exportkit before it launches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from exportkit.cli.sweep.engine_side import ReadyLauncher
    from exportkit.cli.sweep.job_process import PackedJob


@dataclass
class ProcessLauncherConf:
    """Each job in a process of its own, forked from one that has imported TensorFlow."""

    _target_: str = "hydra_plugins.exportkit.ProcessLauncher"

    n_jobs: int | None = None
    """The number of jobs that run at a time; default: the number of processors that this process may use."""

    timeout: float | None = None
    """Seconds after which a job is killed."""


ConfigStore.instance().store(group="hydra/launcher", name="exportkit", node=ProcessLauncherConf, provider="exportkit")


class ProcessLauncher(Launcher):
    """Runs the jobs of a sweep, each in a process of its own, `n_jobs` at a time."""

    def __init__(self, n_jobs: int | None = None, timeout: float | None = None):
        self.n_jobs, self.timeout = n_jobs, timeout

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Compose each job just before its process starts, run it, and return the results in the order of the jobs."""
        from exportkit.cli.sweep import process_launcher

        return process_launcher.launch(self, job_overrides, initial_job_idx)

    def launch_composed(
        self, composed: Iterable["PackedJob"], on_event: Callable[[Any], None], uses_tensorflow: bool = True
    ) -> None:
        """Run jobs that are already composed.

        Args:
            composed: taken one by one, each when its process can be started.
            on_event: called with each event of `exportkit.processes`.
            uses_tensorflow: whether a job's source runs TensorFlow's Python.
        """
        from exportkit.cli.sweep import process_launcher

        process_launcher.launch_composed(self, composed, on_event, uses_tensorflow)


class FleetSweeper(Sweeper):
    """Composes and plans every job before the first one starts, and leaves out those whose version exists."""

    def __init__(self, params: Mapping[str, str] | None, force: bool, keep_going: bool, dry_run: bool):
        self.params = dict(params or {})
        self.options = {"force": force, "keep_going": keep_going, "dry_run": dry_run}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that `arguments` expand to. Their results are in their records."""
        from exportkit.cli.sweep import sweeping

        launcher = cast("ReadyLauncher", self.launcher)  # Hydra's interface does not declare what `setup` stores
        sweeping.sweep(arguments, self.params, launcher, sweeping.Options(**self.options))
