"""Checkpoints as files: located, read, written and copied, without TensorFlow's runtime."""

from exportkit.checkpoint.locate import latest, resolve
from exportkit.checkpoint.reader import Bundle, Entry, Part
from exportkit.checkpoint.writer import BundleWriter, Proof, prove

__all__ = ["Bundle", "BundleWriter", "Entry", "Part", "Proof", "latest", "prove", "resolve"]
