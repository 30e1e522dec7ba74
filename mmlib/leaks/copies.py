"""Copies across splits: rows of the same bytes, and images and sounds that are nearly the same."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmlib.data.audio import RATE, read_audio
from mmlib.leaks.files import LOW, FileFeatures, Files
from mmlib.leaks.images import find_original
from mmlib.leaks.splits import split_order

# Distances of fingerprints within which a file is examined as a copy. They only choose candidates;
# a pair is named after the files were compared whole (tests/leaks/test_copies.py, and real data).
# Of images: a JPEG of quality 50, of half to twice the size, lies within 0.084; of quality 70 and
# 3/4 of the size within 0.107; copies of small images lie farther.
IMAGE_DISTANCE = 0.25
# Of audio, in decibels: 95% of the MP3 and Ogg copies lie within 0.84.
AUDIO_DISTANCE = 2.0
# Then the waveforms decide, by their correlation at the best shift. MP3, Ogg and 8 kHz copies have
# 0.982 or more; other recordings 0.975 at most (bouncing balls), voices 0.92 at most.
WAVEFORM = 0.98
# The share of splits without any copy in which chance may bring two images so near that one is
# called a copy.
RARE = 1e-3
NEIGHBOURS, CANDIDATES, AXES = 4, 16, 16


class Copies(NamedTuple):
    """Rows that repeat a row of an earlier split."""

    later: np.ndarray  # (pairs,) rows
    earlier: np.ndarray  # (pairs,) the row that each of them repeats

    def describe(
        self, splits: np.ndarray, rows: Sequence[str], what: str, present: np.ndarray
    ) -> str:
        """How many rows of each split repeat an earlier one, with an example.

        ``rows`` says where each row stands in the manifest; ``present`` (rows,) bool: the rows that
        could be copies, which have ``what``. "12 of 360 test rows repeat an image of train (line 7
        = line 3)".
        """
        parts = []
        for name in dict.fromkeys(splits[self.later]):
            pairs = np.flatnonzero(splits[self.later] == name)
            there = set(splits[self.earlier[pairs]])
            homes = " or ".join(part for part in split_order(splits) if part in there)
            example = f"{rows[self.later[pairs[0]]]} = {rows[self.earlier[pairs[0]]]}"
            different = len(np.unique(self.earlier[pairs]))
            if different < len(pairs):
                example = f"{different:,} different ones, {example}"
            total = (present & (splits == name)).sum()
            parts.append(
                f"{len(pairs):,} of {total:,} {name} rows repeat {what} of {homes} ({example})"
            )
        return "; ".join(parts)


def equal_rows(keys: Sequence[object], splits: np.ndarray) -> Copies:
    """Rows whose key (a file's content, a text; None = missing) an earlier split has too."""
    later: list[int] = []
    earlier: list[int] = []
    seen: dict[object, int] = {}
    for name in split_order(splits):
        rows = np.flatnonzero(splits == name).tolist()
        for row in rows:
            if keys[row] is not None and keys[row] in seen:
                later.append(row)
                earlier.append(seen[keys[row]])
        for row in rows:
            seen.setdefault(keys[row], row)
    return Copies(np.array(later, dtype=np.int64), np.array(earlier, dtype=np.int64))


def equal_files(files: Files, content: np.ndarray, splits: np.ndarray) -> Copies:
    """Rows whose file has the bytes of a file of an earlier split.

    ``content`` (files,) is a number for each content, see ``contents``.
    """
    return equal_rows([int(content[file]) if file >= 0 else None for file in files.of_row], splits)


def near_files(
    files: Files,
    features: Sequence[FileFeatures | None],
    kind: str,
    splits: np.ndarray,
    found: Copies,
) -> Copies:
    """``found``, and the rows whose image or sound is nearly that of an earlier split's row.

    The files with the nearest fingerprints are compared whole: images pixel by pixel, sounds as
    waveforms, whatever the gain and the delay.
    """
    readable = [one.fingerprint for one in features if one is not None]
    if not readable:
        return found
    nothing = np.full_like(readable[0], np.nan)
    prints = np.stack([nothing if one is None else one.fingerprint for one in features])
    usable = np.append(np.isfinite(prints).all(axis=1), False)  # (files + 1,); -1 reads the False
    of_row = usable[files.of_row]  # (rows,)
    open_rows = of_row.copy()  # those that are not known to be copies
    open_rows[found.later] = False
    later, earlier, names = [found.later], [found.earlier], split_order(splits)
    for place, name in enumerate(names[1:], 1):
        new_rows = np.flatnonzero((splits == name) & open_rows)
        old_rows = np.flatnonzero(np.isin(splits, names[:place]) & of_row)
        # Many rows may have one file: it is compared once.
        old_files, first_row = np.unique(files.of_row[old_rows], return_index=True)
        new_files, place_of_row = np.unique(files.of_row[new_rows], return_inverse=True)
        if not len(new_files) or not len(old_files):
            continue
        match = _find_originals(files.paths, prints, old_files, new_files, kind)
        original = match[place_of_row]  # (new_rows,) places in old_files
        later.append(new_rows[original >= 0])
        earlier.append(old_rows[first_row[original[original >= 0]]])
    return Copies(np.concatenate(later), np.concatenate(earlier))


def _find_originals(
    paths: Sequence[Path],
    prints: np.ndarray,
    old_files: np.ndarray,
    new_files: np.ndarray,
    kind: str,
) -> np.ndarray:
    """For each of ``new_files`` the place in ``old_files`` of the file that it copies, or -1."""
    old, new = prints[old_files], prints[new_files]
    near = neighbours(old, new, IMAGE_DISTANCE if kind == "image" else AUDIO_DISTANCE, NEIGHBOURS)
    match = np.full(len(new_files), -1)
    close = np.array([place for place, places in enumerate(near) if places], dtype=np.int64)
    if not len(close):
        return match
    if kind == "audio":
        same = _same_recording(paths)
        for place in close:
            hits = (k for k in near[place] if same(int(new_files[place]), int(old_files[k])))
            match[place] = next(hits, -1)
        return match
    around = neighbours(old, new[close], np.inf, CANDIDATES)  # they show how alike images are
    found = [
        find_original(
            paths[new_files[place]], [paths[old_files[k]] for k in places], len(near[place])
        )
        for place, places in zip(close, around)
    ]
    chances = np.array([chance for _, chance in found])
    limit = _chance_limit(chances, len(new_files))
    for place, places, (hit, chance) in zip(close, around, found):
        if chance <= limit:
            match[place] = places[hit]
    return match


def _chance_limit(chances: np.ndarray, tries: int) -> float:
    """The chance up to which a pair is called a copy, so that only RARE of the splits are wrong.

    After Benjamini and Hochberg (1995): of ``tries`` files, where many are copies, each one needs
    less proof. Pairs of which one is made from the other (chance 0) say nothing about the rest.
    """
    ordered = np.sort(chances[chances > 0])
    # As if there were a hundred files at least: the chances are estimates.
    passed = ordered <= RARE * np.arange(1, len(ordered) + 1) / max(tries, 100)
    return float(ordered[passed][-1]) if passed.any() else 0.0


def neighbours(old: np.ndarray, new: np.ndarray, radius: float, most: int) -> list[list[int]]:
    """For each row of ``new`` (n, P) the nearest rows of ``old`` (m, P), nearest first.

    At most ``most`` of them, and only within ``radius``. Not all pairs are compared: a k-d tree,
    which works in few dimensions, searches along the AXES in which ``old`` spreads most. Distances
    only shrink there, so what is near is near on the axes too; the true distance then decides among
    the nearest CANDIDATES.
    """
    from scipy.spatial import cKDTree

    sample = old[np.linspace(0, len(old) - 1, min(len(old), 2000)).astype(int)]
    axes = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2][:AXES].T  # (P, AXES)
    ranks = np.arange(1, min(CANDIDATES, len(old)) + 1)
    found = cKDTree(old @ axes).query(new @ axes, k=ranks, distance_upper_bound=radius)[1]
    near = []
    for one, indices in zip(new, found):  # found: (n, ranks)
        indices = indices[indices < len(old)]  # where there are fewer, the tree gives len(old)
        distance = np.linalg.norm(old[indices] - one, axis=1)
        order = np.argsort(distance)[:most]
        near.append(indices[order[distance[order] <= radius]].tolist())
    return near


def _same_recording(paths: Sequence[Path]) -> Callable[[int, int], bool]:
    """A function of the indices of two files: whether they are one recording."""
    from scipy.signal import resample_poly

    rate = RATE * 7 / 16  # 7 kHz: an 8 kHz copy holds these frequencies too

    @lru_cache(maxsize=512)
    def waveform(index: int) -> np.ndarray:
        wave = resample_poly(read_audio(paths[index]).numpy(), 7, 16)
        spectrum = np.fft.rfft(wave)
        # Hum and drift, which are alike in many recordings, are removed.
        spectrum[: int(LOW * len(wave) / rate) + 1] = 0
        wave = np.fft.irfft(spectrum, len(wave))
        return wave / max(float(np.sqrt((wave**2).sum())), 1e-9)

    def same(one: int, other: int) -> bool:
        a, b = waveform(one), waveform(other)
        size = 1 << int(len(a) + len(b) - 1).bit_length()
        correlation = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
        return bool(np.abs(correlation).max() >= WAVEFORM)

    return same
