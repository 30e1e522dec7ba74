"""A Predictor asks the model for no more than it needs; its answers are those of ``collect``."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mmlib import Recipe, classify, collect, recording
from mmlib.encoders import ConvEncoder, RecurrentEncoder, TransformerEncoder
from mmlib.heads import ClassifyHead
from mmlib.models import Backbone, Model
from mmlib.recipes.plan import FUSIONS
from mmlib.recipes.predictor import forward_present
from mmlib.worlds import pets

NAMES = ("audio", "image", "text")
SUBSETS = [names for size in range(4) for names in combinations(NAMES, size)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    pets.write(pets.draw(48), folder)
    recipe = Recipe(folder / "manifest.csv", epochs=1, device="cpu", log=lambda line: None)
    return classify(recipe).predictor


def sample(seed: int, seconds: float = 0.3) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (20, 30, 3), dtype=np.uint8),
        "text": "It purrs.",
        "audio": rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32),
    }


def only(names: tuple[str, ...], given: dict) -> dict:
    return {name: value for name, value in given.items() if name in names}


@pytest.fixture
def called(predictor, monkeypatch):
    """The encoders that were run, without a hook."""
    names: list[str] = []
    for name, encoder in predictor.model.backbone.encoders.items():

        def forward(*given, name=name, run=encoder.forward):
            names.append(name)
            return run(*given)

        monkeypatch.setattr(encoder, "forward", forward)
    return names


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_absent_modalities_are_not_encoded_and_the_answers_are_the_same(predictor, called, names):
    samples = [only(names, sample(i)) for i in range(3)]
    logits = collect(predictor.model, [predictor.preprocessing.batch(samples)], "cpu")[0]
    called.clear()
    answers = predictor.answers(samples)
    assert sorted(called) == sorted(names or NAMES)
    for answer, row in zip(answers, logits.softmax(dim=1), strict=True):
        found = list(answer["probabilities"].values())
        assert found == pytest.approx(row.tolist(), abs=1e-6) and set(answer["modalities"]) == {
            *names
        }


def test_a_modality_that_one_row_has_is_encoded(predictor, called):
    predictor.answers([only(("text",), sample(0)), only(("image",), sample(1))])
    assert sorted(called) == ["image", "text"]


def test_whoever_watches_the_model_sees_every_encoder(predictor):
    seen, text = [], only(("text",), sample(0))
    plain = predictor.predict(**text)
    conv = predictor.model.backbone.encoders["image"].stack.convs[0]
    hook = conv.register_forward_hook(lambda conv, given, y: seen.append(y))
    watched = predictor.predict(**text)
    hook.remove()
    size = predictor.preprocessing.sizes["image"]
    assert seen[0].shape == (1, conv.out_channels, size, size)
    probe = torch.nn.Linear(size, 1)
    probe(seen[0]).sum().backward()  # what was seen can be used in training
    assert watched["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-6)
    predictor.predict(**text)
    assert len(seen) == 1


def two_senses(fusion: str) -> tuple[Model, dict]:
    torch.manual_seed(0)
    encoders = {
        "image": ConvEncoder(8, width=8, stages=1),
        "query": TransformerEncoder(8, 20, depth=1, heads=2),
        "text": RecurrentEncoder(8, 20),
    }
    model = Model(Backbone(encoders, FUSIONS[fusion](8, list(encoders))), ClassifyHead(8, 3))
    batch = {"image": torch.randn(2, 3, 8, 8), "image_mask": torch.ones(2, 8, dtype=torch.bool)}
    for name in ("query", "text"):
        batch |= {name: torch.randint(1, 20, (2, 5)), f"{name}_mask": torch.ones(2, 5).bool()}
    return model.eval(), batch


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("absent", [["image"], ["image", "text"], ["query"]], ids="+".join)
def test_every_fusion_gives_the_same_without_running_absent_encoders(fusion, absent):
    model, batch = two_senses(fusion)
    for name in absent:
        batch[f"{name}_mask"][:] = False
        batch[name] = torch.zeros_like(batch[name])
    with torch.no_grad():
        found = forward_present(model, batch, absent).logits
        torch.testing.assert_close(found, model(batch).logits, rtol=1e-5, atol=1e-6)


def test_recording_sees_the_weights_of_absent_encoders_too():
    model, batch = two_senses("sum")
    batch["query_mask"][:] = False
    attention = model.backbone.encoders["query"].transformer.blocks[0].attention
    with recording(model), torch.no_grad():
        forward_present(model, batch, ["query"])
    assert attention.weights.shape == (2, 2, 5, 5) and not attention.weights.any()


def test_a_model_class_of_your_own_is_asked_as_it_is():
    class Own(Model):
        def forward(self, batch):
            return super().forward(batch)._replace(logits=torch.tensor(3.0))

    model, batch = two_senses("sum")
    own = Own(model.backbone, model.head)
    assert forward_present(own, batch, ["image"]).logits == 3


def test_clips_of_several_windows_give_one_answer_a_row_as_collect_gives_it(predictor):
    samples = [only(("audio", "text"), sample(i, seconds)) for i, seconds in enumerate([9, 1, 5])]
    logits = collect(predictor.model, [predictor.preprocessing.batch(samples)], "cpu")[0]
    found = [list(answer["probabilities"].values()) for answer in predictor.answers(samples)]
    torch.testing.assert_close(torch.tensor(found), logits.softmax(dim=1), rtol=0, atol=1e-6)


def test_prediction_moves_nothing_and_leaves_modes_as_they_were(predictor, monkeypatch):
    model, given = predictor.model, sample(0)
    expected = predictor.predict(**given)
    dropout = model.backbone.encoders["image"].stack.dropout
    dropout.train()
    monkeypatch.setattr(model, "to", None)
    assert predictor.predict(**given) == expected and dropout.training and not model.training
    dropout.eval()
    monkeypatch.setattr(model, "eval", None)
    assert predictor.predict(**given) == expected
