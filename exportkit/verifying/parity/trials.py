"""Both sides of a proof: the training graph and the export, asked the same questions."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import metagraph
from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.contract import Export, Original
from exportkit.errors import Problem, StepFailed
from exportkit.exporting.snapshot import Watch
from exportkit.metagraph import SAVED_MODELS, Graph
from exportkit.protos import ConfigProto, MetaGraphDef
from exportkit.samples import Batch
from exportkit.serving import hosts
from exportkit.serving.remembered import Remembered, request_key
from exportkit.serving.running import Refusal, Running, unoptimized
from exportkit.serving.second_session import second_session
from exportkit.verifying.parity import adapters, loaded, reference, relocation
from exportkit.verifying.parity.loaded import LoadedOriginal
from exportkit.verifying.parity.reference import Job, Reference

_CUT = "cut the graph behind it: bindings.NAME: {placeholder: TENSOR}"
_LOAD = f"correct what it names (bindings.NAME.vocabulary of a table), or {_CUT}"
_RUN_LESS = f"where it names an op that this TensorFlow does not have, {_CUT}; ~post.verify exports it unverified"

Values = dict[str, np.ndarray]
Answer = Values | Refusal
Answers = tuple[Answer, Answer]  # to one question, asked twice: an answer that is not the same twice is random
Asked = Reference | LoadedOriginal  # the reference in its process
Twice = tuple[Values, Values]  # Answers without a refusal


@dataclass(frozen=True)
class Trial:
    """A question to a signature.

    Attributes:
        rows: the size of its batch; None where that is not to be chosen.
        inputs: alias → value.
        fed: binding of a tensor → the value that `inputs` come to.
        drawn: whether the values are random ones.
        doubtful: whether the export has refused it, so that the training graph must refuse it, too.
    """

    signature: str
    rows: int | None
    inputs: Mapping[str, np.ndarray]
    fed: Mapping[str, np.ndarray]
    drawn: bool
    doubtful: bool = False

    def __str__(self) -> str:
        rows = "its sample" if self.rows is None else "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{rows} of random values" if self.drawn else rows


def trials(export: Export, key: str, batches: Mapping[str, Batch], sizes: Sequence[int]) -> list[Trial]:
    """Return the questions to the signatures of meta graph `key`: the sample of each, at several sizes where it has rows.

    Args:
        batches: signature → sample.
        sizes: numbers of rows; empty: 1, and all of the sample's but at least 2, as far as the export takes them.

    Raises:
        StepFailed: a sample's tf.Examples are not what the signature parses.
    """
    found = []
    for name, batch in batches.items():
        for rows in _sizes(batch, sizes):
            inputs: Mapping[str, np.ndarray] = batch.resized(rows) if rows else dict(batch.values)
            found.append(_trial(export, key, name, rows, inputs, drawn=batch.drawn))
        for inputs in batch.refused:
            found.append(_trial(export, key, name, _length(batch, inputs), inputs, drawn=batch.drawn, doubtful=True))
    return found


def _sizes(batch: Batch, wanted: Sequence[int]) -> Sequence[int | None]:
    if not batch.rows:
        return (None,) if not batch.refusal or not batch.drawn else ()
    return wanted or [size for size in dict.fromkeys((1, max(2, batch.rows))) if not batch.sizes or size in batch.sizes]


def _length(batch: Batch, inputs: Mapping[str, np.ndarray]) -> int | None:
    """Return the number of rows of values that a sample was cut or repeated to."""
    resized = (value for alias, value in inputs.items() if value.shape != batch.values[alias].shape)
    return next((len(value) for value in resized if value.ndim), None)


def _trial(
    export: Export,
    key: str,
    name: str,
    rows: int | None,
    inputs: Mapping[str, np.ndarray],
    *,
    drawn: bool,
    doubtful: bool = False,
) -> Trial:
    dtypes = {ref: tensor.dtype for ref, tensor in export.bound[key].items()}
    return Trial(name, rows, inputs, _fed(name, export, dtypes, inputs), drawn, doubtful)


def _fed(name: str, export: Export, dtypes: Mapping[str, str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return adapters.fed(export.plan.signatures[name], export.plan.bindings, dtypes, inputs)
    except ValueError as cause:
        raise StepFailed(Problem(f"samples.{name}", str(cause), f"correct samples.{name}, or the features")) from None


class TrainingGraph:
    """The whole training graph of meta graph `key`, with the values that the export's variables have in the checkpoint.

    Attributes:
        note: what was run, for the report.
    """

    def __init__(self, export: Export, key: str, timeout: float):
        self._export, self._key, self._part, self._timeout = export, key, export.prepared.parts[key], timeout
        variables = str(export.directory / "variables" / "variables")
        self._job = reference.job(self._part, export, variables, unoptimized())
        self._constants = {tensor: self._constant(tensor, value) for tensor, value in self._part.wiring.constants.items()}
        self._begun: tuple[ExitStack, Reference] | None = None
        self._remembered = Remembered()
        left_out = len(self.graph.nodes) - self._job.nodes
        self.note = f"whole graph of {len(self.graph.nodes):,} nodes"
        self.note += f", but for {left_out:,} that an import might run" if left_out else ""

    @property
    def graph(self) -> Any:
        return self._part.model.graph

    def answers(self, questions: Sequence[Trial], *, seeded: bool = False) -> list[Answers]:
        """Return the answers to each question. Raises what `running` raises."""
        with self.running(seeded=seeded) as running:
            return self.ask(running, questions)

    def ask(self, running: Asked, questions: Sequence[Trial]) -> list[Answers]:
        """Return the answers of a running graph to each question."""
        return [(self._first(running, trial), self._answer(running, trial)) for trial in questions]

    def refusal(self, running: Asked, signature: str, inputs: Mapping[str, np.ndarray]) -> str:
        """Return why a running graph refuses values for a signature; empty where it takes them.

        The graph must keep no state: what it answers is remembered as its first answer to them.
        """
        answer = self._answer(running, _trial(self._export, self._key, signature, None, inputs, drawn=True))
        if isinstance(answer, Refusal):
            return answer.text
        self._remembered.add(request_key(signature, inputs), answer)
        return ""

    def _first(self, running: Asked, trial: Trial) -> Answer:
        known = self._remembered.to(request_key(trial.signature, trial.inputs))
        return known[0] if known else self._answer(running, trial)

    def begin(self) -> None:
        """Start the graph's process, if it needs nothing of the export: until `running` asks for it, it restores variables.

        Raises:
            BindingError: its import or initialisation can do what is not allowed.
        """
        if self._original is None and not self._job.initialized:
            context = ExitStack()
            self._begun = context, context.enter_context(reference.started(self._job, self._timeout))

    def close(self) -> None:
        """End the process that was begun, if nothing has asked for it."""
        if self._begun is not None:
            self._begun[0].close()

    @property
    def _original(self) -> Original | None:
        """The SavedModel whose own loader loads the graph."""
        return None if self._job.replaced else self._part.model.original

    @contextmanager
    def _started(self, job: Job) -> Iterator[Reference]:
        """Start a process, or take the one that was begun for this job."""
        if self._begun is None or job.seeded:
            with reference.started(job, self._timeout) as running:
                yield running
            return
        (context, running), self._begun = self._begun, None
        with context:
            yield running

    @contextmanager
    def running(self, *, seeded: bool = False) -> Iterator[Asked]:
        """Run the graph in a process that ends with the context.

        A graph that was taken from a SavedModel is run as that model's own loader loads it, unless tensors of it are replaced
        or its random ops are seeded. Where this TensorFlow cannot import all of a graph, only what the signatures need is run.

        Raises:
            StepFailed: it does not run, or not in time.
            EnvironmentFailed: its process was killed from outside.
        """
        self._remembered = Remembered()
        original = self._original
        if original is not None and not seeded:
            with loaded.load(original, self._timeout, self._export.plan.allow.ops, self._files(original)) as model:
                if not isinstance(model, str):
                    self.note = f"{original.directory}, loaded as a model server loads it"
                    yield model
                    return
            self.note += f"; the model as a whole cannot be loaded: {model}"
        job = replace(self._job, seeded=seeded)
        with self._started(job) as running:
            if not (refusal := running.start()):
                yield running
                return
        with reference.started(self._reached(job), self._timeout) as running:
            if running.start():
                raise StepFailed(Problem("training graph", f"cannot be run: {refusal.text}", _RUN_LESS))
            self.note = f"the {self._part.pruned.nodes_after:,} nodes that signatures need: {refusal.text}"
            yield running

    def _files(self, original: Original) -> list[Path]:
        """Return the files of a SavedModel that the plan has read or will copy; each may be a link there."""
        graphs = (original.directory / name for name in SAVED_MODELS)
        held = self._part.model.bundle.files if self._part.model.bundle is not None else {}
        named = [*filter(Path.exists, graphs), *(Path(file.path) for file in held.values())]
        return [*(path.resolve() for path in named), *(asset.resolved for asset in self._export.prepared.assets)]

    def _reached(self, job: Job) -> Job:
        return replace(job, meta_graph=self._part.pruned.meta)

    def _constant(self, tensor: str, value: Any) -> np.ndarray:
        dtype, shape = self.graph.dtype(tensor), self.graph.shape(tensor)
        array = np.asarray(value, object if dtype == "string" else dtype and numpy_dtype(dtype))
        if dtype == "string":
            array = objects([str(text).encode() for text in array.flat]).reshape(array.shape)
        return array if shape is None or None in shape else np.broadcast_to(array, shape)

    def feeds(self, trial: Trial) -> dict[str, np.ndarray]:
        """Return tensor of the graph → its value, from a question and the config's constants."""
        return {self._part.wiring.inputs[name]: value for name, value in trial.fed.items()} | self._constants

    def _answer(self, running: Asked, trial: Trial) -> Answer:
        plan, names = self._export.plan, self._part.wiring.names
        outputs = plan.signatures[trial.signature].outputs
        needed = (leaf for ref in outputs.values() for leaf in adapters.leaves(ref, plan.bindings))
        leaves = list(dict.fromkeys(needed))
        values = running.run(self.feeds(trial), [names[leaf] for leaf in leaves])
        if isinstance(values, Refusal):
            return values
        tensors = dict(zip(leaves, values, strict=True))
        return {alias: adapters.computed(ref, plan.bindings, tensors) for alias, ref in outputs.items()}


class MovedExport:
    """A copy of the export out of reach of all that it was made from, in the C++ core of a model server."""

    def __init__(self, export: Export, key: str, timeout: float, *, seeded: bool = False):
        self._key, self._tags, self._timeout = key, export.plan.meta_graphs[key].tags, timeout
        self._allowed = export.plan.allow.ops
        self._host = hosts.of(export)
        self._begun: Future[Running] | None = None
        self._watch = Watch(export.directory)
        self._copy = Path(tempfile.mkdtemp(prefix="moved-", dir=hosts.copies(export.scratch)))
        self._taken = relocation.relocate(export.directory, self._copy, seeded=seeded)

    @property
    def meta(self) -> MetaGraphDef:
        """The meta graph that is run, as it was read back."""
        return self._model.meta

    def begin(self) -> None:
        """Load the graph in a thread with `first_config`; the next call of `running` waits for that."""
        pool = ThreadPoolExecutor(1)
        self._begun = pool.submit(lambda: self._loaded(self.first_config()))
        pool.shutdown(wait=False)

    def first_config(self) -> ConfigProto:
        """Return the config of the session that is asked first."""
        return unoptimized() if self.keeps_state else ConfigProto()

    def is_current(self) -> bool:
        """Return whether no file of the version was added, changed or removed since this was made of it."""
        return not str(self._watch.changes())

    def close(self) -> None:
        """End a load that was begun, if nothing has waited for it."""
        if self._begun is not None:
            self._host.kill()
            self._begun.exception()
            self._begun = None

    def answers(self, questions: Sequence[Trial], config: ConfigProto) -> list[Answers]:
        """Return the answers to each question, of one load. Raises what `running` raises."""
        with self.running(config) as model:
            return self.ask(model, questions)

    def ask(self, model: Running, questions: Sequence[Trial]) -> list[Answers]:
        """Return the answers of a running graph to each question."""
        return [self._answers(model, trial) for trial in questions]

    def ask_once(self, model: Running, questions: Sequence[Trial]) -> list[Answer]:
        """Return the first answer to each question. A graph that keeps a state is asked as often as `ask` does."""
        if self.keeps_state:
            return [first for first, _ in self.ask(model, questions)]
        return [model.answer(trial.signature, trial.inputs, 0) for trial in questions]

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.meta)

    @cached_property
    def keeps_state(self) -> bool:
        """Whether an answer may depend on those before it: something that runs draws, or changes a variable."""
        fetches = [info.name for signature in self.meta.signature_def.values() for info in signature.outputs.values()]
        return metagraph.Running(self._graph, [name for name in fetches if name], ()).keeps_state

    def as_written(self, model: Running) -> Running:
        """Return the graph as it is written, beside the session that a server would have, or in place of it.

        Raises:
            StepFailed: it does not load.
            EnvironmentFailed: its process was killed from outside.
        """
        if self.keeps_state:
            return model
        second = second_session(self._graph, self._copy)
        if second is None:
            return self._loaded(unoptimized())
        beside = model.beside(second, unoptimized(), remembers=True)
        with suppress(StepFailed):
            beside.load()
            return beside
        return self._loaded(unoptimized())

    def _answers(self, model: Running, trial: Trial) -> Answers:
        one = model.answer(trial.signature, trial.inputs, 0)
        return (one, one) if isinstance(one, Refusal) else (one, model.answer(trial.signature, trial.inputs, 1))

    @cached_property
    def _model(self) -> Running:
        return Running(self._copy, self._tags, timeout=self._timeout, allowed=self._allowed, host=self._host)

    @contextmanager
    def running(self, config: ConfigProto) -> Iterator[Running]:
        """Run the graph in a new session of the export's process.

        Raises:
            StepFailed: it does not load.
            EnvironmentFailed: its process was killed from outside.
        """
        begun, self._begun = self._begun, None
        with begun.result() if begun else self._loaded(config) as model:
            yield model

    def _loaded(self, config: ConfigProto) -> Running:
        model = self._model.configured(config, remembers=not self.keeps_state)
        try:
            model.load()
        except StepFailed as error:
            raise self._unloaded(error) from None
        return model

    def _unloaded(self, error: StepFailed) -> StepFailed:
        where, reason = f"meta_graphs.{self._key}", _reason(error)
        if path := relocation.outside(reason, self._taken):
            what, do = f"reads {path}, which is not in the version", "put it in the collection asset_filepaths of the graph"
            return StepFailed(Problem(where, what, f"{do}, or {_CUT}"))
        late = error.problems[0].do.startswith("raise the timeout")
        return StepFailed(Problem(where, f"does not load: {reason}", "set post.verify.run_timeout higher" if late else _LOAD))

    def end_process(self) -> None:
        """Have the next session made by a process that knows nothing of those before."""
        self._host.stop()

    def fetch(self, model: Running, trial: Trial, tensors: Sequence[str]) -> dict[str, np.ndarray] | None:
        """Return the values of tensors of the exported graph; None where TensorFlow refuses."""
        inputs = self.meta.signature_def[trial.signature].inputs
        values = model.run({inputs[alias].name: value for alias, value in trial.inputs.items()}, tensors)
        return None if isinstance(values, Refusal) else dict(zip(tensors, values, strict=True))

    def runs(self, questions: Sequence[tuple[Mapping[str, np.ndarray], Sequence[str]]]) -> list[Answer]:
        """Run the graph as it is written: each question is ``({tensor: value}, [tensors])``, each answer tensor → value."""
        with self.running(unoptimized()) as model:
            return [self._run(model, feeds, tensors) for feeds, tensors in questions]

    def _run(self, model: Running, feeds: Mapping[str, np.ndarray], tensors: Sequence[str]) -> Answer:
        values = model.run(feeds, tensors)
        return values if isinstance(values, Refusal) else dict(zip(tensors, values, strict=True))


def _reason(error: StepFailed) -> str:
    """Return TensorFlow's message, without the stage that `exportkit.serving.running` puts before it."""
    what = error.problems[0].what
    return what.partition(": ")[2] or what
