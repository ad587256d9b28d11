"""A published version checked again, anywhere, whoever made it: ``exportkit verify``."""

from exportkit.evidence.finding import Finding
from exportkit.evidence.version import verify_version

__all__ = ["Finding", "verify_version"]
