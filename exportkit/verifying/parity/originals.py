"""The export beside the answers of the original model, which its source may give: a wrong capture is equal to itself."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.contract import Export
from exportkit.errors import Problem
from exportkit.serving.running import Refusal
from exportkit.verifying.parity import adapters
from exportkit.verifying.parity.divergence import Tolerance, compare
from exportkit.verifying.parity.trials import MovedExport

_CAPTURE = "the export equals the graph that the source captured, so look at how it is captured"


@dataclass(frozen=True)
class _Question:
    """One answer of the original model, as a question to a signature.

    Attributes:
        number: of the answer, from 0.
        feeds: tensor of the export → value.
        expected: output alias → what the original model answers.
    """

    signature: str
    number: int
    feeds: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


class Originals:
    """What a comparison with the original model's answers found.

    Attributes:
        details: for the report: the number of answers, and for each ``SIGNATURE.ALIAS`` the elements compared and how they
            differ. Empty where the source gives no answers.
        problems: why the export is refused.
        warnings: what could not be compared.
    """

    def __init__(self) -> None:
        self.details: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.warnings: list[str] = []


def originals(
    export: Export, key: str, here: MovedExport, tolerance: Tolerance, random: Collection[tuple[str, str]]
) -> Originals:
    """Compare what the exported meta graph `key` answers with its source's `SourceModel.answers`.

    Args:
        random: signature and alias of outputs that change from run to run; they are not compared.
    """
    found, answers = Originals(), export.prepared.parts[key].model.answers
    if not answers:
        return found
    questions = list(_questions(export, key, random))
    outputs: dict[str, dict[str, Any]] = {}
    found.details = {"answers": len(answers), "outputs": outputs}
    if not questions:
        what = "no signature takes the inputs and returns an output that they have"
        found.warnings.append(f"meta_graphs.{key}: the answers of the original model were not compared: {what}")
        return found
    named = {q.signature: here.meta.signature_def[q.signature].outputs for q in questions}
    asked = [(q.feeds, [named[q.signature][alias].name for alias in q.expected]) for q in questions]
    for question, values in zip(questions, here.runs(asked), strict=True):
        if isinstance(values, Refusal):
            what = f"refuses the inputs of the original model's answer {question.number}: {values.text}"
            found.problems.append(Problem(f"signatures.{question.signature}", what, _CAPTURE))
            continue
        for alias, expected in question.expected.items():
            value = values[named[question.signature][alias].name]
            difference = compare(expected, value, tolerance)
            line = outputs.setdefault(f"{question.signature}.{alias}", {"compared": 0, "max_abs_diff": 0.0, "mismatches": 0})
            line["compared"] += value.size
            line["max_abs_diff"] = max(line["max_abs_diff"], difference.largest)
            line["mismatches"] += difference.mismatches
            if difference:
                what = f"is not what the original model answers ({tolerance}), in its answer {question.number}: {difference}"
                found.problems.append(Problem(f"signatures.{question.signature}.outputs.{alias}", what, _CAPTURE))
    return found


def _questions(export: Export, key: str, random: Collection[tuple[str, str]]) -> Iterator[_Question]:
    """Yield each answer as a question to each signature whose inputs it gives, with those outputs that it has."""
    part, bindings, bound = export.prepared.parts[key], export.plan.bindings, export.bound[key]
    for name in part.wiring.signatures:
        signature = export.plan.signatures[name]
        fed = {part.wiring.inputs[binding]: bound[binding].export_name for binding in bindings.fed(signature)}
        leaves = {
            alias: adapters.leaves(ref, bindings) for alias, ref in signature.outputs.items() if (name, alias) not in random
        }
        for number, answer in enumerate(part.model.answers):
            inputs, outputs = (_by_tensor(values, part.model) for values in (answer.inputs, answer.outputs))
            named = {leaf: part.wiring.names[leaf] for needed in leaves.values() for leaf in needed}
            given = {leaf: outputs[tensor] for leaf, tensor in named.items() if tensor in outputs}
            computed = {
                alias: adapters.computed(signature.outputs[alias], bindings, given)
                for alias, needed in leaves.items()
                if given.keys() >= {*needed}
            }
            if fed.keys() <= inputs.keys() and computed:
                yield _Question(name, number, {fed[tensor]: inputs[tensor] for tensor in fed}, computed)


def _by_tensor(values: Mapping[str, Any], model: Any) -> dict[str, np.ndarray]:
    """Return the values by the tensors of the source's graph; a plain list or number takes the tensor's dtype."""
    found = {}
    for name, value in values.items():
        tensor = model.graph.find(model.offered.get(name, name))
        dtype = model.graph.dtype(tensor)
        if dtype == "string":
            array = np.asarray(value, object)
            flat = [text.encode() if isinstance(text, str) else text for text in array.flat]
            found[tensor] = objects(flat).reshape(array.shape)
        else:
            found[tensor] = value if isinstance(value, np.ndarray) else np.asarray(value, numpy_dtype(dtype))
    return found
