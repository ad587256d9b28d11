"""The samples of a config as arrays: what every signature is tried, warmed up and documented with."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exportkit import tfexample
from exportkit.binding import Shape, compatible
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.plugin import BoundTensor
from exportkit.spec import Examples, ExportPlan, Feature, File, Literal, ParseExample, Random, Sample
from exportkit.tensorbytes import numpy_dtype, objects

RANDOM_ROWS = 2
RANDOM_SIZE = 8  # of a dimension that a signature leaves open, other than the first
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


class _Misfit(ValueError):
    """Values that are not what is bound: what is wrong with them, and what to do."""

    def __init__(self, what: str, do: str = ""):
        super().__init__(what, do)
        self.what, self.do = what, do


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
            sample = given[alias] if given else Random()
            try:
                values[alias] = self._value(alias, ref, sample, drawn=not given)
            except (_Misfit, OSError) as cause:
                misfit = cause if isinstance(cause, _Misfit) else _Misfit(f"cannot be read: {cause.strerror}")
                self.problems.append(Problem(f"samples.{self.key}.{alias}", misfit.what, misfit.do))
        return _batch(values, {alias: self._shape(ref) for alias, ref in inputs.items()}, () if given or not inputs else (DRAWN,))

    def _shape(self, ref: str) -> Shape:
        return self.bound[ref].shape

    def _value(self, alias: str, ref: str, sample: Sample, drawn: bool) -> np.ndarray:
        binding, tensor = self.plan.bindings[ref], self.bound[ref]
        if isinstance(binding, ParseExample) and isinstance(sample, Random | Examples):
            return _examples(alias, binding, sample, drawn)
        if isinstance(sample, Examples):
            raise _Misfit(f"'{ref}' does not parse tf.Examples", "write its values")
        if isinstance(sample, Random):
            return _random(alias, tensor.dtype, tensor.shape, sample, drawn)
        return _fitted(_given(sample, tensor.dtype), tensor.dtype, tensor.shape)


DRAWN = "random values, as samples gives none"


def _batch(values: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], notes: tuple[str, ...]) -> Batch:
    free = frozenset(a for a, v in values.items() if v.ndim and (shapes[a] is None or shapes[a][0] is None))
    sizes = {len(values[alias]) for alias in free}
    if len(sizes) != 1 or 0 in sizes:
        return Batch(values, notes=notes)
    return Batch(values, sizes.pop(), free, notes)


# Values that are given


def _given(sample: Literal | File, dtype: str) -> Any:
    return sample.value if isinstance(sample, Literal) else _file(sample, dtype)


def _file(sample: File, dtype: str) -> np.ndarray:
    try:
        if sample.path.suffix == ".tfrecord":
            return _record_file(sample, dtype)
        content = np.load(sample.path, allow_pickle=False)
    except ValueError as cause:
        raise _Misfit(f"{sample.path} {cause}" if sample.path.suffix == ".tfrecord" else _unreadable(sample)) from None
    if not sample.array:
        return content
    with content:
        if sample.array not in content:
            raise _Misfit(f"there is no array '{sample.array}' in {sample.path}", did_you_mean(sample.array, content))
        return content[sample.array]


def _unreadable(sample: File) -> str:
    return f"{sample.path} is not a {sample.path.suffix} file of numbers or bytes"


def _record_file(sample: File, dtype: str) -> np.ndarray:
    """The records themselves, or a feature of the tf.Examples that they are."""
    rows = list(tfexample.records(sample.path))
    if not sample.array:
        return objects(rows)
    feature = tfexample.Example.FromString(rows[0]).features.feature if rows else {}
    if sample.array not in feature:
        raise _Misfit(f"there is no feature '{sample.array}' in {sample.path}", did_you_mean(sample.array, feature))
    kind = {"float_list": "float32", "int64_list": "int64", "bytes_list": "string"}[feature[sample.array].WhichOneof("kind")]
    size = len(getattr(feature[sample.array], feature[sample.array].WhichOneof("kind")).value)
    return tfexample.decode(rows, {sample.array: Feature(dtype=kind, shape=[size])})[sample.array]


def _fitted(value: Any, dtype: str, shape: Shape) -> np.ndarray:
    """`value` as an array of that dtype, if it is one and of that shape."""
    array = _strings(value) if dtype == "string" else _numbers(value, dtype)
    if shape is not None and not compatible(array.shape, shape):
        said = str(["?" if d is None else d for d in shape]).replace("'", "")
        do = f"write [{'…'}]: one list per row" if array.ndim == len(shape) - 1 and shape[0] is None else ""
        raise _Misfit(f"has the shape {list(array.shape)}, not {said}", do)
    return array


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise _Misfit("is ragged: its lists are of different lengths", "fill them up to one length") from None


def _strings(value: Any) -> np.ndarray:
    array = _array(value)
    if array.dtype.kind not in "OSU":
        raise _Misfit(f"is {array.dtype.name}, not string", "write texts")
    array = np.asarray(value, object) if isinstance(value, list | str) else array
    if not all(isinstance(item, str | bytes) for item in array.flat):
        raise _Misfit("is not string throughout", "write texts")
    encoded = objects([item.encode() if isinstance(item, str) else bytes(item) for item in array.flat])
    return encoded.reshape(array.shape)


def _numbers(value: Any, dtype: str) -> np.ndarray:
    array, target = _array(value), numpy_dtype(dtype)
    if array.dtype.kind not in "biufcV":
        raise _Misfit(f"is {'string' if array.dtype.kind in 'OSU' else array.dtype.name}, not {dtype}", f"write {dtype} values")
    if array.dtype == target:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(target)
        kept = np.isfinite(cast) | ~np.isfinite(array) if _inexact(target) else cast.astype(array.dtype) == array
    if (array.dtype.kind == "b") != (dtype == "bool") or (array.dtype.kind == "c" and target.kind != "c") or not kept.all():
        raise _Misfit(f"is {_said(array, kept)}, not {dtype}", f"write {dtype} values")
    return cast


def _inexact(dtype: np.dtype) -> bool:
    return dtype.kind in "fc" or "float" in dtype.name


def _said(array: np.ndarray, kept: np.ndarray) -> str:
    return array.dtype.name if kept.all() else f"{array[~kept].flat[0]} at one place"


# Values that are drawn


def _random(alias: str, dtype: str, shape: Shape, sample: Random, drawn: bool) -> np.ndarray:
    """Values from [low, high); without a word of the config from [0, 1), integers 0 or 1: safe as indices, lengths and ids."""
    size = [RANDOM_SIZE if d is None else d for d in shape] if shape is not None else [RANDOM_ROWS]
    if shape and shape[0] is None:
        size[0] = RANDOM_ROWS
    generator = np.random.default_rng([sample.seed, zlib.crc32(alias.encode())])
    if dtype == "string":
        return objects([_TEXT] * int(np.prod(size))).reshape(size)
    if dtype == "bool":
        return generator.integers(0, 2, size).astype(bool)
    low, high = sample.low, 2.0 if drawn and "int" in dtype else sample.high
    if high <= low:
        raise _Misfit(f"there is nothing in [{low:g}, {high:g})", "write low < high")
    values = generator.uniform(low, high, size)
    return (np.floor(values) if "int" in dtype else values).astype(numpy_dtype(dtype))


def _examples(alias: str, binding: ParseExample, sample: Random | Examples, drawn: bool) -> np.ndarray:
    features = binding.parse_example
    if isinstance(sample, Random):
        columns = {n: _random(f"{alias}.{n}", f.dtype, (None, *f.shape), sample, drawn) for n, f in features.items()}
    else:
        columns = dict(_columns(features, sample))
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise _Misfit(f"has features of different numbers of rows: {sizes}", "give each as many")
    return tfexample.encode(columns)


def _columns(features: Mapping[str, Feature], sample: Examples) -> Iterator[tuple[str, np.ndarray]]:
    for name, given in sample.features.items():
        if name not in features:
            raise _Misfit(f"there is no feature '{name}'", did_you_mean(name, features))
        feature = features[name]
        try:
            if isinstance(given, Random):
                yield name, _random(name, feature.dtype, (None, *feature.shape), given, drawn=False)
            else:
                yield name, _fitted(_given(given, feature.dtype), feature.dtype, (None, *feature.shape))
        except _Misfit as cause:
            raise _Misfit(f"feature '{name}' {cause.what}", cause.do) from None
    missing = [name for name, feature in features.items() if name not in sample.features and feature.default is None]
    if missing:
        raise _Misfit(f"gives no feature {', '.join(missing)}", "a feature without a default is in every example")
