"""Where the samples of a modality lie: decoded in memory, or on disk and decoded when needed.

Both give the same numbers.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmlib.data.audio import read_audio
from mmlib.data.depth import Scale
from mmlib.data.image import read_image
from mmlib.data.text import Vocabulary

MAX_TOKENS = 256  # a longer text is cut


def to_int16(clip: Tensor) -> Tensor:
    """(L,) float32 in -1..1 -> int16, half the memory."""
    return (clip * 32767).round().to(torch.int16)


@dataclass
class Origin:
    """Where the files of a store are named, for messages, and how they were when first read."""

    column: str
    rows: Sequence[str]  # of the manifest: 'line 7'
    stamps: np.ndarray | None = None  # (files, 2) int64: size and time of the last change


@dataclass
class Images:
    """Images (files, 3, S, S) uint8; several rows may show one file."""

    where: np.ndarray  # (rows,) index of the row's file, -1 = missing
    paths: Sequence[str]
    size: int
    data: Tensor | None = None  # None: read from disk when needed
    origin: Origin | None = None
    checksums: np.ndarray | None = None  # (files,) of what ``decode`` read; None before that
    scale: Scale | None = None  # of images of more than 8 bits

    def reserve(self) -> None:
        """Make room in memory for all files."""
        self.data = torch.zeros(len(self.paths), 3, self.size, self.size, dtype=torch.uint8)

    def fetch(self, rows: np.ndarray) -> Tensor:
        """(B, 3, S, S) uint8; a row that is missing may hold anything."""
        index = torch.from_numpy(self.where[rows])
        if self.data is not None and len(self.data):
            return self.data[index.clamp(min=0)]
        out = torch.zeros(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        for i in index[index >= 0].unique().tolist():
            out[index == i] = self.load(i)
        return out

    def row_present(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: the row has an image."""
        return self.where[rows] >= 0

    def load(self, index: int) -> Tensor:
        """One file's image (3, S, S) uint8 from disk."""
        return _load(self, index, lambda path: read_image(path, self.size, self.scale))


@dataclass
class Clips:
    """Clips (L,) int16 at 16 kHz, of any length; several rows may play one file."""

    where: np.ndarray  # (rows,) index of the row's file, -1 = missing
    paths: Sequence[str]
    lengths: np.ndarray  # (files,) samples
    data: list[Tensor] | None = None
    origin: Origin | None = None
    checksums: np.ndarray | None = None  # as in Images

    def reserve(self) -> None:
        """Make room in memory for all files."""
        self.data = [torch.zeros(0, dtype=torch.int16)] * len(self.paths)

    def fetch(self, rows: np.ndarray) -> list[Tensor]:
        """B clips (L,) int16, empty where missing."""
        read = {
            i: self.data[i] if self.data is not None else self.load(i)
            for i in set(self.where[rows].tolist()) - {-1}
        }
        read[-1] = torch.zeros(0, dtype=torch.int16)
        return [read[i] for i in self.where[rows].tolist()]

    def row_present(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: the row has a clip."""
        return self.where[rows] >= 0

    def row_lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) samples, 0 where missing."""
        return np.append(self.lengths, 0)[self.where[rows]]  # -1 reads the 0

    def load(self, index: int) -> Tensor:
        """One file's clip (L,) int16 from disk."""
        return _load(self, index, lambda path: to_int16(read_audio(path)))


@dataclass
class Texts:
    """Token ids of all rows, one after the other."""

    flat: np.ndarray  # (all tokens,) int32
    offsets: np.ndarray  # (rows + 1,) row i is flat[offsets[i]:offsets[i + 1]]
    truncated: int = 0  # rows cut to MAX_TOKENS

    @classmethod
    def encode(cls, texts: Sequence[str], vocabulary: Vocabulary) -> "Texts":
        """Ids of every text, at most MAX_TOKENS each."""
        flat, lengths, truncated = [np.zeros(0, np.int32)], [0], 0
        # in blocks: a list of Python numbers takes ten times the memory of an array
        for start in range(0, len(texts), 4096):
            ids = [vocabulary.encode(text) for text in texts[start : start + 4096]]
            truncated += sum(len(row) > MAX_TOKENS for row in ids)
            lengths += [min(len(row), MAX_TOKENS) for row in ids]
            flat.append(np.fromiter((i for row in ids for i in row[:MAX_TOKENS]), dtype=np.int32))
        return cls(np.concatenate(flat), np.cumsum(lengths, dtype=np.int64), truncated)

    def fetch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """ids (B, T) int64 padded with 0 to the longest text, T >= 1, and mask (B, T)."""
        start, length = self.offsets[rows], self.row_lengths(rows)
        time = np.arange(max(1, length.max(initial=0)))  # (T,)
        mask = time < length[:, None]  # (B, T)
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = self.flat[(start[:, None] + time)[mask]]
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def row_present(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: the row has a token."""
        return self.row_lengths(rows) > 0

    def row_lengths(self, rows: np.ndarray) -> np.ndarray:
        """(B,) tokens, 0 where missing."""
        return self.offsets[rows + 1] - self.offsets[rows]


@dataclass
class Columns:
    """The columns of a table: scaled numbers first, then categories."""

    numbers: np.ndarray  # (rows, N) float32
    categories: np.ndarray  # (rows, C) int64, 0 = missing or never seen
    mask: np.ndarray  # (rows, N + C) bool

    def fetch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers (B, N), categories (B, C) and mask (B, N + C)."""
        parts = (self.numbers[rows], self.categories[rows], self.mask[rows])
        return torch.from_numpy(parts[0]), torch.from_numpy(parts[1]), torch.from_numpy(parts[2])

    def row_present(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: the row has a value in some column."""
        return self.mask[rows].any(axis=1)


Files = Images | Clips
Store = Files | Texts | Columns


def _load(store: Files, index: int, read: Callable[[str], Tensor]) -> Tensor:
    """One file from disk.

    Raises ValueError, naming row and column, where it is not as it was when it was first read.
    """
    path, origin = store.paths[index], store.origin
    if origin is None or origin.stamps is None:  # the first time: ``decode`` lists all bad files
        return read(path)
    try:
        if file_stamp(path) != tuple(origin.stamps[index]):
            raise ValueError("the file has changed since it was first read")
        return read(path)
    except (ValueError, OSError) as error:
        row = origin.rows[np.flatnonzero(store.where == index)[0]]
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{row}, column {origin.column!r}, {path!r}: {reason}; put it back as it was and go "
            "on, or train again from the start"
        ) from error


def file_stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def checksum(store: Store, rows: np.ndarray) -> int:
    """A number that changes with the content of these rows, as it was decoded.

    It is the same for data in memory and on disk.
    """
    if isinstance(store, Columns):
        parts = [store.numbers[rows], store.categories[rows], store.mask[rows]]
        return zlib.crc32(b"".join(part.tobytes() for part in parts))
    if isinstance(store, Texts):
        spans = zip(store.offsets[rows].tolist(), store.offsets[rows + 1].tolist(), strict=True)
        parts = [np.zeros(0, np.int32), *(store.flat[start:stop] for start, stop in spans)]
        return zlib.crc32(np.concatenate(parts).data, zlib.crc32(store.row_lengths(rows).data))
    sums = store.checksums
    if sums is None:  # not from files, but given
        items = [] if store.data is None else store.data
        sums = np.array([checksum_of(item) for item in items], dtype=np.uint32)
    return zlib.crc32(np.append(sums, np.uint32(0))[store.where[rows]].data)  # -1 reads the 0


def checksum_of(item: Tensor) -> int:
    """A checksum of one decoded file."""
    return zlib.crc32(item.numpy().data)
