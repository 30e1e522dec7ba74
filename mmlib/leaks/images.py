"""Are two image files one image? Compared whole, and held against how alike other images are.

Two straight strokes of a pen are nearly the same at 28 pixels, and no copies. So a pair is named
only where one image, resized and encoded as the other one was, gives the other; or where it is so
much closer than its neighbours that chance would not bring it so near in a thousand such splits.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.image import image_size, read_image
from mmlib.leaks.files import crop, upright_size

LARGE, REDUCED = 256, 128  # pixels: an image longer than LARGE is compared at REDUCED
SAME = 0.01  # rest of a copy that was made as we think: 0.00; strokes 0.06 at least
OTHER = 0.5  # a pair with more is not looked at further: JPEG at quality 50 leaves 0.35 at most
ALIKE = 0.3  # rest up to which a pair can be a copy because all others are so much farther
FEWEST = 5  # neighbours from which on the chance is estimated
QUALITIES = (50, 60, 70, 75, 80, 85, 90, 95)  # the usual ones of a JPEG saved as another format
MOST = 8  # ways to differ that are believed: strangers, all far, look as if there were more
ROUNDING = 0.25  # squared grey levels: what rounding to whole ones leaves, twice


class _Picture(NamedTuple):
    pixels: Any  # PIL, RGB, upright, without padding
    encode: (
        Callable[[Any], Any] | None
    )  # an equally large one -> what this one's encoder makes of it


def find_original(new: Path, old: Sequence[Path], close: int) -> tuple[int, float]:
    """The place in ``old`` of the image that ``new`` may be a copy of, and the chance that another
    image would be as near: 0 where one is made from the other, 1 where there is none.

    ``old`` are its neighbours, nearest first; the first ``close`` are looked at as copies, all of
    them as neighbours.
    """
    try:
        one = _read(new)
        rests = [_rest_between(one, _read(path)) for path in old[:close]]
        best, place = 1.0, -1
        for candidate in np.argsort(rests):
            if rests[candidate] > OTHER:
                break
            rest = rests[candidate]
            for as_made in _rests_as_made(one, _read(old[candidate])):
                rest = min(rest, as_made)
                if rest <= SAME:
                    return int(candidate), 0.0
            best, place = min((best, place), (rest, int(candidate)))
        if best > ALIKE or len(old) <= FEWEST:
            return -1, 1.0
        rests += [_rest_between(one, _read(path)) for path in old[close:]]
    except (ValueError, OSError):  # gone or broken since it was looked at
        return -1, 1.0
    return place, _chance(best, np.delete(rests, place))


def _chance(nearest: float, others: np.ndarray) -> float:
    """Chance that one of images spread like the ``others`` lies as near as ``nearest``.

    The number of neighbours within r grows like r ** k, k the number of ways in which such images
    differ (Levina and Bickel, 2005): few for strokes, many for photos.
    """
    ordered = np.sort(np.maximum(others, 1e-6))
    k = min(1 / max(np.log(ordered[-1] / ordered[:-1]).mean(), 1e-6), MOST)
    return float(len(ordered) * min(nearest / ordered[-1], 1) ** k)


@lru_cache(maxsize=256)
def _read(path: Path) -> _Picture:
    from PIL import Image

    with Image.open(path) as image:
        width, height = upright_size(image)
    longer = max(image_size(path))
    pixels = read_image(path, longer if longer <= LARGE else REDUCED)
    return _Picture(
        Image.fromarray(crop(pixels, width, height)), _encoder(path) if longer <= LARGE else None
    )


def _encoder(path: Path) -> Callable[[Any], Any] | None:
    """What JPEG with this file's tables makes of an image; None where the file is no JPEG."""
    from PIL import Image
    from PIL.JpegImagePlugin import get_sampling

    with Image.open(path) as image:
        if image.format != "JPEG" or image.mode not in ("L", "RGB"):
            return None
        tables = getattr(image, "quantization", None)  # Pillow's JPEG images alone have it
        mode, sampling = image.mode, get_sampling(image)

    return lambda picture: _jpeg(picture.convert(mode), qtables=tables, subsampling=sampling)


def _jpeg(picture: Any, **options: Any) -> Any:
    """What is seen of a picture that was saved as JPEG with these options."""
    from PIL import Image

    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return Image.open(file).convert("RGB")


def _rests_as_made(one: _Picture, other: _Picture) -> Iterator[float]:
    """What is left of each when the other is resized and encoded as it may have been, lazily."""
    from PIL.Image import Resampling

    for source, copy in ((one, other), (other, one)):
        equal = source.pixels.size == copy.pixels.size
        if equal and copy.encode is None:  # compared as they are already; or once a JPEG
            for quality in QUALITIES:
                yield _rest(_jpeg(source.pixels, quality=quality), copy.pixels)
            continue
        filters = (Resampling.BICUBIC, Resampling.BILINEAR, Resampling.LANCZOS, Resampling.BOX)
        for resampling in filters[:1] if equal else filters:
            made = source.pixels.resize(copy.pixels.size, resampling)
            try:
                made = made if copy.encode is None else copy.encode(made)
            except (ValueError, OSError):  # tables that Pillow reads but does not write
                return
            yield _rest(made, copy.pixels)


def _rest_between(one: _Picture, other: _Picture) -> float:
    """What is left of one image when the other explains it, both at the size of the smaller one."""
    from PIL.Image import Resampling

    size = min(one.pixels.size, other.pixels.size)
    a, b = (picture.pixels.resize(size, Resampling.BILINEAR) for picture in (one, other))
    return min(_rest(a, b), _rest(b, a))


def _rest(source: Any, copy: Any) -> float:
    """0 to 1: the part of ``copy``'s contrast that ``source``, sharper or softer, brighter or of
    another contrast, does not explain. Both of one size."""
    from scipy.ndimage import uniform_filter

    x, y = (np.asarray(picture, np.float32) for picture in (source, copy))
    soft = uniform_filter(x, (3, 3, 0), mode="nearest")
    parts = np.stack([(part - part.mean()).ravel() for part in (x, soft)])  # (2, pixels)
    y = (y - y.mean()).ravel()
    total = float(y @ y)
    if total == 0:
        return 1.0
    weights = np.linalg.lstsq(parts @ parts.T, parts @ y, rcond=None)[0]  # least squares
    left = y - weights @ parts
    return float(np.sqrt(max(float(left @ left) - ROUNDING * len(y), 0) / total))
