"""Manifests, images and sounds as bad as hypothesis can make them: a finite tensor, or a
ValueError that says why. 300 cases; long: 10,000.
"""

import collections
import copy
import csv
import faulthandler
import functools
import io
import json
import random
import shutil
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmlib import Recipe, classify, fit, load
from mmlib.core import check_batch
from mmlib.data import load_data, read_audio, read_image, read_manifest
from mmlib.data.audio import seconds
from mmlib.data.image import image_size
from mmlib.train import checkpoint
from mmlib.worlds import pets
from tests.train.test_loop import CPU, Tiny, cut, sample_batch

# seconds for one case, far more than any takes: then the process ends with a traceback, rather than
# hang
PATIENCE = 60
EACH = pytest.mark.parametrize("cases", [75, pytest.param(2500, marks=pytest.mark.long)])


def search(
    strategy: st.SearchStrategy, check: Callable[[Any], None], cases: int, known: tuple = ()
) -> None:
    """``check`` on so many cases, and on those that a long run once failed on: the same few in
    the suite, others each time in the long run.
    """

    @settings(
        max_examples=cases,
        derandomize=cases < 1000,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
        try:
            check(case)
        finally:
            faulthandler.cancel_dump_traceback_later()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in known:
            check(case)
        run()


def allowed(read: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What it returns, or None after a ValueError with a reason in it; any other error is the
    test's.
    """
    try:
        return read(*arguments, **named)
    except ValueError as error:
        assert str(error).strip(), "an error that says nothing"
        return None


def damaged(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the files with bytes changed, cut out, doubled or put in, or its end cut off; or
    two of them sewn together.
    """
    place = st.floats(0, 1, exclude_max=True)
    edit = st.one_of(
        st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=4)),
        st.tuples(
            st.just("head"),
            st.floats(0, 0.2),
            st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff", b"\1"]),
        ),
        st.tuples(st.just("insert"), place, st.binary(max_size=20)),
        st.tuples(st.just("cut"), place, st.integers(1, 50)),
        st.tuples(st.just("end"), place, st.none()),
        st.tuples(st.just("sew"), place, st.sampled_from(files)),
    )

    def apply(data: bytes, edits: list[tuple]) -> bytes:
        for kind, where, what in edits:
            i = int(where * len(data))
            if kind in ("set", "head"):
                data = data[:i] + what + data[i + len(what) :]
            elif kind == "insert":
                data = data[:i] + what + data[i:]
            elif kind == "cut":
                data = data[:i] + data[i + what :]
            else:
                data = data[:i] + (what or b"")[i:]
        return data

    return st.builds(apply, st.sampled_from(files), st.lists(edit, max_size=6))


def pictures() -> list[bytes]:
    """A small image in every format that people have."""
    pixels = (np.arange(20 * 30 * 3) * 37 % 256).astype(np.uint8).reshape(20, 30, 3)
    Image.init()
    kinds = [
        (name, mode, {})
        for name in sorted(Image.SAVE)
        for mode in ("RGB", "L", "1", "F")
        if can_save(name, mode)
    ]
    kinds += [
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"progressive": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "F", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {}),
        ("PPM", "RGB", {}),
        ("ICO", "RGBA", {}),
        ("TGA", "RGB", {}),
    ]
    files = []
    for name, mode, options in kinds:
        image = (
            Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
            if mode == "I;16"
            else Image.fromarray(pixels).convert(mode)
        )
        (exif := Image.Exif())[0x0112] = 6
        image.save(
            file := io.BytesIO(),
            name,
            **options,
            **({"exif": exif} if name in ("PNG", "JPEG", "WEBP") else {}),
        )
        files.append(file.getvalue())
    return files


def can_save(name: str, mode: str) -> bool:
    """Not PDF and PALM, which Pillow writes and does not read, nor EPS, which it gives to
    Ghostscript.
    """
    try:
        Image.new(mode, (4, 4)).save(io.BytesIO(), name)
    except Exception:  # each plugin has its own way to say that it does not write this
        return False
    return name not in ("PDF", "PALM", "EPS")


def huge_png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG that claims any size, with right checksums: a decompression bomb, or one that ends
    too soon.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@EACH
def test_any_bytes_give_a_picture_or_the_reason(tmp_path, cases):
    sides = st.one_of(
        st.sampled_from([0, 1, 2, 10_000, 65_535, 100_000, 2**31 - 1]), st.integers(0, 300)
    )
    bombs = st.builds(
        huge_png,
        sides,
        sides,
        st.sampled_from([1, 8, 16]),
        st.sampled_from([0, 2, 3, 4, 6]),
        st.integers(0, 20_000).map(bytes),
    )
    path = tmp_path / "image"

    def check(case: tuple[bytes, int]) -> None:
        path.write_bytes(case[0])
        shape, picture = allowed(image_size, path), allowed(read_image, path, case[1])
        assert shape is None or (len(shape) == 2 and min(shape) >= 0)
        assert picture is None or (
            picture.shape == (3, case[1], case[1]) and picture.dtype == torch.uint8
        )

    files = st.one_of(damaged(pictures()), damaged(pictures()), bombs, st.binary(max_size=200))
    search(st.tuples(files, st.sampled_from([32, 128])), check, cases)


def test_the_pictures_to_damage_are_of_every_format_that_pillow_writes():
    kinds = {Image.open(io.BytesIO(file)).format for file in pictures()}
    assert {"AVIF", "DDS", "JPEG2000", "ICNS", "QOI", "TIFF"} & set(Image.SAVE) <= kinds and len(
        kinds
    ) >= 15


@EACH
def test_any_bytes_give_a_sound_or_the_reason(tmp_path, cases, capfd):
    draw = np.random.default_rng(0).uniform(-0.9, 0.9, (3000, 2))
    kinds = [
        ("IRCAM", "ULAW"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_U8"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAV", "ULAW"),
        ("WAV", "IMA_ADPCM"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("CAF", "ALAC_16"),
    ]
    files, path = [], tmp_path / "sound"
    for name, subtype in kinds:
        soundfile.write(file := io.BytesIO(), draw, 48_000, format=name, subtype=subtype)
        files.append(file.getvalue())

    def check(data: bytes) -> None:
        path.write_bytes(data)
        length, clip = allowed(seconds, path), allowed(read_audio, path)
        assert length is None or (np.isfinite(length) and length >= 0)
        assert_sound(clip)

    search(st.one_of(damaged(files), damaged(files), st.binary(max_size=200)), check, cases)
    assert capfd.readouterr() == ("", ""), "noise without the name of a file"


def assert_sound(clip: torch.Tensor | None) -> None:
    if clip is not None:
        assert (
            clip.ndim == 1
            and len(clip)
            and clip.dtype == torch.float32
            and clip.isfinite().all()
            and clip.abs().max() <= 1
        )


@EACH
def test_any_samples_at_any_rate_give_a_sound_or_the_reason(tmp_path, cases):
    number = st.one_of(
        st.floats(),
        st.floats(-1, 1),
        st.sampled_from([3.4e38, -3.4e38, 1e308, float("nan"), float("inf")]),
    )
    shape = st.sampled_from(
        [(0,), (1,), (2,), (100,), (0, 2), (2, 0), (3, 1), (100, 2), (2, 100), (1, 1, 1), ()]
    )
    kind = st.sampled_from(
        [
            "float16",
            "float32",
            "float64",
            "int8",
            "uint8",
            "int16",
            "int32",
            "int64",
            "bool",
            "complex64",
            "U3",
            "object",
        ]
    )

    def make(shape: tuple, kind: str, values: list[float]) -> np.ndarray:
        array = np.resize(np.array(values), shape)
        return np.nan_to_num(array).astype(kind) if "int" in kind else array.astype(kind)

    arrays = st.builds(make, shape, kind, st.lists(number, min_size=1, max_size=5))
    rate = st.one_of(
        st.sampled_from([1, 2, 7, 999, 8000, 11_127, 16_001, 44_100, 768_000, 0, -1, 10**9]),
        st.integers(1, 768_000),
    )
    path = tmp_path / "samples.wav"

    def check(case: tuple[np.ndarray, int]) -> None:
        assert_sound(allowed(read_audio, *case))
        if (
            case[0].dtype == np.float32
            and case[0].ndim in (1, 2)
            and 1 <= case[1] <= 768_000
            and case[0].shape[-1] in (1, 2, 100)
        ):
            soundfile.write(
                path, case[0] if case[0].shape[-1] < 100 else case[0].T, case[1], subtype="FLOAT"
            )
            assert_sound(allowed(read_audio, path))

    search(
        st.tuples(arrays, rate), check, cases, known=((np.full((100, 2), 1.7e38, np.float32), 100),)
    )


def test_a_clip_of_days_by_its_rate_is_refused_before_it_takes_gigabytes(tmp_path):
    soundfile.write(tmp_path / "slow.wav", np.zeros(2_000_000), 100)
    for source in ((tmp_path / "slow.wav",), (np.zeros(2_000_000), 100)):
        with pytest.raises(
            ValueError, match="lasts 6 hours at 100 Hz, expected at most 4: correct the rate"
        ):
            read_audio(*source)


def test_a_rate_too_low_for_any_sound_is_refused_before_it_is_spread_out(tmp_path, monkeypatch):
    """3,000 samples at 1 Hz are 48 million at 16 kHz: seconds of work for a file of 6 kB with
    one wrong byte.
    """
    monkeypatch.setattr("mmlib.data.audio._resample", None)
    soundfile.write(tmp_path / "slow.wav", np.zeros(3000), 1)
    for source in ((tmp_path / "slow.wav",), (np.zeros(3000), 1)):
        with pytest.raises(ValueError, match="sample rate 1 Hz, expected 100 to"):
            read_audio(*source)


# ---- what a run wrote, changed by someone, with right checksums

JUNK = [
    None,
    0,
    5,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    True,
    "",
    "zzz",
    b"x",
    [],
    [1],
    {},
    {"a": 1},
    {1: 2},
    (),
    torch.zeros(3),
    torch.zeros(3, dtype=torch.int64),
    torch.tensor(float("nan")),
    torch.zeros(2, dtype=torch.complex64),
    torch.zeros(3).to_sparse(),
]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to everything in nested dicts and lists."""
    for key, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield (*path, key)
        yield from places(part, (*path, key))


def edited(state: dict, chance: random.Random) -> dict:
    """A copy in which something, at any depth, is another thing, gone, or twice there; or a
    number or tensor is another one.
    """
    state = copy.deepcopy(state)
    by_depth = collections.defaultdict(list)
    for path in places(state):
        by_depth[path[: 1 + chance.randrange(3)]].append(
            path
        )  # or weights, by their number, would be nearly all
    *above, key = chance.choice(by_depth[chance.choice(list(by_depth))])
    holder = functools.reduce(lambda part, name: part[name], above, state)
    kind = chance.choice(["junk", "junk", "junk", "gone", "more", "nan"])
    if kind == "gone":
        del holder[key]
    elif kind == "more" and isinstance(holder, list):
        holder.append(holder[key])
    elif (
        kind == "nan" and isinstance(holder[key], torch.Tensor) and holder[key].is_floating_point()
    ):
        holder[key] = holder[key] * float("nan")
    else:
        holder["new" if kind == "more" else key] = chance.choice(JUNK)
    return state


def rezipped(data: bytes, chance: random.Random) -> bytes:
    """The same archive with bytes of one of its files changed, packed anew: its checksums are
    right; or with a damaged compression.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    name, how = (
        chance.choice([pickled, pickled, pickled, *files]),
        chance.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]),
    )
    changed = bytearray(files[name])
    for _ in range(chance.choice([1, 1, 2, 4])):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    with zipfile.ZipFile(out := io.BytesIO(), "w", how) as archive:
        for other, content in files.items():
            archive.writestr(other, bytes(changed) if other == name else content)
    whole = bytearray(out.getvalue())
    if how != zipfile.ZIP_STORED:
        whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(whole)


def check_checkpoints(tmp_path: Path, path: Path, use: Callable[[], Any], cases: int) -> None:
    """``use`` of so many changed checkpoints gives a result or a ValueError that names the
    folder or what does not fit.
    """
    data, chance, refused, escaped = (
        path.read_bytes(),
        random.Random(cases),
        0,
        collections.Counter(),
    )
    state = torch.load(path, weights_only=True)
    for number in range(cases):
        if number % 3:
            torch.save(edited(state, chance), path)
        else:
            path.write_bytes(rezipped(data, chance))
        try:
            use()
        except ValueError as error:
            assert str(error).strip()
            refused += 1
        except Exception as error:
            escaped[type(error).__name__, str(error)[:100]] += 1
    assert not escaped, f"{sum(escaped.values())} of {cases}: {escaped}"
    assert cases / 4 < refused, "nearly all edits went through: nothing was tested"


FILES = pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pets.write(pets.draw(24), folder)
    classify(
        Recipe(
            folder / "manifest.csv",
            out=folder / "run",
            epochs=1,
            dim=8,
            device="cpu",
            log=lambda line: None,
        )
    )
    return folder / "run"


@FILES
@pytest.mark.filterwarnings("ignore")
def test_a_changed_checkpoint_answers_or_says_why_it_cannot_be_loaded(tmp_path, saved, cases):
    shutil.copytree(saved, tmp_path / "run")
    asked = {"image": np.zeros((8, 8), np.uint8), "text": "it purrs", "audio": np.zeros(800)}

    def use() -> None:
        predictor = load(tmp_path / "run", "cpu")
        answers = [predictor.predict(**sample) for sample in (asked, {"text": "a cat"}, {})]
        json.dumps(answers, allow_nan=False)

    use()
    check_checkpoints(tmp_path, tmp_path / "run" / checkpoint.NAME, use, cases)


@FILES
@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_on_from_a_changed_checkpoint_or_says_why_not(tmp_path, cases):
    config = replace(CPU, epochs=2, checkpoint_every=1, progress=False)

    def train(resume: bool) -> None:
        fit(
            Tiny(),
            cut(sample_batch(12), 4),
            [sample_batch(8)],
            config,
            out=tmp_path,
            resume=resume,
            extra={"words": ["cat"]},
        )

    train(False)
    (tmp_path / checkpoint.PREVIOUS).replace(tmp_path / checkpoint.NAME)  # within the last epoch
    middle = (tmp_path / checkpoint.NAME).read_bytes()

    def use() -> None:
        train(True)

    check_checkpoints(tmp_path, tmp_path / checkpoint.NAME, use, cases)
    assert torch.load(io.BytesIO(middle), weights_only=True)["batch"] > 0


@EACH
def test_any_table_gives_finite_batches_or_the_reason(tmp_path, cases):
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (6, 9), "red").save(tmp_path / "a.png")
    soundfile.write(tmp_path / "b.wav", np.zeros(400), 8000)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "nan.wav").write_bytes(b"RIFF")
    names = [
        "image",
        "text",
        "audio",
        "label",
        "split",
        "",
        " image ",
        "Image",
        "text_mask",
        "target",
        "row",
        "圖",
        '"',
        "a,b",
        "label",
    ]
    paths = [
        "a.png",
        "b.wav",
        "text.png",
        "nan.wav",
        "folder",
        "../a.png",
        "/etc/passwd",
        "C:\\a.png",
        "a.png\0",
        "x" * 5000,
        "~",
        ".",
    ]
    words = [
        "cat",
        "dog",
        "train",
        "val",
        "test",
        "TRAINING",
        "=1+1",
        "@SUM(A1)",
        "nan",
        "1e999",
        "1e308",
        "-1e39",
        "1",
        "2",
        "٣",
        "0x1",
        "007",
        "1_0",
        "it purrs, loud",
        'a "quote"',
        "two\nlines",
        "\u202e",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "NA",
    ]
    cell = st.one_of(
        st.just(""),
        st.sampled_from(paths),
        st.sampled_from(words),
        st.sampled_from(words),
        st.text(max_size=8),
        st.integers(0, 300_000).filter(lambda n: n > 299_990 or n < 50).map("w".__mul__),
    )
    usual = st.fixed_dictionaries(
        {
            "image": st.sampled_from(["a.png"] * 20 + [""] * 10 + paths),
            "text": cell,
            "audio": st.sampled_from(["b.wav", ""]),
            "label": st.sampled_from(["cat", "dog", "", "1.5", "1e38", "3e38"]),
            "split": st.sampled_from(["train", "val", "test", ""]),
        }
    )
    number = st.one_of(
        st.floats().map(repr),
        st.sampled_from(["1", "2", "-1e300", "1e37", "1e36", "1e-320", "2e-320", "0.5", "٣"]),
    )
    numbers = st.fixed_dictionaries({"text": cell, "label": number})
    tables = st.one_of(
        st.lists(numbers, min_size=1, max_size=30).map(
            lambda rows: [list(rows[0]), *[list(row.values()) for row in rows]]
        ),
        st.lists(usual, min_size=1, max_size=30).map(
            lambda rows: [list(rows[0]), *[list(row.values()) for row in rows]]
        ),
        st.integers(1, 5).flatmap(
            lambda width: st.lists(
                st.lists(cell, min_size=width, max_size=width), max_size=12
            ).flatmap(
                lambda rows: st.lists(st.sampled_from(names), min_size=width, max_size=width).map(
                    lambda head: [head, *rows]
                )
            )
        ),
        st.lists(st.lists(cell, max_size=4), max_size=5),
    )

    def write(table: list[list[str]], mark: str, end: str, encoding: str) -> bytes:
        csv.writer(text := io.StringIO(), delimiter=mark, lineterminator=end).writerows(table)
        return text.getvalue().encode(encoding, "replace")

    written = st.builds(
        write,
        tables,
        st.sampled_from(",,,;\t|"),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "gb18030"]),
    )
    files = st.one_of(
        written,
        written,
        written,
        st.binary(max_size=300),
        written.flatmap(lambda file: damaged([file])),
    )
    path = tmp_path / "manifest.csv"

    def check(case: tuple[bytes, str | None, str | None, bool]) -> None:
        data, target, task, skip = case
        path.write_bytes(data)
        manifest = allowed(read_manifest, path, target)
        if manifest is None:
            return
        found = allowed(
            load_data,
            manifest,
            task=task,
            on_error="skip" if skip else "raise",
            memory=True,
            progress=False,
            batch_size=8,
        )
        for loader in found.loaders.values() if found else ():
            for batch in loader:
                check_batch(batch, list(found.preprocessing.modalities))
                assert all(value.isfinite().all() for value in batch.values())
        if found and found.preprocessing.target.classes is None:
            scale = torch.tensor(
                [
                    found.preprocessing.target.mean - found.preprocessing.target.centre,
                    found.preprocessing.target.std,
                ]
            )  # as the head keeps them
            assert scale.isfinite().all() and scale[1] > 0

    search(
        st.tuples(
            files,
            st.sampled_from(["label", "label", "text", None]),
            st.sampled_from([None, "classification", "regression"]),
            st.booleans(),
        ),
        check,
        cases,
        known=tuple(
            (f"text,label\na,{a}\nb,{b}\nc,{c}\n".encode(), "label", "regression", False)
            for a, b, c in (("1e39", "-1e300", "0.5"), ("1e-320", "2e-320", "3e-320"))
        ),
    )
