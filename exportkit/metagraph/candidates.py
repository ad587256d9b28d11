"""Candidates: tensors of an unknown training graph that are likely to be served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exportkit.metagraph.tensors import Shape

PARTS = {"CTCGreedyDecoder": (1, 0, 2, 3), "CTCBeamSearchDecoder": (1, 0, 2), "TopKV2": (0, 1), "TopK": (0, 1)}
PART_NAMES = {
    "CTCGreedyDecoder": ("indices", "values", "dense_shape", "neg_sum_logits"),
    "CTCBeamSearchDecoder": ("indices", "values", "dense_shape"),
    "TopKV2": ("values", "indices"),
    "TopK": ("values", "indices"),
}


@dataclass(frozen=True)
class Candidate:
    """A tensor that is likely to be an input or an output.

    Attributes:
        tensor: ``op:0``.
        dtype: ``float32`` …; None if it is not known.
        shape: its static shape; None for an unknown rank.
        op: the op that computes it, such as ``Placeholder``.
        score: higher is likelier; only the order has a meaning.
        why: the reasons, in words.
        head: the number of its head; tensors of one head are views of one answer, such as logits and their softmax.
        role: its role among the views of its head: ``probabilities``, ``predictions`` (of a regression), ``logits``,
            ``classes`` or ``labels`` (texts); empty for any other.
    """

    tensor: str
    dtype: str | None
    shape: Shape
    op: str
    score: float
    why: str
    head: int = 0
    role: str = ""


@dataclass(frozen=True)
class Ranking:
    """The tensors of a graph that are likely to be served.

    Attributes:
        outputs: the likeliest first.
        inputs: the inputs that the likeliest output needs.
        others: further inputs that the next two outputs need.
        constants: placeholders that only training feeds → their value when the model serves.
    """

    outputs: Sequence[Candidate] = ()
    inputs: Sequence[Candidate] = ()
    others: Sequence[Candidate] = ()
    constants: Mapping[str, bool | float] = field(default_factory=dict)
