"""Texts that stand in two splits and are too long, or too unusual, to be there twice by chance."""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

import numpy as np

from mmlib.data.text import tokenize
from mmlib.leaks.copies import Copies, equal_rows
from mmlib.leaks.splits import split_order

# The expected number of such repeats under the model of words. It is so small because the model
# knows pairs of words only.
CHANCE = 1e-6
# A pair of words must stand in more than three texts to count as the language's: the pairs of a
# copy alone must not make it likely.
DISCOUNT = 3
# How many times as much proof is needed where two texts are one pattern, filled in two ways.
FILLED = 3
OVERLAP = 0.8  # shared part of all five-character pieces of two texts
HASHES, BANDS = 32, 8  # of MinHash


def text_copies(texts: Sequence[str], splits: np.ndarray, near: bool, seed: int) -> Copies:
    """Rows whose text an earlier split has too, where chance does not explain it.

    With ``near``, rows whose text is nearly one of an earlier split as well.

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
    model = WordPairs({key for key in keys if key})
    pairs = sum(key is not None for key in keys) ** 2
    keep = [
        math.log(pairs) + _overlap(keys[a], keys[b]) * model.log_chance(keys[a])
        < math.log(CHANCE) * (FILLED if model.one_pattern(keys[a], keys[b]) else 1)
        for a, b in zip(found.later, found.earlier)
    ]
    return Copies(found.later[keep], found.earlier[keep])


class WordPairs:
    """A model of the pairs of words in distinct texts, with absolute discounting.

    What is taken from the counts of pairs goes to the frequencies of the words themselves.
    """

    def __init__(self, keys: Iterable[str]):
        self.words = Counter[str]()
        self.pairs = Counter[tuple[str, str]]()
        self.before = Counter[str]()  # words as the first of a pair; "" begins and ends a text
        for key in keys:
            tokens = ["", *key.split(), ""]
            self.words.update(tokens[1:])
            self.before.update(tokens[:-1])
            self.pairs.update(zip(tokens, tokens[1:]))
        self.kept = Counter[str]()  # by first word: what the discount leaves of its pairs
        for (word, _), count in self.pairs.items():
            self.kept[word] += max(count - DISCOUNT, 0)
        self.total = self.words.total() + len(self.words)

    def log_chance(self, key: str) -> float:
        """Log of the probability that a text drawn from the model is this one."""
        tokens, chance = ["", *key.split(), ""], 0.0
        for word, after in zip(tokens, tokens[1:]):
            seen = self.before[word]
            alone = (1 - self.kept[word] / seen) * (self.words[after] + 1) / self.total
            chance += math.log(max(self.pairs[word, after] - DISCOUNT, 0) / seen + alone)
        return chance

    def one_pattern(self, one: str, other: str) -> bool:
        """Whether two texts are one pattern, filled in two ways.

        Wherever they differ, each has words of its own there, which other texts have too.
        """
        a, b = one.split(), other.split()
        steps = SequenceMatcher(None, a, b, False).get_opcodes()
        kinds = {kind for kind, *_ in steps}
        swapped = [w for _, i, j, k, m in steps for w in a[i:j] + b[k:m] if a[i:j] != b[k:m]]
        return kinds == {"equal", "replace"} and all(self.words[w] > DISCOUNT for w in swapped)


def _pieces(key: str) -> frozenset[str]:
    """All pieces of five characters of a text."""
    return frozenset(key[i : i + 5] for i in range(max(1, len(key) - 4)))


def _overlap(one: str, other: str) -> float:
    """Jaccard's share of common five-character pieces."""
    a, b = _pieces(one), _pieces(other)
    return len(a & b) / len(a | b)


def _add_near(found: Copies, texts: Sequence[str | None], splits: np.ndarray, seed: int) -> Copies:
    """``found``, and the near copies by MinHash (Broder, 1997).

    Texts that agree in a band of four hashes are compared: of those that share 0.8 of their pieces
    98.5% do.
    """
    keys = [text or "" for text in texts]
    bands = _bands(keys, seed)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    later, earlier, done = found.later.tolist(), found.earlier.tolist(), set(found.later.tolist())

    def near(row: int) -> Iterator[int]:
        """The rows of earlier splits whose text is nearly that of this row."""
        for other in dict.fromkeys(o for band in bands[keys[row]] for o in buckets[band][:3]):
            if _overlap(keys[row], keys[other]) >= OVERLAP:
                yield other

    for name in split_order(splits):
        rows = [row for row in np.flatnonzero(splits == name).tolist() if keys[row]]
        for row in rows:
            original = None if row in done else next(near(row), None)
            if original is not None:
                later.append(row)
                earlier.append(original)
        for row in rows:
            for band in bands[keys[row]]:
                buckets[band].append(row)
    return Copies(np.array(later, dtype=np.int64), np.array(earlier, dtype=np.int64))


def _bands(keys: Sequence[str], seed: int) -> dict[str, list[tuple[int, bytes]]]:
    """Each text's signature, cut into BANDS: the number of each band, and the hashes in it."""
    distinct = sorted({key for key in keys if key})
    width = HASHES // BANDS
    return {
        key: [(b, signature[b * width : (b + 1) * width].tobytes()) for b in range(BANDS)]
        for key, signature in zip(distinct, _signatures(distinct, seed))
    }


def _signatures(keys: Sequence[str], seed: int) -> np.ndarray:
    """(texts, HASHES) uint64: the least value of each hash function over a text's pieces."""
    random = np.random.default_rng(seed)
    factor = random.integers(1, 2**61, HASHES, dtype=np.uint64) | np.uint64(1)
    shift = random.integers(0, 2**61, HASHES, dtype=np.uint64)
    signatures = np.zeros((len(keys), HASHES), np.uint64)
    for i, key in enumerate(keys):
        pieces = np.array([zlib.crc32(piece.encode()) for piece in _pieces(key)], dtype=np.uint64)
        hashes = (pieces[:, None] * factor + shift) >> np.uint64(20)  # (pieces, HASHES)
        signatures[i] = hashes.min(axis=0)
    return signatures
