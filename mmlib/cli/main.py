"""The command line: train on a manifest, evaluate a saved model, predict with it; and judge.

``python -m mmlib --help`` teaches.
"""

import argparse
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

from mmlib import leaks, plots, recipes
from mmlib.cli import judge as cli_judge
from mmlib.cli.arguments import (
    KINDS,
    add_data,
    add_device,
    add_on_error,
    add_outside,
    add_training,
    count,
    next_folder,
    pair,
    recipe,
)
from mmlib.data import read_manifest
from mmlib.files import as_json, write_atomically
from mmlib.train import distributed

HELP = """Models that see, read and hear, trained on files of your own.

A manifest is a CSV file with a header, one row a sample. Columns: image and audio (paths, relative to the manifest),
text, a target column, and split (train, val, test). Any of them may be absent, any cell may be empty: that modality is missing."""
TRAIN = """examples:
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets
  python -m mmlib train data/pets/manifest.csv --target label --use image,audio --fusion attention
  python -m mmlib train data/pets/manifest.csv --target label --text text_zh --out runs/zh
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets --resume    # after an interruption

OUT then holds checkpoint.pt (and the one before it), history.jsonl (a row per epoch), metrics.json, curve.png and, for classes,
confusion.png.
On several GPUs the same line runs under torchrun: torchrun --nproc-per-node 4 -m mmlib train ..."""
EVALUATE = """example:
  python -m mmlib evaluate runs/pets data/pets/manifest.csv --split test"""
PREDICT = """examples:
  python -m mmlib predict runs/pets --image photo.jpg --text "it purrs" --audio voice.wav    # any of them may be left out
  python -m mmlib predict runs/pets new.csv                                                   # every row of a manifest"""


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    main = argparse.ArgumentParser(
        prog="python -m mmlib",
        description=HELP,
        epilog="exit codes: 0 done, 1 failed, 2 wrong usage",
        **style,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(
        commands.add_parser(
            "train",
            help="train a model on a manifest",
            description="Train a model on a manifest.",
            epilog=TRAIN,
            **style,
        )
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="score a saved model",
        epilog=EVALUATE,
        **style,
        description="Score a saved model on a split of a manifest; prints JSON.",
    )
    evaluate.add_argument("folder", type=Path, help="the folder of a run")
    evaluate.add_argument("manifest", help="a CSV file with the same columns")
    evaluate.add_argument(
        "--split", default="test", metavar="NAME", help="which rows (default: test); all: every row"
    )

    predict = commands.add_parser(
        "predict",
        help="ask a saved model",
        epilog=PREDICT,
        **style,
        description="Ask a saved model about one sample, or every row of a manifest; prints JSON.",
    )
    predict.add_argument("folder", type=Path, help="the folder of a run")
    predict.add_argument(
        "manifest", nargs="?", help="a CSV file; its target column, if any, is not read"
    )
    for kind, what in zip(KINDS, ("FILE", "WORDS", "FILE")):
        predict.add_argument(f"--{kind}", metavar=what)
    predict.add_argument(
        "--modality",
        action="append",
        default=[],
        type=pair,
        metavar="NAME=VALUE",
        help="a modality of another name, e.g. --modality xray=a.png",
    )
    for command in (evaluate, predict):
        add_on_error(command)
        add_outside(command)
        add_device(command)
    cli_judge.add_commands(commands, style)
    return main


def _add_train(train: argparse.ArgumentParser) -> None:
    add_data(train)
    add_training(train)
    train.add_argument(
        "--dim", type=int, metavar="D", help=f"the length of all vectors (default: {recipes.DIM})"
    )
    train.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help=f"the highest learning rate (default: {recipes.LR:g})",
    )
    train.add_argument(
        "--dropout",
        type=float,
        metavar="P",
        help=f"share of features dropped in training (default: {recipes.DROPOUT:g})",
    )
    train.add_argument(
        "--batch-size",
        type=count,
        metavar="N",
        help=f"rows a step (default: {recipes.BATCH}); fewer take less memory",
    )
    train.add_argument(
        "--modality-dropout",
        "--hide",
        type=float,
        metavar="P",
        help="how often modalities are hidden in training (default: 0.5)",
    )
    train.add_argument(
        "--out", type=Path, metavar="DIR", help="where the run goes (default: runs/1, runs/2, ...)"
    )
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in --out where it was stopped"
    )
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same result (default: 0)"
    )
    train.add_argument(
        "--distributed",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="how to share the work under torchrun",
    )
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")


def train(arguments: argparse.Namespace) -> None:
    """The train command: trains, prints the scores, writes metrics.json and the figures into
    OUT.
    """
    arguments.out = arguments.out or next_folder(Path("runs"))
    asked = replace(
        recipe(arguments),
        out=arguments.out,
        resume=arguments.resume,
        distributed=arguments.distributed,
        tensorboard=arguments.tensorboard,
    )
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one
        warn_of_leaks(asked)
    run = recipes.train(asked)
    if distributed.rank() > 0:
        return
    text = as_json(run.metrics, indent=2)
    # before the figures, which may fail
    write_atomically(asked.out / "metrics.json", lambda file: file.write(f"{text}\n".encode()))
    plots.save(run.history.plot(), asked.out / "curve.png")
    if run.confusion is not None:
        plots.save(
            plots.confusion(run.confusion, run.predictor.classes), asked.out / "confusion.png"
        )
    print(text)
    print(f"wrote {asked.out}")


def warn_of_leaks(recipe: recipes.Recipe) -> None:
    """The quick look for leaks before training: says what it finds, and leaves everything else
    to those who come after.
    """
    manifest = read_manifest(
        recipe.manifest,
        recipe.target,
        recipe.columns,
        recipe.group,
        recipe.use,
        recipe.allow_outside,
    )
    for finding in leaks.find(manifest, quick=True, seed=recipe.seed):
        print(f"warning: {finding}", file=sys.stderr)


def evaluate(arguments: argparse.Namespace) -> None:
    """The evaluate command."""
    predictor = recipes.load(arguments.folder, arguments.device)
    scores = predictor.evaluate(
        arguments.manifest, arguments.split, arguments.on_error, arguments.allow_outside
    )
    print(as_json(scores, indent=2))


def predict(arguments: argparse.Namespace) -> None:
    """The predict command: one sample gives a JSON object, a manifest a JSON array with a line
    per row.
    """
    predictor = recipes.load(arguments.folder, arguments.device)
    modalities = dict(arguments.modality) | {
        kind: value for kind in KINDS if (value := getattr(arguments, kind)) is not None
    }
    if arguments.manifest is None:
        print(as_json(predictor.predict(**modalities), ensure_ascii=False))
        return
    answers = predictor.predict_manifest(
        arguments.manifest, arguments.allow_outside, arguments.on_error
    )
    lines = [as_json(answer, ensure_ascii=False) for answer in answers]
    print("[\n" + ",\n".join(lines) + "\n]")


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed (the reason on stderr), 2 wrong usage. It prints UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows a file is cp1252, which has no 狗
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; the errors of mmlib do
    commands = parser()
    arguments = commands.parse_args(argv)
    if getattr(arguments, "resume", False) and arguments.out is None:
        commands.error("--resume needs --out: which one is to go on?")
    if arguments.command == "predict":
        single = bool(arguments.modality) or any(
            getattr(arguments, kind) is not None for kind in KINDS
        )
        if single == (arguments.manifest is not None):
            commands.error(
                "predict takes either a manifest, or one sample by --image, --text, --audio or "
                "--modality"
            )
    try:
        run = {"train": train, "evaluate": evaluate, "predict": predict} | cli_judge.COMMANDS
        return run[arguments.command](arguments) or 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"mmlib: {error}", file=sys.stderr)
        return 2 if arguments.command == "leaks" else 1  # there 1 says that a leak was found
    except KeyboardInterrupt:
        again = (
            f"; go on with the same line and --out {arguments.out} --resume"
            if arguments.command in ("train", "tune")
            else ""
        )
        print(f"mmlib: interrupted{again}", file=sys.stderr)
        return 1
