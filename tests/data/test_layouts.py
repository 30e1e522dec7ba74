"""Data sets in the order of their authors, made here in small, become manifests that load."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmlib.data import load_data, read_manifest
from mmlib.data.folders import list_folder, write_manifest
from mmlib.data.layouts import LAYOUTS, list_layout


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(200), 16_000)


def text(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


def plain(path, value):
    text(path, json.dumps(value))


def coco(root):
    for part, ids in (("train2017", (9, 25)), ("val2017", (139,))):
        names = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
        captions = [
            {"id": 10 * i + n, "image_id": i, "caption": f"A thing\n number {n}, {i}. "}
            for i in ids
            for n in range(2)
        ]
        plain(
            root / "annotations" / f"captions_{part}.json",
            {"info": {}, "licenses": [], "images": names, "annotations": captions},
        )
        for one in names:
            image(root / part / one["file_name"])


def flickr8k(root):
    names = ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg", "1002674143_1b742ab4b8.jpg"]
    lines = [f"{name}#{n}\tA dog , running {n} ." for name in names for n in range(5)]
    lines += ["2258277193_586949ec62.jpg.1#0\tno such image", "none.jpg#0\tin no split"]
    text(root / "Flickr8k_text" / "Flickr8k.token.txt", *lines)
    for name, split in zip(names, ("train", "dev", "test"), strict=True):
        text(root / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt", name)
        image(root / "Flicker8k_Dataset" / name)
    image(root / "Flicker8k_Dataset" / "none.jpg")


def esc50(root):
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rain")):
            name = f"{fold}-10032-A-{target}.wav"
            lines.append(f"{name},{fold},{target},{category},True,10032{fold},A")
            sound(root / "audio" / name)
    text(root / "meta" / "esc50.csv", *lines)


def speech_commands(root):
    names = [
        f"{word}/{speaker}_nohash_0.wav"
        for word in ("yes", "no")
        for speaker in ("0a7c2a8d", "b1c", "d2e")
    ]
    for name in [*names, "_background_noise_/white_noise.wav"]:
        sound(root / name)
    text(root / "validation_list.txt", *(name for name in names if "b1c" in name))
    text(root / "testing_list.txt", *(name for name in names if "d2e" in name))


def vqa(root):
    for part, ids in (("train2014", (9, 458752)), ("val2014", (42,))):
        questions = [
            {"image_id": i, "question": f"What is {n}?", "question_id": 1000 * i + n}
            for i in ids
            for n in range(2)
        ]
        answers = [
            {"question_id": one["question_id"], "multiple_choice_answer": "yes", "answers": []}
            for one in questions
        ]
        answers[0]["multiple_choice_answer"] = "no"
        plain(
            root / f"v2_OpenEnded_mscoco_{part}_questions.json",
            {"data_subtype": part, "questions": questions},
        )
        plain(root / f"v2_mscoco_{part}_annotations.json", {"annotations": answers})
        for i in ids:
            image(root / part / f"COCO_{part}_{i:012d}.jpg")
    questions = [{"image_id": 1, "question": "Who?", "question_id": 10}]
    plain(
        root / "v2_OpenEnded_mscoco_test2015_questions.json",
        {"data_subtype": "test2015", "questions": questions},
    )


def movielens(root):
    movies = ["movieId,title,genres", '1,"Toy, Story (1995)",Adventure|Animation']
    movies += [f"{movie},Film {movie},Crime" for movie in range(2, 21)]
    text(root / "movies.csv", *movies)
    ratings = ["userId,movieId,rating,timestamp"]
    ratings += [f"{user},{1 + user % 20},{user / 8},96498{user}" for user in range(1, 41)]
    text(root / "ratings.csv", *ratings)


MAKE = {
    "coco": coco,
    "esc50": esc50,
    "flickr8k": flickr8k,
    "movielens": movielens,
    "speech-commands": speech_commands,
    "vqa": vqa,
}
EXPECTED = {  # header, a row, rows
    "coco": (
        ["image", "text", "image_id", "split"],
        ["val2017/000000000139.jpg", "A thing number 1, 139.", "139", "val"],
        6,
    ),
    "esc50": (
        ["audio", "label", "recording", "fold", "split"],
        ["audio/4-10032-A-1.wav", "rain", "100324", "4", "val"],
        10,
    ),
    "flickr8k": (
        ["image", "text", "image_id", "split"],
        [
            "Flicker8k_Dataset/1001773457_577c3a7d70.jpg",
            "A dog , running 4 .",
            "1001773457_577c3a7d70.jpg",
            "val",
        ],
        15,
    ),
    "movielens": (
        ["text", "label", "user", "item", "time"],
        ["Toy, Story (1995) Adventure Animation", "2.5", "20", "1", "9649820"],
        40,
    ),
    "speech-commands": (
        ["audio", "label", "speaker", "split"],
        ["no/0a7c2a8d_nohash_0.wav", "no", "0a7c2a8d", "train"],
        6,
    ),
    "vqa": (
        ["image", "text", "label", "image_id", "split"],
        ["train2014/COCO_train2014_000000000009.jpg", "What is 0?", "no", "9", "train"],
        6,
    ),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_known_layout_is_a_manifest_that_loads(tmp_path, layout):
    MAKE[layout](tmp_path)
    listing = list_layout(tmp_path, layout)
    header, row, count = EXPECTED[layout]
    assert listing.header == header and row in listing.rows and len(listing.rows) == count
    write_manifest(listing, tmp_path, tmp_path / "m.csv")
    target = "label" if "label" in header else None
    data = load_data(read_manifest(tmp_path / "m.csv", target=target), progress=False)
    assert sum(loader.samples for loader in data.loaders.values()) == count


def test_rows_without_their_files_or_their_split_are_left_out_and_said(tmp_path):
    flickr8k(tmp_path)
    missing, unsplit = list_layout(tmp_path, "flickr8k").notes
    assert "1 rows" in missing and "2258277193_586949ec62.jpg.1" in missing
    assert "1 rows" in unsplit and "no list of a split" in unsplit


def test_the_older_form_of_movielens_is_read_in_latin_1(tmp_path):
    text(tmp_path / "movies.dat", "1::Misérables, Les::Drama|War", encoding="latin-1")
    text(tmp_path / "ratings.dat", "7::1::4::978300760")
    rows = list_layout(tmp_path, "movielens").rows
    assert rows == [["Misérables, Les Drama War", "4", "7", "1", "978300760"]]


def test_images_may_stand_in_a_folder_of_their_own(tmp_path):
    coco(tmp_path)
    (tmp_path / "images").mkdir()
    for part in ("train2017", "val2017"):
        (tmp_path / part).rename(tmp_path / "images" / part)
    assert list_layout(tmp_path, "coco").rows[0][0] == "images/train2017/000000000009.jpg"


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_an_empty_folder_says_what_was_looked_for(tmp_path, layout):
    with pytest.raises(ValueError, match="has no "):
        list_layout(tmp_path, layout)


@pytest.mark.parametrize(
    "layout, name, content, words",
    [
        ("coco", "annotations/captions_val2017.json", "{", "is not JSON"),
        ("coco", "annotations/captions_val2017.json", "[]", "an object with a list 'images'"),
        (
            "coco",
            "annotations/captions_val2017.json",
            '{"images": [], "annotations": [{"image_id": 4, "caption": "a"}]}',
            "a caption of image 4, which is not in its images",
        ),
        (
            "coco",
            "annotations/captions_val2017.json",
            '{"images": [], "annotations": [{"caption": "a"}]}',
            "entry 0 has no 'image_id'",
        ),
        ("flickr8k", "Flickr8k_text/Flickr8k.token.txt", "a.jpg A dog", "token.txt, line 1"),
        ("esc50", "meta/esc50.csv", "filename,fold\na.wav,1", "line 2: no column 'category'"),
        ("esc50", "meta/esc50.csv", b"\xff", "cannot be read"),
        ("movielens", "ratings.csv", "userId\n1", "no column 'movieId'"),
        ("vqa", "v2_mscoco_val2014_annotations.json", '{"annotations": [1]}', "entry 0 has no"),
    ],
)
def test_a_file_that_is_not_as_expected_is_named(tmp_path, layout, name, content, words):
    MAKE[layout](tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        list_layout(tmp_path, layout)
    assert words in str(caught.value) and name.rpartition("/")[2] in str(caught.value)


def test_annotations_without_any_image_are_an_error_that_names_the_first(tmp_path):
    esc50(tmp_path)
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no file 'audio/1-10032-A-0\.wav', nor any other"):
        list_layout(tmp_path, "esc50")


def test_names_are_checked(tmp_path):
    with pytest.raises(ValueError, match="'imagenet', expected one of"):
        list_layout(tmp_path, "imagenet")
    for read in (list_folder, lambda folder: list_layout(folder, "coco")):
        with pytest.raises(ValueError, match="no such folder"):
            read(tmp_path / "none")


def test_the_words_of_speech_commands_are_not_mistaken_for_a_folder_per_class(tmp_path):
    """Its lists at the top are texts, its noise is no word; the layout has to be named."""
    speech_commands(tmp_path)
    assert "_background_noise_" in {row[1] for row in list_folder(tmp_path).rows}
    assert "_background_noise_" not in {
        row[1] for row in list_layout(tmp_path, "speech-commands").rows
    }
