"""The REST request that tries a signature: a ``curl`` line that works as it stands, with zeros for values."""

import json
import shlex
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from exportkit.report import SignatureReport, TensorReport
from exportkit.spec import Feature, ParseExample

SERVER = "http://localhost:8501/v1/models"
MOST = 32  # numbers that are written out; more are made by a line of Python


def request(model: str, signature: SignatureReport, bindings: Mapping[str, Any]) -> str:
    """The shell line that sends `signature` of `model` one request.

    Args:
        model: the model's name in the server.
        signature: its tensors give keys, shapes and dtypes; unknown sizes become 1.
        bindings: of the plan; a parse_example among them gives the features of examples.
    """
    url = shlex.quote(f"{SERVER}/{model}:{signature.method}")
    body = _Body()
    content = _rows(signature, body) if signature.method == "predict" else _examples(signature, bindings, body)
    whole = {"signature_name": signature.key, **content}
    if not body.large:
        return f"curl -d {shlex.quote(json.dumps(whole))} {url}"
    return f"python3 -c {shlex.quote(body.program(whole))} | curl -d @- {url}"


class _Body:
    """Makes placeholder values; those that are too long to be read stand for themselves until `program` writes them."""

    def __init__(self) -> None:
        self.large: dict[str, str] = {}

    def value(self, dtype: str, shape: Sequence[int | None], alias: str = "") -> Any:
        sizes = [size or 1 for size in shape]
        zero = _zero(dtype, alias)
        if prod(sizes) <= MOST:
            return _filled(sizes, zero)
        mark = f"<{len(self.large)}>"
        self.large[mark] = f"x({zero!r}, {', '.join(map(str, sizes))})"
        return mark

    def program(self, whole: Mapping[str, Any]) -> str:
        """Python that prints `whole` as JSON, which is Python too, but for its booleans."""
        text = json.dumps(whole)
        names = "false = False; " if "false" in text else ""
        for mark, call in self.large.items():
            text = text.replace(json.dumps(mark), call)
        return f"import json; {names}x = lambda v, *s: [x(v, *s[1:])] * s[0] if s else v; print(json.dumps({text}))"


def _zero(dtype: str, alias: str) -> Any:
    if dtype == "string":
        return {"b64": ""} if alias.endswith("_bytes") else ""
    if dtype == "bool":
        return False
    return 0.0 if "float" in dtype else 0


def _filled(sizes: Sequence[int], value: Any) -> Any:
    return [_filled(sizes[1:], value) for _ in range(sizes[0])] if sizes else value


def _rows(signature: SignatureReport, body: _Body) -> dict[str, Any]:
    """Row by row where every tensor has a batch dimension, else whole tensors by their aliases."""
    if _batched(signature):
        return {"instances": [{t.alias: body.value(t.dtype, t.shape[1:], t.alias) for t in signature.inputs}]}
    return {"inputs": {t.alias: body.value(t.dtype, t.shape or (), t.alias) for t in signature.inputs}}


def _batched(signature: SignatureReport) -> bool:
    """Whether REST can split the tensors into instances, of which one is enough."""
    return all(t.shape and t.shape[0] in (None, 1) for t in [*signature.inputs, *signature.outputs])


def _examples(signature: SignatureReport, bindings: Mapping[str, Any], body: _Body) -> dict[str, Any]:
    features = _features(signature.inputs[0], bindings)
    return {"examples": [{key: body.value(f.dtype, _flat(f)) for key, f in features.items()}]}


def _features(tensor: TensorReport, bindings: Mapping[str, Any]) -> Mapping[str, Feature]:
    """The features that the examples need; of a graph that parses them itself they are not known."""
    binding = bindings.get(tensor.binding)
    return binding.parse_example if isinstance(binding, ParseExample) else {"FEATURE": Feature(dtype="float32")}


def _flat(feature: Feature) -> list[int]:
    """JSON examples know lists only: what has more than one dimension goes flat."""
    return [prod(feature.shape)] if feature.shape else []
