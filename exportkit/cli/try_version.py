"""``exportkit try VERSION``: one answer of a version, without a server.

The version runs in TensorFlow's C++ core, in a sandboxed process, behind the gate of `exportkit.capabilities`. TensorFlow's
Python is not imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.cli import print_line
from exportkit.cli.allow import add_allow
from exportkit.cli.tables import line, shape_text, short_path, table
from exportkit.contract import Command
from exportkit.errors import Problem, StepFailed, shortened, some
from exportkit.printable import printable

if TYPE_CHECKING:
    import numpy as np

    from exportkit.verifying.audit.asked import Asked

ROWS = 10  # that are shown
VALUES = 6  # of an array that are shown
LARGEST = 3  # probabilities of a longer vector that are shown
TEXT = 60  # characters of a text that are shown


class TryCommand(Command):
    """Ask a version once, without a server: with your values, or with the samples in its manifest, whose recorded answers are
    compared. What can do more than compute its answers is not run (--allow).
    """

    name = "try"
    help = "one answer of a version, without a server"
    usage = "VERSION"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("version", metavar="VERSION", type=Path, help="a SavedModel, such as exports/mnist/3, or its base path: the newest")
        add("--signature", metavar="KEY", help="default: serving_default, or the only one")
        add(
            "--input",
            metavar="ALIAS=VALUE",
            action="append",
            default=[],
            help="one for each input: JSON, a text, FILE.npz:ARRAY, FILE.npy or FILE.json; a batch, or one row of it. For "
            'tf.Examples examples=FILE.json or ALIAS={"examples": {FEATURE: VALUES}}. FILE.json alone is a whole REST request',
        )
        add_allow(parser)
        add("--json", action="store_true", help="print the answer as REST gives it")

    def run(self, arguments: Sequence[str]) -> int:
        """Print the answer; 1 where it is not the recorded one."""
        options = self.parse(arguments)

        from exportkit.clients.contract import version_directory
        from exportkit.processes import not_sandboxed
        from exportkit.verifying.audit.asked import ask  # with NumPy, which help does not need

        directory = version_directory(options.version).resolve()
        asked = ask(directory, options.signature, options.input, options.allow)
        if options.json:
            line(rest_text(asked).decode(errors="replace"))
        else:
            _show(asked)
        if verdict := _verdict(asked):
            print_line(verdict) if options.json else line(f"\n{verdict}")
        if lacks := not_sandboxed():
            print_line(f"not sandboxed: {lacks}")
        return int(bool(asked.difference))


def _verdict(asked: Asked) -> str:
    """Return whether the answer is the recorded one; nothing where the inputs were given."""
    if not asked.samples:
        return ""
    if asked.difference is None:
        return "not compared: it answers its samples differently each time, so no answer is recorded"
    return f"NOT the recorded answer: {asked.difference}" if asked.difference else "equal to the recorded answer"


def rest_text(asked: Asked) -> bytes:
    """Return the body of REST's answer.

    Raises:
        StepFailed: REST cannot give it.
    """
    from exportkit.server import json_answer
    from exportkit.server.status import Status

    outputs = asked.outputs
    try:
        if asked.method == "predict":
            return json_answer.predictions(outputs, asked.by_rows)
        if asked.method == "regress":
            return json_answer.regressions(outputs["outputs"].ravel().tolist())
        one = next(iter(outputs.values()))
        classes, scores = (outputs.get(alias, [[blank] * one.shape[1]] * len(one)) for alias, blank in _BLANK.items())
        return json_answer.classifications([list(zip(*row, strict=True)) for row in zip(classes, scores, strict=True)])
    except Status as status:
        raise StepFailed(Problem(f"{asked.signature} by REST", status.text, "leave out --json, or ask by gRPC")) from None


_BLANK: Mapping[str, bytes | float] = {"classes": b"", "scores": 0.0}  # where a classify signature has only one (classifier.cc)


def _show(asked: Asked) -> None:
    from exportkit.serving.rest_body import have_rows

    others = f"; other signatures: {some(asked.others)}" if asked.others else ""
    given = "its recorded sample" if asked.samples else "your input"
    line(f"{short_path(str(asked.directory))}: {asked.signature} ({asked.method}) answers {given}{others}\n")
    if have_rows(asked.outputs.values()):
        columns = _columns(asked)
        rows = [(str(number), *cells) for number, cells in enumerate(zip(*columns.values(), strict=True))]
        table("Answer", ["row", *columns], rows[:ROWS])
        if len(rows) > ROWS:
            line(f"(+ {len(rows) - ROWS} more)")
    else:
        rows = [(alias, shape_text(value.shape), cell(value)) for alias, value in sorted(asked.outputs.items())]
        table("Answer", ["output", "shape", "values"], rows)


def _columns(asked: Asked) -> dict[str, Sequence[str]]:
    """Return head → cells of the outputs; the labels and scores of a classify signature are one column."""
    outputs = asked.outputs
    if asked.method == "classify" and outputs.keys() == {"classes", "scores"}:
        return {"classes and scores": [_labelled(*pair) for pair in zip(outputs["classes"], outputs["scores"], strict=True)]}
    return {alias: [cell(row) for row in value] for alias, value in sorted(outputs.items())}


def _labelled(classes: np.ndarray, scores: np.ndarray) -> str:
    pairs = [f"{_text(label)} {_number(score)}" for label, score in zip(classes[:VALUES], scores[:VALUES], strict=True)]
    return ", ".join(pairs) + _rest(len(classes), len(pairs))


def cell(value: Any) -> str:
    """Return a value for people: a long one shortened, the largest of many probabilities with their indices."""
    import numpy as np

    flat = np.asarray(value, None if isinstance(value, np.ndarray | np.generic) else object).reshape(-1)
    if len(flat) > VALUES and getattr(value, "ndim", 0) == 1 and _are_probabilities(flat):
        largest = np.argsort(-flat.astype(np.float64), kind="stable")[:LARGEST]
        return ", ".join(f"[{at}] {_number(flat[at])}" for at in largest) + f" … (largest of {len(flat)})"
    shown = ", ".join(_item(item) for item in flat[:VALUES])
    return shown + _rest(len(flat), min(len(flat), VALUES), getattr(value, "shape", ()))


def _rest(number: int, shown: int, shape: Sequence[int] = ()) -> str:
    """Return how many values there are where not all are shown."""
    size = " x ".join(map(str, shape)) if len(shape) > 1 else str(number)
    return f" … ({size})" if number > shown else ""


def _are_probabilities(values: np.ndarray) -> bool:
    import numpy as np

    if values.dtype.kind != "f":
        return False
    numbers = values.astype(np.float64)
    return bool((numbers >= 0).all() and abs(numbers.sum() - 1) < 1e-3)


def _item(item: Any) -> str:
    return _text(item) if isinstance(item, bytes | str) else _number(item)


def _text(item: bytes | str) -> str:
    text = item.decode(errors="backslashreplace") if isinstance(item, bytes) else item
    return shortened(printable(text), TEXT)


def _number(item: Any) -> str:
    import numpy as np

    if isinstance(item, bool | np.bool_):
        return str(bool(item)).lower()
    return str(item) if isinstance(item, int | np.integer) else f"{item:.4g}"
