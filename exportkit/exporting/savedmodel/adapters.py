"""Nodes added before the training graph: placeholders and shape checks."""

from exportkit.metagraph.building import GraphBuilder, operation
from exportkit.metagraph.tensors import Facts


def placeholder(graph: GraphBuilder, name: str, known: Facts, computed: str | None) -> str:
    """Add the placeholder of a binding; its default is the value that a feeder computes, cast to its dtype, if there is one."""
    if computed is None:
        return graph.add("Placeholder", name=name, dtype=known.dtype, shape=known.shape)[0]
    return graph.add("PlaceholderWithDefault", [graph.cast(computed, str(known.dtype))], name=name, shape=known.shape)[0]


def checked(graph: GraphBuilder, tensor: str, known: Facts, ensure: bool) -> str:
    """Add a check of the shape of `tensor`, or an identity if there is nothing to check."""
    if not ensure or known.shape is None:
        return graph.add("Identity", [tensor])[0]  # a server refuses a signature that feeds and fetches the same tensor
    return graph.add("EnsureShape", [tensor], name=f"{operation(tensor).rsplit('/', 1)[-1]}_checked", shape=known.shape)[0]
