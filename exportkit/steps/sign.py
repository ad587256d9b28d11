"""The step `sign`: a signature over every file of a version, the manifest too, with a local key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.errors import Problem, StepFailed
from exportkit.plugin import Export, Phase, PostStep, hookimpl, signatures_of

if TYPE_CHECKING:
    from exportkit.plugin import Prepared
    from exportkit.spec import ExportPlan


@dataclass(kw_only=True)
class Sign(PostStep):
    """Signs the version with an EC P-256 key, as model_signing does; `exportkit verify --public-key` checks it.

    The signature lies in the version (assets.extra/model.sig): it goes live with what it signs, in one rename, and is copied
    with it; an export that cannot be signed is not published. It covers every file, of the others' signatures none.
    """

    kind: str = "sign"
    phase = Phase.SIGN

    key: Path
    """The private key, a PEM file; make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"""

    password_env: str | None = None
    """The environment variable that holds the key's password, where it has one."""

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
        if not self.key.is_file():
            yield Problem("key", f"there is no file {self.key}", "give a PEM file of an EC P-256 private key")

    def run(self, export: Export) -> Mapping[str, Any]:
        from exportkit.version import signing
        from exportkit.version.manifest import SIGNATURE, read_manifest

        (export.directory / SIGNATURE).parent.mkdir(exist_ok=True)
        others = signatures_of(*export.plan.post.values())
        signing.sign(export.directory, export.directory / SIGNATURE, self.key, self._password(), others)
        return {"signature": SIGNATURE.as_posix(), "manifest": read_manifest(export.directory) is not None}

    def signature_files(self) -> Sequence[str]:
        from exportkit.version.manifest import SIGNATURE

        return [SIGNATURE.as_posix()]

    def _password(self) -> str | None:
        if self.password_env is None:
            return None
        if self.password_env not in os.environ:
            raise StepFailed(Problem("password_env", f"there is no variable {self.password_env}", "set it"))
        return os.environ[self.password_env]


@hookimpl
def exportkit_post_steps():
    return [Sign]
