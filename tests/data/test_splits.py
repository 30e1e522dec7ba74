"""A drawn split belongs to the row: to its own cells or its group, and to nothing else."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib import load_data, read_manifest
from mmlib.data.splits import SHARES, choose_splits

WORDS = "red blue green small large round flat old new warm cold dry wet near far".split()
PAIRS = [" ".join(pair) for pair in itertools.permutations(WORDS, 2)]


def table(rows=120, seed=0, **columns):
    """Different texts, two classes by chance, four rows to a patient; and these columns."""
    random = np.random.default_rng(seed)
    texts = random.permutation(PAIRS)[:rows]
    label = random.choice(["cat", "dog"], rows)
    patient = [f"p{i // 4}" for i in range(rows)]
    return pd.DataFrame({"text": texts, "label": label, "patient": patient} | columns)


@st.composite
def rows(draw):
    cell = st.sampled_from(["", "a", "b", "it purrs", "猫", "a.png"])
    return draw(
        st.lists(st.tuples(cell, cell, st.sampled_from(["", "p", "q"])), min_size=1, max_size=12)
    )


def splits(rows, group, **columns):
    frame = pd.DataFrame(rows, columns=["text", "image", "who"]).assign(**{"label": "x"} | columns)
    return choose_splits(read_manifest(frame, group="who" if group else None))


@given(rows(), rows(), st.booleans(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_split_of_a_row_depends_on_nothing_but_its_own_cells_or_its_group(
    some, others, group, random
):
    alone = [splits([row], group)[0] for row in some]
    order = list(range(len(some)))
    random.shuffle(order)
    assert splits(some + others, group)[: len(some)] == alone
    assert splits([some[i] for i in order], group) == [alone[i] for i in order]
    assert splits(some, group, label=[str(i) for i in order], remark="new") == alone


def test_groups_are_never_divided_and_shares_come_out_as_meant():
    frame = pd.DataFrame(
        {"text": [f"{i}" for i in range(6000)], "who": [f"g{i // 3}" for i in range(6000)]}
    )
    alone, grouped = (
        choose_splits(read_manifest(frame, None, group=group)) for group in (None, "who")
    )
    for names in (alone, grouped):
        for name, share in SHARES.items():
            assert abs(names.count(name) / 6000 - share) < 0.03
    assert all(len(set(grouped[i : i + 3])) == 1 for i in range(0, 6000, 3))
    assert any(len(set(alone[i : i + 3])) == 3 for i in range(0, 6000, 3))


def test_val_is_drawn_from_train_and_never_from_test():
    frame = table(200, split=["train"] * 150 + ["test"] * 50)
    for group in (None, "patient"):
        names = choose_splits(read_manifest(frame, group=group))
        assert names[150:] == ["test"] * 50 and set(names[:150]) == {"train", "val"}
        assert abs(names.count("val") / 150 - SHARES["val"]) < 0.12
        shuffled = frame.sample(frac=1, random_state=1)
        again = choose_splits(read_manifest(shuffled, group=group))
        assert [again[list(shuffled.index).index(i)] for i in range(200)] == names
    assert choose_splits(read_manifest(frame.assign(split="val"))) == ["val"] * 200


def test_a_row_without_any_cell_is_in_train_where_it_is_left_out(tmp_path):
    frame = table()
    frame.loc[:9, "text"] = ""
    data = load_data(read_manifest(frame))
    assert data.loaders["train"].dropped == 10


def test_the_modalities_in_use_do_not_change_the_splits():
    frame = table().assign(audio=[f"{i}.wav" for i in range(120)], words=PAIRS[:120])
    columns = {"text": "text,words"}
    whole = choose_splits(read_manifest(frame, columns=columns))
    for use in (["text"], ["words"], ["audio"], ["words", "audio"]):
        assert choose_splits(read_manifest(frame, columns=columns, use=use)) == whole


def test_a_drawn_split_prints_its_shares_and_the_missing_classes():
    frame = table()
    names = choose_splits(read_manifest(frame))
    frame["label"] = ["bird" if name != "val" and i % 3 else "cat" for i, name in enumerate(names)]
    lines = load_data(read_manifest(frame)).summary
    assert f"({names.count('train') / 120:.0%})" in lines[0] and "cells in text" in lines[0]
    assert "warning: split 'val' has no row of class 'bird'" in lines
    data = load_data(read_manifest(frame, group="patient"), splits=["train"])
    assert "by group, from the names in 'patient'" in data.summary[0]


def test_a_class_that_a_drawn_train_or_test_lacks_is_an_error_that_says_what_to_do():
    names = np.array(choose_splits(read_manifest(table())))
    for other in ("train", "test"):
        bird = (names == other) & (np.arange(120) % 2 == 0)
        frame = table(label=np.where(bird, "bird", table()["label"]))
        with pytest.raises(ValueError, match=r"'bird'.*(split column|column 'split')"):
            load_data(read_manifest(frame))


def test_a_class_that_the_authors_own_test_lacks_is_a_warning():
    frame = table(label=["cat", "dog", "cat"] * 40, split=["train", "train", "test"] * 40)
    summary = load_data(read_manifest(frame)).summary
    assert "warning: split 'test' has no row of class 'dog'" in summary


def test_a_file_too_small_for_a_drawn_split_is_refused_with_what_to_do():
    frame = pd.DataFrame({"text": ["a", "a", "a"], "label": ["1.5", "2", "3"]})
    with pytest.raises(ValueError, match="1 different rows none was drawn into.*column 'split'"):
        load_data(read_manifest(frame))
    with pytest.raises(ValueError, match="1 different groups of 'who' none was drawn into"):
        load_data(read_manifest(frame.assign(who="p"), group="who"))
