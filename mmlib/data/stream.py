"""Data larger than memory: samples in tar files, in the format of WebDataset.

A shard is a plain tar file. ``0001.jpg``, ``0001.wav`` and ``0001.cls``, one after the other, are
one sample with the key ``0001``. Each shard is indexed once, by its headers. So any sample can be
read by itself: the order is a function of (seed, epoch), and a pass can go on after any batch.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmlib.core import Batch
from mmlib.data.assemble import BATCHES, ORDER
from mmlib.data.draws import keys

MIXED = 8  # shards whose samples are shuffled together
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # webdataset's: the key ends at the first dot
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
Sample = Mapping[str, Any]  # "__key__": the key; else by suffix, bytes


def write_shards(samples: Iterable[Sample], folder: str | Path, count: int = 1000) -> list[Path]:
    """Write samples into ``folder/000000.tar`` and so on, ``count`` in each -> the files.

    A sample has a ``__key__``, and bytes or text by suffix. Samples of one shard that are alike
    (sorted by class) are alike in training, too: shuffle them first. The same samples give the same
    bytes. Raises ValueError for a key or suffix that cannot be read back, and where a file is there
    already.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_shards([{"__key__": "a", "txt": "it purrs", "cls": "0"}], folder)
    ...     Shards(paths)[0]
    {'__key__': 'a', 'txt': b'it purrs', 'cls': b'0'}
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for block in _blocks(samples, count):
        paths.append(Path(folder) / f"{len(paths):06d}.tar")
        with tarfile.open(paths[-1], "x") as tar:
            last = None
            for sample in block:
                _check_sample(sample, last)
                last = sample["__key__"]
                for suffix, value in sample.items():
                    if suffix != "__key__":
                        _add(tar, f"{last}.{suffix}", value)
    return paths


def _blocks(samples: Iterable[Sample], count: int) -> Iterator[Iterator[Sample]]:
    rest = iter(samples)
    for first in rest:
        yield chain([first], islice(rest, count - 1))


def _check_sample(sample: Sample, last: str | None) -> None:
    key = sample.get("__key__")
    if not isinstance(key, str) or key == last:
        raise ValueError(f"a sample has the __key__ {key!r} after {last!r}, expected another text")
    if len(sample) < 2:
        raise ValueError(f"sample {key!r} has nothing but its key")
    for suffix in sample:
        found = _NAME.fullmatch(f"{key}.{suffix}")
        if suffix != "__key__" and (not found or found.groups() != (key, suffix.lower())):
            raise ValueError(
                f"sample {key!r} with the suffix {suffix!r}: the last part of a key has no dot, a "
                "suffix neither slashes nor capital letters; neither is empty"
            )


def _add(tar: tarfile.TarFile, name: str, value: bytes | str) -> None:
    content = value.encode() if isinstance(value, str) else value
    header = tarfile.TarInfo(name)  # without time and owner: the same samples, the same bytes
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


class Shards(Dataset[dict[str, Any]]):
    """The samples of tar files, by their number; also of shards that webdataset wrote.

    Each sample is a dict: its ``__key__``, and bytes by suffix. ``shard`` (N,) says in which file
    each sample lies. Raises ValueError, naming the file, for one that is cut off or not a plain tar
    file (a compressed one cannot be read from the middle).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = Shards(write_shards([{"__key__": "a", "txt": "it purrs"}], folder))
    ...     len(shards), shards.shard.tolist(), shards[0]["txt"]
    (1, [0], b'it purrs')
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [str(path) for path in paths]
        found = [_index(path) for path in self.paths]
        self.places = np.concatenate([np.zeros((0, 2), np.int64), *found])  # (N, 2) begin, end
        self.shard = np.repeat(np.arange(len(found)), [len(part) for part in found])
        if not len(self.places):
            raise ValueError(f"no samples in {len(self.paths)} shards")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        begin, end = self.places[index].tolist()
        path = self.paths[self.shard[index]]
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            content = file.read(end - begin)
        sample: dict[str, Any] = {}
        for member, place in _members(content):
            key, suffix = _split(member)
            if key is None:
                continue
            if suffix in sample:
                raise ValueError(f"{path}: sample {key!r} has {suffix!r} twice")
            sample["__key__"] = key
            sample[suffix] = content[place : place + member.size]
        return sample

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """(N,) all samples in the order of an epoch: shards shuffled, ``MIXED`` of them at a time.

        It is a function of (seed, epoch).
        """
        ranks = keys(seed, epoch, np.arange(len(self.paths)), BATCHES).argsort().argsort()
        return np.lexsort(
            (keys(seed, epoch, np.arange(len(self)), ORDER), ranks[self.shard] // MIXED)
        )


def _members(content: bytes) -> list[tuple[tarfile.TarInfo, int]]:
    """The headers in a piece of a tar file, and where the content of each begins.

    Headers are read one by one, as opening the piece as a tar file takes longer than all else. Only
    where one says something of the next (a long name, say), tarfile has to.
    """
    found, place = [], 0
    while place < len(content):
        member = tarfile.TarInfo.frombuf(content[place : place + 512], "utf-8", "surrogateescape")
        if member.type not in _PLAIN:
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                return [(inside, inside.offset_data) for inside in tar]
        found.append((member, place + 512))
        place += 512 + -(-member.size // 512) * 512
    return found


def _split(member: tarfile.TarInfo) -> tuple[str | None, str]:
    """Key and suffix of a file; None for what belongs to no sample."""
    found = _NAME.fullmatch(member.name) if member.isfile() else None
    return (found[1], found[2].lower()) if found else (None, "")


def _index(path: str) -> np.ndarray:
    """(samples, 2) where each sample begins and ends in a tar file."""
    places: list[list[int]] = []
    last = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _ = _split(member)
                end = member.offset_data + -(-member.size // 512) * 512
                if key is not None and key != last:
                    places.append([member.offset, end])
                elif key is not None:
                    places[-1][1] = end
                last = key or last
            stopped = tar.offset  # at the block of zeros that ends a tar file, or at damage
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no plain tar file, or damaged ({error})") from error
    with open(path, "rb") as file:
        file.seek(stopped)
        if file.read(512) != bytes(512):
            raise ValueError(f"{path} is cut off or damaged after {stopped:,} bytes: get it again")
    return np.array(places, np.int64).reshape(-1, 2)


@dataclass
class ShardLoader:
    """Batches of shards, for ``fit`` and ``evaluate``: they resume in the middle of a shard.

    ``collate`` makes a batch of a list of samples, such as
    ``lambda samples: fitted.batch([{"text": s["txt"].decode()} for s in samples])`` with a target.
    With ``workers``, as many processes read and collate. Each batch is a function of (seed, epoch,
    its number), whatever was read before, and by how many workers. Several processes of torchrun
    read rows rank::world of each batch.

    >>> import tempfile
    >>> samples = [{"__key__": str(i), "cls": str(i % 2)} for i in range(6)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = Shards(write_shards(samples, folder, count=2))
    ...     loader = ShardLoader(shards, lambda found: [one["__key__"] for one in found], 4)
    ...     whole = list(loader)
    ...     loader.set_epoch(0, skip=1)
    ...     list(loader) == whole[1:]
    True
    """

    shards: Shards
    collate: Callable[[list[dict[str, Any]]], Batch]
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    workers: int = 0
    rank: int = 0
    world: int = 1
    epoch: int = 0
    skip: int = 0

    def __len__(self) -> int:
        return -(-len(self.shards) // self.batch_size)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The next pass is that of ``epoch``; its first ``skip`` batches are not even read."""
        self.epoch, self.skip = epoch, skip

    def shard(self, rank: int, world: int) -> "ShardLoader":
        """The part of process ``rank`` of ``world``; see ``mmlib.train.share.Shardable``."""
        return replace(self, rank=rank, world=world)

    def identity(self) -> dict[str, Any]:
        """What decides about the batches: a run resumes only where it is the same."""
        index = zlib.crc32(self.shards.places.data, zlib.crc32(self.shards.shard.data))
        settings = {"batch_size": self.batch_size, "seed": self.seed, "shuffle": self.shuffle}
        return settings | {"samples": len(self.shards), "checksum of the index": index}

    def __iter__(self) -> Iterator[Batch | None]:
        order = np.arange(len(self.shards))
        if self.shuffle:
            order = self.shards.order(self.seed, self.epoch)
        begins = range(self.skip * self.batch_size, len(order), self.batch_size)
        parts = [order[i : i + self.batch_size][self.rank :: self.world].tolist() for i in begins]
        self.skip = 0
        return iter(
            DataLoader(
                self.shards,
                batch_sampler=parts,
                num_workers=self.workers,
                collate_fn=partial(_collate, self.collate),
                generator=torch.Generator(),  # of its own: it leaves torch's as it is
            )
        )


def _collate(given: Callable[[list[Any]], Batch], samples: list[Any]) -> Batch | None:
    return given(samples) if samples else None
