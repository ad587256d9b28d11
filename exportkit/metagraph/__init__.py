"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.metagraph.audit import Running, problems, warnings
    from exportkit.metagraph.candidates import PART_NAMES, Candidate, Ranking
    from exportkit.metagraph.feeds import bakes_size, needed
    from exportkit.metagraph.files import SAVED_MODELS, read, read_graph_def, read_graphs, read_saved_model
    from exportkit.metagraph.graph import Graph, many_objects
    from exportkit.metagraph.prune import Extent, Pruned, extent, serving_subgraph
    from exportkit.metagraph.saved_model import OwnModel, OwnSignature, open_saved_model
    from exportkit.metagraph.suggest import rank
    from exportkit.metagraph.tensors import canonical, split
    from exportkit.metagraph.variables import SavedVariable, Variable, saved_variables
    from exportkit.metagraph.views import alternatives, together

__getattr__ = lazy(
    __name__,
    {
        "audit": "Running problems warnings",
        "candidates": "PART_NAMES Candidate Ranking",
        "feeds": "bakes_size needed",
        "files": "SAVED_MODELS read read_graph_def read_graphs read_saved_model",
        "graph": "Graph many_objects",
        "prune": "Extent Pruned extent serving_subgraph",
        "saved_model": "OwnModel OwnSignature open_saved_model",
        "suggest": "rank",
        "tensors": "canonical split",
        "variables": "SavedVariable Variable saved_variables",
        "views": "alternatives together",
    },
)

__all__ = [
    "PART_NAMES",
    "SAVED_MODELS",
    "Candidate",
    "Extent",
    "Graph",
    "OwnModel",
    "OwnSignature",
    "Pruned",
    "Ranking",
    "Running",
    "SavedVariable",
    "Variable",
    "alternatives",
    "bakes_size",
    "canonical",
    "extent",
    "many_objects",
    "needed",
    "open_saved_model",
    "problems",
    "rank",
    "read",
    "read_graph_def",
    "read_graphs",
    "read_saved_model",
    "saved_variables",
    "serving_subgraph",
    "split",
    "together",
    "warnings",
]
