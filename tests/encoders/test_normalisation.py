"""Images reach a network of another library normalised as in its own training."""

import warnings

import pytest
import torch
from torch import Tensor
from torchvision import models

from mmlib.encoders import (
    TimmEncoder,
    TorchvisionEncoder,
    TransformersEncoder,
)
from mmlib.encoders.pretrained.torchvision import torchvision_statistics
from mmlib.encoders.pretrained.trunk import Renormalise
from tests.encoders.test_pretrained import (
    D,
    ImageLike,
    TextLike,
    TimmLike,
    hide,
    photos,
    rows,
    tiny_resnet,
    tiny_vit,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* gets the images as they are")  # judged below
BATCH = ([0.6, 0.3, 0.4], [0.15, 0.3, 0.2])  # mean and std of the batches


OWN = ([0.48, 0.46, 0.41], [1 / 255, 0.22, 0.5])  # those of the network


class TimmWithStatistics(TimmLike):
    pretrained_cfg = {"mean": OWN[0], "std": OWN[1], "input_size": (3, 24, 24)}


def channels(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


NORMALISED = {
    "resnet": lambda **k: TorchvisionEncoder(D, tiny_resnet(), expects=OWN, **k),
    "vit, resized": lambda **k: TorchvisionEncoder(D, tiny_vit(), expects=OWN, **k),
    "timm": lambda **k: TimmEncoder(D, TimmWithStatistics("map"), **k),
    "timm, resized": lambda **k: TimmEncoder(D, TimmWithStatistics("tokens"), **k),
    "transformers": lambda **k: TransformersEncoder(D, ImageLike(True), expects=OWN, **k),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_the_network_sees_exactly_what_its_own_preprocessing_would_give(name):
    torch.manual_seed(0)
    encoder = NORMALISED[name](mean=BATCH[0], std=BATCH[1])
    pixels, mask = torch.rand(4, 3, 40, 40), rows(40, 40, 40, 0, 0)
    batch = (pixels - channels(BATCH[0])) / channels(BATCH[1])
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = encoder(batch, mask)
    own = (pixels - channels(OWN[0])) / channels(OWN[1])  # the network's preprocessing
    torch.testing.assert_close(seen[0][:2], own[:2], rtol=1e-5, atol=1e-5)
    grid, summary = encoder.trunk(own[:2])
    pooled = encoder.project(grid.mean(dim=1) if summary is None else summary)
    torch.testing.assert_close(features.tokens[:2], encoder.project(grid), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.pooled[:2], pooled, rtol=1e-4, atol=1e-4)
    plain = NORMALISED[name]()(batch, mask)
    assert not torch.allclose(features.pooled[:2], plain.pooled[:2], atol=0.01)


@pytest.mark.parametrize("name", NORMALISED)
def test_renormalising_leaves_absent_images_and_masks_alone(name):
    encoder = NORMALISED[name](mean=BATCH[0], std=BATCH[1])
    (x, mask), seen = photos(), []
    encoder.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    clean, before = encoder(hide(x, mask, 0), mask), mask.clone()
    torch.testing.assert_close(encoder(hide(x, mask, float("nan")), mask), clean)
    assert not seen[0][2:].any() and not seen[1][2:].any() and seen[0][:2].all(dim=1).any()
    assert torch.equal(mask, before) and not clean.pooled[2:].any() and not clean.tokens[2:].any()


def test_renormalising_adds_nothing_to_a_checkpoint():
    plain, exact = (NORMALISED["resnet"](**k) for k in ({}, {"mean": BATCH[0], "std": BATCH[1]}))
    assert plain.state_dict().keys() == exact.state_dict().keys()


@pytest.mark.parametrize(
    "weights", [None, "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1", models.ResNet18_Weights.DEFAULT]
)
def test_a_named_network_of_torchvision_expects_the_same_with_and_without_its_weights(weights):
    """A model is built again without a download, then its checkpoint brings the weights."""
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    assert torchvision_statistics(models, "resnet18", weights) == (preset.mean, preset.std)
    encoder = TorchvisionEncoder(D, "resnet18", frozen=False, mean=BATCH[0], std=BATCH[1])
    exact = Renormalise(*BATCH, (preset.mean, preset.std))
    assert torch.equal(encoder.renormalise.scale, exact.scale)
    assert torch.equal(encoder.renormalise.shift, exact.shift)


def test_other_weights_of_a_name_bring_other_statistics():
    preset = models.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    found = torchvision_statistics(models, "vgg16", "IMAGENET1K_FEATURES")
    assert found == (preset.mean, preset.std) != torchvision_statistics(models, "vgg16", None)


def test_what_is_not_known_is_said_and_the_images_stay_as_they_are():
    batches, network = "mean and std of the batches", "mean and std of the network's training"
    with pytest.warns(UserWarning, match=f"ResNet gets the images as they.*{batches}.*{network}"):
        TorchvisionEncoder(D, tiny_resnet())
    with pytest.warns(UserWarning, match=f"Not known: {network}"):
        encoder = TorchvisionEncoder(D, tiny_resnet(), mean=BATCH[0], std=BATCH[1])
    with pytest.warns(UserWarning, match=f"Not known: {batches}") as caught:
        TimmEncoder(D, TimmWithStatistics("map"))
    assert "expects" not in str(caught[0].message)
    x, mask = photos()
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(x, mask)
    assert torch.equal(seen[0][:2], x[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NORMALISED["timm"](mean=BATCH[0], std=BATCH[1])
        TorchvisionEncoder(D, "resnet18", frozen=False)  # not trained yet


@pytest.mark.parametrize(
    "options,message",
    [
        ({"mean": [0.5] * 3}, "mean and std of the batches belong together: give both or neither"),
        (
            {"mean": [0.5] * 3, "std": [0.2]},
            r"std is \[0.2\], expected 3 numbers as in mean, one per",
        ),
        (
            {"mean": [0.5] * 3, "std": [0.2, 0, 1]},
            r"std is \[0.2, 0, 1\], expected numbers above 0",
        ),
    ],
)
def test_wrong_statistics_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionEncoder(D, tiny_resnet(), expects=OWN, **options)


def test_text_has_no_mean_and_std_and_other_inputs_are_refused():
    with pytest.raises(ValueError, match="TextLike reads text, but mean, std and expects are"):
        TransformersEncoder(D, TextLike(), mean=BATCH[0], std=BATCH[1])
    net = TextLike()
    net.main_input_name = "input_values"
    with pytest.raises(ValueError, match="TextLike is not read by .*: it takes 'input_values'"):
        TransformersEncoder(D, net)
