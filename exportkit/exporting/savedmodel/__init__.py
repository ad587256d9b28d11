"""The part that uses TensorFlow: binds tensors in new graphs, adds signatures, and writes the SavedModel."""

from exportkit.exporting.savedmodel.graphs import BoundGraph, bind, bound_tensors
from exportkit.exporting.savedmodel.writing import write

__all__ = ["BoundGraph", "bind", "bound_tensors", "write"]
