"""Live objects of TensorFlow → `SourceModel`: a graph with its session, or a function of TensorFlow 2."""

from exportkit.capture.function import capture_function
from exportkit.capture.session import capture, compare, export_meta_graph

__all__ = ["capture", "capture_function", "compare", "export_meta_graph"]
