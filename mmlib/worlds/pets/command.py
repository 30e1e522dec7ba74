"""The command line of the pets world: draw one into a folder, and say what can be learned there."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from mmlib.worlds.pets.dials import MODALITIES, STRUCTURES, Dials, best_accuracy
from mmlib.worlds.pets.files import write
from mmlib.worlds.pets.pictures import contact_sheet
from mmlib.worlds.pets.world import World, draw


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: see --help."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    try:
        dials = Dials(**{dial.name: given[dial.name] for dial in fields(Dials)})
        world = draw(given["rows"], given["seed"], dials)
        manifest = write(world, given["out"])
    except ValueError as error:
        parser.error(str(error))
    if given["sheet"]:
        _write_sheet(world, given["sheet"])
    print(f"{manifest}: {len(world.label)} rows")
    if not dials.noise and not dials.spurious:
        for modalities in (*((modality,) for modality in MODALITIES), MODALITIES):
            best = best_accuracy(dials, modalities)
            print(f"best possible accuracy with {' + '.join(modalities)}: {best:.3f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mmlib.worlds.pets", description=__doc__)
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
    meaning = _meanings()
    for dial in fields(Dials):
        rate = dial.name in MODALITIES
        parser.add_argument(
            f"--vague-{dial.name}" if rate else f"--{dial.name.replace('_', '-')}",
            dest=dial.name,
            type=str if dial.name == "structure" else float,
            default=dial.default,
            help=f"{meaning[dial.name]} (default %(default)s)",
        )
    return parser


def _meanings() -> dict[str, str]:
    """What each dial does, for --help."""
    meaning = {
        "noise": "blurs pictures, drowns voices, loses words",
        "label_noise": "how often the label is wrong, 0 to 0.5",
        "spurious": "how often the place follows the label, -1 to 1",
        "structure": f"between the modalities: {', '.join(STRUCTURES)}",
    }
    for modality in MODALITIES:
        meaning[modality] = f"how often the {modality} does not tell the species, 0 to 1"
        meaning[f"missing_{modality}"] = f"how often there is no {modality}, 0 to 1"
    return meaning


def _write_sheet(world: World, path: Path) -> None:
    from PIL import Image

    pose, species = world.attributes["pose"], world.attributes["species"]
    sheet = Image.fromarray(contact_sheet(world.images, pose, species))
    twice = (2 * sheet.width, 2 * sheet.height)
    sheet.resize(twice, Image.Resampling.NEAREST).save(path, optimize=True)
