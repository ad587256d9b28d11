"""The samples of a config as arrays: what every signature is tried, warmed up and documented with."""

from exportkit.samples.batches import Batch, load
from exportkit.samples.checking import problems

__all__ = ["Batch", "load", "problems"]
