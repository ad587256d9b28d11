"""What is sent to an export to try it: the samples of its signatures, and which of their sizes are those of a batch.

Every step asks here, so that verify, warmup, manifest and benchmark take the same values and cut the same axes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exportkit import samples
from exportkit.checkpoint import tensorproto
from exportkit.errors import StepFailed
from exportkit.modelserver import loaded
from exportkit.samples import Batch, rows
from exportkit.samples.baked import first_sizes
from exportkit.samples.graph_hints import hints
from exportkit.samples.hints import Hint
from exportkit.serving import native
from exportkit.serving.native import Refusal, Running

if TYPE_CHECKING:
    from exportkit.contract import Export
    from exportkit.protos import MetaGraphDef

TIMEOUT = 600.0
DEATHS = 2  # of its process, after which a model is not tried on
MOST = 24  # ways to draw the values of one signature that a model is asked


def tried(export: "Export") -> tuple["MetaGraphDef", dict[str, Batch]]:
    """Return the meta graph that a server loads by default, and the samples of its signatures."""
    key = loaded({key: meta.meta_info_def.tags for key, meta in export.meta_graphs.items()})
    return export.meta_graphs[key], found(export, key)


def found(export: "Export", key: str, timeout: float = TIMEOUT) -> dict[str, Batch]:
    """Return the samples of meta graph `key` that its signatures answer, with their axes; they are searched once in an export.

    Of a signature that takes none the last one that was tried is there, with the model's refusal; of a model that does not load
    the samples as they are drawn first.

    Args:
        timeout: seconds that the load, or one run, may take.

    Raises:
        ConfigError: values that the config gives do not fit, or cannot be read.
        EnvironmentFailed: its process was killed from outside.
    """
    place = (str(export.directory), key)
    if place not in export.tried:
        export.tried[place] = _Search(export, key, timeout).batches()
        _report(export, key, export.tried[place])
    return export.tried[place]


class _Search:
    """The search for samples that the signatures of one meta graph answer."""

    def __init__(self, export: "Export", key: str, timeout: float):
        self._export, self._key, self._timeout = export, key, timeout
        self._part, self._bound = export.prepared.parts[key], export.bound[key]
        self._meta = export.meta_graphs[key]

    def batches(self) -> dict[str, Batch]:
        keys = [key for key in self._export.signatures if key in self._meta.signature_def]
        known = self._hints()
        tags = self._meta.meta_info_def.tags
        allowed, config = self._export.plan.allow.ops, native.unoptimized()
        with Running(self._export.directory, tags, timeout=self._timeout, config=config, allowed=allowed) as model:
            try:
                model.load()
            except StepFailed:  # the calling step runs it as well, and reports why
                return samples.load(self._export.plan, self._bound, keys)
            return {key: self._signature(key, known, model) for key in keys}

    def _hints(self) -> dict[str, Hint]:
        """Return binding → what the training graph tells about the tensor that it feeds."""
        inputs = self._part.wiring.inputs
        known = hints(self._part.model.graph, inputs.values())
        return {name: known[tensor] for name, tensor in inputs.items()}

    def _inner(self, key: str) -> list[int]:
        plan, wiring = self._export.plan, self._part.wiring
        stops = [*wiring.feeds(plan.signatures[key], plan.bindings), *wiring.constants]
        return first_sizes(self._part.model.graph, wiring.fetches(plan.signatures, plan.bindings, [key]), stops)

    def _signature(self, key: str, known: Mapping[str, Hint], model: Running) -> Batch:
        inner, refusal, poor, refused, deaths = self._inner(key), "", None, [], 0
        for number, batch in enumerate(samples.candidates(self._export.plan, self._bound, key, known, inner)):
            if number == MOST or deaths == DEATHS:
                break
            answer = model.ask(key, batch.values)
            if isinstance(answer, Refusal):
                refusal, last = refusal or answer.text, batch
                refused.append(batch.values)
                deaths += answer.died
            elif batch.drawn and _is_uninformative(answer, model.ask(key, batch.values)):
                poor = poor or (batch, answer)
            else:
                return self._judged(key, known, inner, model, batch, answer)
        if poor:
            return self._judged(key, known, inner, model, *poor)
        return replace(last, refusal=refusal, refused=tuple(refused), rows=None, open=frozenset())

    def _judged(
        self, key: str, known: Mapping[str, Hint], inner: list[int], model: Running, batch: Batch, answer: Mapping[str, Any]
    ) -> Batch:
        inputs = self._export.plan.signatures[key].inputs
        shapes = {alias: self._bound[ref].shape for alias, ref in inputs.items()}
        own = {alias: known[ref] for alias, ref in inputs.items() if ref in known}

        def ask(values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray] | None:
            answer = model.ask(key, values)
            return None if isinstance(answer, Refusal) else answer

        return rows.found(batch, shapes, own, inner, answer, ask)


def _is_uninformative(answer: Mapping[str, np.ndarray], again: Mapping[str, np.ndarray] | Refusal) -> bool:
    """Return whether another sample would prove more: this one gives no values, or others each time.

    A convolution of an image that is smaller than its kernel may leave its output as the memory was.
    """
    if isinstance(again, Refusal) or any(value.size == 0 for value in answer.values()):
        return True
    return any(tensorproto.digest(value) != tensorproto.digest(again[alias]) for alias, value in answer.items())


def _report(export: "Export", key: str, batches: Mapping[str, Batch]) -> None:
    """Put into the report what was found of each signature's batches."""
    for meta_graph in export.report.meta_graphs:
        for signature in meta_graph.signatures if meta_graph.key == key else ():
            batch = batches.get(signature.key)
            if batch is not None and batch.unbatched is not None:
                signature.batching = "yes" if not batch.unbatched else f"no: {batch.unbatched}"
                for tensor in signature.inputs:
                    tensor.rows = batch.axes.get(tensor.alias, "")
                    tensor.tried = list(batch.values[tensor.alias].shape)
