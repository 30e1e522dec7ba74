"""Classical baselines read what the field's own libraries read, and know the training rows only."""

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.data import load_data, read_manifest
from mmlib.metrics import accuracy, mean_absolute_error
from mmlib.report.classical import AVERAGE, classical, scores
from mmlib.report.features import audio_features, hog, image_features, mfcc, text_features
from mmlib.worlds import pets


def test_hog_equals_that_of_scikit_image():
    feature = pytest.importorskip("skimage.feature", reason="scikit-image is not installed")
    images = np.random.default_rng(0).uniform(size=(4, 3, 64, 45))
    images[0, :, 10:30, 10:30], images[1] = 1, 0  # an edge, and no edge at all
    size = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
    theirs = [feature.hog(x, **size, block_norm="L2-Hys", channel_axis=0) for x in images]
    np.testing.assert_allclose(hog(images), theirs, atol=1e-6)


def test_hog_of_a_vertical_edge_has_one_direction():
    image = np.zeros((1, 1, 16, 16))
    image[..., 6:] = 1
    blocks = hog(image).reshape(2, 2, 9)  # cells down, across, directions
    assert (blocks[:, 0, 0] > 0).all() and not blocks[:, 1].any() and not blocks[..., 1:].any()


def test_colours_are_means_of_fields_and_shares_of_bins():
    images = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    images[0, 0, :64] = 255  # the upper half is red
    found = image_features(images)[0]
    fields, histogram = found[-72:-24].reshape(3, 4, 4), found[-24:].reshape(3, 8)
    np.testing.assert_allclose(fields[0], [[1] * 4] * 2 + [[0] * 4] * 2, atol=1e-6)
    assert not fields[1:].any() and histogram[0].tolist() == [0.5, *[0.0] * 6, 0.5]


def test_the_cepstrum_equals_that_of_torchaudio():
    transforms = pytest.importorskip("torchaudio.transforms")
    mel = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64, "pad_mode": "constant"}
    theirs = transforms.MFCC(16_000, 20, log_mels=True, melkwargs=mel)
    waveform = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mfcc(waveform), theirs(waveform), atol=1e-4, rtol=1e-4)


def test_loudness_and_length_of_a_sound_are_features_and_one_frame_is_enough():
    loud = torch.sin(torch.arange(16_000) * 0.1)
    one, other = audio_features(loud), audio_features(loud / 10)
    assert one[-2] - other[-2] == pytest.approx(20, abs=1e-3) and one[-1] == 1
    assert np.isfinite(audio_features(torch.zeros(1))).all()


def test_tf_idf_is_that_of_words_and_pairs():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["4 5 6", "4 4 7", "5 6"]
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    expected = theirs.fit_transform(texts).toarray()
    ids = [np.array([int(word) for word in text.split()]) for text in texts]
    np.testing.assert_allclose(text_features(ids).transform(ids).toarray(), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    pets.write(pets.draw(120, 0, pets.Dials(missing_image=0.2, missing_audio=0.2)), folder)
    frame = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    frame["split"] = ["train"] * 70 + ["val"] * 25 + ["test"] * 25
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return load_data(read_manifest(folder / "manifest.csv", target="label"))


def rows_and_target(data, split):
    rows = np.unique(data.loaders[split].batches.rows)
    return rows, data.loaders[split].batches.target[torch.from_numpy(rows)]


def test_each_modality_is_learned_and_all_together_are_better_than_chance(data):
    found = classical(data)
    assert list(found) == [*sorted(data.preprocessing.modalities), AVERAGE]
    _, target = rows_and_target(data, "test")
    assert accuracy(found[AVERAGE]["test"], target) > 0.7
    again = classical(data)
    assert all(torch.equal(found[name]["test"], again[name]["test"]) for name in found)


def test_a_row_without_the_modality_gets_the_shares_of_the_training_rows(data):
    rows, _ = rows_and_target(data, "test")
    absent = ~data.loaders["test"].batches.stores["image"].row_present(rows)
    assert 0 < absent.sum() < len(rows)
    shares = torch.tensor(data.counts).double() / sum(data.counts)
    answers = classical(data)["image"]["test"].double().softmax(dim=1)[torch.from_numpy(absent)]
    torch.testing.assert_close(answers, shares.expand_as(answers), atol=1e-6, rtol=0)


def test_the_answers_to_test_rows_do_not_depend_on_their_targets_or_on_each_other(folder):
    frame = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    other = frame.copy()
    flipped = {"cat": "dog", "dog": "cat"}
    test = other["split"] == "test"
    other.loc[test, "label"] = other.loc[test, "label"].map(flipped)
    one, two = (
        classical(load_data(read_manifest(x, target="label", root=folder))) for x in (frame, other)
    )
    fewer = classical(load_data(read_manifest(other[:-5], target="label", root=folder)))
    for name, answers in one.items():
        assert torch.equal(answers["test"], two[name]["test"]), name
        torch.testing.assert_close(answers["test"][:-5], fewer[name]["test"], atol=1e-4, rtol=1e-4)


def test_numbers_are_answered_by_ridge_regression_and_scored_by_their_distance():
    words = np.random.default_rng(0).choice(["good", "bad", "fair"], size=(90, 3))
    worth = {"good": 3.0, "fair": 2.0, "bad": 1.0}
    table = pd.DataFrame({"text": [" ".join(row) for row in words]})
    table["price"] = [
        f"{100 + sum(worth[w] for w in row) + 0.001 * i}" for i, row in enumerate(words)
    ]
    table["split"] = ["train"] * 50 + ["val"] * 20 + ["test"] * 20
    data = load_data(read_manifest(table, target="price"), task="regression")
    found = classical(data)
    _, target = rows_and_target(data, "test")
    error = mean_absolute_error(found["text"]["test"], target)
    blind = float((target - target.mean()).abs().mean())
    assert error < 0.5 * blind
    score = scores(data, found)["test"]["text"]
    assert score["mean_absolute_error"] == pytest.approx(error) and score["method"] == "TF-IDF"


def test_the_best_baseline_comes_first(data):
    for split, found in scores(data, classical(data)).items():
        values = [score["accuracy"] for score in found.values()]
        assert values == sorted(values, reverse=True), split


def test_of_a_frequent_class_only_so_many_rows_are_read(monkeypatch):
    read: list[int] = []
    texts = [f"good {i % 7}" for i in range(300)] + [f"bad {i % 7}" for i in range(30)]
    table = pd.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    table["split"] = [("train", "val", "test")[max(0, i % 10 - 7)] for i in range(len(table))]
    monkeypatch.setattr("mmlib.report.classical.MOST", 100)
    from mmlib.report import classical as module

    fit = module.text_features
    monkeypatch.setattr(module, "text_features", lambda ids: read.append(len(ids)) or fit(ids))
    classical(load_data(read_manifest(table, target="label")))
    assert read == [100 + 24]


def test_a_modality_that_says_nothing_of_two_classes_is_left_out():
    table = pd.DataFrame({"text": ["good"] * 20 + [""] * 20, "note": ["a", "b"] * 20})
    table["label"] = ["x"] * 20 + ["y"] * 20
    table["split"] = ["train", "train", "val", "test"] * 10
    columns = {"text": "text,note"}
    found = classical(load_data(read_manifest(table, target="label", columns=columns)))
    assert list(found) == ["note"]
