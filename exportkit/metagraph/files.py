"""Readers of MetaGraphDef and SavedModel files, with errors that recognise other kinds of files.

What they return is bounded and well formed, so that no caller has to check it.
"""

import os
import re
from collections.abc import Iterable

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from exportkit import files
from exportkit.core.capi import op_list
from exportkit.errors import BindingError, Problem
from exportkit.metagraph import wellformed
from exportkit.protos import GraphDef, MetaGraphDef, OpList, SavedModel, fits

_LFS = b"version https://git-lfs.github.com/spec/"
_TEXT = re.compile(rb"\s*(#[^\n]*\n\s*)*\w+\s*[:{<]")  # the text format begins with a field
_MOST_TEXT = 8 * files.MIB  # which Python's parser reads in about four seconds
_LARGE = 8 * files.MIB
_GRAPH_DEF = "the file of a frozen graph (GraphDef)"
_DEEP = 100  # messages within messages: protobuf's own limit for binary files

SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")  # in the order in which loaders take them


def read(path: str | os.PathLike) -> MetaGraphDef:
    """Read a ``.meta`` file, binary or text.

    Raises:
        BindingError: `path` cannot be read, or is not a MetaGraphDef with a graph; or the graph is not well formed.
    """
    path, data = os.fspath(path), _content(path, "the .meta that tf.compat.v1.train.Saver writes beside a checkpoint")
    if data[:1] == b"\x08" or data.startswith(b"saved_model_schema_version"):
        raise _refusal(path, "is a SavedModel, not a .meta", "hand in the .meta of the training run, beside its checkpoint")
    meta = _parse(MetaGraphDef, path, data)
    if not meta.graph_def.node:
        raise _refusal(path, *_empty(data))
    _check(path, [meta])
    return meta


def read_saved_model(path: str | os.PathLike) -> SavedModel:
    """Read a ``saved_model.pb`` or ``saved_model.pbtxt``, or in a directory the one that a loader takes.

    Raises:
        BindingError: `path` cannot be read, or is not a SavedModel with a meta graph; or a graph is not well formed.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if os.path.exists(chunked := os.path.join(path, "saved_model.cpb")):
            raise _refusal(
                chunked, "is a SavedModel in pieces, which exportkit does not read", "remove it, or save the model whole"
            )
        binary, text = (os.path.join(path, name) for name in SAVED_MODELS)
        path = text if os.path.exists(text) and not os.path.exists(binary) else binary  # TensorFlow's own order
    data = _content(path, "the saved_model.pb of a SavedModel version")
    saved_model = _parse(SavedModel, path, data)
    if not saved_model.meta_graphs:
        raise _refusal(
            path, "is not a SavedModel: it holds no meta graph", "hand in the saved_model.pb of a SavedModel version"
        )
    _check(path, saved_model.meta_graphs)
    return saved_model


def read_graph_def(path: str | os.PathLike) -> MetaGraphDef:
    """Read a file that holds a graph alone (GraphDef), binary or text, as a frozen one does.

    The ops are described by the installed TensorFlow, as no such file does; one that it does not know has no known dtypes.

    Raises:
        BindingError: `path` cannot be read, or is not a GraphDef; or the graph is not well formed.
        EnvironmentFailed: TensorFlow's library cannot be loaded.
    """
    path, data = os.fspath(path), _content(path, _GRAPH_DEF)
    if data[:1] == b"\x08" or data.startswith(b"saved_model_schema_version"):
        raise _refusal(path, "is a SavedModel, not a graph alone", "name its directory: source=saved_model")
    try:
        graph_def = _parse(GraphDef, path, data)
    except BindingError:
        if _graphs_in(MetaGraphDef, path, data):
            raise _refusal(
                path, "is a MetaGraphDef, not a graph alone", "name it with its checkpoint: source=meta_graph"
            ) from None
        raise
    meta = MetaGraphDef(graph_def=graph_def)
    if not any(node.op for node in graph_def.node):
        raise _refusal(path, "is not a GraphDef: it holds no graph", f"hand in {_GRAPH_DEF}")
    bodies = (function.node_def for function in graph_def.library.function)
    used = {node.op for nodes in (graph_def.node, *bodies) for node in nodes}
    known = (op for op in OpList.FromString(op_list()).op if op.name in used)
    meta.meta_info_def.stripped_op_list.op.extend(sorted(known, key=lambda op: op.name))  # TensorFlow's order is random
    _check(path, [meta])
    return meta


def _check(path: str, metas: Iterable[MetaGraphDef]) -> None:
    if problems := [problem for meta in metas for problem in wellformed.problems(meta, path)]:
        raise BindingError(*problems)


def read_graphs(path: str | os.PathLike) -> list[MetaGraphDef]:
    """Read every graph in a ``.meta``, a SavedModel (a file, or the directory that holds it) or a GraphDef, binary or text.

    A SavedModel's graphs are those of its ``.pb`` and of a ``.pbtxt`` beside it. A file that parses as several of these kinds
    is read as each. A GraphDef is all that there is in its MetaGraphDef.

    Raises:
        BindingError: with one Problem, if `path` cannot be read, or holds no graph.
    """
    path = os.fspath(path)
    directory = os.path.dirname(path) or "." if os.path.basename(path) in SAVED_MODELS else path
    if os.path.isdir(directory):
        meta_graphs = list(read_saved_model(directory).meta_graphs)
        both = [file for name in SAVED_MODELS if os.path.exists(file := os.path.join(directory, name))]
        return meta_graphs if len(both) < 2 else [meta for file in both for meta in read_saved_model(file).meta_graphs]
    data = _content(path, "a .meta, a SavedModel or a GraphDef")
    found = [meta for cls in (SavedModel, MetaGraphDef, GraphDef) for meta in _graphs_in(cls, path, data)]
    if not found:
        raise _refusal(path, "holds no graph: it is no .meta, SavedModel or GraphDef", "hand in one of these")
    return found


def _graphs_in(cls, path: str, data: bytes) -> list[MetaGraphDef]:
    """Return the graphs in `data` as a message of class `cls`; none if it is no such message."""
    try:
        parsed = _parse(cls, path, data)
    except BindingError:
        return []
    metas = parsed.meta_graphs if cls is SavedModel else [MetaGraphDef(graph_def=parsed) if cls is GraphDef else parsed]
    return [meta for meta in metas if meta.graph_def.library.function or any(node.op for node in meta.graph_def.node)]


def _refusal(path: str, what: str, do: str = "") -> BindingError:
    return BindingError(Problem(path, what, do))


def _content(path: str, wanted: str) -> bytes:
    try:
        data = files.read(path, files.PROTO)
    except FileNotFoundError:
        beside = f"{path}.meta"
        do = f"did you mean {beside}?" if os.path.exists(beside) else files.similar(path) or f"hand in {wanted}"
        raise _refusal(path, "no such file", do) from None
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}", f"hand in {wanted}") from None
    if data.startswith(_LFS):
        raise _refusal(path, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    if not data:
        raise _refusal(path, "is empty", f"hand in {wanted}")
    return data


def _parse(cls, path: str, data: bytes):
    if not fits(cls, data):
        raise _refusal(path, "expands to far more memory than it has bytes", "it was made by hand: copy it again")
    try:
        return cls.FromString(data)
    except DecodeError:
        pass
    if _TEXT.match(data):
        _check_text(path, data)
        try:
            return text_format.Parse(data.decode(), cls())
        except (UnicodeDecodeError, ValueError, text_format.ParseError):
            pass
    if missing := _missing_bytes(data):
        raise _refusal(path, f"is truncated: at least {missing:,} bytes are missing after {len(data):,}", "copy it again")
    what = f"is not a {cls.DESCRIPTOR.name}"
    do = {GraphDef: f"hand in {_GRAPH_DEF}", SavedModel: "copy it again, or hand in the saved_model.pb of a SavedModel version"}
    raise _refusal(path, *((what, do[cls]) if cls in do else _empty(data, what)))


def _check_text(path: str, data: bytes) -> None:
    """Refuse a text that is too long, or nests too deep, for the parser, which calls itself for each message."""
    if len(data) > _MOST_TEXT:
        raise _refusal(path, f"is text of {len(data):,} bytes, and at most {_MOST_TEXT:,} are read", "write it in binary")
    depth = deepest = 0
    for mark in re.finditer(rb'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*|[{}<>]', data):
        depth += {b"{": 1, b"<": 1, b"}": -1, b">": -1}.get(mark[0], 0)
        deepest = max(deepest, depth)
    if deepest > _DEEP:
        raise _refusal(
            path, f"nests messages {deepest} deep, and {_DEEP} is protobuf's limit", "it was made by hand: copy it again"
        )


def _empty(data: bytes, what: str = "is not a MetaGraphDef: it holds no graph") -> tuple[str, str]:
    """Return what `data` is instead of a MetaGraphDef, if that can be recognised, and what to do."""
    try:
        if len(data) <= _LARGE and any(node.op for node in GraphDef.FromString(data).node):
            what = "is a bare GraphDef, which knows no variables"
    except DecodeError:
        pass
    return what, "hand in the .meta that tf.compat.v1.train.Saver writes beside a checkpoint"


def _missing_bytes(data: bytes) -> int:
    """Return how many bytes the last top-level field lacks; 0 if `data` is no sequence of length-delimited and varint fields.

    Source: https://protobuf.dev/programming-guides/encoding/
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if not 0 < tag >> 3 < 10 or tag & 7 not in (0, 2):
            return 0
        at += size if tag & 7 == 2 else 0
    return at - len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at byte `at` and the position behind it, which is beyond the end of `data` if the varint is cut off."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    return value, at + 1
