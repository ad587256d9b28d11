"""What is sent to an export to try it: the samples of its signatures, and which of their sizes are those of a batch.

Every step asks here, so that verify, warmup, manifest and benchmark take the same values and cut the same axes.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
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
from exportkit.serving import hosts
from exportkit.serving.running import Refusal, Running, unoptimized

if TYPE_CHECKING:
    from exportkit.contract import Export
    from exportkit.protos import MetaGraphDef

Values = Mapping[str, np.ndarray]
Also = Callable[[str, Values], str]  # signature, values → why they are refused; empty where they are taken

TIMEOUT = 600.0
DEATHS = 2  # of its process, after which a model is not tried on
MOST = 24  # ways to draw the values of one signature that a model is asked


def tried(export: "Export") -> tuple["MetaGraphDef", dict[str, Batch]]:
    """Return the meta graph that a server loads by default, and the samples of its signatures."""
    key = loaded_key(export)
    return export.meta_graphs[key], found(export, key)


def loaded_key(export: "Export") -> str:
    """Return the key of the meta graph that a server loads by default."""
    return loaded({key: meta.meta_info_def.tags for key, meta in export.meta_graphs.items()})


def found(
    export: "Export", key: str, timeout: float = TIMEOUT, *, model: Running | None = None, also: Also | None = None
) -> dict[str, Batch]:
    """Return the samples of meta graph `key` that its signatures answer, with their axes; they are searched once in an export.

    Of a signature that takes none the last one that was tried is there, with the model's refusal; of a model that does not load
    the samples as they are drawn first.

    Args:
        timeout: seconds that the load, or one run, may take.
        model: the meta graph where it is loaded already, as it is written; it is loaded for the search otherwise.
        also: what else has to take values that are drawn. What was found without it is searched again where it refuses that.

    Raises:
        ConfigError: values that the config gives do not fit, or cannot be read.
        EnvironmentFailed: its process was killed from outside.
    """
    place = (str(export.directory), key)
    search, known = _Search(export, key, timeout, also), export.tried.get(place)
    if names := search.names if known is None else search.refused_elsewhere(known):
        export.tried[place] = {**(known or {}), **search.batches(names, model)}
        _report(export, key, export.tried[place])
    return export.tried.setdefault(place, {})


class _Search:
    """The search for samples that the signatures of one meta graph answer; its arguments are those of `found`."""

    def __init__(self, export: "Export", key: str, timeout: float, also: Also | None):
        self._export, self._key, self._timeout = export, key, timeout
        self._part, self._bound = export.prepared.parts[key], export.bound[key]
        self._meta, self._also = export.meta_graphs[key], also
        self.names = [name for name in export.signatures if name in self._meta.signature_def]

    def refused_elsewhere(self, known: Mapping[str, Batch]) -> list[str]:
        """Return the signatures whose values were drawn and taken, and are refused by what was not asked then."""
        drawn = {name: batch.values for name, batch in known.items() if batch.drawn and not batch.refusal}
        return [name for name, values in drawn.items() if self._also is not None and self._also(name, values)]

    def batches(self, names: Sequence[str], model: Running | None) -> dict[str, Batch]:
        if model is not None:
            return self._found(names, model)
        tags = self._meta.meta_info_def.tags
        allowed, config = self._export.plan.allow.ops, unoptimized()
        host = hosts.of(self._export)
        with Running(self._export.directory, tags, timeout=self._timeout, config=config, allowed=allowed, host=host) as loaded:
            try:
                loaded.load()
            except StepFailed:  # the calling step runs it as well, and reports why
                return samples.load(self._export.plan, self._bound, names)
            return self._found(names, loaded)

    def _found(self, names: Sequence[str], model: Running) -> dict[str, Batch]:
        known = self._hints()
        return {name: self._signature(name, known, model) for name in names}

    def _hints(self) -> dict[str, Hint]:
        """Return binding → what the training graph tells about the tensor that it feeds."""
        inputs = self._part.wiring.inputs
        files = {asset.path for asset in self._export.prepared.assets}
        known = hints(self._part.model.graph, inputs.values(), files)
        return {name: known[tensor] for name, tensor in inputs.items()}

    def _inner(self, key: str) -> list[int]:
        plan, wiring = self._export.plan, self._part.wiring
        stops = [*wiring.feeds(plan.signatures[key], plan.bindings), *wiring.constants]
        return first_sizes(self._part.model.graph, wiring.fetches(plan.signatures, plan.bindings, [key]), stops)

    def _signature(self, key: str, known: Mapping[str, Hint], model: Running) -> Batch:
        inner, best, deaths = self._inner(key), None, 0
        refused: list[tuple[Values, str]] = []
        elsewhere: list[tuple[Values, str]] = []
        for batch in islice(samples.candidates(self._export.plan, self._bound, key, known, inner), MOST):
            answer = model.ask(key, batch.values)
            if isinstance(answer, Refusal):
                refused.append((batch.values, answer.text))
                deaths += answer.died
                if deaths == DEATHS:
                    break
            elif batch.drawn and (why := self._refusal_elsewhere(key, batch.values, model)):
                elsewhere.append((batch.values, why))
            elif batch.drawn and _is_uninformative(answer, model.answer(key, batch.values, 1)):
                best = best or (batch, answer)
            else:
                best = batch, answer
                break
        if best:
            judged = self._judged(key, known, inner, model, *best)
        else:
            values, texts = zip(*refused, *elsewhere, strict=True)
            judged = replace(batch, refusal=texts[0], refused=values, rows=None, open=frozenset())
        return replace(judged, elsewhere=elsewhere[0][1], taken=len(elsewhere)) if elsewhere else judged

    def _refusal_elsewhere(self, key: str, values: Values, model: Running) -> str:
        """Return why what else is asked refuses values; meanwhile the model answers a second time, which is asked for next."""
        if self._also is None:
            return ""
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(model.answer, key, values, 1)
            why = self._also(key, values)
        again.result()
        return why

    def _judged(
        self, key: str, known: Mapping[str, Hint], inner: list[int], model: Running, batch: Batch, answer: Mapping[str, Any]
    ) -> Batch:
        inputs = self._export.plan.signatures[key].inputs
        shapes = {alias: self._bound[ref].shape for alias, ref in inputs.items()}
        own = {alias: known[ref] for alias, ref in inputs.items() if ref in known}

        def ask(values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray] | None:
            answer = model.answer(key, values, 1)  # to the sample itself another one than the first
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
