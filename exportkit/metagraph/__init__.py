"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from exportkit.metagraph.audit import hardwired_dropout, problems, warnings
from exportkit.metagraph.feeds import bakes_size
from exportkit.metagraph.files import read, read_saved_model
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.prune import Pruned, serving_subgraph
from exportkit.metagraph.suggest import PART_NAMES, Candidate, Ranking, needed, rank, together
from exportkit.metagraph.tensors import canonical, split
from exportkit.metagraph.variables import Variable

__all__ = [
    "PART_NAMES",
    "Candidate",
    "Graph",
    "Pruned",
    "Ranking",
    "Variable",
    "bakes_size",
    "canonical",
    "hardwired_dropout",
    "needed",
    "problems",
    "rank",
    "read",
    "read_saved_model",
    "serving_subgraph",
    "split",
    "together",
    "warnings",
]
