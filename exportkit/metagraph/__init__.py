"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from exportkit.metagraph.audit import problems, warnings
from exportkit.metagraph.graph import Graph, Variable, canonical, read, read_saved_model, split
from exportkit.metagraph.prune import Pruned, serving_subgraph
from exportkit.metagraph.suggest import Candidate, constants_suggested, rank_inputs, rank_outputs

__all__ = [
    "Candidate",
    "Graph",
    "Pruned",
    "Variable",
    "canonical",
    "constants_suggested",
    "problems",
    "rank_inputs",
    "rank_outputs",
    "read",
    "read_saved_model",
    "serving_subgraph",
    "split",
    "warnings",
]
