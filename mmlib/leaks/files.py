"""Files behind a modality -> what the checks need of each: its content's hash, a fingerprint,
cheap features, its container's properties.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mmlib.data.audio import RATE, read_audio, read_header
from mmlib.data.image import read_image
from mmlib.data.manifest import Manifest, resolve
from mmlib.machine import cores

SIDE = 16  # of the thumbnail that is an image's fingerprint
WINDOW, HOP = 512, 128
BANDS, SLICES = 16, 24
LOW, HIGH = 100, 3400  # Hz: what a telephone, the poorest of usual copies, lets through


class Files(NamedTuple):
    """The files of one modality, each once."""

    where: np.ndarray  # (rows,) index of the row's file, -1 = missing or not to be found
    paths: list[Path]


class Look(NamedTuple):
    """What one file looks like."""

    # near for copies, far for others; NaN where there is nothing to tell by (one colour, silence)
    fingerprint: np.ndarray
    content: np.ndarray  # cheap features of what it shows
    # of what lies around the subject: borders and corners; level, offset, silence before and after
    frame: np.ndarray
    encoding: str  # format, mode or coding, rate, channels
    size: tuple[int, ...]  # bytes, and pixels


def find_files(manifest: Manifest, modality: str) -> Files:
    """The modality's files.

    A cell that names none counts as missing: telling so is the loader's part.
    """
    index: dict[Path, int] = {}
    cells: dict[str, int] = {}
    for cell in set(manifest.cells[modality]) - {""}:
        try:
            cells[cell] = index.setdefault(resolve(manifest, cell), len(index))
        except (ValueError, OSError):
            continue
    return Files(
        np.array([cells.get(cell, -1) for cell in manifest.cells[modality]], dtype=np.int64),
        list(index),
    )


def contents(paths: Sequence[Path]) -> np.ndarray:
    """(files,) int: files of the same bytes have the same number.

    Only files of one size are opened, and read whole only where a
    part of them agrees too.
    """
    keys: list[Any] = [_try(lambda path: path.stat().st_size, path) for path in paths]
    for read in (_hash_part, _hash_whole):
        shared = {key for key, count in Counter(keys).items() if count > 1}
        keys = [
            (key, _try(read, path) or str(path)) if key in shared else key
            for key, path in zip(keys, paths)
        ]
    numbers: dict[Any, int] = {}
    names = [
        str(path) if key in (None, 0) else key for key, path in zip(keys, paths)
    ]  # empty files are broken, not alike
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _try(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except OSError:
        return None


def _hash_part(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(path.stat().st_size // 2)
        return hashlib.blake2b(file.read(4096), digest_size=16).digest()


def _hash_whole(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def file_features(paths: Sequence[Path], kind: str) -> list[Look | None]:
    """A Look for every file, in order; None for one that cannot be read."""
    look = image_features if kind == "image" else audio_features

    def careful(path: Path) -> Look | None:
        try:
            return look(path)
        except (ValueError, OSError):
            return None

    big = np.mean([path.stat().st_size for path in paths[:50]] or [0]) > 10_000
    with ThreadPoolExecutor(
        min(8, cores()) if big else 1
    ) as pool:  # as data/store.py: for small files threads are slower than none
        return list(pool.map(careful, paths))


def image_features(path: Path) -> Look:
    """An image: its 16 x 16 thumbnail in colour, without mean and contrast, is the fingerprint;
    ValueError where it is none.
    """
    from PIL import Image

    picture = read_image(
        path, 4 * SIDE
    )  # (3, 64, 64), upright, on white, padded with its mean colour
    with Image.open(path) as image:
        width, height = image.size
        inside = crop(picture, *upright_size(image))
        tables = "".join(
            f" q{sum(table)}" for _, table in sorted(getattr(image, "quantization", {}).items())[:1]
        )  # a JPEG's quality
        encoding = f"{image.format} {image.mode}{tables}"
    pixels = picture.numpy().astype(np.float32)
    small = pixels.reshape(3, 8, 8, 8, 8).mean(axis=(2, 4))  # (3, 8, 8)
    edge = np.concatenate(
        [
            pixels[:, :2].reshape(3, -1),
            pixels[:, -2:].reshape(3, -1),
            pixels[:, :, 0],
            pixels[:, :, -1],
        ],
        axis=1,
    )
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (3, 4)
    content = np.concatenate([small.ravel(), pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))])
    frame = np.concatenate([edge.mean(axis=1), edge.std(axis=1), corners.ravel()])
    return Look(thumbnail(inside), content, frame, encoding, (path.stat().st_size, width, height))


def upright_size(image: Any) -> tuple[int, int]:
    """(width, height) of an opened image once it is turned as its EXIF tag says."""
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (SyntaxError, ValueError, OSError, struct.error, KeyError, IndexError):  # as read_image
        turned = False
    return image.size[::-1] if turned else image.size


def crop(picture: Tensor, width: int, height: int) -> np.ndarray:
    """(3, S, S) as read_image pads it -> (h, w, 3) without the padding, S the longer side."""
    side = picture.shape[1]
    w, h = (max(1, round(part * side / max(width, height))) for part in (width, height))
    top, left = (side - h) // 2, (side - w) // 2
    return np.ascontiguousarray(picture[:, top : top + h, left : left + w].permute(1, 2, 0).numpy())


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (768,) float32: 16 x 16 pixels in colour, less their mean, over their
    contrast. The distance of two is
    about their difference in parts of the contrast (ten grey levels are added, so that flat images
    need to agree in their noise less). A line of writing is stretched to a square: so its letters
    count. An image of one colour has NaN.
    """
    from PIL import Image

    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    x = np.asarray(small, np.float32).ravel()
    spread = x.std()
    return (
        (x - x.mean()) / (np.sqrt(len(x)) * (spread + 10))
        if spread > 2
        else np.full(len(x), np.nan, np.float32)
    )


def audio_features(path: Path) -> Look:
    """A sound: how loud 16 bands are over 24 parts of its length is the fingerprint; ValueError
    where it is no sound.
    """
    wave, info = read_audio(path).numpy(), read_header(path)
    power = _power(wave)  # (frames, BANDS)
    decibel = 10 * np.log10(power + 1e-8)
    level = np.sqrt((wave**2).mean())
    loud = np.flatnonzero(np.abs(wave) > 0.02 * max(np.abs(wave).max(), 1e-6))
    silence = (loud[0] / RATE, (len(wave) - loud[-1]) / RATE) if len(loud) else (0.0, 0.0)
    frame = np.array([np.abs(wave).max(), level, wave.mean(), *silence, decibel.sum(axis=1).min()])
    content = np.concatenate(
        [decibel.mean(axis=0), decibel.std(axis=0), [20 * np.log10(level + 1e-6), len(wave) / RATE]]
    )
    encoding = f"{info.format} {info.subtype} {info.samplerate} Hz {info.channels} channel(s)"
    return Look(_slices(power), content, frame, encoding, (path.stat().st_size,))


def _power(wave: np.ndarray) -> np.ndarray:
    """(L,) -> (frames, BANDS) mean power in bands of LOW to HIGH Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, WINDOW), WINDOW)[::HOP]
    edges = np.geomspace(LOW, HIGH, BANDS + 1) * WINDOW / RATE  # in bins of the spectrum
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32))) ** 2
    first = np.maximum(
        np.round(edges[:-1]).astype(int), np.arange(BANDS) + 3
    )  # the lowest bands are a bin each
    last = np.maximum(np.round(edges[1:]).astype(int), first + 1)
    return np.stack([spectrum[:, a:b].mean(axis=1) for a, b in zip(first, last)], axis=1)


def _slices(power: np.ndarray) -> np.ndarray:
    """(frames, BANDS) -> (SLICES * BANDS + 1,): decibels below the loudest, 20 at most, and the
    length. Gain cancels; the ends are where
    1% and 99% of the loudness has passed, so that padding and a codec's noise there move them
    little. Silence has NaN.
    """
    passed = np.sqrt(power.sum(axis=1)).cumsum()
    if passed[-1] < 1e-4:
        return np.full(SLICES * BANDS + 1, np.nan)
    start, end = np.interp([0.01 * passed[-1], 0.99 * passed[-1]], passed, np.arange(len(passed)))
    total = np.concatenate([np.zeros((1, BANDS)), power.cumsum(axis=0)])
    at, frames = np.linspace(start, end + 1, SLICES + 1), np.arange(len(total))
    mean = np.maximum(
        np.diff(
            np.stack([np.interp(at, frames, total[:, band]) for band in range(BANDS)], axis=1),
            axis=0,
        ),
        0,
    )
    decibel = 10 * np.log10(mean / mean.max() + 0.01)  # (SLICES, BANDS)
    return np.append(
        decibel.ravel() / np.sqrt(decibel.size), 10 * np.log((end - start + 1) * HOP / RATE)
    )
