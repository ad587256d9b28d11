"""REST requests and answers as JSON: ``instances``, ``inputs`` and ``examples``; ``predictions``, ``outputs`` and ``results``.

The forms are those of TensorFlow Serving's json_tensor.cc.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from exportkit.checkpoint.tensorproto import dtype_of
from exportkit.errors import Problem, StepFailed, did_you_mean, type_of
from exportkit.samples import written
from exportkit.samples.arrays import Misfit
from exportkit.samples.written import Wanted
from exportkit.serving.rest_request import DTYPES, json_value

KEYS = ("instances", "inputs", "examples")


def read(body: Any, wanted: Mapping[str, Wanted], problems: list[Problem], where: str) -> dict[str, np.ndarray]:
    """Return alias → value of the body of a REST request, and add what is wrong with it to `problems`.

    Args:
        wanted: alias → what the input takes.
        where: named by the problems.
    """
    if not isinstance(body, dict):
        problems.append(Problem(where, f"holds {type_of(body)}, not an object", _FORM))
        return {}
    given = [key for key in KEYS if key in body]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else f"has none of {', '.join(KEYS)}"
        problems.append(Problem(where, what, "write one of them" if given else _nearest(body)))
        return {}
    try:
        if given == ["examples"]:
            return _of_examples(body, wanted)
        columns = body["inputs"] if given == ["inputs"] else _columns(body["instances"], wanted)
    except Misfit as cause:
        problems.append(Problem(where, cause.what, cause.do))
        return {}
    if not isinstance(columns, dict) or columns.keys() == {"b64"}:
        if len(wanted) != 1:
            problems.append(Problem(where, f"gives {given[0]} without aliases", f"name the inputs: {', '.join(wanted)}"))
            return {}
        columns = dict.fromkeys(wanted, columns)
    found, wrong = {}, list(misnamed(columns, wanted, where))
    for alias in columns.keys() & wanted.keys():
        try:
            found[alias] = written.from_json(columns[alias], wanted[alias])
        except Misfit as cause:
            wrong.append(Problem(f"{where} {given[0]}.{alias}", cause.what, cause.do))
    problems += wrong
    return found


_FORM = 'write {"instances": […]}, {"inputs": …} or {"examples": […]}'


def _nearest(body: Mapping[str, Any]) -> str:
    near = (did_you_mean(key, KEYS) for key in body)
    return next((text for text in near if text.startswith("did")), _FORM)


def misnamed(given: Mapping[str, Any], wanted: Mapping[str, Wanted], where: str) -> Iterator[Problem]:
    """Yield a problem for each alias that is no input, and for each input that is missing."""
    for alias in sorted(given.keys() - wanted.keys()):
        yield Problem(where, f"'{alias}' is no input of the signature", did_you_mean(alias, wanted))
    unknown = [did_you_mean(alias, wanted) for alias in given.keys() - wanted.keys()]
    for alias, one in sorted(wanted.items()):
        if alias not in given and f"did you mean {alias}?" not in unknown:
            yield Problem(where, f"the input {alias} ({one.facts}) is missing")


def _columns(instances: Any, wanted: Mapping[str, Wanted]) -> Any:
    """Return the columns of rows: alias → list, or one list where the rows have no aliases."""
    if not isinstance(instances, list) or not instances:
        raise Misfit("has instances that are no list with a row in it", "write one value, or {alias: value}, for each row")
    if not any(isinstance(row, dict) and row.keys() != {"b64"} for row in instances):
        return instances
    first = instances[0].keys() if isinstance(instances[0], dict) else set()
    for number, row in enumerate(instances):
        if not isinstance(row, dict) or row.keys() != first:
            raise Misfit(f"row {number} of the instances has other inputs than row 0", f"give {', '.join(wanted)} in each row")
    return {alias: [row[alias] for row in instances] for alias in instances[0]}


def _of_examples(body: Mapping[str, Any], wanted: Mapping[str, Wanted]) -> dict[str, np.ndarray]:
    rows, context = body["examples"], body.get("context", {})
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in [*rows, context]):
        raise Misfit("has examples that are no list of objects", "write {feature: value} for each row")
    if len(wanted) != 1 or next(iter(wanted.values())).features is None:
        raise Misfit("has examples, and the signature takes none", f"write inputs: {', '.join(wanted)}")
    (alias, one) = next(iter(wanted.items()))
    return {alias: written.examples(written.binaries(rows), written.binaries(context), one.features or {})}


def answer(method: str, outputs: Mapping[str, np.ndarray], by_rows: bool) -> dict[str, Any]:
    """Return the body of the answer that REST gives.

    Args:
        method: of the signature: ``predict``, ``classify`` or ``regress``.
        by_rows: whether a predict request was in the form of rows, ``instances``.

    Raises:
        StepFailed: REST cannot give such an answer.
    """
    if refusals := list(_refusals(method, outputs, by_rows)):
        raise StepFailed(*refusals)
    values = {alias: json_value(value, alias) for alias, value in outputs.items()}
    if method == "classify":
        return {"results": list(map(_labelled, *_classified(values)))}
    if method == "regress":
        return {"results": [json_value(value) for value in next(iter(outputs.values())).reshape(-1)]}
    if not by_rows:
        return {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    return {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}


def _refusals(method: str, outputs: Mapping[str, np.ndarray], by_rows: bool) -> Iterator[Problem]:
    do = "leave out --json, or ask by gRPC"
    for alias, value in sorted(outputs.items()):
        if (dtype := dtype_of(value)) not in DTYPES:
            yield Problem(f"output {alias}", f"is {dtype}, which REST has not", do)
    if method == "predict" and by_rows and not have_rows(outputs.values()):
        sizes = ", ".join(f"{alias} {list(value.shape)}" for alias, value in sorted(outputs.items()))
        yield Problem("outputs", f"cannot be split into rows: {sizes}", 'ask with {"inputs": …}')


def _classified(values: Mapping[str, Sequence[Any]]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return labels and scores; a classify signature may have only one of them (classifier.cc)."""
    classes, scores = values.get("classes"), values.get("scores")
    classes = [[""] * len(row) for row in scores or ()] if classes is None else classes
    return classes, [[0.0] * len(row) for row in classes] if scores is None else scores


def _labelled(classes: Sequence[Any], scores: Sequence[Any]) -> list[list[Any]]:
    return [list(pair) for pair in zip(classes, scores, strict=True)]


def have_rows(values: Collection[np.ndarray]) -> bool:
    """Return whether all values have one first dimension, so that REST can split them into rows."""
    return bool(values) and all(value.ndim for value in values) and len({len(value) for value in values}) == 1
