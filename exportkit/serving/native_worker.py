"""Runs a SavedModel in TensorFlow's C++ core through its C API, as a model server does, without TensorFlow's Python.

As a script, this is the process that `native` starts: it loads a model once, answers all runs and ends with its input. A
request can kill it, since a failed CHECK in the C++ core aborts the process. It imports NumPy and nothing of exportkit, so it
starts fast.
"""

import ctypes
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import ml_dtypes
import numpy as np

CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

REF = 100
STRING = 7
ARRAYS = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    8: np.complex64,
    9: np.int64,
    10: np.bool_,
    11: np.int8,  # quantized types are fed and fetched as the integers that store them
    12: np.uint8,
    13: np.int32,
    14: ml_dtypes.bfloat16,
    15: np.int16,
    16: np.uint16,
    17: np.uint16,
    18: np.complex128,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
    24: ml_dtypes.float8_e5m2,
    25: ml_dtypes.float8_e4m3fn,
    29: ml_dtypes.int4,
    30: ml_dtypes.uint4,
}
TSTRING_BYTES = 24


class StatusError(Exception):
    """A status of the C API that is not OK: the name of its code, and TensorFlow's own text."""

    def __init__(self, code: str, message: str):
        super().__init__(code, message)


class Output(ctypes.Structure):
    """`TF_Output`: one output of an operation."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_PROTOTYPES = {
    "TF_NewStatus": (c_void_p,),
    "TF_DeleteStatus": (None, c_void_p),
    "TF_GetCode": (c_int, c_void_p),
    "TF_Message": (c_char_p, c_void_p),
    "TF_NewSessionOptions": (c_void_p,),
    "TF_DeleteSessionOptions": (None, c_void_p),
    "TF_SetConfig": (None, c_void_p, c_char_p, c_size_t, c_void_p),
    "TF_NewGraph": (c_void_p,),
    "TF_DeleteGraph": (None, c_void_p),
    "TF_LoadSessionFromSavedModel": (
        *(c_void_p, c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p),
    ),
    "TF_DeleteSession": (None, c_void_p, c_void_p),
    "TF_GraphOperationByName": (c_void_p, c_void_p, c_char_p),
    "TF_OperationNumOutputs": (c_int, c_void_p),
    "TF_OperationOutputType": (c_int, Output),
    "TF_SessionRun": (
        *(None, c_void_p, c_void_p, POINTER(Output), POINTER(c_void_p), c_int, POINTER(Output), POINTER(c_void_p), c_int),
        *(c_void_p, c_int, c_void_p, c_void_p),
    ),
    "TF_AllocateTensor": (c_void_p, c_int, POINTER(c_int64), c_int, c_size_t),
    "TF_DeleteTensor": (None, c_void_p),
    "TF_TensorType": (c_int, c_void_p),
    "TF_NumDims": (c_int, c_void_p),
    "TF_Dim": (c_int64, c_void_p, c_int),
    "TF_TensorData": (c_void_p, c_void_p),
    "TF_StringInit": (None, c_void_p),
    "TF_StringCopy": (None, c_void_p, c_char_p, c_size_t),
    "TF_StringGetSize": (c_size_t, c_void_p),
    "TF_StringGetDataPointer": (c_void_p, c_void_p),
}


@cache
def _tf() -> ctypes.CDLL:
    """Return the C API of the installed TensorFlow wheel."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("tensorflow is not installed")
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0], "libtensorflow_cc.so.2")))
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _checked(name: str, *arguments):
    """Call a function whose last argument is a status; raise StatusError if that is not OK."""
    status = _tf().TF_NewStatus()
    try:
        result = getattr(_tf(), name)(*arguments, status)
        if code := _tf().TF_GetCode(status):
            raise StatusError(CODES[code], _tf().TF_Message(status).decode(errors="replace"))
        return result
    finally:
        _tf().TF_DeleteStatus(status)


class Session:
    """A SavedModel's meta graph, restored and initialised.

    Args:
        directory: the SavedModel.
        tags: exactly the tags of the meta graph.
        config: a serialized ConfigProto.

    Raises:
        StatusError: the SavedModel cannot be loaded.
    """

    def __init__(self, directory: str, tags: Sequence[str], config: bytes = b""):
        self._graph = _tf().TF_NewGraph()
        options = _tf().TF_NewSessionOptions()
        try:
            _checked("TF_SetConfig", options, config, len(config))
            names = (c_char_p * len(tags))(*(tag.encode() for tag in tags))
            self._session = _checked(
                *("TF_LoadSessionFromSavedModel", options, None, os.fsencode(directory), names, len(tags), self._graph, None)
            )
        except StatusError:
            _tf().TF_DeleteGraph(self._graph)
            raise
        finally:
            _tf().TF_DeleteSessionOptions(options)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        _checked("TF_DeleteSession", self._session)
        _tf().TF_DeleteGraph(self._graph)

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Run the graph once.

        Args:
            feeds: tensor name → value; strings are bytes or str in an object array.
            fetches: tensor names.

        Returns:
            The fetched values; strings as object arrays of bytes.

        Raises:
            StatusError: TensorFlow reports an error, a name is not in the graph, or a value has a wrong or unknown dtype.
        """
        inputs, outputs = self._outputs(list(feeds)), self._outputs(fetches)
        fed, fetched = (c_void_p * len(feeds))(), (c_void_p * len(fetches))()
        try:
            for i, (name, value) in enumerate(feeds.items()):
                fed[i] = _tensor(name, np.asarray(value), inputs[i])
            sides = inputs, fed, len(feeds), outputs, fetched, len(fetches)
            _checked("TF_SessionRun", self._session, None, *sides, None, 0, None)
            return [_array(tensor, name) for tensor, name in zip(fetched, fetches, strict=True)]
        finally:
            for tensor in filter(None, [*fed, *fetched]):
                _tf().TF_DeleteTensor(tensor)

    def _outputs(self, names: Sequence[str]) -> ctypes.Array:
        return (Output * len(names))(*map(self._output, names))

    def _output(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        number = int(index) if index.isdecimal() else 0
        found = _tf().TF_GraphOperationByName(self._graph, operation.encode())
        if not found or number >= _tf().TF_OperationNumOutputs(found):
            raise StatusError("NOT_FOUND", f"{name} is not in the graph")
        return Output(found, number)


def _tensor(name: str, array: np.ndarray, place: Output) -> int:
    """Return the value as a TF_Tensor of the dtype of its place in the graph."""
    number = _tf().TF_OperationOutputType(place) % REF
    known = "string" if number == STRING else _dtype(name, number).name
    fed = "string" if array.dtype.kind in "OSUT" else array.dtype.name
    if known != fed:
        raise StatusError("INVALID_ARGUMENT", f"{name} is {known} and is fed {fed}")
    return _string_tensor(array) if number == STRING else _numeric_tensor(array, number)


def _dtype(name: str, number: int) -> np.dtype:
    if number not in ARRAYS:
        raise StatusError("UNIMPLEMENTED", f"{name} is a handle, not an array")
    return np.dtype(ARRAYS[number])


def _numeric_tensor(array: np.ndarray, number: int) -> int:
    array = np.asarray(array, ARRAYS[number], order="C")
    tensor = _allocated(number, array.shape, array.nbytes)
    ctypes.memmove(_tf().TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def _string_tensor(array: np.ndarray) -> int:
    """Return a TF_Tensor of strings.

    Their memory is not freed before the process ends: a variable of the graph may still share it.
    """
    tensor = _allocated(STRING, array.shape, array.size * TSTRING_BYTES)
    start = _tf().TF_TensorData(tensor)
    for i, text in enumerate(array.flat):
        raw = _raw(text)
        _tf().TF_StringInit(start + i * TSTRING_BYTES)
        _tf().TF_StringCopy(start + i * TSTRING_BYTES, raw, len(raw))
    return tensor


def _raw(text: bytes | str) -> bytes:
    if not isinstance(text, bytes | str):
        raise StatusError("INVALID_ARGUMENT", f"{text!r} is neither bytes nor str")
    return text.encode() if isinstance(text, str) else text


def _allocated(number: int, shape: tuple[int, ...], size: int) -> int:
    return _tf().TF_AllocateTensor(number, (c_int64 * len(shape))(*shape), len(shape), size)


def _array(tensor: int, name: str) -> np.ndarray:
    number = _tf().TF_TensorType(tensor)
    shape = tuple(_tf().TF_Dim(tensor, i) for i in range(_tf().TF_NumDims(tensor)))
    data = _tf().TF_TensorData(tensor)
    if number == STRING:
        return _string_array(data, shape)
    array = np.empty(shape, _dtype(name, number))
    ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array


def _string_array(data: int, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, object)
    flat = array.reshape(-1)
    for i in range(flat.size):
        text = data + i * TSTRING_BYTES
        flat[i] = ctypes.string_at(_tf().TF_StringGetDataPointer(text), _tf().TF_StringGetSize(text))
    return array


def main() -> None:
    """Load the SavedModel that stdin names, and answer runs until stdin ends.

    It writes ``(value, seconds, error)`` to stdout for the load and for each run.

    The messages are pickled: both ends are the same program, and the files between them have no name.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the graph prints goes to stderr
    directory, tags, config = pickle.load(sys.stdin.buffer)
    _tf()
    session, *loaded = _timed(Session, directory, tags, config)
    _reply(replies, None, *loaded)
    with session or nullcontext():
        for feeds, fetches in _runs(sys.stdin.buffer) if session else ():
            _reply(replies, *_timed(session.run, feeds, fetches))
    os._exit(0)  # the library's own shutdown would take 60 ms


def _runs(file: IO[bytes]) -> Iterator[tuple[Mapping[str, np.ndarray], Sequence[str]]]:
    """Yield the feeds and fetches of each run until the file ends."""
    with suppress(EOFError):
        while True:
            yield pickle.load(file)


def _timed(call: Callable, *arguments: Any) -> tuple[Any, float, tuple[str, str] | None]:
    """Return the call's value, its duration in seconds, and the code and message of the status that it failed with."""
    started = perf_counter()
    try:
        return call(*arguments), perf_counter() - started, None
    except StatusError as error:
        return None, perf_counter() - started, error.args


def _reply(replies: IO[bytes], *reply: Any) -> None:
    pickle.dump(reply, replies, protocol=5)
    replies.flush()
