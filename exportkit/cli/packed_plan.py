"""Plans as bytes: what a process that carries one out gets from the process that made it."""

import io
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from exportkit import files, protos
from exportkit.checkpoint import Bundle
from exportkit.metagraph import Graph
from exportkit.spec import ExportPlan


def pack(plan: ExportPlan, prepared: bool = True) -> bytes:
    """Return a plan as bytes; none where an object of a plugin in it cannot be pickled.

    Args:
        prepared: whether what was prepared is packed as well; the process that gets it need not prepare it again.
    """
    packed = io.BytesIO()
    try:
        pickler = _Pickler(packed, plan)
        pickler.dump(plan)
        pickler.dump(plan.prepared if prepared else None)
    except Exception:
        return b""
    return packed.getvalue()


def unpack(content: bytes, plan_again: Callable[[], ExportPlan]) -> ExportPlan:
    """Return the plan that was packed, its checkpoints open.

    It is planned again if the plan cannot be unpickled here, or if training has deleted or replaced its checkpoint meanwhile.
    """
    from exportkit.planning.resolving import opened

    with suppress(Exception):
        unpickler = _Unpickler(io.BytesIO(content))
        plan = opened(unpickler.load())
        unpickler.bundles = {one.where: one.bundle for one in plan.resolved_sources()}
        return replace(plan, prepared=unpickler.load())
    return plan_again()


class _Pickler(pickle.Pickler):
    """Pickles protos as bytes: pickle itself would import the package of their class, which is TensorFlow.

    A graph is pickled as its proto, and an open checkpoint as the place of its source.
    """

    def __init__(self, file: IO[bytes], plan: ExportPlan):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._places = {id(one.bundle): one.where for one in plan.resolved_sources()}

    def persistent_id(self, value: Any) -> str | None:
        return self._places[id(value)] if type(value) is Bundle else None

    def reducer_override(self, value: Any) -> Any:
        cls = type(value)
        if cls is Graph:
            return Graph, (value.meta,)
        if getattr(protos, cls.__name__, None) is cls:
            return _parsed, (cls.__name__, value.SerializeToString())
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Unpickles what `_Pickler` wrote.

    Attributes:
        bundles: the place of each source → its checkpoint, once these are open.
    """

    bundles: Mapping[str, Bundle | None] = MappingProxyType({})

    def persistent_load(self, place: str) -> Bundle | None:
        return self.bundles[place]


def _parsed(name: str, content: bytes) -> Any:
    return getattr(protos, name).FromString(content)


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
        if len(content) > self.most:
            content = pack(plan, prepared=False)
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
