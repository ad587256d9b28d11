"""The first tensor at which two graphs of one origin differ, and the comparison of values."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from exportkit.metagraph import Graph, split
from exportkit.metagraph.kinds import RANDOM
from exportkit.protos import NodeDef

Values = Mapping[str, np.ndarray]
Fetch = Callable[[Sequence[str]], Values | None]  # tensors → their values; None if TensorFlow raises an error
CHUNK = 128  # tensors fetched at once: all their values are in memory

_HANDLES = frozenset({"resource", "variant"})


@dataclass(frozen=True)
class Tolerance:
    """The allowed difference of numbers: ``atol + rtol * |there|``, where `there` is the reference."""

    atol: float = 0.0
    rtol: float = 0.0

    def __str__(self) -> str:
        return f"atol {self.atol:g}" + (f", rtol {self.rtol:g}" if self.rtol else "")

    def of_at_least(self, units: int, dtype: np.dtype) -> "Tolerance":
        """Return a tolerance that also allows `units` in the last place of floating-point numbers, and that tiny ones are 0."""
        if not units or dtype.kind not in "fV":
            return self
        found = ml_dtypes.finfo(dtype)
        return Tolerance(max(self.atol, float(found.tiny)), max(self.rtol, units * float(found.eps)))


EXACT = Tolerance()


@dataclass(frozen=True)
class Difference:
    """How two values differ.

    Attributes:
        largest: the largest absolute difference of finite numbers; 0 for integers and strings that are equal.
        mismatches: the number of elements that differ by more than the tolerance.
        there: the reference's element where the two differ most, as text.
        here: the other value's element at that place.
        misfit: dtypes and shapes if these differ; the elements are not compared then.
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
    """Compare the value `here` with the reference `there`.

    A NaN equals a NaN. Integers, booleans and strings must be equal: the tolerance is for floating-point and complex numbers.
    """
    if (there.dtype, there.shape) != (here.dtype, here.shape):
        return Difference(misfit=f"{_describe_type(there)} there, {_describe_type(here)} here")
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
    return Difference(largest, int(wrong.sum()), _format_element(there[place]), _format_element(here[place]))


def _is_inexact(value: np.ndarray) -> bool:
    return value.dtype.kind in "fc" or "float" in value.dtype.name


def _is_number(value: np.ndarray) -> bool:
    return value.dtype.kind in "iu"


def _describe_type(value: np.ndarray) -> str:
    return f"{'string' if value.dtype.kind == 'O' else value.dtype.name} {list(value.shape)}"


def _format_element(element: np.generic | bytes) -> str:
    if isinstance(element, bytes):
        return repr(element.decode(errors="replace"))
    return str(element) if isinstance(element, str) else f"{np.asarray(element).item()!r}"


def unequal(there: np.ndarray, here: np.ndarray) -> bool:
    """Return whether two answers to one request differ in a bit."""
    if (there.dtype, there.shape) != (here.dtype, here.shape):
        return True
    return bool((there != here).any()) if there.dtype.kind == "O" else there.tobytes() != here.tobytes()


@dataclass(frozen=True)
class First:
    """The first tensor that differs, and how."""

    tensor: str
    difference: Difference


def first(tensors: Sequence[str], there: Fetch, here: Fetch, tolerance: Tolerance = EXACT) -> First | None:
    """Return the first of `tensors` whose value differs between two graphs; None if there is no such tensor.

    Tensors are skipped if two runs of the first graph give different values, or if one of the graphs cannot compute them.
    """
    for start in range(0, len(tensors), CHUNK):
        steady = _steady(list(tensors[start : start + CHUNK]), there)
        for tensor, value in _fetched(list(steady), here).items():
            if found := compare(steady[tensor], value, tolerance):
                return First(tensor, found)
    return None


def _steady(tensors: list[str], fetch: Fetch) -> Values:
    """Return the values of those tensors that are the same in two runs."""
    once = _fetched(tensors, fetch)
    again = _fetched(list(once), fetch)
    return {tensor: value for tensor, value in again.items() if not unequal(once[tensor], value)}


def _fetched(tensors: list[str], fetch: Fetch) -> dict[str, np.ndarray]:
    """Return the values of those tensors that can be fetched; if a fetch fails, its halves are tried."""
    values = fetch(tensors) if tensors else {}
    if values is not None:
        return dict(values)
    if len(tensors) == 1:
        return {}
    middle = len(tensors) // 2
    return _fetched(tensors[:middle], fetch) | _fetched(tensors[middle:], fetch)


def comparable(there: Graph, here: Graph, fetches: Sequence[str]) -> list[str]:
    """Return the tensors that `fetches` need in graph `here` and that both graphs have under one name, in topological order.

    Left out are tensors inside of loops and branches, tensors that no node reads, and handles. A variable is included even if
    only a loop or function reads it.
    """
    ordered = _ordered(here, fetches)
    inside = _inside(here, ordered)
    read = {edge for name in ordered for edge in here.inputs(name)} | set(map(split, fetches))
    tensors = (tensor for name in ordered if name not in inside for tensor in _tensors(here, name, read))
    return [tensor for tensor in tensors if _same_op(there, here, tensor) and here.dtype(tensor) not in _HANDLES]


def _tensors(graph: Graph, name: str, read: Set[tuple[str, int]]) -> list[str]:
    """Return those of a node's tensors that are read; for a resource variable one of its reads, whether needed or not."""
    if graph.nodes[name].op == "VarHandleOp":
        reads = (user for user in graph.consumers.get(name, ()) if graph.nodes[user].op == "ReadVariableOp")
        return [f"{user}:0" for user in reads][:1]
    return [f"{name}:{index}" for index in range(graph.num_outputs(name) or 0) if (name, index) in read]


def _same_op(there: Graph, here: Graph, tensor: str) -> bool:
    name = split(tensor)[0]
    return name in there.nodes and there.nodes[name].op == here.nodes[name].op


def enclosed(graph: Graph, fetches: Sequence[str]) -> bool:
    """Return whether `fetches` need nodes in a loop, branch or function, which `comparable` leaves out.

    In a loop or branch a tensor has many values or none; in a function its name is not one of the graph.
    """
    ordered = _ordered(graph, fetches)
    return bool(_inside(graph, ordered) or graph.called(graph.nodes[name] for name in ordered))


def random_nodes(graph: Graph, fetches: Sequence[str]) -> list[str]:
    """Return the random ops that `fetches` need, also in functions, as ``dropout/random_uniform (RandomUniform)``."""
    reached = [graph.nodes[name] for name in sorted(graph.reach(fetches))]
    bodies = ((caller, node) for name, caller in graph.called(reached).items() for node in graph.functions[name].node_def)
    within = [f"{_describe_node(node)} in {caller}" for caller, node in bodies if RANDOM.fullmatch(node.op)]
    return [_describe_node(node) for node in reached if RANDOM.fullmatch(node.op)] + within


def _describe_node(node: NodeDef) -> str:
    return f"{node.name} ({node.op})"


def _ordered(graph: Graph, fetches: Sequence[str], loops: bool = True) -> list[str]:
    """Return the nodes that `fetches` need, inputs before their users.

    With `loops`, also along the edges that close a loop; then the order holds for nodes outside of loops.
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


# How an op changes the depth. A loop is Enter, Merge (to which NextIteration returns), Switch, Exit; a branch is Switch, Merge
_DEEPER = {"Enter": 1, "Switch": 1, "Merge": -1, "Exit": -2}


def _inside(graph: Graph, ordered: Sequence[str]) -> set[str]:
    """Return the nodes in frames and branches of v1 control flow: from an Enter or Switch to its Exit or Merge."""
    depth: dict[str, int] = {}
    for name in _ordered(graph, ordered, loops=False):
        outer = max((depth[op] for op in _inputs(graph, name, loops=False)), default=0)
        depth[name] = max(0, outer + _deeper(graph, name))
    return {name for name, level in depth.items() if level > 0}


def _deeper(graph: Graph, name: str) -> int:
    op = graph.nodes[name].op.removeprefix("Ref")
    opens_loop = op == "Merge" and any(_closes_loop(graph, source) for source, _ in graph.inputs(name))
    return 0 if opens_loop else _DEEPER.get(op, 0)
