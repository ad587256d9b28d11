"""PNG files, which every decoder reads to the same pixels."""

import struct
import zlib

import numpy as np


def encode(pixels: np.ndarray) -> bytes:
    """Encode an image as PNG.

    Args:
        pixels: uint8 [height, width, 1 or 3].
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def drawn(size: tuple[int, int, int], seed: int = 0) -> bytes:
    """Return an image of random pixels; all decoders but those of BMP or GIF alone read it (decode_image_op.cc).

    Args:
        size: height, width and channels.
    """
    height, width, channels = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width * channels), np.uint8)
    return encode(pixels.reshape(size))


BLANK = encode(np.zeros((1, 1, 1), np.uint8))
"""The smallest image."""
