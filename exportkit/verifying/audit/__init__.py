"""A published version checked again, anywhere, whoever made it: ``exportkit verify``."""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.verifying.audit.finding import Finding
    from exportkit.verifying.audit.version import verify_version

__getattr__ = lazy(__name__, {"finding": "Finding", "version": "verify_version"})  # `exportkit try` needs neither

__all__ = ["Finding", "verify_version"]
