"""Connections to a server: by gRPC, from a coroutine, and by REST."""

import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

import grpc  # type: ignore[import-untyped,unused-ignore]

from exportkit.clients.runtime.calls import grpc_call
from exportkit.clients.runtime.messages import MESSAGES, ServerError
from exportkit.clients.runtime.metadata import Metadata, compare, grpc_metadata, rest_metadata
from exportkit.clients.runtime.rest import read_rest, rest_body
from exportkit.clients.runtime.tensors import Answer, Signature


@dataclass(frozen=True)
class Tls:
    """Files in PEM format: the authorities to trust (default: the system's), and the client's key and certificate."""

    authorities: Path | None = None
    key: Path | None = None
    certificate: Path | None = None

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        paths = (self.authorities, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(None if path is None else Path(path).read_bytes() for path in paths))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authorities)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(kw_only=True, eq=False)
class Server:
    """A model on a server.

    Args:
        target: the address, as ``localhost:8500``; of REST a URL, as ``http://localhost:8501``.
        model: its name there.
        version: the version to ask; by default the server chooses, as its newest.
        label: the label of the version to ask, in place of its number.
        timeout: seconds that a call may take, with its retries; by REST those of each wait for the server.
        tls: ask by TLS; ``Tls()`` trusts the system's authorities.
        message_bytes: the largest message that is sent or received.
        attempts: how often a request is sent, at most 5, while the server is UNAVAILABLE; no other error is tried again.
    """

    MODEL: ClassVar[str] = ""
    SIGNATURES: ClassVar[Mapping[str, Signature]] = {}

    target: str = field(kw_only=False)
    model: str = ""
    version: int | None = None
    label: str | None = None
    timeout: float = 10.0
    tls: Tls | None = None
    message_bytes: int = 64 << 20
    attempts: int = 4

    def __post_init__(self) -> None:
        self.model = self.model or self.MODEL
        if self.version is not None and self.label is not None:
            raise ValueError("give a version or a label, not both")

    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": self.model}
        if self.version is not None:
            spec["version"] = MESSAGES["Int64Value"](value=self.version)
        return spec if self.label is None else {**spec, "version_label": self.label}

    def _metadata_request(self) -> bytes:
        spec = MESSAGES["ModelSpec"](**self._spec())
        return bytes(MESSAGES["MetadataRequest"](model_spec=spec, metadata_field=["signature_def"]).SerializeToString())


class SyncServer(Server):
    """A model on a server; a context manager, and safe to share between threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, if one is kept."""

    def ask(self, key: str, inputs: Mapping[str, Any], timeout: float | None = None) -> Answer:
        """Send a request to the signature `key`, and return the answer."""
        raise NotImplementedError

    def check(self) -> None:
        """Compare the signatures with the server's; raise ContractChanged where they differ."""
        compare(self.SIGNATURES, self.metadata().signatures)

    def metadata(self) -> Metadata:
        """Return what the server states of the model."""
        raise NotImplementedError


class GrpcServer(SyncServer):
    """A model on a server, asked by gRPC."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._channel = _channel(grpc, self)

    def close(self) -> None:
        self._channel.close()

    def ask(self, key: str, inputs: Mapping[str, Any], timeout: float | None = None) -> Answer:
        call = grpc_call(key, self.SIGNATURES[key], inputs, self._spec())
        return call.read(self._unary(call.method, call.request, timeout))

    def metadata(self) -> Metadata:
        return grpc_metadata(self._unary("GetModelMetadata", self._metadata_request(), None))

    def _unary(self, method: str, request: bytes, timeout: float | None) -> bytes:
        try:
            response = self._channel.unary_unary(f"{_SERVICE}/{method}")(request, timeout=_seconds(self, timeout))
        except grpc.RpcError as error:
            raise ServerError(error.code().name, error.details() or "") from None
        return bytes(response)


class AsyncGrpcServer(Server):
    """A model on a server, asked by gRPC from a coroutine; an asynchronous context manager, of one event loop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._channel = _channel(grpc.aio, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def ask(self, key: str, inputs: Mapping[str, Any], timeout: float | None = None) -> Answer:
        """Send a request to the signature `key`, and return the answer."""
        call = grpc_call(key, self.SIGNATURES[key], inputs, self._spec())
        return call.read(await self._unary(call.method, call.request, timeout))

    async def check(self) -> None:
        """Compare the signatures with the server's; raise ContractChanged where they differ."""
        compare(self.SIGNATURES, (await self.metadata()).signatures)

    async def metadata(self) -> Metadata:
        """Return what the server states of the model."""
        return grpc_metadata(await self._unary("GetModelMetadata", self._metadata_request(), None))

    async def _unary(self, method: str, request: bytes, timeout: float | None) -> bytes:
        try:
            response = await self._channel.unary_unary(f"{_SERVICE}/{method}")(request, timeout=_seconds(self, timeout))
        except grpc.aio.AioRpcError as error:
            raise ServerError(error.code().name, error.details() or "") from None
        return bytes(response)


_SERVICE = "/tensorflow.serving.PredictionService"


def _seconds(server: Server, timeout: float | None) -> float:
    return server.timeout if timeout is None else timeout


def _channel(module: Any, server: Server) -> Any:
    """Return a channel of `grpc` or `grpc.aio`; gRPC itself tries a call again where the server is UNAVAILABLE."""
    policy = {
        "maxAttempts": server.attempts,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    methods = [{"name": [{}], **({"retryPolicy": policy} if server.attempts > 1 else {})}]
    options = [
        ("grpc.service_config", json.dumps({"methodConfig": methods})),
        ("grpc.max_send_message_length", server.message_bytes),
        ("grpc.max_receive_message_length", server.message_bytes),
        ("grpc.per_rpc_retry_buffer_size", server.message_bytes),
    ]
    if server.tls is None:
        return module.insecure_channel(server.target, options)
    return module.secure_channel(server.target, server.tls.grpc_credentials(), options)


class RestServer(SyncServer):
    """A model on a server, asked by REST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        place = "" if self.version is None else f"/versions/{self.version}"
        place = place if self.label is None else f"/labels/{quote(self.label, safe='')}"
        base = self.target if "://" in self.target else f"{'http' if self.tls is None else 'https'}://{self.target}"
        if not base.startswith(("http://", "https://")):
            raise ValueError(f"{self.target} is no address of HTTP")
        self._url = f"{base.rstrip('/')}/v1/models/{quote(self.model, safe='')}{place}"
        self._context = None if self.tls is None else self.tls.context()

    def ask(self, key: str, inputs: Mapping[str, Any], timeout: float | None = None) -> Answer:
        signature = self.SIGNATURES[key]
        body = json.dumps(rest_body(key, signature, inputs)).encode()
        if len(body) > self.message_bytes:
            raise ServerError("RESOURCE_EXHAUSTED", f"the request has {len(body)} bytes, more than message_bytes")
        return read_rest(signature, self._open(f":{signature.method}", body, timeout))

    def metadata(self) -> Metadata:
        return rest_metadata(self._open("/metadata", None, None))

    def _open(self, suffix: str, body: bytes | None, timeout: float | None) -> Any:
        end = time.monotonic() + _seconds(self, timeout)
        for attempt in range(1, self.attempts + 1):
            try:
                return self._open_once(suffix, body, max(end - time.monotonic(), 0.001))
            except ServerError as error:
                pause = random.uniform(0.5, 1) * min(0.1 * 2**attempt, 1)
                if error.code not in ("503", "UNAVAILABLE") or attempt == self.attempts or time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _open_once(self, suffix: str, body: bytes | None, timeout: float) -> Any:
        request = urllib.request.Request(self._url + suffix, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._context) as response:
                data = response.read(self.message_bytes + 1)
        except urllib.error.HTTPError as error:
            raise ServerError(str(error.code), _error_text(error.read(self.message_bytes))) from None
        except TimeoutError:
            raise ServerError("DEADLINE_EXCEEDED", f"no answer within {timeout:.1f} s") from None
        except OSError as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            raise ServerError("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(getattr(error, "reason", error))) from None
        except HTTPException:
            raise ServerError("UNAVAILABLE", "what answers is no HTTP server") from None
        if len(data) > self.message_bytes:
            raise ServerError("RESOURCE_EXHAUSTED", f"the answer has more than {self.message_bytes} bytes (message_bytes)")
        try:
            return json.loads(data)
        except ValueError:
            raise ServerError("INTERNAL", "the answer is no JSON") from None


def _error_text(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace")[:300]
