"""Loaders: batches keep the contract; order and changes are functions of (seed, epoch, row).

Nothing is fitted outside train.
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmlib.core import Batch, check_batch
from mmlib.data import Augment, ManifestErrors, Preprocessing, load_data, read_manifest
from mmlib.data.audio import RATE, WINDOW
from mmlib.data.augment import change_audio, change_images, drop_modalities
from mmlib.data.decode import estimate
from mmlib.data.draws import draws
from mmlib.data.loaders import Loader, Shard
from mmlib.data.store import Clips, Images

MODALITIES = ["audio", "image", "text"]
ROWS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows that are full, ragged, image-less, text-only and empty, and clips over four seconds."""
    root, random = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    lines = ["image,text,audio,label,split"]
    for i in range(ROWS):
        split = ["train", "train", "val", "test"][i % 4]
        Image.fromarray(random.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).save(
            root / f"{i}.png"
        )
        long = 9.5 if i in (4, 7) else random.uniform(0.05, 0.4)
        soundfile.write(
            root / f"{i}.wav", 0.3 * random.normal(size=round(8000 * long)).clip(-3, 3), 8000
        )
        image = f"{i}.png"
        audio = f"{i}.wav"
        text = " ".join(f"{split}{k}" for k in range(i % 5 + 1))
        if i % 5 == 1:
            image = ""
        if i in (1, 6, 11):
            audio = ""
        if i in (8, 9, 10, 11):
            image = text = audio = ""
        lines.append(f"{image},{text},{audio},{'cat' if i % 3 else 'dog'},{split}")
    (root / "m.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def data(folder):
    return load_data(read_manifest(folder / "m.csv"), batch_size=4, memory=True)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def samples(batches) -> dict[int, dict]:
    """Every sample by its row, without its padding: so any two make-ups of batches compare."""
    found = {}
    for batch in batches:
        for i, row in enumerate(batch["row"].tolist()):
            assert row not in found
            found[row] = {
                name: batch[name][i][..., : int(batch[f"{name}_mask"][i].sum())]
                for name in MODALITIES
            }
            found[row]["target"] = batch["target"][i]
    return found


def test_the_memory_that_files_take_is_known_before_they_are_read(tmp_path):
    images = Images(np.arange(3), ["a.png"] * 3, size=40)
    images.reserve()
    assert estimate(images) == images.data.nbytes
    paths = [str(tmp_path / f"{seconds}.wav") for seconds in (1, 2, 6)]
    for path, seconds in zip(paths, (1, 2, 6), strict=True):
        soundfile.write(path, np.zeros(seconds * 8_000), 8_000)  # at 16 kHz twice as many samples
    assert estimate(Clips(np.arange(3), paths, np.zeros(3))) == 2 * RATE * 9


def test_every_batch_keeps_the_contract_and_has_target_and_row(data):
    kinds = set()
    for loader in data.loaders.values():
        for batch in loader:
            check_batch(batch, MODALITIES)
            assert set(batch) == {*MODALITIES, *(f"{n}_mask" for n in MODALITIES), "target", "row"}
            assert batch["target"].dtype == batch["row"].dtype == batch["text"].dtype == torch.int64
            full = batch["image_mask"].float().mean(dim=1)
            assert ((full == 0) | (full == 1)).all()
            for name in MODALITIES:
                assert name == "image" or batch[f"{name}_mask"].any(dim=0)[1:].all(), (
                    "padded further than the longest sample"
                )
                mask = batch[f"{name}_mask"]
                if name == "image":
                    mask = mask[:, None, None].expand_as(batch["image"])
                assert (batch[name][~mask] == 0).all()
            kinds |= {
                tuple(row)
                for row in torch.stack(
                    [batch[f"{n}_mask"].any(dim=1) for n in MODALITIES], dim=1
                ).tolist()
            }
    assert {
        (True, True, True),
        (True, False, True),
        (False, False, True),
        (False, False, False),
    } <= kinds
    assert len(data.loaders["train"]) == len(list(data.loaders["train"]))


def test_the_targets_belong_to_their_rows(data):
    for loader in data.loaders.values():
        for batch in loader:
            names = [data.preprocessing.target.classes[t] for t in batch["target"]]
            assert names == ["cat" if row % 3 else "dog" for row in batch["row"].tolist()]


def test_rows_without_a_modality_are_left_out_of_training_only_and_counted(data):
    rows = {
        name: [row for batch in loader for row in batch["row"].tolist()]
        for name, loader in data.loaders.items()
    }
    assert sorted(rows["train"]) == [i for i in range(ROWS) if i % 4 < 2 and i not in (8, 9)]
    assert data.loaders["train"].dropped == 2
    assert sorted(set(rows["val"])) == [i for i in range(ROWS) if i % 4 == 2]
    assert 11 in rows["test"]
    assert data.loaders["test"].dropped == 0
    assert any("2 training rows have none" in line for line in data.summary)


def test_nothing_is_fitted_outside_the_training_rows(data, folder):
    words = data.preprocessing.vocabularies["text"].to_list()
    assert words and all(word.startswith("train") for word in words)
    pixels = torch.cat(
        [
            torch.from_numpy(np.array(Image.open(folder / f"{i}.png"))).reshape(-1, 3)
            for i in (0, 4, 5, 12, 13, 17, 20)
        ]
    )
    state = data.preprocessing
    assert np.allclose(state.mean["image"], pixels.double().mean(dim=0) / 255, atol=0.01)
    lines = (folder / "m.csv").read_text().splitlines()
    other = [
        line if line.endswith(("split", "train")) else line.replace("val0", "zzz")
        for line in lines
        if not line.startswith("3.png")
    ]
    (folder / "changed.csv").write_text("\n".join(other) + "\n")
    changed = load_data(read_manifest(folder / "changed.csv"), memory=True).preprocessing
    assert changed.state() == state.state()


def test_memory_and_disk_give_the_same_batches_bit_for_bit(data, folder):
    streamed = load_data(
        read_manifest(folder / "m.csv"), batch_size=4, memory=False, workers=2, progress=False
    )
    assert streamed.preprocessing.state() == data.preprocessing.state()
    for name in data.loaders:
        for epoch in (0, 1):
            for loader in (data.loaders[name], streamed.loaders[name]):
                loader.set_epoch(epoch)
            pairs = list(zip(data.loaders[name], streamed.loaders[name], strict=True))
            assert pairs and all(same(a, b) for a, b in pairs)
    next(iter(streamed.loaders["train"]))  # a pass that stops early leaves nothing behind
    streamed.loaders["train"].set_epoch(3, skip=2)
    data.loaders["train"].set_epoch(3)
    assert all(
        same(a, b)
        for a, b in zip(list(data.loaders["train"])[2:], streamed.loaders["train"], strict=True)
    )


def test_iterating_leaves_the_global_random_state_alone(folder):
    for workers in (0, 1):
        loader = load_data(
            read_manifest(folder / "m.csv"), memory=not workers, workers=workers
        ).loaders["train"]
        before = torch.get_rng_state()
        list(loader)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_sample_depends_on_seed_epoch_and_row_not_on_its_batch(data):
    loader = data.loaders["train"]
    part = loader.batches

    def read(batch_size, epoch=2, seed=0):
        other = Loader(
            part.preprocessing,
            part.stores,
            np.array(part.rows),
            part.target,
            batch_size,
            seed,
            part.augment,
        )
        other.set_epoch(epoch)
        return samples(other)

    by_four = read(4)
    for size in (1, 3, 64):
        other = read(size)
        assert other.keys() == by_four.keys()
        assert all(same(other[row], by_four[row]) for row in by_four)
    assert not all(same(a, by_four[row]) for row, a in read(4, epoch=3).items())
    assert not all(same(a, by_four[row]) for row, a in read(4, seed=1).items())


def test_the_order_changes_with_the_epoch_and_comes_back(data):
    loader = data.loaders["train"]

    def order(epoch):
        loader.set_epoch(epoch)
        return [row for batch in loader for row in batch["row"].tolist()]

    first = order(0)
    assert order(1) != first and sorted(order(1)) == sorted(first) and order(0) == first


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("name", ["train", "test"])
def test_the_shards_of_a_batch_are_the_batch(data, world, name):
    loader = data.loaders[name]
    loader.set_epoch(1)
    shards = [loader.shard(rank, world) for rank in range(world)]
    for shard in shards:
        shard.set_epoch(1)
        assert len(shard) == len(loader)
    none = 0
    for whole, *parts in zip(loader, *shards, strict=True):
        none += sum(part is None for part in parts)
        for rank, part in enumerate(parts):
            if part is None:
                assert not len(whole["row"][rank::world])
                continue
            for key in ("row", "image"):
                assert torch.equal(part[key], whole[key][rank::world])
    assert none or world < 5
    with pytest.raises(ValueError, match="rank"):
        loader.shard(2, 2)


def test_skipping_is_the_same_as_having_iterated(data):
    loader = data.loaders["train"]
    loader.set_epoch(5)
    whole = list(loader)
    loader.set_epoch(5, skip=2)
    assert len(loader) == len(whole)
    assert all(same(a, b) for a, b in zip(loader, whole[2:], strict=True))
    assert len(list(loader)) == len(whole)  # the skip was for one pass


def test_long_clips_are_cut_at_random_in_training_and_windowed_in_evaluation(data):
    assert max(batch["audio"].shape[1] for batch in data.loaders["train"]) <= WINDOW
    windows = [
        clip[mask]
        for batch in data.loaders["test"]
        for clip, mask, row in zip(batch["audio"], batch["audio_mask"], batch["row"], strict=True)
        if row == 7
    ]
    clip = data.loaders["test"].batches.stores["audio"].fetch(np.array([7]))[0].float() / 32767
    assert len(windows) == 3 and all(len(w) == WINDOW for w in windows)  # 9.5 s
    assert torch.equal(windows[0], clip[:WINDOW])
    assert torch.equal(windows[2], clip[-WINDOW:])
    assert data.loaders["test"].samples == 6 + 2
    calm = Augment(gain=0, silence=0, speed=0, noise=0, modality_dropout=0)
    batches = data.loaders["train"].batches
    cuts = set()
    for epoch in range(3):
        loader = Loader(
            batches.preprocessing, batches.stores, np.array([4]), batches.target, 1, 0, calm
        )
        loader.set_epoch(epoch)
        cut = next(iter(loader))["audio"][0]
        whole = batches.stores["audio"].fetch(np.array([4]))[0].float() / 32767
        start = next(
            i
            for i in range(len(whole) - WINDOW + 1)
            if whole[i] == cut[0] and torch.equal(whole[i : i + WINDOW], cut)
        )
        cuts.add(start)
    assert len(cuts) == 3


def test_a_loader_promises_batches_and_only_its_shards_may_give_none():
    """So a type checker lets ``fit(model, data.loaders["train"])`` pass."""
    whole, part = get_type_hints(Loader.__iter__), get_type_hints(Shard.__iter__)
    assert whole["return"] == Iterator[Batch] and part["return"] == Iterator[Batch | None]
    assert get_type_hints(Loader.shard)["return"] is Shard


def test_a_shard_begins_where_its_loader_stands(data):
    loader = data.loaders["train"]
    loader.set_epoch(2, skip=1)
    parts = [list(loader.shard(rank, 2)) for rank in (0, 1)]
    for whole, *halves in zip(loader, *parts, strict=True):
        rows = [half["row"] for half in halves if half is not None]
        assert sorted(torch.cat(rows).tolist()) == sorted(whole["row"].tolist())


# ---- augmentation


def test_draws_are_uniform_and_independent():
    u = draws(0, 0, np.arange(20_000), 1, 4)
    assert u.min() >= 0
    assert u.max() < 1
    assert (u.mean(dim=0) - 0.5).abs().max() < 0.01
    assert (u.var(dim=0) - 1 / 12).abs().max() < 0.003
    tables = [
        u,
        draws(1, 0, np.arange(20_000), 1, 4),
        draws(0, 1, np.arange(20_000), 1, 4),
        draws(0, 0, np.arange(20_000), 2, 4),
    ]
    together = torch.cat(tables, dim=1)
    assert (torch.corrcoef(together.T) - torch.eye(16)).abs().max() < 0.03
    assert torch.equal(draws(0, 0, np.array([7, 3]), 1, 2), u[[7, 3], :2])


def test_no_strength_no_change():
    still = Augment(**{name: False if name == "flip" else 0.0 for name in vars(Augment())})
    x, u = torch.randn(3, 3, 32, 32), torch.rand(3, 8)
    torch.testing.assert_close(change_images(x, u, still), x, atol=1e-5, rtol=0)
    y, lengths = torch.rand(3, 50) - 0.5, torch.tensor([50, 20, 0])
    y = y * (torch.arange(50) < lengths[:, None])
    z, same_lengths = change_audio(y, lengths, u, still)
    assert torch.equal(z, y) and torch.equal(lengths, same_lengths)


def test_images_move_as_torchvision_says():
    from torchvision.transforms.functional import InterpolationMode, affine

    x, u = torch.rand(1, 3, 64, 64), torch.full((1, 8), 0.5)
    x = torch.nn.functional.avg_pool2d(x, 7, 1, 3)
    turned = change_images(x, u.index_fill(1, torch.tensor([0]), 1.0), Augment())
    expected = affine(x, -10.0, [0, 0], 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)
    torch.testing.assert_close(
        turned[..., 12:-12, 12:-12], expected[..., 12:-12, 12:-12], atol=1e-4, rtol=0
    )
    moved = change_images(x, u.index_fill(1, torch.tensor([4]), 1.0), Augment(shift=1 / 16))
    torch.testing.assert_close(moved[..., :-4], x[..., 4:], atol=1e-4, rtol=0)
    flipped = change_images(x, u.index_fill(1, torch.tensor([3]), 0.0), Augment(flip=True))
    torch.testing.assert_close(flipped, x.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        change_images(x, u.index_fill(1, torch.tensor([3]), 0.0), Augment()), x, atol=1e-4, rtol=0
    )


def test_speed_changes_length_and_pitch_and_silence_comes_first():
    x = torch.sin(2 * torch.pi * 500 * torch.arange(8000) / RATE)[None]
    u = torch.full((1, 6), 0.5)
    u[:, 4] = 0
    fast, length = change_audio(
        x, torch.tensor([8000]), u.index_fill(1, torch.tensor([0]), 1.0), Augment(silence=0)
    )
    assert abs(int(length) - 8000 / 1.1) <= 1
    peak = float(torch.fft.rfft(fast[0], n=1 << 16).abs().argmax()) * RATE / (1 << 16)  # in Hz
    assert abs(peak - 550) < 2
    late, length = change_audio(x, torch.tensor([8000]), u, Augment(silence=0.1))
    assert int(length) == 8800 and (late[0, :800] == 0).all() and torch.equal(late[0, 800:], x[0])


def test_modality_dropout_always_leaves_a_modality_and_takes_only_what_is_there():
    present = torch.rand(5000, 3) < 0.7
    dropped = drop_modalities(present, torch.rand(5000, 3), Augment(modality_dropout=0.5))
    assert not (dropped & ~present).any()
    assert ((present & ~dropped).any(dim=1) == present.any(dim=1)).all()
    three = present.all(dim=1)
    assert abs(dropped[three].float().mean() - (0.5 - 0.5**3 / 3)) < 0.03
    everything = drop_modalities(
        torch.ones(100, 3, dtype=torch.bool), torch.rand(100, 3), Augment(modality_dropout=1.0)
    )
    assert (everything.sum(dim=1) == 2).all()


def test_words_become_unknown_in_training_only(data):
    part = data.loaders["train"].batches
    loader = Loader(
        part.preprocessing,
        part.stores,
        np.array(part.rows),
        part.target,
        64,
        0,
        Augment(words=0.5, modality_dropout=0),
    )
    batch = next(iter(loader))
    assert 0.2 < (batch["text"] == 1)[batch["text_mask"]].float().mean() < 0.8
    assert (batch["text"][~batch["text_mask"]] == 0).all()
    calm = next(iter(Loader(part.preprocessing, part.stores, np.array(part.rows), part.target, 64)))
    assert not (calm["text"] == 1).any()
    with pytest.raises(ValueError, match="Augment.words"):
        Augment(words=2.0)


# ---- a fitted preprocessing on other data


def test_preprocessing_is_plain_and_comes_back(data):
    state = data.preprocessing.state()
    again = Preprocessing.from_state(json.loads(json.dumps(state)))
    assert again.state() == state and again.modalities == data.preprocessing.modalities
    assert pickle.loads(pickle.dumps(again)).state() == state
    with pytest.raises(ValueError, match="8000"):
        Preprocessing.from_state(state | {"rate": 8000})


def test_a_state_of_version_0_1_is_read(data):
    state = json.loads(json.dumps(data.preprocessing.state()))
    old = state | {"senses": state["modalities"]}
    del old["modalities"], old["group"], old["split_columns"]
    old["target"] = {name: old["target"][name] for name in ("classes", "mean", "std")}
    again = Preprocessing.from_state(old)
    assert "modalities" not in old  # what was given stays as it is
    assert again.modalities == data.preprocessing.modalities
    assert (again.group, again.split_columns, again.target.centre) == (None, [], 0.0)
    sample = [{"text": "train0 train1", "image": np.full((9, 9), 70, np.uint8)}]
    assert same(again.batch(sample), data.preprocessing.batch(sample))


def test_raw_samples_give_the_batch_of_the_loader(data, folder):
    """Paths, PIL images and arrays: prediction sees what evaluation saw."""
    lines = (folder / "m.csv").read_text().splitlines()[1:]
    test = [i for i in range(ROWS) if i % 4 == 3]
    raw = []
    for i in test:
        image, text, audio, *_ = lines[i].split(",")
        raw.append(
            {
                "image": folder / image if image else None,
                "text": text,
                "audio": str(folder / audio) if audio else None,
            }
        )
    whole = Loader(
        data.preprocessing, data.loaders["test"].batches.stores, np.array(test), None, 64
    )
    expected = next(iter(whole))
    batch = data.preprocessing.batch(raw)
    assert same(
        {k: v for k, v in batch.items() if k != "row"},
        {k: v for k, v in expected.items() if k != "row"},
    )
    assert [test[i] for i in batch["row"].tolist()] == expected["row"].tolist()
    opened = [
        dict(
            s,
            image=s["image"] and Image.open(s["image"]),
            audio=s["audio"] and soundfile.read(s["audio"]),
        )
        for s in raw
    ]
    torch.testing.assert_close(data.preprocessing.batch(opened), batch, atol=1e-4, rtol=0)


def test_one_raw_sample_with_any_modality_left_out(data):
    batch = data.preprocessing.batch([{"text": "train0 什么"}])
    check_batch(batch, MODALITIES)
    assert batch["text"].tolist()[0][1:] == [1, 1] and "target" not in batch
    assert not batch["image_mask"].any() and not batch["audio_mask"].any()
    check_batch(data.preprocessing.batch([{}, {"image": np.zeros((9, 9), np.uint8)}]), MODALITIES)
    for wrong, word in (
        ({"sound": 1}, "sound"),
        ({"text": 5}, "sample 0, text"),
        ({"image": "nowhere.png"}, "sample 0, image"),
        ({"audio": np.zeros(0)}, "sample 0, audio"),
    ):
        with pytest.raises(ValueError, match=word):
            data.preprocessing.batch([wrong])
    with pytest.raises(ValueError, match="no samples"):
        data.preprocessing.batch([])


def test_evaluation_on_another_manifest_uses_what_was_fitted(data, folder):
    again = load_data(
        read_manifest(folder / "m.csv"), data.preprocessing, splits=["test"], batch_size=4
    )
    calm = load_data(
        read_manifest(folder / "m.csv"), data.preprocessing, splits=["train"], augment=None
    ).loaders["train"]
    assert [row for batch in calm for row in batch["row"].tolist()][:4] == [
        0,
        1,
        4,
        4,
    ]
    assert calm.dropped == 0
    assert list(again.loaders) == ["test"]
    assert all(same(a, b) for a, b in zip(again.loaders["test"], data.loaders["test"], strict=True))
    (folder / "few.csv").write_text("caption,label\ntrain0,dog\nzzz,cat\n")
    few = load_data(
        read_manifest(folder / "few.csv", columns={"text": "caption"}), data.preprocessing
    )
    batch = next(iter(next(iter(few.loaders.values()))))
    check_batch(batch, MODALITIES)
    assert not batch["image_mask"].any()
    unlabelled = load_data(
        read_manifest(folder / "few.csv", columns={"text": "caption"}, target=None),
        data.preprocessing,
    )
    assert "target" not in next(iter(next(iter(unlabelled.loaders.values()))))
    (folder / "bird.csv").write_text("text,label,split\na,bird,test\n")
    with pytest.raises(ValueError, match="'bird'.*test"):
        load_data(read_manifest(folder / "bird.csv"), data.preprocessing)


# ---- bad files


def bad_manifest(folder):
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "text.wav").write_text("hello")
    rows = [
        "0.png,0.wav,a,train",
        "1.png,1.wav,b,train",
        "torn.png,2.wav,a,train",
        "3.png,text.wav,b,train",
        "none.png,none.wav,a,val",
        "4.png,3.wav,,val",
        "../m.csv,5.wav,a,test",
        "5.png,5.wav,b,val",
        "torn.png,6.wav,b,test",
        "6.png,7.wav,a,test",
        "7.png,8.wav,a,",
    ]
    (folder / "bad.csv").write_text("image,audio,label,split\n" + "\n".join(rows) + "\n")
    return read_manifest(folder / "bad.csv")


@pytest.mark.parametrize("memory", [True, False])
def test_all_bad_cells_are_reported_together(folder, memory):
    with pytest.raises(ManifestErrors) as error:
        load_data(bad_manifest(folder), memory=memory, workers=0)
    found = [(p.row, p.column) for p in error.value.problems]
    assert found == [
        ("line 4", "image"),
        ("line 5", "audio"),
        ("line 6", "audio"),
        ("line 6", "image"),
        ("line 7", "label"),
        ("line 8", "image"),
        ("line 10", "image"),
        ("line 12", "split"),
    ]
    text = str(error.value)
    for word in (
        "bad.csv",
        "torn.png",
        "none.wav",
        "../m.csv",
        "cannot be decoded",
        "no such file",
        "leads out",
        "--on-error skip",
    ):
        assert word in text


@pytest.mark.parametrize("memory", [True, False])
def test_skip_leaves_the_bad_rows_out_and_says_which(folder, memory):
    data = load_data(bad_manifest(folder), memory=memory, workers=0, on_error="skip")
    rows = {
        name: sorted(row for batch in loader for row in batch["row"].tolist())
        for name, loader in data.loaders.items()
    }
    assert rows["train"] == [0, 1] and set(rows["val"]) == {7} and set(rows["test"]) == {9}
    assert len(data.skipped) == 8 and data.counts == [1, 1]
    with pytest.raises(ValueError, match="on_error"):
        load_data(bad_manifest(folder), on_error="ignore")


def test_errors_of_the_whole_set(folder):
    def load(text, **options):
        (folder / "x.csv").write_text(text)
        return load_data(read_manifest(folder / "x.csv"), **options)

    with pytest.raises(ValueError, match="one class.*'a'"):
        load("text,label,split\nx,a,train\ny,a,train\nz,a,test\nw,a,val\n")
    with pytest.raises(ValueError, match=r"'c' \(1 rows in test\)"):
        load("text,label,split\nx,a,train\ny,b,train\nz,c,test\nw,a,val\n")
    with pytest.raises(ValueError, match="no rows in split 'train'"):
        load("text,label,split\nx,a,test\ny,b,val\n")
    with pytest.raises(ValueError, match="no rows in split 'holdout'"):
        load("text,label,split\nx,a,train\ny,b,val\n", splits=["holdout"])
    numbers = load("text,label,split\nx,1.5,train\ny,2.5,train\nz,9,test\nw,2,val\n")
    assert next(iter(numbers.loaders["test"]))["target"].tolist() == [9.0]
    assert numbers.counts is None


def test_groups_across_given_splits_are_warned_of(folder):
    rows = "x,a,train,p\ny,b,train,q\nz,a,test,p\nw,a,val,\n"
    (folder / "g.csv").write_text(f"text,label,split,who\n{rows}")
    assert any(
        "1 groups" in line
        for line in load_data(read_manifest(folder / "g.csv", group="who")).summary
    )


def test_samples_of_similar_length_share_a_batch_and_every_row_still_comes_once(data):
    part = data.loaders["train"].batches
    lengths = np.arange(len(part.rows)) % 7 * 1000 + 100
    clips = Clips(np.arange(max(part.rows) + 1), [], np.zeros(max(part.rows) + 1, dtype=np.int64))
    clips.lengths[part.rows] = lengths
    batches = replace(part, stores={"audio": clips}, batch_size=4, orders={})
    order = batches.order(3)
    assert sorted(order) == list(range(len(part.rows)))
    spread = [np.ptp(lengths[order[i : i + 4]]) for i in range(0, len(order) - 3, 4)]
    shuffled = np.random.default_rng(0).permutation(lengths)
    assert np.mean(spread) < 0.5 * np.mean(
        [np.ptp(shuffled[i : i + 4]) for i in range(0, len(order) - 3, 4)]
    )
    assert batches.order(4).tolist() != order.tolist()
