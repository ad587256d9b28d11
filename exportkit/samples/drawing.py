"""Random values of a dtype and shape, such as a graph is likely to take."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from exportkit.checkpoint.encoding import objects
from exportkit.metagraph.tensors import Shape
from exportkit.samples import png, tfexample
from exportkit.samples.arrays import Misfit, fit
from exportkit.samples.hints import Hint
from exportkit.spec import Random

ROWS = 2
SIZE = 8  # of a dimension that a signature leaves open, other than the first
LARGE = 1 << 26  # elements of one value
_TEXT = b"exportkit"


@dataclass(frozen=True)
class Attempt:
    """How open sizes and integers are chosen.

    Attributes:
        rows: of an open first dimension.
        size: of every other open dimension.
        vector: of the only dimension of a float vector, where it is not `rows`.
        whole: what integers without a hint are: ``drawn``, ``zero`` or ``one``.
        rank: of a tensor of unknown rank.
    """

    rows: int = ROWS
    size: int = SIZE
    vector: int | None = None
    whole: str = "drawn"
    rank: int = 1


def attempts(shapes: Sequence[Shape], inner: Sequence[int]) -> Iterator[Attempt]:
    """Yield the ways to choose sizes, the likeliest first; their number is bounded.

    Args:
        shapes: of all inputs.
        inner: first dimensions that are baked into the graph.
    """
    fixed = [shape[0] for shape in shapes if shape and shape[0] is not None]
    vectors = any(shape is not None and len(shape) == 1 and shape[0] is None for shape in shapes)
    baked = list(dict.fromkeys([*fixed, *inner[:3]]))
    found = [Attempt(), *(Attempt(rows=size) for size in baked[:4]), Attempt(rows=SIZE), Attempt(whole="one")]
    found += [Attempt(rows=size, whole="one") for size in baked[:1]]
    found += [Attempt(rows=1), Attempt(whole="zero"), Attempt(rows=SIZE, vector=1), Attempt(rows=1, vector=SIZE)]
    found += [Attempt(rank=rank) for rank in (2, 0, 4, 3)] if None in shapes else []
    found += [Attempt(size=64), Attempt(size=256), Attempt(rows=64, size=64), Attempt(rows=256, size=256)]
    found += [Attempt(vector=size) for size in (1024, 16000)] if vectors else []
    yield from dict.fromkeys(found)


@dataclass(frozen=True)
class Drawn:
    """One input that is drawn.

    Attributes:
        name: it decides, with the seed, what is drawn.
        shape: its static shape.
        sample: the bounds; where they are [0, 1), the hint decides.
    """

    name: str
    dtype: str
    shape: Shape
    sample: Random
    hint: Hint


class Draw:
    """Values for several inputs whose sizes belong together.

    Args:
        inputs: all inputs of a signature that are drawn.
    """

    def __init__(self, inputs: Sequence[Drawn], attempt: Attempt):
        self._attempt = attempt
        self._sizes = {one.name: _size(one, attempt) for one in inputs}
        self._steps = max(1, min((step for one in inputs for step in self._times(one)), default=attempt.size))

    def _times(self, one: Drawn) -> Iterator[int]:
        """Yield sizes that may be those of time: of second dimensions, and of all further ones that are open."""
        size, shape = self._sizes[one.name], one.shape or ()
        yield from size[1:2]
        yield from (size[axis] for axis in range(2, len(shape)) if shape[axis] is None)

    def value(self, one: Drawn) -> np.ndarray:
        """Return the value of one of them.

        Raises:
            Misfit: its bounds hold nothing, or it would be too large.
        """
        size = self._sizes[one.name]
        count = prod(size) * prod(one.hint.pixels or ())
        if count > LARGE:
            raise Misfit(f"would have {count:,} random values", "write its values")
        if one.hint.sparse is not None:
            return _sparse_part(one, _dense_shape(one.hint.sparse.shape, self._attempt))
        return _value(one, size, self._attempt, self._steps)


def _size(one: Drawn, attempt: Attempt) -> list[int]:
    shape = one.hint.narrowed(one.shape)
    if shape is None:
        return [attempt.rows, *[attempt.size] * (attempt.rank - 1)] if attempt.rank else []
    free = max(attempt.size, one.hint.least, one.hint.room)
    size = [d if d is not None else free if axis else max(attempt.rows, one.hint.room) for axis, d in enumerate(shape)]
    if shape == (None,):
        vector = attempt.vector if attempt.vector and (one.dtype != "int32" or attempt.vector <= SIZE) else None
        size = [max(vector or attempt.rows, one.hint.room) * one.hint.multiple]
    return size


def _generator(one: Drawn) -> np.random.Generator:
    return np.random.default_rng([one.sample.seed, zlib.crc32(one.name.encode())])


def _value(one: Drawn, size: list[int], attempt: Attempt, steps: int) -> np.ndarray:
    """Draw values within the bounds of the sample; where those are [0, 1), integers follow the hint, or else are 0 or 1."""
    generator, sample, hint = _generator(one), one.sample, one.hint
    if one.dtype == "string":
        return _texts(hint, size)
    if one.dtype == "bool":
        return generator.integers(0, 2, size).astype(bool)
    given = (sample.low, sample.high) != (0, 1)
    if hint.one_hot and size and not given:
        rows = np.eye(size[-1])[generator.integers(0, size[-1], size[:-1])]
        return fit(rows, one.dtype, None)
    whole = "int" in one.dtype
    low, high = _bounds(hint, size, attempt, steps) if whole and not given else (sample.low, sample.high)
    if high <= low:
        raise Misfit(f"is drawn from [{low:g}, {high:g}), where there is nothing", "write low < high")
    values = generator.uniform(low, high, size)
    return fit(np.floor(values) if whole else values, one.dtype, None)


def _bounds(hint: Hint, size: Sequence[int], attempt: Attempt, steps: int) -> tuple[int, int]:
    """Return the bounds of integers for which the config gives none."""
    if attempt.whole != "drawn":
        return (0, 1) if attempt.whole == "zero" else (1, 2)
    if hint.below:
        return 0, hint.below
    if hint.length:
        return 1, steps + 1
    return (0, 2) if size else (attempt.rows, attempt.rows + 1)


def _texts(hint: Hint, size: Sequence[int]) -> np.ndarray:
    count = prod(size)
    texts: Sequence[bytes] = {
        "image": lambda: [png.drawn(hint.pixels, seed) for seed in range(ROWS)] if hint.pixels else [png.drawn((32, 32, 3))],
        "example": lambda: [tfexample.encode(hint.example)[0] if hint.example else b""],
        "number": lambda: [b"1"],
        "csv": lambda: [b",".join([b"1"] * hint.count)],
        "raw": lambda: [bytes(hint.count)],
    }.get(hint.content, lambda: list(hint.texts) or [_TEXT])()
    return objects([texts[i % len(texts)] for i in range(count)]).reshape(size)


def _dense_shape(shape: Shape, attempt: Attempt) -> list[int]:
    known = (None, None) if shape is None else shape
    return [d or (attempt.size if axis else attempt.rows) for axis, d in enumerate(known)]


def _sparse_part(one: Drawn, dense: Sequence[int]) -> np.ndarray:
    """Return a part of a sparse or ragged tensor with one entry in each row, in order, as its operations demand."""
    if one.hint.part == "row_splits":
        return fit(np.arange(dense[0] + 1), one.dtype, None)
    if one.hint.part == "dense_shape":
        return fit(np.array(dense), one.dtype, None)
    rows = dense[0] if one.shape is None or one.shape[0] is None else one.shape[0]
    if one.hint.part == "indices":
        generator = _generator(one)
        columns = [np.arange(rows), *(generator.integers(0, size, rows) for size in dense[1:])]
        return fit(np.stack(columns, axis=-1), one.dtype, None)
    inner = [d or SIZE for d in (one.hint.narrowed(one.shape) or ())[1:]]
    return _value(one, [rows, *inner], Attempt(), max(dense))
