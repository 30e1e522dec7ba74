"""Evaluation runs convolutions pixel by pixel, and gives the model back as it was."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mmlib.core import Output
from mmlib.encoders import AudioConvEncoder
from mmlib.train.evaluate import collect
from mmlib.train.layout import store_by_pixel
from mmlib.train.loop import fit
from tests.train.test_loop import CPU, Tiny, cut, sample_batch


class Looking(Tiny):
    """Notes how the weight of its convolution is stored at each forward pass."""

    def forward(self, batch):
        self.seen = self.see.weight.is_contiguous(memory_format=torch.channels_last)
        return super().forward(batch)


def test_collect_stores_convolutions_by_pixel_and_gives_the_model_back_as_it_was():
    model, batch = Looking().eval(), sample_batch(8)
    with torch.no_grad():
        expected = model(batch).logits
    assert not model.seen
    weight = model.see.weight
    place, strides, values = weight.data_ptr(), weight.stride(), weight.detach().clone()
    logits = collect(model, [batch], "cpu")[0]
    assert model.seen
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert model.see.weight is weight and torch.equal(weight, values)
    assert (weight.data_ptr(), weight.stride()) == (place, strides)


def test_the_model_is_given_back_after_an_error_too():
    model = Looking()
    strides = model.see.weight.stride()
    with pytest.raises(KeyError, match="image_mask"):
        collect(model, [{"image": torch.zeros(2, 3, 4, 4)}], "cpu")
    assert model.see.weight.stride() == strides


def test_evaluation_within_fit_undoes_no_layout():
    for last in (True, False):
        model, batches = Looking(), cut(sample_batch(12), 4)
        fit(model, batches, batches, replace(CPU, epochs=1, channels_last=last))
        assert model.see.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_only_weights_of_convolutions_are_stored_otherwise():
    class Own(nn.Module):
        """Its table of four axes is viewed, which another layout would not allow."""

        def __init__(self):
            super().__init__()
            self.see = nn.Conv2d(3, 4, 3, padding=1)
            self.table = nn.Parameter(torch.randn(2, 3, 4, 5))

        def forward(self, batch):
            return Output(self.see(batch["x"]).mean((2, 3)) + self.table.view(-1)[0], None, None)

    model = Own()
    collect(model, [{"x": torch.randn(2, 3, 8, 8)}], "cpu")
    assert [weight is model.see.weight for weight, _ in store_by_pixel(model)] == [True]
    assert model.table.is_contiguous() and not store_by_pixel(model)


@pytest.mark.parametrize("place", ["fit", "store_by_pixel"])
def test_of_one_channel_too_the_result_of_a_convolution_is_stored_by_pixel(place):
    """Torch tells layouts apart by their strides, and of one channel ``contiguous`` sets none."""

    class Hearing(nn.Module):
        kind, classes = "number", None

        def __init__(self):
            super().__init__()
            self.encoder = AudioConvEncoder(8, width=8, stages=2)

        def forward(self, batch):
            features = self.encoder(batch["audio"], batch["audio_mask"])
            return Output(features.pooled[:, 0], features.pooled.square().mean(), torch.tensor(2.0))

    model, seen = Hearing(), []
    batch = {
        "audio": torch.randn(2, 1600),
        "audio_mask": torch.ones(2, 1600, dtype=torch.bool),
        "target": torch.zeros(2),
    }
    with torch.no_grad():
        before = model(batch).logits
    if place == "store_by_pixel":
        store_by_pixel(model)
        with torch.no_grad():
            torch.testing.assert_close(model(batch).logits, before, rtol=1e-4, atol=1e-5)
    for norm in model.encoder.stack.norms:
        norm.register_forward_pre_hook(lambda norm, given: seen.append(given[0]))
    if place == "fit":
        fit(model, [batch], config=replace(CPU, epochs=1))
    else:
        model(batch)
    assert seen and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
