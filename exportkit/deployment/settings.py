"""What both kinds of deployment share: the server's flags, and the files in its directory ``/config``."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from google.protobuf import text_format

from exportkit import modelserver
from exportkit.deployment.fleet import Fleet, directory_in
from exportkit.server.messages import ModelServerConfig
from exportkit.server.model_config import PLATFORM, Model

CONFIG = "/config"
GRPC, REST = modelserver.PORT, modelserver.PORT + 1
MODELS, BATCHING, AVAILABLE = "models.config", "batching.config", "available.sh"
_MIB = 1 << 20
_STEP = 256  # MiB: memory is rounded up to such


@dataclass(frozen=True)
class Deployment:
    """What is deployed.

    Attributes:
        name: of the deployment: lower-case letters, digits and -.
        image: the container's.
        poll: seconds between two looks at the models.config and at the versions.
    """

    name: str
    image: str
    poll: int
    fleet: Fleet

    @property
    def memory(self) -> int:
        """MiB: half a GiB and three times the files, as a new version is loaded before the old one leaves."""
        needed = 512 + 3 * self.fleet.bytes // _MIB
        return -(-needed // _STEP) * _STEP

    @property
    def storage(self) -> int:
        """GiB for the versions, and as much again twice for those to come."""
        return max(1, -(-3 * self.fleet.bytes // (1 << 30)))

    def flags(self) -> list[str]:
        """Return the arguments of tensorflow_model_server."""
        fleet = self.fleet
        options: dict[str, object] = {
            "port": GRPC,
            "rest_api_port": REST,
            "model_config_file": f"{CONFIG}/{MODELS}",
            "model_config_file_poll_wait_seconds": self.poll,
            "file_system_poll_wait_seconds": self.poll,
        }
        if fleet.rows is not None:
            options |= {"enable_batching": "true", "batching_parameters_file": f"{CONFIG}/{BATCHING}"}
        if set(fleet.tags) != modelserver.SERVE:
            options["saved_model_tags"] = ",".join(fleet.tags)
        if fleet.has_labels:  # when a server starts nothing is available yet, and a label would end it
            options["allow_version_labels_for_unavailable_models"] = "true"
        return [f"--{name}={value}" for name, value in options.items()]

    def files(self) -> dict[str, str]:
        """Return the files in the directory `CONFIG`, by their names."""
        made = {MODELS: _models(self.fleet.models, self.poll), AVAILABLE: _available(self.fleet.models)}
        return made if self.fleet.rows is None else {**made, BATCHING: _batching(self.fleet.rows)}


def _models(models: Sequence[Model], poll: int) -> str:
    config = ModelServerConfig()
    for model in models:
        one = config.model_config_list.config.add(
            name=model.name, base_path=directory_in(model), model_platform=PLATFORM, version_labels=model.labels
        )
        if model.versions is not None:
            one.model_version_policy.specific.versions.extend(sorted(model.versions))
        elif model.latest:
            one.model_version_policy.latest.num_versions = model.latest
        else:
            one.model_version_policy.all.SetInParent()
    head = f"# Written by exportkit. The server reads it again every {poll} s: write changes beside it and rename, so that it\n"
    return f"{head}# never reads half a file. A label may point only at a version that is available already.\n" + (
        text_format.MessageToString(config, as_utf8=True)
    )


def _batching(rows: int) -> str:
    values = {"max_batch_size": rows, "batch_timeout_micros": 1000, "max_enqueued_batches": 100, "num_batch_threads": 4}
    lines = "".join(f"{name} {{ value: {value} }}\n" for name, value in values.items())
    return f"# Written by exportkit: a start, to be tuned under load. num_batch_threads: the processors of the server.\n{lines}"


def _available(models: Sequence[Model]) -> str:
    names = " ".join(quote(model.name, safe="") for model in models)
    request = r"GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return f"""\
#!/bin/bash
# Written by exportkit. Ends with 0 where each model has an available version, as its status by REST (GetModelStatus) says.
for model in {names}; do
  exec 3<> "/dev/tcp/127.0.0.1/${{1:-{REST}}}" || exit 1
  printf '{request}' "$model" >&3
  grep -q '"state": "AVAILABLE"' <&3 || exit 1
  exec 3>&-
done
"""
