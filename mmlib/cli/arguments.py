"""Options that several commands share, and the Recipe that they ask for.

Nothing heavy is imported at the top of the files of ``mmlib.cli``: ``--help`` and a usage error
need neither torch nor numpy, and so take a moment and not seconds.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmlib.renamed import OLD_TASKS

if TYPE_CHECKING:
    from mmlib.recipes import Recipe

# These stand in mmlib.data and mmlib.recipes too, which import torch: a test compares them.
KINDS = ("image", "text", "audio", "table")
TASKS = ("classification", "regression", "labels")
FUSIONS = (
    "attention",
    "bilinear",
    "bottleneck",
    "concat",
    "cross",
    "crossmodal",
    "deepset",
    "film",
    "gated",
    "join",
    "late",
    "lowrank",
    "perceiver",
    "product",
    "sum",
    "tensor",
)
OLD_OPTIONS = {"--sense": "--modality", "--hide": "--modality-dropout"}  # for one release
DEBUG = "on failure, show the traceback instead of one line"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]


def add_command(
    commands: Commands, name: str, run: Run, help: str, description: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A command whose arguments have ``run``, and ``error`` for wrong usage, which ends with 2."""
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, error=command.error)
    command.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,  # or it would overwrite a --debug before the command's name
        help=DEBUG,
    )
    return command


def add_json(command: argparse.ArgumentParser) -> None:
    """Output for programs."""
    command.add_argument(
        "--json", action="store_true", help="print JSON to stdout, and everything else to stderr"
    )


def add_data(command: argparse.ArgumentParser) -> None:
    """Which rows, which columns."""
    command.add_argument("manifest", help="the CSV file")
    command.add_argument(
        "--target",
        default="label",
        metavar="COL",
        help="the column to predict: classes, numbers, or labels such as red;round (default: "
        "label); A,B: a column of 0 and 1 for each label",
    )
    command.add_argument(
        "--use",
        type=names,
        metavar="MODALITIES",
        help="modalities to use, e.g. image,audio (default: all there are)",
    )
    for kind in KINDS[:3]:
        command.add_argument(
            f"--{kind}",
            metavar="COL",
            help=f"the {kind} column (default: {kind}); A,B: two modalities of those names",
        )
    command.add_argument(
        "--table",
        metavar="A,B,...",
        help="columns of numbers and categories, which together are one modality",
    )
    command.add_argument(
        "--group",
        metavar="COL",
        help="the column of groups (patients, speakers); the rows of a group stay in one split",
    )
    add_outside(command)


def add_outside(command: argparse.ArgumentParser) -> None:
    """Whether files may lie outside the manifest's folder."""
    command.add_argument(
        "--allow-outside", action="store_true", help="allow paths that leave the manifest's folder"
    )


def add_on_error(command: argparse.ArgumentParser) -> None:
    """What to do about bad files."""
    command.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="when files cannot be read: list them and stop, or go on without their rows "
        "(default: raise)",
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """Where to compute."""
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )


def add_training(command: argparse.ArgumentParser, budget: float) -> None:
    """How one model is trained; ``budget`` is the default of --budget."""
    command.add_argument(
        "--fusion",
        choices=FUSIONS,
        default="sum",
        help="how the modalities are fused (default: sum, their evidence adds up)",
    )
    command.add_argument(
        "--task",
        type=task,
        choices=TASKS,
        help="what the target is (default: decided from its values)",
    )
    command.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the arithmetic (default: auto, bf16 on GPUs that have it)",
    )
    _add_length(command, budget)
    add_on_error(command)
    add_device(command)


def _add_length(command: argparse.ArgumentParser, budget: float) -> None:
    """How long it is trained, in which steps, from which seed."""
    command.add_argument(
        "--epochs",
        type=count,
        metavar="N",
        help="passes over the training rows (default: as many as --budget pays for)",
    )
    command.add_argument(
        "--budget",
        type=positive,
        default=budget,
        metavar="X",
        help="length of one training without --epochs; 1 is about three minutes of one core "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--batch-size",
        type=count,
        default=32,
        metavar="N",
        help="rows per step (default: %(default)s); fewer take less memory",
    )
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="same seed, same result (default: %(default)s)",
    )


def add_out(command: argparse.ArgumentParser, parent: str, what: str) -> None:
    """Where to write, see ``out_folder``."""
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where the {what} goes (default: {parent}/1, {parent}/2, ...)",
    )
    command.set_defaults(parent=Path(parent))


def add_resume(command: argparse.ArgumentParser, what: str) -> None:
    """Whether to go on with what stands in --out."""
    command.add_argument(
        "--resume",
        action="store_true",
        help=f"go on with the {what} in --out where it was stopped",
    )


def recipe(arguments: argparse.Namespace) -> "Recipe":
    """The Recipe that ``add_data`` and ``add_training`` ask for."""
    from mmlib.recipes import Recipe

    return Recipe(
        arguments.manifest,
        **rows(arguments),
        task=arguments.task,
        fusion=arguments.fusion,
        batch_size=arguments.batch_size,
        budget=arguments.budget,
        epochs=arguments.epochs,
        seed=arguments.seed,
        on_error=arguments.on_error,
        device=arguments.device,
        precision=arguments.precision,
    )


def rows(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``add_data`` asks for besides the manifest, as keywords of ``read_manifest``."""
    return {
        "target": arguments.target,
        "columns": {kind: column for kind, column in by_kind(arguments).items() if column},
        "group": arguments.group,
        "use": arguments.use,
        "allow_outside": arguments.allow_outside,
    }


def by_kind(arguments: argparse.Namespace) -> dict[str, str]:
    """What --image, --text, --audio and --table were given."""
    given = {kind: getattr(arguments, kind) for kind in KINDS}
    return {kind: value for kind, value in given.items() if value is not None}


def names(text: str) -> tuple[str, ...]:
    """Names in a list.

    >>> names("image, audio")
    ('image', 'audio')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def task(text: str) -> str:
    """The task; its old words are understood."""
    if text in OLD_TASKS:
        warn(f"--task {text} is now --task {OLD_TASKS[text]}; the next release will refuse it")
    return OLD_TASKS.get(text, text)


def pair(text: str) -> tuple[str, str]:
    """A named value.

    >>> pair("xray=a.png")
    ('xray', 'a.png')
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def renamed(words: list[str]) -> list[str]:
    """The words of a line with today's options in place of old ones, and a warning for each.

    >>> renamed(["train", "m.csv", "--fusion", "gated"])
    ['train', 'm.csv', '--fusion', 'gated']
    """
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in OLD_OPTIONS:
            warn(f"{name} is now {OLD_OPTIONS[name]}; the next release will refuse it")
        found.append(OLD_OPTIONS.get(name, name) + equals + value)
    return found


def warn(text: str) -> None:
    """A line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def out_folder(arguments: argparse.Namespace) -> Path:
    """--out, or a new folder. --resume without --out is wrong usage."""
    out: Path | None = arguments.out
    if out is None and getattr(arguments, "resume", False):
        arguments.error("--resume needs --out: name the folder to go on with")
    return out or next_folder(arguments.parent)


def next_folder(parent: Path) -> Path:
    """The first of parent/1, parent/2, ... that does not exist."""
    return next(parent / str(i) for i in range(1, 1_000_000) if not (parent / str(i)).exists())
