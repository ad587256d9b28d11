"""The REST requests that try an export: ``curl`` lines that work as they stand.

Values are the first row of a signature's sample, or zeros where the config gives none. What JSON can hold is the rule of
TensorFlow Serving's json_tensor.cc and http_rest_api_util.cc.
"""

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from google.protobuf.message import DecodeError

from exportkit import samples
from exportkit.checkpoint.encoding import objects
from exportkit.contract import BoundTensor
from exportkit.errors import ConfigError
from exportkit.modelserver import PORT
from exportkit.operations.base import Feeder
from exportkit.operations.bindings import drawn_values
from exportkit.operations.decode_image import DecodeImage
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.report import SignatureReport, TensorReport
from exportkit.samples import png, tfexample
from exportkit.spec import ExportPlan

SERVER = f"http://localhost:{PORT + 1}/v1/models"
SHORT = 200  # characters of a body that is readable on a command line
MOST = 10_000_000  # elements of a body that is written out at all
_DTYPES = {"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "string"}


class _NoRequest(Exception):
    """Why a signature cannot be asked by REST, or not without more help."""


@dataclass(frozen=True)
class _Zeros:
    """A tensor of one value, not yet made."""

    value: Any
    sizes: tuple[int, ...]

    def made(self) -> Any:
        made = self.value
        for size in reversed(self.sizes):
            made = [made] * size
        return made

    def __str__(self) -> str:
        """Return the value as Python, which is short whatever its size."""
        text = repr(self.value) if isinstance(self.value, bool) else json.dumps(self.value)
        for size in reversed(self.sizes):
            text = f"[{text}]" if size == 1 else f"[{text}] * {size}"
        return text


def request(model: str, signature: SignatureReport, plan: ExportPlan) -> str:
    """Return a shell command that sends a sample to `signature` of `model`, or a comment on why there is none.

    A body that is too long to be read is written beside the report, where the plan has one; elsewhere Python makes zeros.
    """
    try:
        return _request(model, signature, plan)
    except _NoRequest as cause:
        return f"# {signature.key}: {cause}"


def zero_request(plan: ExportPlan, signature: SignatureReport) -> str:
    """Return a shell command that sends zeros to `signature` by REST, or a comment on why there is none.

    For pages that people read: it has no data of the config, names no file of this machine, and writes none.
    """
    return request(plan.name, signature, replace(plan, samples={}, report=None))


def _request(model: str, signature: SignatureReport, plan: ExportPlan) -> str:
    if ":" in model:
        raise _NoRequest("REST cannot name a model with a colon; ask by gRPC")
    _check(signature)
    url = shlex.quote(f"{SERVER}/{quote(model, safe='')}:{signature.method}")
    given = _given(signature, plan)
    body = _sampled(signature, plan, given) if given else _zeros(signature, plan)
    if _elements(body) <= MOST:
        text = json.dumps(body, default=_Zeros.made)
        if len(text) <= SHORT:
            return f"curl -d {shlex.quote(text)} {url}"
        if file := _written(text, signature.key, plan):
            return f"curl -d {shlex.quote(f'@{file}')} {url}"
    program = _python(_zeros(signature, plan) if given else body)
    if len(program) > 2 * SHORT:
        raise _NoRequest("its request is too long for a line; report.path=report.json has it written to a file as well")
    return f"python3 -c {shlex.quote(f'import json; print(json.dumps({program}))')} | curl -d @- {url}"


def _check(signature: SignatureReport) -> None:
    """Refuse what REST cannot send or answer."""
    for side, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for tensor in tensors:
            if tensor.dtype not in _DTYPES:
                raise _NoRequest(f"REST has no {tensor.dtype}, which its {side} '{tensor.alias}' is; ask by gRPC")
    if not signature.inputs:
        raise _NoRequest("REST cannot ask a signature without inputs; ask by gRPC")


def _written(text: str, key: str, plan: ExportPlan) -> Path | None:
    """Return the file beside the report that the body was written to, if it could be."""
    if plan.report is None:
        return None
    file = plan.report.with_name(f"{plan.report.stem}-request-{quote(key, safe='')}.json")
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError:
        return None
    return file


def _elements(body: Any) -> int:
    if isinstance(body, _Zeros):
        return prod(body.sizes)
    if isinstance(body, Mapping):
        return sum(map(_elements, body.values()))
    return sum(map(_elements, body)) if isinstance(body, list) else 1


def _python(body: Any) -> str:
    """Return `body` as a Python expression, in which JSON's texts and numbers are the same."""
    if isinstance(body, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)}: {_python(value)}' for key, value in body.items())}}}"
    if isinstance(body, list):
        return f"[{', '.join(map(_python, body))}]"
    return str(body) if isinstance(body, _Zeros) else json.dumps(body)


# From a sample


def _given(signature: SignatureReport, plan: ExportPlan) -> dict[str, np.ndarray]:
    """Return one row of the sample that the config gives; nothing where there is none, or it can no longer be read."""
    if signature.key not in plan.samples:
        return {}
    bound = {t.binding: BoundTensor(None, t.tensor, t.dtype, _shape(t)) for t in signature.inputs}
    try:
        batch = samples.load(plan, bound, [signature.key])[signature.key]
    except ConfigError as cause:
        raise _NoRequest(f"its sample cannot be sent: {cause}") from None
    row = batch.resized(1) if batch.rows else dict(batch.values)
    return {} if any(value.ndim and not len(value) for value in row.values()) else row


def _shape(tensor: TensorReport) -> tuple[int | None, ...] | None:
    return None if tensor.shape is None else tuple(tensor.shape)


def _sampled(signature: SignatureReport, plan: ExportPlan, given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if signature.method != "predict":
        try:
            return _body(signature, examples=[features_of(given["inputs"][0], _parsed(signature.inputs[0], plan))])
        except DecodeError:
            raise _NoRequest("the first row of its sample is not a tf.Example") from None
    values = {alias: json_value(value, alias) for alias, value in given.items()}
    if _by_rows(signature) and all(len(value) == 1 for value in values.values()):
        return _body(signature, instances=[{alias: value[0] for alias, value in values.items()}])
    return _body(signature, inputs=values)


def json_value(value: Any, alias: str = "") -> Any:
    """Return an array as JSON: only integers are written without a point, and bytes that are no text are base64."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [json_value(item, alias) for item in value]
    if isinstance(value, np.ndarray):
        value = value.item() if value.dtype == object else value[()]
    if isinstance(value, bytes):
        return _text(value, alias)
    return float(str(value)) if isinstance(value, np.floating) else value.item()


def _text(value: bytes, alias: str) -> Any:
    text = value.decode("utf-8", "replace")
    if alias.endswith("_bytes") or "\0" in text or text.encode() != value:
        return {"b64": base64.b64encode(value).decode()}
    return text


def features_of(serialized: bytes, features: Mapping[str, Feature]) -> dict[str, Any]:
    """Return the values of a tf.Example: JSON examples have lists only, so arrays of more dimensions are flattened."""
    found = {}
    for name, feature in sorted(tfexample.Example.FromString(serialized).features.feature.items()):
        kind = feature.WhichOneof("kind")
        dtype = {"float_list": np.float32, "int64_list": np.int64}.get(kind or "")
        held = getattr(feature, kind).value if kind else ()
        values = json_value(objects(list(held)) if dtype is None else np.array(held, dtype))
        found[name] = values[0] if name in features and not features[name].shape else values
    return found


# Of zeros


def _zeros(signature: SignatureReport, plan: ExportPlan) -> dict[str, Any]:
    if signature.method != "predict":
        features = _parsed(signature.inputs[0], plan)
        if not features:
            do = f"give samples.{signature.key}, and its first row is asked"
            raise _NoRequest(f"which features its graph parses is not known; {do}")
        return _body(signature, examples=[{name: _zero_feature(name, f, plan) for name, f in features.items()}])
    inputs, rows = signature.inputs, _by_rows(signature)
    values = {t.alias: _zero_input(t, _sizes(t)[1:] if rows else _sizes(t), plan) for t in inputs}
    return _body(signature, instances=[values]) if rows else _body(signature, inputs=values)


def _sizes(tensor: TensorReport) -> tuple[int, ...]:
    """Return the sizes of the value that was tried; where none was, unknown sizes are 1."""
    return tuple(1 if size is None else size for size in tensor.tried or tensor.shape or ())


def _zero_input(tensor: TensorReport, sizes: tuple[int, ...], plan: ExportPlan) -> _Zeros:
    """Return zeros for an input; where tf.Examples are parsed, an example of zeros, for an empty text is none."""
    if not (features := _parsed(tensor, plan)):
        return _zero(tensor.dtype, sizes, tensor.alias, _blank_text(tensor, plan))
    if sum(prod(feature.shape) for feature in features.values()) > MOST:
        raise _NoRequest("its tf.Examples are too large to be written out")
    columns = {name: _column(name, feature, plan) for name, feature in features.items()}
    return _Zeros(_text(tfexample.encode(columns)[0], "_bytes"), sizes)


def _blank_text(tensor: TensorReport, plan: ExportPlan) -> bytes:
    """Return a text that an input takes: the smallest image, what a plugin's feeder draws, or an empty one."""
    binding = plan.bindings.get(tensor.binding)
    if isinstance(binding, DecodeImage):
        return png.BLANK
    if not isinstance(binding, Feeder) or tensor.dtype != "string":
        return b""
    drawn = drawn_values(tensor.binding, binding, 1, np.random.default_rng(0))
    return b"" if drawn is None else objects(list(drawn))[0]


def _column(name: str, feature: Feature, plan: ExportPlan) -> np.ndarray:
    if feature.dtype == "string":
        return objects([_blank(name, feature, plan)] * prod(feature.shape)).reshape(1, *feature.shape)
    return np.zeros((1, *feature.shape), feature.dtype)


def _zero_feature(name: str, feature: Feature, plan: ExportPlan) -> _Zeros:
    return _zero(feature.dtype, _flat(feature), text=_blank(name, feature, plan))


def _blank(name: str, feature: Feature, plan: ExportPlan) -> bytes:
    """Return an empty text, or the smallest image where the feature holds images."""
    return png.BLANK if isinstance(plan.bindings.get(feature.to or name), DecodeImage) else b""


def _zero(dtype: str, sizes: tuple[int, ...], alias: str = "", text: bytes = b"") -> _Zeros:
    value = {"string": _text(text, alias), "bool": False}.get(dtype, 0.0 if dtype.startswith("float") else 0)
    return _Zeros(value, sizes)


def _flat(feature: Feature) -> tuple[int, ...]:
    return (prod(feature.shape),) if feature.shape else ()


# Of either


def _parsed(tensor: TensorReport, plan: ExportPlan) -> Mapping[str, Feature]:
    """Return the features that a parse_example takes; none of a tensor, whose graph may parse them itself."""
    binding = plan.bindings.get(tensor.binding)
    return binding.parse_example if isinstance(binding, ParseExample) else {}


def _by_rows(signature: SignatureReport) -> bool:
    """Return whether REST can split the tensors into instances, of which one is enough."""
    if signature.batching:
        return signature.batching == "yes"
    return all(t.shape and t.shape[0] in (None, 1) for t in [*signature.inputs, *signature.outputs])


def _body(signature: SignatureReport, **content: Any) -> dict[str, Any]:
    return {"signature_name": signature.key, **content}
