"""Arguments that several commands share, and the Recipe they make."""

import argparse
from dataclasses import replace
from pathlib import Path

from mmlib import recipes

KINDS = ("image", "text", "audio")


def add_data(command: argparse.ArgumentParser) -> None:
    """Which rows, which columns."""
    command.add_argument("manifest", help="the CSV file")
    command.add_argument(
        "--target",
        default="label",
        metavar="COL",
        help="the column to predict: classes or numbers (default: label)",
    )
    command.add_argument(
        "--use",
        type=names,
        metavar="MODALITIES",
        help="modalities to use, e.g. image,audio (default: all there are)",
    )
    for kind in KINDS:
        command.add_argument(
            f"--{kind}",
            metavar="COL",
            help=f"the {kind} column (default: {kind}); A,B: two modalities of those names",
        )
    command.add_argument(
        "--group",
        metavar="COL",
        help="rows of one group (a patient, a speaker) never stand in two splits",
    )
    add_outside(command)


def add_outside(command: argparse.ArgumentParser) -> None:
    """Paths that climb out."""
    command.add_argument(
        "--allow-outside", action="store_true", help="allow paths that leave the manifest's folder"
    )


def add_on_error(command: argparse.ArgumentParser) -> None:
    """What to do about bad files."""
    command.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="files that do not load: stop and list them, or go on without those rows",
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """Where to compute."""
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )


def add_training(command: argparse.ArgumentParser) -> None:
    """How one model is trained."""
    command.add_argument(
        "--fusion",
        choices=sorted(recipes.FUSIONS),
        default="sum",
        help="how the modalities are brought together (default: sum, their evidence adds up)",
    )
    command.add_argument(
        "--epochs",
        type=count,
        metavar="N",
        help="passes over the training rows (default: a printed rule)",
    )
    command.add_argument(
        "--task",
        choices=("classes", "numbers"),
        help="what the target is (default: told from its values)",
    )
    command.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 on GPUs that have it",
    )
    add_on_error(command)
    add_device(command)


def recipe(arguments: argparse.Namespace) -> recipes.Recipe:
    """The Recipe that ``add_data`` and ``add_training``, and where given --seed, --dim, --lr,
    --dropout, --batch-size, --modality-dropout, --budget, ask for.
    """
    columns = {kind: getattr(arguments, kind) for kind in KINDS if getattr(arguments, kind)}
    made = recipes.Recipe(
        arguments.manifest,
        target=arguments.target,
        task=arguments.task,
        use=arguments.use,
        columns=columns,
        group=arguments.group,
        fusion=arguments.fusion,
        epochs=arguments.epochs,
        on_error=arguments.on_error,
        allow_outside=arguments.allow_outside,
        device=arguments.device,
        precision=arguments.precision,
    )
    given = {
        name: value
        for name in ("seed", "dim", "lr", "dropout", "batch_size", "budget")
        if (value := getattr(arguments, name, None)) is not None
    }
    dropped = getattr(arguments, "modality_dropout", None)
    return replace(
        made,
        **given,
        augment=made.augment
        if dropped is None
        else replace(made.augment, modality_dropout=dropped),
    )


def names(text: str) -> tuple[str, ...]:
    """'image, audio' -> ('image', 'audio')."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def pair(text: str) -> tuple[str, str]:
    """'xray=a.png' -> ('xray', 'a.png')."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def next_folder(parent: Path) -> Path:
    """runs/1, or the first number that is not taken."""
    return next(parent / str(i) for i in range(1, 1_000_000) if not (parent / str(i)).exists())
