"""Copies across splits are found when re-encoded, resized or resampled.

Other images and sounds, and phrases that many people use, are no copies.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torchaudio.functional
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmlib import leaks
from mmlib.data.manifest import read_manifest
from mmlib.leaks.copies import equal_rows, neighbours
from mmlib.leaks.files import upright_size
from mmlib.leaks.texts import text_copies
from mmlib.worlds import pets

N = 24  # originals in train; as many copies in test


@pytest.fixture(scope="module")
def world():
    return pets.draw(2 * N, seed=5)


def copies_in(folder, column, originals, others, quick=False):
    """The findings of copies where ``originals`` are the rows of train, ``others`` of test."""
    split = ["train"] * len(originals) + ["test"] * len(others)
    frame = pd.DataFrame({column: [*originals, *others], "split": split, "label": "x"})
    return only_copies(leaks.find(read_manifest(frame, root=folder), quick))


def only_copies(findings):
    return [finding for finding in findings if finding.kind == "copies"]


def count(findings):
    """How many rows the first finding names."""
    return int(findings[0].evidence.split(" of ")[0].replace(",", "")) if findings else 0


def write_images(folder, images, prefix, ending=".png", **options):
    for i, image in enumerate(images):
        image.save(folder / f"{prefix}{i}{ending}", **options)
    return [f"{prefix}{i}{ending}" for i in range(len(images))]


def scaled(images, by):
    return [
        image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)
        for image in images
    ]


@pytest.mark.parametrize("quality", [50, 70, 90])
@pytest.mark.parametrize("by", [None, 1.5])
def test_re_encoded_images_are_found(tmp_path, world, quality, by):
    images = [Image.fromarray(x) for x in world.images[:N]]
    names = write_images(tmp_path, images, "a")
    others = write_images(
        tmp_path, scaled(images, by) if by else images, "b", ".jpg", quality=quality
    )
    assert count(copies_in(tmp_path, "image", names, others)) == N


@pytest.mark.parametrize("by", [0.5, 0.75, 1.5, 2])
def test_resized_images_are_found(tmp_path, world, by):
    images = [Image.fromarray(x) for x in world.images[:N]]
    names = write_images(tmp_path, images, "a")
    others = write_images(tmp_path, scaled(images, by), "b")
    assert count(copies_in(tmp_path, "image", names, others)) == N


def test_other_images_are_no_copies(tmp_path, world):
    """Nor are images of one colour, of which there are only so many."""
    images = [Image.fromarray(x) for x in world.images]
    names = write_images(tmp_path, images, "a")
    assert copies_in(tmp_path, "image", names[:N], names[N:]) == []
    flat = [Image.new("RGB", (size, size), (9, 9, 9)) for size in range(20, 60)]
    names = write_images(tmp_path, flat, "b")
    assert copies_in(tmp_path, "image", names[:20], names[20:]) == []


def test_a_small_shape_elsewhere_is_another_image(tmp_path):
    """Flat images collide in hashes of brightness.

    One square on grey, a pixel further or in another colour, is no copy.
    """

    def square(x, y, colour):
        pixels = np.full((64, 64, 3), 230, np.uint8)
        pixels[y : y + 14, x : x + 14] = colour
        return Image.fromarray(pixels)

    places = [(x, y) for x in range(4, 44, 6) for y in range(4, 44, 6)]
    a = write_images(tmp_path, [square(x, y, (200, 40, 40)) for x, y in places], "a")
    moved = write_images(tmp_path, [square(x + 1, y + 1, (200, 40, 40)) for x, y in places], "b")
    tinted = write_images(tmp_path, [square(x, y, (40, 110, 60)) for x, y in places], "c")
    assert copies_in(tmp_path, "image", a, [*moved, *tinted]) == []


RATE = pets.RATE


def sound_variants(wave):
    """Pairs of a name and a function that gives the bytes of a file."""

    def pack(x, rate, kind, subtype=None):
        file = io.BytesIO()
        soundfile.write(file, x, rate, format=kind, subtype=subtype)
        return file.getvalue()

    def at(rate):
        return torchaudio.functional.resample(torch.from_numpy(wave), RATE, rate).numpy()

    yield "ogg", lambda: pack(wave, RATE, "OGG", "VORBIS")
    yield "mp3", lambda: pack(wave, RATE, "MP3")
    yield "quiet", lambda: pack(0.25 * wave, RATE, "WAV", "PCM_16")
    yield "late", lambda: pack(np.concatenate([np.zeros(1600, np.float32), wave]), RATE, "FLAC")
    for rate in (8000, 22050, 44100):
        yield f"{rate} Hz", lambda rate=rate: pack(at(rate), rate, "WAV", "PCM_16")
    yield "mp3 at 44.1 kHz, quiet", lambda: pack(0.5 * at(44100), 44100, "MP3")


VARIANTS = [name for name, _ in sound_variants(np.zeros(1, np.float32))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_re_encoded_resampled_and_quieter_sounds_are_found(tmp_path, world, variant):
    for i, wave in enumerate(world.audio[:12]):
        soundfile.write(tmp_path / f"a{i}.flac", wave, RATE)
        (tmp_path / f"b{i}.wav").write_bytes(dict(sound_variants(wave))[variant]())
    names, others = [f"a{i}.flac" for i in range(12)], [f"b{i}.wav" for i in range(12)]
    found = count(copies_in(tmp_path, "audio", names, others))
    # A codec may change one of them, a rustle of rain, too much.
    assert found >= (11 if variant in ("ogg", "mp3") else 12)


def test_other_sounds_are_no_copies(tmp_path, world):
    for i, wave in enumerate(world.audio):
        soundfile.write(tmp_path / f"{i}.wav", wave, RATE)
    names = [f"{i}.wav" for i in range(2 * N)]
    assert copies_in(tmp_path, "audio", names[:N], names[N:]) == []
    silent = [f"s{i}.wav" for i in range(6)]
    for i, name in enumerate(silent):
        soundfile.write(tmp_path / name, np.zeros(8000 + 100 * i), RATE)
    assert copies_in(tmp_path, "audio", silent[:3], silent[3:]) == []


def test_the_same_bytes_under_another_name_are_found_quickly_and_equal_sizes_alone_are_not(
    tmp_path,
):
    random = np.random.default_rng(0)
    for i in range(20):
        (tmp_path / f"a{i}.bin").write_bytes(random.bytes(9000))
        (tmp_path / f"b{i}.bin").write_bytes(random.bytes(9000))
    same_middle = bytearray((tmp_path / "a0.bin").read_bytes())
    same_middle[0] ^= 1
    (tmp_path / "b0.bin").write_bytes(bytes(same_middle))
    (tmp_path / "b7.bin").write_bytes((tmp_path / "a3.bin").read_bytes())
    names, others = [f"a{i}.bin" for i in range(20)], [f"b{i}.bin" for i in range(20)]
    found = copies_in(tmp_path, "image", names, others, quick=True)
    line = str(found[0])
    assert count(found) == 1 and "row 27 = row 3" in line and "1 of 20 test rows" in line
    one_path = copies_in(tmp_path, "image", ["a1.bin", "a2.bin"], ["a2.bin", "b2.bin"], quick=True)
    assert count(one_path) == 1


def test_every_later_row_is_paired_with_a_row_of_an_earlier_split():
    splits = np.array(["test", "train", "val", "val", "train", "test"])
    found = equal_rows(["a", "a", "a", "b", None, "b"], splits)
    assert sorted(zip(found.later.tolist(), found.earlier.tolist())) == [(0, 1), (2, 1), (5, 3)]
    splits = np.array(["train", "train", "train", "test"])
    assert len(equal_rows(["a", "a", None, None], splits).later) == 0


def test_neighbours_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    old = random.normal(size=(300, 40))
    close = old[:50] + 0.02 * random.normal(size=(50, 40))
    new = np.concatenate([close, random.normal(size=(50, 40))])
    assert neighbours(old, new, 0.5, 4) == [[i] if i < 50 else [] for i in range(100)]
    distance = np.linalg.norm(new[:6, None] - old[:6], axis=2)
    assert neighbours(old[:6], new[:6], 99, 4) == np.argsort(distance, axis=1)[:, :4].tolist()


# ---- texts

WORDS = [
    f"{a}{b}{c}"
    for a in ("ka", "mo", "ti", "lu", "pe")
    for b in ("r", "n", "sh", "v")
    for c in ("ol", "im", "ath", "une", "ex")
]


def text_findings(train, test, quick=True):
    split = ["train"] * len(train) + ["test"] * len(test)
    frame = pd.DataFrame({"text": [*train, *test], "split": split, "label": "x"})
    return leaks.find(read_manifest(frame), quick)


def test_a_long_text_in_two_splits_is_found_however_it_is_written():
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 14)) for _ in range(200)]
    copied = [texts[i].upper().replace(" ", "  ", 3) + " " for i in range(5)]
    assert count(text_findings(texts[:150], [*texts[150:], *copied])) == 5
    assert text_findings(texts[:150], texts[150:], quick=False) == []


def test_a_copy_does_not_make_its_own_words_likely():
    """Rare words stand in a copied text and its copies only.

    To a word model without discount each follows the other for certain.
    """
    random = np.random.default_rng(0)

    def rare_words():
        pairs = zip(random.choice(WORDS, 14), random.integers(0, 999, 14))
        return " ".join(f"{word}{number}" for word, number in pairs)

    texts = [rare_words() for _ in range(200)]
    edited = [text[:40] + "q" + text[41:] for text in texts[:20]]
    found = text_findings(texts[:150], [*texts[150:], *edited], quick=False)
    assert count(only_copies(found)) == 20


def test_a_text_with_a_few_letters_changed_is_found_by_the_long_check():
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, 25)) for _ in range(200)]
    edited = [text[:40] + "q" + text[41:] for text in texts[:20]]
    assert text_findings(texts[:150], edited) == []
    assert count(only_copies(text_findings(texts[:150], edited, quick=False))) == 20


def test_phrases_that_chance_repeats_are_no_copies():
    """Short words, a closed set of questions, captions made from a template."""
    random = np.random.default_rng(2)
    one_word = random.choice(["zero", "one", "two"], 300).tolist()
    questions = [
        f"is there a {random.choice(WORDS[:8])} {random.choice(['circle', 'square'])} in the image?"
        for _ in range(600)
    ]
    captions = [
        f"a {random.choice(WORDS[:6])} pet, {random.choice(WORDS[6:12])}, near "
        f"{random.choice(WORDS[12:20])}"
        for _ in range(600)
    ]
    for texts in (one_word, questions, captions):
        train, test = texts[: len(texts) // 2], texts[len(texts) // 2 :]
        assert set(train) & set(test)
        assert text_findings(train, test, quick=False) == []


# ---- pairs that are alike and no copies


def strokes(random, n):
    """Images of straight strokes of a pen, each of its own angle, length, place and thickness."""
    images, fine = [], 8
    for _ in range(n):
        image = Image.new("L", (28 * fine, 28 * fine))
        angle, half, width = random.normal(0, 0.25), random.uniform(8, 11), random.uniform(1.5, 3.5)
        middle, to = 14 + random.normal(0, 0.4, 2), half * np.array([np.sin(angle), np.cos(angle)])
        ends = [tuple((middle + sign * to) * fine) for sign in (-1, 1)]
        ImageDraw.Draw(image).line(ends, fill=255, width=round(width * fine))
        images.append(image.resize((28, 28), Image.Resampling.BOX))
    return images


def written_words(random, n):
    """Images of words of random letters, in one type."""
    images = []
    for _ in range(n):
        image = Image.new("L", (240, 32), 255)
        word = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), random.integers(5, 12)))
        font = ImageFont.load_default(20)
        place = 8 + random.integers(0, 4), 2 + random.integers(0, 4)
        ImageDraw.Draw(image).text(place, word, fill=0, font=font)
        images.append(image)
    return images


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 24))]


@pytest.mark.parametrize("draw", [strokes, written_words])
@pytest.mark.parametrize("seed", SEEDS)
def test_images_that_are_only_alike_are_no_copies_and_planted_ones_are_found(tmp_path, draw, seed):
    images = draw(np.random.default_rng(seed), 200)
    train = write_images(tmp_path, images[:100], "a")
    test = write_images(tmp_path, images[100:], "b")
    assert copies_in(tmp_path, "image", train, test) == []
    planted = [
        *write_images(tmp_path, images[:5], "c", ".jpg", quality=60),
        *write_images(tmp_path, scaled(images[5:10], 2), "d"),
        *write_images(tmp_path, scaled(images[10:15], 2), "e", ".jpg", quality=50),
        *write_images(tmp_path, images[15:20], "f", ".webp", lossless=True),
    ]
    for i in range(5):  # once a JPEG, then saved as another format
        Image.open(tmp_path / f"c{i}.jpg").save(tmp_path / f"g{i}.png")
        planted.append(f"g{i}.png")
    found = copies_in(tmp_path, "image", train, [*test, *planted])
    assert count(found) == len(planted)


def test_a_copy_is_found_whatever_its_orientation_tag_and_transparency_say(tmp_path):
    """A phone stores an image on its side and a tag beside it."""
    random = np.random.default_rng(0)
    pixels = [np.cumsum(np.cumsum(random.normal(size=(40, 64, 3)), 0), 1) for _ in range(12)]
    images = [Image.fromarray(np.uint8(255 * (x - x.min()) / np.ptp(x))) for x in pixels]
    turned = [image.transpose(Image.Transpose.ROTATE_90) for image in images]
    exif = Image.Exif()
    exif[0x0112] = 6  # turns them back
    names = write_images(tmp_path, [image.convert("RGBA") for image in images], "a")
    others = write_images(tmp_path, turned, "b", ".jpg", quality=80, exif=exif)
    assert count(copies_in(tmp_path, "image", names, others)) == 12


@pytest.mark.parametrize("tag", range(1, 9))
def test_an_image_has_the_size_in_which_its_orientation_tag_shows_it(tmp_path, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert upright_size(opened) == ImageOps.exif_transpose(opened).size


def test_images_in_an_unfamiliar_form_are_found_where_all_others_are_far(tmp_path, world):
    """The check does not encode as WebP: it decides by so many being so near."""
    images = [Image.fromarray(x) for x in world.images[:N]]
    names = write_images(tmp_path, images, "a")
    others = write_images(tmp_path, scaled(images, 1.5), "b", ".webp", quality=80)
    assert count(copies_in(tmp_path, "image", names, others)) == N


def test_a_word_said_by_other_voices_and_other_words_of_one_voice_are_no_copies():
    folder = Path(__file__).parents[2] / "data" / "speech"
    table = pd.read_csv(folder / "english_digits.csv", dtype=str)
    words = table.drop_duplicates(["voice", "label"])
    for apart in ("voice", "label"):
        home = {name: ["train", "test"][i % 2] for i, name in enumerate(sorted(set(words[apart])))}
        frame = words.assign(split=words[apart].map(home))[["audio", "split", "label"]]
        found = leaks.find(read_manifest(frame, root=folder))
        assert only_copies(found) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_one_shape_a_pixel_further_is_no_copy_though_all_others_are_far(tmp_path, seed):
    """Flat drawings differ in few numbers, also where all others are equally far."""
    random = np.random.default_rng(seed)

    def drawing(move):
        image = Image.new("RGB", (64, 64), paper)
        x, y = place + move
        draw = ImageDraw.Draw(image)
        (draw.ellipse if is_round else draw.rectangle)((x, y, x + size, y + size), fill=ink)
        return image

    images, moved = [], []
    for _ in range(150):
        paper, ink = (tuple(random.integers(0, 256, 3).tolist()) for _ in range(2))
        place, size = random.integers(2, 40, 2), int(random.integers(10, 22))
        is_round = random.random() < 0.5
        images.append(drawing(0))
        moved.append(drawing(np.array([1, 0])))
    train = write_images(tmp_path, images, "a")
    other = write_images(tmp_path, moved[:4], "b")
    assert copies_in(tmp_path, "image", train, other) == []


def captions(random, n):
    """Sentences of one pattern with slots, some of them filled by rare phrases."""
    some = [" ".join(words) for words in random.choice(WORDS, (20, 4))]
    return [
        f"the {random.choice(WORDS[:4])} friend with a {random.choice(WORDS[4:8])} collar "
        f"{random.choice(some)}. it has a {random.choice(WORDS[8:14])} coat "
        f"and is {random.choice(some[:12])}."
        for _ in range(n)
    ]


def test_captions_that_differ_in_the_filling_of_a_slot_are_no_copies_and_an_edited_one_is():
    """In a small table a word model takes a pattern for chance, and its variants for edits."""
    for seed in range(60):
        texts = captions(np.random.default_rng(seed), 150)
        train, test = texts[:100], texts[100:]
        alike = [text for text in test if text not in train]
        splits = np.array(["train"] * len(train) + ["test"] * len(alike))
        assert not len(text_copies([*train, *alike], splits, near=True, seed=0).later)
    edited = [text[:40] + "q" + text[41:] for text in train[:10]]
    found = text_findings(train, [*alike, *edited], quick=False)
    assert count(only_copies(found)) >= 8
