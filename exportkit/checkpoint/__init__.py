"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.checkpoint.check import Copied, check_copied
    from exportkit.checkpoint.index import Entry, Part
    from exportkit.checkpoint.locate import latest, looks, resolve
    from exportkit.checkpoint.readback import Readback
    from exportkit.checkpoint.reader import Bundle
    from exportkit.checkpoint.writer import BundleWriter, open_checkpoint

_MODULES = {
    "check": ("Copied", "check_copied"),
    "index": ("Entry", "Part"),
    "locate": ("latest", "looks", "resolve"),
    "readback": ("Readback",),
    "reader": ("Bundle",),
    "writer": ("BundleWriter", "open_checkpoint"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Bundle",
    "BundleWriter",
    "Copied",
    "Entry",
    "Part",
    "Readback",
    "check_copied",
    "latest",
    "looks",
    "open_checkpoint",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: most commands need few of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
