"""A training that begins from another run: its weights and its preprocessing, on other rows."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from mmlib import Recipe, classify, load, recipes
from mmlib.train import checkpoint

QUIET = {"device": "cpu", "progress": False, "log": lambda line: None, "epochs": 2}


def rows(first: int, count: int, words=("good", "bad"), more: str = "thing") -> pd.DataFrame:
    texts = [f"{word} {more} {i}" for i in range(first, first + count) for word in words]
    return pd.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "first"
    return folder, classify(Recipe(rows(0, 24), out=folder, **QUIET))


def test_the_data_are_prepared_as_for_the_first_run_whatever_words_are_new(first):
    begun = classify(Recipe(rows(100, 24, more="stuff"), start=first[0], **QUIET))
    ours, theirs = (run.predictor.preprocessing.vocabularies["text"] for run in (begun, first[1]))
    assert ours.words == theirs.words and "stuff" not in ours.words


def test_training_begins_with_the_best_weights_and_the_prior_of_the_new_rows(first, monkeypatch):
    given = {}

    def fit(model, *rest):
        given.update(checkpoint.weights(model))
        raise InterruptedError

    monkeypatch.setitem(recipes.train.__globals__, "fit", fit)
    table = pd.concat([rows(100, 24), rows(200, 24, ("good",))])
    with pytest.raises(InterruptedError):
        classify(Recipe(table, start=first[0], **QUIET))
    best = checkpoint.load(first[0])["best"]
    assert given.keys() == best.keys()
    for name, value in given.items():
        assert torch.equal(value, best[name]) == (not name.endswith("log_prior")), name
    (prior,) = (value for name, value in given.items() if name.endswith("log_prior"))
    assert prior[1] > prior[0]  # bad, good


def test_a_begun_run_is_resumed_with_the_same_line_and_is_that_of_a_run_never_stopped(
    first, tmp_path
):
    recipe = dict(manifest=rows(100, 24), start=first[0], **QUIET)
    whole = classify(Recipe(**recipe, out=tmp_path / "whole"))
    classify(Recipe(**recipe, out=tmp_path / "again"))
    again = classify(Recipe(**recipe, out=tmp_path / "again", resume=True))
    texts = ["good thing 3", "bad"]
    assert again.predictor.predict(text=texts) == whole.predictor.predict(text=texts)


def test_rows_of_either_training_are_refused_when_the_begun_run_is_judged(first, tmp_path):
    classify(Recipe(rows(100, 24), out=tmp_path / "second", start=first[0], **QUIET))
    second = load(tmp_path / "second", "cpu")
    for seen in (rows(0, 24), rows(100, 24)):
        with pytest.raises(ValueError, match="this model was trained on"):
            second.evaluate(seen.assign(split="test"))
    assert second.evaluate(rows(300, 4).assign(split="test"))["rows"] == 8


def test_what_does_not_fit_the_first_run_is_refused_by_name(first, tmp_path):
    def refused(message: str, table: pd.DataFrame, **asked) -> None:
        with pytest.raises(ValueError, match=message):
            recipes.train(Recipe(table, **QUIET | {"start": first[0]} | asked))

    refused(r"lack \['bad'\] and have \['ugly'\] besides", rows(100, 24, ("good", "ugly")))
    refused(r"lack \[\] and have \['ugly'\]", rows(100, 24, ("good", "bad", "ugly")))
    table = rows(100, 24)
    refused("fusion was 'sum' in the run in .* and is now 'gated'", table, fusion="gated")
    refused("dim was 64 in the run in .* and is now 32", table, dim=32)
    refused(
        r"has the modalities \{'text': 'text'\}, .* has \{'text': 'text', 'title': 'text'\}",
        table.assign(title=table["text"]),
        columns={"text": "text,title"},
    )
    old = rows(0, 24).assign(split=["test", "test", "train", "train"] * 12)
    refused("this model was trained on .* rows of split 'test'", old)
    refused("nowhere/checkpoint.pt does not exist", table, start=tmp_path / "nowhere")


def test_a_table_is_read_by_the_names_of_its_columns_in_whatever_order(tmp_path):
    table = rows(0, 24).assign(age=[str(i % 7) for i in range(48)], colour=["x", "y"] * 24)
    classify(Recipe(table, table="age,colour", out=tmp_path / "run", **QUIET))
    new = rows(100, 24).assign(age=[str(i % 5) for i in range(48)], colour=["y", "x"] * 24)
    new["split"] = ["train", "train", "val", "test"] * 12
    begun = Recipe(new, table="colour,age", start=tmp_path / "run", **QUIET)
    orders = [classify(replace(begun, table=order)) for order in ("colour,age", "age,colour")]
    losses = [[row["val_loss"] for row in run.history] for run in orders]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"columns \['age', 'colour'\], here it has \['colour'\]"):
        classify(replace(begun, table="colour"))
