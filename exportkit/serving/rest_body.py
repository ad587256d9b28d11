"""REST requests that a user wrote, with all that is wrong with them: ``instances``, ``inputs`` and ``examples``.

The forms are those of TensorFlow Serving's json_tensor.cc. `exportkit.server` reads requests of clients, in the server's words.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from exportkit.errors import Problem, did_you_mean, type_of
from exportkit.samples import written
from exportkit.samples.arrays import Misfit
from exportkit.samples.written import Wanted

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


def have_rows(values: Collection[np.ndarray]) -> bool:
    """Return whether all values have one first dimension, so that REST can split them into rows."""
    return bool(values) and all(value.ndim for value in values) and len({len(value) for value in values}) == 1
