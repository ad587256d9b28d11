"""The training graph, whole, in a process of its own: what an export is compared with.

It shares with the export what the config says and nothing of how it is carried out: the graph is not pruned, constants are fed
and not baked, and the values come from the checkpoint through TensorFlow's RestoreV2.
"""

import os
import pickle
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, StepFailed
from exportkit.metagraph import Variable, split
from exportkit.planning.prepare import Part, Prepared
from exportkit.processes import workers
from exportkit.protos import GraphDef, MetaGraphDef, config_pb2, op_def_pb2
from exportkit.serving.native import Refusal
from exportkit.verifying.parity import reference_worker, seeding

ConfigProto = config_pb2.ConfigProto


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training graph and what gives it its values.

    Attributes:
        meta_graph: the graph; its ops must be known to this TensorFlow.
        feeds: tensors that runs feed → dtype.
        replaced: tensors of the graph → those that take their places.
        restores: per variable operation, the arguments of the worker's restore.
        init_ops: what fills the tables.
        config: how the session is set up.
        seeded: whether random ops shall draw the same numbers in every process.
    """

    meta_graph: MetaGraphDef
    feeds: Mapping[str, str]
    restores: Sequence[Mapping[str, Any]]
    init_ops: Sequence[str]
    config: ConfigProto
    seeded: bool = False
    replaced: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        """The job in bytes and names, as the worker reads it."""
        graph = _importable(self.meta_graph, self.feeds, self.seeded)
        taken = {split(edge) for node in graph.node for edge in node.input}
        return {
            "graph": graph.SerializeToString(),
            "ops": op_def_pb2.OpList(op=self.meta_graph.meta_info_def.stripped_op_list.op).SerializeToString(),
            "feeds": dict(self.feeds),
            "replaced": dict(self.replaced),
            "consumed": [tensor for tensor in self.feeds if split(tensor) in taken],
            "restores": list(self.restores),
            "init_ops": list(self.init_ops),
            "config": self.config.SerializeToString(),
        }


def _importable(meta_graph: MetaGraphDef, feeds: Mapping[str, str], seeded: bool) -> GraphDef:
    """The graph without what is not of it: `_output_shapes` (TF 1's stop an import), devices, control edges to what is fed.

    A session does not follow a data edge from a tensor that is fed, but it does wait for its op where a control edge says so.
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


def job(part: Part, prepared: Prepared, exported: str, scratch: Path, config: ConfigProto) -> Job:
    """The job that is one meta graph's reference.

    Args:
        exported: prefix of the export's own variables, from which those come that are initialised.
        scratch: where links to the checkpoints' files are made, which training may have deleted by now.
    """
    graph = part.model.graph
    cuts = [*part.wiring.inputs.values(), *part.wiring.constants]
    return Job(
        meta_graph=graph.meta,
        feeds={tensor: graph.dtype(tensor) for tensor in dict.fromkeys(cuts)},
        restores=[_restore(v, prepared, exported, scratch) for v in part.pruned.variables.values()],
        init_ops=[op for ops in part.pruned.tables.values() for op in ops],
        config=config,
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
    """``4 7 0,2:0,7``: the whole shape, then start and length in each dimension (TensorSlice in tensor_slice.h)."""
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
    asked, requests = os.pipe()
    replies, answers = os.pipe()
    with ExitStack() as ours, tempfile.TemporaryFile() as log:
        send, receive = (ours.enter_context(open(end, mode)) for end, mode in ((requests, "wb"), (replies, "rb")))
        with open(asked, "rb") as stdin, open(answers, "wb") as stdout:
            process = workers.start(reference_worker, stdin, stdout, log)
        try:
            yield Reference(process, send, receive, log, job, timeout)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                send.close()


class Reference:
    """A training graph in a process; `started` makes one."""

    def __init__(
        self, process: workers.Process, requests: IO[bytes], replies: IO[bytes], log: IO[bytes], job: Job, timeout: float
    ):
        self._process, self._requests, self._replies, self._log, self._timeout = process, requests, replies, log, timeout
        self._send(job.message())

    def start(self) -> Refusal | None:
        """Wait until it can run; what TensorFlow said where it cannot.

        Raises:
            StepFailed: it does not start in time.
            EnvironmentFailed: the process was killed from outside, or cannot be started.
        """
        _, error = self._receive("starting it")
        return error and Refusal(_one_line(error))

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray] | Refusal:
        """Run the graph once: tensor name → value, and the tensors that are wanted. Raises what `start` raises."""
        self._send((dict(feeds), list(fetches)))
        value, error = self._receive("running it")
        return value if error is None else Refusal(_one_line(error))

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # where it has died, that is told when its answer is missed
            pickle.dump(message, self._requests, protocol=5)
            self._requests.flush()

    def _receive(self, stage: str) -> tuple[Any, str | None]:
        late = threading.Event()
        timer = threading.Timer(self._timeout, lambda: (late.set(), self._process.kill()))
        timer.start()
        try:
            return pickle.load(self._replies)
        except (EOFError, pickle.UnpicklingError):
            raise self._death(stage, late.is_set()) from None
        finally:
            timer.cancel()

    def _death(self, stage: str, late: bool) -> ExportKitError:
        if late:
            do = "set post.verify.run_timeout higher, or look for a queue that waits for ever"
            return StepFailed(Problem("training graph", f"{stage}: no end within {self._timeout:g} s", do))
        code = self._process.wait()
        self._log.seek(0)
        words = next((line for line in reversed(list(_lines(self._log))) if line), f"exit code {code}")
        return EnvironmentFailed(Problem("training graph", f"{stage}: its process died: {words}"))


def _lines(log: Any) -> Iterator[str]:
    return (line.decode(errors="replace").strip() for line in log)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]
