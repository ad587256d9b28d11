"""NumPy arrays ↔ TF_Tensor, strings among them."""

import ctypes
from ctypes import c_int64

import ml_dtypes
import numpy as np

from exportkit.core.capi import DEALLOCATOR, StatusError, library

REF = 100  # added to the number of a dtype for a reference to a variable of it
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


def to_tensor(name: str, value: np.ndarray, number: int) -> int:
    """Return `value` as a new TF_Tensor, which the caller deletes.

    Args:
        name: of the tensor in the graph, for errors.
        value: numbers, or bytes and str in an object array.
        number: the dtype that the graph has there (types.proto); the value must have it.

    Raises:
        StatusError: INVALID_ARGUMENT: the value has another dtype; UNIMPLEMENTED: no array has this dtype.
    """
    number %= REF
    known = "string" if number == STRING else _dtype(name, number).name
    fed = "string" if value.dtype.kind in "OSUT" else value.dtype.name
    if known != fed:
        raise StatusError("INVALID_ARGUMENT", f"{name} is {known} and is fed {fed}")
    return _string_tensor(value) if number == STRING else _numeric_tensor(value, number)


def to_array(name: str, tensor: int) -> np.ndarray:
    """Return a copy of a TF_Tensor's value; strings as bytes in an object array.

    Args:
        name: of the tensor in the graph, for errors.

    Raises:
        StatusError: UNIMPLEMENTED: no array has its dtype: a resource or a variant.
    """
    number = library().TF_TensorType(tensor)
    shape = tuple(library().TF_Dim(tensor, i) for i in range(library().TF_NumDims(tensor)))
    data = library().TF_TensorData(tensor)
    if number == STRING:
        return _string_array(data, shape)
    array = np.empty(shape, _dtype(name, number))
    ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array


def _dtype(name: str, number: int) -> np.dtype:
    if number not in ARRAYS:
        raise StatusError("UNIMPLEMENTED", f"{name} is a handle, not an array")
    return np.dtype(ARRAYS[number])


def _numeric_tensor(array: np.ndarray, number: int) -> int:
    array = np.asarray(array, ARRAYS[number], order="C")
    tensor = _allocated(number, array.shape, array.nbytes)
    ctypes.memmove(library().TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def _string_tensor(array: np.ndarray) -> int:
    """Return a TF_Tensor of strings; its memory is freed when the graph has no more use of it: a variable may share it."""
    raw = [_raw(text) for text in array.flat]
    memory = ctypes.create_string_buffer(max(1, len(raw)) * TSTRING_BYTES)
    start = ctypes.addressof(memory)
    for i, text in enumerate(raw):
        library().TF_StringInit(start + i * TSTRING_BYTES)
        library().TF_StringCopy(start + i * TSTRING_BYTES, text, len(text))
    _strings[start] = memory
    size, shape = len(raw) * TSTRING_BYTES, array.shape
    return library().TF_NewTensor(STRING, (c_int64 * len(shape))(*shape), len(shape), start, size, _free_strings, None)


@DEALLOCATOR
def _free_strings(start: int, size: int, _: None) -> None:
    """Free the strings of a tensor, and then their places."""
    for place in range(start, start + size, TSTRING_BYTES):
        library().TF_StringDealloc(place)
    del _strings[start]


_strings: dict[int, ctypes.Array] = {}  # address → the memory of a tensor of strings that TensorFlow still has


def _raw(text: bytes | str) -> bytes:
    if not isinstance(text, bytes | str):
        raise StatusError("INVALID_ARGUMENT", f"{text!r} is neither bytes nor str")
    return text.encode() if isinstance(text, str) else text


def _allocated(number: int, shape: tuple[int, ...], size: int) -> int:
    return library().TF_AllocateTensor(number, (c_int64 * len(shape))(*shape), len(shape), size)


def _string_array(data: int, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, object)
    flat = array.reshape(-1)
    for i in range(flat.size):
        text = data + i * TSTRING_BYTES
        flat[i] = ctypes.string_at(library().TF_StringGetDataPointer(text), library().TF_StringGetSize(text))
    return array
