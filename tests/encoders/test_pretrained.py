"""Networks made elsewhere, small and with random numbers.

Nothing is downloaded; small modules that keep what timm and transformers
promise stand in for them, and the real ones are tried where they are installed.
"""

import re
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn
from torchvision import models

from mmlib.encoders import (
    ResNetEncoder,
    TimmEncoder,
    TorchvisionEncoder,
    TransformersEncoder,
    Wav2Vec2Encoder,
)

D = 12


pytestmark = pytest.mark.filterwarnings("ignore:.* gets the images as they are")  # judged below


def rows(total: int, *lengths: int) -> Tensor:
    return torch.arange(total) < torch.tensor(lengths)[:, None]


def photos(size: int = 32) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, size, size), rows(size, size, size, 0, 0)


def texts() -> tuple[Tensor, Tensor]:
    return torch.randint(1, 20, (4, 7)), rows(7, 7, 4, 0, 1)


def sounds() -> tuple[Tensor, Tensor]:  # one shorter than a frame among them
    return 0.3 * torch.randn(4, 3000), rows(3000, 3000, 800, 0, 5)


def tiny_resnet() -> nn.Module:
    torch.manual_seed(0)
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], width_per_group=64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics unlike those of the batch
            module.running_mean.uniform_(-0.5, 0.5), module.running_var.uniform_(0.5, 2)
    return net


def tiny_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32
    )


def tiny_wav2vec2(mode: str = "group_norm") -> nn.Module:
    torch.manual_seed(0)
    return torchaudio.models.wav2vec2_model(
        extractor_mode=mode,
        extractor_conv_layer_config=[(8, 10, 5), (8, 3, 2), (8, 2, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=5,
    )


class TimmLike(nn.Module):
    """What a network of timm promises.

    These are ``num_features``, ``num_prefix_tokens``, ``patch_embed.img_size``,
    ``forward_features`` and ``forward_head``.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.num_features = 10
        self.num_prefix_tokens = 2 if kind == "tokens" else 0
        self.conv = nn.Conv2d(3, 10, 8, stride=8)
        self.prefix = nn.Parameter(torch.randn(1, 2, 10))
        self.norm = nn.BatchNorm2d(10)
        self.norm.running_mean.uniform_(-1, 1)
        self.head = nn.Linear(10, 5)
        if kind == "tokens":
            self.patch_embed = SimpleNamespace(img_size=(24, 24))

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.kind == "tokens":
            assert x.shape[2:] == (3, 3), "timm refuses images of another size"
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
            return x + x.mean(dim=1, keepdim=True)
        return x if self.kind == "map" else x.permute(0, 2, 3, 1)

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        if self.kind == "tokens":
            return x[:, 0]
        return x.mean(dim=(2, 3) if self.kind == "map" else (1, 2))


class TextLike(nn.Module):
    """What an AutoModel for text promises: ``main_input_name``, ``last_hidden_state``.

    A row that may attend to no word comes out as NaN.
    """

    main_input_name = "input_ids"

    def __init__(self):
        super().__init__()
        self.embed, self.pooler = nn.Embedding(20, 10), nn.Linear(10, 10)
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.embed(input_ids)
        y, _ = self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)
        y = y / (attention_mask.sum(dim=1) > 0)[:, None, None]  # as a softmax over nothing
        return SimpleNamespace(last_hidden_state=x + y, pooler_output=self.pooler(y[:, 0]))


class ImageLike(nn.Module):
    """What an AutoModel for images promises: class token, one size (ViT), or a map (ConvNeXt)."""

    main_input_name = "pixel_values"

    def __init__(self, patches: bool):
        super().__init__()
        self.patches = patches
        self.conv = nn.Conv2d(3, 10, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 10))
        self.config = SimpleNamespace(image_size=24, patch_size=8) if patches else SimpleNamespace()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        x = self.conv(pixel_values)
        if self.patches:
            x = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
            x = x + x.mean(dim=1, keepdim=True)
        return SimpleNamespace(last_hidden_state=x)


class StagesLike(ImageLike):
    """As Swin: later stages join patches, so there are fewer tokens than patches."""

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        x = F.avg_pool2d(self.conv(pixel_values), 3)
        return SimpleNamespace(last_hidden_state=x.flatten(2).transpose(1, 2))


def test_where_stages_join_patches_no_token_is_taken_for_a_class_token():
    encoder = TransformersEncoder(D, StagesLike(patches=True))
    x = torch.randn(2, 3, 24, 24)
    assert encoder(x, torch.ones(2, 24, dtype=torch.bool)).tokens.shape == (2, 1, D)


CASES = {  # encoder, batch, tokens of a full row
    "resnet": (lambda **k: TorchvisionEncoder(D, tiny_resnet(), **k), photos, 1),
    "squeezenet": (
        lambda **k: TorchvisionEncoder(D, models.squeezenet1_1(weights=None), **k),
        lambda: photos(64),
        9,
    ),
    "vit": (lambda **k: TorchvisionEncoder(D, tiny_vit(), **k), lambda: photos(48), 16),
    "wav2vec2": (lambda **k: Wav2Vec2Encoder(D, tiny_wav2vec2(), **k), sounds, 149),
    "wav2vec2-layer": (
        lambda **k: Wav2Vec2Encoder(D, tiny_wav2vec2("layer_norm"), **k),
        sounds,
        149,
    ),
    "timm-map": (lambda **k: TimmEncoder(D, TimmLike("map"), **k), photos, 16),
    "timm-last": (lambda **k: TimmEncoder(D, TimmLike("last"), **k), photos, 16),
    "timm-tokens": (lambda **k: TimmEncoder(D, TimmLike("tokens"), **k), photos, 9),
    "words": (lambda **k: TransformersEncoder(D, TextLike(), **k), texts, 7),
    "pixels": (lambda **k: TransformersEncoder(D, ImageLike(True), **k), photos, 9),
    "pixels-map": (lambda **k: TransformersEncoder(D, ImageLike(False), **k), photos, 16),
}


every = pytest.mark.parametrize("name", CASES)


def build(name: str, frozen: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    make, batch, _ = CASES[name]
    encoder = make(frozen=frozen)
    with torch.no_grad():
        for p in encoder.parameters():  # a bias of zero, as at the start, would hide mistakes
            p.add_(0.05 * torch.randn_like(p))
    return encoder.train(), *batch()


def hide(x: Tensor, mask: Tensor, value: float) -> Tensor:
    return x.masked_fill(~mask.view(len(x), *[1] * (x.ndim - 2), -1), value)


@every
def test_every_network_stands_behind_the_same_features(name):
    encoder, x, mask = build(name)
    tokens, real, pooled = features = encoder(x, mask)
    assert tokens.shape == (4, real.shape[1], D) and pooled.shape == (4, D)
    assert int(real[0].sum()) == CASES[name][2] == real.shape[1]
    assert torch.equal(features.present, mask.any(dim=1)) and torch.equal(tokens.any(dim=2), real)
    assert not pooled[~features.present].any() and pooled.isfinite().all()


@every
def test_nothing_under_the_mask_no_padding_and_no_other_sample_matters(name):
    encoder, x, mask = build(name)
    clean = encoder(hide(x, mask, 0), mask)
    dirty = encoder(hide(x, mask, 10**9 if x.dtype == torch.int64 else float("nan")), mask)
    torch.testing.assert_close(dirty, clean)
    length = mask.sum(dim=1).clamp(min=1).tolist() if x.ndim == 2 else [x.shape[-1]] * 4
    for row in (0, 1, 2, 3):
        alone = encoder(x[row : row + 1, ..., : length[row]], mask[row : row + 1, : length[row]])
        torch.testing.assert_close(alone.pooled[0], clean.pooled[row], rtol=1e-4, atol=1e-5)
    if x.ndim == 2:
        longer = encoder(F.pad(x, (0, 500), value=1), F.pad(mask, (0, 500)))
        torch.testing.assert_close(longer.pooled, clean.pooled, rtol=1e-4, atol=1e-5)


@every
def test_frozen_nothing_but_the_projection_learns_and_training_mode_changes_nothing(name):
    encoder, x, mask = build(name)
    before = {n: v.clone() for n, v in encoder.trunk.state_dict().items()}
    encoder(x, mask).pooled.square().sum().backward()
    assert {n for n, p in encoder.named_parameters() if p.requires_grad} == {
        "project.weight",
        "project.bias",
    }
    assert all(p.grad is None for p in encoder.trunk.parameters())
    assert encoder.project.weight.grad.any()
    assert encoder.training and not any(module.training for module in encoder.trunk.modules())
    assert all(torch.equal(v, before[n]) for n, v in encoder.trunk.state_dict().items())
    torch.testing.assert_close(encoder(x, mask), encoder.eval()(x, mask))


@every
def test_thawed_every_parameter_that_is_read_learns_and_batch_norm_keeps_its_statistics(name):
    encoder, x, mask = build(name, frozen=False)
    statistics = {n: v.clone() for n, v in encoder.named_buffers() if "running" in n}
    if name.startswith("wav2vec2"):
        encoder.eval()  # in training it leaves out whole layers by chance
    features = encoder(x, mask)
    (features.pooled.square().sum() + features.tokens.sin().sum()).backward()
    missing = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    unread = {
        n.removeprefix("trunk.net.").split(".")[0]
        for n, p in encoder.named_parameters()
        if not p.requires_grad
    }
    assert unread <= {"fc", "classifier", "heads", "head", "aux", "pooler", "prefix", "token"}
    assert any(p.grad is not None and p.grad.any() for p in encoder.trunk.parameters())
    assert all(torch.equal(v, statistics[n]) for n, v in encoder.named_buffers() if n in statistics)


@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
def test_wav2vec2_gives_each_clip_what_torchaudio_gives_it_alone(mode):
    x, mask = sounds()
    net = tiny_wav2vec2(mode).eval()
    net.aux = None
    expected = [net(x[row : row + 1, :length])[0][0] for row, length in ((0, 3000), (1, 800))]
    ragged_by_torchaudio, _ = net(hide(x, mask, 0)[:2], mask[:2].sum(dim=1))
    grid, real = Wav2Vec2Encoder(D, net).trunk(hide(x, mask, 0), mask)
    for row in (0, 1):
        torch.testing.assert_close(grid[row][real[row]], expected[row], rtol=1e-4, atol=1e-5)
    differs = not torch.allclose(
        ragged_by_torchaudio[1, : len(expected[1])], expected[1], atol=1e-3
    )
    assert differs == (mode == "group_norm"), (
        "why the norm is replaced: torchaudio's own depends on the padding"
    )
    assert real.sum(dim=1).tolist() == [len(expected[0]), len(expected[1]), 0, 1]


@pytest.mark.parametrize("name", ["resnet", "vit", "wav2vec2", "words"])
def test_pretrained_encoders_export(name):
    encoder, x, mask = build(name)
    program = torch.export.export(encoder.eval(), (x, mask)).module()
    torch.testing.assert_close(program(x, mask), encoder(x, mask))


@pytest.mark.parametrize("name", ["resnet", "vit", "wav2vec2", "timm-tokens", "pixels"])
def test_pretrained_encoders_stay_finite_in_bfloat16(name):
    encoder, x, mask = build(name, frozen=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(x, mask)
        features.pooled.square().sum().backward()
    assert features.tokens.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "make,package,install",
    [
        (lambda: TimmEncoder(D, "resnet18"), "timm", "timm"),
        (lambda: TransformersEncoder(D, "bert-base-uncased"), "transformers", "transformers"),
        (lambda: TorchvisionEncoder(D, "no_such_name"), "torchvision", "'mmlib[torchvision]'"),
        (lambda: TorchvisionEncoder(D, nn.Linear(1, 1)), "torchvision", "'mmlib[torchvision]'"),
        (lambda: ResNetEncoder(D, name="no_such_name"), "torchvision", "'mmlib[torchvision]'"),
        (lambda: Wav2Vec2Encoder(D), "torchaudio", "'mmlib[wav2vec2]'"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    make, package, install, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    message = f"needs the package {package}, which is not installed: pip install {install}"
    with pytest.raises(ImportError, match=re.escape(message)):
        make()


def test_a_network_that_is_not_read_is_named():
    with pytest.raises(ValueError, match="ShuffleNetV2 is not read by TorchvisionEncoder"):
        TorchvisionEncoder(D, models.shufflenet_v2_x0_5())


def test_a_name_alone_downloads_nothing_and_a_frozen_random_network_is_warned_of(monkeypatch):
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads")
    )
    with pytest.warns(
        UserWarning,
        match="resnet18 is frozen with random numbers and can learn nothing: pass "
        "weights='DEFAULT'",
    ):
        TorchvisionEncoder(D, "resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchvisionEncoder(D, "mobilenet_v3_small", frozen=False)
    with pytest.raises(pytest.fail.Exception, match="downloads"):
        TorchvisionEncoder(D, "resnet18", weights="DEFAULT")


@every
def test_a_network_on_another_device_makes_an_encoder_there(name):
    plain, x, mask = build(name)
    encoder = type(plain)(D, plain.trunk.net.to("meta"))
    assert {v.device.type for v in encoder.state_dict().values()} == {"meta"}
    features = encoder(x.to("meta"), mask.to("meta"))
    assert features.pooled.device.type == "meta" and features.pooled.shape == (4, D)


@every
@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_in_half_precision_serves_a_model_in_full_precision(name, frozen):
    encoder, x, mask = build(name, frozen)
    encoder.eval()
    exact = encoder(x, mask)
    encoder.trunk.bfloat16()
    half = encoder(x, mask)
    assert half.pooled.dtype == torch.float32 and half.tokens.isfinite().all()
    assert (half.pooled - exact.pooled).norm() < 0.1 * exact.pooled.norm()
    half.pooled.square().sum().backward()
    assert encoder.project.weight.grad.any()


def test_a_ready_network_in_half_precision_is_read():
    encoder = TorchvisionEncoder(D, tiny_resnet().bfloat16())
    assert encoder(*photos()).pooled.dtype == torch.float32


@every
def test_a_new_encoder_is_in_training_mode_as_every_new_module_and_a_frozen_network_never(name):
    for frozen in (True, False):
        encoder = CASES[name][0](frozen=frozen)
        for mode in (True, False, True):
            on = [m for m in encoder.trunk.modules() if not isinstance(m, nn.BatchNorm2d)]
            assert {m.training for m in on} == {mode and not frozen} and encoder.training == mode
            encoder.train(not mode)
