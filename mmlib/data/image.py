"""An image file, array or PIL image -> uint8 (3, S, S): upright, on white, whole, padded to a
square.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = (32, 64, 96, 128)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # it names no file; the errors here do


def read_image(source: Any, size: int) -> Tensor:
    """A path, PIL image or array -> (3, size, size) uint8, the whole image kept in its proportions.

    Arrays: uint8 or float 0..1, (H, W), (H, W, C) or (C, H, W). The image is turned as its EXIF tag
    says, transparent parts become white, 16-bit and float ones are scaled to 0..255, and the
    shorter side is padded with the image's mean colour. Raises ValueError with the reason: empty,
    truncated, no image.
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
    """(width, height) of an image file from its header alone; ValueError where it is no image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # as in ``read_image``
        reason = str(error) or type(error).__name__
        raise ValueError(f"not an image that can be read ({reason})") from error


def choose_size(sizes: Sequence[tuple[int, int]]) -> int:
    """32, 64, 96 or 128: the smallest that holds the median of the longer sides of (width,
    height) pairs, at most 128.
    """
    middle = median(max(pair) for pair in sizes) if sizes else SIZES[1]
    return next((size for size in SIZES if size >= middle), SIZES[-1])


def _square(image: "Image", size: int) -> Tensor:
    from PIL import Image

    longer = max(image.size)
    image.draft(
        None, (max(1, 2 * size * image.width // longer), max(1, 2 * size * image.height // longer))
    )  # JPEG: decode fewer pixels
    turn = _turn(image)
    image = _to_rgb(image)
    shape = tuple(max(1, round(side * size / max(image.size))) for side in image.size)
    image = image.resize(shape, Image.Resampling.BILINEAR, reducing_gap=3.0)
    if turn is not None:
        image = image.transpose(turn)
    pixels = np.asarray(image)  # (h, w, 3)
    if pixels.shape[:2] != (size, size):
        square = np.empty((size, size, 3), np.uint8)
        square[:] = pixels.mean(axis=(0, 1)).round()
        top, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
        square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = square
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (3, S, S)


def _turn(image: "Image") -> Any:
    """The transposition that brings the image upright, by its EXIF orientation (tag 0x0112);
    None where it is upright or not told.
    """
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a broken tag says nothing; the image may be whole
        return None
    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)


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
    """Grey values of more than 8 bits -> uint8, scaled by the range they stand for: 0..1, 8, 12
    or 16 bits; else their own range.
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
    from PIL import Image

    pixels = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    shape, channels = pixels.shape, (1, 3, 4)
    if (
        pixels.ndim == 3
        and shape[0] in channels
        and (isinstance(source, Tensor) or shape[2] not in channels)
    ):
        pixels = pixels.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if (
        pixels.ndim not in (2, 3)
        or pixels.size == 0
        or (pixels.ndim == 3 and pixels.shape[2] not in channels)
    ):
        raise ValueError(
            f"an image of shape {shape}, expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 "
            "channels"
        )
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                "a float image has values outside 0..1; divide by its largest possible value, or "
                "give uint8"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16:
        pixels = _to_bytes(pixels)
    elif pixels.dtype != np.uint8:
        raise ValueError(
            f"an image of type {pixels.dtype}, expected uint8, uint16, bool or float 0..1"
        )
    return Image.fromarray(
        np.ascontiguousarray(
            pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        )
    )
