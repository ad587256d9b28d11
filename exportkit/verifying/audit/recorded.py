"""The inputs that a manifest has recorded: those in it, and those that are too large for it, in a file beside it."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.checkpoint import tensorproto
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
        value = tensorproto.from_numpy(_read(directory / SAMPLES, name), recorded["dtype"])
        if _is_recorded(value, recorded):
            return value
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not the file that the step `manifest` wrote
    raise StepFailed(Problem(str(SAMPLES), f"does not hold {name} as the manifest has it", "export the version again"))


def _is_recorded(value: np.ndarray, recorded: Mapping[str, Any]) -> bool:
    alike = list(value.shape) == recorded["shape"] and tensorproto.dtype_of(value) == recorded["dtype"]
    return alike and tensorproto.digest(value) == recorded["sha256"]


def _read(path: Path, name: str) -> np.ndarray:
    """Read an array of an .npz file whose members are stored; one that is larger than the file is compressed, so not ours."""
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(f"{name}.npy").file_size > path.stat().st_size:
            raise ValueError(f"{name} is compressed")
        with archive.open(f"{name}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)
