"""What the benchmarks compare is the same: the two forms of the network give the same results,
forward and gradient.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import network  # noqa: E402

from mmlib import TrainConfig, fit  # noqa: E402


def pair():
    """The plain form and ours, with the same weights."""
    torch.manual_seed(0)
    plain, ours = network.Plain(), network.Ours()
    ours.load_state_dict(
        {name: value for name, value in plain.state_dict().items() if not name.startswith("lstm")},
        strict=False,
    )
    ours.take(plain.lstm)
    return plain, ours


def gradients(model):
    """By name, the two directions of a bidirectional layer as two layers."""
    found = {}
    for name, parameter in model.named_parameters():
        if name.startswith(("lstm.w", "lstm.b")):
            direction = int(name.endswith("_reverse"))
            name = f"lstm.{direction}." + name.removeprefix("lstm.").removesuffix("_reverse")
        found[name] = parameter.grad
    return found


@pytest.mark.parametrize("size", [8, 16])
def test_both_forms_of_the_network_compute_the_same_forward_and_gradient(size):
    plain, ours = pair()
    batch = network.batches(size, 1)[0]
    outputs = [model(batch) for model in (plain, ours)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    for output in outputs:
        output.loss.backward()
    expected, found = gradients(plain), gradients(ours)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("change", [{"channels_last": False}, {"keep_freed_memory": False}])
def test_how_fit_runs_a_network_does_not_change_what_it_learns(change):
    batches = network.batches(16, 3)
    settings = {"epochs": 2, "device": "cpu", "progress": False}
    losses = []
    for more in ({}, change):
        model = pair()[1]
        losses.append(
            [row["loss"] for row in fit(model, batches, config=TrainConfig(**settings, **more))]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
