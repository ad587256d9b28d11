"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from exportkit.checkpoint.locate import latest, looks, resolve
from exportkit.checkpoint.reader import Bundle, Entry, Part
from exportkit.checkpoint.writer import BundleWriter, Proof, open_checkpoint, prove

__all__ = ["Bundle", "BundleWriter", "Entry", "Part", "Proof", "latest", "looks", "open_checkpoint", "prove", "resolve"]
