"""The command line: train on a manifest, evaluate a saved model, predict with it. ``python -m mmlib --help`` teaches."""
import argparse
import json
import sys
from pathlib import Path

from mmlib import checkpoint, distributed, plots, recipes

HELP = """Models that see, read and hear, trained on files of your own.

A manifest is a CSV file with a header, one row a sample. Columns: image and audio (paths, relative to the manifest),
text, a target column, and split (train, val, test). Any of them may be absent, any cell may be empty: that sense is missing."""

TRAIN = """examples:
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets
  python -m mmlib train data/pets/manifest.csv --target label --use image,audio --fusion attention
  python -m mmlib train data/pets/manifest.csv --target label --text text_zh --out runs/zh
  python -m mmlib train data/pets/manifest.csv --target label --out runs/pets --resume    # after an interruption

OUT then holds checkpoint.pt, history.jsonl (a row per epoch), metrics.json, curve.png and, for classes, confusion.png.
On several GPUs the same line runs under torchrun: torchrun --nproc-per-node 4 -m mmlib train ..."""

EVALUATE = """example:
  python -m mmlib evaluate runs/pets data/pets/manifest.csv --split test"""

PREDICT = """examples:
  python -m mmlib predict runs/pets --image photo.jpg --text "it purrs" --audio voice.wav    # any of them may be left out
  python -m mmlib predict runs/pets new.csv                                                   # every row of a manifest"""


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    main = argparse.ArgumentParser(prog="python -m mmlib", description=HELP, epilog="exit codes: 0 done, 1 failed, 2 wrong usage", **style)
    commands = main.add_subparsers(dest="command", required=True, metavar="train | evaluate | predict")
    train = commands.add_parser("train", help="train a model on a manifest", description="Train a model on a manifest.",
                                epilog=TRAIN, **style)
    _add_train(train)

    evaluate = commands.add_parser("evaluate", help="score a saved model", epilog=EVALUATE, **style,
                                   description="Score a saved model on a split of a manifest; prints JSON.")
    evaluate.add_argument("folder", type=Path, help="the folder of a run")
    evaluate.add_argument("manifest", help="a CSV file with the same columns")
    evaluate.add_argument("--split", default="test", metavar="NAME", help="which rows (default: test)")

    predict = commands.add_parser("predict", help="ask a saved model", epilog=PREDICT, **style,
                                  description="Ask a saved model about one sample, or every row of a manifest; prints JSON.")
    predict.add_argument("folder", type=Path, help="the folder of a run")
    predict.add_argument("manifest", nargs="?", help="a CSV file; its target column, if any, is not read")
    for kind, what in (("image", "FILE"), ("text", "WORDS"), ("audio", "FILE")):
        predict.add_argument(f"--{kind}", metavar=what)
    predict.add_argument("--sense", action="append", default=[], type=pair, metavar="NAME=VALUE",
                         help="a sense of another name, e.g. --sense xray=a.png")

    for command in (train, evaluate):
        command.add_argument("--on-error", choices=("raise", "skip"), default="raise",
                             help="files that do not load: stop and list them, or go on without those rows")
    for command in (train, evaluate, predict):
        command.add_argument("--allow-outside", action="store_true", help="allow paths that leave the manifest's folder")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    return main


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("manifest", help="the CSV file")
    train.add_argument("--target", default="label", metavar="COL", help="the column to predict: classes or numbers (default: label)")
    train.add_argument("--use", type=names, metavar="SENSES", help="senses to use, e.g. image,audio (default: all there are)")
    for kind in ("image", "text", "audio"):
        train.add_argument(f"--{kind}", metavar="COL", help=f"the {kind} column (default: {kind}); A,B: two senses of those names")
    train.add_argument("--group", metavar="COL", help="rows of one group (a patient, a speaker) never stand in two splits")
    train.add_argument("--fusion", choices=sorted(recipes.FUSIONS), default="sum",
                       help="how the senses are brought together (default: sum, their evidence adds up)")
    train.add_argument("--epochs", type=count, metavar="N", help="passes over the training rows (default: a printed rule)")
    train.add_argument("--out", type=Path, metavar="DIR", help="where the run goes (default: runs/1, runs/2, ...)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out where it was stopped")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result (default: 0)")
    train.add_argument("--task", choices=("classes", "numbers"), help="what the target is (default: told from its values)")
    train.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on GPUs that have it")
    train.add_argument("--distributed", choices=("ddp", "fsdp"), default="ddp", help="how to share the work under torchrun")
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")


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


def train(arguments: argparse.Namespace) -> None:
    """The train command: trains, prints the scores, writes metrics.json and the figures into OUT."""
    kinds = ("image", "text", "audio")
    recipe = recipes.Recipe(
        arguments.manifest, arguments.out or next_folder(Path("runs")), arguments.target, arguments.task, arguments.use,
        {kind: getattr(arguments, kind) for kind in kinds if getattr(arguments, kind)}, arguments.group, arguments.fusion,
        epochs=arguments.epochs, seed=arguments.seed, resume=arguments.resume, on_error=arguments.on_error,
        allow_outside=arguments.allow_outside, device=arguments.device, precision=arguments.precision,
        distributed=arguments.distributed, tensorboard=arguments.tensorboard)
    run = recipes.train(recipe)
    if distributed.rank() > 0:
        return
    plots.save(run.history.plot(), recipe.out / "curve.png")
    if run.confusion is not None:
        plots.save(plots.confusion(run.confusion, run.predictor.classes), recipe.out / "confusion.png")
    text = json.dumps(run.metrics, indent=2)
    checkpoint.write_atomically(recipe.out / "metrics.json", lambda file: file.write(f"{text}\n".encode()))  # last: all is done
    print(text)
    print(f"wrote {recipe.out}")


def next_folder(parent: Path) -> Path:
    """runs/1, or the first number that is not taken."""
    return next(parent / str(i) for i in range(1, 1_000_000) if not (parent / str(i)).exists())


def evaluate(arguments: argparse.Namespace) -> None:
    """The evaluate command."""
    predictor = recipes.load(arguments.folder, arguments.device)
    print(json.dumps(predictor.evaluate(arguments.manifest, arguments.split, arguments.on_error, arguments.allow_outside), indent=2))


def predict(arguments: argparse.Namespace) -> None:
    """The predict command: one sample gives a JSON object, a manifest a JSON array with a line per row."""
    predictor = recipes.load(arguments.folder, arguments.device)
    senses = dict(arguments.sense) | {kind: value for kind in ("image", "text", "audio") if (value := getattr(arguments, kind)) is not None}
    if arguments.manifest is None:
        print(json.dumps(predictor.predict(**senses), ensure_ascii=False))
        return
    answers = predictor.predict_manifest(arguments.manifest, arguments.allow_outside)
    print("[\n" + ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers) + "\n]")


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed (the reason on stderr), 2 wrong usage."""
    commands = parser()
    arguments = commands.parse_args(argv)
    if arguments.command == "train" and arguments.resume and arguments.out is None:
        commands.error("--resume needs --out: which run is to go on?")
    if arguments.command == "predict":
        single = bool(arguments.sense) or any(getattr(arguments, kind) is not None for kind in ("image", "text", "audio"))
        if single == (arguments.manifest is not None):
            commands.error("predict takes either a manifest, or one sample by --image, --text, --audio or --sense")
    try:
        {"train": train, "evaluate": evaluate, "predict": predict}[arguments.command](arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"mmlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mmlib: interrupted; what was saved stays, go on with the same line and --resume", file=sys.stderr)
        return 1
    return 0
