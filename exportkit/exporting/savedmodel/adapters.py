"""Nodes added before and after the training graph: tf.Example parsing, placeholders, shape checks, top_k, labels."""

import re
from collections.abc import Iterable

from exportkit.metagraph.building import GraphBuilder, operation
from exportkit.metagraph.tensors import Facts
from exportkit.spec import Feature, Lookup, ParseExample, TopK

# InitializeTableFromTextFileV2: a key or value is the line's number or the whole line (lookup_ops.py, TextFileIndex)
_LINE_NUMBER, _WHOLE_LINE = -1, -2


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
    return graph.add("PlaceholderWithDefault", [cast(graph, parsed, str(known.dtype))], name=name, shape=known.shape)[0]


def checked(graph: GraphBuilder, tensor: str, known: Facts, ensure: bool) -> str:
    """Add a check of the shape of `tensor`, or an identity if there is nothing to check."""
    if not ensure or known.shape is None:
        return graph.add("Identity", [tensor])[0]  # a server refuses a signature that feeds and fetches the same tensor
    return graph.add("EnsureShape", [tensor], name=f"{operation(tensor).rsplit('/', 1)[-1]}_checked", shape=known.shape)[0]


def top_k(graph: GraphBuilder, name: str, spec: TopK, scores: str) -> Iterable[str]:
    """Add the `spec.k` largest values along the last axis, and their indices, int32; both [..., k]."""
    return graph.add("TopKV2", [scores, graph.constant(spec.k, "int32", name=f"{name}/k")], name=name)


def labels(graph: GraphBuilder, name: str, spec: Lookup, indices: str) -> tuple[str, str, str]:
    """Add the vocabulary lines at `indices`, string of the same shape; `spec.default` outside of the vocabulary.

    Returns:
        The labels, the operation that fills the table, and the constant that holds the vocabulary's path.
    """
    path = str(spec.vocabulary)
    asset = graph.constant(path, "string", name="asset_path")
    default = graph.constant(spec.default, "string")
    (table,) = graph.add(
        "HashTableV2",
        name=f"{name}_table",
        key_dtype="int64",
        value_dtype="string",
        shared_name=f"hash_table_{path}_{_LINE_NUMBER}_{_WHOLE_LINE}",
    )
    with graph.scope("text_file_init"):
        filled = graph.add_operation(
            "InitializeTableFromTextFileV2", [table, asset], key_index=_LINE_NUMBER, value_index=_WHOLE_LINE
        )
    indices = cast(graph, indices, "int64")
    with graph.scope(name):
        (found,) = graph.add("LookupTableFindV2", [table, indices, default])
    return found, filled, asset


def cast(graph: GraphBuilder, tensor: str, dtype: str) -> str:
    """Return `tensor` as `dtype`; a node is added only where it has another."""
    return tensor if graph.dtype(tensor) == dtype else graph.add("Cast", [tensor], DstT=dtype)[0]
