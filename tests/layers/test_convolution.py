"""The gradient by hand of MaskedGroupNorm is that of autograd, and stays away where it must."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mmlib.encoders import ConvEncoder
from mmlib.fusion import SumFusion
from mmlib.heads import ClassifyHead
from mmlib.layers import convolution
from mmlib.layers.convolution import MaskedGroupNorm
from mmlib.models import Backbone, Model

RAGGED = torch.arange(9) < torch.tensor([9, 5, 1, 0])[:, None]  # full, ragged, a column, absent


def real_positions(columns: Tensor) -> Tensor:
    return columns[:, None, None].expand(-1, 1, 6, -1)


def results(norm: nn.Module, x: Tensor, mask: Tensor, autocast: bool = False) -> list[Tensor]:
    """What comes out, and the gradients of x, weight and bias."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = norm(x, mask)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y, *torch.autograd.grad((y * weights).sum(), [x, norm.weight, norm.bias])]


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = MaskedGroupNorm(4, 16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("columns", [RAGGED, RAGGED | True], ids=["ragged", "whole"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_by_hand_is_that_of_autograd(monkeypatch, norm, columns, layout, dtype):
    x, mask = 3 + torch.randn(4, 16, 6, 9), real_positions(columns)
    x = x.to(dtype).contiguous(memory_format=layout)
    bf16 = dtype == torch.bfloat16
    by_hand = results(norm, x, mask, autocast=bf16)
    monkeypatch.setattr(convolution, "_is_traced", lambda: True)
    expected = results(norm, x, mask, autocast=bf16)
    assert by_hand[0].grad_fn.name() != expected[0].grad_fn.name()
    for one, other in zip(by_hand, expected, strict=True):
        assert one.dtype == other.dtype
        rounding = 2**-8 if one.dtype == torch.bfloat16 else 1e-6
        scale = other.detach().abs().max().item()
        torch.testing.assert_close(one, other, rtol=rounding, atol=1e-6 * scale)
    assert not by_hand[1][~mask.expand_as(x)].any()


@pytest.mark.parametrize("columns", [RAGGED, RAGGED | True], ids=["ragged", "whole"])
def test_the_gradient_by_hand_passes_gradcheck(norm, columns):
    norm, mask = norm.double(), real_positions(columns)
    x = torch.randn(4, 16, 6, 9, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(norm, {"weight": weight, "bias": bias}, (x, mask))

    parameters = [p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias)]
    assert torch.autograd.gradcheck(function, [x, *parameters])


def test_nothing_under_the_mask_reaches_result_or_gradient(norm):
    x, mask = torch.randn(4, 16, 6, 9), real_positions(RAGGED)
    clean = results(norm, x, mask)
    dirty = results(norm, torch.where(mask, x, float("nan")), mask)
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))
    y = norm(x.requires_grad_(), mask)
    found = torch.autograd.grad(y, x, torch.where(mask, 1.0, float("nan")).expand_as(y))[0]
    assert found.isfinite().all()


def test_other_samples_do_not_decide_how_a_sample_is_normalised(norm):
    """A batch in which all is real takes a shorter way than a ragged one: same numbers."""
    x, mask = torch.randn(4, 16, 6, 9), real_positions(RAGGED)
    assert torch.equal(norm(x, mask)[:1], norm(x[:1], mask[:1]))


def test_a_second_derivative_is_refused_not_wrong(norm):
    x = torch.randn(4, 16, 6, 9, requires_grad=True)
    y = norm(x, real_positions(RAGGED))
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = ConvEncoder(8, width=8, stages=2)
    return Model(Backbone({"image": encoder}, SumFusion(8, ["image"])), ClassifyHead(8, 3))


def photos() -> dict[str, Tensor]:
    columns = torch.arange(12) < torch.tensor([12, 7, 12])[:, None]
    return {
        "image": torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(2)),
        "image_mask": columns,
        "target": torch.tensor([0, 2, 1]),
    }


def test_gradients_of_each_sample_by_torch_func_are_those_of_a_loop(model):
    batch, parameters = photos(), {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        one = {key: value[None] for key, value in sample.items()}
        return functional_call(model, parameters, (one,)).loss

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, batch)
    for i in range(3):
        alone = copy.deepcopy(model)
        alone({key: value[i : i + 1] for key, value in batch.items()}).loss.backward()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
def test_a_hessian_can_be_taken_by_torch_func(norm):
    x, mask = torch.randn(1, 16, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    found = torch.func.hessian(lambda x: norm(x, mask).pow(3).sum())(x)
    assert found.isfinite().all() and found.any()


def test_an_exported_program_has_plain_operations_only(norm):
    x, mask = torch.randn(4, 16, 6, 9), real_positions(RAGGED)
    for strict in (False, True):
        program = torch.export.export(norm, (x, mask), strict=strict)
        calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert calls and all(call.startswith("aten.") for call in calls)
        torch.testing.assert_close(program.module()(x, mask), norm(x, mask))


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.:FutureWarning", "ignore:`torch.jit.:DeprecationWarning"
)
def test_a_traced_norm_does_not_remember_that_all_was_real(norm):
    x, whole = torch.randn(4, 16, 6, 9), real_positions(RAGGED | True)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(norm, (x, whole)), file)  # cannot hold a Python function
    traced, mask = torch.jit.load(io.BytesIO(file.getvalue())), real_positions(RAGGED)
    torch.testing.assert_close(traced(x, mask), norm(x, mask))
