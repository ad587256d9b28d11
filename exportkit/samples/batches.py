"""Samples read, drawn or built, one batch for each signature."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exportkit.checkpoint.encoding import objects
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.planning.wiring import Shape
from exportkit.plugin import BoundTensor
from exportkit.samples import tfexample
from exportkit.samples.arrays import Misfit, fit, read
from exportkit.spec import Examples, ExportPlan, Feature, File, Literal, ParseExample, Random, Sample

RANDOM_ROWS = 2
RANDOM_SIZE = 8  # of a dimension that a signature leaves open, other than the first
DRAWN = "random values, as samples gives none"
_TEXT = b"exportkit"


@dataclass(frozen=True)
class Batch:
    """The sample of one signature.

    Attributes:
        values: alias → array of the dtype that is bound; strings are bytes in object arrays.
        rows: how many rows it has; None where no input has a first dimension that is open, or where they disagree.
        open: aliases whose first dimension is open.
        notes: what the report shall say of where the values come from.
    """

    values: Mapping[str, np.ndarray]
    rows: int | None = None
    open: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def resized(self, rows: int) -> dict[str, np.ndarray]:
        """The sample with that many rows: its first ones, or all of them again and again."""
        order = np.arange(rows) % (self.rows or 1)
        return {alias: value[order] if alias in self.open else value for alias, value in self.values.items()}


def load(plan: ExportPlan, bound: Mapping[str, BoundTensor], keys: Iterable[str] | None = None) -> dict[str, Batch]:
    """Read, draw or build the samples of signatures; where the config gives none they are drawn.

    Args:
        bound: binding → tensor, of the meta graph whose signatures are meant.
        keys: the signatures; default: all of the plan.

    Returns:
        Signature → sample.

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


@dataclass
class _Loader:
    """The sample of signature `key`, and what is wrong with it."""

    plan: ExportPlan
    bound: Mapping[str, BoundTensor]
    key: str
    problems: list[Problem] = field(default_factory=list)

    def batch(self) -> Batch:
        inputs = self.plan.signatures[self.key].inputs
        given = self.plan.samples.get(self.key)
        values = {}
        for alias, ref in inputs.items():
            try:
                values[alias] = self._value(alias, ref, given[alias] if given else Random())
            except Misfit as cause:
                self.problems.append(Problem(f"samples.{self.key}.{alias}", cause.what, cause.do))
        shapes = {alias: self.bound[ref].shape for alias, ref in inputs.items()}
        return _batch(values, shapes, () if given or not inputs else (DRAWN,))

    def _value(self, alias: str, ref: str, sample: Sample) -> np.ndarray:
        binding, tensor = self.plan.bindings[ref], self.bound[ref]
        if isinstance(binding, ParseExample) and isinstance(sample, Random | Examples):
            return _examples(alias, binding, sample)
        if isinstance(sample, Examples):
            raise Misfit(f"'{ref}' does not parse tf.Examples", "write its values")
        if isinstance(sample, Random):
            return _random(alias, tensor.dtype, tensor.shape, sample)
        return fit(_given(sample), tensor.dtype, tensor.shape)


def _batch(values: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], notes: tuple[str, ...]) -> Batch:
    free = frozenset(a for a, v in values.items() if v.ndim and (shapes[a] is None or shapes[a][0] is None))
    sizes = {len(values[alias]) for alias in free}
    if len(sizes) != 1 or 0 in sizes:
        return Batch(values, notes=notes)
    return Batch(values, sizes.pop(), free, notes)


def _given(sample: Literal | File) -> Any:
    return sample.value if isinstance(sample, Literal) else read(sample.path, sample.array)


def _random(alias: str, dtype: str, shape: Shape, sample: Random) -> np.ndarray:
    """Values from [low, high); where that is [0, 1), integers are 0 or 1: safe as indices, lengths and ids."""
    generator = np.random.default_rng([sample.seed, zlib.crc32(alias.encode())])
    size = _size(shape)
    if dtype == "string":
        return objects([_TEXT] * int(np.prod(size))).reshape(size)
    if dtype == "bool":
        return generator.integers(0, 2, size).astype(bool)
    whole = "int" in dtype
    low, high = (0, 2) if whole and (sample.low, sample.high) == (0, 1) else (sample.low, sample.high)
    if high <= low:
        raise Misfit(f"is drawn from [{low:g}, {high:g}), where there is nothing", "write low < high")
    values = generator.uniform(low, high, size)
    return fit(np.floor(values) if whole else values, dtype, shape)


def _size(shape: Shape) -> list[int]:
    if shape is None:
        return [RANDOM_ROWS]
    return [d if d is not None else RANDOM_SIZE if i else RANDOM_ROWS for i, d in enumerate(shape)]


def _examples(alias: str, binding: ParseExample, sample: Random | Examples) -> np.ndarray:
    features = binding.parse_example
    if isinstance(sample, Random):
        columns = {n: _random(f"{alias}.{n}", f.dtype, (None, *f.shape), sample) for n, f in features.items()}
    else:
        columns = dict(_columns(features, sample))
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise Misfit(f"has features of different numbers of rows: {sizes}", "give each as many")
    return tfexample.encode(columns)


def _columns(features: Mapping[str, Feature], sample: Examples) -> Iterator[tuple[str, np.ndarray]]:
    for name, given in sample.features.items():
        if name not in features:
            raise Misfit(f"there is no feature '{name}'", did_you_mean(name, features))
        feature = features[name]
        try:
            if isinstance(given, Random):
                yield name, _random(name, feature.dtype, (None, *feature.shape), given)
            else:
                yield name, fit(_given(given), feature.dtype, (None, *feature.shape))
        except Misfit as cause:
            raise Misfit(f"feature '{name}' {cause.what}", cause.do) from None
    missing = [name for name, feature in features.items() if name not in sample.features and feature.default is None]
    if missing:
        raise Misfit(f"gives no feature {', '.join(missing)}", "a feature without a default is in every example")
