"""The train command."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmlib.cli import arguments as shared
from mmlib.cli.arguments import Commands, positive, share, warn

if TYPE_CHECKING:
    from mmlib.recipes import Recipe, Run

EPILOG = """examples:
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets
  python -m mmlib train data/pets/manifest.csv --target label --use image,audio --fusion attention
  python -m mmlib train data/pets/manifest.csv --target label --text text_zh --out runs/zh
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets --resume
  python -m mmlib train more.csv --target label --start runs/pets --out runs/more

The last but one goes on after an interruption; the last one trains a model on with other rows. DIR
then holds checkpoint.pt (and the one before it), history.jsonl (a row for each epoch),
metrics.json, curve.png and, for a classification, confusion.png. A terminal shows a bar; a file or
a pipe gets a line for each epoch.
On several GPUs, use torchrun: torchrun --nproc-per-node 4 -m mmlib train ..."""


def add_commands(commands: Commands) -> None:
    """Add train to the commands."""
    train = shared.add_command(
        commands,
        "train",
        run,
        help="train a model on a manifest",
        description="Train a model on a manifest.",
        epilog=EPILOG,
    )
    shared.add_data(train)
    shared.add_training(train, budget=1.0)
    _add_model(train)
    shared.add_out(train, "runs", "run")
    shared.add_resume(train, "run")
    train.add_argument(
        "--start",
        type=Path,
        metavar="RUN",
        help="begin with the weights of this run; its modalities, classes, --fusion and --dim must "
        "be the same, and images, words and sounds are prepared as for it",
    )
    train.add_argument(
        "--distributed",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="how the processes of torchrun share the work (default: ddp)",
    )
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    shared.add_json(train)


def _add_model(train: argparse.ArgumentParser) -> None:
    """The settings that ``tune`` searches."""
    train.add_argument(
        "--dim",
        type=shared.count,
        default=64,
        metavar="D",
        help="the length of all vectors (default: %(default)s)",
    )
    train.add_argument(
        "--lr",
        type=positive,
        default=2e-3,
        metavar="RATE",
        help="the highest learning rate (default: %(default)s)",
    )
    train.add_argument(
        "--dropout",
        type=share,
        default=0.1,
        metavar="P",
        help="share of the features that training drops (default: %(default)s)",
    )
    train.add_argument(
        "--modality-dropout",
        type=share,
        default=0.5,
        metavar="P",
        help="how often training drops a modality (default: %(default)s)",
    )


def recipe(arguments: argparse.Namespace) -> "Recipe":
    """The Recipe that the options of train ask for."""
    asked = shared.recipe(arguments)
    return replace(
        asked,
        out=arguments.out,
        resume=arguments.resume,
        start=arguments.start,
        distributed=arguments.distributed,
        tensorboard=arguments.tensorboard,
        dim=arguments.dim,
        lr=arguments.lr,
        dropout=arguments.dropout,
        augment=replace(asked.augment, modality_dropout=arguments.modality_dropout),
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, print the scores, write metrics.json and the figures into --out."""
    arguments.out = shared.out_folder(arguments)
    from mmlib import recipes
    from mmlib.report.classical import classical, scores
    from mmlib.train import distributed
    from mmlib.train.log import summary_writer

    asked = replace(recipe(arguments), log=logger(arguments))
    if asked.tensorboard:
        summary_writer()  # fails now, before any file is read, where TensorBoard is not installed
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one
        warn_of_leaks(asked)
    with progress(arguments):
        trained = recipes.train(asked)
    if distributed.rank() == 0:
        found = {"classical": scores(trained.data, classical(trained.data))}
        trained = replace(trained, metrics=trained.metrics | found)
        write(trained, arguments.out)
        show(trained, arguments)
    return 0


def logger(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Prints what was found and decided: beside the JSON, not into it."""
    return lambda line: print(line, file=sys.stderr if arguments.json else sys.stdout)


@contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[None]:
    """Progress, which ``fit`` writes to stderr, goes where the other lines go.

    So `train ... | tee log` has the epochs in its log, in order, and no bar between its lines.
    """
    if arguments.json or sys.stdout.isatty():
        yield
    else:
        with redirect_stderr(sys.stdout):
            yield


def warn_of_leaks(recipe: "Recipe") -> None:
    """The quick search for leaks before training: it warns of what it finds.

    What is wrong with the manifest or its files, training itself reports.
    """
    from mmlib.leaks import find

    manifest = recipe.read()
    if recipe.task == "labels" or manifest.target_columns:
        warn("several labels a row are not compared with the inputs: an answer there goes unseen")
        manifest = replace(manifest, target=None)
    for finding in find(manifest, quick=True, seed=recipe.seed):
        warn(str(finding))


def write(trained: "Run", out: Path) -> None:
    """metrics.json, curve.png and confusion.png; the scores first, as a figure may fail."""
    from mmlib import plots
    from mmlib.files import as_json, write_atomically

    text = as_json(trained.metrics, indent=2) + "\n"
    write_atomically(out / "metrics.json", lambda file: file.write(text.encode()))
    majority = trained.metrics.get("val", {}).get("accuracy_baseline")
    plots.save(trained.history.plot(majority), out / "curve.png")
    if trained.confusion is not None:
        split = "test" if "test" in trained.metrics else "val"
        rows, right = int(trained.confusion.sum()), int(trained.confusion.diagonal().sum())
        title = f"{split}: {right:,} of {rows:,} rows right"
        figure = plots.confusion(trained.confusion, trained.predictor.classes, title)
        plots.save(figure, out / "confusion.png")


def show(trained: "Run", arguments: argparse.Namespace) -> None:
    """The scores, for a person or for a program."""
    from mmlib.cli.scores import classical, line
    from mmlib.files import as_json

    metrics = trained.metrics
    if arguments.json:
        print(as_json(metrics, indent=2))
        return
    lines = [line(split, metrics[split]) for split in ("val", "test") if split in metrics]
    best = f"weights of epoch {metrics['best_epoch']} of {metrics['epochs']}"
    print("\n".join([*lines[:-1], "   ".join([*lines[-1:], best, str(arguments.out)])]))
    split = "test" if "test" in metrics else "val"
    if baselines := metrics["classical"].get(split):
        print("\n".join(classical(split, baselines, metrics[split])))
