"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from exportkit.checkpoint.check import Copied, check_copied
from exportkit.checkpoint.index import Entry, Part
from exportkit.checkpoint.locate import latest, looks, resolve
from exportkit.checkpoint.readback import Readback
from exportkit.checkpoint.reader import Bundle
from exportkit.checkpoint.writer import BundleWriter, open_checkpoint

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
