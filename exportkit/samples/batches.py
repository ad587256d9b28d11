"""Samples read, drawn or built, one batch for each signature."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from exportkit.contract import BoundTensor
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.metagraph.tensors import Shape
from exportkit.operations.base import Feeder
from exportkit.operations.bindings import Binding, drawn_values
from exportkit.operations.decode_image import DecodeImage
from exportkit.operations.parse_example import ParseExample
from exportkit.samples import drawing, tfexample
from exportkit.samples.arrays import Misfit, fit, read
from exportkit.samples.drawing import Attempt, Draw, Drawn
from exportkit.samples.hints import Hint
from exportkit.spec import Examples, ExportPlan, File, Literal, Random, Sample

DRAWN = "random values, as samples gives none"


@dataclass(frozen=True)
class Batch:
    """The sample of one signature.

    Attributes:
        values: alias → array of the dtype that is bound; strings are bytes in object arrays.
        rows: how many rows it has; None where it cannot be cut into rows.
        open: aliases whose first dimension is that of the rows.
        notes: lines for the report on where the values come from.
        drawn: whether any of the values are random ones.
        sizes: numbers of rows that the model took, where it was asked.
        axes: alias → ``batch``, ``batch fixed at 32`` or ``not a batch``, where the model was asked.
        unbatched: why a server cannot batch requests to the signature; empty where it can, None where nobody has asked.
        refusal: the model's error for the first values that were tried, where it took none; empty where it took some.
        refused: the values that were not taken.
        elsewhere: the training graph's error for the first values that the model took and it did not; empty where there were
            none, or it was not asked.
        taken: the number of values that the model took and the training graph did not.
    """

    values: Mapping[str, np.ndarray]
    rows: int | None = None
    open: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    drawn: bool = False
    sizes: tuple[int, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    unbatched: str | None = None
    refusal: str = ""
    refused: tuple[Mapping[str, np.ndarray], ...] = ()
    elsewhere: str = ""
    taken: int = 0

    def resized(self, rows: int) -> dict[str, np.ndarray]:
        """Return the sample with that many rows: its first ones, or all of them again and again."""
        order = np.arange(rows) % (self.rows or 1)
        return {alias: value[order] if alias in self.open else value for alias, value in self.values.items()}


def load(plan: ExportPlan, bound: Mapping[str, BoundTensor], keys: Iterable[str] | None = None) -> dict[str, Batch]:
    """Read, draw or build the samples of signatures; where the config gives none they are drawn.

    Args:
        bound: binding → tensor, of the meta graph whose signatures are meant.
        keys: the signatures; default: all of the plan.

    Returns:
        Signature → sample, with its rows as far as its tensors' static shapes show them.

    Raises:
        ConfigError: all samples that do not fit the dtype or shape that is bound, or cannot be read.
    """
    problems: list[Problem] = []
    batches = {}
    for key in keys if keys is not None else plan.signatures:
        loader = _Loader(plan, bound, key)
        batches[key] = loader.batch()
        problems += loader.problems
    if problems:
        raise ConfigError(*problems)
    return batches


def candidates(
    plan: ExportPlan, bound: Mapping[str, BoundTensor], key: str, hints: Mapping[str, Hint], inner: Iterable[int]
) -> Iterator[Batch]:
    """Yield samples of a signature; where values are drawn, one for each way of `exportkit.samples.drawing`.

    Args:
        hints: binding → what the graph tells about it.
        inner: first dimensions that are baked into the graph.

    Raises:
        ConfigError: values that the config gives do not fit, or cannot be read.
    """
    shapes = [hints.get(ref, Hint()).narrowed(bound[ref].shape) for ref in _fed(plan, key)]
    known: dict[str, np.ndarray] = {}
    for number, attempt in enumerate(drawing.attempts(shapes, list(inner))):
        loader = _Loader(plan, bound, key, hints, attempt, known)
        batch = loader.batch()
        if loader.problems and number:
            continue
        if loader.problems:
            raise ConfigError(*loader.problems)
        yield batch
        if not batch.drawn:
            return


def _fed(plan: ExportPlan, key: str) -> list[str]:
    refs = plan.signatures[key].inputs.values()
    return [ref for ref in refs if not isinstance(plan.bindings[ref], Feeder)]


@dataclass
class _Loader:
    """The sample of signature `key`, and what is wrong with it; `known` are values that do not change."""

    plan: ExportPlan
    bound: Mapping[str, BoundTensor]
    key: str
    hints: Mapping[str, Hint] = field(default_factory=dict)
    attempt: Attempt = field(default_factory=Attempt)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def batch(self) -> Batch:
        inputs, given = self.plan.signatures[self.key].inputs, self.plan.samples.get(self.key)
        samples = {alias: given[alias] if given else Random() for alias in inputs}
        drawn = {alias: self._drawn(alias, sample) for alias, sample in samples.items() if isinstance(sample, Random)}
        draw = Draw([one for some in drawn.values() for one in some.values()], self.attempt)
        values = {}
        for alias, sample in samples.items():
            try:
                values[alias] = self._value(alias, sample, drawn.get(alias, {}), draw)
            except Misfit as cause:
                self.problems.append(Problem(f"samples.{self.key}.{alias}", cause.what, cause.do))
        shapes = {alias: self.bound[ref].shape for alias, ref in inputs.items()}
        return _batch(values, shapes, () if given or not inputs else (DRAWN,), bool(drawn))

    def _drawn(self, alias: str, sample: Random) -> dict[str, Drawn]:
        """Return what is drawn for an input: itself, or each feature of the tf.Examples that it parses."""
        ref = self.plan.signatures[self.key].inputs[alias]
        binding, tensor = self.plan.bindings[ref], self.bound[ref]
        if not isinstance(binding, ParseExample):
            return {"": Drawn(alias, tensor.dtype, tensor.shape, sample, self._hint(ref))}
        return {name: self._feature(alias, binding, name, sample) for name in binding.parse_example}

    def _feature(self, alias: str, binding: ParseExample, name: str, sample: Random) -> Drawn:
        feature, target = binding.parse_example[name], binding.targets()[name]
        return Drawn(f"{alias}.{name}", feature.dtype, (None, *feature.shape), sample, self._hint(target))

    def _hint(self, ref: str) -> Hint:
        binding = self.plan.bindings.get(ref)
        if isinstance(binding, DecodeImage):
            return Hint(content="image", pixels=(binding.size[0], binding.size[1], binding.channels))
        return self.hints.get(ref, Hint())

    def _value(self, alias: str, sample: Sample, drawn: Mapping[str, Drawn], draw: Draw) -> np.ndarray:
        ref = self.plan.signatures[self.key].inputs[alias]
        binding, tensor = self.plan.bindings[ref], self.bound[ref]
        if isinstance(sample, Random):
            columns = {name: draw.value(one) for name, one in drawn.items()}
            if isinstance(binding, ParseExample):
                return _encoded(columns)
            return _of_feeder(ref, binding, tensor, columns[""], sample)
        if alias in self.known:
            return self.known[alias]
        if isinstance(sample, Examples):
            if not isinstance(binding, ParseExample):
                raise Misfit(f"'{ref}' does not parse tf.Examples", "write its values")
            self.known[alias] = _encoded(dict(self._columns(alias, binding, sample)))
        else:
            self.known[alias] = fit(_given(sample), tensor.dtype, tensor.shape)
        return self.known[alias]

    def _columns(self, alias: str, binding: ParseExample, sample: Examples) -> Iterator[tuple[str, np.ndarray]]:
        features = binding.parse_example
        for name, given in sample.features.items():
            if name not in features:
                raise Misfit(f"there is no feature '{name}'", did_you_mean(name, features))
            feature = features[name]
            try:
                if isinstance(given, Random):
                    one = replace(self._feature(alias, binding, name, given), name=name)
                    yield name, Draw([one], self.attempt).value(one)
                else:
                    yield name, fit(_given(given), feature.dtype, (None, *feature.shape))
            except Misfit as cause:
                raise Misfit(f"feature '{name}' {cause.what}", cause.do) from None
        missing = [name for name, feature in features.items() if name not in sample.features and feature.default is None]
        if missing:
            raise Misfit(f"gives no feature {', '.join(missing)}", "a feature without a default is in every example")


def _of_feeder(ref: str, binding: Binding | None, tensor: BoundTensor, drawn: np.ndarray, sample: Random) -> np.ndarray:
    """Return what a feeder draws for itself, in as many rows as `drawn` has; or else `drawn`."""
    if not isinstance(binding, Feeder):
        return drawn
    generator = np.random.default_rng([sample.seed, zlib.crc32(ref.encode())])
    own = drawn_values(ref, binding, drawn.shape[0] if drawn.ndim else 1, generator)
    return drawn if own is None else fit(list(own), tensor.dtype, tensor.shape)


def _batch(values: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], notes: tuple[str, ...], drawn: bool) -> Batch:
    free = frozenset(a for a, v in values.items() if v.ndim and _has_free_rows(shapes[a]))
    sizes = {len(values[alias]) for alias in free}
    if len(sizes) != 1 or 0 in sizes:
        return Batch(values, notes=notes, drawn=drawn)
    return Batch(values, sizes.pop(), free, notes, drawn)


def _has_free_rows(shape: Shape) -> bool:
    return shape is None or shape[0] is None


def _given(sample: Sample | None) -> Any:
    """Return what the config wrote, or the array that it names."""
    if isinstance(sample, Literal):
        return sample.value
    if isinstance(sample, File):
        return read(sample.path, sample.array)
    raise Misfit("has no values", "write them, or name a file")


def _encoded(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise Misfit(f"has features of different numbers of rows: {sizes}", "give each as many")
    return tfexample.encode(columns)
