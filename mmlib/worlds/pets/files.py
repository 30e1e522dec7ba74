"""A world of pets -> a folder with a manifest, images and clips."""

import csv
from pathlib import Path

import numpy as np

from mmlib.worlds.pets.drawing import Array
from mmlib.worlds.pets.voices import RATE
from mmlib.worlds.pets.world import CLASSES, World

COLUMNS = ("image", "text", "text_zh", "audio", "label", "split")


def write(world: World, folder: str | Path) -> Path:
    """Write manifest.csv, images/*.png and audio/*.flac -> the manifest's path.

    The same world gives the same bytes. Columns: image, text, text_zh, audio, label, split; paths
    are relative to the manifest, and a missing modality is an empty cell. Of each class 70% are
    train, 15% val, 15% test. Raises ValueError when images/ or audio/ hold files that this world
    would not replace.

    >>> import tempfile
    >>> from mmlib.worlds.pets import draw
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = write(draw(2), folder)
    ...     print(manifest.read_text(encoding="utf-8").splitlines()[0])
    ...     print(sorted(path.name for path in Path(folder).rglob("*.png")))
    image,text,text_zh,audio,label,split
    ['00000.png', '00001.png']
    """
    folder, rows = Path(folder), range(len(world.label))
    images = [f"images/{i:05d}.png" if world.present["image"][i] else "" for i in rows]
    clips = [f"audio/{i:05d}.flac" if world.present["audio"][i] else "" for i in rows]
    _make_folders(folder, {*images, *clips})
    _write_files(world, folder, images, clips)
    labels = [CLASSES[kind] for kind in world.label]
    table = zip(images, world.text, world.text_zh, clips, labels, _splits(world.label), strict=True)
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(table)
    return folder / "manifest.csv"


def _make_folders(folder: Path, names: set[str]) -> None:
    """Make images/ and audio/, which must not hold files of other names."""
    for sub in ("images", "audio"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        other = {f"{sub}/{path.name}" for path in (folder / sub).iterdir()} - names
        if other:
            raise ValueError(
                f"{folder} holds {len(other)} files that these rows would not replace, "
                f"{min(other)} the first; give an empty folder, or remove them"
            )


def _write_files(world: World, folder: Path, images: list[str], clips: list[str]) -> None:
    import soundfile
    from PIL import Image

    for i, (image, clip) in enumerate(zip(images, clips, strict=True)):
        if image:
            Image.fromarray(world.images[i]).save(folder / image, optimize=True)
        if clip:
            samples = (world.audio[i] * 32768).astype(np.int16)
            soundfile.write(folder / clip, samples, RATE, subtype="PCM_16")


def _splits(label: Array) -> list[str]:
    """14, 3 and 3 of every 20 rows of a class: more rows change no row's split.

    The rows are random already, so no further draw is needed.
    """
    split, seen = [], [0] * len(CLASSES)
    for kind in label.tolist():
        place = 7 * seen[kind] % 20
        split.append("train" if place < 14 else "val" if place < 17 else "test")
        seen[kind] += 1
    return split
