"""The room that lives inside TensorFlow: binds tensors in fresh graphs, signs, and writes the SavedModel."""

from exportkit.savedmodel.graphs import BoundGraph, bind, bound_tensors
from exportkit.savedmodel.writing import write

__all__ = ["BoundGraph", "bind", "bound_tensors", "write"]
