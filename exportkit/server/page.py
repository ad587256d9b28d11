"""A page to try the served models in a browser: their signatures, and for each a request made of the recorded sample."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from exportkit.checkpoint.encoding import numpy_dtype
from exportkit.checkpoint.tensorproto import from_json
from exportkit.errors import StepFailed
from exportkit.protos import SignatureDef, TensorInfo, dtype_name
from exportkit.server.json_answer import DTYPES
from exportkit.server.models import Models
from exportkit.server.rest import HTML, Answer
from exportkit.server.servable import Servable
from exportkit.serving.rest_request import features_of, json_value
from exportkit.spec import METHODS
from exportkit.version.manifest import read_manifest

DATA = "/exportkit/models.json"
MOST = 2000  # elements of a sample that the page shows; zeros of the least shape stand for a larger one
_METHODS = {long: short for short, long in METHODS.items()}


class Page:
    """Answers a browser.

    Args:
        models: what is served.
    """

    def __init__(self, models: Models):
        self._models = models
        self._html = files("exportkit.server").joinpath("page.html").read_bytes()
        self._samples: dict[Servable, Mapping[str, Any]] = {}

    def __call__(self, path: str) -> Answer | None:
        """Return the page, or its data; None for any other path."""
        if path == "/":
            return Answer(200, self._html, f"{HTML}; charset=utf-8")
        return Answer(200, json.dumps(self._described()).encode()) if path == DATA else None

    def _described(self) -> list[dict[str, Any]]:
        listed = self._models.listed()
        known = {version for versions in listed.values() for version in versions.values()}
        self._samples = {version: self._samples.get(version) or _recorded(version) for version in known}
        return [
            {
                "name": name,
                "labels": dict(self._models.labels(name)),
                "versions": [
                    {"number": number, "signatures": self._signatures(version)} for number, version in sorted(versions.items())
                ],
            }
            for name, versions in listed.items()
        ]

    def _signatures(self, version: Servable) -> list[dict[str, Any]]:
        return [
            {
                "key": key,
                "method": _METHODS.get(definition.method_name, "predict"),
                "inputs": _tensors(definition.inputs),
                "outputs": _tensors(definition.outputs),
                "barred": _barred(definition),
                "recorded": key in self._samples[version],
                "body": json.dumps(_body(key, definition, self._samples[version].get(key))),
            }
            for key, definition in sorted(version.signatures.items())
            if definition.outputs and all(info.name for info in definition.inputs.values())
        ]


def _barred(definition: SignatureDef) -> str:
    """Return why REST cannot ask a signature; empty where it can."""
    dtypes = {dtype_name(info.dtype) for side in (definition.inputs, definition.outputs) for info in side.values()}
    if names := sorted(dtypes - DTYPES):
        return f"REST has no {', '.join(names)}: ask by gRPC."
    return "" if definition.inputs else "REST cannot ask a signature without inputs: ask by gRPC."


def _tensors(infos: Mapping[str, TensorInfo]) -> list[dict[str, Any]]:
    return [
        {
            "alias": alias,
            "dtype": dtype_name(info.dtype),
            "shape": None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim],
        }
        for alias, info in sorted(infos.items())
    ]


def _recorded(version: Servable) -> Mapping[str, Any]:
    """Return the samples of a version's manifest that are held in it; none where it has no manifest."""
    try:
        manifest = read_manifest(version.directory) or {}
    except StepFailed:
        return {}
    return {
        key: sample
        for key, sample in manifest.get("samples", {}).items()
        if all(_elements(value) <= MOST for value in sample["inputs"].values())
    }


def _elements(value: Mapping[str, Any]) -> int:
    return int(np.prod(value["shape"])) if "values" in value or "tensor" in value else MOST + 1


def _body(key: str, definition: SignatureDef, sample: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a REST request for a signature: its sample's first row, or zeros."""
    body: dict[str, Any] = {"signature_name": key}
    by_rows = sample is not None and sample.get("batching") == "yes"
    values = {alias: from_json(value) for alias, value in sample["inputs"].items()} if sample else _zeros(definition)
    rows = {alias: value[:1] if by_rows else value for alias, value in values.items() if value is not None}
    if _METHODS.get(definition.method_name, "predict") != "predict":
        try:
            return {**body, "examples": [features_of(text, {}) for text in (rows["inputs"] if sample else [b""])]}
        except (DecodeError, KeyError):
            return {**body, "examples": [{}]}
    listed = {alias: json_value(value, alias) for alias, value in rows.items()}
    if by_rows:
        return {**body, "instances": [{alias: value[0] for alias, value in listed.items()}]}
    return {**body, "inputs": listed}


def _zeros(definition: SignatureDef) -> dict[str, np.ndarray]:
    found = {}
    for alias, info in definition.inputs.items():
        shape = [max(1, dim.size) for dim in info.tensor_shape.dim]
        shape = shape if np.prod(shape, dtype=float) <= MOST else [1] * len(shape)
        dtype = dtype_name(info.dtype)
        found[alias] = np.full(shape, b"", object) if dtype == "string" else np.zeros(shape, numpy_dtype(dtype))
    return found
