"""Jobs of a sweep that are composed without Hydra, in a fifth of its time: exports whose configs allow that.

Hydra has composed the sweep's own config by then. A job that cannot be composed or planned here is left to Hydra, which words
what is wrong.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from exportkit.cli import choices, hydra_app
from exportkit.cli.direct import NeedsHydra
from exportkit.cli.direct.composing import Composer, composed
from exportkit.cli.packed_plan import Shelf
from exportkit.cli.sweep import preflight
from exportkit.cli.sweep.composing import Composed
from exportkit.cli.sweep.preflight import Outlook
from exportkit.errors import ExportKitError

if TYPE_CHECKING:
    from hydra_plugins.exportkit import ProcessLauncher

_HARMLESS = ("hydra.mode=", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.dir=")
"""Overrides of Hydra's own settings that change no job's config, log or directory below the sweep's."""
_SOURCES = ("hydra", "main", "user", "exportkit-plugin", "schema")  # of configs, where no flag has added one
_NUMBERED = "${hydra.job.num}"


@dataclass
class DirectJobs:
    """Composes and plans jobs, in any process.

    Attributes:
        directory: the sweep's.
        shelf: where a job's process finds its plan; None: it makes its own.
    """

    directory: Path
    shelf: Shelf | None

    def composes(self, overrides: Sequence[str]) -> bool:
        """Return whether a job with these overrides is composed without Hydra."""
        try:
            return composed(overrides, lambda: self._composer) is not None
        except ExportKitError:
            return False

    def compose(self, number: int, overrides: Sequence[str]) -> Composed[Outlook] | None:
        """Return a job with the version that it would make; None where it is Hydra's to compose, or to refuse."""
        try:
            config = composed(overrides, lambda: self._composer)
            if config is None:
                return None
            outlook = preflight.plan_job(number, config, self.shelf)
            content = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        except Exception:  # it is raised again where Hydra composes the job, and reported
            return None
        return Composed(number, overrides, content, str(self.directory / str(number)), outlook, plain=True)

    @cached_property
    def _composer(self) -> Composer:
        return Composer()


def composer(launcher: "ProcessLauncher", shelf: Shelf | None) -> DirectJobs | None:
    """Return what composes the jobs of a sweep without Hydra; None where the sweep's own config rules that out."""
    from exportkit.cli import export_job

    master = launcher.config
    if launcher.task_function is not export_job.job or not _is_usual(master.hydra):
        return None
    jobs = DirectJobs(Path(str(master.hydra.sweep.dir)).absolute(), shelf)
    try:
        jobs._composer  # noqa: B018 - it is kept, for the processes that are forked from this one
    except (NeedsHydra, ExportKitError, OSError):
        return None
    return jobs


def _is_usual(hydra: DictConfig) -> bool:
    """Return whether Hydra's settings are exportkit's, but for what is harmless."""
    raw = OmegaConf.to_container(hydra, resolve=False)
    assert isinstance(raw, dict)
    return (
        all(word.startswith(_HARMLESS) for word in raw["overrides"]["hydra"])
        and raw["sweep"]["subdir"] == _NUMBERED
        and raw["job"]["config_name"] == "config"
        and all(source["provider"] in _SOURCES for source in raw["runtime"]["config_sources"])
        and any(source["path"] == choices.CONF for source in raw["runtime"]["config_sources"])
        and hydra_app.ConfDirectories.user == choices.user_conf(())
    )
