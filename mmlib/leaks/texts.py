"""Texts that stand in two splits and are too long, or too odd, to be there twice by chance."""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np

from mmlib.data.text import tokenize
from mmlib.leaks.copies import Copies, equal_rows
from mmlib.leaks.splits import split_order

# expected number of such repeats under the word model; it knows pairs of words only, hence so small
CHANCE = 1e-6
# a pair of words must stand in over three texts to count as the language's: a copy's own pairs do
# not make it likely
DISCOUNT = 3
# a pattern's filling: where common words stand in place of common words, times as much proof
FILLED = 3
OVERLAP = 0.8  # shared part of all five-character pieces of two texts
HASHES, BANDS = 32, 8


def text_copies(texts: Sequence[str], splits: np.ndarray, near: bool, seed: int) -> Copies:
    """Rows whose text, or with ``near`` nearly whose text, an earlier split has too, where chance
    does not explain it.

    A question asked of many images and a caption from a template repeat honestly. So a model of the
    manifest's own word pairs says how often a text would come up twice if rows were independent; a
    repeat counts when that is under one in a million.
    """
    keys = [" ".join(tokenize(text)) or None for text in texts]
    found = equal_rows(keys, splits)
    if near:
        found = _add_near(found, keys, splits, seed)
    if not len(found.later):
        return found
    model = _Pairs({key for key in keys if key})
    pairs = sum(key is not None for key in keys) ** 2
    keep = [
        math.log(pairs) + _overlap(keys[a], keys[b]) * model.log_chance(keys[a])
        < math.log(CHANCE) * (FILLED if model.fills(keys[a], keys[b]) else 1)
        for a, b in zip(found.later, found.earlier)
    ]
    return Copies(found.later[keep], found.earlier[keep])


class _Pairs:
    """Word pairs of distinct texts, with absolute discounting: what is taken from rare pairs
    goes to the words' own frequencies.
    """

    def __init__(self, keys: Iterable[str]):
        self.words, self.pairs, self.before = (
            Counter[str](),
            Counter[tuple[str, str]](),
            Counter[str](),
        )
        for key in keys:
            tokens = ["", *key.split(), ""]
            self.words.update(tokens[1:])
            self.before.update(tokens[:-1])
            self.pairs.update(zip(tokens, tokens[1:]))
        self.kept = Counter[str]()
        for (word, _), count in self.pairs.items():
            self.kept[word] += max(count - DISCOUNT, 0)
        self.total = self.words.total() + len(self.words)

    def log_chance(self, key: str) -> float:
        """Log of the chance that a text drawn from the model is this one."""
        tokens, chance = ["", *key.split(), ""], 0.0
        for word, after in zip(tokens, tokens[1:]):
            seen = self.before[word]
            alone = (1 - self.kept[word] / seen) * (self.words[after] + 1) / self.total
            chance += math.log(max(self.pairs[word, after] - DISCOUNT, 0) / seen + alone)
        return chance

    def fills(self, one: str, other: str) -> bool:
        """Whether two texts are one pattern filled in two ways: wherever they differ, each has
        words of its own there, known from other texts.
        """
        a, b = one.split(), other.split()
        steps = SequenceMatcher(None, a, b, False).get_opcodes()
        kinds = {kind for kind, *_ in steps}
        swapped = [w for _, i, j, k, m in steps for w in a[i:j] + b[k:m] if a[i:j] != b[k:m]]
        return kinds == {"equal", "replace"} and all(self.words[w] > DISCOUNT for w in swapped)


def _pieces(key: str) -> frozenset[str]:
    return frozenset(key[i : i + 5] for i in range(max(1, len(key) - 4)))


def _overlap(one: str, other: str) -> float:
    """Jaccard's share of common five-character pieces."""
    a, b = _pieces(one), _pieces(other)
    return len(a & b) / len(a | b)


def _add_near(found: Copies, texts: Sequence[str | None], splits: np.ndarray, seed: int) -> Copies:
    """Near copies by MinHash (Broder 1997): texts that agree in a band of four hashes are
    compared; at 0.8 shared pieces 98.5% meet.
    """
    keys = [text or "" for text in texts]
    distinct = sorted({key for key in keys if key})
    place = {key: i for i, key in enumerate(distinct)}
    signs = _signatures(distinct, seed)  # (texts, HASHES)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    later, earlier, done = found.later.tolist(), found.earlier.tolist(), set(found.later.tolist())
    width = HASHES // BANDS
    for name in split_order(splits):
        mine = [row for row in np.flatnonzero(splits == name).tolist() if keys[row]]
        bands = {
            row: [
                (b, signs[place[keys[row]], b * width : (b + 1) * width].tobytes())
                for b in range(BANDS)
            ]
            for row in mine
        }
        for row in mine:
            if row not in done:
                candidates = dict.fromkeys(
                    other for band in bands[row] for other in buckets.get(band, [])[:3]
                )
                match = next(
                    (other for other in candidates if _overlap(keys[row], keys[other]) >= OVERLAP),
                    None,
                )
                if match is not None:
                    later.append(row)
                    earlier.append(match)
        for row in mine:
            for band in bands[row]:
                buckets[band].append(row)
    return Copies(np.array(later, dtype=np.int64), np.array(earlier, dtype=np.int64))


def _signatures(keys: Sequence[str], seed: int) -> np.ndarray:
    """(texts, HASHES) uint64: the least of each hash function over a text's pieces."""
    random = np.random.default_rng(seed)
    factor = random.integers(1, 2**61, HASHES, dtype=np.uint64) | np.uint64(1)
    shift = random.integers(0, 2**61, HASHES, dtype=np.uint64)
    out = np.zeros((len(keys), HASHES), np.uint64)
    for i, key in enumerate(keys):
        pieces = np.array([zlib.crc32(piece.encode()) for piece in _pieces(key)], dtype=np.uint64)
        out[i] = ((pieces[:, None] * factor + shift) >> np.uint64(20)).min(
            axis=0
        )  # (pieces, HASHES) -> (HASHES,)
    return out
