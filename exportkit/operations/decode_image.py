"""The feeder `decode_image`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts, compatible
from exportkit.operations.base import Feeder
from exportkit.operations.cast import CASTS

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder


DECODERS = {"PIL": "Pillow", "simplejpeg": "simplejpeg"}
"""Module → distribution, of those with which verify decodes images."""


def missing_decoder() -> Problem | None:
    """Return the problem of the first decoder that is not installed; importing none."""
    for module, name in DECODERS.items():
        if importlib.util.find_spec(module) is None:
            what = f"{name} is not installed, with which verify decodes the images of decode_image"
            return Problem("", what, "pip install 'exportkit[images]', or leave the proof out: ~post.verify")
    return None


@dataclass(kw_only=True)
class DecodeImage(Feeder):
    """Encoded images, string [N]: JPEG, PNG, GIF (its first frame) or BMP; they feed the binding `decode_image` as numbers.

    Each image is decoded to pixels from 0 to 255, resized to `size` (bilinear, with half-pixel centres, not antialiased), and
    times `factor` plus `offset` it is float32 [N, height, width, channels], which is cast to the binding's dtype.
    """

    kind = "decode_image"
    taken = Facts("string", (None,))
    made = "decoded from the image"
    feedable = True

    decode_image: str
    """The tensor or placeholder binding that it feeds."""

    size: list[int]
    """[HEIGHT, WIDTH]"""

    channels: Literal[1, 3] = 3
    """3, or 1 for gray; TensorFlow decodes GIF and BMP to 3 only."""

    factor: float = 1.0
    """What pixels are multiplied by."""

    offset: float = 0.0
    """What is added then."""

    def targets(self) -> Mapping[str, str]:
        return {"pixels": self.decode_image}

    def place(self, value: str) -> str:
        return "decode_image"

    def unsound(self) -> Iterator[Problem]:
        if len(self.size) != 2:
            yield Problem("size", f"has {len(self.size)} entries", "write [HEIGHT, WIDTH]")
        for i, size in enumerate(self.size):
            if size < 1:
                yield Problem(f"size[{i}]", f"is {size}", "write 1 or more")

    def problems(self, fed: Mapping[str, Facts]) -> Iterator[Problem]:
        known = fed.get(self.decode_image, Facts())
        decoded = Facts("float32", (None, *self.size, self.channels))
        if known.shape is not None and not compatible(known.shape, decoded.shape or ()):
            what = f"'{self.decode_image}' is {known}, which the decoded {decoded} does not fit"
            yield Problem("size", what, "correct size or channels, or cut the graph where it takes images")
        elif known.dtype not in (None, *CASTS["float32"]):
            what = f"'{self.decode_image}' is {known}, which decoded images cannot feed"
            yield Problem("decode_image", what, "name a binding of numbers")

    def add(self, graph: GraphBuilder, name: str, taken: str) -> Mapping[str, str]:
        from exportkit.metagraph.mapping import mapped

        with graph.scope(f"{name}_decoded"):
            pixels = mapped(graph, taken, self._add_one, (*self.size, self.channels), f"{name}_decoded")
            if (self.factor, self.offset) != (1, 0):
                pixels = graph.add("Mul", [pixels, graph.constant(self.factor, "float32", name="factor")])[0]
                pixels = graph.add("AddV2", [pixels, graph.constant(self.offset, "float32", name="offset")])[0]
        return {self.decode_image: pixels}

    def _add_one(self, graph: GraphBuilder, image: str) -> str:
        """Add the nodes that decode and resize one image, a string []."""
        decoded = graph.add("DecodeImage", [image], channels=self.channels, dtype="uint8", expand_animations=False)
        batch = graph.add("ExpandDims", [*decoded, graph.constant(0, "int32", name="axis")])
        size = graph.constant(self.size, "int32", [2], name="size")
        resized = graph.add("ResizeBilinear", [*batch, size], half_pixel_centers=True)
        return graph.add("Squeeze", resized, squeeze_dims=[0])[0]
