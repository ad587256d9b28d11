"""Values that a config or a file gives, as arrays of the dtype and shape that are wanted, or what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np

from exportkit.checkpoint import npy
from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.errors import did_you_mean
from exportkit.metagraph.tensors import Facts, Shape, compatible
from exportkit.samples import tfexample


class Misfit(Exception):
    """Values that are not what is wanted: what is wrong with them, and what to do."""

    def __init__(self, what: str, do: str = ""):
        super().__init__(what, do)
        self.what, self.do = what, do


def read(path: Path, name: str | None) -> np.ndarray:
    """Read an array from a ``.npy``, the array `name` of an ``.npz``, or the records of a TFRecord or their feature `name`.

    Raises:
        Misfit: the file is not of the format of its suffix, or has nothing of that name.
    """
    try:
        return _records(path, name) if path.suffix == ".tfrecord" else _numpy(path, name)
    except ValueError as cause:
        raise Misfit(f"{path} {cause}") from None
    except OSError as cause:
        raise Misfit(f"{path} cannot be read: {cause.strerror}") from None


def header(path: Path, name: str | None) -> tuple[np.dtype, tuple[int, ...]]:
    """Return dtype and shape of the array in a ``.npy``, or of the array `name` of an ``.npz``; its values are not read.

    Raises:
        Misfit: the file is not of the format of its suffix.
    """
    try:
        return npy.header(path, name)
    except KeyError:
        raise Misfit(f"{path} is not a {path.suffix} file of numbers or bytes") from None
    except ValueError as cause:
        raise Misfit(f"{path} {cause}") from None
    except OSError as cause:
        raise Misfit(f"{path} cannot be read: {cause.strerror}") from None


def _numpy(path: Path, name: str | None) -> np.ndarray:
    try:
        return npy.read(path, name)
    except KeyError:
        raise Misfit(f"there is no array '{name}' in {path}", did_you_mean(name or "", npy.names(path))) from None


def _records(path: Path, name: str | None) -> np.ndarray:
    rows = list(tfexample.records(path))
    if not name:
        return objects(rows)
    try:
        return tfexample.column(rows, name)
    except tfexample.NoFeature as cause:
        raise Misfit(f"there is no feature '{name}' in {path}", did_you_mean(name, cause.known)) from None


def fit(value: Any, dtype: str, shape: Shape) -> np.ndarray:
    """Return `value` as an array of that dtype, where that changes no value, and of that shape; strings are bytes.

    Raises:
        Misfit: it is ragged, of another kind or shape, or would change.
    """
    array = _strings(value) if dtype == "string" else _numbers(_array(value), dtype)
    _fit_shape(dtype, array.shape, shape)
    return array


def fit_header(found: np.dtype, size: tuple[int, ...] | None, dtype: str, shape: Shape) -> None:
    """Refuse an array of dtype `found` and shape `size` (None: not known) where none of its kind can be `dtype` and `shape`.

    Raises:
        Misfit: it is of another kind or shape.
    """
    if dtype == "string":
        if found.kind not in "SUO":
            raise Misfit(f"is {found.name}, not string", "name an array of texts or bytes")
    elif _kind(found) not in _FROM[_kind(numpy_dtype(dtype))]:
        raise Misfit(f"is {_dtype_text(found)}, not {dtype}", f"write {dtype} values")
    if size is not None:
        _fit_shape(dtype, size, shape)


def _fit_shape(dtype: str, found: tuple[int, ...], shape: Shape) -> None:
    if shape is not None and not compatible(found, shape):
        do = "write a list of rows" if len(found) == len(shape) - 1 and shape[0] is None else ""
        raise Misfit(f"is {Facts(dtype, found)}, not {Facts(dtype, shape)}", do)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise Misfit("is ragged: its lists are of different lengths", "fill them up to one length") from None


def _strings(value: Any) -> np.ndarray:
    array = _array(value)
    texts = array if isinstance(value, np.ndarray) else np.asarray(value, object)
    for item in texts.flat:
        if not isinstance(item, str | bytes):
            raise Misfit(f"holds {item}, which is no string", "write texts, in quotes")
    return objects([item.encode() if isinstance(item, str) else bytes(item) for item in texts.flat]).reshape(texts.shape)


def _numbers(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers as another dtype: floats are rounded, as float64 is to float32; integers and booleans must stay equal."""
    target = numpy_dtype(dtype)
    if array.dtype == target:
        return array
    if _kind(array.dtype) not in _FROM[_kind(target)] and array.size:
        raise Misfit(f"is {_dtype_text(array.dtype)}, not {dtype}", f"write {dtype} values")
    with np.errstate(all="ignore"):
        cast = array.astype(target)
        kept = (np.isfinite(cast) | ~np.isfinite(array)) if _kind(target) in ("float", "complex") else cast == array
    if not kept.all():
        raise Misfit(f"holds {array[~kept].flat[0]}, which is no {dtype}", f"write {dtype} values")
    return cast


_FROM = {
    "bool": {"bool"},
    "integer": {"integer", "float"},
    "float": {"integer", "float"},
    "complex": {"integer", "float", "complex"},
}


def _kind(dtype: np.dtype) -> str:
    kinds = {"b": "bool", "i": "integer", "u": "integer", "f": "float", "c": "complex"}
    by_name = "float" if "float" in dtype.name else "integer"  # ml_dtypes' own are of kind V
    return kinds.get(dtype.kind, by_name if dtype.kind == "V" else "text")


def _dtype_text(dtype: np.dtype) -> str:
    return "string" if _kind(dtype) == "text" else dtype.name
