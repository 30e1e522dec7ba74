"""The files of a modality -> what the checks need to know of each.

That is its content's hash, a fingerprint, cheap features, and the properties of its container.
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
from mmlib.data.image import open_image, read_image
from mmlib.data.manifest import Manifest, resolve
from mmlib.machine import cores

SIDE = 16  # pixels: of the thumbnail that is an image's fingerprint
WINDOW, HOP = 512, 128  # samples of audio
BANDS, SLICES = 16, 24  # of frequency and of time, in the fingerprint of an audio file
LOW, HIGH = 100, 3400  # Hz: what a telephone, the poorest of the usual copies, transmits


class Files(NamedTuple):
    """The files of one modality, each once."""

    of_row: np.ndarray  # (rows,) index of the row's file, -1 = missing or not found
    paths: list[Path]


class FileFeatures(NamedTuple):
    """What the checks know of one file."""

    # Near for copies, far for others. NaN where nothing can be compared: one colour, or silence.
    fingerprint: np.ndarray
    # Cheap features of what the file shows.
    content: np.ndarray
    # The same of what lies around the subject: an image's borders and corners; level, offset, and
    # silence before and after, of an audio file.
    frame: np.ndarray
    encoding: str  # format, mode or coding, rate, channels
    size: tuple[int, ...]  # bytes, and of an image its pixels


def find_files(manifest: Manifest, modality: str) -> Files:
    """The modality's files.

    A cell that names no file counts as missing here: the loader raises the error.
    """
    index: dict[Path, int] = {}
    place: dict[str, int] = {}
    for cell in set(manifest.cells[modality]) - {""}:
        try:
            place[cell] = index.setdefault(resolve(manifest, cell), len(index))
        except (ValueError, OSError):
            continue
    of_row = [place.get(cell, -1) for cell in manifest.cells[modality]]
    return Files(np.array(of_row, dtype=np.int64), list(index))


def contents(paths: Sequence[Path]) -> np.ndarray:
    """(files,) int: files of the same bytes have the same number.

    Only files of equal size are opened, and only files that agree in a part are read whole. Empty
    files are broken, so each of them has a number of its own.
    """
    keys: list[Any] = [_or_none(lambda path: path.stat().st_size, path) for path in paths]
    for read in (_hash_part, _hash_whole):
        shared = {key for key, count in Counter(keys).items() if count > 1}
        keys = [
            (key, _or_none(read, path) or str(path)) if key in shared else key
            for key, path in zip(keys, paths)
        ]
    numbers: dict[Any, int] = {}
    names = [str(path) if key in (None, 0) else key for key, path in zip(keys, paths)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _or_none(read: Callable[[Path], Any], path: Path) -> Any:
    """What ``read`` returns, or None where the file cannot be read."""
    try:
        return read(path)
    except OSError:
        return None


def _hash_part(path: Path) -> bytes:
    """The hash of 4096 bytes from the middle of the file."""
    with open(path, "rb") as file:
        file.seek(path.stat().st_size // 2)
        return hashlib.blake2b(file.read(4096), digest_size=16).digest()


def _hash_whole(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def file_features(paths: Sequence[Path], kind: str) -> list[FileFeatures | None]:
    """The features of every file, in order; None for a file that cannot be read."""
    read = image_features if kind == "image" else audio_features

    def features_or_none(path: Path) -> FileFeatures | None:
        try:
            return read(path)
        except (ValueError, OSError):
            return None

    # For small files several threads are slower than one, as in mmlib/data/store.py.
    large = np.mean([path.stat().st_size for path in paths[:50]] or [0]) > 10_000
    with ThreadPoolExecutor(min(8, cores()) if large else 1) as pool:
        return list(pool.map(features_or_none, paths))


def image_features(path: Path) -> FileFeatures:
    """The features of an image; its fingerprint is a thumbnail, see ``image_fingerprint``.

    Raises ValueError where the file is not an image.
    """

    # (3, 64, 64), upright, on white, padded with its mean colour
    square = read_image(path, 4 * SIDE)
    with open_image(path) as opened:
        width, height = opened.size
        inside = crop(square, *upright_size(opened))
        tables = sorted(getattr(opened, "quantization", {}).items())  # of a JPEG: its quality
        quality = f" q{sum(tables[0][1])}" if tables else ""
        encoding = f"{opened.format} {opened.mode}{quality}"
    pixels = square.numpy().astype(np.float32)
    small = pixels.reshape(3, 8, 8, 8, 8).mean(axis=(2, 4))  # (3, 8, 8)
    bands = (pixels[:, :2].reshape(3, -1), pixels[:, -2:].reshape(3, -1))
    border = np.concatenate([*bands, pixels[:, :, 0], pixels[:, :, -1]], axis=1)  # (3, pixels)
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (3, 4)
    content = np.concatenate([small.ravel(), pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))])
    frame = np.concatenate([border.mean(axis=1), border.std(axis=1), corners.ravel()])
    size = (path.stat().st_size, width, height)
    return FileFeatures(image_fingerprint(inside), content, frame, encoding, size)


def upright_size(image: Any) -> tuple[int, int]:
    """(width, height) of an opened image once it is turned as its EXIF tag says."""
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (SyntaxError, ValueError, OSError, struct.error, KeyError, IndexError):  # as read_image
        turned = False
    return image.size[::-1] if turned else image.size


def crop(square: Tensor, width: int, height: int) -> np.ndarray:
    """An image (3, S, S) as ``read_image`` pads it -> (h, w, 3) without the padding.

    S is the longer side of h and w, which are to each other as ``height`` and ``width``.
    """
    side = square.shape[1]
    w, h = (max(1, round(part * side / max(width, height))) for part in (width, height))
    top, left = (side - h) // 2, (side - w) // 2
    return np.ascontiguousarray(square[:, top : top + h, left : left + w].permute(1, 2, 0).numpy())


def image_fingerprint(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (768,) float32: a thumbnail of 16 x 16 pixels in colour, standardised.

    Its mean is subtracted, and it is divided by its contrast, so that the distance of two
    fingerprints is about their difference as a part of the contrast. Ten grey levels are added to
    the contrast, so that the noise of flat images matters less. A line of writing is stretched to a
    square, so that its letters count. An image of one colour has NaN.
    """
    from PIL import Image

    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    x = np.asarray(small, np.float32).ravel()
    contrast = x.std()
    if contrast <= 2:
        return np.full(len(x), np.nan, np.float32)
    return (x - x.mean()) / (np.sqrt(len(x)) * (contrast + 10))


def audio_features(path: Path) -> FileFeatures:
    """The features of an audio file; its fingerprint is how loud 16 bands are in 24 parts of it.

    Raises ValueError where the file is not audio.
    """
    wave, info = read_audio(path).numpy(), read_header(path)
    power = _band_power(wave)  # (frames, BANDS)
    decibel = 10 * np.log10(power + 1e-8)
    level = np.sqrt((wave**2).mean())
    loud = np.flatnonzero(np.abs(wave) > 0.02 * max(np.abs(wave).max(), 1e-6))
    silence = (loud[0] / RATE, (len(wave) - loud[-1]) / RATE) if len(loud) else (0.0, 0.0)
    frame = np.array([np.abs(wave).max(), level, wave.mean(), *silence, decibel.sum(axis=1).min()])
    content = np.concatenate(
        [decibel.mean(axis=0), decibel.std(axis=0), [20 * np.log10(level + 1e-6), len(wave) / RATE]]
    )
    encoding = f"{info.format} {info.subtype} {info.samplerate} Hz {info.channels} channel(s)"
    return FileFeatures(audio_fingerprint(power), content, frame, encoding, (path.stat().st_size,))


def _band_power(wave: np.ndarray) -> np.ndarray:
    """(L,) -> (frames, BANDS): the mean power in bands from LOW to HIGH Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, WINDOW), WINDOW)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32))) ** 2
    edges = np.geomspace(LOW, HIGH, BANDS + 1) * WINDOW / RATE  # in bins of the spectrum
    # The lowest bands are narrower than a bin: each gets one bin.
    first = np.maximum(np.round(edges[:-1]).astype(int), np.arange(BANDS) + 3)
    last = np.maximum(np.round(edges[1:]).astype(int), first + 1)
    return np.stack([spectrum[:, a:b].mean(axis=1) for a, b in zip(first, last)], axis=1)


def audio_fingerprint(power: np.ndarray) -> np.ndarray:
    """(frames, BANDS) -> (SLICES * BANDS + 1,): decibels below the loudest part, and the length.

    At most 20 decibels count, and gain cancels. The sound begins where 1% of its loudness has
    passed and ends at 99%, so that padding, and a codec's noise in it, moves the ends little.
    Silence has NaN.
    """
    passed = np.sqrt(power.sum(axis=1)).cumsum()
    if passed[-1] < 1e-4:
        return np.full(SLICES * BANDS + 1, np.nan)
    start, end = np.interp([0.01 * passed[-1], 0.99 * passed[-1]], passed, np.arange(len(passed)))
    total = np.concatenate([np.zeros((1, BANDS)), power.cumsum(axis=0)])
    edges, frames = np.linspace(start, end + 1, SLICES + 1), np.arange(len(total))
    at_edges = np.stack([np.interp(edges, frames, total[:, band]) for band in range(BANDS)], axis=1)
    mean = np.maximum(np.diff(at_edges, axis=0), 0)
    decibel = 10 * np.log10(mean / mean.max() + 0.01)  # (SLICES, BANDS)
    length = 10 * np.log((end - start + 1) * HOP / RATE)
    return np.append(decibel.ravel() / np.sqrt(decibel.size), length)
