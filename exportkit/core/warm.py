"""TensorFlow's first session, made once for all processes that are forked afterwards: each saves 0.08 s of CPU time.

What takes that time are tables that TensorFlow fills when it first imports and runs a graph, a search through all kernels for
each op that it first meets (oneDNN's layout pass: 1 ms each), and the machine code of oneDNN's first matrix product. A fork has
all of that, but it has no threads: it would wait for ever for the pools that all sessions of a process share. So the session
here has pools of its own, which end with it. One thread is left, of the device on which TensorFlow evaluates constants; that
device computes in the thread that asks it, as its pool has no more than one.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.core.capi import library
from exportkit.core.graph import Graph, Session
from exportkit.processes.spare import CPU_ONLY, fork, single_threaded
from exportkit.processes.tensorflow import quiet

SECONDS = 10  # that a trial may take; it takes 0.1

_SHARED_POOL = "_ZN10tensorflow11LocalDevice22use_global_threadpool_E"  # common_runtime/local_device.h
_RANDOM = "_ZN3tsl6random5New64Ev"  # tsl/platform/random.h
_LEFT = "tf_graph_runner"  # the thread of common_runtime/single_threaded_cpu_device.cc
_DRAWS = 64  # numbers of the random stream that lie between two forks


def warm_up() -> bool:
    """Make a session in this process, which may still be forked afterwards; return False, and do nothing, where it may not be.

    The process has one thread, has loaded the C library, and has made no session.
    """
    if (
        sys.platform != "linux"
        or not single_threaded()
        or not all(hasattr(library(), name) for name in (_SHARED_POOL, _RANDOM))
    ):
        return False
    os.environ.update(CPU_ONLY)
    if not _returns_in_fork(_try):
        return False
    _first_session()
    os.register_at_fork(before=_draw)
    return True


def _try() -> None:
    """Raises RuntimeError: forks of a process that has made the first session are not as good as this one."""
    _first_session()
    names = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    own = Path("/proc/self/comm").read_text().strip()
    if names - {own, _LEFT} or not _returns_in_fork(lambda: _run(b"")):
        raise RuntimeError


def _returns_in_fork(function: Callable[[], Any]) -> bool:
    """Return whether a call returns in a fork of this process, in time."""
    if pid := fork():
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        function()
        code = 0
    finally:
        os._exit(code)


def _first_session() -> None:
    pool = ctypes.c_bool.in_dll(library(), _SHARED_POOL)
    before, pool.value = pool.value, False
    try:
        _run(_OWN_POOLS)
    finally:
        pool.value = before


def _run(config: bytes) -> None:
    """Run some usual ops in a session with `config`, a serialized ConfigProto, on values that take more than one thread."""
    with quiet(), Graph() as graph:
        graph.import_(_GRAPH)
        with Session(graph, config) as session:
            session.run({"x": np.ones((256, 256), np.float32)}, [*_UNARY, *_BINARY])


def _draw() -> None:
    """Take numbers from TensorFlow's random stream: no two forks may begin at the same one, or their random ops would agree."""
    draw = getattr(library(), _RANDOM)
    for _ in range(_DRAWS):
        draw()


def _field(number: int, content: bytes | int) -> bytes:
    """Return a field of a proto, without protobuf, which no worker imports: a number as a varint, bytes after their length."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return (bytes([value & 0x7F | 0x80]) + _varint(value >> 7)) if value > 0x7F else bytes([value])


def _node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    """Return a node of a GraphDef (node_def.proto); attributes are serialized AttrValues."""
    attrs = (_field(1, key.encode()) + _field(2, value) for key, value in attributes.items())
    fields = [
        (1, name.encode()),
        (2, op.encode()),
        *((3, tensor.encode()) for tensor in inputs),
        *((5, attr) for attr in attrs),
    ]
    return _field(1, b"".join(_field(*field) for field in fields))


_FLOAT = _field(6, 1)  # of an AttrValue: the dtype DT_FLOAT
_UNARY = ("Identity", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Neg", "Square", "Sqrt", "Rsqrt", "Softmax", "Shape")
_BINARY = ("MatMul", "Mul", "AddV2", "Sub", "RealDiv", "Maximum", "Minimum", "SquaredDifference", "GreaterEqual")
_GRAPH = b"".join(
    (
        _node("x", "Placeholder", dtype=_FLOAT),
        *(_node(op, op, "x", T=_FLOAT) for op in _UNARY),
        *(_node(op, op, "x", "x", T=_FLOAT) for op in _BINARY),
        _field(2, _field(1, _field(1, _field(1, b"function")))),  # an empty one: libraries of functions have their own tables
    )
)
_OWN_POOLS = _field(2, 1) + _field(5, 1) + _field(9, 1)  # a ConfigProto: one thread each, in pools of the session's own
