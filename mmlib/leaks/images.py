"""Whether two image files show one image: compared whole, and with how alike other images are.

Two straight strokes of a pen are nearly the same at 28 pixels, and no copies. So a pair is named
only where one image, resized and encoded as the other one was, gives the other; or where it is so
much closer than its neighbours that chance would not bring it so near in a thousand such splits.

How unlike two images are is their residual: the part of one's contrast, from 0 to 1, that the other
one does not explain.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmlib.data.image import image_size, open_image, read_image
from mmlib.leaks.files import crop, upright_size

LARGE, REDUCED = 256, 128  # pixels: an image longer than LARGE is compared at REDUCED
# Residuals. A copy that was made as we guess leaves 0.00, other strokes of a pen 0.06 at least.
SAME = 0.01
OTHER = 0.5  # a pair with more is not examined further: JPEG at quality 50 leaves 0.35 at most
ALIKE = 0.3  # up to here a pair can be a copy because all other images are so much farther
FEWEST = 5  # neighbours that are needed to estimate the chance
QUALITIES = (50, 60, 70, 75, 80, 85, 90, 95)  # the usual ones of a JPEG saved as another format
# Ways to differ that count: images that are all far from each other look as if there were more.
MOST = 8
ROUNDING = 0.25  # squared grey levels: the error of rounding to whole ones, twice


class _Image(NamedTuple):
    pixels: Any  # PIL, RGB, upright, without padding
    # An image of equal size -> what the encoder of this image's file makes of it.
    encode: Callable[[Any], Any] | None


def find_original(new: Path, old: Sequence[Path], close: int) -> tuple[int, float]:
    """The place in ``old`` of the image that ``new`` may copy, and the probability of chance.

    ``old`` are the neighbours of ``new``, nearest first. The first ``close`` are candidates; all of
    them show how alike other images are. The probability is that another image would be as near: 0
    where one image is made from the other, 1, with the place -1, where there is no candidate.
    """
    none = (-1, 1.0)
    try:
        image = _read(new)
        residuals = [_residual_between(image, _read(path)) for path in old[:close]]
        nearest, place = 1.0, -1
        for candidate in np.argsort(residuals).tolist():
            if residuals[candidate] > OTHER:
                break
            residual = residuals[candidate]
            for remade in _residuals_of_remade(image, _read(old[candidate])):
                residual = min(residual, remade)
                if residual <= SAME:
                    return candidate, 0.0
            nearest, place = min((nearest, place), (residual, candidate))
        if nearest > ALIKE or len(old) <= FEWEST:
            return none
        residuals += [_residual_between(image, _read(path)) for path in old[close:]]
    except (ValueError, OSError):  # removed or broken since its fingerprint was made
        return none
    return place, _chance(nearest, np.delete(residuals, place))


def _chance(nearest: float, others: np.ndarray) -> float:
    """The chance that one of images spread like the ``others`` lies as near as ``nearest``.

    The number of neighbours within r grows like r ** k, k the number of ways in which such images
    differ (Levina and Bickel, 2005): few for strokes, many for photos.
    """
    ordered = np.sort(np.maximum(others, 1e-6))
    k = min(1 / max(np.log(ordered[-1] / ordered[:-1]).mean(), 1e-6), MOST)
    return float(len(ordered) * min(nearest / ordered[-1], 1) ** k)


@lru_cache(maxsize=256)
def _read(path: Path) -> _Image:
    """The image, reduced where it is large; what is reduced cannot be encoded as the file was."""
    from PIL import Image

    with open_image(path) as opened:
        width, height = upright_size(opened)
    longer = max(image_size(path))
    square = read_image(path, longer if longer <= LARGE else REDUCED)
    encode = _encoder(path) if longer <= LARGE else None
    return _Image(Image.fromarray(crop(square, width, height)), encode)


def _encoder(path: Path) -> Callable[[Any], Any] | None:
    """What JPEG with this file's tables makes of an image; None where the file is no JPEG."""
    from PIL.JpegImagePlugin import get_sampling

    with open_image(path) as opened:
        if opened.format != "JPEG" or opened.mode not in ("L", "RGB"):
            return None
        tables = getattr(opened, "quantization", None)  # only Pillow's JPEG images have it
        mode, sampling = opened.mode, get_sampling(opened)

    return lambda image: _through_jpeg(image.convert(mode), qtables=tables, subsampling=sampling)


def _through_jpeg(image: Any, **options: Any) -> Any:
    """The image after it was saved as JPEG with these options and opened again."""
    from PIL import Image

    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return Image.open(file).convert("RGB")


def _residuals_of_remade(one: _Image, other: _Image) -> Iterator[float]:
    """The residuals when each is made from the other: resized, and encoded as it may have been."""
    from PIL.Image import Resampling

    for source, copy in ((one, other), (other, one)):
        equal = source.pixels.size == copy.pixels.size
        if equal and copy.encode is None:
            # As they are, they have been compared already; but the copy may once have been a JPEG.
            for quality in QUALITIES:
                yield _residual(_through_jpeg(source.pixels, quality=quality), copy.pixels)
            continue
        filters = (Resampling.BICUBIC, Resampling.BILINEAR, Resampling.LANCZOS, Resampling.BOX)
        for resampling in filters[:1] if equal else filters:
            made = source.pixels.resize(copy.pixels.size, resampling)
            try:
                made = made if copy.encode is None else copy.encode(made)
            except (ValueError, OSError):  # tables that Pillow can read but not write
                return
            yield _residual(made, copy.pixels)


def _residual_between(one: _Image, other: _Image) -> float:
    """The smaller residual of two images, both at the size of the smaller one."""
    from PIL.Image import Resampling

    size = min(one.pixels.size, other.pixels.size)
    a, b = (image.pixels.resize(size, Resampling.BILINEAR) for image in (one, other))
    return min(_residual(a, b), _residual(b, a))


def _residual(source: Any, copy: Any) -> float:
    """The part of ``copy``'s contrast, 0 to 1, that ``source`` does not explain. Both of one size.

    ``source`` may be made sharper or softer, brighter or darker, and of another contrast.
    """
    from scipy.ndimage import uniform_filter

    x, y = (np.asarray(image, np.float32) for image in (source, copy))
    soft = uniform_filter(x, (3, 3, 0), mode="nearest")
    parts = np.stack([(part - part.mean()).ravel() for part in (x, soft)])  # (2, pixels)
    y = (y - y.mean()).ravel()
    total = float(y @ y)
    if total == 0:
        return 1.0
    weights = np.linalg.lstsq(parts @ parts.T, parts @ y, rcond=None)[0]  # least squares
    left = y - weights @ parts
    return float(np.sqrt(max(float(left @ left) - ROUNDING * len(y), 0) / total))
