"""Images of more than 8 bits (X-rays, CT in Hounsfield units, float maps) -> 8 bits.

A file does not say which numbers are black and white. So both are fitted on the training files,
kept in ``Preprocessing``, and one number is one grey in every image.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# which numbers are black and white: {"integer": [0, 4095]}, {"float": [-1000, 3000]}, or both
Scale: TypeAlias = Mapping[str, Sequence[float]]
TOPS = {"integer": [4095, 65535], "float": [1, 255, 65535]}  # 12 and 16 bits; shares, 8, 16 bits
BLOCK = 1 << 20  # pixels that are converted at a time


def is_deep(image: "Image") -> bool:
    """Whether an opened image has more than 8 bits a channel.

    >>> from PIL import Image
    >>> is_deep(Image.new("I;16", (2, 2))), is_deep(Image.new("RGB", (2, 2)))
    (True, False)
    """
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def kind_of(dtype: np.dtype) -> str:
    """The key of a ``Scale``: "float" or "integer"."""
    return "float" if dtype.kind == "f" else "integer"


def blocks(image: "Image") -> Iterator[tuple[tuple[int, int, int, int], "Image"]]:
    """An image in pieces of whole rows, each with its place (left, top, right, bottom).

    What is computed from a piece takes a few megabytes, however large the image is.
    """
    rows = max(1, BLOCK // max(1, image.width))
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image.crop(box)


def convert_blocks(image: "Image", mode: str, convert: Callable[["Image"], "Image"]) -> "Image":
    """``convert`` of each piece of an image, put together to an image of this mode."""
    from PIL import Image

    if image.width * image.height <= BLOCK:
        return convert(image)
    out = Image.new(mode, image.size)
    for box, piece in blocks(image):
        out.paste(convert(piece), box)
    return out


def extrema(image: "Image") -> tuple[str, float, float]:
    """Kind of number, least and greatest of an image of more than 8 bits.

    Raises ValueError for NaN or infinity in it.
    """
    kind, low, high = "integer", np.inf, -np.inf
    for _, piece in blocks(image):
        values = np.asarray(piece)
        kind = kind_of(values.dtype)
        low, high = np.minimum(low, values.min()), np.maximum(high, values.max())  # these keep NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the image has NaN or infinity in it")
    return kind, float(low), float(high)


def fit_scale(found: Sequence[tuple[str, float, float]]) -> dict[str, list[float]]:
    """Black and white of each kind of number, from the extrema of the training images.

    Integers of 0 or more: 0..4095 where that holds them all, or else 0..65535. Floats: 0..1 where
    that holds them all; 0..255 and 0..65535 where it does and half of it is used. Elsewhere: the
    least (or 0) and the greatest of all images.

    >>> fit_scale([("integer", 12, 4090), ("integer", 3, 4130)])
    {'integer': [0.0, 65535.0]}
    >>> fit_scale([("float", -1000, 40), ("float", 0, 3000)])
    {'float': [-1000.0, 3000.0]}
    """
    scale = {}
    for kind in sorted({kind for kind, _, _ in found}):
        low = min(0.0, *(low for name, low, _ in found if name == kind))
        high = max(high for name, _, high in found if name == kind)
        top = next((top for top in TOPS[kind] if high <= top), high)
        if low < 0 or (kind == "float" and top > 1 and high < top / 2):
            top = high
        scale[kind] = [float(low), float(top)]
    return scale


def guess_scale(kind: str, low: float, high: float) -> tuple[float, float]:
    """Black and white of one image by itself: 0..1, 8, 12 or 16 bits, or else its own range."""
    top = next((top for top in TOPS[kind] if high <= top), None)
    return (low, high) if low < 0 or top is None else (0, top)


def to_bytes(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Numbers -> uint8, 0 at ``black`` and 255 at ``white``; beyond them, 0 and 255.

    >>> to_bytes(np.array([-2000, -1000, 0, 3000]), -1000, 3000)
    array([  0,   0,  64, 255], dtype=uint8)
    """
    shares = (values.astype(np.float64) - black) * (255 / max(white - black, 1e-12))
    return np.rint(shares.clip(0, 255)).astype(np.uint8)


def to_grey(image: "Image", scale: Scale | None) -> "Image":
    """An image of more than 8 bits -> mode L, by ``scale``, or else by ``guess_scale``.

    Raises ValueError for NaN or infinity in it.
    """
    kind, low, high = extrema(image)
    black, white = (scale or {}).get(kind) or guess_scale(kind, low, high)
    return convert_blocks(image, "L", lambda piece: _grey(piece, black, white))


def _grey(image: "Image", black: float, white: float) -> "Image":
    from PIL import Image

    return Image.fromarray(to_bytes(np.asarray(image), black, white))
