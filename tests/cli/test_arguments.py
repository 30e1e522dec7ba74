"""From options to a Recipe: the same names and defaults on both sides, and old words understood."""

import pytest

from mmlib import recipes
from mmlib.cli import arguments as shared
from mmlib.cli import train
from mmlib.cli.main import main, parser
from mmlib.data import Augment, modalities, targets
from mmlib.recipes import Recipe


def parsed(*words):
    return parser().parse_args(list(words))


def test_without_options_train_asks_for_what_recipe_does():
    assert train.recipe(parsed("train", "m.csv")) == Recipe("m.csv")


@pytest.mark.parametrize("command", ["train", "report", "tune"])
def test_every_option_reaches_the_recipe(command):
    words = "--target a --task regression --use image,b --image x --text b,c --audio s --group g"
    words += " --fusion gated --batch-size 8 --budget 0.5 --epochs 3 --seed 4 --on-error skip"
    words += " --allow-outside --device cpu --precision bf16"
    asked = shared.recipe(parsed(command, "m.csv", *words.split()))
    assert asked == Recipe(
        "m.csv",
        target="a",
        task="regression",
        use=("image", "b"),
        columns={"image": "x", "text": "b,c", "audio": "s"},
        group="g",
        fusion="gated",
        batch_size=8,
        budget=0.5,
        epochs=3,
        seed=4,
        on_error="skip",
        allow_outside=True,
        device="cpu",
        precision="bf16",
    )


def test_every_option_of_train_alone_reaches_the_recipe():
    words = "--out r --resume --distributed fsdp --tensorboard --dim 8 --lr 0.1 --dropout 0.3"
    asked = train.recipe(parsed("train", "m.csv", *words.split(), "--modality-dropout", "0.2"))
    assert (str(asked.out), asked.resume, asked.distributed, asked.tensorboard) == (
        "r",
        True,
        "fsdp",
        True,
    )
    assert (asked.dim, asked.lr, asked.dropout) == (8, 0.1, 0.3)
    assert asked.augment == Augment(modality_dropout=0.2)


def test_fusions_kinds_and_tasks_are_those_of_the_package():
    assert list(shared.FUSIONS) == sorted(recipes.FUSIONS)
    assert (shared.KINDS, shared.TASKS) == (modalities.KINDS, targets.TASKS)


@pytest.mark.parametrize(
    "old, new",
    [
        (["predict", "d", "--sense", "xray=a.png"], ["predict", "d", "--modality", "xray=a.png"]),
        (["predict", "d", "--sense=x=a=b"], ["predict", "d", "--modality=x=a=b"]),
        (["train", "m.csv", "--hide", "0.2"], ["train", "m.csv", "--modality-dropout", "0.2"]),
        (["train", "m.csv", "--hide=0.2"], ["train", "m.csv", "--modality-dropout=0.2"]),
        (["train", "m.csv", "--task", "classes"], ["train", "m.csv", "--task", "classification"]),
        (["train", "m.csv", "--task", "numbers"], ["train", "m.csv", "--task", "regression"]),
    ],
)
def test_old_words_are_understood_and_a_warning_names_the_new_one(capsys, old, new):
    expected = vars(parsed(*shared.renamed(new)))
    assert capsys.readouterr().err == ""
    assert {**vars(parsed(*shared.renamed(old))), "error": 0} == {**expected, "error": 0}
    said = capsys.readouterr().err
    name = new[2].split("=")[0] + (f" {new[3]}" if "--task" in new else "")
    assert said.startswith("warning: ") and f"is now {name}" in said


def test_the_command_line_warns_of_old_words(capsys):
    assert main(["train", "nothing.csv", "--hide", "0.1"]) == 1
    assert "--hide is now --modality-dropout" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "tune"])
def test_resume_needs_the_folder_to_go_on_with(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command, "m.csv", "--resume"])
    assert "--resume needs --out: name the folder to go on with" in capsys.readouterr().err


def test_the_next_folder_is_the_first_that_is_not_there(tmp_path):
    assert shared.next_folder(tmp_path) == tmp_path / "1"
    (tmp_path / "1").mkdir()
    assert shared.next_folder(tmp_path) == tmp_path / "2"
