"""Replies of a worker: the pipe that they come out of, and how they are read if it runs somebody else's graph.

Those are arrays and plain values, and nothing that could be called. A pickle may name any function; such a graph may find its
process's pipe under /proc and write to it, so what comes out of it is read as data.
"""

import io
import os
import pickle
import select
import time
from typing import Any

_LONGEST = 1e6  # seconds of one wait: poll(2) takes milliseconds, in 31 bits

_CALLABLE = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),  # NumPy 1
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "ml_dtypes": ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
}


class ForgedReply(Exception):
    """A reply is not the pickle of arrays and plain values."""


class ReplyPipe(io.RawIOBase):
    """The read end of a pipe, which is at its end, too, when a reply has not come in time.

    Attributes:
        late: whether the last reply has not come in time.
    """

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor, self._last, self.late = descriptor, float("inf"), False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def expect(self, seconds: float | None) -> None:
        """Let the next reply take so many seconds from now on; None: any time."""
        self._last, self.late = time.monotonic() + (seconds or float("inf")), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._poll.poll(1000 * min(_LONGEST, max(0.0, self._last - time.monotonic()))):
            if time.monotonic() >= self._last:
                self.late = True
                return 0
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class ValuesUnpickler(pickle.Unpickler):
    """Reads arrays and plain values. `load` raises ForgedReply for a pickle that names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _CALLABLE.get(module, ()):
            raise ForgedReply(f"{module}.{name}")
        return super().find_class(module, name)
