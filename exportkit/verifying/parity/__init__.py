"""The proof that an export answers as its training graph does: both sides, what they are asked, and where they part.

Both run in TensorFlow's C++ core, each in a process of its own: the training graph whole, with the checkpoint's values; the
export as a model server loads it, from a copy out of reach of what it was made from.
"""

from exportkit.verifying.parity.beginning import begin, begin_written
from exportkit.verifying.parity.divergence import Difference, Tolerance, compare
from exportkit.verifying.parity.proof import Proof

__all__ = ["Difference", "Proof", "Tolerance", "begin", "begin_written", "compare"]
