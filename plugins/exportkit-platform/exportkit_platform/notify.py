"""The step `notify`: notifies a webhook of each published version."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Ge, Le
from exportkit.plugin import ConfigError, Export, Phase, PostStep, Problem, Seconds, StepFailed, hookimpl


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
        from exportkit_platform import webhook  # here, as every command imports this module

        report = {**asdict(export.report), "status": "published"}
        message = webhook.message(os.environ[self.url_variable], self._token(), f"{export.plan.name}/{export.version}", report)
        host = urlsplit(message.full_url).netloc.rpartition("@")[2]
        for attempt in range(1, self.attempts + 1):
            refusal, final = webhook.send(message, self.answer_within)
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


@hookimpl
def exportkit_post_steps():
    return [Notify]
