"""Description of a file or directory that was named as a checkpoint and is none, from its first bytes and its names."""

import os
import re
from contextlib import suppress
from pathlib import Path

from exportkit import files

_TRAINING = "name the training checkpoint that it was made from"
_KERAS = "export it as it is (source=keras)"
_BYTES = 64 * 1024  # of a file that are read
_NAME = rb"[A-Za-z0-9.][\w.\\/>-]*"
# field 1 (node) of a GraphDef holds field 1 (name) and field 2 (op) of a NodeDef; lengths are varints
_GRAPH = re.compile(rb"\x0a[\x80-\xff]{0,4}[\x00-\x7f]\x0a[\x80-\xff]{0,2}[\x00-\x7f]" + _NAME + rb"\x12.[A-Z]\w*", re.DOTALL)
_GRAPH_TEXT = re.compile(rb"\s*(#[^\n]*\n\s*)*node\s*:?\s*\{")
_FROZEN = "a graph alone (GraphDef), such as a frozen one, and no checkpoint"
_BUILT = f"{_TRAINING}, or export the graph itself (source=frozen_graph)"
_ONNX = re.compile(rb"\x08[\x03-\x7f]\x12[\x00-\x7f][A-Za-z]")  # ModelProto: ir_version (3 and more), producer_name
_IN_KERAS = (b"model.weights.h5", b"metadata.json")
_ORIGINAL = "export the TensorFlow model that it was converted from"
_MODELS = {
    "tflite": ("is a TensorFlow Lite model, which no model server's TensorFlow loads", _ORIGINAL),
    "onnx": ("is an ONNX model, which no model server's TensorFlow loads", f"{_ORIGINAL}, or serve it with ONNX Runtime"),
    "pytorch": ("is a file of PyTorch, which TensorFlow does not load", "export it with PyTorch's own tools"),
}
_STARTS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file of Keras and no TensorFlow checkpoint", _KERAS),
    b"\x08\x01\x12": ("the graph of a SavedModel and no checkpoint", _TRAINING),
    b"saved_model_schema_version": ("the graph of a SavedModel and no checkpoint", _TRAINING),
    b"\x80\x02": ("a pickle, such as PyTorch's, and no TensorFlow checkpoint", _TRAINING),
    b"\x93NUMPY": ("a NumPy array and no checkpoint", _TRAINING),
}
_MEMBERS = {  # of a zip archive, in its first bytes
    b"model.weights.h5": ("a Keras model and no TensorFlow checkpoint", _KERAS),
    b"metadata.json": ("a Keras model and no TensorFlow checkpoint", _KERAS),
    b"data.pkl": ("a PyTorch file and no TensorFlow checkpoint", _TRAINING),
    b".npy": ("an archive of NumPy arrays and no checkpoint", _TRAINING),
}


def describe_file(path: str) -> tuple[str, str]:
    """Return what the file `path` is, as far as its first bytes tell, and what to do.

    Raises:
        OSError: it cannot be read.
    """
    with files.opened(path) as file:
        start = file.read(_BYTES)
    for mark, described in _STARTS.items():
        if start.startswith(mark):
            return described
    if start.startswith(b"PK\x03\x04"):
        archive = ("a zip archive and no checkpoint", _TRAINING)
        return next((described for member, described in _MEMBERS.items() if member in start), archive)
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model and no checkpoint", _TRAINING
    if _GRAPH.match(start) or _GRAPH_TEXT.match(start):
        return _FROZEN, _BUILT
    return "no TensorFlow checkpoint, or one that was cut short", "name the checkpoint's prefix, without .index or .data"


def kind_of(path: str) -> str | None:
    """Return which kind of model a file is, by its first bytes; None where it is none of those that are known.

    Returns:
        ``keras``, ``graph`` (a GraphDef), ``onnx``, ``tflite`` or ``pytorch``.

    Raises:
        OSError: it cannot be read.
    """
    with files.opened(path) as file:
        start = file.read(_BYTES)
    if start[4:8] == b"TFL3":
        return "tflite"
    if _ONNX.match(start):
        return "onnx"
    if start.startswith(b"PK\x03\x04") and b"data.pkl" in start:
        return "pytorch"
    if start.startswith(b"\x89HDF\r\n\x1a\n") or (start.startswith(b"PK\x03\x04") and any(m in start for m in _IN_KERAS)):
        return "keras"
    return "graph" if _GRAPH.match(start) or _GRAPH_TEXT.match(start) else None


def describe_model(kind: str) -> tuple[str, str]:
    """Return what a model of a kind that no source takes is, and what to do."""
    return _MODELS[kind]


def describe_directory(path: str) -> tuple[str, str] | None:
    """Return what a directory without a checkpoint holds instead, and what to do; None where that is nothing known."""
    with suppress(OSError):
        if is_saved_model(path):
            return (
                "is a SavedModel: it is exported already",
                f"serve it as it is, give it more signatures (source=saved_model), or {_TRAINING}",
            )
        versions = sorted((p.name for p in Path(path).iterdir() if p.name.isdigit() and is_saved_model(p)), key=int)
        if versions:
            found = f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
            return f"is where exports are: it holds {found}", _TRAINING
        if (Path(path) / "variables" / "variables.index").is_file():
            return "holds the variables of a SavedModel, without its graph", f"name {path}/variables/variables"
    return None


def is_saved_model(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a directory that holds a SavedModel."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("saved_model.pb", "saved_model.pbtxt"))
