"""The laws of the house for every encoder; masked group norm; grids and sizes of images."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Features
from mmlib.encoders import (
    AudioConvEncoder,
    AudioRecurrentEncoder,
    ConvEncoder,
    RecurrentEncoder,
    ResNetEncoder,
    TransformerEncoder,
    ViTEncoder,
)
from mmlib.encoders.image import grid_positions
from mmlib.layers.convolution import MaskedGroupNorm

D, VOCABULARY = 16, 12


def rows(total: int, *lengths: int) -> Tensor:
    return torch.arange(total) < torch.tensor(lengths)[:, None]


def photos() -> tuple[Tensor, Tensor]:  # the text-only and the image-less sample have none
    return torch.randn(4, 3, 20, 28), rows(28, 28, 28, 0, 0)


def lines() -> tuple[Tensor, Tensor]:  # text lines: a full, a ragged, an absent and a narrow one
    return torch.randn(4, 3, 20, 28), rows(28, 28, 13, 0, 1)


def texts() -> tuple[Tensor, Tensor]:
    return torch.randint(1, VOCABULARY, (4, 7)), rows(7, 7, 4, 0, 1)


def sounds() -> tuple[Tensor, Tensor]:  # 0.25 s, 0.05 s, none, one sample
    return 0.1 * torch.randn(4, 4000), rows(4000, 4000, 800, 0, 1)


def conv() -> ConvEncoder:
    return ConvEncoder(D, width=8)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "conv-photos": (conv, photos),
    "conv-lines": (conv, lines),
    "vit-photos": (lambda: ViTEncoder(D, depth=1), photos),
    "vit-lines": (lambda: ViTEncoder(D, patch=4, depth=2), lines),
    "resnet-photos": (lambda: ResNetEncoder(D), photos),
    "rnn": (lambda: RecurrentEncoder(D, VOCABULARY, "rnn"), texts),
    "gru": (lambda: RecurrentEncoder(D, VOCABULARY, "gru", depth=2), texts),
    "lstm": (lambda: RecurrentEncoder(D, VOCABULARY), texts),
    "transformer": (lambda: TransformerEncoder(D, VOCABULARY), texts),
    "audio-conv": (lambda: AudioConvEncoder(D, mels=20, width=8), sounds),
    "audio-recurrent": (lambda: AudioRecurrentEncoder(D, mels=20), sounds),
}
RAGGED = [name for name in CASES if "photos" not in name]  # a photo's mask row is full or empty
every = pytest.mark.parametrize("name", CASES)
ONE_A_CLASS = [name for name in CASES if name not in ("conv-lines", "vit-lines", "rnn", "gru")]


def build(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    make, batch = CASES[name]
    encoder = make()
    with torch.no_grad():
        for p in encoder.parameters():  # a bias of zero, as at the start, would hide mistakes
            p.add_(0.05 * torch.randn_like(p))
    return encoder, *batch()


def hide(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x with ``value`` wherever the mask is False."""
    return x.masked_fill(~mask.view(len(x), *[1] * (x.ndim - 2), -1), value)


def learn(encoder: nn.Module, features: Features) -> dict[str, Tensor | None]:
    """Every parameter's gradient; the loss weighs each coordinate of tokens and pooled apart."""
    generator = torch.Generator().manual_seed(3)
    encoder.zero_grad()
    sum(
        (part * torch.randn(part.shape, generator=generator)).sum()
        for part in (features.tokens, features.pooled)
    ).backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in encoder.named_parameters()}


@every
def test_features_have_the_contract_s_shapes_and_are_zero_where_nothing_is_real(name):
    encoder, x, mask = build(name)
    tokens, real, pooled = features = encoder(x, mask)
    assert tokens.shape == (4, real.shape[1], D)
    assert pooled.shape == (4, D)
    assert real.dtype == torch.bool
    assert torch.equal(features.present, mask.any(dim=1)), (
        "a sample with one real column, word or sample of sound has a token"
    )
    assert torch.equal(tokens.any(dim=2), real) and not pooled[~features.present].any()


@every
@pytest.mark.parametrize("rubbish", [float("nan"), 1e9])
def test_nothing_depends_on_what_lies_under_the_mask(name, rubbish):
    encoder, x, mask = build(name)
    if x.dtype == torch.int64:
        rubbish = 10**9  # ids have no NaN
    clean, dirty = encoder(hide(x, mask, 0), mask), encoder(hide(x, mask, rubbish), mask)
    torch.testing.assert_close(dirty, clean)
    torch.testing.assert_close(learn(encoder, dirty), learn(encoder, clean))


@pytest.mark.parametrize("more", [1, 5, 8, 167])
@pytest.mark.parametrize("name", RAGGED)
def test_padding_further_changes_nothing(name, more):
    encoder, x, mask = build(name)
    short, long = encoder(x, mask), encoder(F.pad(x, (0, more), value=3), F.pad(mask, (0, more)))
    torch.testing.assert_close(long.pooled, short.pooled)
    torch.testing.assert_close(long.tokens[long.mask], short.tokens[short.mask])


@every
def test_a_sample_gets_the_same_alone_as_among_others(name):
    encoder, x, mask = build(name)
    together = encoder(x, mask)
    for row in range(4):
        length = int(mask[row].sum()) if name in RAGGED else x.shape[-1]
        alone = encoder(
            x[row : row + 1, ..., : max(length, 1)], mask[row : row + 1, : max(length, 1)]
        )
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=1e-4, atol=1e-5)


@every
def test_every_parameter_learns_and_absence_keeps_gradients_finite(name):
    encoder, x, mask = build(name)
    found = learn(encoder, encoder(x, mask))
    assert {n for n, g in found.items() if g is None or not g.any()} == set(), (
        "these get no gradient"
    )
    assert all(g.isfinite().all() for g in found.values())
    assert set(found) <= set(encoder.state_dict())
    nobody = learn(encoder, encoder(x, torch.zeros_like(mask)))
    assert all(g is None or g.isfinite().all() for g in nobody.values())


# ids have no gradient
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1] is not texts])
def test_the_gradient_reaches_the_input_where_it_is_real_and_nowhere_else(name):
    encoder, x, mask = build(name)
    x.requires_grad_()
    encoder(x, mask).tokens.square().sin().sum().backward()
    assert x.grad.isfinite().all() and x.grad[0].any() and not hide(x.grad, ~mask, 0).any()


@pytest.mark.parametrize("name", ONE_A_CLASS)  # exporting is slow
@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch on its own LSTM
def test_every_encoder_exports_and_the_program_gives_the_same(name):
    encoder, x, mask = build(name)
    size = torch.export.Dim("size", min=2, max=64)
    program = torch.export.export(
        encoder.eval(), (x, mask), dynamic_shapes=({0: size}, {0: size})
    ).module()
    with torch.no_grad():
        torch.testing.assert_close(program(x, mask), encoder(x, mask))
        torch.testing.assert_close(program(x[:3], mask[:3]), encoder(x[:3], mask[:3]))


@every
def test_bfloat16_stays_finite_and_near(name):
    encoder, x, mask = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(x, mask)
        found = learn(encoder, half)
    assert half.tokens.isfinite().all() and all(g.isfinite().all() for g in found.values())
    assert (half.pooled - encoder(x, mask).pooled).abs().mean() < 0.05


@pytest.mark.parametrize(
    "make,batch",
    [
        (lambda: ConvEncoder(D, width=8, dropout=0.5), photos),
        (lambda: ViTEncoder(D, depth=1, dropout=0.5), photos),
        (lambda: RecurrentEncoder(D, VOCABULARY, dropout=0.5), texts),
        (lambda: TransformerEncoder(D, VOCABULARY, dropout=0.5), texts),
        (lambda: AudioConvEncoder(D, mels=20, width=8, dropout=0.5), sounds),
        (lambda: AudioRecurrentEncoder(D, mels=20, dropout=0.5), sounds),
    ],
)
def test_dropout_acts_in_training_only_and_absent_stays_absent(make, batch):
    torch.manual_seed(0)
    encoder, (x, mask) = make(), batch()
    first, second = encoder(x, mask), encoder(x, mask)
    assert not torch.equal(first.pooled, second.pooled) and not first.pooled[2].any()
    encoder.eval()
    assert torch.equal(encoder(x, mask).pooled, encoder(x, mask).pooled)


def test_masked_group_norm_equals_torch_where_all_is_real_forward_and_gradient():
    torch.manual_seed(0)
    ours, theirs = MaskedGroupNorm(4, 8), nn.GroupNorm(4, 8)
    theirs.weight.data, theirs.bias.data = torch.randn(8), torch.randn(8)
    ours.load_state_dict(theirs.state_dict())
    x, weights = torch.randn(2, 8, 5, 6, requires_grad=True), torch.randn(2, 8, 5, 6)
    results, found = [], []
    for norm in (lambda x: ours(x, torch.ones(2, 1, 5, 6, dtype=torch.bool)), theirs):
        results.append(norm(3 * x + 100))  # a large mean: mean(x^2) - mean(x)^2 would cancel
        parameters = list((ours if len(results) == 1 else theirs).parameters())
        found.append(torch.autograd.grad((results[-1] * weights).sum(), [x, *parameters]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_masked_group_norm_takes_its_statistics_from_real_positions_only():
    torch.manual_seed(0)
    ours, theirs = MaskedGroupNorm(2, 4), nn.GroupNorm(2, 4)
    theirs.bias.data = torch.randn(4)
    ours.load_state_dict(theirs.state_dict())
    x, mask = torch.randn(2, 4, 5, 6), rows(6, 6, 3)[:, None, None].expand(-1, 1, 5, -1)
    y = ours(x.masked_fill(~mask, 1e6), mask)
    torch.testing.assert_close(y[1, :, :, :3], theirs(x[1:, :, :, :3])[0])
    torch.testing.assert_close(y[0], theirs(x[:1])[0])
    assert not y[1, :, :, 3:].any()


def test_a_line_of_text_shortens_its_mask_with_its_width():
    features = conv()(torch.randn(5, 3, 16, 40), rows(40, 40, 33, 32, 8, 1))
    assert features.mask.view(5, 2, 5).sum(dim=2).tolist() == [
        [5, 5],
        [5, 5],
        [4, 4],
        [1, 1],
        [1, 1],
    ]


@pytest.mark.parametrize("height,width", [(1, 1), (6, 10), (8, 8), (33, 20), (64, 96)])
@pytest.mark.parametrize("make", [conv, lambda: ViTEncoder(D, depth=1), lambda: ResNetEncoder(D)])
def test_images_of_any_size_become_a_grid_of_cells_of_eight_pixels(make, height, width):
    features = make()(torch.randn(2, 3, height, width), rows(width, width, 0))
    cells = -(-height // 8) * -(-width // 8)
    assert features.tokens.shape == (2, cells, D)
    assert features.mask.sum(dim=1).tolist() == [
        cells,
        0,
    ]
    assert features.pooled.isfinite().all()


def test_tokens_stand_in_reading_order():
    """A change in one corner cell moves the token of that cell most; the grid is row by row."""
    torch.manual_seed(0)
    for encoder in (conv(), ViTEncoder(D, depth=0)):
        x = torch.randn(1, 3, 32, 48)  # 4 x 6 cells
        for row, column in ((0, 5), (3, 0), (2, 4)):
            other = x.clone()
            other[..., 8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] += 3
            moved = (encoder(other, rows(48, 48)).tokens - encoder(x, rows(48, 48)).tokens).norm(
                dim=2
            )[0]
            assert moved.argmax() == 6 * row + column


def test_grid_positions_tell_the_row_in_one_half_and_the_column_in_the_other():
    table = grid_positions(3, 5, 8).view(3, 5, 8)
    assert torch.equal(table[:, 0, :4], table[:, 4, :4])
    assert torch.equal(table[0, :, 4:], table[2, :, 4:])
    assert len(table.view(15, 8).unique(dim=0)) == 15
    torch.testing.assert_close(grid_positions(6, 9, 8).view(6, 9, 8)[:3, :5], table)


def test_a_word_is_read_with_its_place_and_its_neighbours():
    x, swapped, mask = torch.tensor([[3, 4, 5]]), torch.tensor([[5, 4, 3]]), rows(3, 3)
    for encoder in (RecurrentEncoder(D, VOCABULARY), TransformerEncoder(D, VOCABULARY)):
        first, second = encoder(x, mask).tokens, encoder(swapped, mask).tokens
        assert not torch.allclose(first[0, 1], second[0, 1])
        assert not torch.allclose(first.mean(dim=1), second.mean(dim=1))


def test_a_width_that_positions_cannot_fill_is_named():
    with pytest.raises(ValueError, match="dim is 18, expected a multiple of 4"):
        ViTEncoder(18)
