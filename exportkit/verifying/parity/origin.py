"""Problems for outputs that differ, with the place where the difference begins."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from exportkit.contract import Export
from exportkit.errors import Problem
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import VARIABLE_OPS, split
from exportkit.operations.base import Operation
from exportkit.operations.bindings import targets_of
from exportkit.serving.running import Refusal, Running, unoptimized
from exportkit.verifying.parity import adapters, divergence
from exportkit.verifying.parity.divergence import Difference, Tolerance, compare
from exportkit.verifying.parity.trials import Asked, MovedExport, TrainingGraph, Trial

SMALL = 1e-3  # of a value: what may be allowed
_ALLOW = "check bindings and weights; post.verify.atol and post.verify.rtol say how near is near enough"


def origins(
    failed: Sequence[tuple[Trial, str, Difference]],
    export: Export,
    key: str,
    there: TrainingGraph,
    here: MovedExport,
    tolerance: Tolerance,
) -> Iterator[Problem]:
    """Yield a problem for each output that differs, at its first question, with the node where the difference begins.

    Args:
        failed: question, alias of the output, and how it differs.
    """
    if not failed:
        return
    outputs = {(trial.signature, alias): (trial, alias, difference) for trial, alias, difference in reversed(failed)}
    with there.running() as running, here.running(unoptimized()) as model:
        search = _Search(export, key, there, here, running, model, tolerance)
        for trial, alias, difference in reversed(outputs.values()):
            yield _problem(trial, alias, difference, tolerance, search)


def _problem(trial: Trial, alias: str, difference: Difference, tolerance: Tolerance, search: "_Search") -> Problem:
    place = f"signatures.{trial.signature}.outputs.{alias}"
    if difference.misfit:
        return Problem(place, f"is not what the training graph gives: {difference}", "check bindings and signatures")
    amount = f"by {difference.largest:.6g}" if difference.largest else f"in {difference.mismatches} values"
    what = f"differs {amount} from the training graph ({tolerance}): {search.where(trial, alias)}"
    small = "post.verify.rtol allows what is small"
    return Problem(place, what, small if _is_small(difference) else _ALLOW)


def _is_small(difference: Difference) -> bool:
    try:
        return 0 < difference.largest <= SMALL * abs(float(difference.there))
    except ValueError:
        return False


class _Search:
    """The search for the first node that differs, in a running training graph and the export."""

    def __init__(
        self,
        export: Export,
        key: str,
        there: TrainingGraph,
        here: MovedExport,
        running: Asked,
        model: Running,
        tolerance: Tolerance,
    ):
        self._plan, self._bound, self._wiring = export.plan, export.bound[key], export.prepared.parts[key].wiring
        self._there, self._here, self._running, self._tolerance = there, here, running, tolerance
        self._graph, self._model = Graph(here.meta), model

    def where(self, trial: Trial, alias: str) -> str:
        """Return where an output begins to differ: a fed value, a node, or what the export computes behind them."""
        ref = self._plan.signatures[trial.signature].outputs[alias]
        if place := self._misnamed(trial, alias, ref) or self._parsed(trial):
            return place
        tensors = [self._wiring.names[leaf] for leaf in adapters.leaves(ref, self._plan.bindings)]
        there = partial(_fetch, self._running, self._there.feeds(trial))
        found = divergence.first(
            self._comparable(tensors), there, partial(self._here.fetch, self._model, trial), self._tolerance
        )
        if found:
            return f"first at {self._describe_node(found.tensor)}: {found.difference}"
        spec = self._plan.bindings[self._plan.bindings.offers()[ref]]
        if isinstance(spec, Operation):
            return f"every node of the training graph is equal, the {spec.kind} behind them is not"
        if divergence.enclosed(self._graph, tensors):
            return "every node outside of loops, branches and functions is equal, so it begins in one of them"
        return "every node is equal when it is looked at, so it begins where TensorFlow fuses or folds some"

    def _misnamed(self, trial: Trial, alias: str, ref: str) -> str:
        named, meant = self._here.meta.signature_def[trial.signature].outputs[alias].name, self._bound[ref].export_name
        handed_through = ref in self._wiring.inputs
        return "" if named == meant or handed_through else f"the signature names {named}, not {meant}"

    def _parsed(self, trial: Trial) -> str:
        signature = self._plan.signatures[trial.signature]
        feeders = self._plan.bindings.feeders([signature]).items()
        made = {target: feeder.made for name, feeder in feeders for target in targets_of(name, feeder).values()}
        names = {self._bound[name].export_name: name for name in trial.fed if name in made}
        values = self._here.fetch(self._model, trial, list(names)) if names else None
        for tensor, value in (values or {}).items():
            if difference := compare(trial.fed[names[tensor]], value):
                return f"first at '{names[tensor]}' as {made[names[tensor]]}: {difference}"
        return ""

    def _comparable(self, tensors: Sequence[str]) -> list[str]:
        fetches = [tensor for tensor in tensors if split(tensor)[0] in self._graph.nodes]
        return divergence.comparable(self._there.graph, self._graph, fetches)

    def _describe_node(self, tensor: str) -> str:
        origin = self._graph.origin(tensor)
        if origin is not None and origin.op in VARIABLE_OPS:
            return f"variable {origin.name}"
        return f"node {tensor.removesuffix(':0')}"


def _fetch(running: Asked, feeds: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, np.ndarray] | None:
    values = running.run(feeds, tensors)
    return None if isinstance(values, Refusal) else dict(zip(tensors, values, strict=True))
