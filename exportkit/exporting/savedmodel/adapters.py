"""Nodes added before the training graph: tf.Example parsing, placeholders, shape checks."""

import re

from exportkit.metagraph.building import GraphBuilder, operation
from exportkit.metagraph.tensors import Facts
from exportkit.spec import Feature, ParseExample


def parse(graph: GraphBuilder, name: str, example: ParseExample, serialized: str) -> dict[str, str]:
    """Parse `serialized`, string [batch] of tf.Examples, and return the values by the bindings that they feed."""
    keys, targets = sorted(example.parse_example), example.targets()
    features = [example.parse_example[key] for key in keys]
    with graph.scope(f"{name}_parsed"):
        defaults = [_default(graph, key, feature) for key, feature in zip(keys, features, strict=True)]
        with graph.scope(f"{name}_parsed"):
            names, sparse, dense, ragged = (
                graph.constant(value, "string", [len(value)], title)
                for title, value in (("names", []), ("sparse_keys", []), ("dense_keys", keys), ("ragged_keys", []))
            )
        values = graph.add(
            "ParseExampleV2",
            [serialized, names, sparse, dense, ragged, defaults],
            name=f"{name}_parsed",
            num_sparse=0,
            sparse_types=[],
            ragged_value_types=[],
            ragged_split_types=[],
            dense_shapes=[tuple(feature.shape) for feature in features],
        )
    return {targets[key]: value for key, value in zip(keys, values, strict=True)}


def _default(graph: GraphBuilder, key: str, feature: Feature) -> str:
    """Return a feature's default, repeated to its shape; a required feature has an empty one (parsing_ops.cc)."""
    if feature.default is None:
        return graph.constant([], feature.dtype, [0])
    return graph.constant(feature.default, feature.dtype, feature.shape, f"key_{re.sub('[^A-Za-z0-9_.-]', '_', key)}")


def placeholder(graph: GraphBuilder, name: str, known: Facts, parsed: str | None) -> str:
    """Add the placeholder of a binding; its default is the parsed feature, cast to the binding's dtype, if there is one."""
    if parsed is None:
        return graph.add("Placeholder", name=name, dtype=known.dtype, shape=known.shape)[0]
    return graph.add("PlaceholderWithDefault", [graph.cast(parsed, str(known.dtype))], name=name, shape=known.shape)[0]


def checked(graph: GraphBuilder, tensor: str, known: Facts, ensure: bool) -> str:
    """Add a check of the shape of `tensor`, or an identity if there is nothing to check."""
    if not ensure or known.shape is None:
        return graph.add("Identity", [tensor])[0]  # a server refuses a signature that feeds and fetches the same tensor
    return graph.add("EnsureShape", [tensor], name=f"{operation(tensor).rsplit('/', 1)[-1]}_checked", shape=known.shape)[0]
