"""The REST API: a method, a path and a body → a status and a body (http_rest_api_handler.cc, http_rest_api_util.cc)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from exportkit.server import describing, inference, json_answer, json_examples, json_request
from exportkit.server.json_text import error_body, parse, too_deep
from exportkit.server.models import Models, Spec
from exportkit.server.status import Status, invalid

JSON, HTML = "application/json", "text/html"
_SERVED = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)  # kHTTPRestApiHandlerPathRegex
_ASKED = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_LOOKED_UP = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", re.IGNORECASE | re.ASCII
)
_NOT_FOUND = b"<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD><BODY><H1>Not Found</H1></BODY></HTML>\n"


@dataclass(frozen=True)
class Answer:
    """A status, a body and its type."""

    status: int
    body: bytes
    type: str = JSON


class Rest:
    """Answers requests.

    Args:
        models: what is served.
        timeout: seconds that a request may take.
    """

    def __init__(self, models: Models, timeout: float):
        self._models, self._timeout = models, timeout
        self._methods: dict[str, Callable[[Spec, bytes], bytes]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Return the answer to a request; `path` is as it was sent, with its query."""
        if not _SERVED.fullmatch(path):
            return Answer(404, _NOT_FOUND, HTML)
        try:
            return Answer(200, self._dispatched(method, path, body))
        except _Unanswered as status:
            return Answer(status.http, b"")
        except Status as status:
            return Answer(status.http, error_body(status.text))
        except RecursionError:
            return Answer(400, error_body(too_deep().text))

    def _dispatched(self, method: str, path: str, body: bytes) -> bytes:
        if method == "POST" and (found := _ASKED.fullmatch(path)):
            return self._methods[found[4].lower()](_spec(found), body)
        if method == "GET" and (found := _LOOKED_UP.fullmatch(path)):
            spec = _spec(found)
            if not spec.name:
                raise invalid("Missing model name in request.")
            return self._metadata(spec) if found[4] else self._status(spec)
        raise invalid(f"Malformed request: {method} {path}")

    def _predict(self, spec: Spec, body: bytes) -> bytes:
        request = parse(body)
        name = json_request.signature_of(request)
        with self._models.use(spec) as version:
            key = name or inference.DEFAULT_SIGNATURE
            if key not in version.signatures:
                raise invalid(f'Serving signature name: "{key}" not found in signature def')
            inputs, by_rows = json_request.inputs_of(request, name, version.signatures[key].inputs)
            outputs = inference.predict(version, key, inputs, self._timeout)
        return json_answer.predictions(outputs, by_rows)

    def _classify(self, spec: Spec, body: bytes) -> bytes:
        return json_answer.classifications(self._inferred(inference.classify, spec, body))

    def _regress(self, spec: Spec, body: bytes) -> bytes:
        return json_answer.regressions(self._inferred(inference.regress, spec, body))

    def _inferred(self, infer: Callable[..., Any], spec: Spec, body: bytes) -> Any:
        request = parse(body)
        name, examples = json_request.signature_of(request), json_examples.examples_of(request)
        with self._models.use(spec) as version:
            return infer(version, name, examples, self._timeout)

    def _status(self, spec: Spec) -> bytes:
        return describing.json_of(describing.status(self._models, spec)).encode()

    def _metadata(self, spec: Spec) -> bytes:
        with self._models.use(spec) as version:
            response, signatures = describing.metadata(version)
        model_spec, signature_def = describing.json_of(response.model_spec), describing.json_of(signatures)
        return f'{{\n"model_spec":{model_spec},\n"metadata": {{"signature_def": {signature_def}}}\n}}\n'.encode()


class _Unanswered(Status):
    """A status without a body: errors of the path itself leave before the JSON is made."""


def _spec(found: re.Match[str]) -> Spec:
    name, version, label = found[1], found[2], found[3]
    if version and int(version) >= 1 << 63:
        raise _Unanswered("INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric.")
    decoded = [None if text is None else unquote_to_bytes(text).decode("utf-8", "replace") for text in (name, label)]
    return Spec(decoded[0] or "", int(version) if version else None, decoded[1])
