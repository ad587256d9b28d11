"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from exportkit.checkpoint.check import Copied, check_copied
from exportkit.checkpoint.locate import latest, resolve
from exportkit.checkpoint.reader import Bundle, Entry, Part
from exportkit.checkpoint.writer import BundleWriter

__all__ = ["Bundle", "BundleWriter", "Copied", "Entry", "Part", "check_copied", "latest", "resolve"]
