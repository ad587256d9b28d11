"""Classes of ops that a model server cannot run as they are."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from exportkit.capabilities import of_op
from exportkit.metagraph.variables import RESTORE_OPS
from exportkit.protos import NodeDef

if TYPE_CHECKING:
    from exportkit.metagraph.graph import Graph

TABLES = frozenset({"HashTable", "HashTableV2"})
RANDOM = re.compile(
    r"Random(Crop|Gamma|Poisson|Shuffle|StandardNormal|Uniform)\w*|Multinomial|(Parameterized)?TruncatedNormal|"
    r"Stateful(Random|Standard|Truncated|Uniform)\w*"
)
UPDATES = re.compile(
    r"Assign\w*|(Resource)?(Sparse)?Apply\w+|ResourceSparseApply\w+|(Resource)?Scatter(Nd)?(Add|Div|Max|Min|Mul|Sub|Update)"
)

_CLASSES = {
    "placeholder": r"Placeholder(V2)?",
    "queue": r"Queue\w+|\w+Queue(V2)?|\w*Unstage\w*|\w*StagePeek|MapPeek|OrderedMapPeek|Stage|Barrier\w*",
    "iterator": r"\w*Iterator\w*|\w*FunctionBufferingResource\w*|DatasetToSingleElement",
    "reader": r"\w+Reader(V2)?|ReaderRead\w*|ReadFile|MatchingFiles|(TextLine|TFRecord|FixedLengthRecord|\w*CSV)Dataset(V\d)?",
    "mutable table": r"(Anonymous)?Mutable\w*HashTable\w*",
    "TPU": r"_?TPU\w+|(Configure|Shutdown)DistributedTPU|\w*(In|Out)feed\w+|CrossReplicaSum",
    "restore": "|".join(sorted(RESTORE_OPS)),
}

# Custom ops of tf.contrib (TensorFlow 1.15) that came with their own shared libraries: no TensorFlow 2 has them.
_CONTRIB = (
    "AdjustHsvInYiq|BipartiteMatch|BytesInUse|BytesLimit|CenterTreeEnsemble\\w*|DecodeAudio|DecodeVideo|EncodeAudio|"
    "GatherTree|GradientTrees\\w*|HyperplaneLSHProbes|ImageConnectedComponents|ImageProjectiveTransform|"
    "MaxBytesInUse|ObtainNext|PeriodicResample\\w*|RangeDecode|RangeEncode|ReduceSlice\\w+|Resampler\\w*|"
    "SkipGramGenerateCandidates|SingleImageRandomDotStereograms|SparseFeatureCross(V2)?|TreeEnsemble\\w+|"
    "TreePredictions\\w*|TRTEngineOp"
)
_PATTERNS = {name: re.compile(pattern) for name, pattern in {**_CLASSES, "tf.contrib": _CONTRIB}.items()}


@cache
def op_class(op: str) -> str | None:
    """Return the class of an op that a server cannot run as it is (a key of the table above), or None for any other op."""
    return "python" if "python" in of_op(op) else next((name for name, p in _PATTERNS.items() if p.fullmatch(op)), None)


def obstacle(graph: Graph, name: str) -> str | None:
    """Return the class of a node that a server cannot run as it is, or None; reading an exported asset is no obstacle."""
    op = graph.types[name]
    found = op_class(op)
    if found == "reader" and op == "ReadFile" and path_constant(graph, graph.nodes[name].input[0]) in assets(graph):
        return None
    return found


def assets(graph: Graph) -> list[NodeDef]:
    """Return the nodes that hold the paths in the collection asset_filepaths."""
    found = (path_constant(graph, tensor) for tensor in node_list(graph, "asset_filepaths"))
    return [node for node in found if node is not None]


def path_constant(graph: Graph, tensor: str) -> NodeDef | None:
    """Return the node that holds the path in `tensor`; None if it was cut off."""
    node = graph.origin(tensor)
    if node is not None and node.op == "PlaceholderWithDefault":
        return path_constant(graph, node.input[0])
    return node


def node_list(graph: Graph, collection: str) -> list[str]:
    """Return the names in a collection of tensors or operations; nothing if there is no such collection."""
    collections = graph.meta.collection_def
    return list(collections[collection].node_list.value) if collection in collections else []
