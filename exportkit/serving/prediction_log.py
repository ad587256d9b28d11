"""PredictionLog, the format in which TensorFlow Serving logs and replays requests, without the package tensorflow-serving-api.

The descriptor holds only the fields that requests need, numbered as in ``tensorflow_serving/apis/*.proto``. TensorProtos and
Examples are declared as bytes, which have the same wire format.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from exportkit.checkpoint import tensorproto
from exportkit.checkpoint.encoding import objects

DEFAULT_SIGNATURE = "serving_default"

_MESSAGES = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "ExampleList": {"examples": (1, "bytes*")},
    "ExampleListWithContext": {"examples": (1, "bytes*"), "context": (2, "bytes")},
    "Input": {"example_list": (1, "ExampleList"), "example_list_with_context": (2, "ExampleListWithContext")},
    "Named": {"key": (1, "string"), "value": (2, "bytes")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "Named*"), "output_filter": (3, "string*")},
    "ExamplesRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "InferenceTask": {"model_spec": (1, "ModelSpec"), "method_name": (2, "string")},
    "MultiInferenceRequest": {"tasks": (1, "InferenceTask*"), "input": (2, "Input")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "ExamplesLog": {"request": (1, "ExamplesRequest")},
    "MultiInferenceLog": {"request": (1, "MultiInferenceRequest")},
    "PredictionLog": {
        "classify_log": (2, "ExamplesLog"),
        "regress_log": (3, "ExamplesLog"),
        "multi_inference_log": (4, "MultiInferenceLog"),
        "predict_log": (6, "PredictLog"),
    },
}


def _file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="exportkit/prediction_log.proto", package="exportkit", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, type_name) in fields.items():
            _set_type(message.field.add(name=field, number=number, json_name=field), type_name)
    return file


def _set_type(field: descriptor_pb2.FieldDescriptorProto, type_name: str) -> None:
    base = type_name.removesuffix("*")
    field.label = field.LABEL_REPEATED if type_name.endswith("*") else field.LABEL_OPTIONAL
    field.type = {"string": field.TYPE_STRING, "bytes": field.TYPE_BYTES}.get(base, field.TYPE_MESSAGE)
    if base in _MESSAGES:
        field.type_name = f".exportkit.{base}"


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"exportkit.{name}"))


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file_descriptor())
PredictionLog = _message("PredictionLog")


@dataclass(frozen=True)
class Logged:
    """A request in a log.

    Attributes:
        method: the API method of the request: ``predict``, ``classify`` or ``regress``.
        signature: the key of its signature.
        inputs: alias → value; for classify and regress ``inputs`` → serialized tf.Examples.
    """

    method: str
    signature: str
    inputs: Mapping[str, np.ndarray]


def encode(model: str, logged: Logged) -> bytes:
    """Serialize a PredictionLog of one request to any version of `model`; equal requests give equal bytes."""
    log = PredictionLog()
    request = getattr(log, f"{logged.method}_log").request
    request.model_spec.name, request.model_spec.signature_name = model, logged.signature
    if logged.method == "predict":
        for alias, value in sorted(logged.inputs.items()):
            request.inputs.add(key=alias, value=tensorproto.to_proto(np.asarray(value)))
    else:
        request.input.example_list.examples.extend(logged.inputs["inputs"])
    return log.SerializeToString(deterministic=True)


def decode(data: bytes) -> list[Logged]:
    """Return the requests in a serialized PredictionLog: one, or each task of a multi-inference request.

    Raises:
        ValueError: `data` is not a PredictionLog, or not of a type that a server accepts for warmup.
    """
    try:
        log = PredictionLog.FromString(data)
    except DecodeError:
        raise ValueError("is no PredictionLog") from None
    logs = [field.name for field, _ in log.ListFields()]
    if len(logs) != 1:
        raise ValueError("is no predict, classify, regress or multi-inference log")
    request = getattr(log, logs[0]).request
    return list(_READERS[logs[0]](request))


def _predict(request: Any) -> Iterator[Logged]:
    inputs = {named.key: _tensor(named) for named in request.inputs}
    yield Logged("predict", _signature(request.model_spec), inputs)


def _tensor(named: Any) -> np.ndarray:
    try:
        return tensorproto.from_proto(named.value)
    except ValueError as error:
        raise ValueError(f"{named.key} {error}") from None


def _signature(spec: Any) -> str:
    return spec.signature_name or DEFAULT_SIGNATURE


def _examples(request: Any, method: str) -> Iterator[Logged]:
    yield Logged(method, _signature(request.model_spec), {"inputs": _serialized(request.input)})


def _multi_inference(request: Any) -> Iterator[Logged]:
    for task in request.tasks:
        method = task.method_name.removeprefix("tensorflow/serving/")
        yield Logged(method, _signature(task.model_spec), {"inputs": _serialized(request.input)})


def _serialized(given: Any) -> np.ndarray:
    """Return the serialized examples of an Input, each merged with the context.

    Protobuf messages are merged by concatenating their bytes; fields of the second one win.
    """
    if given.example_list_with_context.examples:
        context = given.example_list_with_context.context
        examples = [context + example for example in given.example_list_with_context.examples]
    else:
        examples = list(given.example_list.examples)
    return objects(examples)


_READERS = {
    "predict_log": _predict,
    "classify_log": lambda request: _examples(request, "classify"),
    "regress_log": lambda request: _examples(request, "regress"),
    "multi_inference_log": _multi_inference,
}
