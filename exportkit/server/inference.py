"""Predict, classify, regress and multi-inference on a loaded version, with the checks and messages of a model server.

Sources: predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc and saved_model/util.cc.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exportkit.checkpoint import tensorproto
from exportkit.protos import SignatureDef, TensorProto, dtype_name
from exportkit.server.json_request import dtype_enum_name, shape_text, tensorflow_name
from exportkit.server.status import Status, invalid
from exportkit.serving.prediction_log import DEFAULT_SIGNATURE
from exportkit.spec import METHODS

Values = Mapping[str, np.ndarray]
Classes = list[list[tuple[bytes, float]]]  # for each example its labels with their scores


class Version(Protocol):
    """A loaded version: its signatures, and what runs them."""

    signatures: Mapping[str, SignatureDef]

    def run(self, feeds: Values, fetches: Sequence[str], timeout: float) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Task:
    """What is asked of one signature, on tf.Examples: method ``tensorflow/serving/classify`` or ``…/regress``."""

    method: str
    signature: str


def predict(
    version: Version, signature: str, inputs: Mapping[str, Any], timeout: float, only: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the outputs of a signature by alias.

    Args:
        signature: empty for the default one.
        inputs: alias → array or TensorProto.
        timeout: seconds that the run may take.
        only: the outputs to return; default: all.

    Raises:
        Status: the request does not fit, or TensorFlow's error.
    """
    key = signature or DEFAULT_SIGNATURE
    if key not in version.signatures:
        raise Status("FAILED_PRECONDITION", f'Serving signature key "{key}" not found.')
    definition = version.signatures[key]
    feeds = _feeds(definition, inputs)
    aliases = _outputs(definition, only)
    fetches = [definition.outputs[alias].name for alias in aliases]
    return dict(zip(aliases, _run(version, definition, feeds, fetches, timeout), strict=True))


def _feeds(definition: SignatureDef, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    wanted, given, defaults = set(definition.inputs), set(inputs), set(getattr(definition, "defaults", ()))
    if len(given) != len(wanted) and not (given < wanted and wanted - given <= defaults):
        what = f"input size does not match signature: {len(given)}!={len(wanted)} len({_set(given)}) != len({_set(wanted)}). "
        raise invalid(f"{what}Sent extra: {_set(given - wanted)}. Missing but required: {_set(wanted - given)}.")
    feeds = {}
    for alias in sorted(wanted):
        name = definition.inputs[alias].name
        if alias not in inputs and alias not in defaults:
            what = f"Signature input alias: {alias}(feed name: {name}) not found in request and no default value provided."
            where = (
                f"Inputs expected to be in the request {_set(given)}, or default input alias set: {','.join(sorted(defaults))}"
            )
            raise invalid(f"{what} {where}")
        feeds[name] = _array(alias, inputs[alias] if alias in inputs else definition.defaults[alias])
    return feeds


def _set(names: set[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _array(alias: str, value: Any) -> np.ndarray:
    if not isinstance(value, TensorProto):
        return value
    try:
        return tensorproto.from_message(value)
    except (ValueError, OverflowError):
        raise invalid(f"tensor parsing error: {alias}") from None


def _outputs(definition: SignatureDef, only: Sequence[str]) -> list[str]:
    for number, alias in enumerate(only):
        if alias not in definition.outputs:
            expected = _set(set(definition.outputs))
            what = f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {expected}."
            raise invalid(what)
        if alias in only[:number]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return list(only) or sorted(definition.outputs)


def _run(version: Version, definition: SignatureDef, feeds: Values, fetches: Sequence[str], timeout: float) -> list[np.ndarray]:
    """Run a signature; a feed of another dtype is refused as TensorFlow refuses it, whose arguments are sorted by name."""
    dtypes = {info.name: dtype_name(info.dtype) for info in definition.inputs.values()}
    for number, name in enumerate(sorted(feeds)):
        given = tensorproto.dtype_of(feeds[name])
        if given != dtypes[name]:
            what = f"Expects arg[{number}] to be {tensorflow_name(dtypes[name])} but {tensorflow_name(given)} is provided"
            raise invalid(what)
    return version.run(feeds, fetches, timeout)


def classify(version: Version, signature: str, examples: np.ndarray, timeout: float) -> Classes:
    """Return the labels and scores of each serialized tf.Example. Raises Status."""
    definition = _named(version, signature)
    feed, fetches = _classification(definition)
    return _classes(definition, len(examples), _computed(version, [feed], examples, fetches, timeout))


def regress(version: Version, signature: str, examples: np.ndarray, timeout: float) -> list[float]:
    """Return the value of each serialized tf.Example. Raises Status."""
    definition = _named(version, signature)
    feed, fetches = _regression(definition)
    return _regressions(definition, len(examples), _computed(version, [feed], examples, fetches, timeout))


def multi_inference(version: Version, tasks: Sequence[Task], examples: np.ndarray, timeout: float) -> list[Any]:
    """Return the results of several signatures on the same serialized tf.Examples, computed in one run. Raises Status."""
    asked: dict[str, tuple[SignatureDef, str]] = {}
    feeds: dict[str, None] = {}
    fetches: dict[str, None] = {}
    for task in tasks:
        key = task.signature or DEFAULT_SIGNATURE
        if key in asked:
            raise invalid(f"Duplicate evaluation of signature: {key}")
        if key not in version.signatures:
            raise invalid(f"Requested signature not found in model graph: {key}")
        if task.method not in _METHODS:
            raise Status("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method}")
        asked[key] = version.signatures[key], task.method
        feed, names = _METHODS[task.method][0](version.signatures[key])
        feeds[feed] = None
        fetches.update(dict.fromkeys(names))
    computed = _computed(version, list(feeds), examples, list(fetches), timeout)
    return [_METHODS[method][1](definition, len(examples), computed) for definition, method in asked.values()]


def _named(version: Version, signature: str) -> SignatureDef:
    key = signature or DEFAULT_SIGNATURE
    if key not in version.signatures:
        raise invalid(f"No signature was found with the name: {key}")
    return version.signatures[key]


def _computed(
    version: Version, feeds: Sequence[str], examples: np.ndarray, fetches: Sequence[str], timeout: float
) -> dict[str, np.ndarray]:
    """Return tensor name → value of one run on tf.Examples."""
    if not len(examples):
        raise invalid("Input is empty.")
    return dict(zip(fetches, version.run(dict.fromkeys(feeds, examples), fetches, timeout), strict=True))


def _classification(definition: SignatureDef) -> tuple[str, list[str]]:
    """Return the tensors that a classification feeds and fetches."""
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if "inputs" not in definition.inputs:
        raise Status("FAILED_PRECONDITION", f"No classification inputs found in SignatureDef: {definition}")
    fetches = [definition.outputs[alias].name for alias in ("classes", "scores") if alias in definition.outputs]
    if not fetches:
        what = 'Expected classification signature outputs to contain at least one of "classes" or "scores".'
        raise Status("FAILED_PRECONDITION", f"{what} Signature was: {definition}")
    return definition.inputs["inputs"].name, fetches


def _classes(definition: SignatureDef, examples: int, computed: Values) -> Classes:
    parts = {}
    for alias, dtype in (("classes", "string"), ("scores", "float32")):
        if alias in definition.outputs:
            value = parts[alias] = computed[definition.outputs[alias].name]
            if value.ndim != 2:
                what = f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(value.shape)}"
                raise invalid(what)
            if tensorproto.dtype_of(value) != dtype:
                held = dtype_enum_name(tensorproto.dtype_of(value))
                raise invalid(f"Expected {alias} Tensor of {dtype_enum_name(dtype)}. Got: {held}")
            if len(value) != examples:
                raise invalid(f"Expected {alias} output batch size of {examples}. Got: {len(value)}")
    widths = [value.shape[1] for value in parts.values()]
    if len(set(widths)) > 1:
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[1]}")
    labels = parts["classes"].tolist() if "classes" in parts else [[b""] * widths[0]] * examples
    scores = parts["scores"].tolist() if "scores" in parts else [[0.0] * widths[0]] * examples
    return [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]


def _regression(definition: SignatureDef) -> tuple[str, list[str]]:
    """Return the tensors that a regression feeds and fetches."""
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    for side, known in (("inputs", definition.inputs), ("outputs", definition.outputs)):
        if side not in known:
            raise Status("FAILED_PRECONDITION", f"No regression {side} found in SignatureDef: {definition}")
    return definition.inputs["inputs"].name, [definition.outputs["outputs"].name]


def _regressions(definition: SignatureDef, examples: int, computed: Values) -> list[float]:
    value = computed[definition.outputs["outputs"].name]
    if not (value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)):
        expected = "Expected output Tensor shape to be either [batch_size] or [batch_size, 1]"
        raise invalid(f"{expected} but got {shape_text(value.shape)}")
    if len(value) != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {len(value)}")
    if tensorproto.dtype_of(value) != "float32":
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {dtype_enum_name(tensorproto.dtype_of(value))}")
    return value.ravel().tolist()


_METHODS: Mapping[str, tuple[Callable[..., tuple[str, list[str]]], Callable[..., Any]]] = {
    METHODS["classify"]: (_classification, _classes),
    METHODS["regress"]: (_regression, _regressions),
}
