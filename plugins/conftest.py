"""What exportkit's own runs of its plugins' tests share; the packages of the plugins are without it."""

import socket
import subprocess
import sys

import pytest

from exportkit.cli import choices
from exportkit.processes import spare

CONVERTERS = "exportkit-formats"
COMMANDS = "test_formats_readme.py"  # whose commands start processes of their own
SERVER = """
import importlib.util, socket, sys
from exportkit.processes import spare, tensorflow
tensorflow.preload_tensorflow()
for name in ("tf2onnx", "onnxruntime", "ai_edge_litert.interpreter", "exportkit_formats"):
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
spare._serve_requests(socket.socket(fileno=int(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def _all_plugins():
    """Tests of exportkit itself, which a process may have run before, have loaded no other plugins."""
    choices.plugins.cache_clear()


@pytest.fixture(scope="session")
def _warm():
    """The socket of a process that has imported TensorFlow and the converters: a fork of it saves seconds."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, spare._KIND)
    with theirs:
        command = [sys.executable, "-c", SERVER, str(theirs.fileno())]
        server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with server, ours:
        yield ours
        server.kill()


@pytest.fixture(scope="module", autouse=True)
def _converters(request):
    """Fork the workers of tests of converters from that process."""
    if CONVERTERS not in request.path.parts or request.path.name == COMMANDS:
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spare, "_spare", request.getfixturevalue("_warm"))
        patched.setattr(spare, "_settings", spare._read_once())  # it was started with what this process has
        yield
