"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from exportkit.metagraph.audit import problems, warnings
from exportkit.metagraph.files import read, read_saved_model
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.prune import Pruned, serving_subgraph
from exportkit.metagraph.suggest import Candidate, constants_suggested, rank_inputs, rank_outputs
from exportkit.metagraph.tensors import canonical, split
from exportkit.metagraph.variables import SavedVariable, Variable, saved_variables

__all__ = [
    "Candidate",
    "Graph",
    "Pruned",
    "SavedVariable",
    "Variable",
    "canonical",
    "constants_suggested",
    "problems",
    "rank_inputs",
    "rank_outputs",
    "read",
    "read_saved_model",
    "saved_variables",
    "serving_subgraph",
    "split",
    "warnings",
]
