"""Readers of MetaGraphDef and SavedModel files, with errors that recognise other kinds of files."""

import os

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from exportkit.errors import BindingError, Problem
from exportkit.protos import GraphDef, MetaGraphDef, SavedModel

_LFS = b"version https://git-lfs.github.com/spec/"


def read(path: str | os.PathLike) -> MetaGraphDef:
    """Read a ``.meta`` file, binary or text.

    Raises:
        BindingError: with one Problem, if `path` cannot be read or is not a MetaGraphDef with a graph.
    """
    path, data = os.fspath(path), _content(path, "the .meta that tf.compat.v1.train.Saver writes beside a checkpoint")
    if data[:1] == b"\x08" or data.startswith(b"saved_model_schema_version"):
        raise _refusal(path, "is a SavedModel, not a .meta", "hand in the .meta of the training run, beside its checkpoint")
    meta = _parse(MetaGraphDef, path, data)
    if not meta.graph_def.node:
        raise _refusal(path, *_empty(data))
    return meta


def read_saved_model(path: str | os.PathLike) -> SavedModel:
    """Read a ``saved_model.pb`` or ``saved_model.pbtxt``, or in a directory the one that a loader takes.

    Raises:
        BindingError: with one Problem, if `path` cannot be read or is not a SavedModel with a meta graph.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if os.path.exists(chunked := os.path.join(path, "saved_model.cpb")):
            raise _refusal(
                chunked, "is a SavedModel in pieces, which exportkit does not read", "remove it, or save the model whole"
            )
        binary, text = (os.path.join(path, name) for name in ("saved_model.pb", "saved_model.pbtxt"))
        path = text if os.path.exists(text) and not os.path.exists(binary) else binary
    data = _content(path, "the saved_model.pb of a SavedModel version")
    saved_model = _parse(SavedModel, path, data)
    if not saved_model.meta_graphs:
        raise _refusal(
            path, "is not a SavedModel: it holds no meta graph", "hand in the saved_model.pb of a SavedModel version"
        )
    return saved_model


def read_graphs(path: str | os.PathLike) -> list[MetaGraphDef]:
    """Read every graph in a ``.meta``, a SavedModel (a file, or the directory that holds it) or a GraphDef, binary or text.

    A SavedModel's graphs are those of its ``.pb`` and of a ``.pbtxt`` beside it. A file that parses as several of these kinds
    is read as each. A GraphDef is all that there is in its MetaGraphDef.

    Raises:
        BindingError: with one Problem, if `path` cannot be read, or holds no graph.
    """
    path = os.fspath(path)
    directory = os.path.dirname(path) or "." if os.path.basename(path) in _SAVED_MODELS else path
    if os.path.isdir(directory):
        meta_graphs = list(read_saved_model(directory).meta_graphs)
        both = [file for name in _SAVED_MODELS if os.path.exists(file := os.path.join(directory, name))]
        return meta_graphs if len(both) < 2 else [meta for file in both for meta in read_saved_model(file).meta_graphs]
    data = _content(path, "a .meta, a SavedModel or a GraphDef")
    found = [meta for cls in (SavedModel, MetaGraphDef, GraphDef) for meta in _graphs_in(cls, path, data)]
    if not found:
        raise _refusal(path, "holds no graph: it is no .meta, SavedModel or GraphDef", "hand in one of these")
    return found


_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")


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
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        beside = f"{path}.meta"
        do = f"did you mean {beside}?" if os.path.exists(beside) else f"hand in {wanted}"
        raise _refusal(path, "no such file", do) from None
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}", f"hand in {wanted}") from None
    if data.startswith(_LFS):
        raise _refusal(path, "is a Git LFS pointer, not the file itself", "run git lfs pull")
    if not data:
        raise _refusal(path, "is empty", f"hand in {wanted}")
    return data


def _parse(cls, path: str, data: bytes):
    try:
        return cls.FromString(data)
    except DecodeError:
        pass
    try:
        return text_format.Parse(data.decode(), cls())
    except (UnicodeDecodeError, text_format.ParseError):
        pass
    if missing := _missing_bytes(data):
        raise _refusal(path, f"is truncated: at least {missing:,} bytes are missing after {len(data):,}", "copy it again")
    raise _refusal(path, *_empty(data, f"is not a {cls.DESCRIPTOR.name}"))


def _empty(data: bytes, what: str = "is not a MetaGraphDef: it holds no graph") -> tuple[str, str]:
    """Return what `data` is instead of a MetaGraphDef, if that can be recognised, and what to do."""
    try:
        if any(node.op for node in GraphDef.FromString(data).node):
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
