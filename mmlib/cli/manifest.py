"""The command that writes a manifest from files that lie in a known order."""

import argparse
from pathlib import Path

from mmlib.cli import arguments as shared
from mmlib.cli.arguments import Commands

# It stands in mmlib.data.layouts too, which --help need not import: a test compares them.
LAYOUTS = ("coco", "esc50", "flickr8k", "movielens", "speech-commands", "vqa")
EXAMPLES = """examples:
  python -m mmlib manifest photos --out photos.csv
  python -m mmlib manifest ESC-50-master --layout esc50 --out esc50.csv

Without --layout, FOLDER has a folder per class, or per split and class:
  photos/cat/1.jpg  photos/cat/1.wav  photos/cat/1.txt  photos/dog/2.jpg
  photos/train/cat/1.jpg  photos/test/dog/2.jpg
Files of one name are one row: the image, the sound and the words of the text file.

With --layout, FOLDER is as its authors hand it out:
  coco             annotations/captions_*.json and the folders of images: images, captions
  esc50            meta/esc50.csv and audio: sounds, classes; fold 4 is for validation, 5 the test
  flickr8k         Flickr8k.token.txt, the images, and Flickr_8k.*Images.txt: images, captions
  movielens        ratings.csv and movies.csv, or ratings.dat and movies.dat: words, ratings
  speech-commands  a folder per word, validation_list.txt, testing_list.txt: sounds, words
  vqa              *questions.json, *annotations.json, the folders of images: images, questions

An existing file is never overwritten."""


def add_commands(commands: Commands) -> None:
    """Add manifest to the commands."""
    written = shared.add_command(
        commands,
        "manifest",
        manifest,
        help="write the manifest of a folder",
        description="Write the manifest of a folder of files, to train on.",
        epilog=EXAMPLES,
    )
    written.add_argument("folder", metavar="FOLDER", help="where the files are")
    written.add_argument(
        "--out",
        type=Path,
        metavar="CSV",
        help="the file to write, in FOLDER or above it (default: FOLDER/manifest.csv)",
    )
    written.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="the order of a known data set (default: a folder per class)",
    )


def manifest(arguments: argparse.Namespace) -> int:
    """Write the file, and say what is in it."""
    from mmlib.data.folders import list_folder, write_manifest
    from mmlib.data.layouts import list_layout

    out = arguments.out or Path(arguments.folder) / "manifest.csv"
    if arguments.layout is None:
        listing = list_folder(arguments.folder)
    else:
        listing = list_layout(arguments.folder, arguments.layout)
    write_manifest(listing, arguments.folder, out)
    print(f"wrote {out}: {len(listing.rows):,} rows; columns {', '.join(listing.header)}")
    for note in listing.notes:
        print(note)
    return 0
