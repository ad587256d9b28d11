"""The signatures that a server states in its metadata, compared with those of a client."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exportkit.clients.runtime.messages import ContractChanged, ServerError, parse
from exportkit.clients.runtime.tensors import NAMES, Signature, Tensor, shape_text


@dataclass(frozen=True)
class Metadata:
    """What a server states of the model that it serves."""

    version: int | None
    signatures: Mapping[str, Signature]


def grpc_metadata(data: bytes) -> Metadata:
    """Read a serialized MetadataResponse."""
    response = parse("MetadataResponse", data)
    packed = {entry.key: entry.value.value for entry in response.metadata}
    found = parse("SignatureDefMap", packed.get("signature_def", b""))
    signatures = {
        entry.key: Signature(
            entry.value.method_name.removeprefix("tensorflow/serving/"),
            {one.key: _info(one.value) for one in entry.value.inputs},
            {one.key: _info(one.value) for one in entry.value.outputs},
        )
        for entry in found.signature_def
    }
    return Metadata(response.model_spec.version.value if response.model_spec.HasField("version") else None, signatures)


def _info(info: Any) -> Tensor:
    sizes = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return Tensor(NAMES.get(info.dtype, str(info.dtype)), None if info.tensor_shape.unknown_rank else sizes)


def rest_metadata(content: Mapping[str, Any]) -> Metadata:
    """Read the JSON of a model's metadata."""
    try:
        stated = content["metadata"]["signature_def"]["signature_def"]
        signatures = {
            key: Signature(
                one["method_name"].removeprefix("tensorflow/serving/"),
                {alias: _info_json(info) for alias, info in one.get("inputs", {}).items()},
                {alias: _info_json(info) for alias, info in one.get("outputs", {}).items()},
            )
            for key, one in stated.items()
        }
        version = content.get("model_spec", {}).get("version")
        return Metadata(None if version is None else int(version), signatures)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ServerError("INTERNAL", "the server's metadata cannot be read") from None


def _info_json(info: Mapping[str, Any]) -> Tensor:
    shape = info.get("tensor_shape", {})
    number = info["dtype"].removeprefix("DT_").lower()
    name = {"float": "float32", "double": "float64", "half": "float16"}.get(number, number)
    sizes = tuple(None if int(dim["size"]) < 0 else int(dim["size"]) for dim in shape.get("dim", ()))
    return Tensor(name, None if shape.get("unknown_rank") else sizes)


def compare(ours: Mapping[str, Signature], theirs: Mapping[str, Signature]) -> None:
    if changed := list(differences(ours, theirs)):
        raise ContractChanged(changed)


def differences(ours: Mapping[str, Signature], theirs: Mapping[str, Signature]) -> Iterator[str]:
    """Yield what changed for this client; signatures and outputs that are new do not concern it."""
    for key, signature in ours.items():
        if key not in theirs:
            yield f"the signature {key} is gone"
            continue
        other = theirs[key]
        if other.method != signature.method:
            yield f"{key} is of the method {other.method}, not {signature.method}"
        for alias in sorted(other.inputs.keys() - signature.inputs.keys()):
            yield f"{key} has a new input {alias}"
        sides = (("input", signature.inputs, other.inputs), ("output", signature.outputs, other.outputs))
        for side, mine, found in sides:
            for alias, tensor in mine.items():
                if alias not in found:
                    yield f"the {side} {alias} of {key} is gone"
                elif (found[alias].dtype, found[alias].shape) != (tensor.dtype, tensor.shape):
                    now, then = (f"{one.dtype} {shape_text(one.shape)}" for one in (found[alias], tensor))
                    yield f"the {side} {alias} of {key} is {now}, not {then}"
