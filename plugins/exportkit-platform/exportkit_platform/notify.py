"""The step `notify`: notifies a webhook of each published version."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Ge, Le
from exportkit.plugin import ConfigError, Export, Phase, PostStep, Problem, Seconds, StepFailed, hookimpl

ANSWER = 1 << 10  # bytes of a refusal that are reported


@dataclass(kw_only=True)
class Notify(PostStep):
    """Posts the report of a published version to a webhook, as JSON.

    The address comes from an environment variable that the config names, so that neither a config nor what is written of one
    ever holds it; messages have its host alone. An answer of 2xx is a success; 429, 5xx and no answer are tried again; anything
    else, a redirection too, fails at once. The version stays published whatever becomes of the message.
    """

    kind: str = "notify"
    phase = Phase.PUBLISH

    url_variable: str = "EXPORTKIT_NOTIFY_URL"
    """The environment variable that holds the webhook's address."""

    token_variable: str | None = None
    """The environment variable that holds a bearer token; null for none."""

    attempts: Annotated[int, Ge(1), Le(20)] = 3
    """How often the message is sent at most."""

    answer_within: Seconds = 10.0
    """Seconds to wait for an answer to one attempt."""

    pause: Annotated[float, Ge(0), Le(3600)] = 1.0
    """Seconds before the second attempt; twice as many before each further one."""

    def run(self, export: Export) -> Mapping[str, Any]:
        message = _request(os.environ[self.url_variable], self._token(), export)
        host = urlsplit(message.full_url).netloc.rpartition("@")[2]
        for attempt in range(1, self.attempts + 1):
            refusal, final = self._sent(message)
            if not refusal:
                return {"host": host, "attempts": attempt}
            if final:
                break
            if attempt < self.attempts:
                time.sleep(self.pause * 2 ** (attempt - 1))
        times = "" if attempt == 1 else f" {attempt} times"
        what = f"{host} {refusal}{times}"
        raise StepFailed(Problem("", what, f"see to the webhook that {self.url_variable} names"))

    def __post_init__(self) -> None:
        if wrong := list(self._wrong_variables()):
            raise ConfigError(*wrong)

    def _wrong_variables(self) -> Iterator[Problem]:
        """Yield what is wrong with the environment, for the plan."""
        for key, name in {"url_variable": self.url_variable, "token_variable": self.token_variable}.items():
            if name is not None and not os.environ.get(name):
                yield Problem(key, f"the environment variable {name} is not set", "set it, or leave the step out")
        url = os.environ.get(self.url_variable, "")
        if url and not (url.startswith(("http://", "https://")) and urlsplit(url).hostname):
            yield Problem("url_variable", f"{self.url_variable} holds no http:// or https:// address", "fix it")

    def _token(self) -> str | None:
        return os.environ[self.token_variable] if self.token_variable else None

    def _sent(self, message: urllib.request.Request) -> tuple[str, bool]:
        """Send the message; return why it was not taken, empty if it was, and whether trying again is of no use."""
        try:
            with _OPENER.open(message, timeout=self.answer_within):
                return "", True
        except urllib.error.HTTPError as error:
            with error:
                text = " ".join(error.read(ANSWER).decode(errors="replace").split())
            answer = f"answered {error.code} {error.reason}" + (f": {text}" if text else "")
            return answer, not (error.code == 429 or error.code >= 500)
        except (OSError, http.client.HTTPException) as error:
            return _unanswered(error, self.answer_within), False


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


def _request(url: str, token: str | None, export: Export) -> urllib.request.Request:
    report = {**asdict(export.report), "status": "published"}
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "exportkit-platform",
        "Idempotency-Key": f"{export.plan.name}/{export.version}",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    return urllib.request.Request(url, json.dumps(report, default=str).encode(), headers, method="POST")


@hookimpl
def exportkit_post_steps():
    return [Notify]
