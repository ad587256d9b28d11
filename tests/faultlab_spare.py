"""Imported by the process that `faultlab` forks from: it can fork workers, and a copy of it forks those of undisturbed exports."""

import exportkit.core.preload
import exportkit.exporting.pipeline
import exportkit.exporting.savedmodel  # noqa: F401
from exportkit import processes

processes.reserve()
