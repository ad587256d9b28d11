"""JSON as RapidJSON reads and prints it, with RapidJSON's own error texts (rapidjson/error/en.h)."""

import json
import re
from typing import Any

from exportkit.server.status import Status, invalid

SHOWN = 256  # bytes of a value that a message shows
_INT64, _UINT64 = 1 << 63, 1 << 64

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[\[\]{}]', re.DOTALL)
_ERRORS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\uXXXX", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
)
_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def parse(body: bytes) -> dict[str, Any]:
    """Return the object that a request's body begins with; what follows it is ignored.

    Raises:
        Status: the body holds no JSON, or another value.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    text = body.decode("utf-8", "surrogateescape")
    start = _end_of_blank(text)
    if start == len(text):
        raise _error("The document is empty.", text, start)
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _error(_reason(error, text), text, _offset(error, text)) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError:  # Python limits the digits of an integer
        raise too_big() from None
    if not isinstance(value, dict):
        raise misformed(value, "Is not object")
    return value


def too_big() -> Status:
    """Return the status of a number that no double holds."""
    return invalid("JSON Parse error: Number too big to be stored in double.")


def too_deep() -> Status:
    """Return the status of a value that cannot be read for its depth."""
    return invalid("JSON Parse error: it nests lists or objects too deeply")


def _end_of_blank(text: str) -> int:
    found = _BLANK.match(text)
    return found.end() if found else 0


def _error(reason: str, text: str, offset: int) -> Status:
    """Return the status of a parse error; RapidJSON counts bytes."""
    return invalid(f"JSON Parse error: {reason} at offset: {len(text[:offset].encode('utf-8', 'surrogateescape'))}")


def _offset(error: json.JSONDecodeError, text: str) -> int:
    """Return where RapidJSON stops: at the end of an open string, else behind the blanks of where Python stops."""
    if error.msg.startswith("Unterminated"):
        return len(text)
    start = error.pos + error.msg.startswith("Illegal trailing comma")  # Python 3.13 points to the comma
    return start + _end_of_blank(text[start:]) if error.msg.startswith(("Expecting", "Illegal")) else start


def _reason(error: json.JSONDecodeError, text: str) -> str:
    if error.msg.startswith("Expecting ',' delimiter"):
        opened: list[str] = []
        for token in _TOKEN.finditer(text, 0, error.pos):
            if token[0] in "[{":
                opened.append(token[0])
            elif token[0] in "]}":
                opened.pop()
        inside = opened[-1] == "{"
        return f"Missing a comma or {'}' if inside else ']'} after an {'object member' if inside else 'array element'}."
    return next((ours for theirs, ours in _ERRORS if error.msg.startswith(theirs)), "Invalid value.")


def misformed(value: Any, what: str) -> Status:
    """Return the status of a value that has not the form of a request."""
    return invalid(f"JSON Value: {shown(value)} {what}")


def shown(value: Any) -> str:
    """Return a value as a message shows it: pretty, and cut."""
    text = json.dumps(value, indent=4, ensure_ascii=False).encode("utf-8", "replace")
    return text[:SHOWN].decode("utf-8", "ignore")


def type_name(value: Any) -> str:
    """Return RapidJSON's name of a value's type."""
    if isinstance(value, bool):
        return "True" if value else "False"
    return _TYPES[type(value)]


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; Python counts bools among the integers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_double(value: Any) -> bool:
    """Return whether a number is none of RapidJSON's integers: it has a point or an exponent, or exceeds 64 bits."""
    return isinstance(value, float) or not -_INT64 <= value < _UINT64


def text_bytes(text: str) -> bytes:
    """Return the bytes of a JSON string.

    Raises:
        Status: it has half of a surrogate pair.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None


def error_body(text: str) -> bytes:
    """Return the body of an answer that is an error."""
    return f'{{\n    "error": {json.dumps(text, ensure_ascii=False)}\n}}'.encode("utf-8", "replace")
