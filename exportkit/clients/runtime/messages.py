"""Messages of TensorFlow Serving in a private descriptor pool, and the errors of a client."""

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped,unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]


class ServerError(Exception):
    """The server refused a request, or could not be asked.

    Attributes:
        code: the gRPC status, as ``INVALID_ARGUMENT``; by REST the HTTP status, as ``400``, or ``UNAVAILABLE`` or
            ``DEADLINE_EXCEEDED`` where there is none.
        message: the server's text.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class ContractChanged(Exception):
    """The server's model has other signatures than the client was generated for; `differences` has a line for each."""

    def __init__(self, differences: Sequence[str]):
        super().__init__("; ".join(differences))
        self.differences = list(differences)


# Those fields of tensorflow_serving/apis/*.proto and tensorflow/core/*.proto that a client needs; * marks a repeated one. A map
# is a list of entries, and a text of any bytes is bytes: both have the same wire format.
_TABLE = """
Int64Value: value=1 int64
ModelSpec: name=1 string, version=2 Int64Value, signature_name=3 string, version_label=4 string
Dim: size=1 int64
TensorShape: dim=2 Dim*, unknown_rank=3 bool
TensorProto: dtype=1 int32, tensor_shape=2 TensorShape, tensor_content=4 bytes, float_val=5 float*, double_val=6 double*,
  int_val=7 int32*, string_val=8 bytes*, scomplex_val=9 float*, int64_val=10 int64*, bool_val=11 bool*, dcomplex_val=12 double*,
  half_val=13 int32*, uint32_val=16 uint32*, uint64_val=17 uint64*
TensorEntry: key=1 string, value=2 TensorProto
PredictRequest: model_spec=1 ModelSpec, inputs=2 TensorEntry*
PredictResponse: outputs=1 TensorEntry*, model_spec=2 ModelSpec
BytesList: value=1 bytes*
FloatList: value=1 float*
Int64List: value=1 int64*
Feature: bytes_list=1 BytesList, float_list=2 FloatList, int64_list=3 Int64List
FeatureEntry: key=1 string, value=2 Feature
Features: feature=1 FeatureEntry*
Example: features=1 Features
ExampleList: examples=1 bytes*
Input: example_list=1 ExampleList
ExamplesRequest: model_spec=1 ModelSpec, input=2 Input
Class: label=1 bytes, score=2 float
Classifications: classes=1 Class*
ClassificationResult: classifications=1 Classifications*
ClassificationResponse: result=1 ClassificationResult, model_spec=2 ModelSpec
Regression: value=1 float
RegressionResult: regressions=1 Regression*
RegressionResponse: result=1 RegressionResult, model_spec=2 ModelSpec
TensorInfo: dtype=2 int32, tensor_shape=3 TensorShape
InfoEntry: key=1 string, value=2 TensorInfo
SignatureDef: inputs=1 InfoEntry*, outputs=2 InfoEntry*, method_name=3 string
SignatureEntry: key=1 string, value=2 SignatureDef
SignatureDefMap: signature_def=1 SignatureEntry*
Any: type_url=1 string, value=2 bytes
AnyEntry: key=1 string, value=2 Any
MetadataRequest: model_spec=1 ModelSpec, metadata_field=2 string*
MetadataResponse: model_spec=1 ModelSpec, metadata=2 AnyEntry*
"""


def _load_messages() -> dict[str, Any]:
    """Return name → class of the messages, from a descriptor pool of their own: TensorFlow's may be in the same process."""
    file = descriptor_pb2.FileDescriptorProto(name="model_client.proto", package="model_client", syntax="proto3")
    lines = dict(line.split(": ") for line in _TABLE.replace("\n  ", " ").strip().splitlines())
    for name, fields in lines.items():
        message = file.message_type.add(name=name)
        for label, _, typed in (one.partition("=") for one in fields.split(", ")):
            number, base = typed.rstrip("*").split(" ")
            added = message.field.add(name=label, number=int(number), label=3 if typed.endswith("*") else 1)
            if base in lines:
                added.type, added.type_name = added.TYPE_MESSAGE, f".model_client.{base}"
            else:
                added.type = getattr(added, f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"model_client.{name}")) for name in lines}


MESSAGES = _load_messages()


def parse(name: str, data: bytes) -> Any:
    try:
        return MESSAGES[name].FromString(data)
    except DecodeError:
        raise ServerError("INTERNAL", f"the answer is no {name}") from None
