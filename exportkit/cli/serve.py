"""``exportkit serve``: TensorFlow Serving's REST and gRPC interfaces on this machine."""

import argparse
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from exportkit.cli import print_line
from exportkit.cli.allow import add_allow
from exportkit.cli.numbers import port, positive_integer, seconds
from exportkit.cli.tables import line
from exportkit.contract import Command
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem
from exportkit.modelserver import PORT

if TYPE_CHECKING:
    from exportkit.server.models import Models

NEEDED = ("grpc", "uvicorn", "h11", "grpc_health", "grpc_reflection", "tensorflow_serving")
NATURE = "For development, tests and demonstrations: no TLS, no batching, one machine. In production: tensorflow_model_server."


class ServeCommand(Command):
    """Serve models over TensorFlow Serving's REST and gRPC interfaces, for development, tests and demonstrations. New versions
    go live as they appear. Graphs run in processes of their own, after an audit.
    """

    name = "serve"
    help = "answer requests on this machine as TensorFlow Serving does"
    usage = "BASE_PATH… | models.config"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "paths",
            metavar="PATH",
            nargs="+",
            help="the directory of a model's versions, such as exports/mnist (several: one model each), or one models.config",
        )
        add("--rest-port", type=port, default=PORT + 1, metavar="PORT", help="of the REST API; 0: a free one (8501)")
        add("--grpc-port", type=port, default=PORT, metavar="PORT", help="of gRPC; 0: a free one (8500)")
        add(
            "--host",
            default="127.0.0.1",
            help="where to listen; all but a loopback address let others in (127.0.0.1)",
        )
        add("--open", action="store_true", help="a page at / that shows the models and sends requests, in the browser")
        add("--poll", type=seconds, default=1.0, metavar="SECONDS", help="how often to look for new versions (1)")
        add("--poll-config", action="store_true", help="read models.config again when it changes")
        add("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="what a request may take (30)")
        add("--max-body", type=positive_integer, default=128, metavar="MIB", help="what a request may send (128)")
        add("--max-requests", type=positive_integer, default=128, metavar="N", help="how many are answered at a time (128)")
        add("--tags", default="serve", help="of the meta graphs to serve, separated by commas (serve)")
        add_allow(
            parser,
            "serve models though they can do that: host_files, network, python … (exportkit audit shows what they can do)",
        )

    def run(self, arguments: Sequence[str]) -> int:
        """Serve until Ctrl-C or SIGTERM."""
        options = self.parse(arguments)
        _check_installed()
        from exportkit import processes  # with NumPy, which help does not need
        from exportkit.core.capi import library

        with processes.terminable():
            library()
            processes.reserve()  # before any thread is started
            try:
                _serve(options)
            except KeyboardInterrupt:
                print_line("exportkit: stopped")
        return 0


def _serve(options: argparse.Namespace) -> None:
    from exportkit.processes import not_sandboxed
    from exportkit.server.asgi import Limits
    from exportkit.server.interfaces import Address, Server
    from exportkit.server.model_config import models_at
    from exportkit.server.models import Models
    from exportkit.server.page import Page

    served = models_at(options.paths)
    models = Models(options.tags.split(","), options.allow, print_line)
    limits = Limits(options.max_body << 20, options.timeout, options.max_requests)
    address = Address(options.host, options.rest_port, options.grpc_port)
    with Server(models, address, limits, Page(models) if options.open else lambda _: None) as server:
        server.start(served)
        server.poll(options.poll, _reloading(options, models))
        line(NATURE)
        if lacks := not_sandboxed():
            line(f"not sandboxed: {lacks}")
        for name, versions in models.listed().items():
            line(f"model {name}: version {', '.join(map(str, sorted(versions)))}")
        host = f"[{options.host}]" if ":" in options.host else options.host
        line(f"REST http://{host}:{server.rest_port}/v1/models")
        line(f"gRPC {host}:{server.grpc_port}")
        if options.open:
            _show_page(f"http://{host}:{server.rest_port}/")
        threading.Event().wait()


def _show_page(address: str) -> None:
    """Print the page's address, and open it where there is a graphical browser."""
    line(f"page {address}")
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def _reloading(options: argparse.Namespace, models: "Models") -> Callable[[], None]:
    """Return what reads models.config again if it has changed."""
    if not options.poll_config or os.path.isdir(options.paths[0]):
        return lambda: None
    from exportkit.server import model_config
    from exportkit.server.status import Status

    def stamp() -> tuple[int, ...]:
        found = os.stat(options.paths[0])
        return found.st_mtime_ns, found.st_ino, found.st_size

    known = [stamp()]

    def reload() -> None:
        try:
            if (now := stamp()) == known[0]:
                return
            known[0] = now
            models.reload(model_config.read(options.paths[0]))
        except (ExportKitError, Status, OSError) as error:
            print_line(f"{options.paths[0]}: {getattr(error, 'text', error)}; what is served stays")

    return reload


def _check_installed() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise EnvironmentFailed(Problem("exportkit serve", f"needs {', '.join(missing)}", "pip install 'exportkit[serve]'"))
