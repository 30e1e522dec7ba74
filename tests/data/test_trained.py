"""No score is ever one of rows that were trained on, whatever happened to the file since."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmlib import Recipe, load, load_data, read_manifest, recipes
from mmlib.data.splits import SHARES, choose_splits
from mmlib.data.trained import remember
from mmlib.recipes.predictor import Predictor
from mmlib.train import checkpoint
from tests.data.test_splits import PAIRS, table


def write(frame, path):
    frame.to_csv(path, index=False)
    return path


def train(path, **changes):
    quiet = {"epochs": 1, "dim": 8, "device": "cpu", "log": lambda line: None}
    return recipes.train(Recipe(path, **quiet | changes))


class Watched(Predictor):
    """A predictor that keeps which rows it scored."""

    def judge(self, loader):
        self.rows = np.unique(loader.batches.rows).tolist()
        return super().judge(loader)


def watched(run):
    old = run.predictor
    return Watched(old.model, old.preprocessing, "cpu", trained=old.trained)


def pictures(folder, count, seed=0):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def one_picture_for_many_questions(folder):
    pictures(folder, 12)
    return table(60).assign(image=[f"{i % 12}.png" for i in range(60)])


def broken_files(folder):
    """A table with images, some of them broken in every split that will be drawn."""
    frame = table(60).assign(image=[f"{i}.png" for i in range(60)])
    names = choose_splits(read_manifest(frame))
    pictures(folder, 60)
    for split in SHARES:
        (folder / f"{names.index(split)}.png").write_bytes(b"no image")
    return frame


CASES = {
    "group": ({}, {"group": "patient"}),
    "no split column": ({}, {}),
    "split column": ({"split": ["train", "train", "val", "test"] * 30}, {}),
    "no val": ({"split": ["train", "train", "train", "test"] * 30}, {}),
    "no val, group": ({"split": ["train"] * 80 + ["test"] * 40}, {"group": "patient"}),
    "one text in several splits": (
        {"text": PAIRS[:5] * 24, "split": ["train", "val", "test"] * 40},
        {},
    ),
    "one text in several groups": ({"text": PAIRS[:6] * 20}, {"group": "patient"}),
}


WITH_FILES = {
    "skip": (broken_files, {"on_error": "skip"}),
    "one image in several splits": (one_picture_for_many_questions, {}),
}


@pytest.mark.parametrize("case", [*CASES, *WITH_FILES])
def test_evaluating_the_file_of_training_gives_the_scores_of_training(case, tmp_path):
    columns, changes = CASES[case] if case in CASES else WITH_FILES[case]
    frame = table(**columns) if case in CASES else columns(tmp_path)
    path = write(frame, tmp_path / "m.csv")
    run = train(path, out=tmp_path / "run", **changes)
    loaded = load(tmp_path / "run", "cpu")
    for split in ("val", "test"):
        scores = loaded.evaluate(path, split, changes.get("on_error", "raise"))
        assert scores == pytest.approx(run.metrics[split], abs=1e-6)
    assert run.data.skipped or case != "skip"


@pytest.fixture(scope="module", params=["rows", "groups"])
def drawn(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    path = write(table(), folder / "m.csv")
    return folder, train(path, group="patient" if request.param == "groups" else None)


def trained_texts(run, frame):
    parts = [run.data.loaders[name].batches.rows for name in ("train", "val")]
    return set(frame["text"].iloc[np.concatenate(parts)])


@pytest.mark.parametrize(
    "name, change, equal",
    [
        ("reordered", lambda t: t.sample(frac=1, random_state=3), True),
        ("duplicated", lambda t: pd.concat([t, t]), True),
        (
            "one label corrected",
            lambda t: t.assign(label=t["label"].mask(t.index == 5, "dog")),
            None,
        ),
        ("shortened", lambda t: t.iloc[:90], None),
        ("grown", lambda t: pd.concat([t, table(200)[120:].assign(patient="new")]), None),
        ("a column more", lambda t: t.assign(audio="", remark="x"), True),
    ],
)
def test_a_changed_file_is_scored_on_the_rows_left_out_of_training(drawn, name, change, equal):
    folder, run = drawn
    frame, predictor = change(table()), watched(run)
    scores = predictor.evaluate(write(frame, folder / "changed.csv"))
    scored = set(frame["text"].iloc[predictor.rows])
    kept = set(table()["text"].iloc[run.data.loaders["test"].batches.rows]) & set(frame["text"])
    assert scored and kept <= scored and not scored & trained_texts(run, table())
    if equal:
        assert scores["accuracy"] == pytest.approx(run.metrics["test"]["accuracy"])
        assert scores["loss"] == pytest.approx(run.metrics["test"]["loss"], abs=1e-6)


def test_trained_rows_under_another_split_are_refused_by_name(drawn):
    folder, run = drawn
    trained = [i for name in ("train", "val") for i in run.data.loaders[name].batches.rows]
    first = min(trained) + 2  # lines of the file count from 1, the header is one
    for frame in (table(split="test"), table().assign(split=["test", "train"] * 60)):
        path = write(frame, folder / "moved.csv")
        with pytest.raises(
            ValueError,
            match=r"trained on \d+ of the \d+ rows of split 'test' \(line \d+.*Take these",
        ):
            run.predictor.evaluate(path)
    with pytest.raises(
        ValueError,
        match=rf"trained on {len(trained)} of the 120 rows of split 'all' \(line {first}, ",
    ):
        run.predictor.evaluate(write(table(), folder / "m.csv"), "all")
    if run.data.preprocessing.group is not None:  # a new visit of a patient of training
        visit = table(200)[120:].assign(patient=table()["patient"][first - 2], split="test")
        with pytest.raises(ValueError, match="trained on 80 of the 80 rows"):
            run.predictor.evaluate(write(visit, folder / "visit.csv"))
    only_val = table().assign(split=["val" if i in trained else "train" for i in range(120)])
    with pytest.raises(ValueError, match="rows of split 'val'"):
        run.predictor.evaluate(write(only_val, folder / "moved.csv"), "val")


def test_a_file_that_was_split_by_its_author_and_lost_its_column_is_refused(tmp_path):
    run = train(write(table(split=["train", "train", "val", "test"] * 30), tmp_path / "m.csv"))
    with pytest.raises(ValueError, match="trained on .* rows of split 'test'"):
        run.predictor.evaluate(write(table(), tmp_path / "m.csv"))


def test_a_fresh_file_is_scored_whole_when_asked_and_never_in_part(drawn):
    folder, run = drawn
    frame = table(200)[120:].assign(patient=[f"new{i}" for i in range(80)])
    path = write(frame, folder / "fresh.csv")
    names = choose_splits(read_manifest(frame, group=run.data.preprocessing.group))
    dropped = len(frame) - names.count("test")
    with pytest.raises(
        ValueError, match=f"leave out {dropped} rows that the model never saw.*--split all"
    ):
        run.predictor.evaluate(path)
    assert run.predictor.evaluate(path, "all")["rows"] == 80


def test_the_group_column_is_needed_only_where_a_split_is_drawn(tmp_path):
    run = train(write(table(), tmp_path / "m.csv"), group="patient")
    without = table().drop(columns="patient")
    with pytest.raises(
        ValueError, match="no column 'patient'.*drawn from this column.*--split all"
    ):
        run.predictor.evaluate(write(without, tmp_path / "without.csv"))
    test = without.iloc[run.data.loaders["test"].batches.rows].assign(split="test")
    assert run.predictor.evaluate(write(test, tmp_path / "test.csv")) == pytest.approx(
        run.metrics["test"]
    )


def test_a_file_counts_by_what_is_in_it_and_not_by_its_name(tmp_path):
    frame = table(60).assign(text="", image=[f"{i}.png" for i in range(60)])
    frame = frame.assign(split=["train", "train", "val", "test"] * 15)
    old, new = pictures(tmp_path / "old", 60), pictures(tmp_path / "new", 60, seed=1)
    run = train(write(frame, old / "m.csv"), use=["image"])
    assert run.predictor.evaluate(write(frame, new / "m.csv"))["rows"] == 15
    (old / "images").mkdir()
    for file in old.glob("*.png"):
        file.rename(old / "images" / f"again_{file.name}")
    moved = frame.assign(
        image="images/again_" + frame["image"], split="test", text="it has a text now"
    )
    with pytest.raises(ValueError, match="trained on 45 of the 60 rows"):
        run.predictor.evaluate(write(moved, old / "m.csv"))


def test_a_run_of_an_older_mmlib_is_loaded_and_refuses_a_drawn_split(tmp_path):
    path = write(table(), tmp_path / "m.csv")
    train(path, out=tmp_path / "run")
    state = checkpoint.load(tmp_path / "run")
    del state["extra"]["trained"]
    del state["extra"]["preprocessing"]["group"], state["extra"]["preprocessing"]["split_columns"]
    checkpoint.save(tmp_path / "run", state)
    old = load(tmp_path / "run", "cpu")
    assert old.predict(text="red blue")["class"] in ("cat", "dog")
    with pytest.raises(ValueError, match="no checksums.*column 'split', or train the model again"):
        old.evaluate(path)
    with pytest.raises(ValueError, match="does not say which rows are 'val'"):
        old.evaluate(write(table(split=["train", "test"] * 60), tmp_path / "no_val.csv"), "val")
    own = write(table(split="test"), tmp_path / "own.csv")
    assert old.evaluate(own)["rows"] == old.evaluate(path, "all")["rows"] == 120


# ---- any file, any change


@pytest.fixture(scope="module")
def models():
    """A network for numbers from text; it answers nonsense, which is all the same here."""
    data = load_data(read_manifest(table(label=[f"{i + 0.5}" for i in range(120)])), progress=False)
    return recipes.build(recipes.plan(data, dim=8))


row = st.tuples(
    st.sampled_from(PAIRS[:12]) | st.sampled_from(PAIRS),
    st.sampled_from(["p", "q", "r", "s", "t", "", ""]),
    st.sampled_from(["train", "train", "val", "test"]),
)


@given(
    old=st.lists(row, min_size=20, max_size=40),
    new=st.lists(row, max_size=15),
    group=st.booleans(),
    own=st.booleans(),
    changes=st.sets(
        st.sampled_from(["shuffle", "shorten", "double", "grow", "labels", "splits", "column"])
    ),
    split=st.sampled_from(["test", "val", "all"]),
    random=st.randoms(),
)
@settings(max_examples=100, deadline=None)
def test_no_row_that_is_scored_was_trained_on(models, old, new, group, own, changes, split, random):
    columns = ["text", "who", "split"]
    frame = pd.DataFrame(old, columns=columns).assign(label=[f"{i + 0.5}" for i in range(len(old))])
    read = frame if own else frame.drop(columns="split")
    manifest = read_manifest(read, group="who" if group else None)
    names = choose_splits(manifest)
    assume({"train", "val", "test"} <= set(names))
    data = load_data(manifest, progress=False)
    used = {name: np.unique(data.loaders[name].batches.rows).tolist() for name in ("train", "val")}
    predictor = Watched(
        models,
        data.preprocessing,
        "cpu",
        trained=remember(manifest, data.preprocessing.modalities, names, used),
    )
    seen = {
        name: {
            (*cells,)
            for cells, part in zip(
                frame[["text", "who"]].itertuples(index=False), names, strict=True
            )
            if part == name
        }
        for name in set(names)
    }

    if "grow" in changes and new:
        frame = pd.concat([frame, pd.DataFrame(new, columns=columns).assign(label="0.5")])
    if "double" in changes:
        frame = pd.concat([frame, frame])
    if "shuffle" in changes:
        frame = frame.sample(frac=1, random_state=random.randrange(1000))
    if "shorten" in changes:
        frame = frame.iloc[: len(frame) // 2]
    if "labels" in changes:
        frame = frame.assign(label="1.5")
    if "splits" in changes:
        frame = frame.assign(
            split=[random.choice(["train", "val", "test"]) for _ in range(len(frame))]
        )
    own = own ^ ("column" in changes)
    try:
        predictor.evaluate(frame if own else frame.drop(columns="split"), split)
    except ValueError as error:
        assert any(words in str(error) for words in ("(row ", "no rows in split", "--split all")), (
            error
        )
        assert changes or "of split 'all'" in str(error), "the file of training itself is refused"
        return
    scored = {
        (*cells,) for cells in frame[["text", "who"]].iloc[predictor.rows].itertuples(index=False)
    }
    trained = seen["train"] if split == "val" else seen["train"] | seen["val"]
    left_out = set().union(
        *(seen[name] for name in seen if name not in ("train", "val") or name == split)
    )
    texts = {text for text, _ in left_out}

    for text, who in scored:  # what training itself had in this split, too, it may have
        if group and who:
            assert who in {w for _, w in left_out} or who not in {w for _, w in trained}
        else:
            assert text in texts or text not in {t for t, _ in trained}
