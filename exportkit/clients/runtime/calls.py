"""Calls by gRPC."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exportkit.clients.runtime.answers import checked, classified, regressed, serialized_examples
from exportkit.clients.runtime.messages import MESSAGES, parse
from exportkit.clients.runtime.tensors import Answer, Signature, as_array, field_pieces, tensor_pieces, to_array


@dataclass(frozen=True)
class Call:
    """A call by gRPC: its method, the serialized request, and the reader of the serialized response."""

    method: str
    request: bytes
    read: Callable[[bytes], Answer]


def grpc_call(key: str, signature: Signature, inputs: Mapping[str, Any], spec: Mapping[str, Any]) -> Call:
    """Return the call that asks the signature `key` of the model that `spec` names."""
    chosen = MESSAGES["ModelSpec"](signature_name=key, **spec)
    if signature.method == "predict":
        pieces = field_pieces(1, [chosen.SerializeToString()])
        for alias, tensor in signature.inputs.items():
            value = tensor_pieces(alias, as_array(alias, inputs[alias], tensor), tensor.dtype)
            pieces += field_pieces(2, [*field_pieces(1, [alias.encode()]), *field_pieces(2, value)])
        return Call("Predict", b"".join(pieces), lambda data: _read_predict(signature, parse("PredictResponse", data)))
    request = MESSAGES["ExamplesRequest"](model_spec=chosen)
    request.input.example_list.examples.extend(serialized_examples(signature, inputs))
    data = request.SerializeToString()
    if signature.method == "classify":
        return Call("Classify", data, lambda data: _read_classify(signature, parse("ClassificationResponse", data)))
    return Call("Regress", data, lambda data: _read_regress(signature, parse("RegressionResponse", data)))


def _read_predict(signature: Signature, response: Any) -> Answer:
    outputs = {entry.key: to_array(entry.key, entry.value) for entry in response.outputs}
    return checked(signature, outputs, _version(response))


def _read_classify(signature: Signature, response: Any) -> Answer:
    rows = [one.classes for one in response.result.classifications]
    return classified(signature, [[(c.label, c.score) for c in row] for row in rows], _version(response))


def _read_regress(signature: Signature, response: Any) -> Answer:
    return regressed(signature, [one.value for one in response.result.regressions], _version(response))


def _version(response: Any) -> int | None:
    spec = response.model_spec
    return spec.version.value if spec.HasField("version") else None
