"""Hints: what is known of the values that a graph is fed, beyond dtype and static shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exportkit.metagraph.tensors import Shape


@dataclass
class Sparse:
    """A sparse tensor that is fed in parts.

    Attributes:
        shape: its dense shape, None for sizes that the graph leaves open; None for an unknown rank.
    """

    shape: Shape = None


@dataclass
class Hint:
    """What a graph tells about the values of a tensor that is fed.

    Attributes:
        rank: its rank, where a node that takes it fixes it.
        sizes: axis → size; a negative axis counts from the end.
        multiple: a divisor of its only size.
        least: the smallest size of open dimensions but the first: that of a kernel.
        room: the smallest size of all open dimensions, where the graph reshapes the tensor before a convolution.
        below: integers are ids from [0, below).
        length: integers are lengths of sequences.
        one_hot: each row is 1 in one place and 0 in the others.
        texts: some keys of the lookup table that it is looked up in.
        content: ``image``, ``example``, ``number``, ``csv`` or ``raw``: what the texts hold.
        pixels: height, width and channels of ``image``, where they are known.
        example: the dense features that a parser demands: key → values of one row.
        count: the number of columns of ``csv``, or of bytes of ``raw``.
        part: which part of a sparse tensor it is: ``indices``, ``values`` or ``dense_shape``; of a ragged one, ``values`` or
            ``row_splits``.
        sparse: that tensor.
    """

    rank: int | None = None
    sizes: dict[int, int] = field(default_factory=dict)
    multiple: int = 1
    least: int = 1
    room: int = 1
    below: int | None = None
    length: bool = False
    one_hot: bool = False
    texts: Sequence[bytes] = ()
    content: str = ""
    pixels: tuple[int, int, int] | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0
    part: str = ""
    sparse: Sparse | None = None

    def narrowed(self, shape: Shape) -> Shape:
        """Return a static shape with the sizes filled in that the hint knows; None where the rank is not known."""
        if shape is None and self.rank is None:
            return None
        sizes: list[int | None] = list(shape) if shape is not None else [None] * (self.rank or 0)
        for axis, size in self.sizes.items():
            if -len(sizes) <= axis < len(sizes) and sizes[axis] is None:
                sizes[axis] = size
        return tuple(sizes)
