"""The graph that the reference runs: the training graph, ready to be fed, with nodes that restore its variables.

It is made on the protos, from what the config says and nothing else: no code that makes an export has a part in it, so that no
error in that can be in the reference too.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from exportkit.core.graph import split
from exportkit.protos import DTYPE_NAMES, GraphDef, MetaGraphDef, NodeDef
from exportkit.verifying.parity import seeding


@dataclass(frozen=True, kw_only=True)
class Restore:
    """A variable and the place of its value.

    Attributes:
        operation: the op of the variable.
        dtype: of its value.
        resource: whether it is a resource variable; else it is a reference variable.
        prefix: of the checkpoint.
        key: in the checkpoint.
        slice: ``4 7 0,2:0,7``: the whole shape, then start and length in each dimension (TensorSlice in tensor_slice.h);
            empty for the whole value.
    """

    operation: str
    dtype: str
    resource: bool
    prefix: str
    key: str
    slice: str = ""


class ReferenceGraph:
    """A training graph with placeholders of any shape in place of what is fed, and nodes that restore its variables.

    Args:
        meta_graph: as training wrote it; it stays as it is.
        feeds: the tensors that runs feed → dtype; what takes one takes its placeholder.
        replaced: tensor → the one that those that take it take instead.
        restores: what the nodes restore.
        defaulted: those of the fed tensors that are computed where a run does not feed them.
        seeded: whether random ops draw the same numbers in every process.

    Attributes:
        graph_def: the graph.
        placeholders: the keys of `feeds` → the tensors to feed.
        restoring: the names of the operations that restore the variables.
    """

    def __init__(
        self,
        meta_graph: MetaGraphDef,
        feeds: Mapping[str, str | None],
        replaced: Mapping[str, str],
        restores: Sequence[Restore],
        defaulted: Collection[str] = (),
        *,
        seeded: bool = False,
    ):
        copy = MetaGraphDef()
        copy.CopyFrom(meta_graph)
        if seeded:
            seeding.seed(copy)
        _forget_devices_and_shapes(copy.graph_def)
        self.graph_def = copy.graph_def
        self._scope = _unused_name(self.graph_def)
        self.placeholders = {tensor: self._placeholder(i, dtype) for i, (tensor, dtype) in enumerate(feeds.items())}
        self._take_placeholders(feeds)
        for tensor in defaulted:
            self._default(self.placeholders[tensor], tensor)
        for old, new in replaced.items():
            given, taken = (self.placeholders.get(tensor, tensor) for tensor in (old, new))
            _rewire(self.graph_def, {split(given): taken}.get)
        self.restoring = [self._restore(i, restore) for i, restore in enumerate(restores)]

    def _take_placeholders(self, feeds: Mapping[str, str | None]) -> None:
        """Let what takes a fed tensor take its placeholder, and wait for no fed operation.

        A session does not run the op of a fed tensor for a data edge, but it does for a control edge.
        """
        placeholders = {split(tensor): self.placeholders[tensor] for tensor in feeds}
        _rewire(self.graph_def, placeholders.get)
        fed = {f"^{operation}" for operation, _ in placeholders}
        for node in self.graph_def.node:
            if not fed.isdisjoint(node.input):
                node.input[:] = [edge for edge in node.input if edge not in fed]

    def _placeholder(self, number: int, dtype: str | None) -> str:
        """Add a placeholder; one without a dtype is refused at the import."""
        node = self._add("Placeholder", f"fed_{number}")
        if dtype in DTYPE_NAMES:
            node.attr["dtype"].type = DTYPE_NAMES[dtype]
        node.attr["shape"].shape.unknown_rank = True
        return f"{node.name}:0"

    def _default(self, placeholder: str, tensor: str) -> None:
        """Let a placeholder have the value of the tensor in whose place it is fed."""
        node = next(node for node in self.graph_def.node if node.name == split(placeholder)[0])
        node.op = "PlaceholderWithDefault"
        node.input[:] = [tensor]

    def _restore(self, number: int, restore: Restore) -> str:
        """Add the nodes that restore a variable; return the name of the last one."""
        dtype, name = DTYPE_NAMES[restore.dtype], f"restore_{number}"
        prefix = self._text(f"{name}/prefix", restore.prefix)
        key, part = self._text(f"{name}/key", restore.key, rank=1), self._text(f"{name}/slice", restore.slice, rank=1)
        value = self._add("RestoreV2", f"{name}/value", prefix, key, part)
        value.attr["dtypes"].list.type.append(dtype)
        if restore.resource:
            assigned = self._add("AssignVariableOp", name, restore.operation, value.name)
            assigned.attr["dtype"].type = dtype
        else:
            assigned = self._add("Assign", name, restore.operation, value.name)
            assigned.attr["T"].type = dtype
            assigned.attr["validate_shape"].b = False
        return assigned.name

    def _text(self, name: str, text: str, rank: int = 0) -> str:
        node = self._add("Const", name)
        node.attr["dtype"].type = DTYPE_NAMES["string"]
        tensor = node.attr["value"].tensor
        tensor.dtype = DTYPE_NAMES["string"]
        tensor.string_val.append(text.encode(errors="surrogateescape"))  # a path may be any bytes
        for _ in range(rank):
            tensor.tensor_shape.dim.add(size=1)
        return node.name

    def _add(self, op: str, name: str, *inputs: str) -> NodeDef:
        return self.graph_def.node.add(op=op, name=f"{self._scope}/{name}", input=inputs)


def _unused_name(graph_def: GraphDef) -> str:
    """Return a scope that no node is in."""
    taken = {node.name.partition("/")[0] for node in graph_def.node}
    return next(name for name in (f"reference_{i}" for i in count()) if name not in taken)


def _rewire(graph_def: GraphDef, instead: Callable[[tuple[str, int]], str | None]) -> None:
    """Replace the tensors that nodes take: `instead` returns the new one, or None where it stays."""
    for node in graph_def.node:
        for i, edge in enumerate(node.input):
            if not edge.startswith("^") and (new := instead(split(edge))):
                node.input[i] = new


def _forget_devices_and_shapes(graph_def: GraphDef) -> None:
    """Remove devices, and `_output_shapes`: those of TF 1 make an import fail."""
    for node in graph_def.node:
        node.attr.pop("_output_shapes", None)
        node.device = ""
