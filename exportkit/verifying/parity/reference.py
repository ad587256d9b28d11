"""The reference that an export is compared with: the whole training graph, in a process of its own.

It shares the config with the export, and nothing of the way in which the export is made: the graph is not pruned, constants are
fed instead of baked, and TensorFlow's RestoreV2 reads the values from the checkpoint.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exportkit.checkpoint import Bundle
from exportkit.metagraph import Variable, split
from exportkit.planning.prepare import Part, Prepared
from exportkit.processes import Sandbox, WorkerDied, conversation
from exportkit.processes.sandbox import explained
from exportkit.protos import ConfigProto, GraphDef, MetaGraphDef, op_def_pb2
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
        restores: for each variable operation, the arguments of the worker's `_restore`; a `prefix` that is relative is that of
            one of `checkpoints`, below the directory of its links.
        checkpoints: that directory's name → the checkpoint. Its files are held open, for training may have deleted them by now.
        reads: the other files and directories that the worker may open.
        scratch: a directory for the links.
        init_ops: the operations that fill the tables.
        config: the session's configuration.
        seeded: whether random ops draw the same numbers in every process.
    """

    meta_graph: MetaGraphDef
    feeds: Mapping[str, str | None]
    restores: Sequence[Mapping[str, Any]]
    init_ops: Sequence[str]
    config: ConfigProto
    checkpoints: Mapping[str, Bundle]
    reads: Sequence[str]
    scratch: Path
    seeded: bool = False
    replaced: Mapping[str, str] = field(default_factory=dict)

    def sandbox(self, links: str) -> Sandbox:
        """Return what the worker may open; it makes links to the checkpoints' files in the directory `links`."""
        held = {f"{links}/{room}/{n}": place for room, one in self.checkpoints.items() for n, place in one.places().items()}
        return Sandbox([*self.reads, links, *held.values()], held)

    def message(self, links: str) -> dict[str, Any]:
        """Return the job as plain data, as `reference_worker.Trained` takes it."""
        graph = _importable(self.meta_graph, self.feeds, self.seeded)
        consumed = {split(edge) for node in graph.node for edge in node.input}
        return {
            "graph": graph.SerializeToString(),
            "ops": op_def_pb2.OpList(op=self.meta_graph.meta_info_def.stripped_op_list.op).SerializeToString(),
            "feeds": dict(self.feeds),
            "replaced": dict(self.replaced),
            "consumed": [tensor for tensor in self.feeds if split(tensor) in consumed],
            "restores": [{**one, "prefix": os.path.join(links, one["prefix"])} for one in self.restores],
            "init_ops": list(self.init_ops),
            "config": self.config.SerializeToString(),
        }


def _importable(meta_graph: MetaGraphDef, feeds: Mapping[str, str | None], seeded: bool) -> GraphDef:
    """Return the graph without `_output_shapes` (those of TF 1 make an import fail), devices and control edges to fed ops.

    A session does not run the op of a fed tensor for a data edge, but it does for a control edge.
    """
    copy, fed = MetaGraphDef(), {split(tensor)[0] for tensor in feeds}
    copy.CopyFrom(meta_graph)
    if seeded:
        seeding.seed(copy)
    for node in copy.graph_def.node:
        node.attr.pop("_output_shapes", None)
        node.device = ""
        if any(edge[0] == "^" and edge[1:] in fed for edge in node.input):
            node.input[:] = [edge for edge in node.input if edge[0] != "^" or edge[1:] not in fed]
    return copy.graph_def


def job(part: Part, prepared: Prepared, exported: str, scratch: Path, config: ConfigProto, assets: Sequence[str] = ()) -> Job:
    """Return the job of one meta graph's reference.

    Args:
        exported: the prefix of the export's own variables; the source of those that are in no checkpoint but initialized.
        scratch: a directory for temporary files.
        assets: the files that fill the graph's tables.
    """
    graph = part.model.graph
    bundles = {id(bundle): bundle for bundle, _ in prepared.sources.values()}.values()
    cuts = [*part.wiring.inputs.values(), *part.wiring.constants]
    return Job(
        meta_graph=graph.meta,
        feeds={tensor: graph.dtype(tensor) for tensor in dict.fromkeys(cuts)},
        restores=[_restore(v, prepared, exported) for v in part.pruned.variables.values()],
        init_ops=[op for ops in part.pruned.tables.values() for op in ops],
        config=config,
        checkpoints={_room(bundle): bundle for bundle in bundles},
        reads=[os.path.dirname(exported), *assets],
        scratch=scratch,
        replaced={old: part.wiring.final(old) for old in part.wiring.replaced},
    )


def _room(bundle: Bundle) -> str:
    return f"checkpoint-{bundle.digest[:16]}"


def _restore(variable: Variable, prepared: Prepared, exported: str) -> dict[str, Any]:
    name = variable.full_name
    bundle, key = prepared.sources.get(name, (None, name))
    return {
        "operation": variable.op_name,
        "dtype": variable.dtype,
        "resource": variable.resource,
        "prefix": f"{_room(bundle)}/{os.path.basename(bundle.prefix)}" if bundle else exported,
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
    """
    with tempfile.TemporaryDirectory(dir=job.scratch) as links, conversation(reference_worker, job.sandbox(links)) as worker:
        worker.send(job.message(links))
        yield Reference(worker, timeout)


class Reference:
    """A training graph in a process; `started` creates it."""

    def __init__(self, worker: "Conversation", timeout: float):
        self._worker, self._timeout = worker, timeout

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
            StepFailed, EnvironmentFailed: as `start` does.
        """
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
    return explained(" ".join(text.split())[:600])
