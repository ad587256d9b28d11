"""What a graph says of the values that it is fed: ranks and sizes, ids and lengths, sparse indices, images and texts.

A walk from each fed tensor to the nodes that take it, through those that keep its values. The weights behind them are saved,
so that their shapes are known where those of a placeholder are not.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import VARIABLE_OPS, Shape, canonical, dims, split
from exportkit.samples import parsers, vocabularies
from exportkit.samples.constants import attribute, integers

MOST = 2000  # nodes that one walk visits
_SAME = re.compile(
    "Identity|StopGradient|Cast|EnsureShape|(Ref)?(Enter|Switch)|Merge|Print(V2)?|CheckNumerics|Snapshot|Tanh|Relu6?|Sigmoid|Neg|"
    "Abs|Exp|Log(1p)?|R?[Ss]qrt|Square|Sign|Floor|Round|Elu|PlaceholderWithDefault|PreventGradient|String(Strip|Lower)"
)
_JOINS = re.compile("Add(V2)?|Sub|Mul|RealDiv|Div|Floor(Div|Mod)|M(ax|in)imum|SquaredDifference|BiasAdd")
_VALUES = re.compile(
    "Reshape|ExpandDims|Squeeze|Transpose|Pack|Concat(V2)?|Split(V)?|StridedSlice|Slice|Unpack|Tile|Unique(V2)?|Pad(V2)?|"
    "DynamicPartition|Where|Reverse(V2)?|StringSplit(V2)?|ReverseSequence|GatherNd|Fill|Min|Max"
)
_STILL = re.compile("Variable(V2)?|AutoReloadVariable|VarHandleOp|Const|Identity|Enter|ReadVariableOp")
_LENGTHS = {"ReverseSequence": 1, "CTCGreedyDecoder": 1, "CTCBeamSearchDecoder": 1, "CTCLoss": 3, "CTCLossV2": 3}
_IMAGES = re.compile("Decode(Jpeg|Png|Image|Bmp|Gif)")
_TRIPLES = re.compile(  # that take indices, values and dense shape of a sparse tensor, in this order
    "Sparse(TensorDense(MatMul|Add)|Reorder|Reduce(Sum|Max)(Sparse)?|DenseCwise(Mul|Add|Div)|FillEmptyRows|Softmax|Slice|Add)|"
    "SerializeSparse|SparseTensorToCSRSparseMatrix"
)
_SPARSE = {"SparseToDense": (0, 2, 1), "SparseReshape": (0, None, 1), "SparseSplit": (1, 2, 3)}


@dataclass
class Sparse:
    """A sparse tensor that is fed in parts.

    Attributes:
        shape: its dense shape, None for sizes that the graph leaves open; None for an unknown rank.
    """

    shape: Shape = None


@dataclass
class Hint:
    """What the graph says of a tensor.

    Attributes:
        rank: its rank, where a node behind it says so.
        sizes: axis → size; a negative axis counts from the end.
        multiple: of which its only size is a multiple.
        least: a size that open dimensions but the first have to have: a kernel's.
        room: the same of all open dimensions, where the graph reshapes the tensor before its convolution.
        below: integers are ids from [0, below).
        length: integers are lengths of sequences.
        one_hot: each row is 1 in one place and 0 in the others.
        texts: some that a table knows.
        content: ``image``, ``example``, ``number``, ``csv`` or ``raw``: what the texts hold.
        example: the dense features that a parser demands: key → values of one row.
        count: of the columns of ``csv``, or of the bytes of ``raw``.
        part: of a sparse tensor: ``indices``, ``values`` or ``dense_shape``.
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
    example: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0
    part: str = ""
    sparse: Sparse | None = None

    def narrowed(self, shape: Shape) -> Shape:
        """A static shape with the sizes that are known from here in it; None where the rank is not known."""
        if shape is None and self.rank is None:
            return None
        sizes = list(shape) if shape is not None else [None] * self.rank
        for axis, size in self.sizes.items():
            if -len(sizes) <= axis < len(sizes) and sizes[axis] is None:
                sizes[axis] = size
        return tuple(sizes)


def hints(graph: Graph, fed: Iterable[str]) -> dict[str, Hint]:
    """What `graph` says of each tensor of `fed` (``op:0``)."""
    found = {tensor: Hint() for tensor in map(canonical, fed)}
    for tensor in found:
        _Walk(graph, found, tensor).go()
    _pair_by_name(graph, found)
    _decoded_somewhere(graph, found)
    return found


def _decoded_somewhere(graph: Graph, found: Mapping[str, Hint]) -> None:
    """Texts of which no walk says anything, in a graph that decodes images in a loop or a function."""
    silent = [hint for tensor, hint in found.items() if graph.dtype(tensor) == "string" and not hint.content and not hint.texts]
    bodies = (node for function in graph.functions.values() for node in function.node_def)
    if silent and any(_IMAGES.fullmatch(node.op) for node in (*graph.nodes.values(), *bodies)):
        for hint in silent:
            hint.content = "image"


def first_sizes(graph: Graph, fetches: Iterable[str], stops: Iterable[str]) -> list[int]:
    """The first dimensions above 1 that tensors between `stops` and `fetches` have, the most frequent first: a baked batch."""
    counts: dict[int, int] = {}
    stopped = {split(tensor)[0] for tensor in stops}
    for name in graph.reach(fetches, stops):
        node = graph.nodes[name]
        if name not in stopped and not _STILL.fullmatch(node.op):
            shape = graph.shape(f"{name}:0")
            if node.op == "Reshape":
                shape = integers(graph, node.input[1]) or shape
            if shape and (shape[0] or 0) > 1:
                counts[shape[0]] = counts.get(shape[0], 0) + 1
    return sorted(counts, key=lambda size: (-counts[size], size))


def _pair_by_name(graph: Graph, found: Mapping[str, Hint]) -> None:
    """The parts of a tf.sparse_placeholder, of which only some are taken by an op that says so."""
    for tensor, hint in found.items():
        prefix, _, last = split(tensor)[0].rpartition("/")
        values = f"{prefix}/values:0"
        if last == "indices" and values in found and not hint.part:
            shape = graph.shape(tensor)
            sparse = Sparse((None,) * shape[1] if shape and len(shape) == 2 and shape[1] else None)
            for other, part in ((tensor, "indices"), (values, "values"), (f"{prefix}/shape:0", "dense_shape")):
                if other in found:
                    found[other].part, found[other].sparse = part, sparse


@dataclass
class _Walk:
    """A walk from one fed tensor."""

    graph: Graph
    found: Mapping[str, Hint]
    tensor: str

    def __post_init__(self) -> None:
        self.hint = self.found[self.tensor]

    def go(self) -> None:
        todo, seen = [(split(self.tensor), True)], set()
        for edge, same in todo:
            for name in self.graph.consumers.get(edge[0], ()):
                ports = [port for port, one in enumerate(self.graph.inputs(name)) if one == edge]
                if name in seen or not ports or len(seen) > MOST:
                    continue
                seen.add(name)
                node = self.graph.nodes[name]
                for port in ports:
                    self._look(node, port, same)
                joins = _JOINS.fullmatch(node.op)
                if _SAME.fullmatch(node.op) or _VALUES.fullmatch(node.op) or joins:
                    keeps = same and bool(_SAME.fullmatch(node.op) or (joins and self._small(node, ports[0])))
                    outputs = self.graph.num_outputs(name) or 1
                    todo.extend(((name, index), keeps) for index in range(min(outputs, 64)))

    def _small(self, node: Any, port: int) -> bool:
        """Whether the other operand has no more dimensions than a row."""
        shape = self._shape(node.input[1 - port]) if len(node.input) > 1 else ()
        return shape is not None and len(shape) <= 1

    def _shape(self, tensor: str) -> Shape:
        """The static shape of a tensor; of a weight that of its variable."""
        origin = self.graph.origin(tensor)
        while origin is not None and origin.op in ("Enter", "RefEnter"):
            origin = self.graph.origin(origin.input[0])
        if origin is None:
            return self.graph.shape(tensor)
        if origin.op in VARIABLE_OPS:
            shape = dims(attribute(origin, "shape").shape)
            return shape or self.graph.shape(canonical(origin.name))
        if origin.op == "Const":
            return dims(attribute(origin, "value").tensor.tensor_shape)
        return self.graph.shape(tensor)

    def _look(self, node: Any, port: int, same: bool) -> None:
        """Take from one node what it says of its input number `port`."""
        if look := _LOOKS.get(node.op):
            look(self, node, port, same)
        if node.op in _LENGTHS and port == _LENGTHS[node.op]:
            self.hint.length = True
        if ports := _sparse_ports(node.op):
            self._sparse(node, ports)
        if _IMAGES.fullmatch(node.op) and port == 0:
            self.hint.content = "image"
        if node.op == "StringToNumber":
            self.hint.content = "number"
        if node.op.startswith("ParseExample") or node.op == "ParseSingleExample":
            self._example(node, port)
        if node.op in ("LookupTableFind", "LookupTableFindV2") and port == 1:
            self.hint.texts = self.hint.texts or vocabularies.keys(self.graph, node.input[0])

    def _example(self, node: Any, port: int) -> None:
        if port == 0:
            self.hint.content, self.hint.example = "example", dict(parsers.features(self.graph.nodes, node))

    def _matmul(self, node: Any, port: int, same: bool) -> None:
        weight = self._shape(node.input[1 - port]) if port < 2 else None
        if not same or weight is None or len(weight) != 2:
            return
        mine, other = (attribute(node, f"transpose_{side}").b for side in ("ab" if port == 0 else "ba"))
        inner = weight[(1 if other else 0) if port == 0 else (0 if other else 1)]
        self.hint.rank = 2
        if inner:
            self.hint.sizes.setdefault((0 if mine else -1) if port == 0 else (-1 if mine else 0), inner)

    def _convolution(self, node: Any, port: int, same: bool) -> None:
        kernel = self._shape(node.input[1])
        if port or not kernel:
            return
        if not same:
            self.hint.room = max(self.hint.room, *(size or 1 for size in kernel[:-2]))
            return
        first = attribute(node, "data_format").s.startswith(b"NC")
        self.hint.rank = len(kernel)
        self.hint.least = max(self.hint.least, *(size or 1 for size in kernel[:-2]))
        if kernel[-2]:
            self.hint.sizes.setdefault(1 if first else -1, kernel[-2])

    def _join(self, node: Any, port: int, same: bool) -> None:
        """The width from a saved row that is added or multiplied."""
        origin = self.graph.origin(node.input[1 - port]) if port < 2 else None
        row = self._shape(node.input[1 - port]) if origin is not None and origin.op in VARIABLE_OPS else None
        if same and row and len(row) == 1 and (row[0] or 0) > 1:
            self.hint.sizes.setdefault(-1, row[0])

    def _norm(self, node: Any, port: int, same: bool) -> None:
        scale = self._shape(node.input[1])
        if port == 0 and same and scale and scale[0]:
            self.hint.rank = 4
            self.hint.sizes.setdefault(1 if attribute(node, "data_format").s == b"NCHW" else -1, scale[0])

    def _reshape(self, node: Any, port: int, same: bool) -> None:
        """The size of a row from the shape that it is given."""
        wanted, known = integers(self.graph, node.input[1]), self.graph.shape(self.tensor)
        if port or not same or not wanted or any(size is None for size in wanted[1:]):
            return
        row = prod(size for size in wanted[1:] if size > 0)
        if -1 in wanted[1:] or row < 1:
            return
        if known is not None and len(known) == 1:
            self.hint.multiple = max(self.hint.multiple, row)
            return
        rest = [None] if known is None else list(known[1:])
        if rest.count(None) == 1 and row % (held := prod(size for size in rest if size)) == 0:
            self.hint.rank = self.hint.rank or len(rest) + 1
            self.hint.sizes.setdefault(rest.index(None) + 1, row // held)
        if (wanted[0] or 0) > 1 and (None not in rest or rest.count(None) == 1):
            width = prod(size or row // prod(s for s in rest if s) for size in rest)
            if width and wanted[0] * row % width == 0:
                self.hint.sizes.setdefault(0, wanted[0] * row // width)

    def _gather(self, node: Any, port: int, same: bool) -> None:
        ports = {"Gather": 1, "GatherV2": 1, "ResourceGather": 1}.get(node.op, 1)
        if port == ports:
            self._bound(self._rows(node.input[0]))

    def _rows(self, tensor: str) -> int | None:
        """The rows of what ids point into; of a slice of a partitioned variable all of that variable's."""
        origin = self.graph.origin(tensor)
        if origin is not None and origin.op in VARIABLE_OPS:
            whole = next((v.full_shape for v in self.graph.variables.values() if v.op_name == origin.name), None)
            return whole[0] if whole else None
        shape = self._shape(tensor)
        return shape[0] if shape else None

    def _bound(self, size: int | None) -> None:
        if size:
            self.hint.below = min(size, self.hint.below or size)

    def _one_hot_depth(self, node: Any, port: int, same: bool) -> None:
        if port == 0 and (depth := integers(self.graph, node.input[1])):
            self._bound(depth[0])

    def _classes(self, node: Any, port: int, same: bool) -> None:
        """Labels: ids of classes, or rows with a one."""
        shape = self.graph.shape(node.input[0])
        if port == 1 and node.op.startswith("Sparse"):
            self._bound(shape[-1] if shape else None)
        elif port == 1:
            self.hint.one_hot = True

    def _compared(self, node: Any, port: int, same: bool) -> None:
        """Lengths: compared with the steps of a loop or with a range (dynamic_rnn, sequence_mask)."""
        if "int" not in (self.graph.dtype(self.tensor) or ""):
            return
        other = self.graph.origin(node.input[1 - port])
        if other is not None and other.op in ("Range", "Switch", "Enter", "Merge", "ExpandDims"):
            self.hint.length = True

    def _csv(self, node: Any, port: int, same: bool) -> None:
        if port == 0:
            self.hint.content, self.hint.count = "csv", len(node.input) - 1

    def _raw(self, node: Any, port: int, same: bool) -> None:
        """As many bytes as the reshape behind it wants."""
        width = {"uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "float32": 4, "int32": 4}
        size = width.get(self.graph.dtype(f"{node.name}:0") or "", 8)
        for user in self.graph.consumers.get(node.name, ()):
            shape = integers(self.graph, self.graph.nodes[user].input[1]) if self.graph.nodes[user].op == "Reshape" else None
            if shape and None not in shape:
                self.hint.content, self.hint.count = "raw", size * prod(d for d in shape if d > 0)

    def _sparse(self, node: Any, ports: Mapping[str, int]) -> None:
        """A sparse tensor of which this is a part, with the others that are fed."""
        roots = {part: self._fed(node.input[port]) for part, port in ports.items()}
        if self.tensor not in roots.values():
            return
        known = (self.found[root].sparse for root in roots.values() if root in self.found)
        sparse = next(filter(None, known), None) or Sparse()
        for part, root in roots.items():
            if root in self.found:
                self.found[root].part, self.found[root].sparse = part, sparse
        said = integers(self.graph, node.input[ports["dense_shape"]])
        shape = [None if d is None or d < 0 else d for d in said] if said else list(sparse.shape or ())
        shape = shape or [None] * self._sparse_rank(roots)
        if node.op == "SparseTensorDenseMatMul" and len(shape) == 2 and (dense := self._shape(node.input[3])):
            inner = dense[1 if attribute(node, "adjoint_b").b else 0]
            axis = 0 if attribute(node, "adjoint_a").b else 1
            shape[axis] = shape[axis] or inner
        sparse.shape = tuple(shape) or None

    def _sparse_rank(self, roots: Mapping[str, str]) -> int:
        indices = self.graph.shape(roots.get("indices", ""))
        if indices and len(indices) == 2 and indices[1]:
            return indices[1]
        shape = self.graph.shape(roots.get("dense_shape", ""))
        return shape[0] if shape and len(shape) == 1 and shape[0] else 2

    def _fed(self, tensor: str) -> str:
        """The tensor that `tensor` is, seen through what keeps values and the order of a sparse tensor's parts."""
        edge = split(tensor)
        for _ in range(16):
            node = self.graph.nodes.get(edge[0])
            if canonical("{}:{}".format(*edge)) in self.found or node is None or not node.input:
                break
            if node.op == "SparseReorder":
                edge = split(node.input[edge[1]])
            elif _SAME.fullmatch(node.op):
                edge = split(node.input[0])
            else:
                break
        return "{}:{}".format(*edge)


_Look = Callable[[_Walk, Any, int, bool], None]
_LOOKS: Mapping[str, _Look] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2"), _Walk._matmul),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2dNative"), _Walk._convolution),
    **dict.fromkeys(("Add", "AddV2", "Sub", "Mul", "BiasAdd"), _Walk._join),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _Walk._norm),
    **dict.fromkeys(
        ("Gather", "GatherV2", "ResourceGather", "SparseSegmentSum", "SparseSegmentMean", "SparseSegmentSqrtN"), _Walk._gather
    ),
    **dict.fromkeys(("SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits"), _Walk._classes),
    **dict.fromkeys(("Less", "LessEqual", "Greater", "GreaterEqual"), _Walk._compared),
    "Reshape": _Walk._reshape,
    "OneHot": _Walk._one_hot_depth,
    "DecodeCSV": _Walk._csv,
    "DecodeRaw": _Walk._raw,
}


def _sparse_ports(op: str) -> dict[str, int]:
    """Which inputs of an op are the parts of a sparse tensor; empty where none are."""
    ports = (0, 1, 2) if _TRIPLES.fullmatch(op) else _SPARSE.get(op, ())
    return {part: port for part, port in zip(("indices", "values", "dense_shape"), ports, strict=False) if port is not None}
