"""Conversions in forks of one process that has imported TensorFlow and the converters: seconds less for each."""

import socket
import subprocess
import sys

import pytest
from exportkit.processes import spare

SERVER = """
import importlib.util, socket, sys
from exportkit.processes import spare, tensorflow
tensorflow.preload_tensorflow()
for name in ("tf2onnx", "onnxruntime", "ai_edge_litert.interpreter", "exportkit_formats"):
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
spare._serve_requests(socket.socket(fileno=int(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def _warm():
    """The socket of that process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, spare._KIND)
    with theirs:
        command = [sys.executable, "-c", SERVER, str(theirs.fileno())]
        server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with server, ours:
        yield ours
        server.kill()


@pytest.fixture(scope="module", autouse=True)
def _converters(_warm):
    """Fork the workers of a module's tests from that process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spare, "_spare", _warm)
        yield
