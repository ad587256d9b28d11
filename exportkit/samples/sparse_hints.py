"""Hints on sparse tensors, fed as indices, values and dense shape, and on ragged ones, fed as values and row splits."""

import re
from collections.abc import Mapping

from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import canonical, split
from exportkit.protos import NodeDef
from exportkit.samples.constants import SHAPE_KEEPING, attribute, integers, weight_shape
from exportkit.samples.hints import Hint, Sparse

_TRIPLES = re.compile(  # ops whose first inputs are the indices, values and dense shape of a sparse tensor
    "Sparse(TensorDense(MatMul|Add)|Reorder|Reduce(Sum|Max)(Sparse)?|DenseCwise(Mul|Add|Div)|FillEmptyRows|Softmax|Slice|Add)|"
    "SerializeSparse|SparseTensorToCSRSparseMatrix"
)
_OTHERS = {"SparseToDense": (0, 2, 1), "SparseReshape": (0, None, 1), "SparseSplit": (1, 2, 3)}


def mark_parts(graph: Graph, found: Mapping[str, Hint], tensor: str, node: NodeDef) -> None:
    """Note in the hints which fed tensors are the parts of the sparse tensor that `node` takes, if `tensor` is one of them.

    Args:
        found: fed tensor (``op:0``) → its hint.
    """
    ports = _input_ports(node.op)
    if not ports:
        return
    roots = {part: _fed(graph, found, node.input[port]) for part, port in ports.items()}
    if tensor not in roots.values():
        return
    known = (found[root].sparse for root in roots.values() if root in found)
    sparse = next(filter(None, known), None) or Sparse()
    for part, root in roots.items():
        if root in found:
            found[root].part, found[root].sparse = part, sparse
    written = integers(graph, node.input[ports["dense_shape"]])
    shape = [None if d is None or d < 0 else d for d in written] if written else list(sparse.shape or ())
    shape = shape or [None] * _rank(graph, roots)
    if node.op == "SparseTensorDenseMatMul" and len(shape) == 2 and (dense := weight_shape(graph, node.input[3])):
        inner = dense[1 if attribute(node, "adjoint_b").b else 0]
        axis = 0 if attribute(node, "adjoint_a").b else 1
        shape[axis] = shape[axis] or inner
    sparse.shape = tuple(shape) or None


def _rank(graph: Graph, roots: Mapping[str, str]) -> int:
    indices = graph.shape(roots.get("indices", ""))
    if indices and len(indices) == 2 and indices[1]:
        return indices[1]
    shape = graph.shape(roots.get("dense_shape", ""))
    return shape[0] if shape and len(shape) == 1 and shape[0] else 2


def _fed(graph: Graph, found: Mapping[str, Hint], tensor: str) -> str:
    """Return the tensor that `tensor` comes from, seen through what keeps values and the order of a sparse tensor's parts."""
    edge = split(tensor)
    for _ in range(16):
        node = graph.nodes.get(edge[0])
        if canonical("{}:{}".format(*edge)) in found or node is None or not node.input:
            break
        if node.op == "SparseReorder":
            edge = split(node.input[edge[1]])
        elif SHAPE_KEEPING.fullmatch(node.op):
            edge = split(node.input[0])
        else:
            break
    return "{}:{}".format(*edge)


def pair_by_name(graph: Graph, found: Mapping[str, Hint]) -> None:
    """Note the parts of each sparse or ragged placeholder by their names: not every part is taken by an op that shows them."""
    for tensor, hint in found.items():
        prefix, _, last = split(tensor)[0].rpartition("/")
        flat = found.get(f"{prefix}/flat_values:0")
        if flat and re.fullmatch(r"row_splits_\d+", last):
            hint.part, flat.part = "row_splits", "values"
            hint.sparse = flat.sparse = Sparse()
        values = f"{prefix}/values:0"
        if last == "indices" and values in found and not hint.part:
            shape = graph.shape(tensor)
            sparse = Sparse((None,) * shape[1] if shape and len(shape) == 2 and shape[1] else None)
            for other, part in ((tensor, "indices"), (values, "values"), (f"{prefix}/shape:0", "dense_shape")):
                if other in found:
                    found[other].part, found[other].sparse = part, sparse


def _input_ports(op: str) -> dict[str, int]:
    """Return the parts of a sparse tensor that an op takes → the number of the input; empty where it takes none."""
    ports = (0, 1, 2) if _TRIPLES.fullmatch(op) else _OTHERS.get(op, ())
    return {part: port for part, port in zip(("indices", "values", "dense_shape"), ports, strict=False) if port is not None}
