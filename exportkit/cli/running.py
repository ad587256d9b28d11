"""The job of a sweep that runs in this process and was composed without Hydra: what of Hydra's config exportkit asks for.

Hydra composes its config of such a job when the user's code first asks for it (`exportkit.cli.direct.stand_in`). So exportkit
itself must not ask for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunningJob:
    """A job of a sweep in its process.

    Attributes:
        number: from 0, Hydra's ``hydra.job.num``.
        overrides: the job's overrides, as they were written.
        directory: its output directory.
        conf: the directories of the user's configs.
    """

    number: int
    overrides: Sequence[str]
    directory: Path
    conf: Sequence[Path]


_job: RunningJob | None = None


def job() -> RunningJob | None:
    """Return the running job; None where there is none, or Hydra has composed it."""
    return _job


def set_job(job: RunningJob) -> None:
    """Set the job that this process runs from now on."""
    global _job
    _job = job
