"""Replies of a worker that runs somebody else's graph: arrays and plain values, and nothing that could be called.

A pickle may name any function. Such a graph may find its process's pipe under /proc and write to it, so what comes out of it is
read as data.
"""

import pickle
from typing import Any

_CALLABLE = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),  # NumPy 1
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "ml_dtypes": ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
}


class ForgedReply(Exception):
    """A reply is not the pickle of arrays and plain values."""


class ValuesUnpickler(pickle.Unpickler):
    """Reads arrays and plain values. `load` raises ForgedReply for a pickle that names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _CALLABLE.get(module, ()):
            raise ForgedReply(f"{module}.{name}")
        return super().find_class(module, name)
