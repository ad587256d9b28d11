"""Common to all steps: which signatures, how each is converted, run, and compared with what a server answers."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

import numpy as np
from annotated_types import Ge
from exportkit.plugin import (
    Batch,
    Export,
    ExportPlan,
    Phase,
    PostStep,
    Prepared,
    Problem,
    StepFailed,
    Tolerance,
    call_apart,
    compare,
    default_meta_graph,
    did_you_mean,
    run_tensors,
    samples_of,
)

from exportkit_formats.converting import convert
from exportkit_formats.numeric import Numeric, numeric

FOLDER = "assets.extra"
Answers = list[dict[str, np.ndarray]]


@dataclass(kw_only=True)
class Conversion(PostStep):
    """A step that converts signatures; processes of their own run `convert` and `answer` of its module.

    Attributes:
        title: the format's name in messages.
        needs: the distributions that convert and run it, all of them in the extra of the step's kind.
        suffixes: those of the files of one model, the first of them the one to open.
    """

    phase = Phase.AUGMENT
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]]

    signatures: list[str] = field(default_factory=list)
    """The signatures to convert; empty: all of the method predict that compute numbers from numbers."""

    atol: Annotated[float, Ge(0)] = 1e-5
    """How far numbers may be from the version's: atol + rtol * |its value|."""

    rtol: Annotated[float, Ge(0)] = 1e-4
    """The part of it that grows with the value."""

    @property
    def module(self) -> Any:
        """Return the module of the step's class, with its functions `convert` and `answer`."""
        return sys.modules[type(self).__module__]

    def options(self) -> dict[str, Any]:
        """Return further arguments of the module's `convert`."""
        return {}

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
        if missing := [name for name in self.needs if not _installed(name)]:
            are = "is" if len(missing) == 1 else "are"
            what = f"{' and '.join(missing)} {are} not installed"
            yield Problem("", what, f"pip install 'exportkit-formats[{self.kind}]'")
        known = _signatures(plan)
        for number, key in enumerate(self.signatures):
            if key not in known:
                yield Problem(f"signatures[{number}]", f"there is no signature '{key}'", did_you_mean(key, known))
        if not self.signatures and not _predicting(plan, known):
            do = f"name some of {', '.join(known)}"
            yield Problem("signatures", "is empty, and no signature is of the method predict", do)

    def run(self, export: Export) -> Mapping[str, Any]:
        meta_graph, (_, batches) = default_meta_graph(export.plan), samples_of(export)
        parts, left_out = self._parts(export, meta_graph)
        (export.directory / FOLDER).mkdir(exist_ok=True)
        converted = {
            key: _Signature(self, export, meta_graph, key, part).converted(batches[key]) for key, part in parts.items()
        }
        return {
            "summary": _summary(converted),
            "atol": self.atol,
            "rtol": self.rtol,
            "versions": {name: version(name) for name in ("tensorflow", *self.needs)},
            "signatures": converted,
            "left_out": left_out,
        }

    def _parts(self, export: Export, meta_graph: str) -> tuple[dict[str, Numeric], dict[str, str]]:
        """Return the numeric part of each signature, and why others that were not asked for by name have none.

        Raises:
            StepFailed: one that was asked for has none, or there is no other.
        """
        known = _signatures(export.plan)
        parts, refused = {}, {}
        for key in self.signatures or _predicting(export.plan, known):
            try:
                parts[key] = numeric(export, meta_graph, key)
            except StepFailed as failed:
                refused[key] = failed.problems[0]
        if refused and (self.signatures or not parts):
            raise StepFailed(*refused.values())
        return parts, {key: problem.what for key, problem in refused.items()}


@dataclass(frozen=True)
class _Signature:
    """One signature on its way into another format."""

    step: Conversion
    export: Export
    meta_graph: str
    key: str
    part: Numeric

    @property
    def where(self) -> str:
        return f"signatures.{self.key}"

    def call(self, function: Callable[..., Any], **arguments: Any) -> Any:
        call = partial(function, **arguments)
        return call_apart(call, where=self.where, title=self.step.title, timeout=self.step.timeout)

    def converted(self, batch: Batch) -> dict[str, Any]:
        """Convert it, compare its answers, and return its entry in the report.

        Raises:
            StepFailed: it cannot be converted, or answers something else.
        """
        started = perf_counter()
        files = [self.export.directory / FOLDER / f"{quote(self.key, safe='')}{suffix}" for suffix in self.step.suffixes]
        self.call(convert, **self._conversion(files[0]))
        seconds = perf_counter() - started
        requests, expected = self._expected(batch)
        answers = self.call(self.step.module.answer, file=files[0], key=self.key, requests=requests)
        return {
            "files": {f"{FOLDER}/{file.name}": file.stat().st_size for file in files},
            "seconds": round(seconds, 3),
            "inputs": {name: str(end) for name, end in self.part.inputs.items()},
            "outputs": self._compared(expected, answers),
            "left_out": list(self.part.left_out),
            "notes": list(batch.notes),
        }

    def _conversion(self, file: Path) -> dict[str, Any]:
        freezing = {
            "meta": self.part.pruned.meta.SerializeToString(),
            "checkpoint": str(self.export.directory / "variables" / "variables"),
            "inputs": {name: (end.tensor, end.dtype, end.shape) for name, end in self.part.inputs.items()},
            "outputs": {name: end.tensor for name, end in self.part.outputs.items()},
            "cuts": self.part.pruned.cuts,
        }
        return {
            "converter": self.step.module.convert,
            "freezing": freezing,
            "key": self.key,
            "file": file,
            "scratch": self.export.scratch,
            "options": self.step.options(),
        }

    def _expected(self, batch: Batch) -> tuple[Answers, Answers]:
        """Return what the model is asked, and what it has to answer: the values that a server's core has at its ends.

        The sample is tried with 1 row, and with all of its rows but at least 2.

        Raises:
            StepFailed: an output is not the same twice.
        """
        samples = [batch.resized(rows) for rows in (1, max(2, batch.rows))] if batch.rows else [dict(batch.values)]
        values = self._served([*samples, *samples])
        once, again = values[: len(samples)], values[len(samples) :]
        for name, end in self.part.outputs.items():
            if any(compare(a[end.tensor], b[end.tensor]) for a, b in zip(once, again, strict=True)):
                what = "changes from run to run, and cannot be compared"
                raise StepFailed(
                    Problem(f"{self.where}.outputs.{name}", what, "is dropout left on? bake its rate or is_training")
                )
        sides = self.part.inputs, self.part.outputs
        asked, expected = ([{name: values[end.tensor] for name, end in side.items()} for values in once] for side in sides)
        return asked, expected

    def _served(self, samples: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Return for each sample the tensors at the ends of the part and their values, as a server's core computes them."""
        meta = self.export.meta_graphs[self.meta_graph]
        fed = meta.signature_def[self.key].inputs
        feeds = [{fed[alias].name: value for alias, value in sample.items()} for sample in samples]
        ends = [end.tensor for side in (self.part.inputs, self.part.outputs) for end in side.values()]
        wanted = [tensor for tensor in dict.fromkeys(ends) if tensor not in feeds[0]]
        tags, allowed = meta.meta_info_def.tags, self.export.plan.allow.ops
        served = run_tensors(self.export.directory, tags, [(feed, wanted) for feed in feeds], allowed=allowed)
        return [feed | dict(zip(wanted, values, strict=True)) for feed, values in zip(feeds, served.outputs, strict=True)]

    def _compared(self, expected: Answers, answers: Answers) -> dict[str, Any]:
        tolerance = Tolerance(self.step.atol, self.step.rtol)
        found: dict[str, Any] = {}
        for name in self.part.outputs:
            differences = [compare(a[name], b[name], tolerance) for a, b in zip(expected, answers, strict=True)]
            if wrong := next(filter(None, differences), None):
                what = f"{self.step.title} answers something else: {wrong} ({tolerance})"
                raise StepFailed(Problem(f"{self.where}.outputs.{name}", what, "raise atol or rtol if that is near enough"))
            found[name] = {"max_abs_diff": max(difference.largest for difference in differences)}
        return found


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _signatures(plan: ExportPlan) -> list[str]:
    """Return the signatures of the meta graph that a server loads if no flag names another."""
    own = plan.meta_graphs[default_meta_graph(plan)].signatures
    return list(plan.signatures) if own is None else own


def _predicting(plan: ExportPlan, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if plan.signatures[key].method == "predict"]


def _summary(converted: Mapping[str, Any]) -> str:
    """``max abs diff 6e-11; predict_images.tflite 342,312 bytes``."""
    worst = max(output["max_abs_diff"] for found in converted.values() for output in found["outputs"].values())
    files = [f"{Path(name).name} {size:,} bytes" for found in converted.values() for name, size in found["files"].items()]
    return f"max abs diff {worst:g}; {', '.join(files)}"
