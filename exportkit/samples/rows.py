"""Which inputs of a signature have a batch axis, found from what the model answers to its sample whole and in other sizes.

A first axis is that of a batch where the model takes other sizes of it, an output has as many rows, and each row is answered as
it is among others. A signal, an image or the nodes of a graph may be cut as well, but then the answers change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from exportkit.metagraph.tensors import Shape
from exportkit.samples.batches import Batch
from exportkit.samples.hints import Hint

BATCH, NOT = "batch", "not a batch"
NEAR = 1e-3  # of an output's largest value: more than another order of sums comes to

Answer = Mapping[str, np.ndarray]
Ask = Callable[[Mapping[str, np.ndarray]], Answer | None]  # None: refused


def fixed_at(size: int) -> str:
    return f"batch fixed at {size}"


def found(
    batch: Batch, shapes: Mapping[str, Shape], hints: Mapping[str, Hint], inner: Sequence[int], whole: Answer, ask: Ask
) -> Batch:
    """Return the batch with its axes, from what the model answers.

    Args:
        batch: a sample that the model takes.
        shapes: alias → static shape.
        hints: alias → what the graph tells about it.
        inner: first dimensions that are baked into the graph.
        whole: the answer to the sample as it is.
        ask: sends the model other values.
    """
    parts = {alias for alias in batch.values if alias in hints and hints[alias].part}
    axes = {alias: _static(value, shapes[alias], whole) for alias, value in batch.values.items()}
    axes |= dict.fromkeys(parts, NOT)
    steady, refused = _steady(ask(batch.values), whole), []
    for group in _groups(batch, shapes, parts):
        rows = len(batch.values[group[0]])
        tried = replace(batch, rows=rows, open=frozenset(group))
        answers = {size: ask(tried.resized(size)) for size in _other_sizes(rows)}
        taken = {size: answer for size, answer in answers.items() if answer is not None}
        refused += [tried.resized(size) for size in answers if size not in taken]
        followed = [size for size, answer in taken.items() if _follows(answer, whole, size, rows, steady)]
        if followed:
            axes |= dict.fromkeys(group, BATCH)
            known = {alias: axes[alias] for alias in batch.values}
            sizes = tuple(sorted({rows, *taken}))
            unbatched = _unbatched(known, {**taken, rows: whole}, answers)
            return replace(tried, sizes=sizes, axes=known, unbatched=unbatched, refused=tuple(refused))
        alone = rows == 1 and any(_has(answer, 1) for answer in whole.values())
        kept = any(_has(answer, rows) for answer in whole.values())
        baked = not parts and ((rows in inner and (kept or not taken)) or (alone and not taken))
        axes |= dict.fromkeys(group, fixed_at(rows) if baked else NOT)
    known = {alias: axes[alias] for alias in batch.values}
    unbatched = _unbatched(known, {}, {})
    return replace(batch, rows=None, open=frozenset(), axes=known, unbatched=unbatched, refused=tuple(refused))


def _static(value: np.ndarray, shape: Shape, whole: Answer) -> str:
    """Return what is known of an input whose first size is not open: a batch of that size has its share in an output."""
    if shape is None or not shape or shape[0] is None or not value.ndim:
        return NOT
    size = shape[0]
    shared = size > 0 and any(answer.ndim and len(answer) and len(answer) % size == 0 for answer in whole.values())
    return fixed_at(size) if shared else NOT


def _groups(batch: Batch, shapes: Mapping[str, Shape], parts: set[str]) -> Iterator[list[str]]:
    """Yield groups of inputs whose open first sizes are equal; the largest group first."""
    groups: dict[int, list[str]] = {}
    for alias, value in batch.values.items():
        shape = shapes[alias]
        if alias not in parts and value.ndim and len(value) and (shape is None or (shape and shape[0] is None)):
            groups.setdefault(len(value), []).append(alias)
    yield from sorted(groups.values(), key=len, reverse=True)


def _other_sizes(rows: int) -> tuple[int, ...]:
    return {1: (2, 3), 2: (1, 3)}.get(rows, (1, 2))


def _steady(again: Answer | None, whole: Answer) -> frozenset[str]:
    """Return the outputs that are the same twice."""
    return frozenset(alias for alias in whole if again is not None and _nearly_equal(again[alias], whole[alias]))


def _follows(answer: Answer, whole: Answer, size: int, rows: int, steady: frozenset[str]) -> bool:
    """Return whether outputs have as many rows as their inputs, and each row has the same answer as before."""
    following = [alias for alias in whole if _has(answer[alias], size) and _has(whole[alias], rows)]
    order = np.arange(size) % rows
    same = (_nearly_equal(answer[alias], whole[alias][order], whole[alias]) for alias in following if alias in steady)
    return bool(following) and all(same)


def _has(value: np.ndarray, rows: int) -> bool:
    return value.ndim > 0 and len(value) == rows


def _nearly_equal(one: np.ndarray, other: np.ndarray, scale: np.ndarray | None = None) -> bool:
    if one.shape != other.shape:
        return False
    if other.dtype.kind not in "fc":
        return bool(np.all(one == other))
    values = other if scale is None else scale
    largest = float(np.max(np.abs(values), where=np.isfinite(values), initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=NEAR * largest, equal_nan=True))


def _unbatched(axes: Mapping[str, str], taken: Mapping[int, Answer], answers: Mapping[int, Answer | None]) -> str:
    """Return why a server cannot batch requests (batching_session.cc: every first dimension is the number of rows)."""
    if not axes:
        return "it has no inputs"
    for alias, axis in axes.items():
        if axis != BATCH:
            return (
                f"input '{alias}' is {axis}"
                if axis == NOT
                else f"the {axis} ({alias})".replace("batch fixed", "batch is fixed")
            )
    for size, answer in answers.items():
        if answer is None:
            return f"it refuses {size} row{'s' if size > 1 else ''}"
    for size, answer in sorted(taken.items()):
        for alias, value in answer.items():
            if not _has(value, size):
                first = "is a scalar" if not value.ndim else f"has first dimension {len(value)}"
                return f"output '{alias}' {first} for {size} row{'s' if size > 1 else ''}"
    return ""
