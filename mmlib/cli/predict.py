"""The commands of a saved model: evaluate (how good is it?) and predict (what is this?)."""

import argparse
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlib.cli import arguments as shared
from mmlib.cli.arguments import Commands
from mmlib.cli.scores import line

if TYPE_CHECKING:
    from mmlib.recipes import Predictor

EVALUATE = """example:
  python -m mmlib evaluate runs/pets data/pets/manifest.csv --split test"""
PREDICT = """examples:
  python -m mmlib predict runs/pets --image photo.jpg --text "it purrs" --audio voice.wav
  python -m mmlib predict runs/pets new.csv --out answers.csv

Any modality may be left out. For a manifest the answers are a CSV, on stdout or in --out, with a
line for each row of the manifest, in the same order. Its columns are row (1, 2, ...); class and
probability_NAME for each class, or labels (red;round) and probability_NAME for each label, or value
for a regression; modalities (those that the row has); and
error (with --on-error skip, why the row has no answer)."""
LIKELIEST = 10  # classes shown for one sample


def add_commands(commands: Commands) -> None:
    """Add evaluate and predict to the commands."""
    for command in (_add_evaluate(commands), _add_predict(commands)):
        shared.add_on_error(command)
        shared.add_outside(command)
        shared.add_device(command)
        shared.add_json(command)


def _add_evaluate(commands: Commands) -> argparse.ArgumentParser:
    evaluated = shared.add_command(
        commands,
        "evaluate",
        evaluate,
        help="score a saved model",
        description="Score a saved model on a split of a manifest.",
        epilog=EVALUATE,
    )
    evaluated.add_argument("folder", type=Path, help="the folder of a run")
    evaluated.add_argument("manifest", help="a CSV file with the same columns")
    evaluated.add_argument(
        "--split", default="test", metavar="NAME", help="which rows (default: test); all: every row"
    )
    return evaluated


def _add_predict(commands: Commands) -> argparse.ArgumentParser:
    predicted = shared.add_command(
        commands,
        "predict",
        predict,
        help="predict with a saved model",
        description="Predict the target of one sample, or of every row of a manifest.",
        epilog=PREDICT,
    )
    predicted.add_argument("folder", type=Path, help="the folder of a run")
    predicted.add_argument(
        "manifest", nargs="?", help="a CSV file; its target column, if any, is not read"
    )
    for kind, what in zip(shared.KINDS, ("FILE", "WORDS", "FILE", "A=1,B=2"), strict=True):
        predicted.add_argument(f"--{kind}", metavar=what, help=f"the {kind} of one sample")
    predicted.add_argument(
        "--modality",
        action="append",
        default=[],
        type=shared.pair,
        metavar="NAME=VALUE",
        help="the same for a modality of another name, e.g. --modality xray=a.png",
    )
    predicted.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a new file for the answers to a manifest (default: they are printed)",
    )
    return predicted


def evaluate(arguments: argparse.Namespace) -> int:
    """Print the scores on a split."""
    from mmlib.files import as_json
    from mmlib.recipes import load

    scores = load(arguments.folder, arguments.device).evaluate(
        arguments.manifest, arguments.split, arguments.on_error, arguments.allow_outside
    )
    print(as_json(scores, indent=2) if arguments.json else line(arguments.split, scores))
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Print the answer to one sample, or those to the rows of a manifest."""
    modalities = given(arguments)
    if bool(modalities) == (arguments.manifest is not None):
        arguments.error(
            "predict takes either a manifest, or one sample with --image, --text, --audio, "
            "--table or --modality"
        )
    if arguments.out is not None and arguments.manifest is None:
        arguments.error("--out is for the answers to a manifest, and no manifest is given")
    from mmlib.files import as_json
    from mmlib.recipes import load

    if arguments.out is not None and arguments.out.exists():
        raise ValueError(f"{arguments.out} exists: give --out another name, or remove the file")
    predictor = load(arguments.folder, arguments.device)
    if arguments.manifest is not None:
        return _predict_manifest(predictor, arguments)
    answer = predictor.predict(**modalities)
    assert isinstance(answer, dict)  # of one sample; lists get lists
    print(as_json(answer, ensure_ascii=False) if arguments.json else in_words(answer))
    return 0


def _predict_manifest(predictor: "Predictor", arguments: argparse.Namespace) -> int:
    from mmlib.files import as_json, write_atomically

    answers = predictor.predict_manifest(
        arguments.manifest, arguments.allow_outside, arguments.on_error
    )
    if arguments.json:
        lines = [as_json(answer, ensure_ascii=False) for answer in answers]
        text = "[\n" + ",\n".join(lines) + "\n]\n"
    else:
        text = as_csv(answers, predictor.classes, predictor.labels)
    if arguments.out is None:
        print(text, end="")
        return 0
    write_atomically(arguments.out, lambda file: file.write(text.encode()))
    failed = sum("error" in answer for answer in answers)
    without = f", {failed:,} of them without an answer" if failed else ""
    print(f"wrote {arguments.out}: {len(answers):,} rows{without}")
    return 0


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The modalities of one sample."""
    found: dict[str, Any] = dict(arguments.modality) | shared.by_kind(arguments)
    if "table" in found:
        found["table"] = cells(found["table"])
    return found


def cells(text: str) -> dict[str, str]:
    """The cells of a table's columns.

    >>> cells("age=3,colour=red, dark,weight=2.5")
    {'age': '3', 'colour': 'red, dark', 'weight': '2.5'}
    """
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]*=)", text)]
    if not all(equals for _, equals, _ in parts):
        raise ValueError(f"--table {text!r}: write the cell of each column, as in age=3,colour=red")
    return {name.strip(): value.strip() for name, _, value in parts}


def in_words(answer: dict[str, Any]) -> str:
    """The answer to one sample, for a person.

    >>> print(in_words({"class": "dog", "probabilities": {"cat": 0.12, "dog": 0.88},
    ...     "modalities": ["image"]}))
    class          dog
    probabilities  dog 0.880, cat 0.120
    modalities     image
    """
    seen = ", ".join(answer["modalities"]) or "none: this is what the training rows say"
    if "value" in answer:
        return f"value          {answer['value']:.6g}\nmodalities     {seen}"
    likeliest = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {share:.3f}" for name, share in likeliest[:LIKELIEST])
    if len(likeliest) > LIKELIEST:
        shares += f", ... ({len(likeliest) - LIKELIEST} more with --json)"
    what, name = "class", answer.get("class")
    if "labels" in answer:
        what, name = "labels", "; ".join(answer["labels"]) or "none"
    return f"{what:14} {name}\nprobabilities  {shares}\nmodalities     {seen}"


def as_csv(
    answers: Sequence[dict[str, Any]],
    classes: Sequence[str] | None,
    labels: Sequence[str] | None = None,
) -> str:
    """A header, and a line for each answer in the same order.

    >>> print(as_csv([{"value": 2.5, "modalities": ["image", "text"]}, {"error": "no file"}], None))
    row,value,modalities,error
    1,2.5,image text,
    2,,,no file
    <BLANKLINE>
    """
    shares = [f"probability_{name}" for name in labels or classes or ()]
    first = "value" if not shares else "class" if labels is None else "labels"
    columns = ["row", first, *shares]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*columns, "modalities", "error"])
    for row, answer in enumerate(answers, 1):
        if "error" in answer:
            cells = [""] * (len(columns) - 1)
        elif not shares:
            cells = [answer["value"]]
        else:
            given = answer["class"] if labels is None else ";".join(answer["labels"])
            cells = [given, *(f"{p:.6g}" for p in answer["probabilities"].values())]
        seen = " ".join(answer.get("modalities", ()))
        writer.writerow([row, *cells, seen, answer.get("error", "")])
    return table.getvalue()
