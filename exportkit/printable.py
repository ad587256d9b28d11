"""Text of strangers, made printable: names from files, output of processes, messages of other libraries.

A terminal obeys what it is sent: escape sequences (CSI, OSC and the C1 controls) recolour it, rename its window or fill its
input; a carriage return overwrites the line; bidirectional controls show a text in another order than it is read. Whatever
exportkit prints passes one of these functions (`tests/test_printable.py` checks that).
"""

import re
from typing import Any, TextIO

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNFINISHED = re.compile(r"(?:\r|\x1b(?:\[[0-9;]*)?)\Z")


def printable(text: str, keep: str = "\t") -> str:
    r"""Return `text` with every character that is not printable (`str.isprintable`) as an escape: ``\x1b``, ``\u202e``, ``\n``.

    Bytes of a name that are not UTF-8, which Python holds as surrogates (`os.fsdecode`), become ``\xff``. Applied twice, it
    changes nothing more.

    Args:
        text: any text.
        keep: the characters that stay although they are not printable.
    """
    rest = text
    for char in keep:
        rest = rest.replace(char, "")
    if rest.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


class Output:
    """The output of a process, piece by piece, as it may be shown: lines stay lines, colours go, all else is `printable`.

    A carriage return, by which a progress bar draws itself anew, becomes the end of a line.
    """

    def __init__(self) -> None:
        self._held = ""  # the beginning of a sequence that the next piece completes

    def piece(self, text: str, last: bool = False) -> str:
        """Return the next piece; `last`: nothing follows."""
        text, self._held = self._held + text, ""
        if not last and (end := _UNFINISHED.search(text)):
            text, self._held = text[: end.start()], end[0][:64]
        text = _COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        return printable(text, "\n\t")


def shown(text: str) -> str:
    """Return the whole output of a process as it may be shown (`Output`)."""
    return Output().piece(text, last=True)


class PrintableStream:
    """A text stream that makes what is written to it printable: for the output of code that is not exportkit's."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text))
        return len(text)

    def close(self) -> None:
        """Do nothing: absl's log handler closes any stream that is no longer ``sys.stderr``, and this one is not its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
