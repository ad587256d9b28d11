"""The step `sign`: a signature over every file of a version, the manifest too, with a local key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit.errors import Problem, StepFailed
from exportkit.plugin import Export, Phase, PostStep, hookimpl
from exportkit.spec import ExportPlan
from exportkit.version import signing
from exportkit.version.manifest import SIGNATURE, read_manifest


@dataclass(kw_only=True)
class Sign(PostStep):
    """Signs the version with an EC P-256 key, as model_signing does; `exportkit verify --public-key` checks it.

    The signature lies in the version (assets.extra/model.sig): it goes live with what it signs, in one rename, and is copied
    with it; an export that cannot be signed is not published. It is the only file that it does not cover.
    """

    kind: str = "sign"
    phase = Phase.SEAL

    key: Path
    """The private key, a PEM file; make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"""

    password_env: str | None = None
    """The environment variable that holds the key's password, where it has one."""

    def run(self, export: Export) -> Mapping[str, Any]:
        (export.directory / SIGNATURE).parent.mkdir(exist_ok=True)
        signing.sign(export.directory, export.directory / SIGNATURE, self.key, self._password())
        return {"signature": SIGNATURE.as_posix(), "manifest": read_manifest(export.directory) is not None}

    def _password(self) -> str | None:
        if self.password_env is None:
            return None
        if self.password_env not in os.environ:
            raise StepFailed(Problem("post.sign.password_env", f"there is no variable {self.password_env}", "set it"))
        return os.environ[self.password_env]


@hookimpl
def exportkit_post_steps():
    return [Sign]


@hookimpl
def exportkit_check_plan(plan: ExportPlan):
    kinds = [step.kind for step in plan.post.values()]
    for at, (name, step) in enumerate(plan.post.items()):
        if isinstance(step, Sign):
            if not step.key.is_file():
                yield Problem(f"post.{name}.key", f"there is no file {step.key}", "give a PEM file of an EC P-256 private key")
            if "manifest" in kinds[at:]:
                yield Problem(
                    f"post.{name}", "comes before the manifest, which it would not cover", "write post=[…,manifest,sign]"
                )
