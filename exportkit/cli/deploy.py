"""``exportkit deploy MODELS_CONFIG --to compose|kubernetes --out DIR`` writes files that start tensorflow/serving."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from exportkit.cli.numbers import positive_integer
from exportkit.cli.tables import line, text
from exportkit.contract import Command

TARGETS = ("compose", "kubernetes")


class DeployCommand(Command):
    """Write a Compose file, or manifests for Kubernetes, that serve the models of a models.config with the image
    tensorflow/serving. What would keep the server from starting is refused.
    """

    name = "deploy"
    help = "files that serve these models: compose, kubernetes"
    usage = "MODELS_CONFIG --to TARGET --out DIR"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("config", metavar="MODELS_CONFIG", type=Path, help="models.config, as a sweep writes it")
        add("--to", metavar="TARGET", required=True, choices=TARGETS, help="compose or kubernetes")
        add("--out", metavar="DIR", type=Path, required=True, help="the directory to write to; its name is the deployment's")
        add("--image", default="tensorflow/serving", help="default: tensorflow/serving; better one with a tag")
        add(
            "--poll",
            type=positive_integer,
            default=30,
            metavar="SECONDS",
            help="between looks for new versions and changes (default: 30)",
        )

    def run(self, arguments: Sequence[str]) -> int:
        """Write the files, and print a line for each."""
        options = self.parse(arguments)

        from exportkit.clients.languages import write
        from exportkit.deployment import writing
        from exportkit.deployment.fleet import read
        from exportkit.deployment.settings import Deployment

        fleet = read(options.config)
        made = writing.TARGETS[options.to](Deployment(_name(options.out), options.image, options.poll, fleet))
        write(options.out, made)
        for name in made:
            line(str(options.out / name))
        if fleet.unbatched:
            text(f"not batched, for --enable_batching holds for all models of a server: {'; '.join(fleet.unbatched)}")
        return 0


def _name(directory: Path) -> str:
    """Return a deployment's name, a DNS label (RFC 1123), from that of its directory."""
    name = re.sub("[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")[:50].strip("-")
    return name if name[:1].isalpha() else f"serving-{name}".strip("-")
