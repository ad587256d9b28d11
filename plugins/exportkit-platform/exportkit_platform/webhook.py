"""A message to a webhook, and one attempt to send it."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

ANSWER = 1 << 10  # bytes of a refusal that are reported


def message(url: str, token: str | None, key: str, content: Mapping[str, Any]) -> urllib.request.Request:
    """Return the message with `content` as JSON; `key` is the same in each attempt to send it."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "exportkit-platform",
        "Idempotency-Key": key,
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    return urllib.request.Request(url, json.dumps(content, default=str).encode(), headers, method="POST")


def send(message: urllib.request.Request, within: float) -> tuple[str, bool]:
    """Send a message once.

    Args:
        message: from `message`.
        within: seconds to wait for an answer.

    Returns:
        Why it was not taken, empty if it was, and whether trying again is of no use.
    """
    try:
        with _OPENER.open(message, timeout=within):
            return "", True
    except urllib.error.HTTPError as error:
        with error:
            text = " ".join(error.read(ANSWER).decode(errors="replace").split())
        answer = f"answered {error.code} {error.reason}" + (f": {text}" if text else "")
        return answer, not (error.code == 429 or error.code >= 500)
    except (OSError, http.client.HTTPException) as error:
        return _unanswered(error, within), False


def _unanswered(error: Exception, seconds: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"did not answer within {seconds:g} s"
    return f"could not be reached ({getattr(reason, 'strerror', None) or type(reason).__name__})".lower()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirection with a GET, and the message would be lost."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
