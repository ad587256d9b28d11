"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from exportkit.metagraph.graph import Graph, Variable, canonical, read, read_saved_model, split
from exportkit.metagraph.prune import Pruned, serving_subgraph

__all__ = [
    "Graph",
    "Pruned",
    "Variable",
    "canonical",
    "read",
    "read_saved_model",
    "serving_subgraph",
    "split",
]
