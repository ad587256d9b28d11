"""A meta graph that can be written, and what is said of it to others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from exportkit.contract import BoundTensor
from exportkit.metagraph.building import operation
from exportkit.metagraph.tensors import Facts
from exportkit.planning.prepare import Part
from exportkit.protos import MetaGraphDef, OpDef, VariableDef

TABLES, ASSETS = "table_initializer", "asset_filepaths"  # tf.compat.v1.GraphKeys
MAIN_OP, TRAIN_OP = "saved_model_main_op", "saved_model_train_op"  # saved_model/constants.py


@dataclass
class BoundGraph:
    """A meta graph that can be written, but for tags and signatures.

    Attributes:
        meta: its graph, collections and saver.
        ops: op → its definition in TensorFlow.
        version: TensorFlow's version.
        fed: fed binding → the tensor before `ensure_shape`, which signatures name.
        checked: fed binding → the tensor behind `ensure_shape`, which the model reads.
        values: binding reference → output tensor.
        facts: tensor that a signature may name → its dtype and shape.
    """

    part: Part
    meta: MetaGraphDef
    ops: Mapping[str, OpDef]
    version: str
    fed: dict[str, str] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)

    def collection(self, name: str) -> list[str]:
        """Return the names of the tensors or operations in a collection."""
        return list(self.meta.collection_def[name].node_list.value) if name in self.meta.collection_def else []

    def variables(self) -> dict[str, VariableDef]:
        """Return the definition of each variable by its op."""
        held = self.meta.collection_def["variables"].bytes_list.value if "variables" in self.meta.collection_def else ()
        definitions = map(VariableDef.FromString, held)
        return {operation(definition.variable_name): definition for definition in definitions}


def assets(bound: BoundGraph) -> Iterator[tuple[str, str]]:
    """Yield the constants that hold the path of an asset, in the order of their collection, and the paths."""
    nodes = {node.name: node for node in bound.meta.graph_def.node}
    for tensor in bound.collection(ASSETS):
        (path,) = nodes[operation(tensor)].attr["value"].tensor.string_val
        yield tensor, path.decode()


def bound_tensors(bound: Mapping[str, BoundGraph]) -> dict[str, dict[str, BoundTensor]]:
    """Return the tensors as post steps get them: meta graph key → binding reference → tensor."""
    return {key: {ref: bound_tensor(ref, graph) for ref in graph.values} for key, graph in bound.items()}


def bound_tensor(ref: str, bound: BoundGraph) -> BoundTensor:
    tensor = bound.values[ref]
    facts = bound.facts[tensor]
    return BoundTensor(bound.part.wiring.names.get(ref), tensor, str(facts.dtype), facts.shape)
