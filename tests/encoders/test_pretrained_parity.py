"""``pooled`` is what the network's own classifier sees, and tokens are the network's own features.

Judged by each library's own forward, over every family that the encoders promise. Networks are
small, with random numbers; nothing is downloaded. Without timm or transformers, their tests are
skipped.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from mmlib.encoders import TimmEncoder, TorchvisionEncoder, TransformersEncoder
from mmlib.encoders.pretrained.trunk import Renormalise

D = 12
pytestmark = pytest.mark.filterwarnings("ignore:.* gets the images as they are")


def scrambled(net: nn.Module, x: Tensor) -> nn.Module:
    """The network away from its start, where zeros and ones would hide mistakes.

    Its BatchNorm has statistics of ``x``, so that the last layer tells the images apart, too.
    """
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            size = 0.3 * p.std() if p.numel() > 1 and p.std() > 0 else 0.1
            p.add_(size * torch.randn(p.shape, generator=g))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
                module.train()
        net(x)
    return net.eval()


def what_enters(module: nn.Module, run, *inputs: Tensor) -> Tensor:
    """The first input of ``module`` while ``run(*inputs)``."""
    seen = []
    hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        run(*inputs)
    hook.remove()
    return seen[0]


def same(got: Tensor, expected: Tensor) -> None:
    """Equal, and not because everything is: the two images give different numbers."""
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def summary_of(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The grid and the summary; the encoder's ``pooled`` is checked to be its projection."""
    with torch.no_grad():
        grid, summary = encoder.trunk(x)
        summary = grid.mean(dim=1) if summary is None else summary
        project = encoder.project_summary or encoder.project
        pooled = encoder(x, torch.ones(len(x), x.shape[3], dtype=torch.bool)).pooled
        torch.testing.assert_close(pooled, project(summary), rtol=1e-4, atol=1e-4)
    return grid, summary


def tiny_vgg() -> nn.Module:
    with torch.device("meta"):  # its classifier has 100 million numbers
        net = models.vgg11(init_weights=False)
    net.classifier = nn.Linear(512 * 49, 3)
    net.features = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)
    return net


TORCHVISION = {  # network, its classifier
    "ResNet": (lambda: models.resnet18(), "fc"),
    "RegNet": (lambda: models.regnet_y_400mf(), "fc"),
    "DenseNet": (lambda: models.DenseNet(8, (2, 2, 2), 16), "classifier"),
    "EfficientNet": (lambda: models.efficientnet_b0(), "classifier"),
    "EfficientNetV2": (lambda: models.efficientnet_v2_s(), "classifier"),
    "MobileNetV2": (lambda: models.mobilenet_v2(), "classifier"),
    "MobileNetV3": (lambda: models.mobilenet_v3_small(), "classifier"),
    "ConvNeXt": (
        lambda: models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)]),
        "classifier.2",
    ),
    "Swin": (lambda: models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [2, 2]), "head"),
    "SwinV2": (
        lambda: models.SwinTransformer(
            [4, 4],
            8,
            [1, 2],
            [1, 2],
            [4, 4],
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        "head",
    ),
    "VisionTransformer": (lambda: models.VisionTransformer(64, 16, 2, 2, 16, 32), "heads"),
    "VGG": (tiny_vgg, "classifier"),
    "AlexNet": (lambda: models.alexnet(), "classifier"),
    "SqueezeNet": (lambda: models.squeezenet1_1(), "classifier"),
}


@pytest.mark.parametrize("family", TORCHVISION)
def test_torchvision_pooled_is_what_the_network_s_own_classifier_sees(family):
    torch.manual_seed(0)
    make, classifier = TORCHVISION[family]
    x = torch.randn(2, 3, 64, 64)
    net = scrambled(make().eval(), x)
    expected = what_enters(net.get_submodule(classifier), net, x)
    grid, summary = summary_of(TorchvisionEncoder(D, net), x)
    if family in ("VGG", "AlexNet", "SqueezeNet"):  # it sees cells, not their mean
        side = int(grid.shape[1] ** 0.5)
        cells = grid.transpose(1, 2).unflatten(2, (side, side))  # (B, width, H', W')
        same(cells if family == "SqueezeNet" else net.avgpool(cells).flatten(1), expected)
        torch.testing.assert_close(summary, grid.mean(dim=1))
    else:
        same(summary, expected)


VIT = {"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
NO_CLASS = {"class_token": False}
WINDOWS = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
TIMM = {  # name, options
    "ViT": ("vit_tiny_patch16_224", VIT),
    "ViT, registers": ("vit_tiny_patch16_224", VIT | {"reg_tokens": 4}),
    "ViT, registers, no class token": (
        "vit_tiny_patch16_224",
        VIT | NO_CLASS | {"reg_tokens": 4, "global_pool": "avg"},
    ),
    "ViT, average": ("vit_tiny_patch16_224", VIT | {"global_pool": "avg"}),
    "ViT, average, no class token": (
        "vit_tiny_patch16_224",
        VIT | NO_CLASS | {"global_pool": "avg", "fc_norm": False},
    ),
    "ViT, attention pooling": ("vit_tiny_patch16_224", VIT | NO_CLASS | {"global_pool": "map"}),
    "DeiT": ("deit_tiny_patch16_224", VIT),
    "DeiT3": ("deit3_small_patch16_224", VIT),
    "BEiT": ("beit_base_patch16_224", VIT),
    "EVA": ("eva02_tiny_patch14_224", VIT),
    "CaiT": ("cait_xxs24_224", VIT),
    "XCiT": ("xcit_nano_12_p16_224", {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}),
    "VOLO": ("volo_d1_224", {}),
    "CoaT": ("coat_lite_tiny", {}),
    "MLP-Mixer": ("mixer_s32_224", {"img_size": 64}),
    "LeViT": ("levit_128s", {}),
    "EfficientFormer": ("efficientformer_l1", {}),
    "Swin": ("swin_tiny_patch4_window7_224", WINDOWS),
    "SwinV2": ("swinv2_tiny_window8_256", WINDOWS),
    "MambaOut": ("test_mambaout", {}),
    "ConvNeXt": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "ResNet": ("resnet18", {"channels": (8, 8, 16, 16)}),
    "ResNetV2": ("resnetv2_50", {"layers": (1,) * 4, "channels": (16, 16, 32, 32), "stem_chs": 8}),
    "RegNet": ("regnetx_002", {}),
    "NFNet": ("test_nfnet", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "MobileNetV3": ("mobilenetv3_small_050", {}),
    "GhostNet": ("ghostnet_050", {}),
    "DenseNet": ("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    "MaxViT": ("coatnet_pico_rw_224", {}),
    "EfficientViT": ("efficientvit_b0", {}),
    "Hiera": ("hiera_tiny_224", {}),
    "PVT": ("pvt_v2_b0", {}),
    "HRNet": ("hrnet_w18_small", {}),
}


def timm_network(family: str) -> tuple[nn.Module, Tensor]:
    """A network of this family with a classifier, and images of its size."""
    timm = pytest.importorskip("timm", reason="optional: pip install timm")
    torch.manual_seed(0)
    name, options = TIMM[family]
    net = timm.create_model(name, num_classes=5, **options).eval()
    side = options.get("img_size", net.pretrained_cfg["input_size"][1])
    x = torch.randn(2, 3, side, side)
    return scrambled(net, x), x


@pytest.mark.parametrize("family", TIMM)
def test_timm_pooled_is_what_the_network_s_own_classifier_sees(family):
    net, x = timm_network(family)
    classifier = net.get_classifier()
    classifier = classifier[0] if isinstance(classifier, tuple) else classifier  # two see the same
    expected = what_enters(classifier, net, x).flatten(1)
    same(summary_of(TimmEncoder(D, net), x)[1], expected)


@pytest.mark.parametrize("family", sorted(TIMM.keys() - {"XCiT"}))  # gives no such map
def test_timm_tokens_are_the_network_s_own_map_in_reading_order(family):
    net, x = timm_network(family)
    grid, _ = summary_of(TimmEncoder(D, net), x)
    with torch.no_grad():
        own = net.forward_features(x)  # (B, C, H, W)
        if own.ndim == 3 or getattr(net, "output_fmt", "NCHW") == "NHWC":
            (own,) = net.forward_intermediates(
                x, indices=1, norm=family != "Hiera", output_fmt="NCHW", intermediates_only=True
            )
    same(grid, own.flatten(2).transpose(1, 2))


def test_timm_of_one_size_gets_images_of_that_size():
    net, x = timm_network("ViT, registers")
    larger = torch.randn(2, 3, 50, 70)
    fitting = F.interpolate(larger, x.shape[2:], mode="bilinear", antialias=True)
    encoder, mask = TimmEncoder(D, net), torch.ones(2, 70, dtype=torch.bool)
    torch.testing.assert_close(encoder(larger, mask), encoder(fitting, mask[:, : x.shape[3]]))


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "pit_ti_224"])
def test_timm_networks_without_one_row_of_patches_are_refused_by_name(name):
    timm = pytest.importorskip("timm", reason="optional: pip install timm")
    with pytest.raises(ValueError, match="is not read by TimmEncoder: its forward_features gives"):
        TimmEncoder(D, timm.create_model(name))


def test_timm_statistics_are_those_of_the_network_s_own_configuration():
    timm = pytest.importorskip("timm", reason="optional: pip install timm")
    mean, std = [0.6, 0.3, 0.4], [0.15, 0.3, 0.2]
    encoder = TimmEncoder(D, "vit_tiny_patch16_224", frozen=False, mean=mean, std=std)
    own = timm.data.resolve_data_config({}, model=encoder.trunk.net)
    exact = Renormalise(mean, std, (own["mean"], own["std"]))
    assert own["mean"] == (0.5, 0.5, 0.5) and torch.equal(encoder.renormalise.shift, exact.shift)


def transformers_configs(t) -> dict[str, object]:
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    }
    windows = {
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    }
    stages = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    return {
        "ViT": t.ViTConfig(**small),
        "DeiT": t.DeiTConfig(**small),
        "BEiT": t.BeitConfig(**small),
        "ViTMSN": t.ViTMSNConfig(**small),
        "DINOv2": t.Dinov2Config(**small),
        "DINOv2, registers": t.Dinov2WithRegistersConfig(**small, num_register_tokens=4),
        "DINOv3": t.DINOv3ViTConfig(**small, num_register_tokens=4),
        "CLIP": t.CLIPVisionConfig(**small),
        "SigLIP": t.SiglipVisionConfig(**small),
        "Swin": t.SwinConfig(**windows),
        "SwinV2": t.Swinv2Config(**windows),
        "ConvNeXt": t.ConvNextConfig(**stages, image_size=64),
        "ConvNeXtV2": t.ConvNextV2Config(**stages, image_size=64),
        "ResNet": t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
        "RegNet": t.RegNetConfig(embedding_size=8, groups_width=8, **stages),
        "MobileNetV2": t.MobileNetV2Config(depth_multiplier=0.35, image_size=64),
    }


PREFIX = {
    "ViT": 1,
    "DeiT": 2,
    "BEiT": 1,
    "ViTMSN": 1,
    "DINOv2": 1,
    "DINOv2, registers": 5,
    "DINOv3": 5,
    "CLIP": 1,
}
FAMILIES = [
    *PREFIX,
    "SigLIP",
    "Swin",
    "SwinV2",
    "ConvNeXt",
    "ConvNeXtV2",
    "ResNet",
    "RegNet",
    "MobileNetV2",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_tokens_are_last_hidden_state_and_pooled_is_what_its_classifier_sees(family):
    t = pytest.importorskip("transformers", reason="optional: pip install transformers")
    torch.manual_seed(0)
    config = transformers_configs(t)[family]
    side = getattr(config, "image_size", 64)
    x = torch.randn(2, 3, side, side)
    net = scrambled(t.AutoModel.from_config(config).eval(), x)
    grid, summary = summary_of(TransformersEncoder(D, net), x)
    with torch.no_grad():
        own = net(pixel_values=x)
    tokens = own.last_hidden_state
    if tokens.ndim == 4:
        tokens = tokens.flatten(2).transpose(1, 2)  # (B, H' * W', C)
    same(grid, tokens[:, PREFIX.get(family, 0) :])
    if family in ("DINOv2, registers", "DINOv3", "CLIP", "SigLIP", "DeiT"):  # no classifier, or 2
        expected = tokens[:, 0] if family == "DeiT" else own.pooler_output
    else:
        whole = t.AutoModelForImageClassification.from_config(config).eval()
        getattr(whole, whole.base_model_prefix).load_state_dict(net.state_dict(), strict=False)
        classifier = whole.classifier
        expected = what_enters(classifier, lambda x: whole(pixel_values=x), x).flatten(1)
    if family == "DINOv2":  # it sees both, side by side
        summary = torch.cat([summary, grid.mean(dim=1)], dim=1)
    same(summary, expected)


def test_transformers_text_tokens_are_last_hidden_state_and_pooled_is_their_mean():
    t = pytest.importorskip("transformers", reason="optional: pip install transformers")
    torch.manual_seed(0)
    config = t.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    net = t.BertModel(config).eval()
    x = torch.randint(1, 20, (4, 7))
    mask = torch.arange(7) < torch.tensor([7, 4, 0, 1])[:, None]
    encoder = TransformersEncoder(D, net)
    features = encoder(x, mask)
    for row, length in ((0, 7), (1, 4), (3, 1)):  # each alone, without padding
        own = encoder.project(net(input_ids=x[row : row + 1, :length]).last_hidden_state[0])
        torch.testing.assert_close(features.tokens[row, :length], own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.pooled[row], own.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_transformers_statistics_are_those_of_the_saved_image_processor(tmp_path):
    t = pytest.importorskip("transformers", reason="optional: pip install transformers")
    mean, std = [0.6, 0.3, 0.4], [0.15, 0.3, 0.2]
    t.AutoModel.from_config(transformers_configs(t)["ViT"]).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="Not known: mean and std of the network's training"):
        TransformersEncoder(D, str(tmp_path), mean=mean, std=std)
    for options, own in (
        ({"image_mean": [0.1, 0.2, 0.3]}, ([0.1, 0.2, 0.3], [0.5] * 3)),
        ({"do_normalize": False}, ([0.0] * 3, [1.0] * 3)),
    ):
        t.ViTImageProcessor(**options).save_pretrained(tmp_path)
        encoder = TransformersEncoder(D, str(tmp_path), mean=mean, std=std)
        exact = Renormalise(mean, std, own)
        assert torch.equal(encoder.renormalise.scale, exact.scale)
        assert torch.equal(encoder.renormalise.shift, exact.shift)


def test_transformers_with_tokens_that_are_no_patches_are_refused_by_name():
    t = pytest.importorskip("transformers", reason="optional: pip install transformers")
    config = t.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[32, 32],
        patch_size=8,
    )
    with pytest.raises(ValueError, match="YolosModel is not read .* 101 of its tokens are not"):
        TransformersEncoder(D, t.YolosModel(config))
