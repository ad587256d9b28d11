"""States and signatures of versions as TensorFlow Serving's messages, and these as JSON."""

from typing import Any

from google.protobuf.json_format import MessageToJson

from exportkit.core.capi import CODES
from exportkit.server.messages import get_model_metadata_pb2, get_model_status_pb2
from exportkit.server.models import Models, Spec
from exportkit.server.servable import Servable

SIGNATURES = "signature_def"  # the one field of metadata that there is


def status(models: Models, spec: Spec) -> Any:
    """Return the GetModelStatusResponse; a label does not count (get_model_status_impl.cc). Raises Status."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, held in models.states(spec.name, spec.version).items():
        entry = response.model_version_status.add(version=number, state=int(held.state))
        entry.status.error_code = CODES.index(held.error.code) if held.error else 0
        entry.status.error_message = held.error.text if held.error else ""
    return response


def metadata(version: Servable) -> tuple[Any, Any]:
    """Return the GetModelMetadataResponse of a version, and the SignatureDefMap in it."""
    response, signatures = get_model_metadata_pb2.GetModelMetadataResponse(), get_model_metadata_pb2.SignatureDefMap()
    for key, definition in version.signatures.items():
        signatures.signature_def[key].CopyFrom(definition)
    response.model_spec.name, response.model_spec.version.value = version.name, version.number
    response.metadata[SIGNATURES].Pack(signatures)
    return response, signatures


def json_of(message: Any) -> str:
    """Return a message as protobuf's C++ prints it with blanks, the names of the .proto files and all fields."""
    return MessageToJson(message, indent=1, preserving_proto_field_name=True, always_print_fields_with_no_presence=True) + "\n"
