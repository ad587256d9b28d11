"""The output of a task: what its process and those that it started print, in a file of limited size.

They print into a pipe, and a thread of this process writes the file: the beginning, and at the end the last lines, which say
why the task ended. Between them stands how much was dropped. The file is text that a terminal may be sent (`printable.Output`):
``cat`` shows it to one.
"""

import codecs
import os
import select
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from exportkit import printable

FIRST = 16 << 20  # bytes of the beginning that are kept
LAST = 1 << 20  # bytes of the end
_PIECE = 1 << 16
_PIPE = 1 << 20  # bytes that a pipe holds at most, unless root allows more


class Output:
    """A task's output on its way into its log, which is appended to.

    Attributes:
        writer: the descriptor to print to, until `detach`.
    """

    def __init__(self, log: Path):
        """Open the log. What is printed waits in the pipe until `detach`.

        Raises:
            OSError: the log cannot be written.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._reader, self.writer = os.pipe()
        self._stop_reader, self._stop_writer = os.pipe()
        self._left, self._last, self._held, self._dropped = FIRST, deque[bytes](), 0, 0
        self._text = _Text()
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def detach(self) -> None:
        """Close the writer in this process, as it is open in the task, and start to copy."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
            self._thread.start()

    def leave(self) -> None:
        """Close all of it in a fork of this process, which prints to a copy of the writer."""
        for descriptor in (self.writer, self._reader, self._stop_reader, self._stop_writer, self._file):
            os.close(descriptor)

    def close(self) -> None:
        """Write what was printed by now, and the end; whoever still prints gets SIGPIPE."""
        self.detach()
        os.close(self._stop_writer)
        self._thread.join()
        for descriptor in (self._reader, self._stop_reader, self._file):
            os.close(descriptor)

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        os.set_blocking(self._reader, False)
        stopped = False
        while not stopped:
            ready = dict(poll.poll())
            stopped = self._stop_reader in ready
            if self._reader in ready and not self._copy_piece():
                poll.unregister(self._reader)  # nobody has the other end any more
        for _ in range(_PIPE // _PIECE):  # what is left in the pipe, even where somebody fills it for ever
            if not self._copy_piece():
                break
        self._write_end()

    def _copy_piece(self) -> bool:
        """Copy what is there, at most one piece; return whether there was something."""
        try:
            piece = os.read(self._reader, _PIECE)
        except BlockingIOError:
            return False
        if piece:
            self._take(piece)
        return bool(piece)

    def _take(self, piece: bytes) -> None:
        rest = piece if not self._left else self._write_first(self._text.printable(piece))
        if not rest:
            return
        if not self._last:
            self._write(b"\n[exportkit: the log ends here at %d bytes; the last ones follow when the job has ended]\n" % FIRST)
        self._last.append(rest)
        self._held += len(rest)
        while (over := self._held - LAST) > 0:
            oldest = self._last.popleft()
            if len(oldest) > over:
                self._last.appendleft(oldest[over:])
            self._held -= min(over, len(oldest))
            self._dropped += min(over, len(oldest))

    def _write_first(self, text: bytes) -> bytes:
        """Write text that belongs to the beginning, and return the rest."""
        first, rest = text[: self._left], text[self._left :]
        self._left -= len(first)
        self._write(first)
        return rest + self._text.end() if rest else b""

    def _write_end(self) -> None:
        if self._left:
            self._write(self._text.end()[: self._left])
        last = _Text().printable(b"".join(self._last), last=True)
        dropped = self._dropped + max(0, len(last) - LAST)
        if dropped:
            self._write(b"[exportkit: %d bytes were dropped here]\n" % dropped)
        self._write(last[-LAST:])

    def _write(self, piece: bytes) -> None:
        with suppress(OSError):  # the disk is full: the task goes on, as it does where nobody reads what it prints
            while piece:
                piece = piece[os.write(self._file, piece) :]


class _Text:
    """Bytes of UTF-8, piece by piece, made printable; what is not UTF-8 becomes ``\\xff``."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._output = printable.Output()

    def printable(self, piece: bytes, last: bool = False) -> bytes:
        return self._output.piece(self._decoder.decode(piece, last), last).encode()

    def end(self) -> bytes:
        """Return what was held back for a next piece; none follows."""
        return self.printable(b"", last=True)
