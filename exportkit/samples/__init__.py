"""The samples of a config as arrays: what every signature is tried, warmed up and documented with."""

from typing import TYPE_CHECKING, Any

from exportkit.samples.checking import problems

if TYPE_CHECKING:
    from exportkit.samples.batches import Batch, candidates, load

__all__ = ["Batch", "candidates", "load", "problems"]


def __getattr__(name: str) -> Any:
    """Import what draws and reads samples, and NumPy with it, when it is first used: a plan only checks headers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from exportkit.samples import batches

    return getattr(batches, name)
