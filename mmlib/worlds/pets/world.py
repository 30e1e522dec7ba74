"""Decide what each pet is and shows, then draw it: dials and a seed -> a World, and its files."""

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmlib.worlds.pets import captions, poses, scenery
from mmlib.worlds.pets.dials import (
    MODALITIES,
    STRUCTURES,
    Dials,
    best_accuracy,
    check_known,
)
from mmlib.worlds.pets.drawing import SIZE, Array
from mmlib.worlds.pets.pictures import (
    COATS,
    COLLARS,
    HIDDEN,
    PATTERNS,
    contact_sheet,
    pick,
    pictures,
)
from mmlib.worlds.pets.voices import RATE, quantised, sound

CLASSES = ("cat", "dog")
BLOCK = (
    512  # pictures drawn together: enough to make calls cheap, few enough to stay near the cache
)
# The random numbers of a row, in this order: a new one goes to the end, or every row of every world
# changes.
CHANCES = (
    "species shown_image shown_text shown_audio tells_image tells_text tells_audio there_image "
    "there_text there_audio "
    "flip cue place telling hiding coat pattern collar prop iris cloth noun template does x y "
    "scale turn mirror shift "
    "side w0 w1 w2 w3 w4 w5 w6 w7 wiggle0 wiggle1 sound noise"
).split()


class World(NamedTuple):
    """N pets.

    A missing modality is a black picture, an empty string, a sound of no samples; ``present`` says
    which.
    """

    images: Array  # (N, SIZE, SIZE, 3) uint8
    text: list[str]
    text_zh: list[str]
    audio: list[Array]  # (samples,) float32 each, at RATE
    label: Array  # (N,) int64: index into CLASSES
    tells: dict[str, Array]  # modality -> (N,) bool: present, and shows a species
    present: dict[str, Array]  # modality -> (N,) bool
    shown: dict[
        str, Array
        # modality -> (N,) int64: the species it shows where it tells (in synergy, each modality its
        # own)
    ]
    attributes: dict[
        str, Array
        # coat, pattern, collar, place, prop, pose: (N,) str; species: (N,) int64, the label before
        # label noise
    ]
    dials: Dials


def draw(
    rows: int | Sequence[int],
    seed: int = 0,
    dials: Dials = Dials(),
    modalities: Iterable[str] = MODALITIES,
) -> World:
    """Draw rows 0 .. rows - 1 of the world of this seed, or the rows listed.

    Modalities left out are decided on, not drawn: that is fast.
    Raises ValueError for a negative number of rows, and for an unknown modality.
    """
    return build(chances(rows, seed), dials, modalities)


def chances(rows: int | Sequence[int], seed: int = 0) -> dict[str, Array]:
    """The random numbers in 0..1 that everything about the rows follows from: name -> (N,)
    float64.
    """
    if isinstance(rows, (int, np.integer)):
        if rows < 0:
            raise ValueError(f"rows is {rows}, expected 0 or more, or a list of row numbers")
        rows = range(rows)
    table = [np.random.default_rng([seed, int(row)]).random(len(CHANCES)) for row in rows]
    return dict(zip(CHANCES, np.array(table).reshape(-1, len(CHANCES)).T))


def build(
    chance: dict[str, Array], dials: Dials = Dials(), modalities: Iterable[str] = MODALITIES
) -> World:
    """The world that follows from these random numbers: change one of them, and see what depends
    on it.
    """
    modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if not set(modalities) <= set(MODALITIES):
        raise ValueError(
            f"unknown modalities {sorted(set(modalities) - set(MODALITIES))}, expected some of "
            f"{MODALITIES}"
        )
    world = _decide(chance, dials)
    for modality in modalities:
        {"image": _fill_images, "text": _fill_texts, "audio": _fill_audio}[modality](world, chance)
    return world


def ideal_accuracy(world: World, modalities: Iterable[str] = MODALITIES) -> float:
    """The accuracy on these very rows of an observer who reads these modalities without error, and
    guesses where none tells (counted 1/2).

    ``best_accuracy`` is its mean over all worlds. Raises ValueError where that one does, and for a
    world without rows.
    """
    modalities = check_known(world.dials, modalities)
    if not len(world.label):
        raise ValueError("the world has no rows: an accuracy needs one at least")
    if world.dials.structure == "synergy":
        active = world.dials.active
        knows = np.logical_and.reduce([world.tells[s] & (s in modalities) for s in active])
        answer = sum(world.shown[s] for s in active) % 2
    else:
        knows = np.logical_or.reduce(
            [world.tells[s] for s in modalities] or [np.zeros(len(world.label), bool)]
        )
        answer = world.attributes["species"]
    return float(np.where(knows, answer == world.label, 0.5).mean())


def _decide(chance: dict[str, Array], dials: Dials) -> World:
    """Everything about the rows but the pictures, captions and sounds themselves."""
    n = len(chance["species"])
    coins = {
        s: chance["tells_image" if dials.structure == "redundant" else f"tells_{s}"]
        >= getattr(dials, s)
        for s in MODALITIES
    }
    present = {s: chance[f"there_{s}"] >= getattr(dials, f"missing_{s}") for s in MODALITIES}
    species = (chance["species"] * 2).astype(np.int64)
    shown = {s: species for s in MODALITIES}
    if dials.structure == "synergy":
        shown = {s: (chance[f"shown_{s}"] * 2).astype(np.int64) for s in MODALITIES}
        species = sum(shown[s] for s in dials.active) % 2
    label = np.where(chance["flip"] < dials.label_noise, 1 - species, species)
    # A free place is drawn from all six. A place that follows the label is drawn from the three
    # that are the label's own.
    names = sorted(scenery.PLACES)
    follows = chance["cue"] < abs(dials.spurious)
    own = np.where(dials.spurious < 0, 1 - species, species)
    place = np.where(
        follows, (own + chance["place"]) * len(names) / 2, chance["place"] * len(names)
    ).astype(np.int64)
    pose = np.where(
        coins["image"], pick(chance["telling"], poses.TELLING), pick(chance["hiding"], poses.HIDING)
    )
    tables = {"coat": COATS, "pattern": PATTERNS, "collar": COLLARS, "prop": scenery.PROPS}
    attributes = {key: pick(chance[key], table) for key, table in tables.items()}
    attributes |= {"place": np.array(names)[place], "pose": pose, "species": species}
    return World(
        np.zeros((n, SIZE, SIZE, 3), np.uint8),
        [""] * n,
        [""] * n,
        [np.zeros(0, np.float32)] * n,
        label,
        {s: coins[s] & present[s] for s in MODALITIES},
        present,
        shown,
        attributes,
        dials,
    )


def _noise(chance: dict[str, Array], i: int, modality: str) -> np.random.Generator:
    """The generator of the noise on one modality of one row."""
    return np.random.default_rng([int(chance["noise"][i] * 2**53), MODALITIES.index(modality)])


def _fill_images(world: World, chance: dict[str, Array]) -> None:
    species = np.where(world.tells["image"], world.shown["image"], HIDDEN)
    present = np.flatnonzero(world.present["image"])
    for start in range(0, len(present), BLOCK):
        rows = present[start : start + BLOCK]
        looks = {
            key: world.attributes[key][rows]
            for key in ("coat", "pattern", "collar", "place", "prop", "pose")
        }
        images = pictures(
            looks, {key: values[rows] for key, values in chance.items()}, species[rows]
        )
        if world.dials.noise:
            images = images + world.dials.noise * np.stack(
                [_noise(chance, i, "image").normal(size=images.shape[1:]) for i in rows]
            )
        world.images[rows] = np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)


def _fill_texts(world: World, chance: dict[str, Array]) -> None:
    """The noise dial loses English words and Chinese characters."""
    for i in np.flatnonzero(world.present["text"]):
        looks = {
            key: str(world.attributes[key][i])
            for key in ("coat", "pattern", "collar", "pose", "place", "prop")
        }
        hint = int(world.shown["text"][i]) if world.tells["text"][i] else None
        english, chinese = captions.caption(
            looks, {key: chance[key][i] for key in ("noun", "template", "does")}, hint
        )
        if world.dials.noise:
            rng = _noise(chance, i, "text")
            english = " ".join(
                word for word in english.split() if rng.random() >= world.dials.noise
            )
            chinese = "".join(
                character for character in chinese if rng.random() >= world.dials.noise
            )
        world.text[i], world.text_zh[i] = english, chinese


def _fill_audio(world: World, chance: dict[str, Array]) -> None:
    for i in np.flatnonzero(world.present["audio"]):
        species = int(world.shown["audio"][i]) if world.tells["audio"][i] else None
        wave = sound(np.random.default_rng(int(chance["sound"][i] * 2**53)), species)
        if world.dials.noise:
            wave = quantised(
                wave + world.dials.noise * _noise(chance, i, "audio").normal(size=len(wave))
            )
        world.audio[i] = wave


def write(world: World, folder: str | Path) -> Path:
    """Write manifest.csv, images/*.png and audio/*.flac, the same bytes for the same world -> the
    manifest's path.

    Columns: image, text, text_zh, audio, label, split; paths are relative to the manifest, a
    missing modality is an empty cell. Of each class 70% are train, 15% val, 15% test. Raises
    ValueError when images/ or audio/ hold files that this world would not replace.
    """
    import soundfile
    from PIL import Image

    folder, there = Path(folder), world.present
    names = {
        modality: [
            f"{modality_folder}/{i:05d}.{ending}" if there[modality][i] else ""
            for i in range(len(world.label))
        ]
        for modality, modality_folder, ending in (
            ("image", "images", "png"),
            ("audio", "audio", "flac"),
        )
    }
    for sub in ("images", "audio"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        other = {f"{sub}/{path.name}" for path in (folder / sub).iterdir()} - {
            *names["image"],
            *names["audio"],
        }
        if other:
            raise ValueError(
                f"{folder} holds {len(other)} files that these rows would not replace, "
                f"{min(other)} the first; "
                "give an empty folder, or remove them"
            )
    split, seen = [], [0] * len(CLASSES)
    for kind in world.label:
        place = (
            7 * seen[kind] % 20
            # the rows are random already: 14, 3, 3 of every 20 will do, and more rows change no
            # row's
            # split
        )
        split.append("train" if place < 14 else "val" if place < 17 else "test")
        seen[kind] += 1
    for i in range(len(world.label)):
        if there["image"][i]:
            Image.fromarray(world.images[i]).save(folder / names["image"][i], optimize=True)
        if there["audio"][i]:
            soundfile.write(
                folder / names["audio"][i],
                (world.audio[i] * 32768).astype(np.int16),
                RATE,
                subtype="PCM_16",
            )
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image", "text", "text_zh", "audio", "label", "split"))
        table.writerows(
            zip(
                names["image"],
                world.text,
                world.text_zh,
                names["audio"],
                (CLASSES[k] for k in world.label),
                split,
            )
        )
    return folder / "manifest.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: see --help."""
    as_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m mmlib.worlds.pets", description=__doc__, formatter_class=as_is
    )
    parser.add_argument(
        "out", type=Path, help="folder to write manifest.csv, images/ and audio/ to"
    )
    parser.add_argument(
        "--rows", type=int, default=1200, help="how many pets (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other pets (default %(default)s)"
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        help="also write a contact sheet: a row for each pose, cats left, dogs right (PNG)",
    )
    meaning = {
        "noise": "blurs pictures, drowns voices, loses words",
        "label_noise": "how often the label is wrong, 0 to 0.5",
        "spurious": "how often the place follows the label, -1 to 1",
        "structure": f"between the modalities: {', '.join(STRUCTURES)}",
    }
    for modality in MODALITIES:
        meaning[modality] = f"how often the {modality} does not tell the species, 0 to 1"
        meaning[f"missing_{modality}"] = f"how often there is no {modality}, 0 to 1"
    for dial in fields(Dials):
        flag = (
            f"--vague-{dial.name}"
            if dial.name in MODALITIES
            else f"--{dial.name.replace('_', '-')}"
        )
        parser.add_argument(
            flag,
            dest=dial.name,
            type=dial.type,
            default=dial.default,
            help=f"{meaning[dial.name]} (default %(default)s)",
        )
    given = vars(parser.parse_args(arguments))
    try:
        dials = Dials(**{dial.name: given[dial.name] for dial in fields(Dials)})
        world = draw(given["rows"], given["seed"], dials)
        manifest = write(world, given["out"])
    except ValueError as error:
        parser.error(str(error))
    if given["sheet"]:
        from PIL import Image

        sheet = Image.fromarray(
            contact_sheet(world.images, world.attributes["pose"], world.attributes["species"])
        )
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(
            given["sheet"], optimize=True
        )
    print(f"{manifest}: {len(world.label)} rows")
    if not dials.noise and not dials.spurious:
        for modalities in (*((modality,) for modality in MODALITIES), MODALITIES):
            print(
                f"best possible accuracy with {' + '.join(modalities)}: "
                f"{best_accuracy(dials, modalities):.3f}"
            )


if __name__ == "__main__":
    main()
