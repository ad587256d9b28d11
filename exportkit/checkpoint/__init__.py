"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.checkpoint.check import Copied, check_copied
    from exportkit.checkpoint.index import Entry, Part
    from exportkit.checkpoint.locate import graph_file, looks, resolve
    from exportkit.checkpoint.readback import Readback
    from exportkit.checkpoint.reader import Bundle
    from exportkit.checkpoint.writer import BundleWriter, open_checkpoint

__getattr__ = lazy(
    __name__,
    {
        "check": "Copied check_copied",
        "index": "Entry Part",
        "locate": "graph_file looks resolve",
        "readback": "Readback",
        "reader": "Bundle",
        "writer": "BundleWriter open_checkpoint",
    },
)

__all__ = [
    "Bundle",
    "BundleWriter",
    "Copied",
    "Entry",
    "Part",
    "Readback",
    "check_copied",
    "graph_file",
    "looks",
    "open_checkpoint",
    "resolve",
]
