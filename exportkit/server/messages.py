"""TensorFlow Serving's own messages and gRPC services, of tensorflow-serving-api, without TensorFlow's runtime."""

import importlib
from types import ModuleType

from exportkit.errors import EnvironmentFailed, Problem
from exportkit.protos import without_runtime


def _load(*names: str) -> list[ModuleType]:
    try:
        with without_runtime():
            return [importlib.import_module(f"tensorflow_serving.{name}") for name in names]
    except ImportError as error:
        what = f"{error.name or 'tensorflow_serving'} is not installed"
        raise EnvironmentFailed(Problem("exportkit serve", what, "pip install 'exportkit[serve]'")) from error


(
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    model_server_config_pb2,
) = _load(
    "apis.classification_pb2",
    "apis.get_model_metadata_pb2",
    "apis.get_model_status_pb2",
    "apis.inference_pb2",
    "apis.input_pb2",
    "apis.model_pb2",
    "apis.model_management_pb2",
    "apis.predict_pb2",
    "apis.regression_pb2",
    "apis.prediction_service_pb2",
    "apis.prediction_service_pb2_grpc",
    "apis.model_service_pb2",
    "apis.model_service_pb2_grpc",
    "config.model_server_config_pb2",
)

ModelServerConfig = model_server_config_pb2.ModelServerConfig
