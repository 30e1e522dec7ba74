"""The pets world: what must not tell does not tell, what is promised as optimum is the optimum."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.worlds.pets import captions, poses, scenery
from mmlib.worlds.pets import world as world_module
from mmlib.worlds.pets.dials import MODALITIES, STRUCTURES, Dials, best_accuracy
from mmlib.worlds.pets.drawing import SIZE, TILE, Canvas, textures
from mmlib.worlds.pets.pictures import pictures
from mmlib.worlds.pets.voices import RATE
from mmlib.worlds.pets.world import build, chances, draw, ideal_accuracy

SUBSETS = [s for n in range(4) for s in combinations(MODALITIES, n)]


@pytest.fixture(scope="module")
def world():
    return draw(200, seed=3)


def other_species(chance):
    """The same causes but for the species (in synergy: but for all the species that the
    modalities show).
    """
    names = ("species", *(f"shown_{s}" for s in MODALITIES))
    return {**chance, **{name: (chance[name] + 0.5) % 1 for name in names}}


def same(a, b, modality):
    """(N,) bool: is this modality the same, bit for bit, in both worlds?"""
    columns = {
        "image": [(a.images, b.images)],
        "text": [(a.text, b.text), (a.text_zh, b.text_zh)],
        "audio": [(a.audio, b.audio)],
    }[modality]
    return np.all(
        [[np.array_equal(x, y) for x, y in zip(*pair, strict=True)] for pair in columns], axis=0
    )


# --- what does not tell, does not tell


@pytest.mark.parametrize(
    "dials",
    [
        Dials(),
        Dials(0.5, 0.5, 0.5, structure="redundant"),
        Dials(structure="synergy"),
        Dials(noise=0.1),
    ],
    ids=str,
)
def test_a_modality_changes_with_the_species_exactly_where_it_tells(dials):
    chance = chances(80, seed=1)
    one, two = build(chance, dials), build(other_species(chance), dials)
    for modality in MODALITIES:
        assert np.array_equal(one.tells[modality], two.tells[modality])
        assert 0 < one.tells[modality].sum() < 80
        assert np.array_equal(same(one, two, modality), ~one.tells[modality]), modality
    assert dials.structure == "synergy" or (one.label != two.label).all()


def test_both_species_have_every_attribute_equally_often():
    w = draw(6000, modalities=())
    dog = w.attributes["species"] == 1
    for name in ("coat", "pattern", "collar", "place", "prop", "pose"):
        values = sorted(set(w.attributes[name]))
        rates = np.array(
            [
                [(w.attributes[name][kind] == value).mean() for value in values]
                for kind in (dog, ~dog)
            ]
        )
        assert abs(rates[0] - rates[1]).max() < 0.05, (
            name
        )  # four deviations of a rate of 1/5 over 3000 rows, and the difference of two
    for modality in MODALITIES:
        assert abs(w.tells[modality][dog].mean() - w.tells[modality][~dog].mean()) < 0.05


def test_captions_never_name_the_species_and_vague_ones_hint_at_nothing():
    w = draw(1500, modalities=("text",))
    for english, chinese, tells in zip(w.text, w.text_zh, w.tells["text"], strict=True):
        assert not re.search(r"cat|dog|kitt|pup|feline|canine|hound|tabby|woof", english.lower()), (
            english
        )
        assert not re.search(
            r"\b(mew|meow|miaow|barks?|barking|yaps?|growls?)\b", english.lower()
        ), english
        assert not re.search("[猫狗犬喵汪吠咪]", chinese), chinese
        hints = [
            sum(h[language] in text for species in captions.HINTS for h in species)
            for language, text in ((0, english), (1, chinese))
        ]
        assert hints == [tells, tells], (english, chinese)


def test_captions_agree_with_the_picture_in_both_languages(world):
    tables = {"coat": captions.COATS, "place": captions.PLACES, "pose": captions.POSES}
    said = dict.fromkeys((*tables, "collar"), 0)
    for i, (english, chinese) in enumerate(zip(world.text, world.text_zh, strict=True)):
        for name, table in tables.items():
            for value, (en, zh) in table.items():
                true = world.attributes[name][i] == value
                spoken = (re.search(rf"\b{en}\b", english) is not None, zh in chinese)
                assert spoken[0] == spoken[1] and (true or not spoken[0]), (value, english, chinese)
                said[name] += spoken[0]
        colours = re.search(r"(\w+) collar", english)
        if colours:
            assert world.attributes["collar"][i] == {"a": "none"}.get(colours[1], colours[1])
            said["collar"] += 1
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]|\s\s", english), english
    assert said["coat"] == 200 and all(n > 50 for n in said.values())


# --- the optimum


def guess(world, modalities, rng):
    """A reader without error, written on its own: says the species that it saw, tosses a coin
    where it saw none.
    """
    votes = np.full((len(world.label), len(MODALITIES)), -1)
    for j, modality in enumerate(MODALITIES):
        if modality in modalities:
            votes[world.tells[modality], j] = world.shown[modality][world.tells[modality]]
    coin = rng.integers(0, 2, len(votes))
    if world.dials.structure == "synergy":
        used = [
            MODALITIES.index(modality)
            for modality in MODALITIES
            if getattr(world.dials, modality) < 1
        ]
        return np.where((votes[:, used] >= 0).all(axis=1), votes[:, used].sum(axis=1) % 2, coin)
    return np.where(votes.max(axis=1) >= 0, votes.max(axis=1), coin)


rate = st.sampled_from((0.0, 0.2, 0.5, 1.0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(rate, rate, rate),
    st.tuples(rate, rate, rate),
    st.sampled_from((0.0, 0.1, 0.5)),
    st.sampled_from(STRUCTURES),
)
def test_an_ideal_reader_reaches_the_formula(vague, missing, wrong, structure):
    if structure == "redundant":
        vague = (vague[0],) * 3
    if structure == "synergy" and sum(u < 1 for u in vague) < 2:
        vague = (0.2, 0.5, vague[2])
    dials = Dials(*vague, *missing, label_noise=wrong, structure=structure)
    w, rng = build(MANY, dials, modalities=()), np.random.default_rng(0)
    for modalities in SUBSETS:
        reached = (guess(w, modalities, rng) == w.label).mean()
        assert abs(reached - best_accuracy(dials, modalities)) < 0.04, (
            modalities
        )  # four deviations of a coin over 3000 rows
        assert abs(reached - ideal_accuracy(w, modalities)) < 0.04, modalities


MANY = chances(3000, seed=11)


def test_the_formula_in_cases_worked_by_hand():
    assert best_accuracy(Dials(), ["image"]) == pytest.approx(0.85)
    assert best_accuracy(Dials()) == pytest.approx(1 - 0.5 * 0.3 * 0.5 * 0.4)
    assert best_accuracy(Dials(), ()) == 0.5
    assert best_accuracy(Dials(label_noise=0.1), ["image"]) == pytest.approx(
        0.85 * 0.9 + 0.15 * 0.1
    )
    assert best_accuracy(Dials(missing_image=0.5), ["image"]) == pytest.approx(
        1 - 0.5 * (1 - 0.7 * 0.5)
    )
    equal = Dials(0.4, 0.4, 0.4, structure="redundant")
    assert best_accuracy(equal) == best_accuracy(equal, "audio") == pytest.approx(0.8)
    both = Dials(0.3, 1.0, 0.4, structure="synergy")  # text takes no part
    assert (
        best_accuracy(both, ["image", "audio"])
        == best_accuracy(both)
        == pytest.approx(0.5 + 0.5 * 0.7 * 0.6)
    )
    assert best_accuracy(both, ["image", "text"]) == best_accuracy(both, ["audio"]) == 0.5


def test_the_ideal_accuracy_counts_the_very_rows():
    w = draw(300, seed=5, dials=Dials(label_noise=0.2), modalities=())
    right = w.attributes["species"] == w.label
    pairs = zip(right, w.tells["image"], strict=True)
    expected = np.mean([float(ok) if tells else 0.5 for ok, tells in pairs])
    assert ideal_accuracy(w, ["image"]) == pytest.approx(expected)
    assert ideal_accuracy(draw(300, seed=5, dials=Dials(image=0.0), modalities=()), ["image"]) == 1
    assert ideal_accuracy(w, ()) == 0.5


def test_a_spurious_place_follows_the_label_as_often_as_the_dial_says():
    own = {kind: set(sorted(scenery.PLACES)[3 * kind : 3 * kind + 3]) for kind in (0, 1)}
    for strength in (-1.0, 0.0, 0.6, 1.0):
        w = build(MANY, Dials(spurious=strength), modalities=())
        pairs = zip(w.attributes["place"], w.label, strict=True)
        match = np.mean([place in own[kind] for place, kind in pairs])
        assert abs(match - (1 + strength) / 2) < 0.04, strength


# --- errors


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"image": 1.5}, "dial 'image' is 1.5, expected a number from 0 to 1"),
        ({"missing_audio": -0.1}, "dial 'missing_audio' is -0.1"),
        ({"text": float("nan")}, "dial 'text' is nan"),
        ({"noise": "much"}, "dial 'noise' is 'much'"),
        ({"label_noise": 0.6}, "'label_noise' is 0.6, expected a number from 0 to 0.5"),
        ({"spurious": -2}, "'spurious' is -2, expected a number from -1 to 1"),
        ({"structure": "both"}, "dial 'structure' is 'both', expected one of"),
        ({"structure": "redundant"}, "must be equal; given 0.3, 0.5, 0.4"),
        ({"structure": "synergy", "image": 1, "text": 1}, "needs two modalities or more"),
    ],
)
def test_a_wrong_dial_is_named(wrong, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Dials(**wrong)


def test_no_optimum_is_claimed_where_none_is_known():
    for dials, name in (
        (Dials(noise=0.1), "noise"),
        (Dials(spurious=0.5), "spurious"),
        (Dials(spurious=-0.5), "spurious"),
    ):
        with pytest.raises(ValueError, match=f"no optimum is known for dial '{name}'"):
            best_accuracy(dials)
        with pytest.raises(ValueError, match=f"no optimum is known for dial '{name}'"):
            ideal_accuracy(draw(3, dials=dials, modalities=()))
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        best_accuracy(Dials(), ["smell"])
    with pytest.raises(ValueError, match="unknown modalities"):
        draw(3, modalities=["smell"])
    with pytest.raises(ValueError, match="rows is -1"):
        draw(-1)
    with pytest.raises(ValueError, match="no rows"):
        ideal_accuracy(draw(0))


# --- the same again, and each row by itself


def test_a_row_is_the_same_alone_and_in_any_company(world):
    some = draw([150, 7, 42], seed=3)
    for i, row in enumerate((150, 7, 42)):
        assert np.array_equal(some.images[i], world.images[row]) and np.array_equal(
            some.audio[i], world.audio[row]
        )
        assert (some.text[i], some.text_zh[i], some.label[i]) == (
            world.text[row],
            world.text_zh[row],
            world.label[row],
        )
    assert not np.array_equal(draw(8, seed=4).images, world.images[:8])


def test_no_shape_is_cut_by_the_window_it_is_drawn_in(world, monkeypatch):
    window = Canvas._window
    monkeypatch.setattr(
        Canvas, "_window", lambda canvas, shape: window(canvas, shape._replace(reach=SIZE))
    )  # the whole picture
    assert np.array_equal(draw(200, seed=3, modalities=("image",)).images, world.images)


def test_blocks_of_pictures_leave_no_trace(world, monkeypatch):
    monkeypatch.setattr(world_module, "BLOCK", 7)
    assert np.array_equal(draw(60, seed=3, modalities=("image",)).images, world.images[:60])


def test_shapes_dtypes_and_ranges(world):
    assert world.images.shape == (200, SIZE, SIZE, 3) and world.images.dtype == np.uint8
    assert world.label.dtype == np.int64 and set(world.label) == {0, 1}
    assert 70 < world.label.sum() < 130
    for wave in world.audio:
        assert (
            wave.dtype == np.float32
            and 0.6 * RATE - 1 <= len(wave) <= 0.95 * RATE
            and 0.2 < abs(wave).max() <= 1
        )
    assert set(world.attributes["pose"]) == {*poses.TELLING, *poses.HIDING}
    assert np.array_equal(
        np.isin(world.attributes["pose"], list(poses.TELLING)), world.tells["image"]
    )


def test_missing_modalities_are_empty():
    w = draw(60, dials=Dials(missing_image=0.5, missing_text=0.5, missing_audio=0.5))
    for modality in MODALITIES:
        assert (
            10 < w.present[modality].sum() < 50
            and not (w.tells[modality] & ~w.present[modality]).any()
        )
    assert np.array_equal(w.images.any(axis=(1, 2, 3)), w.present["image"])
    assert [bool(t) for t in w.text] == [bool(t) for t in w.text_zh] == list(w.present["text"])
    assert [len(a) > 0 for a in w.audio] == list(w.present["audio"])


def test_noise_changes_every_modality_and_no_label(world):
    noisy = draw(30, seed=3, dials=Dials(noise=0.2))
    clean = draw(30, seed=3)
    for modality in MODALITIES:
        assert same(noisy, clean, modality).mean() < 0.1, modality
    assert np.array_equal(noisy.label, clean.label)


def test_a_coat_can_be_told_from_every_place():
    """In a telling pose, the pet differs from its scene: the outline sees to it, also for a
    black coat at night.
    """
    chance = chances(400, seed=2)
    w = build(chance, Dials(image=0.0), modalities=())
    looks = {
        key: w.attributes[key] for key in ("coat", "pattern", "collar", "place", "prop", "pose")
    }
    images = pictures(looks, chance, w.attributes["species"])
    empty = pictures({**looks, "pose": np.full(400, "nobody")}, chance, w.attributes["species"])
    seen = (np.abs(images - empty).max(axis=-1) > 0.15).mean(axis=(1, 2))
    assert seen.min() > 0.08


def test_textures_repeat_without_a_seam():
    for tile in textures():
        inner = max(abs(np.diff(tile, axis=axis)).max() for axis in (0, 1))
        assert (
            tile.shape == (TILE, TILE)
            and max(abs(tile[0] - tile[-1]).max(), abs(tile[:, 0] - tile[:, -1]).max())
            <= inner + 1e-6
        )
