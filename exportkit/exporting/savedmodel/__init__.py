"""Binds tensors in new graphs, adds signatures, writes the SavedModel: on protos, which TensorFlow's C++ core checks."""

from exportkit.exporting.savedmodel.bound import BoundGraph, bound_tensor, bound_tensors
from exportkit.exporting.savedmodel.graphs import bind
from exportkit.exporting.savedmodel.writing import Written, write

__all__ = ["BoundGraph", "Written", "bind", "bound_tensor", "bound_tensors", "write"]
