"""A published version checked again, anywhere, whoever made it: ``exportkit verify``."""

from exportkit.verifying.audit.finding import Finding
from exportkit.verifying.audit.version import verify_version

__all__ = ["Finding", "verify_version"]
