"""An image file, array or PIL image -> uint8 (3, S, S): upright, whole, padded to a square."""

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

SIZES = (32, 64, 96, 128)
# Pillow's own warnings do not name the file; the errors here do.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_image(source: Any, size: int) -> Tensor:
    """Read an image -> (3, size, size) uint8, the whole image in its proportions.

    ``source`` is a path, a PIL image, or an array: (H, W), (H, W, C) or (C, H, W), uint8, uint16,
    bool or float 0..1. The image is turned as its EXIF tag says, transparent parts become white,
    16-bit and float values are scaled to 0..255, and the shorter side is padded with the image's
    mean colour. Raises ValueError with the reason: empty, truncated, not an image.

    >>> read_image(np.full((2, 4, 3), 200, np.uint8), 32).shape
    torch.Size([3, 32, 32])
    """
    from PIL import Image

    if isinstance(source, (str, Path)):
        if Path(source).stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        try:
            with Image.open(source) as image:
                return _square(image, size)
        except Image.UnidentifiedImageError as error:
            raise ValueError("not an image in any format that Pillow reads") from error
        except MemoryError as error:
            raise ValueError("the image does not fit into memory") from error
        except Exception as error:  # each decoder has its own: RuntimeError (AVIF), ...
            reason = str(error) or type(error).__name__
            raise ValueError(f"the image cannot be decoded ({reason})") from error
    if not isinstance(source, Image.Image):
        source = _from_array(source)
    return _square(source, size)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file from its header alone, as stored: EXIF turns nothing here.

    Raises ValueError where it is not an image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # as in ``read_image``
        reason = str(error) or type(error).__name__
        raise ValueError(f"not an image that can be read ({reason})") from error


def choose_size(sizes: Sequence[tuple[int, int]]) -> int:
    """32, 64, 96 or 128 pixels for images of these (width, height).

    The smallest that is not below the median of their longer sides; 128 for larger ones.

    >>> choose_size([(60, 40), (50, 50), (300, 200)])
    64
    """
    middle = median(max(pair) for pair in sizes) if sizes else SIZES[1]
    return next((size for size in SIZES if size >= middle), SIZES[-1])


def _square(image: "Image", size: int) -> Tensor:
    """An opened image -> (3, size, size) uint8: upright, RGB, resized, padded."""
    from PIL import Image

    longer = max(image.size)
    twice = [max(1, 2 * size * side // longer) for side in image.size]
    image.draft(None, (twice[0], twice[1]))  # JPEG: decode fewer pixels
    turn = _turn(image)
    image = _to_rgb(image)
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if turn is not None:
        image = image.transpose(turn)
    pixels = _pad(np.asarray(image), size)  # (S, S, 3)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (3, S, S)


def _pad(pixels: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) in the middle of a (size, size, 3) of its mean colour."""
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    square = np.empty((size, size, 3), np.uint8)
    square[:] = pixels.mean(axis=(0, 1)).round()
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _turn(image: "Image") -> "Transpose | None":
    """The transposition that brings the image upright, by its EXIF orientation (tag 0x0112).

    None where it is upright, or has no such tag.
    """
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a broken tag says nothing; the image may be whole
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits -> uint8, scaled by the range that they stand for.

    That is 0..1, 8, 12 or 16 bits; outside of these, their own range.
    """
    tops = [1, 255, 65535] if values.dtype.kind == "f" else [4095, 65535]
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the image has NaN or infinity in it")
    low, high = values.min(), values.max()
    top = next((top for top in tops if high <= top), None)
    if low < 0 or top is None:
        values, top = values - low, max(high - low, 1e-12)
    return np.rint(values * (255 / top)).astype(np.uint8)


def _from_array(source: Any) -> "Image":
    """(H, W), (H, W, C) or (C, H, W) -> PIL image of 8 bits."""
    from PIL import Image

    pixels = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    shape, channels = pixels.shape, (1, 3, 4)
    if pixels.ndim == 3 and shape[0] in channels:
        if isinstance(source, Tensor) or shape[2] not in channels:
            pixels = pixels.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    colour = pixels.ndim == 3 and pixels.shape[2] in channels
    if not (colour or pixels.ndim == 2) or pixels.size == 0:
        raise ValueError(
            f"an image of shape {shape}, expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 "
            "channels"
        )
    pixels = _eight_bits(pixels)
    if colour and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return _to_bytes(pixels)
    if pixels.dtype.kind != "f":
        raise ValueError(
            f"an image of type {pixels.dtype}, expected uint8, uint16, bool or float 0..1"
        )
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            "a float image has values outside 0..1; divide by its largest possible value, or give "
            "uint8"
        )
    return np.rint(pixels * 255).astype(np.uint8)
