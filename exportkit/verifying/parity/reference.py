"""The reference that an export is compared with: the whole training graph, in a process of its own.

It shares the config with the export, and nothing of the way in which the export is made: the graph is not pruned, constants are
fed instead of baked, and TensorFlow's RestoreV2 reads the values from the checkpoint.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exportkit.capabilities import Audit, audit, demand, drop_idle_dangers
from exportkit.contract import Export
from exportkit.metagraph import Variable, canonical, split
from exportkit.planning.prepare import Part, Prepared
from exportkit.processes import WorkerDied, conversation
from exportkit.protos import ConfigProto, MetaGraphDef, op_def_pb2
from exportkit.serving.native import Refusal
from exportkit.verifying.parity import reference_worker, seeding

if TYPE_CHECKING:
    from exportkit.processes.workers import Conversation


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training graph and the sources of its values.

    Attributes:
        meta_graph: the graph; this TensorFlow must know all its ops.
        feeds: the tensors that runs feed → dtype.
        replaced: tensors of the graph → those that take their places.
        restores: for each variable operation, the arguments of the worker's `_restore`.
        init_ops: the operations that fill the tables.
        config: the session's configuration.
        fetches: the tensors that its runs ask for; those that runs ask for besides are computed on the way to them.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.
        assets: nodes that hold the path of a file that becomes an asset.
        seeded: whether random ops draw the same numbers in every process.
    """

    meta_graph: MetaGraphDef
    feeds: Mapping[str, str | None]
    restores: Sequence[Mapping[str, Any]]
    init_ops: Sequence[str]
    config: ConfigProto
    fetches: Collection[str] = ()
    allowed: Collection[str] = ()
    seeded: bool = False
    replaced: Mapping[str, str] = field(default_factory=dict)
    assets: Collection[str] = ()

    def message(self) -> dict[str, Any]:
        """Return the job as plain data, as `reference_worker.Trained` takes it."""
        graph = self._importable.graph_def
        consumed = {split(edge) for node in graph.node for edge in node.input}
        return {
            "graph": graph.SerializeToString(),
            "ops": op_def_pb2.OpList(op=self.meta_graph.meta_info_def.stripped_op_list.op).SerializeToString(),
            "feeds": dict(self.feeds),
            "replaced": dict(self.replaced),
            "consumed": [tensor for tensor in self.feeds if split(tensor) in consumed],
            "restores": list(self.restores),
            "init_ops": list(self.init_ops),
            "config": self.config.SerializeToString(),
        }

    @cached_property
    def _importable(self) -> MetaGraphDef:
        """Return the graph as it is imported: without what an import might run although nothing asks for it."""
        whole = _importable(self.meta_graph, self.feeds, self.seeded)
        if audit(whole, assets=self.assets, fetches=self._roots(self.fetches), feeds=self._fed).dangers(self.allowed):
            drop_idle_dangers(whole.graph_def, self._roots(self.fetches), self._fed)
        return whole

    @property
    def nodes(self) -> int:
        """How many nodes are imported."""
        return len(self._importable.graph_def.node)

    @property
    def _fed(self) -> set[str]:
        return {canonical(tensor) for tensor in self.feeds}

    def _roots(self, fetches: Collection[str]) -> list[str]:
        taken = [tensor for tensor in fetches if canonical(tensor) not in self._fed]
        return [*self.init_ops, *(restore["operation"] for restore in self.restores), *self.replaced.values(), *taken]

    def audited(self, fetches: Collection[str] = ()) -> Audit:
        """Return what the graph can do when it is imported, initialised, and asked for `fetches`."""
        return audit(self._importable, assets=self.assets, fetches=self._roots(fetches), feeds=self._fed)


def _importable(meta_graph: MetaGraphDef, feeds: Mapping[str, str | None], seeded: bool) -> MetaGraphDef:
    """Return the graph and its ops, without `_output_shapes` (TF 1's fail to import), devices and control edges to fed ops.

    A session does not run the op of a fed tensor for a data edge, but it does for a control edge.
    """
    copy, fed = MetaGraphDef(), {split(tensor)[0] for tensor in feeds}
    copy.graph_def.CopyFrom(meta_graph.graph_def)
    copy.meta_info_def.stripped_op_list.CopyFrom(meta_graph.meta_info_def.stripped_op_list)
    if seeded:
        seeding.seed(copy)
    for node in copy.graph_def.node:
        node.attr.pop("_output_shapes", None)
        node.device = ""
        if any(edge[0] == "^" and edge[1:] in fed for edge in node.input):
            node.input[:] = [edge for edge in node.input if edge[0] != "^" or edge[1:] not in fed]
    return copy


def job(part: Part, export: Export, exported: str, config: ConfigProto) -> Job:
    """Return the job of one meta graph's reference.

    Args:
        exported: the prefix of the export's own variables; the source of those that are in no checkpoint but initialized.
    """
    graph, plan = part.model.graph, export.plan
    cuts = [*part.wiring.inputs.values(), *part.wiring.constants]
    return Job(
        meta_graph=graph.meta,
        feeds={tensor: graph.dtype(tensor) for tensor in dict.fromkeys(cuts)},
        restores=[_restore(v, export.prepared, exported, export.scratch) for v in part.pruned.variables.values()],
        init_ops=[op for ops in part.pruned.tables.values() for op in ops],
        config=config,
        fetches=part.wiring.fetches(plan.signatures, plan.bindings),
        allowed=plan.allow.ops,
        assets=list(part.pruned.assets),
        replaced={old: part.wiring.final(old) for old in part.wiring.replaced},
    )


def _restore(variable: Variable, prepared: Prepared, exported: str, scratch: Path) -> dict[str, Any]:
    name = variable.full_name
    bundle, key = prepared.sources.get(name, (None, name))
    return {
        "operation": variable.op_name,
        "dtype": variable.dtype,
        "resource": variable.resource,
        "prefix": bundle.linked(scratch) if bundle else exported,
        "key": key,
        "part": _slice(variable),
    }


def _slice(variable: Variable) -> str:
    """Return ``4 7 0,2:0,7``: the whole shape, then start and length in each dimension (TensorSlice in tensor_slice.h)."""
    if variable.slice is None:
        return ""
    extents = (f"{o},{n}" for o, n in zip(variable.slice.var_offset, variable.slice.var_shape, strict=True))
    return " ".join([*map(str, variable.slice.full_shape), ":".join(extents)])


@contextmanager
def started(job: Job, timeout: float) -> Iterator["Reference"]:
    """Start a training graph in a process that ends with the context.

    Args:
        timeout: seconds that its start, or a run, may take.

    Raises:
        BindingError: its import or initialisation can do what is not allowed.
    """
    demand(job.audited(), job.allowed, "training graph")
    with conversation(reference_worker) as worker:
        worker.send(job.message())
        yield Reference(worker, timeout, job)


class Reference:
    """A training graph in a process; `started` creates it."""

    def __init__(self, worker: "Conversation", timeout: float, job: Job):
        self._worker, self._timeout, self._job = worker, timeout, job
        self._admitted: set[str] = set()

    def start(self) -> Refusal | None:
        """Wait until it can run; return TensorFlow's error if it cannot.

        Raises:
            StepFailed: it does not start in time, or its process crashed.
            EnvironmentFailed: its process was killed from outside, or could not start.
        """
        _, error = self._receive("starting it")
        return Refusal(_one_line(error)) if error else None

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray] | Refusal:
        """Run the graph once.

        Args:
            feeds: tensor name → value.
            fetches: the names of the tensors to return.

        Raises:
            BindingError: what it would run can do what is not allowed.
            StepFailed, EnvironmentFailed: as `start` does.
        """
        if not self._admitted.issuperset(fetches):
            demand(self._job.audited(fetches), self._job.allowed, "training graph")
            self._admitted.update(fetches)
        self._worker.send((dict(feeds), list(fetches)))
        value, error = self._receive("running it")
        return value if error is None else Refusal(_one_line(error))

    def _receive(self, stage: str) -> tuple[Any, str | None]:
        try:
            return self._worker.receive(self._timeout)
        except WorkerDied as died:
            do = "set post.verify.run_timeout higher, or look for a queue that waits for ever"
            raise died.death.error("training graph", f"{stage}: its process", after_timeout=do) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]
