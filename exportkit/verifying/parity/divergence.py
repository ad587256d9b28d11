"""Where two graphs of one origin begin to differ: values compared, and the first node that has another one."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from exportkit.metagraph import Graph, split
from exportkit.metagraph.kinds import RANDOM
from exportkit.protos import NodeDef

Values = Mapping[str, np.ndarray]
Fetch = Callable[[Sequence[str]], Values | None]  # tensors → their values; None where TensorFlow refuses
CHUNK = 128  # tensors fetched at once: what they hold is held in memory

_HANDLES = frozenset({"resource", "variant"})


@dataclass(frozen=True)
class Tolerance:
    """Numbers may differ by ``atol + rtol * |there|``."""

    atol: float = 0.0
    rtol: float = 0.0

    def __str__(self) -> str:
        return f"atol {self.atol:g}" + (f", rtol {self.rtol:g}" if self.rtol else "")


EXACT = Tolerance()


@dataclass(frozen=True)
class Difference:
    """How two values differ.

    Attributes:
        largest: the largest absolute difference of finite numbers; 0 for integers and strings that are equal.
        mismatches: how many elements differ by more than is allowed.
        there: the reference's element where they differ most.
        here: the other's.
        misfit: what is wrong with dtype or shape; the elements are not compared then.
    """

    largest: float = 0.0
    mismatches: int = 0
    there: str = ""
    here: str = ""
    misfit: str = ""

    def __bool__(self) -> bool:
        return bool(self.mismatches or self.misfit)

    def __str__(self) -> str:
        return self.misfit or f"{self.there} there, {self.here} here"


def compare(there: np.ndarray, here: np.ndarray, tolerance: Tolerance = EXACT) -> Difference:
    """Compare a value with the reference's. A NaN equals a NaN; integers, booleans and strings are equal or not."""
    if (there.dtype, there.shape) != (here.dtype, here.shape):
        return Difference(misfit=f"{_kind(there)} there, {_kind(here)} here")
    if not _is_inexact(there):
        wrong = np.asarray(there != here)
        gap = wrong.astype(np.float64)
        largest = float(np.abs(there.astype(np.float64) - here.astype(np.float64)).max(initial=0)) if _is_number(there) else 0.0
        return _difference(there, here, wrong, gap, largest)
    wide = np.complex128 if there.dtype.kind == "c" else np.float64
    a, b = there.astype(wide), here.astype(wide)
    with np.errstate(invalid="ignore", over="ignore"):
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.where(equal, 0.0, np.abs(a - b))
        wrong = ~(equal | (gap <= tolerance.atol + tolerance.rtol * np.abs(a)))
    return _difference(there, here, wrong, gap, float(np.max(gap, where=np.isfinite(gap), initial=0)))


def _difference(there: np.ndarray, here: np.ndarray, wrong: np.ndarray, gap: np.ndarray, largest: float) -> Difference:
    if not wrong.any():
        return Difference(largest)
    place = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(gap, nan=np.inf, posinf=np.inf), -1)), gap.shape)
    return Difference(largest, int(wrong.sum()), _said(there[place]), _said(here[place]))


def _is_inexact(value: np.ndarray) -> bool:
    return value.dtype.kind in "fc" or "float" in value.dtype.name


def _is_number(value: np.ndarray) -> bool:
    return value.dtype.kind in "iu"


def _kind(value: np.ndarray) -> str:
    return f"{'string' if value.dtype.kind == 'O' else value.dtype.name} {list(value.shape)}"


def _said(element: np.generic | bytes) -> str:
    if isinstance(element, bytes):
        return repr(element.decode(errors="replace"))
    return str(element) if isinstance(element, str) else f"{np.asarray(element).item()!r}"


def unequal(there: np.ndarray, here: np.ndarray) -> bool:
    """Whether two answers to one request are not bit for bit the same."""
    if (there.dtype, there.shape) != (here.dtype, here.shape):
        return True
    return bool((there != here).any()) if there.dtype.kind == "O" else there.tobytes() != here.tobytes()


@dataclass(frozen=True)
class First:
    """The first tensor that differs."""

    tensor: str
    difference: Difference


def first(tensors: Sequence[str], there: Fetch, here: Fetch, tolerance: Tolerance = EXACT) -> First | None:
    """The first of `tensors` whose value differs between two graphs.

    Passed over is what the first graph does not give twice the same, and what one of them cannot give.
    """
    for start in range(0, len(tensors), CHUNK):
        steady = _steady(list(tensors[start : start + CHUNK]), there)
        for tensor, value in _fetched(list(steady), here).items():
            if found := compare(steady[tensor], value, tolerance):
                return First(tensor, found)
    return None


def _steady(tensors: list[str], fetch: Fetch) -> Values:
    once = _fetched(tensors, fetch)
    again = _fetched(list(once), fetch)
    return {tensor: value for tensor, value in again.items() if not unequal(once[tensor], value)}


def _fetched(tensors: list[str], fetch: Fetch) -> dict[str, np.ndarray]:
    """What can be fetched; where something cannot, the halves are tried."""
    values = fetch(tensors) if tensors else {}
    if values is not None:
        return dict(values)
    if len(tensors) == 1:
        return {}
    middle = len(tensors) // 2
    return _fetched(tensors[:middle], fetch) | _fetched(tensors[middle:], fetch)


def comparable(there: Graph, here: Graph, fetches: Sequence[str]) -> list[str]:
    """The tensors that `fetches` need in graph `here` and that both graphs have by one name, in topological order.

    Left out: what is `enclosed`; what no node reads; handles. A variable is looked at even if only a loop or function reads it.
    """
    ordered = _ordered(here, fetches)
    inside = _inside(here, ordered)
    read = {edge for name in ordered for edge in here.inputs(name)} | set(map(split, fetches))
    tensors = (tensor for name in ordered if name not in inside for tensor in _tensors(here, name, read))
    return [tensor for tensor in tensors if _same_op(there, here, tensor) and here.dtype(tensor) not in _HANDLES]


def _tensors(graph: Graph, name: str, read: Set[tuple[str, int]]) -> list[str]:
    """What a node gives: those of its tensors that are read; of a resource variable a read, whether or not it is needed."""
    if graph.nodes[name].op == "VarHandleOp":
        reads = (user for user in graph.consumers.get(name, ()) if graph.nodes[user].op == "ReadVariableOp")
        return [f"{user}:0" for user in reads][:1]
    return [f"{name}:{index}" for index in range(graph.num_outputs(name) or 0) if (name, index) in read]


def _same_op(there: Graph, here: Graph, tensor: str) -> bool:
    name = split(tensor)[0]
    return name in there.nodes and there.nodes[name].op == here.nodes[name].op


def enclosed(graph: Graph, fetches: Sequence[str]) -> bool:
    """Whether `fetches` need what has many values or none, or a name that is not the graph's: in a loop, branch or function."""
    ordered = _ordered(graph, fetches)
    return bool(_inside(graph, ordered) or graph.called(graph.nodes[name] for name in ordered))


def random_nodes(graph: Graph, fetches: Sequence[str]) -> list[str]:
    """The nodes that `fetches` need and that draw numbers, also in functions: ``dropout/random_uniform (RandomUniform)``."""
    reached = [graph.nodes[name] for name in sorted(graph.reach(fetches))]
    bodies = ((caller, node) for name, caller in graph.called(reached).items() for node in graph.functions[name].node_def)
    within = [f"{_kind_of(node)} in {caller}" for caller, node in bodies if RANDOM.fullmatch(node.op)]
    return [_kind_of(node) for node in reached if RANDOM.fullmatch(node.op)] + within


def _kind_of(node: NodeDef) -> str:
    return f"{node.name} ({node.op})"


def _ordered(graph: Graph, fetches: Sequence[str], loops: bool = True) -> list[str]:
    """What the fetches need, inputs before their users; `loops`: also along the edges that close a loop.

    Then, too, a node outside of loops comes before all that need it.
    """
    order: list[str] = []
    seen: set[str] = set()
    stack = [(split(fetch)[0], False) for fetch in reversed(fetches)]
    while stack:
        name, done = stack.pop()
        if done:
            order.append(name)
        elif name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack.extend((op, False) for op in reversed(_inputs(graph, name, loops)) if op not in seen)
    return order


def _inputs(graph: Graph, name: str, loops: bool) -> list[str]:
    return [op for op, _ in graph.inputs(name) if loops or not _closes_loop(graph, op)]


def _closes_loop(graph: Graph, name: str) -> bool:
    return graph.nodes[name].op in ("NextIteration", "RefNextIteration")


# A loop is Enter, Merge (that a NextIteration comes back to), Switch, Exit; a branch is Switch, Merge
_DEEPER = {"Enter": 1, "Switch": 1, "Merge": -1, "Exit": -2}


def _inside(graph: Graph, ordered: Sequence[str]) -> set[str]:
    """The nodes in a frame or branch of v1 control flow: behind an Enter or Switch, before the Exit or Merge that ends it."""
    depth: dict[str, int] = {}
    for name in _ordered(graph, ordered, loops=False):
        outer = max((depth[op] for op in _inputs(graph, name, loops=False)), default=0)
        depth[name] = max(0, outer + _deeper(graph, name))
    return {name for name, level in depth.items() if level > 0}


def _deeper(graph: Graph, name: str) -> int:
    op = graph.nodes[name].op.removeprefix("Ref")
    opens_loop = op == "Merge" and any(_closes_loop(graph, source) for source, _ in graph.inputs(name))
    return 0 if opens_loop else _DEEPER.get(op, 0)
