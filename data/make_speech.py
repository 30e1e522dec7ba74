"""Makes data/speech: words spoken by the synthetic voices of espeak-ng, split by voice.

    apt-get install espeak-ng            # 1.51 made the files that are here
    python data/make_speech.py           # one to two minutes; writes data/speech anew

A voice is an espeak-ng variant (how the throat is shaped) with an accent, a pitch and a speed of
its own; no two voices share a variant. All voices speak the ten digits in English and in Mandarin,
twice, each time a little higher or lower, faster or slower; eight of them also speak WORDS, once.
Mandarin is spoken by the voice cmn-latn-pinyin: plain `cmn` of this version reads 一 as the English
words "yi one".

Each clip is cut to its sound, given 20 to 80 ms of silence at either end and a peak of 0.5, and
written as Ogg/Opus at 16 kHz. The numbers that vary are drawn from (SEED, voice, language, word,
take), so adding a word changes no other clip. The same espeak-ng, libsndfile and libopus give the
same sound; the bytes differ in a number that Ogg draws at random for each file. SHA256 and
sound.csv say what was made; tests/test_speech_files.py compares.
"""

import csv
import hashlib
import io
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import soundfile

from mmlib.data import read_audio
from mmlib.data.audio import RATE

FOLDER = Path(__file__).parent / "speech"
SEED, TAKES, PARTS, COMPRESSION, QUIET = (
    0,
    2,
    8,
    0.9,
    0.01,
)  # QUIET: share of the peak under which a clip's ends are cut off
DIGITS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "zh": list("零一二三四五六七八九"),
}
MANDARIN = "cmn-latn-pinyin"
WORDS = {
    "colours": "black white grey brown orange cream red blue green yellow pink purple".split(),
    "coats": "plain striped patched spotted".split(),
    "animals": "cat dog animal bird mouse sheep horse cow duck fox fish frog".split(),
    "places": "grass snow moon night beach rug home autumn tree house garden river".split(),
    "poses": "sitting standing lying asleep looking facing hiding".split(),
    "things": "ball bowl flowers box blanket hat collar camera".split(),
    "questions": "what which who where when why how many".split(),
    "answers": "yes no none maybe".split(),
    "others": "the is are does it you see hear with without on in under next and not "
    "colour".split(),
}
# espeak-ng variants, each one voice. Every accent of ACCENTS is given in turn, so all occur in
# train, val and test.
TRAIN = (
    "m1 f1 m2 f2 m3 f3 m4 Alex m5 Alicia Andy Andrea Denis Annie Diogo aunty Gene linda Henrique "
    "steph Hugo shelby Lee Marco adam "
    "boris"
).split()
VAL = "f4 belinda m6 john paul rob".split()
TEST = "m7 Michael f5 grandma benjamin victor anika pedro".split()
ACCENTS = (
    "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc".split()
)
SPEAKERS = (
    "m1",
    "f2",
    "m3",
    "f3",
    "Andy",
    "f4",
    "m7",
    "f5",
)  # of WORDS: five of train, one of val, two of test


def voices() -> list[dict[str, str]]:
    """One row per voice: name, split, accent, variant, pitch (0 to 99, of espeak-ng) and speed
    (words a minute).
    """
    rows = []
    for split, variants in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for place, variant in enumerate(variants):
            draw = generator("voice", variant)
            rows.append(
                {
                    "voice": f"v{len(rows) + 1:02}",
                    "split": split,
                    "accent": ACCENTS[place % len(ACCENTS)],
                    "variant": variant,
                    "pitch": str(draw.integers(25, 75)),
                    "speed": str(draw.integers(130, 190)),
                }
            )
    return rows


def generator(*names: object) -> np.random.Generator:
    """Random numbers of their own for whatever is named."""
    return np.random.default_rng([SEED, zlib.crc32(" ".join(map(str, names)).encode())])


def speak(text: str, voice: dict[str, str], language: str, take: int) -> np.ndarray:
    """One clip: 16 kHz, float32, peak 0.5."""
    draw = generator(voice["variant"], language, text, take)
    pitch = int(np.clip(int(voice["pitch"]) + draw.integers(-10, 11), 0, 99))
    speed = int(int(voice["speed"]) * draw.uniform(0.88, 1.12))
    name = f"{voice['accent'] if language == 'en' else MANDARIN}+{voice['variant']}"
    command = ["espeak-ng", "-v", name, "-p", str(pitch), "-s", str(speed), "--stdout", text]
    sound, rate = soundfile.read(
        io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout), dtype="float32"
    )
    x = read_audio(sound, rate).numpy()
    loud = np.flatnonzero(np.abs(x) > QUIET * np.abs(x).max())
    x = x[loud[0] : loud[-1] + 1]
    before, after = draw.integers(RATE // 50, RATE // 12, 2)
    return np.pad(0.5 * x / np.abs(x).max(), (before, after)).astype(np.float32)


def script(voice: dict[str, str]) -> list[tuple[str, str, str, int]]:
    """What a voice says: text, label, language, take."""
    said = [
        (text, str(digit), language, take)
        for language, texts in DIGITS.items()
        for digit, text in enumerate(texts)
        for take in range(1, TAKES + 1)
    ]
    words = (
        [word for group in WORDS.values() for word in group] if voice["variant"] in SPEAKERS else []
    )
    return said + [(word, word, "en", 1) for word in words]


def loudness(x: np.ndarray) -> list[str]:
    """Energy of each eighth of a clip in decibels, to a tenth: the same for any version of
    libopus that decodes it, but for a tenth or two.
    """
    return [
        f"{10 * np.log10(np.square(part).mean() + 1e-10):.1f}"
        for part in np.array_split(x.astype(np.float64), PARTS)
    ]


def write_table(name: str, rows: list[dict[str, str]]) -> None:
    with open(FOLDER / name, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def digest(rows: list[dict[str, str]]) -> list[str]:
    """Two lines of SHA256: of the files' bytes, and of their decoded sound as 16-bit integers,
    in the manifest's order.
    """
    files, sound = hashlib.sha256(), hashlib.sha256()
    for row in rows:
        files.update((FOLDER / row["audio"]).read_bytes())
        x = soundfile.read(FOLDER / row["audio"], dtype="float32")[0]
        sound.update(np.round(x * 32767).astype("<i2").tobytes())
    return [f"{files.hexdigest()}  files", f"{sound.hexdigest()}  sound"]


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    rows, heard = [], []
    for voice in voices():
        (FOLDER / "audio" / voice["voice"]).mkdir(parents=True)
        for text, label, language, take in script(voice):
            path = f"audio/{voice['voice']}/{language}_{label}_{take}.ogg"
            soundfile.write(
                FOLDER / path,
                speak(text, voice, language, take),
                RATE,
                format="OGG",
                subtype="OPUS",
                compression_level=COMPRESSION,
            )
            x = soundfile.read(FOLDER / path, dtype="float32")[0]
            rows.append(
                {
                    "audio": path,
                    "text": text,
                    "label": label,
                    "voice": voice["voice"],
                    "language": language,
                    "split": voice["split"],
                }
            )
            heard.append(
                {"audio": path, "samples": str(len(x))}
                | {f"dB_{i}": value for i, value in enumerate(loudness(x), 1)}
            )
    write_table("voices.csv", voices())
    write_table("manifest.csv", rows)
    write_table("sound.csv", heard)
    for language, name in (("en", "english_digits.csv"), ("zh", "mandarin_digits.csv")):
        digits = [row for row in rows if row["language"] == language and row["label"].isdigit()]
        write_table(
            name, [{key: value for key, value in row.items() if key != "text"} for row in digits]
        )
    (FOLDER / "SHA256").write_text("\n".join(digest(rows)) + "\n")
    print(
        f"{len(rows):,} clips of {len(voices())} voices, "
        f"{sum(file.stat().st_size for file in FOLDER.rglob('*.*')) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
