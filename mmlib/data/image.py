"""An image file, array or PIL image -> uint8 (3, S, S): upright, whole, padded to a square."""

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.depth import (
    Scale,
    convert_blocks,
    extrema,
    guess_scale,
    is_deep,
    kind_of,
    to_bytes,
    to_grey,
)

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

SIZES = (32, 64, 96, 128)
# What cameras, scanners, browsers and drawing programs write, each decoded by Pillow itself. Not
# EPS, for which Pillow starts Ghostscript, nor WMF, which it hands to Windows, nor anything that
# another package has registered.
FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "ICNS",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
MAX_BYTES = 512_000_000  # of memory for one decoded image
LARGE = 64_000_000  # bytes; threads decode such images one at a time
_LARGE = threading.Lock()
# Pillow's own warnings do not name the file; the errors here do.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def open_image(source: str | Path | bytes) -> "ImageFile":
    """``PIL.Image.open`` with the decoders for ``FORMATS`` alone; raises what it raises.

    ``source`` is a path, or the bytes of a file.
    """
    from PIL import Image

    Image.init()  # or it would ask only for the formats of plugins that are loaded
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def read_image(source: Any, size: int, scale: Scale | None = None) -> Tensor:
    """Read an image -> (3, size, size) uint8, the whole image in its proportions.

    ``source`` is a path, the bytes of a file, a PIL image, or an array: (H, W), (H, W, C) or
    (C, H, W), uint8, uint16, bool or float 0..1. The image is turned as its EXIF tag says,
    transparent parts become white, and the shorter side is padded with the image's mean colour. A
    file is in one of ``FORMATS``.

    ``scale`` says which numbers are black and white where a grey image has more than 8 bits, see
    ``mmlib.data.depth``; a grey array of numbers of that kind is then read as such a file is.
    Without it, each image is scaled by what its own values seem to be: 0..1, 8, 12 or 16 bits, or
    else its own range. Raises ValueError with the reason: empty, truncated, not an image, over
    ``MAX_BYTES`` once decoded.

    >>> read_image(np.full((2, 4, 3), 200, np.uint8), 32).shape
    torch.Size([3, 32, 32])
    """
    from PIL import Image

    if isinstance(source, (str, Path, bytes)):
        if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
            raise ValueError("the file is empty (0 bytes)")
        with _reasons(), open_image(source) as image:
            return _square(image, size, scale)
    if not isinstance(source, Image.Image):
        source = _from_array(source, scale)
    return _square(source, size, scale)


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever a decoder raises is a ValueError with the reason."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"not an image in any of the formats {', '.join(FORMATS)}: save it as PNG or JPEG"
        ) from error
    except MemoryError as error:
        raise ValueError("the image does not fit into memory") from error
    except Exception as error:  # each decoder has its own: RuntimeError (AVIF), ...
        reason = str(error) or type(error).__name__
        raise ValueError(f"the image cannot be decoded ({reason})") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file from its header alone, as stored: EXIF turns nothing here.

    Raises ValueError where it is not an image.
    """
    with _reasons(), open_image(path) as image:
        return image.size


def image_extrema(path: str | Path) -> tuple[str, float, float] | None:
    """Kind of number, least and greatest of an image file of more than 8 bits; None of others.

    Raises ValueError where it is not an image, or too large.
    """
    with _reasons(), open_image(path) as image:
        if not is_deep(image):
            return None
        with _memory(image):
            return extrema(image)


def choose_size(sizes: Sequence[tuple[int, int]]) -> int:
    """32, 64, 96 or 128 pixels for images of these (width, height).

    The smallest that is not below the median of their longer sides; 128 for larger ones.

    >>> choose_size([(60, 40), (50, 50), (300, 200)])
    64
    """
    middle = median(max(pair) for pair in sizes) if sizes else SIZES[1]
    return next((size for size in SIZES if size >= middle), SIZES[-1])


def _square(image: "Image", size: int, scale: Scale | None) -> Tensor:
    """An opened image -> (3, size, size) uint8: upright, RGB, resized, padded."""
    from PIL import Image

    longer = max(image.size)
    twice = [max(1, 2 * size * side // longer) for side in image.size]
    image.draft(None, (twice[0], twice[1]))  # JPEG: decode fewer pixels
    with _memory(image):
        turn = _turn(image)  # of a PNG, it decodes the whole file
        image = _to_eight_bits(image, scale)
        width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if turn is not None:
        image = image.transpose(turn)
    pixels = _pad(np.asarray(image.convert("RGB")), size)  # (S, S, 3)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (3, S, S)


def _memory(image: "Image") -> AbstractContextManager[object]:
    """Wait until there is room to decode a large image.

    Raises ValueError where it takes more than ``MAX_BYTES``, as Pillow stores it and converted.
    """
    stored = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    converted = 0 if image.mode in ("L", "RGB") else 1 if image.mode == "1" or is_deep(image) else 4
    needed = image.width * image.height * (stored + converted)
    if needed > MAX_BYTES:
        raise ValueError(
            f"an image of {image.width:,} x {image.height:,} pixels takes {needed / 1e6:,.0f} MB "
            f"of memory, expected at most {MAX_BYTES / 1e6:,.0f}: store it smaller"
        )
    return _LARGE if needed > LARGE else nullcontext()


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


def _to_eight_bits(image: "Image", scale: Scale | None) -> "Image":
    """Any mode -> L or RGB; transparent parts become white."""
    if is_deep(image):
        return to_grey(image, scale)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return convert_blocks(image, "RGB", _on_white)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _from_array(source: Any, scale: Scale | None) -> "Image":
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
    kind = kind_of(pixels.dtype)
    if scale and kind in scale and pixels.dtype.kind in "iuf" and pixels.dtype != np.uint8:
        if not colour or pixels.shape[2] == 1:  # as a file of such numbers
            pixels = _scaled(pixels, *scale[kind])
    pixels = _eight_bits(pixels)
    if colour and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _scaled(pixels: np.ndarray, black: float, white: float) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise ValueError("the image has NaN or infinity in it")
    return to_bytes(pixels, black, white)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        black, white = guess_scale("integer", float(pixels.min()), float(pixels.max()))
        return to_bytes(pixels, black, white)
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
