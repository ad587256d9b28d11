"""TensorFlow's own generated protobuf classes, without importing the TensorFlow runtime.

The generated modules import only protobuf, but ``tensorflow/__init__.py`` loads the runtime (2 s, 500 MB). While they are
imported a bare module with TensorFlow's ``__path__`` stands in its place; it is taken out again afterwards, and a later
``import tensorflow`` meets the very same classes.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

from exportkit.errors import EnvironmentFailed, Problem


@contextmanager
def without_runtime() -> Iterator[None]:
    """Let modules of generated messages be imported that import TensorFlow's: its runtime is not loaded with them."""
    if "tensorflow" in sys.modules:
        yield
        return
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.submodule_search_locations is None:
        raise EnvironmentFailed(Problem("tensorflow", "is not installed", "pip install tensorflow"))
    bare = types.ModuleType("tensorflow")
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules["tensorflow"] = bare
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def _load(*modules: str) -> list[types.ModuleType]:
    with without_runtime():
        return [importlib.import_module(f"tensorflow.core.{name}") for name in modules]


(
    example_pb2,
    feature_pb2,
    attr_value_pb2,
    function_pb2,
    graph_pb2,
    kernel_def_pb2,
    node_def_pb2,
    op_def_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    tensor_slice_pb2,
    types_pb2,
    variable_pb2,
    config_pb2,
    meta_graph_pb2,
    saved_model_pb2,
    saver_pb2,
    tensor_bundle_pb2,
    trackable_object_graph_pb2,
    saved_tensor_slice_pb2,
) = _load(
    "example.example_pb2",
    "example.feature_pb2",
    "framework.attr_value_pb2",
    "framework.function_pb2",
    "framework.graph_pb2",
    "framework.kernel_def_pb2",
    "framework.node_def_pb2",
    "framework.op_def_pb2",
    "framework.tensor_pb2",
    "framework.tensor_shape_pb2",
    "framework.tensor_slice_pb2",
    "framework.types_pb2",
    "framework.variable_pb2",
    "protobuf.config_pb2",
    "protobuf.meta_graph_pb2",
    "protobuf.saved_model_pb2",
    "protobuf.saver_pb2",
    "protobuf.tensor_bundle_pb2",
    "protobuf.trackable_object_graph_pb2",
    "util.saved_tensor_slice_pb2",
)

ConfigProto = config_pb2.ConfigProto
MetaGraphDef = meta_graph_pb2.MetaGraphDef
GraphDef = graph_pb2.GraphDef
FunctionDef = function_pb2.FunctionDef
FunctionDefLibrary = function_pb2.FunctionDefLibrary
NodeDef = node_def_pb2.NodeDef
OpDef = op_def_pb2.OpDef
OpList = op_def_pb2.OpList
KernelList = kernel_def_pb2.KernelList
TensorProto = tensor_pb2.TensorProto
SignatureDef = meta_graph_pb2.SignatureDef
TensorInfo = meta_graph_pb2.TensorInfo
AssetFileDef = meta_graph_pb2.AssetFileDef
AttrValue = attr_value_pb2.AttrValue
SavedModel = saved_model_pb2.SavedModel
SaverDef = saver_pb2.SaverDef
TensorShapeProto = tensor_shape_pb2.TensorShapeProto
TensorSliceProto = tensor_slice_pb2.TensorSliceProto
VariableDef = variable_pb2.VariableDef
SaveSliceInfoDef = variable_pb2.SaveSliceInfoDef
BundleHeaderProto = tensor_bundle_pb2.BundleHeaderProto
BundleEntryProto = tensor_bundle_pb2.BundleEntryProto
SavedTensorSlices = saved_tensor_slice_pb2.SavedTensorSlices
SavedSliceMeta = saved_tensor_slice_pb2.SavedSliceMeta


_DTYPES = frozenset(types_pb2.DataType.values())


def dtype_name(number: int) -> str:
    """Return the usual name of a dtype enum: ``DT_FLOAT`` → ``float32``, reference types without their mark.

    Raises:
        ValueError: there is no such dtype.
    """
    if number not in _DTYPES:
        raise ValueError(f"there is no dtype {number}")
    name = types_pb2.DataType.Name(number).removeprefix("DT_").removesuffix("_REF").lower()
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)


DTYPE_NAMES = {dtype_name(number): number for number in types_pb2.DataType.values() if 0 < number < 100}
