"""Both interfaces of a server, from the first port to the last process."""

import errno
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exportkit.errors import EnvironmentFailed, Problem
from exportkit.server.asgi import Application, Limits, Page
from exportkit.server.grpc_services import services
from exportkit.server.model_config import Model
from exportkit.server.models import Models
from exportkit.server.rest import Rest

BACKLOG = 512
KEEP_ALIVE_SECONDS = 600  # that a connection may be idle; clients send their next request over it
STOP_SECONDS = 3.0  # that requests under way have when the server stops


@dataclass(frozen=True)
class Address:
    """Where the server listens; port 0 is a free one."""

    host: str = "127.0.0.1"
    rest: int = 8501
    grpc: int = 8500


class Server:
    """A server of models: a context manager that ends its threads and processes.

    Args:
        models: what it serves; they are loaded by `start`.
        address: where it listens.
        limits: of a request.
        page: answers a GET by its path beside the REST API.

    Attributes:
        rest_port: of the REST API, once it is open.
        grpc_port: of gRPC, once it is open.
    """

    def __init__(self, models: Models, address: Address, limits: Limits, page: Page = lambda _: None):
        self._models, self._address, self._limits, self._page = models, address, limits, page
        self._open = ExitStack()
        self._health = health.HealthServicer()
        self._socket: socket.socket | None = None
        self.rest_port = self.grpc_port = 0

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start(self, models: Sequence[Model]) -> None:
        """Take the ports, load the models, and answer.

        Raises:
            ExportKitError: a port is taken; a model does not load.
        """
        self._socket = self._open.enter_context(closing(self._listening()))
        self.rest_port = self._socket.getsockname()[1]
        server = self._grpc_server()
        self._open.callback(self._models.stop, STOP_SECONDS)
        self._models.start(models)
        self._start_grpc(server)
        self._start_rest(self._socket)

    def _listening(self) -> socket.socket:
        host, port = self._address.host, self._address.rest
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            opened = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (while")[0].lower()
            if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:  # negative numbers are getaddrinfo's
                raise _not_here(host, why) from None
            raise _taken(host, port, "--rest-port", why) from None
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not, for a socket that it did not open
        return opened

    def _grpc_server(self) -> grpc.Server:
        host, port = self._address.host, self._address.grpc
        threads = ThreadPoolExecutor(self._limits.requests, thread_name_prefix="grpc")
        options = [
            ("grpc.max_receive_message_length", self._limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(threads, options=options, maximum_concurrent_rpcs=self._limits.requests)
        try:
            self.grpc_port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise _taken(host, port, "--grpc-port", "it cannot be opened, it may be in use") from None
        return server

    def _start_grpc(self, server: grpc.Server) -> None:
        added = services(self._models, self._limits.seconds)
        for add in added.values():
            add(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([*added, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        for name in ("", *added):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        server.start()
        self._open.callback(lambda: server.stop(STOP_SECONDS).wait())
        self._open.callback(self._health.enter_graceful_shutdown)

    def _start_rest(self, opened: socket.socket) -> None:
        application: Any = Application(Rest(self._models, self._limits.seconds), self._limits, self._page)
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # a request that is no HTTP is its sender's mistake
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([opened],), name="http", daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(STOP_SECONDS + 2)

        self._open.callback(stop)

    def poll(self, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        """Look for new versions every `seconds`, until the server stops; `also` is called each time before."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(seconds):
                also()
                self._models.poll()

        thread = threading.Thread(target=look, name="poll", daemon=True)
        thread.start()
        self._open.callback(thread.join, STOP_SECONDS)
        self._open.callback(ended.set)


def _taken(host: str, port: int, option: str, why: str) -> EnvironmentFailed:
    return EnvironmentFailed(Problem(f"{host}:{port}", why, f"choose another port with {option}, 0 for a free one"))


def _not_here(host: str, why: str) -> EnvironmentFailed:
    do = "write an address of this machine, as 127.0.0.1; 0.0.0.0 stands for all"
    return EnvironmentFailed(Problem(f"--host {host}", why, do))
