"""What came of an export: plain data, to JSON and to tables."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

from exportkit import modelserver


@dataclass(kw_only=True)
class StepReport:
    """One step: `status` is ``passed``, ``failed``, ``not run``, or what the step returned as such; `details` is all that."""

    kind: str
    phase: str
    status: str = "not run"
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class TensorReport:
    """A signature's tensor: its alias, binding, name in the exported graph, dtype and shape.

    Of an input that was tried, `rows` says whether its first axis is a ``batch``, a ``batch fixed at 32`` or ``not a batch``,
    and `tried` is the shape of the value that was answered.
    """

    alias: str
    binding: str
    tensor: str
    dtype: str
    shape: list[int | None] | None
    rows: str = ""
    tried: list[int] | None = None


@dataclass(kw_only=True)
class SignatureReport:
    """A signature; `batching` is ``yes``, or ``no:`` and why a server cannot batch it; empty where it was not tried."""

    key: str
    method: str
    inputs: list[TensorReport]
    outputs: list[TensorReport]
    batching: str = ""


@dataclass(kw_only=True)
class MetaGraphReport:
    """One meta graph: nodes of the source's graph and of what was left of it."""

    key: str
    tags: list[str]
    nodes_before: int
    nodes_after: int
    signatures: list[SignatureReport]


@dataclass(kw_only=True)
class WeightsReport:
    """The variables that were written: how many, their bytes, and where their values came from."""

    variables: int = 0
    bytes: int = 0
    proof: str = ""
    how: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class ExportReport:
    """What came of an export.

    Attributes:
        status: ``exported`` or ``failed``. A failed export has a `version` where that was committed before a step of PUBLISH
            failed: the version stays.
        error: the failure's text, one line per problem.
        unverified: signatures that were exported though verify could not run them (``post.verify.unsampled=allow``), and meta
            graphs that are pinned to another device.
        not_sandboxed: why the processes that ran the graph could reach more than they need; empty where they could not.
        stages: seconds per stage, in the order in which they ran.
    """

    name: str
    status: str = "failed"
    version: int | None = None
    directory: str | None = None
    base_path: str | None = None
    error: str | None = None
    meta_graphs: list[MetaGraphReport] = field(default_factory=list)
    weights: WeightsReport = field(default_factory=WeightsReport)
    assets: list[str] = field(default_factory=list)
    bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    not_sandboxed: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    steps: list[StepReport] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside as stage `name`."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + perf_counter() - started

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    def to_json(self) -> str:
        return json.dumps(plain(asdict(self)), indent=2) + "\n"

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")

    @property
    def served(self) -> MetaGraphReport | None:
        """The meta graph that `server_command` serves; None where nothing was built."""
        by_key = {meta_graph.key: meta_graph for meta_graph in self.meta_graphs}
        return by_key[modelserver.loaded({key: one.tags for key, one in by_key.items()})] if by_key else None

    @property
    def server_command(self) -> str:
        """The command line that serves this export."""
        return self.server_command_of(self.served)

    def server_command_of(self, meta_graph: MetaGraphReport | None) -> str:
        """Return the command line of a server that loads another meta graph than `served`."""
        tags = meta_graph.tags if meta_graph else modelserver.SERVE
        return modelserver.command({"model_name": self.name, "model_base_path": str(self.base_path)}, tags)


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: steps may return paths, numpy's numbers and what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value if isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value)) else str(value)
