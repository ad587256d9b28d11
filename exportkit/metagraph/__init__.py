"""MetaGraphDefs as protos: read, cut, bake, prune to the reachable set, rank inputs and outputs, find problems."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.metagraph.audit import Running, problems, warnings
    from exportkit.metagraph.feeds import bakes_size
    from exportkit.metagraph.files import SAVED_MODELS, read, read_graphs, read_saved_model
    from exportkit.metagraph.graph import Graph, many_objects
    from exportkit.metagraph.prune import Extent, Pruned, extent, serving_subgraph
    from exportkit.metagraph.suggest import PART_NAMES, Candidate, Ranking, needed, rank, together
    from exportkit.metagraph.tensors import canonical, split
    from exportkit.metagraph.variables import SavedVariable, Variable, saved_variables

_MODULES = {
    "audit": ("Running", "problems", "warnings"),
    "feeds": ("bakes_size",),
    "files": ("SAVED_MODELS", "read", "read_graphs", "read_saved_model"),
    "graph": ("Graph", "many_objects"),
    "prune": ("Extent", "Pruned", "extent", "serving_subgraph"),
    "suggest": ("PART_NAMES", "Candidate", "Ranking", "needed", "rank", "together"),
    "tensors": ("canonical", "split"),
    "variables": ("SavedVariable", "Variable", "saved_variables"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "PART_NAMES",
    "SAVED_MODELS",
    "Candidate",
    "Extent",
    "Graph",
    "Pruned",
    "Ranking",
    "Running",
    "SavedVariable",
    "Variable",
    "bakes_size",
    "canonical",
    "extent",
    "many_objects",
    "needed",
    "problems",
    "rank",
    "read",
    "read_graphs",
    "read_saved_model",
    "saved_variables",
    "serving_subgraph",
    "split",
    "together",
    "warnings",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: most commands need few of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
