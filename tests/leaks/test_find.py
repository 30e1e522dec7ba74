"""Leaks: the answer among the inputs is named, evidence is not, and clean data stay clean.

Groups, shift, and files that give the answer away.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from mmlib import leaks
from mmlib.cli.main import main
from mmlib.data.manifest import read_manifest
from mmlib.leaks import shift
from mmlib.leaks.columns import A_LITTLE, NEARLY_ALL
from mmlib.leaks.find import checks
from mmlib.leaks.score import Task, bound, lookup_shares, one_class, score
from mmlib.worlds import pets

WORDS = [
    f"{a}{b}{c}"
    for a in ("ka", "mo", "ti", "lu", "pe")
    for b in ("r", "n", "sh", "v")
    for c in ("ol", "im", "ath", "une", "ex")
]


def sentences(random, n, words=12):
    return [" ".join(random.choice(WORDS, words)) for _ in range(n)]


def table(n=400, seed=0, classes=("cat", "dog"), **columns):
    """A clean table: texts of many words that say little, labels, splits.

    ``columns`` are added: values, or functions of (random, label) that make them.
    """
    random = np.random.default_rng(seed)
    label = random.choice(classes, n)
    frame = {
        "text": sentences(random, n),
        "label": label,
        "split": random.choice(["train", "val", "test"], n, p=[0.7, 0.15, 0.15]),
    }
    for name, made in columns.items():
        frame[name] = made(random, label) if callable(made) else made
    return pd.DataFrame(frame)


def find(frame, quick=True, **options):
    return leaks.find(read_manifest(frame, options.pop("target", "label"), **options), quick)


def kinds(findings):
    return [(finding.kind, finding.column) for finding in findings]


def wrong(share):
    """Labels of which this share is replaced by another class."""
    return lambda random, label: np.where(
        random.random(len(label)) < share, np.where(label == "cat", "dog", "cat"), label
    )


# ---- the answer


def two_texts(random, label):
    return np.where(label == "cat", "Type A.", "type b")


def with_class_names(random, label):
    return [f"{text} {name}!" for text, name in zip(sentences(random, len(label)), label)]


def with_a_word_of_cats(random, label):
    words = np.where(label == "cat", "zz1", "")
    return [f"{text} {word}" for text, word in zip(sentences(random, len(label)), words)]


@pytest.mark.parametrize(
    "text, sign",
    [
        (two_texts, "2 distinct texts"),
        (with_class_names, "name a class"),
        (with_a_word_of_cats, "'zz1'"),
    ],
)
def test_a_text_that_is_the_answer_is_named_with_evidence_bound_and_cure(text, sign):
    found = find(table(text=text, image=""))
    line = str(found[0])
    assert kinds(found) == [("answer", "text")] and "\n" not in line
    for part in (sign, "100.0% of held-out rows", "bound", "majority", "--use image"):
        assert part in line


def test_evidence_in_words_is_not_the_answer():
    """Captions of the pets that always show the species, each by one of 28 habits.

    One must read many captions to know them.
    """
    world = pets.draw(500, dials=pets.Dials(text=0))
    frame = pd.DataFrame({"text": world.text, "label": [pets.CLASSES[k] for k in world.label]})
    assert find(frame, quick=False) == []


def test_words_that_name_other_things_than_the_label_are_no_answer():
    """The questions of easy-VQA name shapes; their answers are yes and no, or another shape."""
    random = np.random.default_rng(0)
    shapes = ["circle", "square", "star"]
    text, label = [], []
    for _ in range(600):
        shape, asked, yes = random.choice(shapes), random.choice(shapes), random.random() < 0.6
        text.append(f"does the image show a {asked}?" if yes else "what shape is in the image?")
        label.append(("yes" if shape == asked else "no") if yes else shape)
    assert find(pd.DataFrame({"image": "", "text": text, "label": label})) == []


@pytest.mark.parametrize("share, found", [(0, True), (0.03, True), (0.12, False), (0.3, False)])
def test_a_column_is_the_answer_within_the_room_for_error(share, found):
    expected = [("answer", "second")] if found else []
    assert kinds(find(table(n=600, second=wrong(share)))) == expected


def test_a_column_of_numbers_is_read_by_intervals():
    def strong(random, label):
        return np.where(label == "cat", 1.0, -1.0) * (0.1 + random.random(len(label)))

    def weak(random, label):
        return (label == "cat") + random.normal(size=len(label))

    assert kinds(find(table(n=600, score=strong))) == [("answer", "score")]
    assert find(table(n=600, score=weak)) == []


def test_a_number_as_target_is_checked_too():
    random = np.random.default_rng(0)
    price = np.round(random.lognormal(size=500), 4)
    frame = table(n=500, price=price, tax=np.round(price * 1.19, 6), noise=random.normal(size=500))
    assert kinds(find(frame.drop(columns="label"), target="price")) == [("answer", "tax")]


@pytest.mark.parametrize("name", ["counter", "key"])
def test_identifiers_do_not_score_even_where_rows_are_sorted_by_label(name):
    frame = table(n=400).sort_values("label")
    keys = [f"{label}_{i}" for i, label in enumerate(frame["label"])]
    frame[name] = np.arange(400) if name == "counter" else keys
    assert find(frame, quick=False) == []


def test_folds_keep_groups_together_so_that_knowing_the_group_is_not_knowing_the_answer():
    """Each patient has one label and one nurse: by row the nurse says all, by patient nothing."""
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 10)
    label = np.repeat(random.choice(["ill", "well"], 60), 10)
    frame = table(
        n=600, label=label, patient=[f"p{i}" for i in patient], nurse=[f"n{i}" for i in patient]
    ).drop(columns="split")
    assert ("group", "patient") in kinds(find(frame)) and find(frame, group="patient") == []


def missing(share):
    """Texts that are missing with the chance ``share`` (a number, or a function of the labels)."""

    def text(random, label):
        gone = random.random(len(label)) < (share(label) if callable(share) else share)
        return np.where(gone, "", sentences(random, len(label)))

    return text


def test_which_modalities_a_row_has_can_give_the_label_away():
    mostly_of_cats = missing(lambda label: np.where(label == "cat", 0.8, 0.2))
    assert kinds(find(table(text=mostly_of_cats, image=""))) == [("missing", "image,text")]
    assert find(table(text=missing(0.5))) == []


# ---- groups


def test_a_group_in_two_splits_is_found_and_one_kept_together_is_not():
    frame = table(n=300, hospital=lambda random, label: random.choice(list("abcdefghij"), 300))
    found = find(frame, group="hospital")
    assert kinds(found) == [("group", "--group")] and "10 of 10 groups" in str(found[0])
    assert find(frame.drop(columns="split"), group="hospital") == []  # split drawn by group


@pytest.mark.parametrize("column", ["patient", "speaker_id", "writerId", "users"])
def test_a_column_that_sounds_like_a_group_is_suspected(column):
    frame = table(n=300, **{column: lambda random, label: random.integers(0, 60, 300)})
    assert kinds(find(frame)) == [("group", column)] and f"--group {column}" in str(find(frame)[0])
    home = {value: ["train", "val", "test"][value % 3] for value in range(60)}
    assert find(frame.assign(split=frame[column].map(home))) == []


def test_a_nameless_group_is_suspected_by_its_labels_and_an_ordinary_attribute_is_not():
    random = np.random.default_rng(3)
    code = random.integers(0, 50, 600)
    frame = table(
        n=600, label=np.array(["cat", "dog"])[code % 2], code=[f"k{value}" for value in code]
    )
    assert kinds(find(frame)) == [("group", "code")]
    plain = table(
        n=600,
        city=lambda random, label: random.choice(WORDS[:50], 600),
        age=lambda random, label: random.integers(0, 90, 600),
        coat=lambda random, label: random.choice(["red", "black", "white"], 600),
    )
    assert find(plain, quick=False) == []


# ---- shift


def test_a_shift_is_named_and_called_no_leak():
    def year(random, label):
        return 2000 + np.arange(len(label)) // 50

    frame = table(n=600, year=year, split=np.repeat(["train", "test"], [400, 200]))
    frame.loc[::9, "split"] = "train"
    found = find(frame, quick=False)
    assert kinds(found) == [("shift", "year")]
    assert all(part in str(found[0]) for part in ("AUROC", "bound", "not a leak"))
    assert find(frame, quick=True) == []
    polite = table(n=600)
    polite["text"] = [
        f"please {text} thanks" if split == "test" else text
        for text, split in zip(polite["text"], polite["split"])
    ]
    assert kinds(find(polite, quick=False)) == [("shift", "text")]


# ---- files


def write_images(folder, random, label, write):
    """Images of noise, each written by ``write(stem, label, pixels)``; their names."""
    names = []
    for i, name in enumerate(label):
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        names.append(write(folder / f"{i:03d}", name, pixels).name)
    return names


def save(stem, ending, pixels, **options):
    path = stem.with_suffix(ending)
    Image.fromarray(pixels).save(path, **options)
    return path


def as_format(stem, name, pixels):
    return save(stem, ".jpg" if name == "cat" else ".png", pixels)


def as_quality(stem, name, pixels):
    return save(stem, ".jpg", pixels, quality=90 if name == "cat" else 95)


def as_size(stem, name, pixels):
    larger = np.pad(pixels, ((0, 3), (0, 3), (0, 0)), mode="reflect")
    return save(stem, ".png", pixels if name == "cat" else larger)


def as_corner(stem, name, pixels):
    pixels[:2, :2] = 255 if name == "cat" else 0
    return save(stem, ".png", pixels)


def as_evidence(stem, name, pixels):
    pixels[8:16, 8:16] = 255 if name == "cat" else 0
    return save(stem, ".bmp", pixels)


@pytest.mark.parametrize(
    "write, kind",
    [
        (as_format, "encoding"),
        (as_quality, "encoding"),
        (as_size, "size"),
        (as_corner, "frame"),
        (as_evidence, None),
    ],
)
def test_images_that_give_the_label_away_without_being_seen(tmp_path, write, kind):
    random = np.random.default_rng(0)
    label = random.choice(["cat", "dog"], 150)
    frame = pd.DataFrame({"image": write_images(tmp_path, random, label, write), "label": label})
    manifest = read_manifest(frame, root=tmp_path)
    assert [finding.kind for finding in leaks.find(manifest)] == ([kind] if kind else [])
    assert leaks.find(manifest, quick=True) == []


def test_sizes_that_tell_several_classes_apart_in_any_order_are_found(tmp_path):
    random = np.random.default_rng(0)
    label = random.integers(0, 4, 240)
    names = [f"{i:03d}.bmp" for i in range(240)]
    for name, code in zip(names, label):
        side = (24, 26, 28, 30, 32, 34, 36, 38)[code + 4 * random.integers(0, 2)]  # twice in turn
        Image.fromarray(random.integers(0, 256, (side, 24, 3), np.uint8)).save(tmp_path / name)
    frame = pd.DataFrame({"image": names, "label": [f"class {code}" for code in label]})
    found = leaks.find(read_manifest(frame, root=tmp_path))
    assert "size" in [finding.kind for finding in found]


@pytest.mark.parametrize("rates, kind", [((8000, 16000), "encoding"), ((16000, 16000), None)])
def test_the_rate_of_sounds_can_give_the_label_away(tmp_path, rates, kind):
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 120)
    names = [f"{i}.wav" for i in range(120)]
    for name, code in zip(names, label):
        wave = np.cumsum(random.normal(size=int(random.uniform(0.2, 0.4) * rates[code])))
        wave = (0.5 * wave / np.abs(wave).max()).astype(np.float32)
        soundfile.write(tmp_path / name, wave, rates[code])
    frame = pd.DataFrame({"audio": names, "label": [f"c{code}" for code in label]})
    found = [finding.kind for finding in leaks.find(read_manifest(frame, root=tmp_path))]
    assert found[0] == kind if kind else found == []


# ---- what must not disturb


def test_unreadable_files_and_targets_are_left_to_the_loader(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    for i, name in enumerate(names[:40]):
        start = [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"][i % 3]
        (tmp_path / name).write_bytes(start + bytes([i]) * (i % 3))
    frame = table(n=60, image=names, audio=names)
    for quick in (True, False):
        leaks.find(read_manifest(frame, root=tmp_path), quick)
        for label in ("", "one", [""] * 59 + ["x"], ["1", "2", ""] * 20):
            leaks.find(read_manifest(frame.assign(label=label), root=tmp_path), quick)
        leaks.find(read_manifest(frame, None, root=tmp_path), quick)
        leaks.find(read_manifest(frame.iloc[:1], root=tmp_path), quick)
        leaks.find(read_manifest(frame.assign(split="test"), root=tmp_path), quick)


def test_strange_cells_are_only_cells():
    numeric = ["", "nan", "inf", "-inf", "1e300", "-1e300", "1_0"]
    words = ["猫", "a\nb", " ", "0x1", "\x00", "!", "💥"]
    strange = [*numeric, "\u0661", *words]
    for seed in range(3):
        random = np.random.default_rng(seed)
        odd = random.random(90) < 0.3
        usual = random.normal(size=90).astype(str)
        numbers = np.where(odd, random.choice(numeric, 90), usual)
        frame = table(
            n=90,
            seed=seed,
            a=random.choice(strange, 90),
            b=numbers,
            text=random.choice(strange, 90),
            patient=random.choice(strange, 90),
            label=random.choice(words, 90),
        )
        for quick in (True, False):
            for group in (None, "a"):
                assert all("\n" not in str(finding) for finding in find(frame, quick, group=group))


def test_quick_decodes_nothing(tmp_path, monkeypatch):
    path = pets.write(pets.draw(40), tmp_path / "w")

    def refuse(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr("mmlib.leaks.files.read_image", refuse)
    monkeypatch.setattr("mmlib.leaks.files.read_audio", refuse)
    assert leaks.find(read_manifest(path), quick=True) == []
    with pytest.raises(AssertionError):
        leaks.find(read_manifest(path))


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))]
)
def test_pets_have_no_leak(tmp_path, seed):
    path = pets.write(pets.draw(150, seed), tmp_path / "w")
    assert leaks.find(read_manifest(path)) == []
    assert leaks.find(read_manifest(path, columns={"text": "text_zh"}), quick=True) == []


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 200))]
)
def test_clean_tables_stay_clean(seed):
    """About thirty checks of a table of pure chance: they must not add up to a false alarm."""
    random = np.random.default_rng(seed)
    n = int(random.integers(30, 500))
    classes = [f"class {i}" for i in range(random.integers(2, 8))]
    columns = {f"c{i}": random.integers(0, random.integers(2, 200), n) for i in range(4)}
    columns |= {f"f{i}": random.normal(size=n) for i in range(4)}
    assert find(table(n, seed, classes, **columns), quick=False) == []


def test_the_same_seed_finds_the_same():
    frame = table(
        n=300, second=wrong(0.02), patient=lambda random, label: random.integers(0, 40, 300)
    )
    assert find(frame, quick=False) == find(frame, quick=False) and len(find(frame)) == 2


# ---- bounds


def a_task(codes, groups=None, classes=3):
    codes = np.asarray(codes)
    groups = np.arange(len(codes)) if groups is None else np.asarray(groups)
    return Task(codes, [f"class {i}" for i in range(classes)], groups % 5, groups)


@pytest.mark.parametrize("room", [NEARLY_ALL, A_LITTLE])
def test_of_hundreds_of_checks_of_chance_none_is_suspicious(room):
    """Small tables, few values: scores above the majority's share are luck, and frequent."""
    lucky = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        classes = int(random.integers(2, 6))
        rows = np.arange(random.integers(30, 120))
        codes = random.integers(0, classes, len(rows))
        task = a_task(codes, random.permutation(len(rows)), classes)
        shares = lookup_shares(task, rows, random.integers(0, 3, len(rows)).tolist())
        found = score(task, rows, shares, room)
        lucky += found.accuracy > found.majority + (1 - room) * (1 - found.majority)
        assert not found.suspicious and not one_class(task, rows, shares, room).suspicious
    assert room == NEARLY_ALL or lucky > 5  # without standard errors these would be alarms


def test_rows_of_one_group_count_as_one():
    """Ten photos of each of twenty patients prove no more than one photo of each."""
    random = np.random.default_rng(0)
    code = random.integers(0, 2, 20)
    once, often = a_task(code), a_task(np.repeat(code, 10), np.repeat(np.arange(20), 10))
    assert bound(once, np.arange(20), A_LITTLE) == bound(often, np.arange(200), A_LITTLE)
    alone = bound(a_task(np.repeat(code, 10)), np.arange(200), A_LITTLE)
    assert alone[0] < bound(often, np.arange(200), A_LITTLE)[0]


def test_rows_of_one_group_count_as_one_for_a_class_too():
    """A device that only the three patients of one class have seen is no proof."""
    code, groups = np.repeat(np.arange(3), 100), np.repeat(np.arange(60), 5)
    values = np.where(code == 1, "odd", "usual").tolist()
    rows = np.arange(300)
    few = a_task(code, np.repeat(np.arange(9), [34, 33, 33] * 3))
    many = a_task(code, groups)
    of_few = one_class(few, rows, lookup_shares(few, rows, values), A_LITTLE)
    of_many = one_class(many, rows, lookup_shares(many, rows, values), A_LITTLE)
    once = a_task(np.arange(3).repeat(20))
    shares = np.ones((60, 3), np.float32)
    repeated = one_class(many, rows, shares.repeat(5, axis=0), A_LITTLE)
    assert repeated.bound == one_class(once, np.arange(60), shares, A_LITTLE).bound
    assert of_many.suspicious and of_many.name == "class 1" and not of_few.suspicious


@pytest.mark.parametrize("share, rows", [(1 / 3, 240), (1 / 10, 600)])
def test_what_only_one_class_of_many_has_is_found_and_the_class_named(share, rows):
    random = np.random.default_rng(0)
    classes = round(1 / share)
    code = np.arange(rows) % classes
    values = np.where(code == 1, "mp3", random.choice(["wav", "flac"], rows)).tolist()
    task = a_task(code, random.permutation(rows), classes)
    shares = lookup_shares(task, np.arange(rows), values)
    assert not score(task, np.arange(rows), shares, NEARLY_ALL).suspicious
    single = one_class(task, np.arange(rows), shares, NEARLY_ALL)
    assert single.suspicious and single.name == "class 1"


def third(make, other):
    """``make`` for one class of three, ``other`` for the rest."""
    return lambda stem, name, pixels: (make if name == "cat" else other)(stem, "cat", pixels)


def plain(stem, name, pixels):
    return save(stem, ".png", pixels)


def padded(stem, name, pixels):
    return save(stem, ".png", np.pad(pixels, ((0, 3), (0, 3), (0, 0)), mode="reflect"))


def grey(stem, name, pixels):
    return save(stem, ".png", pixels[..., 0])


def marked(stem, name, pixels):
    pixels[:2, :2] = 255
    return save(stem, ".png", pixels)


def smoother(stem, name, pixels):
    return save(stem, ".jpg", pixels, quality=60)


def usual(stem, name, pixels):
    return save(stem, ".jpg", pixels, quality=90)


@pytest.mark.parametrize(
    "artefact, clean, kind",
    [
        (grey, plain, "encoding"),
        (smoother, usual, "encoding"),
        (padded, plain, "size"),
        (marked, plain, "frame"),
        (plain, plain, None),
    ],
)
def test_an_artefact_of_one_class_of_three_is_found_and_the_class_named(
    tmp_path, artefact, clean, kind
):
    random = np.random.default_rng(0)
    label = random.choice(["cat", "dog", "bird"], 180)
    names = write_images(tmp_path, random, label, third(artefact, clean))
    frame = pd.DataFrame({"image": names, "label": label})
    found = leaks.find(read_manifest(frame, root=tmp_path))
    assert [finding.kind for finding in found] == ([kind] if kind else [])
    assert all("class 'cat'" in str(finding) for finding in found)


def test_which_modalities_a_row_has_can_give_one_class_of_four_away():
    only_of_cats = missing(lambda label: np.where(label == "cat", 0.9, 0.0))
    found = find(table(600, classes=("cat", "dog", "bird", "fish"), text=only_of_cats, image=""))
    assert kinds(found) == [("missing", "image,text")] and "class 'cat'" in str(found[0])


# ---- false alarms about columns


def captions(random, label):
    """Three captions for each class: another name of the class."""
    return [f"{name}, take {random.integers(3)}" for name in label]


def test_a_column_that_is_nearly_the_class_is_the_answer_and_no_group_to_split_by():
    """To keep each value in one split would take whole classes out of the others."""
    classes = [f"kind {i}" for i in range(10)]
    found = find(table(600, classes=classes, caption=captions))
    assert kinds(found) == [("answer", "caption")] and "--group" not in str(found[0])
    ten = table(600, classes=classes, caption=lambda random, label: [f"a {k}" for k in label])
    assert kinds(find(ten)) == [("answer", "caption")]


def test_columns_that_use_leaves_out_give_no_finding_but_groups_do():
    frame = table(
        600,
        image="",
        second=wrong(0),
        year=np.repeat([2001, 2002], 300),
        text=lambda random, label: label,
    )
    frame["split"] = np.where(np.arange(600) < 300, "train", "test")
    frame.loc[::9, "split"] = "train"
    assert {("answer", "text"), ("answer", "second")} <= set(kinds(find(frame, quick=False)))
    assert ("shift", "year") in kinds(find(frame, quick=False))
    assert find(frame, quick=False, use=["image"]) == []
    patients = frame.assign(patient=np.random.default_rng(0).integers(0, 60, 600).astype(str))
    assert kinds(find(patients, quick=False, use=["image"])) == [("group", "patient")]


def scenes(random, shared=454, alone=446, questions=4):
    """A table of questions about scenes: some scenes stand in both splits, others in train only."""
    scene = np.repeat(np.arange(shared + alone), questions)
    both = scene < shared
    split = np.where(both & (random.random(len(scene)) < 0.4), "test", "train")
    # a shared scene has a question on each side
    split[: shared * questions : questions] = "train"
    split[1 : shared * questions : questions] = "test"
    return scene, split, len(set(scene[split == "test"]) & set(scene[split == "train"]))


@pytest.mark.parametrize("column", ["place", "scene"])
def test_groups_that_both_splits_share_are_named_with_their_number_and_rows_not_as_a_shift(column):
    random = np.random.default_rng(0)
    scene, split, shared = scenes(random)
    names = [f"s{i}" for i in random.permutation(900)[scene]]
    frame = table(len(scene), **{column: names}).assign(split=split)
    val = table(40, seed=1, **{column: [f"v{i}" for i in range(40)]}).assign(split="val")
    found = find(pd.concat([frame, val]), quick=False)
    assert kinds(found) == [("group", column)]
    line = str(found[0])
    assert f"{shared} of 940 values stand in both train and test" in line
    assert f"{(split == 'test').sum():,} rows of test" in line
    assert "row 1 as row 0" in line and f"--group {column}" in line


def test_an_image_asked_about_in_both_splits_is_a_copy_and_no_shift(tmp_path):
    random = np.random.default_rng(0)
    scene, split, _ = scenes(random, 40, 40)
    names = write_images(tmp_path, random, np.repeat("x", 80), plain)
    frame = table(len(scene), image=[names[i] for i in scene]).assign(split=split)
    found = leaks.find(read_manifest(frame, root=tmp_path))
    assert {kind for kind, column in kinds(found)} == {"copies"}
    assert "40 different ones" in str(found[0])


# ---- what is said


def test_no_note_of_a_library_reaches_the_screen(tmp_path, capfd):
    """libmpg123 speaks of damaged files without a name, scikit-learn of classes of one row."""
    random = np.random.default_rng(0)
    names = [f"{i}.mp3" for i in range(30)]
    for name in names:
        noise = (0.1 * random.normal(size=8000)).astype(np.float32)
        soundfile.write(tmp_path / name, noise, 16000, format="MP3")
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2] + bytes(300) + data[len(data) // 2 :])
    classes = [f"class {i}" for i in range(60)]
    frame = table(30, classes=classes, audio=names, number=random.normal(size=30))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leaks.find(read_manifest(frame, root=tmp_path))
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")


def test_where_nothing_is_found_the_command_says_what_was_looked_for(tmp_path, capsys):
    path = pets.write(pets.draw(60), tmp_path / "w")
    assert main(["leaks", str(path), "--quick"]) == 0
    quick = capsys.readouterr().out
    assert main(["leaks", str(path)]) == 0
    whole = capsys.readouterr().out
    assert main(["leaks", str(path), "--use", "image"]) == 0
    image = capsys.readouterr().out
    for out in (quick, whole, image):
        assert out.count("\n") == 1
        assert all(part in out for part in ("no leak found", "groups across splits", "image: "))
    one = checks(read_manifest(table(30, label="x")))
    assert not any("answer" in check for check in one)  # with one class there is none
    assert "text: the answer" in quick and "text: " not in image and "columns" not in image
    assert "image: equal files" in quick and "size" not in quick and "shift" not in quick
    for part in ("image: copies", "audio: format, size and edges", "shift between splits"):
        assert part in whole


def test_each_side_of_a_shift_has_at_most_half_of_the_rows_that_are_read(monkeypatch):
    sizes: list[list[int]] = []
    measure = shift._domain_score

    def measured(sides, *rest):
        sizes.append(np.bincount(sides.is_test).tolist())
        return measure(sides, *rest)

    monkeypatch.setattr(shift, "MAX_ROWS", 60)
    monkeypatch.setattr(shift, "_domain_score", measured)
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [f"{a} {b}" for a, b in random.integers(0, 9, (400, 2))]})
    frame["label"] = random.choice(["x", "y"], 400)
    frame["split"] = ["train"] * 375 + ["test"] * 25
    leaks.find(read_manifest(frame))
    assert sizes and all(size == [30, 25] for size in sizes)
