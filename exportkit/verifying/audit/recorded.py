"""The inputs that a manifest has recorded: those in it, and those that are too large for it, in a file beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.checkpoint import npy, tensorproto
from exportkit.errors import Problem, StepFailed
from exportkit.version.manifest import SAMPLES


def inputs(directory: Path, recorded: Mapping[str, Any] | None) -> dict[str, np.ndarray] | None:
    """Return alias → value of a signature's recorded inputs; None where there are none, or only the digest of one was kept.

    Raises:
        StepFailed: the file beside the manifest does not hold what the manifest recorded.
    """
    arrays = (recorded or {}).get("inputs", {})
    found = {alias: _beside(directory, one) if "file" in one else tensorproto.from_json(one) for alias, one in arrays.items()}
    values = {alias: value for alias, value in found.items() if value is not None}
    return values if values and len(values) == len(found) else None


def _beside(directory: Path, recorded: Mapping[str, Any]) -> np.ndarray:
    name = str(recorded["file"]).removeprefix(f"{SAMPLES.as_posix()}:")
    try:
        value = tensorproto.from_numpy(npy.read(directory / SAMPLES, name), recorded["dtype"])
        if _is_recorded(value, recorded):
            return value
    except (OSError, ValueError, KeyError):
        pass  # not the file that the step `manifest` wrote
    raise StepFailed(Problem(str(SAMPLES), f"does not hold {name} as the manifest has it", "export the version again"))


def _is_recorded(value: np.ndarray, recorded: Mapping[str, Any]) -> bool:
    alike = list(value.shape) == recorded["shape"] and tensorproto.dtype_of(value) == recorded["dtype"]
    return alike and tensorproto.digest(value) == recorded["sha256"]
