"""An exported model: onnxruntime answers as torch does, the client as the Predictor does."""

import importlib
import itertools
import json
import logging
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

from mmlib import Backbone, Model, Recipe, SumFusion, TwoTower, classify, export, recipes
from mmlib.core import Features, Output, from_tokens
from mmlib.recipes.recurrence import OnnxRecurrent
from mmlib.recipes.saved import sample
from mmlib.worlds import pets
from tests.combinations import COVER, ENCODERS, FEW, K, Words, build, make_batch

exporting = importlib.import_module("mmlib.recipes.export")
NAMES = ["audio", "image", "text"]
SUBSETS = [set(names) for size in range(4) for names in itertools.combinations(NAMES, size)]


@pytest.fixture(scope="module")
def packages():
    for name in (*exporting.PACKAGES, "safetensors"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra export)")


@pytest.fixture(scope="module")
def pet(packages, tmp_path_factory):
    """The default recipe's model of three modalities, its Predictor, what export said, files."""
    folder = tmp_path_factory.mktemp("export")
    pets.write(pets.draw(48), folder)
    quiet = {"device": "cpu", "progress": False, "log": lambda line: None}
    predictor = classify(Recipe(folder / "manifest.csv", epochs=2, **quiet)).predictor
    fitted = predictor.preprocessing
    predictor.model.train()  # export must not care, and must not change it
    batch = fitted.batch([sample(fitted)] * 2)
    done = export(predictor.model, batch, folder / "pet.onnx", fitted, weights=True)
    assert predictor.model.training
    predictor.model.eval()
    return folder, predictor, done


@pytest.fixture(scope="module")
def client(pet):
    """The client that was written beside the model, which never sees mmlib or torch."""
    return runpy.run_path(str(pet[0] / "pet.py"))["Client"](pet[0] / "pet.onnx")


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@torch.no_grad()
def difference(model, onnx, batch):
    """The largest difference of the logits; relative where they are above 1."""
    want = model(batch).logits.numpy()
    got = onnx.run(["logits"], {one.name: batch[one.name].numpy() for one in onnx.get_inputs()})[0]
    assert got.shape == want.shape
    return float((np.abs(got - want) / np.maximum(1, np.abs(want))).max())


def make(rows, words, samples, height, width, there):
    """A ragged batch in which every row has the modalities ``there``."""
    g = torch.Generator().manual_seed(rows + words + samples + width)
    until = lambda longest: (
        torch.arange(longest) < torch.randint(1, longest + 1, (rows, 1), generator=g)
    )
    batch = {
        "audio": torch.rand(rows, samples, generator=g) - 0.5,
        "audio_mask": until(samples),
        "image": torch.randn(rows, 3, height, width, generator=g),
        "image_mask": torch.ones(rows, width, dtype=torch.bool),
        "text": torch.randint(1, 20, (rows, words), generator=g),
        "text_mask": until(words),
    }
    for name in set(NAMES) - there:
        batch[name], batch[f"{name}_mask"] = batch[name] * 0, batch[f"{name}_mask"] & False
    return batch


@pytest.mark.parametrize("there", SUBSETS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_every_subset_batch_size_and_length_answers_as_in_torch(pet, there):
    folder, predictor, _ = pet
    onnx = session(folder / "pet.onnx")
    for rows, words, samples, height, width in (
        (1, 1, 1, 64, 64),
        (2, 2, 160, 64, 64),
        (3, 9, 161, 64, 64),
        (1, 40, 64_000, 96, 32),
        (7, 3, 2_000, 33, 50),
    ):
        batch = make(rows, words, samples, height, width, there)
        assert difference(predictor.model, onnx, batch) <= 1e-5


def test_rows_that_lack_different_modalities_stand_in_one_batch(pet):
    parts = [make(1, 6, 3_000, 64, 64, there) for there in SUBSETS]
    batch = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    assert difference(pet[1].model, session(pet[0] / "pet.onnx"), batch) <= 1e-5


def test_inputs_are_named_as_the_keys_of_a_batch_and_their_free_axes_too(pet):
    folder, _, done = pet
    expected = {
        "audio": ["batch", "audio_length"],
        "audio_mask": ["batch", "audio_length"],
        "image": ["batch", 3, "image_height", "image_width"],
        "image_mask": ["batch", "image_width"],
        "text": ["batch", "text_length"],
        "text_mask": ["batch", "text_length"],
    }
    onnx = session(folder / "pet.onnx")
    assert {one.name: one.shape for one in onnx.get_inputs()} == done.inputs == expected
    assert [(one.name, one.shape) for one in onnx.get_outputs()] == [("logits", ["batch", 2])]


def test_the_preprocessing_stands_beside_the_model_and_in_it(pet):
    folder, predictor, done = pet
    about = json.loads((folder / "pet.json").read_text())
    inside = session(folder / "pet.onnx").get_modelmeta().custom_metadata_map["mmlib"]
    assert about == json.loads(inside)
    assert (about["kind"], about["probabilities"]) == ("classes", "softmax")
    assert about["preprocessing"] == json.loads(json.dumps(predictor.preprocessing.state()))
    assert done.files == [folder / f"pet.{end}" for end in ("onnx", "json", "py", "safetensors")]
    assert done.difference <= 1e-5


def test_the_safetensors_are_the_weights_under_their_names(pet):
    from safetensors.torch import load_file

    saved, own = load_file(pet[0] / "pet.safetensors"), pet[1].model.state_dict()
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[name], value) for name, value in own.items())


def agree(pet, client, **modalities):
    want, got = pet[1].predict(**modalities), client.predict(**modalities)
    assert got["class"] == want["class"]
    assert got["probabilities"] == pytest.approx(want["probabilities"], abs=1e-5)


@pytest.mark.parametrize("there", SUBSETS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_the_client_answers_about_files_as_the_predictor(pet, client, there):
    for row in range(3):
        modalities = {
            "image": str(pet[0] / f"images/{row:05}.png"),
            "audio": str(pet[0] / f"audio/{row:05}.flac"),
            "text": ["It doesn’t purr!", "ＷＩＤＥ 猫 ０", "..."][row],
        }
        agree(pet, client, **{name: modalities[name] for name in sorted(there)})


def test_the_client_reads_pictures_of_every_mode_turn_and_shape(pet, client, tmp_path):
    draw = np.random.default_rng(0)
    photo = Image.fromarray(draw.integers(0, 256, (300, 190, 3), np.uint8))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        photo.resize((50, 33)).save(tmp_path / "turned.png", exif=exif)
        agree(pet, client, image=tmp_path / "turned.png")
        photo.save(tmp_path / "turned.jpg", exif=exif)  # larger: decoded by draft, reduced
        agree(pet, client, image=tmp_path / "turned.jpg")
    for mode in ("L", "1", "P", "RGBA", "LA", "CMYK"):
        photo.convert("RGBA" if mode in ("RGBA", "LA") else "RGB").convert(mode).save(
            tmp_path / "mode.tiff"
        )
        agree(pet, client, image=tmp_path / "mode.tiff")
    transparent = np.dstack([np.asarray(photo), draw.integers(0, 256, (300, 190), np.uint8)])
    agree(pet, client, image=transparent)
    agree(pet, client, image=np.asarray(photo.convert("L")))
    Image.fromarray(draw.integers(0, 4096, (20, 20), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        client.predict(image=tmp_path / "deep.png")


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.3, 4.0, 9.7])
def test_the_client_resamples_mixes_and_cuts_long_sounds(pet, client, tmp_path, rate, seconds):
    time = np.arange(int(rate * seconds)) / rate
    swept = 0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time).astype(np.float32)
    both = np.stack([swept, swept[::-1]], axis=1)
    soundfile.write(tmp_path / "clip.wav", both, rate)
    text = "it purrs"  # comes again with every window
    agree(pet, client, audio=tmp_path / "clip.wav", text=text)
    agree(pet, client, audio=(both, rate), text=text)
    agree(pet, client, audio=np.zeros(100))


def test_the_client_is_a_program_and_names_what_it_does_not_know(pet, client, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pet.py", "text=it barks=loudly"])
    runpy.run_path(str(pet[0] / "pet.py"), run_name="__main__")
    assert json.loads(capsys.readouterr().out) == client.predict(text="it barks=loudly")
    with pytest.raises(ValueError, match=r"unknown \['smell'\]; this model has \['audio', "):
        client.predict(smell="wet")


@pytest.fixture(scope="module")
def tagged(packages, tmp_path_factory):
    """A Predictor of labels from a table and a text, its exported client, what torch logged."""
    folder = tmp_path_factory.mktemp("tagged")
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"text": [f"{a} {b}" for a, b in draw.choice(["red", "blue"], (80, 2))]})
    table["age"] = [str(age) if age else "" for age in draw.integers(0, 9, 80)]
    table["same"], table["colour"] = "7", draw.choice(["x", "y", ""], 80)
    table["tags"] = [";".join(sorted(set(text.split()))) for text in table["text"]]
    recipe = Recipe(
        table,
        target="tags",
        task="labels",
        table="age,colour,same",
        epochs=2,
        device="cpu",
        progress=False,
        log=lambda line: None,
    )
    predictor = recipes.train(recipe).predictor
    fitted = predictor.preprocessing
    said, handler = [], logging.Handler()
    handler.emit = said.append
    talkers = [logging.getLogger(name) for name in exporting.TALKERS]
    for talker in talkers:
        talker.addHandler(handler)
    export(predictor.model, fitted.batch([sample(fitted)] * 2), folder / "tags.onnx", fitted)
    for talker in talkers:
        talker.removeHandler(handler)
    client = runpy.run_path(str(folder / "tags.py"))["Client"](folder / "tags.onnx")
    return predictor, client, said


def test_torch_says_nothing_of_its_own_while_it_exports(tagged):
    assert [record.getMessage() for record in tagged[2]] == []


@pytest.mark.parametrize(
    "values",
    [
        {"age": 3, "colour": "x", "same": 7},
        {"age": "1000", "colour": "never seen"},
        {"same": 12.5, "age": None},
        {},
        None,
    ],
    ids=str,
)
def test_the_client_answers_about_tables_and_labels_as_the_predictor(tagged, values):
    predictor, client, _ = tagged
    for text in ("red blue", None):
        want, got = (one.predict(table=values, text=text) for one in (predictor, client))
        assert got["labels"] == want["labels"]
        assert got["probabilities"] == pytest.approx(want["probabilities"], abs=1e-5)
    line = ",".join(f"{column}={value}" for column, value in (values or {}).items() if value)
    assert client.predict(table=line) == client.predict(table=values)
    with pytest.raises(ValueError, match=r"no columns \['size'\]; the table has \['age', "):
        client.predict(table={"size": 3})


class Stacks(nn.Module):
    """Every kind of torch's recurrent layer, reading one sequence: the sum of their outputs and
    last states.
    """

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(K, 6)
        self.layers = nn.ModuleList(
            [
                nn.LSTM(6, 4, 2, bidirectional=True, batch_first=True),
                nn.GRU(6, 4, 2, bidirectional=True, batch_first=True),
                nn.RNN(6, 8, nonlinearity="relu", batch_first=True, bias=False),
                nn.RNN(6, 8, batch_first=True),
                nn.GRU(6, 8, bias=False, batch_first=True),
            ]
        )

    def forward(self, x, mask):
        tokens = []
        for layer in self.layers:
            y, state = layer(self.embed(x))
            last = state[0] + state[1] if isinstance(state, tuple) else state
            tokens.append(y + last.mean(dim=(0, 2))[:, None, None])
        return from_tokens(torch.stack(tokens).sum(dim=0), mask)


class Mean(nn.Module):
    """Logits = the mean token."""

    kind = "classes"

    def forward(self, features: Features, batch):
        return Output(features.pooled, None, None)


def words(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, K, (rows, length), generator=torch.Generator().manual_seed(length))
    return {"text": ids, "text_mask": torch.ones(rows, length, dtype=torch.bool)}


class First(nn.Module):
    """The only features, as a fusion."""

    def forward(self, features):
        return next(iter(features.values()))


@pytest.fixture
def recurrent():
    torch.manual_seed(0)
    return Model(Backbone({"text": Stacks()}, First()), Mean()).eval()


def test_recurrent_layers_of_every_kind_and_depth_read_any_length(packages, recurrent, tmp_path):
    done = export(recurrent, words(2, 5), tmp_path / "stacks.onnx")
    assert done.inputs["text"] == ["batch", "text_length"] and len(done.files) == 2
    onnx = session(tmp_path / "stacks.onnx")
    for rows, length in ((1, 1), (1, 5), (4, 2), (2, 31)):
        assert difference(recurrent, onnx, words(rows, length)) <= 1e-5


def test_a_wrong_order_of_the_gates_is_found_by_the_check_and_nothing_is_written(
    packages, recurrent, tmp_path, monkeypatch
):
    monkeypatch.setitem(OnnxRecurrent.GATES, "LSTM", [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"the graph differs from the model by .*'text': \(2, 5\)"):
        export(recurrent, words(2, 5), tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


class Loop(nn.Module):
    """A recurrence that the exporter writes out for the length of the sample."""

    def forward(self, x, mask):
        state = torch.zeros(x.shape[0], 4)
        for step in torch.nn.functional.one_hot(x, K)[..., :4].float().unbind(dim=1):
            state = torch.tanh(state + step)
        return from_tokens(state[:, None], mask.any(dim=1, keepdim=True))


class Choice(nn.Module):
    def forward(self, x, mask):
        scale = 2.0 if bool((x > 3).any()) else 1.0
        return from_tokens(scale * torch.ones(*x.shape, 4), mask)


def test_what_has_no_graph_is_refused_by_name_with_the_reason(packages, tmp_path):
    path, one = tmp_path / "no.onnx", words(3, 4)
    only = lambda encoder: Model(Backbone({"text": encoder}, First()), Mean())
    with pytest.raises(ValueError, match=r"backbone\.encoders\.text \(Choice\) has no ONNX graph"):
        export(only(Choice()), one, path)
    with pytest.raises(ValueError, match="LanguageHead has no logits without a target: it writes"):
        export(build("tiny", "join", "prefix"), make_batch("tiny", "prefix"), path)
    tower = lambda name: Backbone({name: Words()}, SumFusion(8, [name]))
    both = one | {"other": one["text"], "other_mask": one["text_mask"]}
    with pytest.raises(ValueError, match="TwoTower compares the rows of a batch"):
        export(TwoTower(tower("text"), tower("other")), both, path)
    with pytest.raises(ValueError, match=r"text\.0 is an LSTM with proj_size=2"):
        export(only(nn.Sequential(nn.LSTM(4, 4, proj_size=2))), one, path)
    with pytest.raises(ValueError, match=r"the batch lacks \['text_mask'\]"):
        export(only(Words()), {"text": one["text"]}, path)
    with pytest.raises(ValueError, match="sample is empty"):
        export(only(Words()), {}, path)
    assert not list(tmp_path.iterdir())


class Wide(nn.Module):
    """Reads four words, no more and no fewer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask):
        return from_tokens(self.linear(x.float())[:, None], mask.any(dim=1, keepdim=True))


def test_a_length_may_be_fixed_by_the_model_not_by_the_export(packages, tmp_path):
    only = lambda encoder: Model(Backbone({"text": encoder}, First()), Mean())
    fixed = export(only(Wide()), words(2, 4), tmp_path / "wide.onnx")
    assert fixed.inputs["text"] == ["batch", 4]
    with pytest.raises(ValueError, match=r"keeps axis 1 of batch\['text'\] at 5, where the model"):
        export(only(Loop()), words(2, 5), tmp_path / "loop.onnx")
    assert not (tmp_path / "loop.onnx").exists()


def test_what_is_not_installed_is_named_before_anything_is_read(monkeypatch):
    absent = lambda name: None if name in ("onnxruntime", "safetensors") else object()
    monkeypatch.setattr(exporting, "find_spec", absent)
    with pytest.raises(ImportError, match=r"export needs onnxruntime, not .*'mmlib\[export\]'"):
        export(None, None, "no.onnx")
    with pytest.raises(ImportError, match="export needs onnxruntime, safetensors, not"):
        export(None, None, "no.onnx", weights=True)


GRID = [("tiny", *pair) for pair in COVER] + [
    (encoders, *pair) for encoders in ENCODERS if encoders != "tiny" for pair in FEW
]


@pytest.mark.long
@pytest.mark.parametrize(
    "encoders,fusion,head",
    [combo for combo in dict.fromkeys(GRID) if combo[2] not in ("prefix", "cross")],
)
def test_every_encoder_fusion_and_head_is_exported(packages, encoders, fusion, head, tmp_path):
    model, batch = build(encoders, fusion, head), make_batch(encoders, head)
    done = export(model, batch, tmp_path / "model.onnx")
    assert done.difference <= 1e-5
    for name, shape in done.inputs.items():
        assert shape[0] == "batch" and isinstance(shape[-1], str), name


@pytest.mark.long
@pytest.mark.parametrize("names", [sorted(s) for s in SUBSETS if 0 < len(s) < 3], ids="+".join)
def test_the_default_recipe_of_one_and_two_modalities_is_exported(packages, pet, names, tmp_path):
    quiet = {"device": "cpu", "progress": False, "log": lambda line: None}
    recipe = Recipe(pet[0] / "manifest.csv", epochs=1, use=names, **quiet)
    predictor = classify(recipe).predictor
    fitted = predictor.preprocessing
    export(predictor.model, fitted.batch([sample(fitted)] * 2), tmp_path / "part.onnx", fitted)
    onnx = session(tmp_path / "part.onnx")
    for there, rows in itertools.product(SUBSETS, (1, 4)):
        batch = make(rows, 3 * rows, 5_000 * rows, 64, 64, there)
        assert difference(predictor.model, onnx, batch) <= 1e-5
