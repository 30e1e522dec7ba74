"""From files to a saved model and back: what `train` decides, what `load` brings back, errors."""

import csv
import json
import shutil
import sys
import zlib
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmlib import Augment, ClassifyHead, Recipe, classify, load, recipes, regress
from mmlib.data import Loader
from mmlib.recipes.plan import MOST_EPOCHS, WIDTHS
from mmlib.train import checkpoint
from mmlib.train.evaluate import autocast
from mmlib.worlds import pets


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """48 pets on disk, and a model trained on them for one epoch."""
    folder = tmp_path_factory.mktemp("small")
    pets.write(pets.draw(48), folder)
    recipe = Recipe(
        folder / "manifest.csv", out=folder / "run", epochs=1, device="cpu", log=lambda line: None
    )
    return folder, recipe, classify(recipe)


def rewrite(source, target, change):
    """A copy of a manifest with ``change(row)`` applied to every row."""
    with open(source, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row | change(row) for row in rows]
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return target


def test_the_loaded_model_answers_as_the_trained_one(small):
    folder, recipe, run = small
    modalities = {
        "image": folder / "images/00000.png",
        "text": "It purrs.",
        "audio": folder / "audio/00000.flac",
    }
    loaded = load(folder / "run", "cpu").predict(**modalities)
    trained = run.predictor.predict(**modalities)
    shares = pytest.approx(trained.pop("probabilities"), abs=1e-6)  # the weights' layout differs
    assert loaded.pop("probabilities") == shares
    assert loaded == trained


def test_evaluate_after_loading_repeats_the_scores_of_training(small):
    folder, recipe, run = small
    for split in ("val", "test"):
        assert load(folder / "run", "cpu").evaluate(recipe.manifest, split) == pytest.approx(
            run.metrics[split], abs=1e-6
        )


def test_probabilities_are_by_class_name_and_sum_to_one(small):
    answer = small[2].predictor.predict(text="It purrs.")
    assert set(answer["probabilities"]) == {"cat", "dog"} and sum(
        answer["probabilities"].values()
    ) == pytest.approx(1, abs=1e-6)
    assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert answer["modalities"] == ["text"]


def test_one_or_many_paths_arrays_or_pictures_give_the_same_answer(small):
    folder, _, run = small
    path = folder / "images/00001.png"
    picture = Image.open(path).convert("RGB")
    one = run.predictor.predict(image=path)
    for value in (
        str(path),
        picture,
        np.asarray(picture),
        torch.from_numpy(np.array(picture)).permute(2, 0, 1),
    ):
        assert run.predictor.predict(image=value) == one, type(value)
    many = run.predictor.predict(image=[path, None, path], text=[None, "It barks at nothing.", ""])
    assert [answer["modalities"] for answer in many] == [["image"], ["text"], ["image"]]
    assert many[0]["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)


def test_without_any_modality_the_shares_of_the_training_rows_answer(small):
    run = small[2]
    answer = run.predictor.predict()
    counts = np.array(run.data.counts)
    assert answer["modalities"] == []
    assert list(answer["probabilities"].values()) == pytest.approx(
        (counts / counts.sum()).tolist(), abs=1e-6
    )


def test_rows_without_modalities_are_left_out_of_training_and_counted_in_evaluation(
    small, tmp_path
):
    folder, recipe, _ = small
    (
        shutil.copytree(folder / "images", tmp_path / "images"),
        shutil.copytree(folder / "audio", tmp_path / "audio"),
    )
    empty = {"image": "", "text": "", "audio": ""}
    seen = {"train": 0, "test": 0}

    def change(row):
        if row["split"] in seen and seen[row["split"]] < 2:
            seen[row["split"]] += 1
            return empty
        return {}

    lines = []
    run = classify(
        replace(
            recipe,
            manifest=rewrite(recipe.manifest, tmp_path / "m.csv", change),
            out=None,
            log=lines.append,
        )
    )
    assert run.data.loaders["train"].dropped == 2 and any(
        "2 training rows" in line for line in lines
    )
    assert run.metrics["test"]["without_modalities"] == 2


def test_a_manifest_to_predict_needs_no_target_and_not_every_modality(small, tmp_path):
    folder, recipe, run = small
    with open(folder / "manifest.csv", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:5]
    with open(folder / "new.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *[[text] for text in texts]])
    answers = run.predictor.predict_manifest(folder / "new.csv")
    expected = run.predictor.predict(text=texts)
    assert [answer["modalities"] for answer in answers] == [["text"]] * 5
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)


def test_numbers_are_told_from_the_target_and_come_back_in_its_units(small, tmp_path):
    folder, recipe, _ = small
    manifest = rewrite(
        recipe.manifest,
        folder / "numbers.csv",
        lambda row: {"label": f"{1000 + 100.5 * (row['label'] == 'cat')}"},
    )
    run = recipes.train(
        replace(recipe, manifest=manifest, out=tmp_path / "run", use=("text",), epochs=3)
    )
    assert run.confusion is None and {"mean_absolute_error", "r2"} < set(run.metrics["test"])
    assert 900 < load(tmp_path / "run", "cpu").predict(text="It purrs.")["value"] < 1200
    with pytest.raises(ValueError, match="expected numbers only"):
        regress(replace(recipe, out=None))


def test_chinese_text_is_a_column_like_any_other(small):
    recipe = replace(small[1], out=None, columns={"text": "text_zh"}, use=("text",))
    run = classify(recipe)
    assert len(run.data.preprocessing.vocabularies["text"]) > 50
    assert run.predictor.predict(text="它很安静。")["modalities"] == ["text"]


@pytest.fixture(scope="module")
def few(small):
    """A manifest of the first 20 rows, in three splits."""
    lines = (small[0] / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (small[0] / "few.csv").write_text("".join(lines[:21]), encoding="utf-8")
    return small[0] / "few.csv"


@pytest.mark.parametrize("name", sorted(recipes.FUSIONS))
def test_every_fusion_trains(small, few, name):
    run = classify(replace(small[1], manifest=few, out=None, fusion=name))
    assert np.isfinite(run.metrics["test"]["loss"])


def test_the_same_seed_gives_the_same_run_and_another_another(small):
    _, recipe, run = small
    again, other = classify(replace(recipe, out=None)), classify(replace(recipe, out=None, seed=1))
    assert again.metrics["test"] == run.metrics["test"] != other.metrics["test"]


@pytest.fixture(scope="module")
def rare():
    """One "yes" in ten rows, and words that tell nothing: only the shares can be learned."""
    random = np.random.default_rng(0)
    rows = 300
    table = pd.DataFrame(
        {
            "text": [
                " ".join(random.choice(["red", "green", "blue", "grey"], 3)) for _ in range(rows)
            ],
            "label": ["yes" if i % 10 == 0 else "no" for i in range(rows)],
            "split": [("train", "train", "val")[i % 3] for i in range(rows)],
        }
    )
    return classify(Recipe(table, epochs=4, device="cpu", log=lambda line: None))


def test_probabilities_are_of_the_rows_as_they_are_with_one_prior_everywhere(rare):
    shares = np.array(rare.data.counts) / sum(rare.data.counts)
    assert list(rare.predictor.predict()["probabilities"].values()) == pytest.approx(
        shares.tolist(), abs=1e-6
    )
    answers = rare.predictor.predict(text=["red green blue", "grey grey grey", "blue red red"])
    for answer in answers:
        assert answer["probabilities"]["yes"] == pytest.approx(0.1, abs=0.06)


def test_accuracy_stands_beside_scores_that_see_a_rare_class(rare):
    scores = rare.metrics["val"]
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"} < set(scores)
    assert scores["accuracy"] == pytest.approx(0.9, abs=0.02) and scores["balanced_accuracy"] == 0.5
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert scores["log_loss"] == pytest.approx(entropy, abs=0.05)


def test_a_run_saved_with_class_weights_loads_and_its_prior_is_put_back(rare, tmp_path):
    """It holds weights in its plan and its head, whose scores are those of balanced classes."""
    spec = recipes.plan(rare.data)
    weight = torch.tensor([1 / 1.8, 5.0])
    old = recipes.build(spec)
    old.head = ClassifyHead(spec["dim"], 2, torch.tensor(spec["prior"]), weight)
    with torch.no_grad():  # balanced classes, nothing known
        old.head.linear.weight.zero_()
        old.head.linear.bias.zero_()
    state = {
        "extra": {
            "spec": spec | {"weight": weight.tolist()},
            "preprocessing": rare.predictor.preprocessing.state(),
        },
        "best": old.state_dict(),
        "config": {},
    }
    with mock.patch.object(checkpoint, "load", lambda folder, needed: state):
        found = load(tmp_path, "cpu").predict(text="red green blue")["probabilities"]
    assert found == pytest.approx({"no": 0.9, "yes": 0.1}, abs=1e-5)


def test_the_plan_gives_more_epochs_to_fewer_rows_and_smaller_models_to_larger_pictures(small):
    _, recipe, run = small
    plan = recipes.plan(run.data)
    assert 5 <= plan["epochs"] <= MOST_EPOCHS
    model = recipes.build(plan)
    assert sum(p.numel() for p in model.parameters()) == run.metrics["parameters"]
    widths = [WIDTHS[size] for size in (32, 64, 96, 128)]
    assert widths == sorted(widths, reverse=True)


def test_a_finished_run_is_not_overwritten(small):
    before = (small[0] / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="already holds a run.*--resume"):
        classify(small[1])
    assert (small[0] / "run" / "checkpoint.pt").read_bytes() == before


def test_a_finished_run_resumed_is_the_same(small):
    run = classify(replace(small[1], resume=True))
    assert run.metrics["test"] == pytest.approx(small[2].metrics["test"], abs=1e-6)
    rows = [
        json.loads(line) for line in (small[0] / "run" / "history.jsonl").read_text().splitlines()
    ]
    assert rows == list(small[2].history)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fusion": "blend"}, "fusion is 'blend', expected one of"),
        ({"target": "lable"}, "no column 'lable'.*did you mean 'label'"),
        ({"use": ("smell",)}, "asks for 'smell'"),
        ({"manifest": "nowhere.csv"}, "nowhere.csv: no such manifest"),
    ],
)
def test_a_wrong_setting_says_what_is_there(small, change, message):
    with pytest.raises(ValueError, match=message):
        classify(replace(small[1], out=None, **change))


def test_predict_names_the_wrong_sample_and_modality(small):
    predictor = small[2].predictor
    with pytest.raises(ValueError, match="smell"):
        predictor.predict(smell="a")
    with pytest.raises(ValueError, match="sample 1, image"):
        predictor.predict(image=[small[0] / "images/00000.png", small[0] / "manifest.csv"])
    with pytest.raises(ValueError, match="all of one length"):
        predictor.predict(image=[None], text=["a", "b"])
    with pytest.raises(ValueError, match="does not exist"):
        load(small[0])


def test_the_score_of_large_numbers_is_honest_and_the_answer_has_their_size(tmp_path):
    """Times of a clock, 1.7e9 and 0 or 50 seconds: the text tells which, and noise of a second.

    In float32 all of them are one number.
    """
    noise = np.random.default_rng(0).normal(size=120)
    rows = [
        {
            "text": "late" if i % 2 else "early",
            "label": f"{1.7e9 + 50 * (i % 2) + noise[i]:.3f}",
            "split": ("train", "val", "test")[i // 40],
        }
        for i in range(120)
    ]
    blind = [row | {"text": "word"} for row in rows]
    scores = []
    for name, table in (("told", rows), ("blind", blind)):
        run = regress(
            Recipe(
                pd.DataFrame(table),
                out=tmp_path / name,
                epochs=30,
                lr=0.01,
                dim=16,
                device="cpu",
                log=lambda line: None,
            )
        )
        scores.append(run.metrics["test"])
        truth = np.array([float(row["label"]) for row in table if row["split"] == "test"])
        texts = [row["text"] for row in table if row["split"] == "test"]
        for predictor in (run.predictor, load(tmp_path / name, "cpu")):
            answers = np.array([answer["value"] for answer in predictor.predict(text=texts)])
            assert abs(answers - truth).mean() == pytest.approx(
                run.metrics["test"]["mean_absolute_error"], rel=1e-3
            )
        none = run.predictor.predict()["value"]
        assert (
            abs(none - np.mean([float(row["label"]) for row in table if row["split"] == "train"]))
            < 0.01
        )
    assert scores[1]["mean_absolute_error"] > 20 and scores[1]["r2"] < 0.1  # nothing to learn from
    assert scores[0]["mean_absolute_error"] < 10 and 0.8 < scores[0]["r2"] < 1


def test_predicting_a_manifest_with_bad_files_skips_their_rows_and_stays_aligned(small, tmp_path):
    folder, _, run = small
    (folder / "torn.png").write_bytes(b"no image")
    rows = [
        ["image", "text"],
        ["images/00000.png", ""],
        ["torn.png", "It purrs."],
        ["nowhere.png", ""],
        ["images/00001.png", "It purrs."],
    ]
    with open(folder / "some.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match="torn.png"):
        run.predictor.predict_manifest(folder / "some.csv")
    answers = run.predictor.predict_manifest(folder / "some.csv", on_error="skip")
    assert [set(answer) == {"error"} for answer in answers] == [False, True, True, False]
    assert "torn.png" in answers[1]["error"] and "no such file" in answers[2]["error"]
    for answer, (image, text) in [(answers[0], rows[1]), (answers[3], rows[4])]:
        one = run.predictor.predict(image=folder / image, text=text)
        assert answer["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
    with open(folder / "some.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image"], ["torn.png"]])
    assert set(run.predictor.predict_manifest(folder / "some.csv", on_error="skip")[0]) == {"error"}


def test_a_modality_also_goes_by_its_column_and_a_wrong_name_is_told_the_right_one(small):
    folder, recipe, _ = small
    run = classify(replace(recipe, out=None, columns={"text": "text_zh"}, use=("text",)))
    assert run.predictor.predict(text_zh="它很安静。") == run.predictor.predict(text="它很安静。")
    with pytest.raises(ValueError, match="'texts'.*did you mean 'text'"):
        run.predictor.predict(texts="它很安静。")
    with pytest.raises(ValueError, match="'text' twice, once by its column 'text_zh'"):
        run.predictor.predict(text="a", text_zh="b")


def test_training_passes_over_its_test_rows_once(small, monkeypatch):
    passes, real = [], Loader.__iter__
    monkeypatch.setattr(Loader, "__iter__", lambda self: passes.append(self) or real(self))
    run = classify(replace(small[1], out=None))
    test = run.data.loaders["test"]
    assert sum(loader is test for loader in passes) == 1
    right = float(run.confusion.diagonal().sum() / run.confusion.sum())
    assert right == pytest.approx(run.metrics["test"]["accuracy"])
    assert run.confusion.sum() == run.metrics["test"]["rows"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_and_answers_have_the_precision_of_training(small, tmp_path, monkeypatch, precision):
    asked = []
    run = classify(replace(small[1], out=tmp_path / "run", precision=precision))
    for module in ("mmlib.train.evaluate", "mmlib.recipes.predictor"):
        monkeypatch.setattr(
            sys.modules[module],
            "autocast",
            lambda device, given: asked.append(given) or autocast(device, given),
        )
    for predictor in (run.predictor, load(tmp_path / "run", "cpu")):
        predictor.predict(text="It purrs.")
        predictor.score(run.data.loaders["test"])
    assert len(asked) >= 4 and set(asked) == {precision}


def test_a_run_of_version_0_1_loads_and_is_resumed(small, tmp_path):
    """Its checkpoint has the old words: senses, hide, classes, and the plan's reason."""
    folder, recipe, run = small
    shutil.copytree(folder / "run", tmp_path / "run")
    state = torch.load(tmp_path / "run" / checkpoint.NAME, weights_only=True)
    fitted, spec = state["extra"]["preprocessing"], state["extra"]["spec"]
    assert spec["task"] == "classification" and fitted["modalities"]
    spec |= {"task": "classes", "why": "5 epochs"}
    fitted["senses"] = fitted.pop("modalities")
    checksum = zlib.crc32(json.dumps(fitted, sort_keys=True).encode())
    for identity in state["data"].values():
        identity["checksum of the preprocessing"] = checksum
        if identity["augment"]:
            identity["augment"]["hide"] = identity["augment"].pop("modality_dropout")
    checkpoint.save(tmp_path / "run", state)
    text = "It purrs."
    assert load(tmp_path / "run", "cpu").predict(text=text) == run.predictor.predict(text=text)
    again = classify(replace(recipe, out=tmp_path / "run", resume=True))
    assert again.history == run.history
    with pytest.raises(ValueError, match="augment, modality_dropout was 0.5 and is now 0.0"):
        classify(
            replace(
                recipe, out=tmp_path / "run", resume=True, augment=Augment(modality_dropout=0.0)
            )
        )


@pytest.mark.parametrize("old, new", [("classes", "classification"), ("numbers", "regression")])
def test_the_old_words_for_a_task_are_taken_with_a_warning(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old}.*is now.*{new}") as found:
        recipe = Recipe("m.csv", task=old)
    assert recipe.task == new and found[0].filename == __file__
    with pytest.raises(ValueError, match="task is 'ranking', expected 'classification'"):
        Recipe("m.csv", task="ranking")


def test_the_plan_says_what_was_decided(small):
    _, recipe, run = small
    lines = []
    classify(replace(recipe, out=None, use=("image", "text"), batch_size=16, log=lines.append))
    plan = next(line for line in lines if line.startswith("plan: "))
    rows = run.data.loaders["train"].samples
    for words in (
        "image ConvEncoder + text RecurrentEncoder, fusion sum, ClassifyHead: ",
        " parameters on cpu; 1 epoch",
        f" over {rows} rows in batches of 16 ",
        " minutes of one core",
    ):
        assert words in plan


def test_a_model_with_a_large_vocabulary_comes_back(tmp_path):
    texts = [" ".join(f"w{i}x{j}" for j in range(80)) for i in range(200)]
    frame = pd.DataFrame({"text": texts, "label": ["a", "b"] * 100, "split": ["train"] * 200})
    frame.loc[190:, "split"] = "val"
    out = tmp_path / "run"
    run = classify(
        Recipe(frame, out=out, epochs=1, dim=4, device="cpu", progress=False, log=lambda line: None)
    )
    assert len(run.data.preprocessing.vocabularies["text"]) > 10_000
    assert load(out, "cpu").classes == ["a", "b"]
