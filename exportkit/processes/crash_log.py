"""What a process said before it died."""

import os
import re
from typing import IO

_LOG_BYTES = 1 << 16
_NOISE = re.compile(r"[IWE]\d{4} |WARNING: All log messages|\*\*\*|@ ")
_DUMP = "Fatal Python error: "  # Python's faulthandler; a stack follows


def last_words(log: IO[bytes]) -> str:
    """The line of a log that says why its process ended: a fatal one, or else the last that is no noise and no stack frame."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
    text, _, _ = log.read().decode(errors="replace").partition(_DUMP)
    lines = [line.strip() for line in text.splitlines()]
    fatal = [line for line in lines if re.match(r"F\d{4} ", line)]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    return re.sub(r"^F\d{4} .*?\] ", "", (fatal or lines or [""])[-1])
