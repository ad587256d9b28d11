"""The proof that an export answers as its training graph does: both sides, what they are asked, and where they part.

The training graph runs whole in TensorFlow's Python with the checkpoint's values; the export runs in the C++ core of a model
server, from a copy out of reach of what it was made from.
"""

from exportkit.verifying.parity.divergence import Difference, Tolerance, compare
from exportkit.verifying.parity.judge import Proof

__all__ = ["Difference", "Proof", "Tolerance", "compare"]
