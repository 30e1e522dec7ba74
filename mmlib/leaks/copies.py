"""Copies across splits: the same bytes; images and sounds that are nearly the same; texts too
alike for chance.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmlib.data.audio import RATE, read_audio
from mmlib.leaks.files import LOW, Files, Look
from mmlib.leaks.images import find_original
from mmlib.leaks.splits import split_order

# Distances of fingerprints within which a file is looked at as a copy. They only choose: a pair is
# named after it was compared whole (tests/test_leaks_copies.py, and real data):
# JPEG at quality 50, half to twice the size: 0.084; 3/4 of the size at 70: 0.107; of small ones
# more
PICTURE = 0.25
# of the splits of other images, in how many chance may bring a pair so near that it is called a
# copy
RARE = 1e-3
SOUND = 2.0  # decibels: 95% of MP3 and Ogg copies <= 0.84; then the waveforms decide:
# correlation at the best shift: MP3, Ogg, 8 kHz copies >= 0.982; others <= 0.975 (bouncing balls),
# voices <= 0.92
WAVEFORM = 0.98
NEIGHBOURS, CANDIDATES, AXES = 4, 16, 16


class Copies(NamedTuple):
    """Rows that repeat an earlier split's."""

    later: np.ndarray  # (pairs,) rows
    earlier: np.ndarray  # (pairs,) the row that each repeats

    def describe(
        self, splits: np.ndarray, rows: Sequence[str], what: str, total: np.ndarray
    ) -> str:
        """'12 of 360 test rows repeat an image of train (line 7 = line 3)'."""
        parts = []
        for name in dict.fromkeys(splits[self.later]):
            mine = np.flatnonzero(splits[self.later] == name)
            homes = " or ".join(
                part for part in split_order(splits) if part in set(splits[self.earlier[mine]])
            )
            first = f"{rows[self.later[mine[0]]]} = {rows[self.earlier[mine[0]]]}"
            different = len(np.unique(self.earlier[mine]))
            first = first if different == len(mine) else f"{different:,} different ones, {first}"
            parts.append(
                f"{len(mine):,} of {(total & (splits == name)).sum():,} {name} rows repeat {what} "
                f"of {homes} ({first})"
            )
        return "; ".join(parts)


def equal_rows(keys: Sequence[object], splits: np.ndarray) -> Copies:
    """Rows whose key (a file's content, a text; None = missing) an earlier split has too."""
    later: list[int] = []
    earlier: list[int] = []
    seen: dict[object, int] = {}
    for name in split_order(splits):
        mine = np.flatnonzero(splits == name).tolist()
        for row in mine:
            if keys[row] is not None and keys[row] in seen:
                later.append(row)
                earlier.append(seen[keys[row]])
        for row in mine:
            seen.setdefault(keys[row], row)
    return Copies(np.array(later, dtype=np.int64), np.array(earlier, dtype=np.int64))


def equal_files(files: Files, content: np.ndarray, splits: np.ndarray) -> Copies:
    """Rows whose file has the bytes of a file of an earlier split."""
    return equal_rows([int(content[file]) if file >= 0 else None for file in files.where], splits)


def near_files(
    files: Files, looks: Sequence[Look | None], kind: str, splits: np.ndarray, found: Copies
) -> Copies:
    """``found``, and rows whose image or sound is nearly that of an earlier split's row.

    The nearest fingerprints are compared whole: images pixel by pixel, sounds as waveforms,
    whatever the gain and the delay.
    """
    if all(look is None for look in looks):
        return found
    nothing = np.full_like(next(look.fingerprint for look in looks if look is not None), np.nan)
    prints = np.stack(
        [nothing if look is None else look.fingerprint for look in looks]
    )  # (files, P)
    usable = np.append(np.isfinite(prints).all(axis=1), False)[
        files.where
    ]  # (rows,); -1 reads the False
    later, earlier, names = [found.later], [found.earlier], split_order(splits)
    asked = usable.copy()
    asked[found.later] = False
    for place, name in enumerate(names[1:], 1):
        new_rows = np.flatnonzero((splits == name) & asked)
        old_rows = np.flatnonzero(np.isin(splits, names[:place]) & usable)
        # a file that many rows show is one point of the tree
        old_files, first_row = np.unique(files.where[old_rows], return_index=True)
        new_files, place_of_row = np.unique(files.where[new_rows], return_inverse=True)
        if not len(new_files) or not len(old_files):
            continue
        match = _match(files.paths, prints, old_files, new_files, kind)  # places in old_files
        copied = match[place_of_row] >= 0  # (new_rows,)
        later.append(new_rows[copied])
        earlier.append(old_rows[first_row[match[place_of_row[copied]]]])
    return Copies(np.concatenate(later), np.concatenate(earlier))


def _match(
    paths: Sequence[Path],
    prints: np.ndarray,
    old_files: np.ndarray,
    new_files: np.ndarray,
    kind: str,
) -> np.ndarray:
    """For each of ``new_files`` the place in ``old_files`` of the file that it copies, or -1."""
    old, new = prints[old_files], prints[new_files]
    match = np.full(len(new_files), -1)
    near = neighbours(old, new, PICTURE if kind == "image" else SOUND, NEIGHBOURS)
    asked = np.array([place for place, places in enumerate(near) if places], dtype=np.int64)
    if not len(asked):
        return match
    if kind == "audio":
        same = _compare(paths)
        for place in asked:
            hits = (k for k in near[place] if same(int(new_files[place]), int(old_files[k])))
            match[place] = next(hits, -1)
        return match
    around = neighbours(old, new[asked], np.inf, CANDIDATES)  # how alike the others are
    found = [
        find_original(
            paths[new_files[place]], [paths[old_files[k]] for k in places], len(near[place])
        )
        for place, places in zip(asked, around)
    ]
    chances = np.array([chance for _, chance in found])
    for place, places, (hit, chance) in zip(asked, around, found):
        if chance <= _most_chance(chances, len(new_files)):
            match[place] = places[hit]
    return match


def _most_chance(chances: np.ndarray, tries: int) -> float:
    """The chance up to which a pair of ``tries`` is named, so that RARE of them are wrong
    (Benjamini
    and Hochberg, 1995): where there are many copies, each needs less proof. Pairs of which one is
    made from the other, chance 0, prove nothing of the rest.
    """
    ordered = np.sort(chances[chances > 0])
    # a hundred at least: the chances are estimates
    passed = ordered <= RARE * np.arange(1, len(ordered) + 1) / max(tries, 100)
    return float(ordered[passed][-1]) if passed.any() else 0.0


def neighbours(old: np.ndarray, new: np.ndarray, radius: float, most: int) -> list[list[int]]:
    """For each row of ``new`` (n, P) up to ``most`` rows of ``old`` (m, P) within ``radius``,
    nearest first; never all pairs.

    A k-d tree works in few dimensions: on the AXES along which ``old`` spreads most. Distances only
    shrink there, so what is near is near on the axes too; the true distance then decides among the
    nearest CANDIDATES.
    """
    from scipy.spatial import cKDTree

    sample = old[np.linspace(0, len(old) - 1, min(len(old), 2000)).astype(int)]
    axes = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2][:AXES].T  # (P, AXES)
    count = min(CANDIDATES, len(old))
    found = cKDTree(old @ axes).query(
        new @ axes, k=np.arange(1, count + 1), distance_upper_bound=radius
    )[1]  # (n, count)
    out = []
    for one, indices in zip(new, found):
        indices = indices[indices < len(old)]  # where there are fewer, the tree gives len(old)
        distance = np.linalg.norm(old[indices] - one, axis=1)
        order = np.argsort(distance)[:most]
        out.append(indices[order[distance[order] <= radius]].tolist())
    return out


def _compare(paths: Sequence[Path]) -> Callable[[int, int], bool]:
    """-> whether two files are one recording."""
    from scipy.signal import resample_poly

    @lru_cache(maxsize=512)
    def low(index: int) -> np.ndarray:
        wave = resample_poly(
            read_audio(paths[index]).numpy(), 7, 16
        )  # 7 kHz: what an 8 kHz copy has too
        spectrum = np.fft.rfft(wave)
        spectrum[: int(LOW * len(wave) / (RATE * 7 / 16)) + 1] = (
            0  # hum and drift are alike in many recordings
        )
        wave = np.fft.irfft(spectrum, len(wave))
        return wave / max(float(np.sqrt((wave**2).sum())), 1e-9)

    def same(one: int, other: int) -> bool:
        a, b = low(int(one)), low(int(other))
        size = 1 << int(len(a) + len(b) - 1).bit_length()
        together = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
        return bool(np.abs(together).max() >= WAVEFORM)

    return same
