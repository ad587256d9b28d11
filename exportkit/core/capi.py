"""TensorFlow's C API: the library of the installed wheel, the functions that exportkit calls, and their statuses.

The declarations are those of tensorflow/c/c_api.h, tf_tensor.h and tf_tstring.h; all of them are in TensorFlow 2.16 and newer.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from exportkit.errors import EnvironmentFailed, Problem
from exportkit.processes.tensorflow import quiet

CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
LIBRARIES = {
    "linux": ("libtensorflow_cc.so.2", "libtensorflow_cc.so"),
    "darwin": ("libtensorflow_cc.2.dylib", "libtensorflow_cc.dylib"),
}


class StatusError(Exception):
    """A status of the C API that is not OK: the name of its code, and TensorFlow's own text."""

    def __init__(self, code: str, message: str):
        super().__init__(code, message)


class Buffer(ctypes.Structure):
    """`TF_Buffer`: bytes, mostly a serialized proto."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class Output(ctypes.Structure):
    """`TF_Output`: one output of an operation."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


DEALLOCATOR = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)
"""Called with a tensor's memory, its size in bytes and an argument, when nothing uses the tensor any more."""

_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "TF_Version": (c_char_p,),
    "TF_NewStatus": (c_void_p,),
    "TF_DeleteStatus": (None, c_void_p),
    "TF_GetCode": (c_int, c_void_p),
    "TF_Message": (c_char_p, c_void_p),
    "TF_NewBufferFromString": (POINTER(Buffer), c_char_p, c_size_t),
    "TF_DeleteBuffer": (None, POINTER(Buffer)),
    "TF_GetAllOpList": (POINTER(Buffer),),
    "TF_GetAllRegisteredKernels": (POINTER(Buffer), c_void_p),
    "TF_NewSessionOptions": (c_void_p,),
    "TF_DeleteSessionOptions": (None, c_void_p),
    "TF_SetConfig": (None, c_void_p, c_char_p, c_size_t, c_void_p),
    "TF_NewGraph": (c_void_p,),
    "TF_DeleteGraph": (None, c_void_p),
    "TF_NewImportGraphDefOptions": (c_void_p,),
    "TF_DeleteImportGraphDefOptions": (None, c_void_p),
    "TF_ImportGraphDefOptionsAddInputMapping": (None, c_void_p, c_char_p, c_int, Output),
    "TF_GraphImportGraphDefWithResults": (c_void_p, c_void_p, POINTER(Buffer), c_void_p, c_void_p),
    "TF_ImportGraphDefResultsMissingUnusedInputMappings": (
        *(None, c_void_p, POINTER(c_int), POINTER(POINTER(c_char_p)), POINTER(POINTER(c_int))),
    ),
    "TF_DeleteImportGraphDefResults": (None, c_void_p),
    "TF_GraphOperationByName": (c_void_p, c_void_p, c_char_p),
    "TF_OperationNumOutputs": (c_int, c_void_p),
    "TF_OperationOutputType": (c_int, Output),
    "TF_GraphGetTensorNumDims": (c_int, c_void_p, Output, c_void_p),
    "TF_GraphGetTensorShape": (None, c_void_p, Output, POINTER(c_int64), c_int, c_void_p),
    "TF_NewSession": (c_void_p, c_void_p, c_void_p, c_void_p),
    "TF_LoadSessionFromSavedModel": (
        *(c_void_p, c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p),
    ),
    "TF_DeleteSession": (None, c_void_p, c_void_p),
    "TF_SessionRun": (
        *(None, c_void_p, c_void_p, POINTER(Output), POINTER(c_void_p), c_int, POINTER(Output), POINTER(c_void_p), c_int),
        *(POINTER(c_void_p), c_int, c_void_p, c_void_p),
    ),
    "TF_AllocateTensor": (c_void_p, c_int, POINTER(c_int64), c_int, c_size_t),
    "TF_NewTensor": (c_void_p, c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, DEALLOCATOR, c_void_p),
    "TF_DeleteTensor": (None, c_void_p),
    "TF_TensorType": (c_int, c_void_p),
    "TF_NumDims": (c_int, c_void_p),
    "TF_Dim": (c_int64, c_void_p, c_int),
    "TF_TensorData": (c_void_p, c_void_p),
    "TF_StringInit": (None, c_void_p),
    "TF_StringCopy": (None, c_void_p, c_char_p, c_size_t),
    "TF_StringDealloc": (None, c_void_p),
    "TF_StringGetSize": (c_size_t, c_void_p),
    "TF_StringGetDataPointer": (c_void_p, c_void_p),
}


bind_at_once = False  # whether all functions of the library are found when it is loaded, not each when it is first called


@cache
def library() -> ctypes.CDLL:
    """Return the C API of the installed TensorFlow, loaded by the first call (0.3 s of CPU time).

    The process may be forked afterwards, as long as it has made no session but that of `exportkit.core.warm`. For one from
    which many are forked, set `bind_at_once` before: 0.1 s more here, and 10 ms less in each.

    Raises:
        EnvironmentFailed: there is none, or it cannot be loaded.
    """
    path = str(_library_path())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with quiet():
            loaded = ctypes.CDLL(path, handle=_opened(path))
        for name, (result, *arguments) in _PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise EnvironmentFailed(Problem("tensorflow", f"its C library cannot be loaded: {error}", _INSTALL)) from error
    return loaded


def _opened(path: str) -> int | None:
    """Open a library, and leave its functions to be found when they are first called, unless `bind_at_once` is set.

    Return its handle; None where there is no such way, as ctypes itself has all of them found at once.
    """
    if sys.platform != "linux" or bind_at_once:
        return None
    this = ctypes.CDLL(None)
    this.dlopen.restype, this.dlopen.argtypes = c_void_p, (c_char_p, c_int)
    this.dlerror.restype, this.dlerror.argtypes = c_char_p, ()
    if handle := this.dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL):
        return handle
    raise OSError((this.dlerror() or b"dlopen failed").decode(errors="replace"))


_INSTALL = "install TensorFlow 2.16 or newer again: pip install --force-reinstall tensorflow"


def _library_path() -> Path:
    """Return the C library's file in the package `tensorflow`, whichever distribution has installed that."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFailed(Problem("tensorflow", "is not installed", "pip install tensorflow"))
    places = [Path(place) for place in spec.submodule_search_locations]
    names = LIBRARIES.get(sys.platform, LIBRARIES["linux"])
    for path in (place / name for place in places for name in names):
        if path.is_file():
            return path
    what = f"has no C library: looked for {' and '.join(names)} in {', '.join(map(str, places))}"
    raise EnvironmentFailed(Problem("tensorflow", what, _INSTALL))


def checked(name: str, *arguments: Any) -> Any:
    """Call a function whose last argument is a status, without that argument, and return its value.

    Raises:
        StatusError: the status is not OK.
    """
    status = library().TF_NewStatus()
    try:
        result = getattr(library(), name)(*arguments, status)
        if code := library().TF_GetCode(status):
            name = CODES[code] if code < len(CODES) else f"code {code}"
            raise StatusError(name, library().TF_Message(status).decode(errors="replace"))
        return result
    finally:
        library().TF_DeleteStatus(status)


@contextmanager
def buffer(content: bytes) -> Iterator[Any]:
    """Give `content` as a TF_Buffer."""
    made = library().TF_NewBufferFromString(content, len(content))
    try:
        yield made
    finally:
        library().TF_DeleteBuffer(made)


def version() -> str:
    """Return TensorFlow's version, such as ``2.21.0``."""
    return library().TF_Version().decode()


@cache
def op_list() -> bytes:
    """Return all registered ops with their attributes and defaults: a serialized OpList."""
    return _taken(library().TF_GetAllOpList())


@cache
def kernels() -> bytes:
    """Return all registered kernels, a serialized KernelList, in 20 ms; TensorFlow takes as long for those of one op."""
    return _taken(checked("TF_GetAllRegisteredKernels"))


@cache
def devices() -> dict[str, set[str]]:
    """Return op → the kinds of devices that it has a kernel for: ``CPU``, ``GPU``, ``DEFAULT`` …

    Read from `kernels` by hand, as the workers have no protobuf: of a KernelList its field 1, of a KernelDef its fields 1, the
    op, and 2, the device's kind; TensorFlow writes fields in the order of their numbers (kernel_def.proto).
    """
    found: dict[str, set[str]] = {}
    content, at = kernels(), 0
    while at < len(content):
        start, at = _field(content, at)
        op = _field(content, start)
        kind = _field(content, op[1])
        found.setdefault(content[op[0] : op[1]].decode(), set()).add(content[kind[0] : kind[1]].decode())
    return found


def _field(content: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the length-delimited field at byte `at` begins and ends (its tag is one byte)."""
    size = shift = 0
    while content[at := at + 1] & 0x80:
        size |= (content[at] & 0x7F) << shift
        shift += 7
    size |= content[at] << shift
    return at + 1, at + 1 + size


def _taken(given: Any) -> bytes:
    """Return the content of a TF_Buffer, and free it."""
    try:
        return ctypes.string_at(given.contents.data, given.contents.length)
    finally:
        library().TF_DeleteBuffer(given)
