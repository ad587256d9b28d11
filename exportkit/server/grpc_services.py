"""The gRPC services: PredictionService and ModelService (prediction_service_impl.cc, model_service_impl.cc)."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np

from exportkit.checkpoint.encoding import objects
from exportkit.checkpoint.tensorproto import dtype_of
from exportkit.protos import DTYPE_NAMES, TensorProto
from exportkit.server import describing, inference
from exportkit.server.messages import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from exportkit.server.model_config import models_of
from exportkit.server.models import Models, Spec
from exportkit.server.status import Status, invalid
from exportkit.spec import METHODS

LONGEST = 1024  # characters of an error's message (grpc_status_util.cc)
_BY_BYTES = {"float32": 5, "float64": 6, "bool": 11}  # dtype → the packed field of TensorProto whose bytes are the array's
_BY_VALUES = {
    **dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8"), "int_val"),
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}


class PredictionService:
    """Answers with the served models.

    Args:
        models: what is served.
        timeout: seconds that a request may take; less where the client has set a deadline.
    """

    def __init__(self, models: Models, timeout: float):
        self._models, self._timeout = models, timeout

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._predict(request, self._seconds(context)))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._classify(request, self._seconds(context)))

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._regress(request, self._seconds(context)))

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._multi_inference(request, self._seconds(context)))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._metadata(request))

    def _seconds(self, context: grpc.ServicerContext) -> float:
        left = context.time_remaining()
        return self._timeout if left is None else min(self._timeout, left)

    def _predict(self, request: Any, seconds: float) -> Any:
        response = predict_pb2.PredictResponse()
        with self._models.use(_spec(request.model_spec)) as version:
            only = list(request.output_filter)
            outputs = inference.predict(version, request.model_spec.signature_name, request.inputs, seconds, only)
            _name(response, request.model_spec, version)
        for alias, value in outputs.items():
            _fill(response.outputs[alias], value)
        return response

    def _classify(self, request: Any, seconds: float) -> Any:
        response = classification_pb2.ClassificationResponse()
        _fill_classes(response.result, self._inferred(inference.classify, request, response, seconds))
        return response

    def _regress(self, request: Any, seconds: float) -> Any:
        response = regression_pb2.RegressionResponse()
        _fill_values(response.result, self._inferred(inference.regress, request, response, seconds))
        return response

    def _inferred(self, infer: Callable[..., Any], request: Any, response: Any, seconds: float) -> Any:
        with self._models.use(_spec(request.model_spec)) as version:
            result = infer(version, request.model_spec.signature_name, _examples(request.input), seconds)
            _name(response, request.model_spec, version)
        return result

    def _multi_inference(self, request: Any, seconds: float) -> Any:
        response = inference_pb2.MultiInferenceResponse()
        names = [task.model_spec.name for task in request.tasks]
        with self._models.use(_spec(request.tasks[0].model_spec) if names else Spec("")) as version:
            if "" in names:
                raise invalid("Found ModelSpec with an empty model name.")
            if len(set(names)) > 1:
                raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            tasks = [inference.Task(task.method_name, task.model_spec.signature_name) for task in request.tasks]
            results = inference.multi_inference(version, tasks, _examples(request.input), seconds)
            for task, result in zip(request.tasks, results, strict=True):
                entry = response.results.add()
                _name(entry, task.model_spec, version)
                if task.method_name == METHODS["classify"]:
                    _fill_classes(entry.classification_result, result)
                else:
                    _fill_values(entry.regression_result, result)
        return response

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != describing.SIGNATURES:
                raise invalid(f"Metadata field {name} is not supported")
        with self._models.use(_spec(request.model_spec)) as version:
            return describing.metadata(version)[0]


class ModelService:
    """Answers with the states of versions, and serves other models on request."""

    def __init__(self, models: Models):
        self._models = models

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._status(request))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answered(context, lambda: self._reload(request))

    def _status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return describing.status(self._models, _spec(request.model_spec))

    def _reload(self, request: Any) -> Any:
        self._models.reload(models_of(request.config))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _answered(context: grpc.ServicerContext, answer: Callable[[], Any]) -> Any:
    """Return an answer, or end the call with its status."""
    try:
        return answer()
    except Status as status:
        context.abort(getattr(grpc.StatusCode, status.code, grpc.StatusCode.UNKNOWN), status.text[:LONGEST])


def _spec(model_spec: Any) -> Spec:
    choice = model_spec.WhichOneof("version_choice")
    return Spec(
        model_spec.name,
        model_spec.version.value if choice == "version" else None,
        model_spec.version_label if choice == "version_label" else None,
    )


def _name(response: Any, asked: Any, version: Any) -> None:
    """Write into a response which version and signature it comes from."""
    response.model_spec.name, response.model_spec.version.value = version.name, version.number
    response.model_spec.signature_name = asked.signature_name or inference.DEFAULT_SIGNATURE


def _examples(given: Any) -> np.ndarray:
    """Return the serialized tf.Examples of an Input, each merged with the context: messages are merged by their bytes."""
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    else:
        context, examples = b"", given.example_list.examples
    return objects([context + example.SerializeToString() for example in examples])


def _fill(proto: TensorProto, array: np.ndarray) -> None:
    """Write an array as Tensor::AsProtoField does: its values in the field of its dtype."""
    dtype = dtype_of(array)
    proto.dtype = DTYPE_NAMES[dtype]
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype in _BY_BYTES:
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        proto.MergeFromString(bytes([_BY_BYTES[dtype] << 3 | 2]) + _varint(len(content)) + content)
    elif dtype == "string":
        proto.string_val.extend(array.ravel().tolist())
    elif dtype in ("float16", "bfloat16"):
        proto.half_val.extend(array.view(np.uint16).ravel().tolist())
    elif dtype in _BY_VALUES:
        getattr(proto, _BY_VALUES[dtype]).extend(array.ravel().tolist())
    else:
        proto.tensor_content = array.tobytes()


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _fill_classes(result: Any, classes: inference.Classes) -> None:
    for row in classes:
        entry = result.classifications.add()
        for label, score in row:
            entry.classes.add(label=label.decode("utf-8", "replace"), score=score)


def _fill_values(result: Any, values: list[float]) -> None:
    for value in values:
        result.regressions.add(value=value)


def services(models: Models, timeout: float) -> Mapping[str, Callable[[grpc.Server], None]]:
    """Return the services, full name → what adds it to a server."""
    prediction, model = PredictionService(models, timeout), ModelService(models)
    return {
        "tensorflow.serving.PredictionService": lambda server: (
            prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
        ),
        "tensorflow.serving.ModelService": lambda server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            model, server
        ),
    }
