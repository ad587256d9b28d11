"""exportkit's own operations and feeders."""

from collections.abc import Mapping

from exportkit.operations.argmax import ArgMax
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.cast import Cast
from exportkit.operations.concat import Concat
from exportkit.operations.decode_image import DecodeImage
from exportkit.operations.lookup import Lookup
from exportkit.operations.parse_example import ParseExample
from exportkit.operations.reshape import Reshape
from exportkit.operations.scale import Scale
from exportkit.operations.sigmoid import Sigmoid
from exportkit.operations.softmax import Softmax
from exportkit.operations.split import Split
from exportkit.operations.threshold import Threshold
from exportkit.operations.top_k import TopK

_ALL = (ParseExample, DecodeImage, TopK, Lookup, ArgMax, Softmax, Sigmoid, Cast, Reshape, Scale, Threshold, Concat, Split)
OPERATIONS: Mapping[str, type[Operation] | type[Feeder]] = {operation.kind: operation for operation in _ALL}
"""Config key → operation or feeder, in the order in which a user is shown them."""
