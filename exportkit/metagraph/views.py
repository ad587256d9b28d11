"""The tensors that are offered beside the likeliest output: other views of the same answer, and other answers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from exportkit.metagraph.candidates import PARTS, Candidate, Ranking
from exportkit.metagraph.feeds import needed
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.tensors import split
from exportkit.metagraph.words import chosen, like_loss, like_metric

_ROLES = ("", "probabilities", "predictions", "logits", "classes")  # in the order in which they are offered
_FEWER_POINTS = 5  # than the best: such an output is no alternative
_RANKED = 8  # outputs that are looked at


def together(graph: Graph, ranking: Ranking) -> list[Candidate]:
    """Return the likeliest output and the views of its head that need no more inputs: logits, classes, parts of a decoding."""
    best, *others = ranking.outputs
    if best.op in PARTS:
        op = split(best.tensor)[0]
        edges = [f"{op}:{index}" for index in PARTS[best.op]]
        return [replace(best, tensor=e, dtype=graph.dtype(e), shape=graph.shape(e)) for e in edges]
    reached = set(graph.walk([best.tensor], ranking.constants))
    views, siblings = {best.role: best}, []
    for other in others:
        view = other.head == best.head and other.role in _ROLES[1:] and other.role not in views
        sibling = _made_to_be_fetched(graph, best) and _made_to_be_fetched(graph, other)
        if (view or sibling) and not needed(graph, [other.tensor], ranking.constants, reached):
            siblings += [other] if sibling else []
            views |= {other.role: other} if view else {}
    if siblings:
        return [best, *siblings]
    rest = [v for v in views.values() if v is not best]
    return [best, *siblings, *sorted(rest, key=lambda view: _ROLES.index(view.role))]


def _made_to_be_fetched(graph: Graph, candidate: Candidate) -> bool:
    """Return whether an output is an identity that somebody named and no node takes: it is there to be fetched."""
    op = split(candidate.tensor)[0]
    *scopes, leaf = op.split("/")
    reports = any(like_loss(part) or like_metric(part) for part in (*scopes, leaf))
    return candidate.op == "Identity" and not graph.users(op) and chosen(leaf, "Identity") and not reports


def alternatives(graph: Graph, ranking: Ranking, outputs: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield other likely answers than `outputs`: of other heads, and of theirs where neither answer needs the other."""
    if len(outputs) > 1 and all(_made_to_be_fetched(graph, c) for c in outputs):
        return  # the author has chosen them
    own, others = {c.head for c in outputs}, set[int]()
    shown = {split(c.tensor)[0] for c in outputs}
    reached = set(graph.walk([c.tensor for c in outputs], ranking.constants))
    for candidate in ranking.outputs[:_RANKED]:
        op, same = split(candidate.tensor)[0], candidate.head in own
        if (same and op in reached) or candidate.head in others or candidate.score <= _least_score(candidate, outputs):
            continue
        needs = set(graph.walk([candidate.tensor], ranking.constants))
        if not same:
            others.add(candidate.head)
        elif candidate.role != "labels" and needs & shown:
            continue
        else:
            reached |= needs
        shown.add(op)
        yield candidate


def _least_score(candidate: Candidate, outputs: Sequence[Candidate]) -> float:
    """Return what an alternative's score has to exceed: little for the answer to another task, such as a second probability."""
    beside = any(c.head == candidate.head and c.role == candidate.role for c in outputs if c.role)
    best = outputs[0].score
    return 0.0 if beside else max(0.0, best - _FEWER_POINTS, best / 2)
