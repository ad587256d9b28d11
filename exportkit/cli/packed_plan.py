"""Plans as bytes: what a process that carries one out gets from the process that made it."""

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from exportkit.protos import MetaGraphDef
from exportkit.spec import ExportPlan


def pack(plan: ExportPlan) -> bytes:
    """Return a plan as bytes; none where an object of a plugin in it cannot be pickled."""
    packed = io.BytesIO()
    try:
        _Pickler(packed, pickle.HIGHEST_PROTOCOL).dump(plan)
    except Exception:
        return b""
    return packed.getvalue()


def unpack(content: bytes, plan_again: Callable[[], ExportPlan]) -> ExportPlan:
    """Return the plan that was packed, its checkpoints open.

    It is planned again if the plan cannot be unpickled here, or if training has deleted or replaced its checkpoint meanwhile.
    """
    from exportkit.planning.resolving import opened

    with suppress(Exception):
        return opened(pickle.loads(content))
    return plan_again()


class _Pickler(pickle.Pickler):
    """Pickles meta graphs as bytes: pickle itself would import the package of their class, which is TensorFlow."""

    def reducer_override(self, value: Any) -> Any:
        return (_parsed, (value.SerializeToString(),)) if isinstance(value, MetaGraphDef) else NotImplemented


def _parsed(content: bytes) -> MetaGraphDef:
    return MetaGraphDef.FromString(content)


_file: Path | None = None  # of the running job


def file(directory: Path, number: int) -> Path:
    """Return the file below `directory` for the plan of a sweep's job."""
    return directory / f"{number}.plan"


def write(plan: ExportPlan, to: Path) -> None:
    """Write a plan that spares a job its own, where that can be: a job that finds no whole plan makes it again."""
    with suppress(OSError):
        to.write_bytes(pack(plan))


def set_file(packed: Path | None) -> None:
    """Set the file that holds the running job's plan; None: there is none."""
    global _file
    _file = packed


def read() -> bytes:
    """Return the running job's plan as bytes; none where there is none."""
    with suppress(OSError):
        return b"" if _file is None else _file.read_bytes()
    return b""
