"""Plans as bytes: what a process that carries one out gets from the process that made it."""

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit import files
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


@dataclass(frozen=True)
class Shelf:
    """A directory with the plans of a sweep's jobs, each in a file. A job that finds no whole plan there makes it again.

    Attributes:
        directory: nobody else's.
        most: the largest plan that is kept, in bytes.
    """

    directory: Path
    most: int

    @classmethod
    def of(cls, directory: Path, jobs: int) -> "Shelf":
        """Return the shelf for so many jobs, on which each has an even share of `ROOM`."""
        return cls(directory, ROOM // max(1, jobs))

    def file(self, number: int) -> Path:
        """Return the file of a job's plan, which may not be there."""
        return self.directory / f"{number}.plan"

    def put(self, number: int, plan: ExportPlan) -> None:
        """Write a job's plan, where it can be pickled and is not too large."""
        content = pack(plan)
        if 0 < len(content) <= self.most:
            with suppress(OSError):
                self.file(number).write_bytes(content)


ROOM = 256 * files.MIB  # of temporary files for all plans of a sweep; the plan of a small model has 0.1 MiB

_file: Path | None = None  # of the running job


def set_file(packed: Path | None) -> None:
    """Set the file that holds the running job's plan; None: there is none."""
    global _file
    _file = packed


def read() -> bytes:
    """Return the running job's plan as bytes; none where there is none."""
    with suppress(OSError):
        return b"" if _file is None else files.read(_file, ROOM)
    return b""
