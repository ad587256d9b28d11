"""The samples of a config as arrays: what every signature is tried, warmed up and documented with."""

from exportkit.samples.batches import Batch, candidates, load
from exportkit.samples.checking import problems

__all__ = ["Batch", "candidates", "load", "problems"]
