"""The samples of a config as arrays: what every signature is tried, warmed up and documented with."""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy
from exportkit.samples.checking import problems

if TYPE_CHECKING:
    from exportkit.samples.batches import Batch, candidates, load

__getattr__ = lazy(__name__, {"batches": "Batch candidates load"})  # what draws and reads samples, and NumPy with it

__all__ = ["Batch", "candidates", "load", "problems"]
