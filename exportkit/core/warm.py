"""TensorFlow's first session, made once for all processes that are forked afterwards: each saves 0.1 s of CPU time.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exportkit.core import usual_ops
from exportkit.core.capi import library
from exportkit.core.graph import Graph, Session
from exportkit.processes.spare import CPU_ONLY, fork, single_threaded
from exportkit.processes.tensorflow import quiet

SECONDS = 10  # that a trial may take; it takes 0.1

_SHARED_POOL = "_ZN10tensorflow11LocalDevice22use_global_threadpool_E"  # common_runtime/local_device.h
_RANDOM = "_ZN3tsl6random5New64Ev"  # tsl/platform/random.h
_LEFT = "tf_graph_runner"  # the thread of common_runtime/single_threaded_cpu_device.cc
_DRAWS = 64  # numbers of the random stream that lie between two forks
_OWN_POOLS = b"\x10\x01\x28\x01\x48\x01"  # a ConfigProto: one thread each, in pools of the session's own


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
    _first_session(usual_ops.SKIPPED)
    os.register_at_fork(before=_draw)
    return True


def _try() -> None:
    """Raises RuntimeError: forks of a process that has made the first session are not as good as this one."""
    _first_session([])
    names = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    own = Path("/proc/self/comm").read_text().strip()
    if names - {own, _LEFT} or not _returns_in_fork(lambda: _run(b"", [])):
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


def _first_session(targets: Sequence[str]) -> None:
    pool = ctypes.c_bool.in_dll(library(), _SHARED_POOL)
    before, pool.value = pool.value, False
    try:
        _run(_OWN_POOLS, targets)
    finally:
        pool.value = before


def _run(config: bytes, targets: Sequence[str]) -> None:
    """Run some usual ops, and the operations `targets`, in a session with `config`, a serialized ConfigProto."""
    with quiet(), Graph() as graph:
        graph.import_(usual_ops.GRAPH)
        with Session(graph, config) as session:
            session.run(usual_ops.FEEDS, usual_ops.FETCHES, targets)


def _draw() -> None:
    """Take numbers from TensorFlow's random stream: no two forks may begin at the same one, or their random ops would agree."""
    draw = getattr(library(), _RANDOM)
    for _ in range(_DRAWS):
        draw()
