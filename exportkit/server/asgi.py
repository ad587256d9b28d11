"""The HTTP side as an ASGI application: reads a request within its limits, and has a thread answer it."""

import asyncio
import threading
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from exportkit.server.json_text import error_body
from exportkit.server.rest import Answer, Rest

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Page = Callable[[str], Answer | None]

LINGER = 5.0  # seconds in which a client that was refused may finish sending


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        body: bytes of a request.
        seconds: for a request, from its body to its answer.
        requests: that are answered or wait at a time, over each of the two interfaces.
    """

    body: int = 128 << 20
    seconds: float = 30.0
    requests: int = 128


class Application:
    """An ASGI application.

    Args:
        rest: answers the requests.
        limits: of a request.
        page: answers a GET by its path, or does not; for what a model server does not have.
    """

    def __init__(self, rest: Rest, limits: Limits, page: Page = lambda _: None):
        self._rest, self._limits, self._page = rest, limits, page
        self._threads = ThreadPoolExecutor(limits.requests, thread_name_prefix="rest")
        self._slots = threading.BoundedSemaphore(limits.requests)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = _Body(receive)
        answer = await self._answer(scope, body)
        if answer is not None:  # else the client has gone
            headers = [(b"content-type", answer.type.encode()), (b"content-length", str(len(answer.body)).encode())]
            too_long = answer.status == 413
            if too_long:
                headers.append((b"connection", b"close"))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body, "more_body": too_long})
            if too_long:
                await body.discard()
                await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Mapping[str, Any], incoming: "_Body") -> Answer | None:
        if not self._slots.acquire(blocking=False):
            return _refused(429, f"More than {self._limits.requests} requests at a time")
        try:
            body = await self._body(scope, incoming)
            if not isinstance(body, bytes):
                return body
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answered, scope, body)
        finally:
            self._slots.release()

    async def _body(self, scope: Mapping[str, Any], incoming: "_Body") -> bytes | Answer | None:
        """Return a request's body; what refuses it where it is too long or late, and None where its client has gone."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._received(scope, incoming)
        except TimeoutError:
            return _refused(408, f"The body did not arrive within {self._limits.seconds:g} s")

    async def _received(self, scope: Mapping[str, Any], incoming: "_Body") -> bytes | Answer | None:
        too_long = _refused(413, f"The body has more than {self._limits.body} bytes")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > self._limits.body:
            return too_long
        parts, size = [], 0
        while not incoming.ended:
            if (part := await incoming.part()) is None:
                return None
            parts.append(part)
            size += len(part)
            if size > self._limits.body:
                return too_long
        return b"".join(parts)

    def _answered(self, scope: Mapping[str, Any], body: bytes) -> Answer:
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        if method == "OPTIONS":
            return Answer(200 if b"origin" in dict(scope["headers"]) else 400, b"")
        if b"gzip" in dict(scope["headers"]).get(b"content-encoding", b""):
            try:
                body = _unpacked(body, self._limits.body)
            except OverflowError:
                return _refused(413, f"The body has more than {self._limits.body} bytes when it is uncompressed")
            except (EOFError, zlib.error):
                return _refused(400, "Failed to uncompress the gzipped body")  # as evhttp_request.cc says it
        if query := scope["query_string"]:
            path += f"?{query.decode('latin-1')}"
        if method == "GET" and (page := self._page(path)):
            return page
        return self._rest.answer(method, path, body)


class _Body:
    """A request's body, as it arrives."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self.ended = False

    async def part(self) -> bytes | None:
        """Return the next part; None where the client has gone."""
        message = await self._receive()
        gone = message["type"] == "http.disconnect"
        self.ended = gone or not message.get("more_body")
        return None if gone else message.get("body", b"")

    async def discard(self) -> None:
        """Read what is left of a refused body: a connection that is closed earlier loses the answer (RFC 9112, 9.6)."""
        try:
            async with asyncio.timeout(LINGER):
                while not self.ended:
                    await self.part()
        except TimeoutError:
            pass


def _unpacked(body: bytes, most: int) -> bytes:
    """Return what a body in gzip's format holds, one member of it, as a model server reads it.

    Raises:
        OverflowError: it has more than `most` bytes.
        EOFError, zlib.error: it is damaged or no such body.
    """
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header and checksum
    found = reader.decompress(body, most + 1)
    if len(found) > most:
        raise OverflowError
    if body and not reader.eof:
        raise EOFError
    return found


def _refused(status: int, text: str) -> Answer:
    return Answer(status, error_body(text))
