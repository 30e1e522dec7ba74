"""The clips of data/speech are those of the script; a voice keeps to one split, nothing leaks."""

import csv
import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmlib import leaks, load_data, read_manifest

DATA = Path(__file__).parents[2] / "data"
SPEECH = DATA / "speech"
sys.path.insert(0, str(DATA))
import make_speech  # noqa: E402


def read(name):
    with open(SPEECH / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows():
    return read("manifest.csv")


@pytest.fixture(scope="module")
def sounds(rows):
    return [soundfile.read(SPEECH / row["audio"], dtype="float32") for row in rows]


def test_the_manifest_is_what_the_script_has_the_voices_say(rows):
    assert list(rows[0]) == ["audio", "text", "label", "voice", "language", "split"]
    said = [
        (voice["voice"], text, label, language, voice["split"])
        for voice in make_speech.voices()
        for text, label, language, take in make_speech.script(voice)
    ]
    assert said == [
        (row["voice"], row["text"], row["label"], row["language"], row["split"]) for row in rows
    ]
    assert read("voices.csv") == make_speech.voices()


def test_there_are_enough_voices_and_each_keeps_to_one_split(rows):
    voices = make_speech.voices()
    by_split = Counter(voice["split"] for voice in voices)
    assert len(voices) >= 24
    assert by_split["train"] >= 20
    assert min(by_split.values()) >= 6
    assert set(by_split) == {"train", "val", "test"}
    assert len({(row["voice"], row["split"]) for row in rows}) == len(voices)
    assert len({voice["variant"].lower() for voice in voices}) == len(voices)
    accents = [
        {voice["accent"] for voice in voices if voice["split"] == split}
        for split in ("train", "test")
    ]
    assert accents[1] <= accents[0] == set(make_speech.ACCENTS), "a new voice, but no new accent"


def test_every_voice_says_every_digit_in_both_languages_and_eight_say_all_words(rows):
    for language in ("en", "zh"):
        counts = Counter(
            (row["voice"], row["label"])
            for row in rows
            if row["language"] == language and row["label"].isdigit()
        )
        assert len(counts) == len(make_speech.voices()) * 10
        assert set(counts.values()) == {make_speech.TAKES}
    words = {}
    for row in rows:
        if not row["label"].isdigit():
            words.setdefault((row["voice"], row["split"]), []).append(row["label"])
    said = next(iter(words.values()))
    assert Counter(split for _, split in words) == {"train": 5, "val": 1, "test": 2}
    assert 75 <= len(set(said)) == len(said)
    assert all(each == said for each in words.values())


def test_the_tables_of_digits_are_rows_of_the_manifest_without_the_transcript(rows):
    for language, name in (("en", "english_digits.csv"), ("zh", "mandarin_digits.csv")):
        digits = [
            {key: value for key, value in row.items() if key != "text"}
            for row in rows
            if row["language"] == language and row["label"].isdigit()
        ]
        assert read(name) == digits


def test_the_files_are_those_listed_and_under_ten_megabytes(rows):
    files = {
        path.relative_to(SPEECH).as_posix(): path.stat().st_size
        for path in SPEECH.rglob("*")
        if path.is_file()
    }
    tables = {
        "manifest.csv",
        "english_digits.csv",
        "mandarin_digits.csv",
        "voices.csv",
        "sound.csv",
        "SHA256",
    }
    assert set(files) == tables | {row["audio"] for row in rows} and sum(files.values()) < 10e6


def test_the_bytes_and_the_decoded_sound_are_those_that_were_made(rows, sounds):
    """The files byte for byte.

    Their sound bit for bit with the libopus that made them; with another one to half a decibel in
    each eighth, where an eighth is less than 50 dB below the loudest.
    """
    files, sound = (SPEECH / "SHA256").read_text().split()[::2]
    shipped = b"".join((SPEECH / row["audio"]).read_bytes() for row in rows)
    assert hashlib.sha256(shipped).hexdigest() == files
    decoded = hashlib.sha256(
        b"".join(np.round(x * 32767).astype("<i2").tobytes() for x, _ in sounds)
    ).hexdigest()
    made = read("sound.csv")
    assert [row["audio"] for row in made] == [row["audio"] for row in rows]
    assert [len(x) for x, _ in sounds] == [int(row["samples"]) for row in made]
    expected = np.array([[float(row[f"dB_{i}"]) for i in range(1, 9)] for row in made])
    found = np.array([[float(value) for value in make_speech.loudness(x)] for x, _ in sounds])
    loud = expected > expected.max() - 50
    assert decoded == sound or np.abs(found - expected)[loud].max() < 0.5
    assert np.abs(found - expected)[loud].max() < 0.5


def espeak():
    """The version of espeak-ng on this machine, "" where there is none."""
    if shutil.which("espeak-ng") is None:
        return ""
    return (
        subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True)
        .stdout.partition("text-to-speech: ")[2]
        .split(" ")[0]
    )


@pytest.mark.skipif(
    espeak() != "1.51", reason="the clips were made with espeak-ng 1.51, which is not here"
)
def test_the_script_makes_the_shipped_clips_again(rows, sounds):
    """Before Opus: its loss is far smaller than what another word, voice or pitch would change."""
    voices = {voice["voice"]: voice for voice in make_speech.voices()}
    known = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True).stdout
    assert all(f"!v/{voice['variant']} " in known for voice in voices.values()), (
        "a variant that is not there gives the plain voice"
    )
    for row, (sound, _) in list(zip(rows, sounds, strict=True))[::150]:
        take = int(row["audio"].removesuffix(".ogg").rpartition("_")[2])
        again = make_speech.speak(row["text"], voices[row["voice"]], row["language"], take)
        assert len(again) == len(sound) and np.corrcoef(again, sound)[0, 1] > 0.85, row


def test_every_clip_is_short_mono_16_khz_neither_clipped_nor_silent(sounds):
    for x, rate in sounds:
        assert rate == 16_000
        assert x.ndim == 1
        assert 0.15 < len(x) / rate < 1.5
        assert 0.3 < np.abs(x).max() < 0.9


def test_no_two_clips_are_the_same_and_no_two_voices_sound_the_same(rows, sounds):
    assert len({x.tobytes() for x, _ in sounds}) == len(sounds)
    spectra = {}
    for row, (x, _) in zip(rows, sounds, strict=True):
        if row["language"] == "en" and row["label"].isdigit():
            power = np.abs(np.fft.rfft(x, 1 << 15)) ** 2
            spectra.setdefault(row["voice"], []).append(
                np.log(power[:16384].reshape(64, 256).sum(axis=1) + 1e-3)
            )
    means = np.stack([np.mean(spectrum, axis=0) for spectrum in spectra.values()])
    far = np.abs(means[:, None] - means[None]).mean(axis=-1) + 9 * np.eye(len(means))
    assert far.min() > 0.05


@pytest.mark.parametrize(
    "name, quick", [("english_digits.csv", False), ("mandarin_digits.csv", True)]
)
def test_the_digits_leak_nothing_but_that_the_voices_are_new(name, quick):
    found = leaks.find(read_manifest(SPEECH / name, group="voice"), quick=quick)
    assert {finding.kind for finding in found} <= {"shift"}, [str(finding) for finding in found]


def test_the_only_leak_of_the_whole_table_is_that_the_transcript_is_the_answer():
    sounds = read_manifest(SPEECH / "manifest.csv", group="voice", use=["audio"])
    assert leaks.find(sounds, quick=True) == []
    found = leaks.find(read_manifest(SPEECH / "manifest.csv", group="voice"), quick=True)
    assert [(finding.kind, finding.column) for finding in found] == [("answer", "text")]


def test_the_digits_load_as_ten_classes():
    data = load_data(read_manifest(SPEECH / "mandarin_digits.csv", group="voice"), progress=False)
    assert data.counts == [52] * 10
    assert data.skipped == []
    assert len(data.preprocessing.target.classes) == 10
