"""Tar shards in the format of WebDataset: any order can be resumed in the middle of a shard."""

import io
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

import mmlib
from mmlib.core import Output
from mmlib.data.stream import ShardLoader, Shards, write_shards


def samples(count=50):
    return [
        {
            "__key__": f"part/{i:03d}",
            "x.npy": np.full(3, i, np.float32).tobytes(),
            "cls": str(i % 2),
        }
        for i in range(count)
    ]


def collate(found):
    x = torch.stack(
        [torch.frombuffer(bytearray(one["x.npy"]), dtype=torch.float32) for one in found]
    )
    numbers = torch.tensor([int(one["__key__"][-3:]) for one in found])
    target = torch.tensor([int(one["cls"]) for one in found])
    return {
        "x": x,
        "x_mask": torch.ones(len(x), 3, dtype=torch.bool),
        "target": target,
        "n": numbers,
    }


@pytest.fixture
def shards(tmp_path):
    return Shards(write_shards(samples(), tmp_path / "shards", count=4))  # 13 shards


def numbers(batches):
    return [batch["n"].tolist() for batch in batches]


def test_what_is_written_is_read_and_the_same_samples_are_the_same_bytes(tmp_path):
    paths = write_shards(iter(samples(9)), tmp_path / "a", count=4)
    again = write_shards(iter(samples(9)), tmp_path / "b", count=4)
    assert [path.name for path in paths] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    shards = Shards(paths)
    assert len(shards) == 9 and shards.shard.tolist() == [0] * 4 + [1] * 4 + [2]
    for i, sample in enumerate(samples(9)):
        assert shards[i] == sample | {"cls": sample["cls"].encode()}


def test_long_names_large_and_empty_files_are_read_back(tmp_path):
    long = "ä" * 90 + "/" + "b" * 120
    written = [{"__key__": long, "a": b"", "b": bytes(100_000)}, {"__key__": "c", "a": b"1"}]
    shards = Shards(write_shards(written, tmp_path))
    assert [shards[i] for i in range(2)] == written


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pass_resumed_after_any_batch_gives_the_rest_of_it_bit_for_bit(shards, workers, shuffle):
    whole = ShardLoader(shards, collate, 3, seed=7, shuffle=shuffle)
    whole.set_epoch(2)
    expected = list(whole)
    assert len(expected) == len(whole) == 17
    for skip in (0, 1, 2, 9, 16, 17):
        rest = ShardLoader(shards, collate, 3, seed=7, shuffle=shuffle, workers=workers)
        rest.set_epoch(2, skip=skip)
        found = list(rest)
        assert len(found) == 17 - skip
        for a, b in zip(expected[skip:], found, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(shards):
    loader = ShardLoader(shards, collate, 8, seed=1)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append(sum(numbers(loader), []))
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != sum(numbers(ShardLoader(shards, collate, 8, seed=2)), [])


def test_few_shards_are_read_at_a_time_and_their_samples_are_mixed(tmp_path):
    shards = Shards(write_shards(samples(400), tmp_path, count=10))  # 40 shards
    files = shards.shard[shards.order(0, 0)]
    for i in range(0, 400, 80):  # 8 shards of 10
        assert len(set(files[i : i + 80])) == 8
    assert len(set(files[:20])) > 4


def test_the_parts_of_several_processes_are_each_sample_once(shards):
    whole = numbers(ShardLoader(shards, collate, 7, seed=3))
    parts = [list(ShardLoader(shards, collate, 7, seed=3).shard(rank, 3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        for rank in range(3):
            found = parts[rank][number]
            assert ([] if found is None else found["n"].tolist()) == batch[rank::3]


def test_reading_leaves_torchs_generator_as_it_is(shards):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    list(ShardLoader(shards, collate, 8, workers=1))
    assert torch.equal(torch.random.get_rng_state(), before)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, batch):
        logits = self.net(batch["x"] / 50)
        loss = nn.functional.cross_entropy(logits, batch["target"])
        return Output(logits, loss, torch.tensor(float(len(logits))))


class Stopping(ShardLoader):
    """Stops in epoch 2 after five batches: a batch of 3 does not end where a shard of 4 does."""

    def __iter__(self):
        batches, epoch = super().__iter__(), self.epoch
        for number, batch in enumerate(batches):
            if epoch == 2 and number == 5:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("before, after", [(0, 0), (2, 2), (0, 2)])
def test_a_run_stopped_in_the_middle_of_a_shard_and_resumed_is_as_if_never_stopped(
    shards, tmp_path, before, after
):
    config = mmlib.TrainConfig(epochs=3, checkpoint_every=1, device="cpu")

    def run(out, loader, resume=False):
        torch.manual_seed(0)
        model = Linear()
        history = mmlib.fit(model, loader, config=config, out=tmp_path / out, resume=resume)
        return [row["loss"] for row in history], model.state_dict()

    losses, weights = run("whole", ShardLoader(shards, collate, 3))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Stopping(shards, collate, 3, workers=before))
    found, again = run("stopped", ShardLoader(shards, collate, 3, workers=after), resume=True)
    assert found == losses and all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_run_is_not_resumed_with_other_shards(shards, tmp_path):
    config = mmlib.TrainConfig(epochs=1, device="cpu")
    mmlib.fit(Linear(), ShardLoader(shards, collate, 3), config=config, out=tmp_path / "run")
    other = Shards(write_shards(samples(49), tmp_path / "other", count=4))
    with pytest.raises(ValueError, match="index"):
        mmlib.fit(
            Linear(),
            ShardLoader(other, collate, 3),
            config=config,
            out=tmp_path / "run",
            resume=True,
        )


# ---- what is refused


@pytest.mark.parametrize(
    "bad, words",
    [
        ([{"txt": b"a"}], "__key__ None"),
        ([{"__key__": "a"}], "nothing but its key"),
        ([{"__key__": "a", "txt": b""}, {"__key__": "a", "txt": b""}], "'a' after 'a'"),
        ([{"__key__": "a.b", "txt": b""}], "has no dot"),
        ([{"__key__": "", "txt": b""}], "has no dot"),
        ([{"__key__": "a/", "txt": b""}], "has no dot"),
        ([{"__key__": "a", "TXT": b""}], "capital letters"),
        ([{"__key__": "a", "": b""}], "neither is empty"),
        ([{"__key__": "a", "x/y": b""}], "slashes"),
    ],
)
def test_a_sample_that_would_not_be_read_back_is_refused(tmp_path, bad, words):
    with pytest.raises(ValueError, match=words):
        write_shards(bad, tmp_path)


def test_shards_are_not_overwritten_and_damaged_ones_are_named(tmp_path):
    (path,) = write_shards(samples(9), tmp_path)
    with pytest.raises(FileExistsError):
        write_shards(samples(9), tmp_path)
    data = path.read_bytes()
    # after a sample, in one, in its content, in a header; a header is damaged
    cut = [data[:end] for end in (1024 * 10, 1024 * 9, 1024 * 9 + 600, 1024 * 9 + 100, 600, 100)]
    for left in [*cut, data[:9300] + b"x" + data[9301:]]:
        path.write_bytes(left)
        with pytest.raises(ValueError, match=r"000000\.tar is"):
            Shards([path])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"000000\.tar is no plain tar file"):
        Shards([path])
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match=r"000000\.tar is no plain tar file"):
        Shards([path])
    with pytest.raises(ValueError, match="no samples in 0 shards"):
        Shards([])


def test_what_belongs_to_no_sample_is_passed_over_and_two_files_of_one_suffix_are_an_error(
    tmp_path,
):
    def tar_of(name, *names):
        with tarfile.open(tmp_path / name, "w") as tar:
            for i, inside in enumerate(names):
                header = tarfile.TarInfo(inside)
                header.size = 1
                if inside.endswith("/"):
                    header.type, header.size = tarfile.DIRTYPE, 0
                tar.addfile(header, io.BytesIO(b"%d" % i))
        return Shards([tmp_path / name])

    found = tar_of("a.tar", "README", "./", "./a.TXT", "./.hidden", "./a.cls", "b.txt")
    assert [found[i] for i in range(len(found))] == [
        {"__key__": "./a", "txt": b"2", "cls": b"4"},
        {"__key__": "b", "txt": b"5"},
    ]
    with pytest.raises(ValueError, match="'a' has 'txt' twice"):
        tar_of("b.tar", "a.txt", "a.TXT")[0]


# ---- webdataset is the judge


@pytest.fixture
def webdataset():
    return pytest.importorskip("webdataset", reason="webdataset is not installed")


def known(sample):
    """Without what webdataset adds: where it comes from."""
    return {k: v for k, v in sample.items() if k == "__key__" or not k.startswith("__")}


def test_webdataset_reads_our_shards(webdataset, tmp_path):
    paths = write_shards(samples(9), tmp_path, count=4)
    read = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    shards = Shards(paths)
    assert [known(sample) for sample in read] == [shards[i] for i in range(9)]


def test_we_read_the_shards_of_webdataset(webdataset, tmp_path):
    pattern = str(tmp_path / "%02d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for i in range(9):
            name = f"deep/er/{i}" if i % 2 else f"{i}" * 60
            writer.write({"__key__": name, "cls": i, "a.json": {"n": i}, "txt": f"ä {i}"})
    paths = sorted(tmp_path.glob("*.tar"))
    shards = Shards(paths)
    read = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    assert [shards[i] for i in range(len(shards))] == [known(sample) for sample in read]
    assert len(shards) == 9
