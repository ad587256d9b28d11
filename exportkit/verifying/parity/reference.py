"""The reference that an export is compared with: the whole training graph, in a process of its own.

It shares the config with the export, and nothing of the way in which the export is made: the graph is not pruned, constants are
fed instead of baked, and TensorFlow's RestoreV2 reads the values from the checkpoint. `reference_graph` has what is run.
"""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exportkit.capabilities import Audit, audit, demand, drop_idle_dangers
from exportkit.checkpoint import Bundle
from exportkit.contract import Export
from exportkit.core import worker as core_worker
from exportkit.metagraph import Variable, canonical
from exportkit.planning.prepare import Part, Prepared
from exportkit.processes import Sandbox, WorkerDied, conversation
from exportkit.processes.sandbox import explained
from exportkit.protos import ConfigProto, MetaGraphDef
from exportkit.serving.running import Refusal
from exportkit.verifying.parity.reference_graph import ReferenceGraph, Restore

if TYPE_CHECKING:
    from exportkit.processes.workers import Conversation


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training graph and the sources of its values.

    Attributes:
        meta_graph: the graph; this TensorFlow must know all its ops.
        feeds: the tensors that runs feed → dtype.
        defaulted: those of them that are computed where a run does not feed them.
        replaced: tensors of the graph → those that take their places.
        restores: the variables' values; a `prefix` that is relative is that of one of `checkpoints`, below the directory of its
            links.
        checkpoints: that directory's name → the checkpoint. Its files are held open, for training may have deleted them by now.
        reads: the other files and directories that the worker may open.
        scratch: a directory for the links.
        init_ops: the operations that fill the tables.
        config: the session's configuration.
        fetches: the tensors that its runs ask for; those that runs ask for besides are computed on the way to them.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.
        assets: nodes that hold the path of a file that becomes an asset.
        initialized: whether values come from the export's own variables, which must be written before it starts.
        seeded: whether random ops draw the same numbers in every process.
    """

    meta_graph: MetaGraphDef
    feeds: Mapping[str, str | None]
    restores: Sequence[Restore]
    init_ops: Sequence[str]
    config: ConfigProto
    checkpoints: Mapping[str, Bundle]
    reads: Sequence[str]
    scratch: Path
    initialized: bool = False
    fetches: Collection[str] = ()
    allowed: Collection[str] = ()
    seeded: bool = False
    replaced: Mapping[str, str] = field(default_factory=dict)
    assets: Collection[str] = ()
    defaulted: Collection[str] = ()

    def sandbox(self, links: str) -> Sandbox:
        """Return what the worker may open; it makes links to the checkpoints' files in the directory `links`."""
        held = {f"{links}/{room}/{n}": place for room, one in self.checkpoints.items() for n, place in one.places().items()}
        return Sandbox([*self.reads, links, *held.values()], held)

    def graph(self, links: str) -> ReferenceGraph:
        """Return the graph that is run; it restores the variables from the links in the directory `links`."""
        restores = [replace(one, prefix=os.path.join(links, one.prefix)) for one in self.restores]
        return ReferenceGraph(self._imported, self.feeds, self.replaced, restores, self.defaulted, seeded=self.seeded)

    @cached_property
    def _imported(self) -> MetaGraphDef:
        """The graph as it is imported: without what an import might run although nothing asks for it."""
        graph, clean = self._bare, self._is_clean
        if not clean:
            drop_idle_dangers(graph.graph_def, self._roots(self.fetches), self._fed)
        return graph

    @cached_property
    def _bare(self) -> MetaGraphDef:
        """The graph without what a loader of the whole would run besides."""
        graph = MetaGraphDef()
        graph.graph_def.CopyFrom(self.meta_graph.graph_def)
        graph.meta_info_def.stripped_op_list.CopyFrom(self.meta_graph.meta_info_def.stripped_op_list)
        return graph

    @cached_property
    def _is_clean(self) -> bool:
        """Whether nothing that is not allowed can run, whichever of its `fetches` are asked for, though nothing is left out."""
        return not self._audit(self._bare, self.fetches).dangers(self.allowed)

    @property
    def nodes(self) -> int:
        """How many nodes are imported."""
        return len(self._imported.graph_def.node)

    @property
    def _fed(self) -> set[str]:
        return {canonical(tensor) for tensor in self.feeds} - {*self.defaulted}

    def _roots(self, fetches: Collection[str]) -> list[str]:
        taken = [tensor for tensor in fetches if canonical(tensor) not in self._fed]
        return [*self.init_ops, *(restore.operation for restore in self.restores), *self.replaced.values(), *taken]

    def demand(self, fetches: Collection[str] = ()) -> None:
        """Demand that nothing is run that is not allowed, when the graph is imported, initialised, and asked for `fetches`.

        Asked for less it can do less, so of a graph that is clean there is one audit; but where nothing at all is known to run,
        an audit takes every node for one that may.

        Raises:
            BindingError: something is.
        """
        if not (self._is_clean and self._roots(()) and {*self.fetches}.issuperset(fetches)):
            demand(self._audit(self._imported, fetches), self.allowed, "training graph")

    def _audit(self, graph: MetaGraphDef, fetches: Collection[str]) -> Audit:
        return audit(graph, assets=self.assets, fetches=self._roots(fetches), feeds=self._fed)


def job(part: Part, export: Export, exported: str, config: ConfigProto) -> Job:
    """Return the job of one meta graph's reference.

    Args:
        exported: the prefix of the export's own variables; the source of those that are in no checkpoint but initialized.
    """
    graph, plan, prepared = part.model.graph, export.plan, export.prepared
    bundles = {id(bundle): bundle for bundle, _ in prepared.sources.values()}.values()
    feeds = {tensor: graph.dtype(tensor) or part.facts[name].dtype for name, tensor in part.wiring.inputs.items()}
    restores = [_restore(v, prepared, exported) for v in part.pruned.variables.values()]
    initialized = any(one.prefix == exported for one in restores)
    return Job(
        meta_graph=graph.meta,
        feeds={**feeds, **{tensor: graph.dtype(tensor) for tensor in part.wiring.constants}},
        restores=restores,
        initialized=initialized,
        init_ops=[op for ops in part.pruned.tables.values() for op in ops],
        config=config,
        checkpoints={_room(bundle): bundle for bundle in bundles},
        reads=[*[os.path.dirname(exported)] * initialized, *(str(asset.resolved) for asset in prepared.assets)],
        scratch=export.scratch,
        fetches=part.wiring.fetches(plan.signatures, plan.bindings),
        allowed=plan.allow.ops,
        assets=list(part.pruned.assets),
        defaulted=part.wiring.defaulted,
        replaced={old: part.wiring.final(old) for old in part.wiring.replaced},
    )


def _room(bundle: Bundle) -> str:
    return f"checkpoint-{bundle.digest[:16]}"


def _restore(variable: Variable, prepared: Prepared, exported: str) -> Restore:
    name = variable.full_name
    bundle, key = prepared.sources.get(name, (None, name))
    return Restore(
        operation=variable.op_name,
        dtype=variable.dtype,
        resource=variable.resource,
        prefix=f"{_room(bundle)}/{os.path.basename(bundle.prefix)}" if bundle else exported,
        key=key,
        slice=_slice(variable),
    )


def _slice(variable: Variable) -> str:
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
    job.demand()
    with (
        tempfile.TemporaryDirectory(dir=job.scratch) as links,
        conversation(core_worker, job.sandbox(links)) as worker,
    ):
        made = job.graph(links)
        stages = [made.restoring, list(job.init_ops)]
        worker.send((core_worker.IMPORT, (made.graph_def.SerializeToString(), stages, job.config.SerializeToString())))
        yield Reference(worker, made.placeholders, timeout, job)


class Reference:
    """A training graph in a process; `started` creates it."""

    def __init__(self, worker: "Conversation", placeholders: Mapping[str, str], timeout: float, job: Job):
        self._worker, self._placeholders, self._timeout, self._job = worker, placeholders, timeout, job
        self._admitted: set[str] = set()

    def start(self) -> Refusal | None:
        """Wait until it can run; return TensorFlow's error if it cannot.

        Raises:
            StepFailed: it does not start in time, or its process crashed.
            EnvironmentFailed: its process was killed from outside, or could not start.
        """
        answer = self._receive("starting it")
        return answer if isinstance(answer, Refusal) else None

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
            self._job.demand(fetches)
            self._admitted.update(fetches)
        asked = [tensor for tensor in fetches if tensor not in feeds]  # a session does not return what it is fed
        inside = self._placeholders
        fed = {inside[name]: value for name, value in feeds.items()}
        self._worker.send((core_worker.RUN, (fed, [inside.get(name, name) for name in asked])))
        answer = self._receive("running it")
        if isinstance(answer, Refusal):
            return answer
        values = dict(zip(asked, answer, strict=True))
        return [values[name] if name in values else np.asarray(feeds[name]) for name in fetches]

    def _receive(self, stage: str) -> Any:
        try:
            value, _, error = self._worker.receive(self._timeout)
        except WorkerDied as died:
            raise died.death.error(
                "training graph",
                f"{stage}: its process",
                after_timeout="set post.verify.run_timeout higher, or look for a queue that waits for ever",
                after_crash="write samples that it takes, or leave the proof out: ~post.verify",
            ) from None
        return Refusal(_describe(*error)) if error else value


def _describe(code: str, message: str) -> str:
    """Return a status as TensorFlow's Python calls it, on one line: ``NotFoundError: …``."""
    kind = "".join(word.capitalize() for word in code.split("_"))
    return explained(f"{kind}Error: {' '.join(message.split())}"[:600])
