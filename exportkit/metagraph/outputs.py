"""Likely outputs of an unknown training graph: tensors in the tail of its forward pass, ranked by points.

Points are given for an op, for a name, for how losses use a tensor, and for what it needs. Only the order has a meaning.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from exportkit.metagraph.candidates import PARTS, Candidate
from exportkit.metagraph.forward import DIFFERENCES, FAR, PASSES, Edge, Forward, like_labels
from exportkit.metagraph.kinds import RANDOM, op_class
from exportkit.metagraph.tensors import split
from exportkit.metagraph.words import (
    averages,
    chosen,
    copy_of,
    in_loss_function,
    like_answer,
    like_decoder,
    like_loss,
    like_metric,
    like_output,
    words,
)

_ENDS = {
    "Softmax": 4.5,
    "CTCBeamSearchDecoder": 5,
    "CTCGreedyDecoder": 5,
    "Sigmoid": 4,
    "Tanh": 2,
    "LogSoftmax": 1.5,
    "ArgMax": 1.5,
    "TopKV2": 1,
    "TopK": 1,
    "BiasAdd": 1,
    "Add": 1,
    "AddV2": 1,
    "MatMul": 0.5,
}
_ROLES = {"Softmax": "probabilities", "Sigmoid": "probabilities", "ArgMax": "classes"}
_LINEAR = frozenset({"BiasAdd", "Add", "AddV2", "MatMul", "Conv2D", "Transpose", "Squeeze", "Reshape"})
_SQUASHES = frozenset({"Softmax", "Sigmoid", "Tanh"})
_WEIGHS = re.compile(r"Mul|(Batch)?MatMul(V2)?")
_PLUMBING = frozenset({"Switch", "Enter", "NextIteration", "LoopCond", "Assert", "TensorArrayV3", "Const"})
_NEVER = frozenset({None, "bool", "resource", "variant"})
_SCORED_BY_NEEDS = 8  # heads of which the inputs and weights that they need are computed


class Outputs:
    """The likely outputs of a graph, from its forward pass."""

    def __init__(self, forward: Forward):
        self.forward, self.graph = forward, forward.graph

    def ranked(self) -> list[Candidate]:
        candidates = [self._candidate(name) for name in self.views]
        heads: dict[int, list[Candidate]] = {}
        for candidate in sorted(candidates, key=lambda c: -c.score):
            heads.setdefault(candidate.head, []).append(candidate)
        ordered = sorted(self._last_step_first(heads.values()), key=lambda views: -views[0].score)
        settled = [*self._scored_by_needs(ordered[:_SCORED_BY_NEEDS]), *ordered[_SCORED_BY_NEEDS:]]
        spread = [replace(c, score=round(c.score - 1.0 * place, 3)) for views in settled for place, c in enumerate(views)]
        return [c for c in sorted(spread, key=lambda c: -c.score) if c.score > -20]

    def _last_step_first(self, heads: Iterable[Sequence[Candidate]]) -> Iterable[Sequence[Candidate]]:
        """Return the heads, in reverse order those that are as good as the best where the last one needs the most layers.

        The last step of an unrolled recurrent net needs the layers of all the steps before it.
        """
        most = max((views[0].score for views in heads), default=0.0)
        equal = [views for views in heads if views[0].score == most]
        if len(equal) < 2 or self._depth(equal[0]) >= self._depth(equal[-1]):
            return heads
        return [*reversed(equal), *(views for views in heads if views[0].score < most)]

    def _depth(self, views: Sequence[Candidate]) -> int:
        return len(self.forward.layers.keys() & self.forward.upstream([split(views[0].tensor)[0]]))

    @cached_property
    def views(self) -> dict[str, int]:
        """Node that can be exported → its place in the graph; nodes that lack a value in the checkpoint only if all do."""
        forward = self.forward
        tail = {name: place for name, place in forward.tail.items() if self._has_value(name)}
        tail |= {name: forward.nodes[name] for name in forward.generated if name in forward.nodes and self._has_value(name)}
        saved = {name: place for name, place in tail.items() if name not in forward.lacking}
        found = saved or tail
        return {name: found[name] for name in sorted(found, key=found.__getitem__) if self._may_be_answer(name)}

    def _may_be_answer(self, name: str) -> bool:
        if self.graph.types[name] in _PLUMBING or in_loss_function(name) or averages(name):
            return False
        users = self.graph.users(name)
        return not users or not all(map(averages, users))

    def _has_value(self, name: str) -> bool:
        return (
            name not in self.graph.contexts and self.graph.dtype(f"{name}:0") not in _NEVER and name not in self.graph.sources
        )

    @cached_property
    def heads(self) -> dict[str, int]:
        """View → the number of its head: a connected group of views."""
        found: dict[str, int] = {}
        for number, start in enumerate(self.views):
            todo = [start] if start not in found else []
            while todo:
                name = todo.pop()
                if name in found:
                    continue
                found[name] = number
                near = [*self.forward.users.get(name, ()), *(op for op, index in self.graph.inputs(name) if index >= 0)]
                todo += [other for other in near if other in self.views and other not in found]
        return found

    def _candidate(self, name: str) -> Candidate:
        node, index = self.graph.nodes[name], PARTS.get(self.graph.types[name], (0,))[0]
        tensor = f"{name}:{index}"
        reasons = [*self._by_op(name), *self._by_name(name), *self._by_use(name)]
        why = ", ".join(text for points, text in reasons if points > 0 and text)
        score = round(sum(points for points, _ in reasons), 3)
        return Candidate(
            tensor, self.graph.dtype(tensor), self.graph.shape(tensor), node.op, score, why, self.heads[name], self._role(name)
        )

    def _role(self, name: str) -> str:
        op = self.graph.types[self._origin(name)]
        if op in _ROLES:
            return _ROLES[op]
        if self.graph.dtype(f"{name}:0") == "string":
            return "labels"
        users = {self.graph.types[user] for user in self.forward.users.get(name, ())}
        compared = self.forward.compared.get(name)
        if users & {"Softmax", "Sigmoid"}:
            return "logits"
        if not compared or op not in _LINEAR:
            return ""
        return "predictions" if self.graph.types[compared] in DIFFERENCES else "logits"

    def _by_op(self, name: str) -> list[tuple[float, str]]:
        op = self.graph.types[name]
        shape = self.graph.shape(f"{name}:0")
        origin = self._origin(name)
        reasons = [(self._op_points(origin), op)] if op in _ENDS or origin != name else []
        if origin != name:
            reasons.append((0.1 if self.graph.types[name] != "ExpandDims" else -0.6, ""))
        return [
            *reasons,
            (-6, "a scalar") if shape == () else (0, ""),
            (-4, "of one size for any batch") if shape and len(shape) == 1 and shape[0] and self._open_rows else (0, ""),
            (-1.5, "drawn at random") if op in ("Multinomial",) or RANDOM.fullmatch(op) else (0, ""),
            (-3, "") if op == "Exit" and not self.forward.users.get(name) else (0, ""),
        ]

    @cached_property
    def _open_rows(self) -> bool:
        """Whether all data has an open first dimension: then a vector of a fixed size has no rows, as the mean of a batch."""
        shapes = [self.graph.shape("{}:{}".format(*edge)) for edge in self.forward.data]
        return bool(shapes) and all(shape and shape[0] is None for shape in shapes)

    def _op_points(self, name: str) -> float:
        """Return the points of an op as the last one of a net; few for a softmax that weights other values, as in attention."""
        op = self.graph.types[name]
        if op not in _SQUASHES:
            return _ENDS.get(op, 0)
        (operand, _), *_ = self.graph.inputs(name)
        for user in self.forward.users.get(name, ()):
            if _WEIGHS.fullmatch(self.graph.types[user]) and user in self.views:
                others = [o for o, index in self.graph.inputs(user) if index >= 0 and o != name]
                if any(other not in self.forward.downstream([operand]) for other in others):
                    return 0.5
        return _ENDS[op]

    def _origin(self, name: str) -> str:
        """Return the node whose value a node only passes on; the node itself if it does not."""
        for _ in range(FAR):
            passes = self.graph.types[name] in PASSES and not self.forward.only_for_loss(name)
            before = self.graph.inputs(name)[0][0] if passes and self.graph.inputs(name) else ""
            if before not in self.views:
                break
            name = before
        return name

    def _by_name(self, name: str) -> list[tuple[float, str]]:
        *scopes, leaf = name.split("/")
        op = self.graph.types[name]
        return [
            (self._name_points(leaf, op), "named like an output"),
            (5, "decoded") if op == "Merge" and any(map(like_decoder, scopes)) and not any(map(like_loss, scopes)) else (0, ""),
            (1, "in a scope named like an output") if any(map(like_output, scopes[-2:])) else (0, ""),
            (-5, "part of a loss or metric") if like_loss(leaf) or like_metric(leaf) else (0, ""),
            (-5 if op == "Merge" else -1.5, "in the scope of a loss") if any(map(like_loss, scopes)) else (0, ""),
            (-4, "in the scope of a metric") if any(map(like_metric, scopes)) else (0, ""),
            (0.75 * copy_of(scopes), ""),
            (-3, "inside dropout") if "dropout" in words(leaf) | words(scopes[-1] if scopes else "") else (0, ""),
        ]

    def _name_points(self, leaf: str, op: str) -> float:
        """Return the points of a name. Logits and class numbers are seldom what is wanted most, whatever their name."""
        if not like_output(leaf) or not chosen(leaf, op):
            return 0
        if "logits" in words(leaf) or op in ("ArgMax", "Cast"):
            return 1.5
        return 6 if leaf.startswith("embeddings") else 4.5 if like_answer(leaf) else 3

    def _by_use(self, name: str) -> list[tuple[float, str]]:
        forward = self.forward
        users = [user for user in forward.users.get(name, ()) if user in self.views and not self._is_report(user)]
        return [
            (3, f"compared by {self._compared(name)}") if self._compared(name) else (0, ""),
            (1, "nothing in the forward pass consumes it") if not users else (0, ""),
            (-5, "a reshape of the loss") if forward.only_for_loss(name) else (0, ""),
            (4, "another net takes it in place of data") if name in forward.generated else (0, ""),
            (-4, "judges what another net generates") if self._is_judge(name) else (0, ""),
        ]

    def _compared(self, name: str) -> str | None:
        """Return the loss op that compares a tensor, or the logits of which it is the softmax; None if there is none."""
        compared = self.forward.compared
        if name not in compared and not self.forward.only_for_loss(name):
            name = self._origin(name)
        if name not in compared and self.graph.types[name] in _SQUASHES:
            (name, _), *_ = self.graph.inputs(name)
            name = self._origin(name) if name in self.views else name
        return compared.get(name)

    def _is_report(self, name: str) -> bool:
        return any(like_loss(part) or like_metric(part) for part in name.split("/")) or self.graph.types[name] in (
            "Cast",
            "Equal",
            "ArgMax",
            "Mean",
            "Sum",
        )

    def _is_judge(self, name: str) -> bool:
        return name in self._judging

    @cached_property
    def _judging(self) -> set[str]:
        forward = self.forward
        judges = set(forward.generated.values())
        return forward.downstream([name for name, weights in forward.layers.items() if weights in judges]) - set(
            forward.generated
        )

    @cached_property
    def _take_data(self) -> set[str]:
        """The nodes that take a tensor of a source."""
        return {user for source in self.graph.sources for user in self.graph.consumers.get(source, ())}

    def _scored_by_needs(self, heads: Sequence[Sequence[Candidate]]) -> Iterator[Sequence[Candidate]]:
        """Yield the views of each head, scored by what the best of them needs: all the weights, no labels, no Python.

        An answer that another one does without loses points: a decoder that is fed the words it is to predict.
        """
        needs = [self._needs(views[0]) for views in heads]
        total = len(self.forward.variables)
        for views, need in zip(heads, needs, strict=True):
            share = len(need.weights) / total if total else 0
            python = any(op_class(self.graph.types[op]) == "python" for op, _ in need.edges)
            forced = any(self._does_without(other, need) for other in needs)
            points = 3 * share - 2 * like_labels(need.edges) - 3 * python - 6 * forced
            yield [replace(c, score=round(c.score + points, 3)) for c in views]

    def _needs(self, candidate: Candidate) -> "_Needs":
        op = split(candidate.tensor)[0]
        above = self.forward.upstream([op])
        edges = {edge for name in self._take_data & (above | {op}) for edge in self.graph.inputs(name)}
        edges = {edge for edge in edges if edge[0] in self.graph.sources}
        return _Needs(frozenset(self.forward.variables) & above, frozenset(edges))

    def _does_without(self, other: "_Needs", need: "_Needs") -> bool:
        """Return whether another answer has all the weights of one, and less of the data that layers take."""
        return other.edges < need.edges and other.weights >= need.weights and need.edges - other.edges <= self.forward.data


@dataclass(frozen=True)
class _Needs:
    """What an answer depends on: the nodes of its weights, and the tensors of sources."""

    weights: frozenset[str]
    edges: frozenset[Edge]
