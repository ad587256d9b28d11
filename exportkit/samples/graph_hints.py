"""Hints from a graph on the values that it is fed: ranks and sizes, ids and lengths, sparse indices, images and texts.

A walk from each fed tensor to the nodes that take it, through those that keep its values. The weights behind them are saved,
so that their shapes are known where those of a placeholder are not.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import VARIABLE_OPS, canonical, split
from exportkit.protos import NodeDef
from exportkit.samples import parsers, sparse_hints, vocabularies
from exportkit.samples.constants import SHAPE_KEEPING, attribute, integers, known_integers, weight_shape
from exportkit.samples.expanding import expanded
from exportkit.samples.hints import Hint

_MOST = 2000  # nodes that one walk visits
_JOINS = re.compile("Add(V2)?|Sub|Mul|RealDiv|Div|Floor(Div|Mod)|M(ax|in)imum|SquaredDifference|BiasAdd")
_VALUES = re.compile(
    "Reshape|ExpandDims|Squeeze|Transpose|Pack|Concat(V2)?|Split(V)?|StridedSlice|Slice|Unpack|Tile|Unique(V2)?|Pad(V2)?|"
    "DynamicPartition|Where|Reverse(V2)?|StringSplit(V2)?|ReverseSequence|GatherNd|Fill|Min|Max"
)
_LENGTHS = {"ReverseSequence": 1, "CTCGreedyDecoder": 1, "CTCBeamSearchDecoder": 1, "CTCLoss": 3, "CTCLossV2": 3}
_IMAGES = re.compile("Decode(Jpeg|Png|Image|Bmp|Gif)")


def hints(graph: Graph, fed: Iterable[str], files: Collection[Path] = ()) -> dict[str, Hint]:
    """Return what `graph` tells about each tensor of `fed`: tensor (``op:0``) → hint.

    Args:
        files: vocabularies of the graph that may be read.
    """
    graph = expanded(graph)
    found = {tensor: Hint() for tensor in map(canonical, fed)}
    for tensor in found:
        _Walk(graph, found, tensor, files).run()
    sparse_hints.pair_by_name(graph, found)
    _mark_images(graph, found)
    return found


def _mark_images(graph: Graph, found: Mapping[str, Hint]) -> None:
    """Take texts without any hint for images in a graph that decodes images, which it may do in a loop or a function."""
    silent = [hint for tensor, hint in found.items() if graph.dtype(tensor) == "string" and not hint.content and not hint.texts]
    bodies = (node for function in graph.functions.values() for node in function.node_def)
    if silent and any(_IMAGES.fullmatch(node.op) for node in (*graph.nodes.values(), *bodies)):
        for hint in silent:
            hint.content = "image"


@dataclass
class _Walk:
    """A walk from one fed tensor to what takes it; fills the tensor's hint."""

    graph: Graph
    found: Mapping[str, Hint]
    tensor: str
    files: Collection[Path]

    def __post_init__(self) -> None:
        self.hint = self.found[self.tensor]

    def run(self) -> None:
        seen: set[str] = set()
        todo = [(split(self.tensor), True)]
        for edge, same in todo:
            for name in self.graph.consumers.get(edge[0], ()):
                ports = [port for port, one in enumerate(self.graph.inputs(name)) if one == edge]
                if name in seen or not ports or len(seen) > _MOST:
                    continue
                seen.add(name)
                node = self.graph.nodes[name]
                for port in ports:
                    self._note(node, port, same)
                joins = _JOINS.fullmatch(node.op)
                if SHAPE_KEEPING.fullmatch(node.op) or _VALUES.fullmatch(node.op) or joins:
                    keeps = same and bool(SHAPE_KEEPING.fullmatch(node.op) or (joins and self._small(node, ports[0])))
                    outputs = self.graph.num_outputs(name) or 1
                    todo.extend(((name, index), keeps) for index in range(min(outputs, 64)))

    def _small(self, node: NodeDef, port: int) -> bool:
        """Return whether the other operand has no more dimensions than a row."""
        shape = weight_shape(self.graph, node.input[1 - port]) if len(node.input) > 1 else ()
        return shape is not None and len(shape) <= 1

    def _note(self, node: NodeDef, port: int, same: bool) -> None:
        """Note what one node tells about its input number `port`.

        Args:
            same: whether that input has the shape of the fed tensor.
        """
        if rule := _RULES.get(node.op):
            rule(self, node, port, same)
        if node.op in _LENGTHS and port == _LENGTHS[node.op]:
            self.hint.length = True
        sparse_hints.mark_parts(self.graph, self.found, self.tensor, node)
        if _IMAGES.fullmatch(node.op) and port == 0:
            self.hint.content = "image"
        if node.op == "StringToNumber":
            self.hint.content = "number"
        if node.op.startswith("ParseExample") or node.op == "ParseSingleExample":
            self._example(node, port)
        if node.op in ("LookupTableFind", "LookupTableFindV2") and port == 1:
            self.hint.texts = self.hint.texts or vocabularies.keys(self.graph, node.input[0], self.files)

    def _example(self, node: NodeDef, port: int) -> None:
        if port == 0:
            self.hint.content, self.hint.example = "example", dict(parsers.features(self.graph.nodes, node))

    def _matmul(self, node: NodeDef, port: int, same: bool) -> None:
        weight = weight_shape(self.graph, node.input[1 - port]) if port < 2 else None
        if not same or weight is None or len(weight) != 2:
            return
        mine, other = (attribute(node, f"transpose_{side}").b for side in ("ab" if port == 0 else "ba"))
        inner = weight[(1 if other else 0) if port == 0 else (0 if other else 1)]
        self.hint.rank = 2
        if inner:
            self.hint.sizes.setdefault((0 if mine else -1) if port == 0 else (-1 if mine else 0), inner)

    def _convolution(self, node: NodeDef, port: int, same: bool) -> None:
        kernel = weight_shape(self.graph, node.input[1])
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

    def _join(self, node: NodeDef, port: int, same: bool) -> None:
        """Note the width: that of a saved row which is added or multiplied."""
        origin = self.graph.origin(node.input[1 - port]) if port < 2 else None
        row = weight_shape(self.graph, node.input[1 - port]) if origin is not None and origin.op in VARIABLE_OPS else None
        width = row[0] if row and len(row) == 1 else None
        if same and width is not None and width > 1:
            self.hint.sizes.setdefault(-1, width)

    def _norm(self, node: NodeDef, port: int, same: bool) -> None:
        scale = weight_shape(self.graph, node.input[1])
        if port == 0 and same and scale and scale[0]:
            self.hint.rank = 4
            self.hint.sizes.setdefault(1 if attribute(node, "data_format").s == b"NCHW" else -1, scale[0])

    def _reshape(self, node: NodeDef, port: int, same: bool) -> None:
        """Note the size of a row from the shape that the node gives it."""
        wanted, known = integers(self.graph, node.input[1]), self.graph.shape(self.tensor)
        if port or not same or not wanted:
            return
        first, inner = wanted[0] or 0, [size for size in wanted[1:] if size is not None]
        row = prod(size for size in inner if size > 0)
        if len(inner) < len(wanted) - 1 or -1 in inner or row < 1:
            return
        if known is not None and len(known) == 1:
            self.hint.multiple = max(self.hint.multiple, row)
            return
        rest: list[int | None] = [None] if known is None else list(known[1:])
        held = prod(size for size in rest if size)
        if rest.count(None) == 1 and row % held == 0:
            self.hint.rank = self.hint.rank or len(rest) + 1
            self.hint.sizes.setdefault(rest.index(None) + 1, row // held)
        if first > 1 and rest.count(None) <= 1:
            width = prod(size or row // held for size in rest)
            if width and first * row % width == 0:
                self.hint.sizes.setdefault(0, first * row // width)

    def _gather(self, node: NodeDef, port: int, same: bool) -> None:
        if port == 1:
            self._bound(self._rows(node.input[0]))

    def _rows(self, tensor: str) -> int | None:
        """Return the number of rows that ids point into; for a slice of a partitioned variable those of the whole."""
        origin = self.graph.origin(tensor)
        if origin is not None and origin.op in VARIABLE_OPS:
            whole = next((v.full_shape for v in self.graph.variables.values() if v.op_name == origin.name), None)
            return whole[0] if whole else None
        shape = weight_shape(self.graph, tensor)
        return shape[0] if shape else None

    def _bound(self, size: int | None) -> None:
        if size:
            self.hint.below = min(size, self.hint.below or size)

    def _one_hot_depth(self, node: NodeDef, port: int, same: bool) -> None:
        if port == 0 and (depth := integers(self.graph, node.input[1])):
            self._bound(depth[0])

    def _classes(self, node: NodeDef, port: int, same: bool) -> None:
        """Note labels: ids of classes, or one-hot rows."""
        shape = self.graph.shape(node.input[0])
        if port == 1 and node.op.startswith("Sparse"):
            self._bound(shape[-1] if shape else None)
        elif port == 1:
            self.hint.one_hot = True

    def _compared(self, node: NodeDef, port: int, same: bool) -> None:
        """Note lengths: they are compared with the steps of a loop or with a range (dynamic_rnn, sequence_mask)."""
        if "int" not in (self.graph.dtype(self.tensor) or ""):
            return
        other = self.graph.origin(node.input[1 - port])
        if other is not None and other.op in ("Range", "Switch", "Enter", "Merge", "ExpandDims"):
            self.hint.length = True

    def _csv(self, node: NodeDef, port: int, same: bool) -> None:
        if port == 0:
            self.hint.content, self.hint.count = "csv", len(node.input) - 1

    def _raw(self, node: NodeDef, port: int, same: bool) -> None:
        """Note as many bytes as the reshape behind the node takes."""
        width = {"uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "float32": 4, "int32": 4}
        size = width.get(self.graph.dtype(f"{node.name}:0") or "", 8)
        for user in self.graph.consumers.get(node.name, ()):
            reshape = self.graph.nodes[user]
            if reshape.op == "Reshape" and (shape := known_integers(self.graph, reshape.input[1])):
                self.hint.content, self.hint.count = "raw", size * prod(d for d in shape if d > 0)


_Rule = Callable[[_Walk, NodeDef, int, bool], None]
_RULES: Mapping[str, _Rule] = {
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
