"""Reference for `decode_image`, without TensorFlow: Pillow and simplejpeg decode, NumPy resizes.

For JPEG the op DecodeImage takes the faster of libjpeg's integer transforms (JDCT_IFAST) and has no attribute to change that;
Pillow always takes the accurate one, and pixels differ by up to 8 then. simplejpeg asks the same library for the fast one.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from exportkit.errors import EnvironmentFailed, brief
from exportkit.operations.decode_image import DecodeImage, missing_decoder

_FORMATS = ("PNG", "JPEG", "GIF", "BMP")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of 8 bits and less: others are converted in many ways
_JPEG = ("JPEG", "MPO")  # MPO: a JPEG that is followed by others
_MOST = 1 << 26  # pixels of one image


def decoded(spec: DecodeImage, images: Sequence[bytes]) -> np.ndarray:
    """Decode and resize images.

    Returns:
        float32 [N, height, width, channels].

    Raises:
        ValueError: a row is no image, or one that is not decoded here.
        EnvironmentFailed: a decoder is not installed.
    """
    if missing := missing_decoder():
        raise EnvironmentFailed(missing)
    found = np.empty((len(images), *spec.size, spec.channels), np.float32)
    for i, image in enumerate(images):
        found[i] = _resized(_pixels(f"row {i}", image, spec.channels), *spec.size)
    factor, offset = np.float32(spec.factor), np.float32(spec.offset)
    return found if (spec.factor, spec.offset) == (1, 0) else found * factor + offset


def _pixels(where: str, image: bytes, channels: int) -> np.ndarray:
    """Decode an image to uint8 [height, width, channels]."""
    from PIL import Image as pillow

    try:
        with pillow.open(BytesIO(image), formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST:
                raise ValueError(f"has {opened.width:,} x {opened.height:,} pixels, more than are decoded here")
            if opened.mode not in _MODES:
                raise ValueError(f"has pixels of mode {opened.mode}, which decoders convert in different ways")
            pixels = _from_jpeg(image, channels) if opened.format in _JPEG else _converted(opened, channels)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as cause:
        raise ValueError(f"{where} is no image that can be compared: {brief(cause)}") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _converted(opened: Any, channels: int) -> np.ndarray:
    return np.asarray(opened.convert("RGB" if channels == 3 else "L"))


def _from_jpeg(image: bytes, channels: int) -> np.ndarray:
    """Decode a JPEG as TensorFlow does (tensorflow/core/lib/jpeg/jpeg_mem.h, UncompressFlags)."""
    import simplejpeg

    colorspace = "RGB" if channels == 3 else "GRAY"
    return simplejpeg.decode_jpeg(image, colorspace=colorspace, fastdct=True, fastupsample=False)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float32 pixels bilinearly with half-pixel centres (tensorflow/core/kernels/image/resize_bilinear_op.cc)."""
    values = pixels.astype(np.float32)
    above, below, down = _neighbours(values.shape[0], height)
    left, right, along = _neighbours(values.shape[1], width)
    down, along = down[:, None, None], along[None, :, None]
    top, bottom = values[above], values[below]
    top = top[:, left] + (top[:, right] - top[:, left]) * along
    bottom = bottom[:, left] + (bottom[:, right] - bottom[:, left]) * along
    return top + (bottom - top) * down


def _neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each place of the resized axis those before and behind it, and its distance from the one before."""
    half = np.float32(0.5)
    place = (np.arange(wanted, dtype=np.float32) + half) * (np.float32(size) / np.float32(wanted)) - half
    floor = np.floor(place)
    before = np.maximum(floor, 0).astype(np.int64)
    behind = np.minimum(np.ceil(place), size - 1).astype(np.int64)
    return before, behind, (place - floor).astype(np.float32)
