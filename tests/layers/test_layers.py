"""Building blocks judged by PyTorch's own, forward and gradient; padding never matters."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.layers.attention import Attention, attend, attend_fused, recording
from mmlib.layers.recurrent import Recurrent, VariationalDropout, reverse_within
from mmlib.layers.transformer import Block, Transformer, sine_positions

LENGTHS = [7, 4, 1, 0]  # full, ragged, a single token, absent
MASK = torch.arange(7) < torch.tensor(LENGTHS)[:, None]  # (4, 7)


def gradients(result: Tensor, inputs: list[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients of a fixed random projection of the result."""
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed))
    return list(torch.autograd.grad((result * weights).sum(), inputs, retain_graph=True))


def queries() -> tuple[list[Tensor], Tensor]:
    """q, k, v and a mask under which query 1 of every head of sample 1, and all of sample 3,
    have nothing to look at.
    """
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 2, t, 8, requires_grad=True) for t in (5, 7, 7))
    mask = MASK[:, None, None].repeat(1, 1, 5, 1)  # (B, 1, Q, K)
    mask[1, :, 1] = False
    return [q, k, v], mask


def test_attend_equals_torch_where_there_is_something_to_look_at():
    inputs, mask = queries()
    some = mask.any(dim=-1, keepdim=True)
    reference = F.scaled_dot_product_attention(*inputs, attn_mask=mask | ~some).masked_fill(
        ~some, 0
    )
    result, weights = attend(*inputs, mask)
    torch.testing.assert_close(result, reference)
    torch.testing.assert_close(gradients(result, inputs), gradients(reference, inputs))
    torch.testing.assert_close(
        weights.sum(dim=-1, keepdim=True), some.expand(-1, 2, -1, -1).float()
    )


def test_attend_and_attend_fused_are_the_same_forward_and_gradient():
    inputs, mask = queries()
    for m in (mask, None):
        written, fused = attend(*inputs, m)[0], attend_fused(*inputs, m)
        torch.testing.assert_close(written, fused)
        torch.testing.assert_close(gradients(written, inputs), gradients(fused, inputs))


@pytest.mark.parametrize("function", [lambda *x: attend(*x)[0], attend_fused])
def test_a_query_with_nothing_to_look_at_gives_exact_zero_and_finite_gradients(function):
    inputs, mask = queries()
    result = function(*inputs, mask)
    assert not result[3].any() and not result[1, :, 1].any() and result[1, :, 0].any()
    found = gradients(result, inputs)
    assert all(g.isfinite().all() for g in found)
    assert not found[0][3].any() and not found[2][3].any()


@pytest.mark.parametrize("function", [lambda *x: attend(*x)[0], attend_fused])
def test_attention_does_not_see_what_the_mask_hides(function):
    (q, k, v), mask = queries()
    hidden = ~MASK[:, None, :, None]  # (B, 1, K, 1)
    other = function(q, k.masked_fill(hidden, 50.0), v.masked_fill(hidden, -1e9), mask)
    torch.testing.assert_close(other, function(q, k, v, mask))


@pytest.mark.parametrize("function", [lambda *x: attend(*x)[0], attend_fused])
def test_a_hidden_key_stays_hidden_however_low_the_real_scores_are(function):
    q, k, v = (
        torch.full((1, 1, 1, 4), 1e3),
        torch.full((1, 1, 2, 4), -1e3),
        torch.tensor([[1.0] * 4, [50.0] * 4])[None, None],
    )
    torch.testing.assert_close(function(q, k, v, torch.tensor([[[[True, False]]]])), v[:, :, :1])


def test_attention_equals_torch_multihead_attention_forward_weights_and_gradient():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(3, 5, 8, requires_grad=True), torch.randn(3, 7, 8, requires_grad=True)
    look = MASK[:3]  # torch gives NaN for an empty row
    expected, expected_weights = theirs(
        x, context, context, key_padding_mask=~look, average_attn_weights=False
    )
    with recording(ours):
        recorded = ours(x, look[:, None, None], context)
    fused = ours(x, look[:, None, None], context)
    torch.testing.assert_close(ours.weights, expected_weights)
    for result in (recorded, fused):
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(
            gradients(result, [x, context]), gradients(expected, [x, context])
        )
    of_q = gradients(fused, [ours.q.weight, ours.kv.weight])
    torch.testing.assert_close(torch.cat(of_q), gradients(expected, [theirs.in_proj_weight])[0])


def test_recording_keeps_weights_only_inside_its_block_also_after_an_error():
    model = Transformer(8, 1, 2)
    attention = model.blocks[0].attention
    model(torch.randn(4, 7, 8), MASK[:, None, None])
    assert attention.weights is None
    with pytest.raises(RuntimeError), recording(model):
        model(torch.randn(4, 7, 8), MASK[:, None, None])
        raise RuntimeError
    assert attention.weights.shape == (4, 2, 7, 7) and not attention.record
    assert not attention.weights[3].any() and not attention.weights[1, :, :, 4:].any()


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match=r"dim \(10\) must be divisible by heads \(4\)"):
        Attention(10, 4)


def test_sine_positions_are_those_of_the_paper_and_longer_ones_begin_alike():
    table = sine_positions(6, 8)
    for position in range(6):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            torch.testing.assert_close(
                table[position, 2 * i : 2 * i + 2], torch.tensor([math.sin(angle), math.cos(angle)])
            )
    torch.testing.assert_close(sine_positions(40, 8)[:6], table)


def test_variational_dropout_draws_one_mask_for_all_steps_of_a_sample_and_keeps_the_mean():
    torch.manual_seed(0)
    dropout = VariationalDropout(0.25)
    y = dropout(torch.ones(8, 5, 500))
    assert torch.equal(y, y[:, :1].expand_as(y))  # the same for all time steps
    assert not torch.equal(y[0], y[1])  # another one for each sample
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.mean() - 1) < 0.05
    assert torch.equal(dropout.eval()(y), y)


def test_reverse_within_reverses_each_row_in_its_own_length_and_is_its_own_inverse():
    x = torch.arange(28.0).view(4, 7, 1)
    y = reverse_within(x, MASK)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(y[row, :length], x[row, :length].flip(0)) and torch.equal(
            y[row, length:], x[row, length:]
        )
    assert torch.equal(reverse_within(y, MASK), x)


CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def recurrent_pair(cell: str, depth: int = 2, dim: int = 6) -> tuple[Recurrent, nn.Module]:
    """Ours, and torch's bidirectional layer with the same numbers."""
    torch.manual_seed(0)
    ours, theirs = (
        Recurrent(dim, cell, depth),
        CELLS[cell](dim, dim // 2, depth, batch_first=True, bidirectional=True),
    )
    with torch.no_grad():
        for i in range(depth):
            for part, suffix in ((ours.ahead[i], ""), (ours.back[i], "_reverse")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(theirs, f"{name}_l{i}{suffix}").copy_(getattr(part, f"{name}_l0"))
    return ours, theirs


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_equals_torch_packed_bidirectional_layer_forward_and_gradient(cell):
    ours, theirs = recurrent_pair(cell)
    x = torch.randn(4, 7, 6, requires_grad=True)
    packed = nn.utils.rnn.pack_padded_sequence(
        x[:3], torch.tensor(LENGTHS[:3]), batch_first=True, enforce_sorted=False
    )
    expected, _ = nn.utils.rnn.pad_packed_sequence(
        theirs(packed)[0], batch_first=True, total_length=7
    )
    result = ours(x, MASK)
    torch.testing.assert_close(result[:3], expected)
    assert not result[3].any()  # torch refuses a row of length zero
    weights = torch.randn(4, 7, 6)
    (result * weights).sum().backward()
    own, x.grad = x.grad, None
    (expected * weights[:3]).sum().backward()
    torch.testing.assert_close(own, x.grad)
    for i in range(2):
        torch.testing.assert_close(
            ours.ahead[i].weight_hh_l0.grad, getattr(theirs, f"weight_hh_l{i}").grad
        )
        torch.testing.assert_close(
            ours.back[i].weight_ih_l0.grad, getattr(theirs, f"weight_ih_l{i}_reverse").grad
        )
        torch.testing.assert_close(
            ours.back[i].bias_hh_l0.grad, getattr(theirs, f"bias_hh_l{i}_reverse").grad
        )


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_does_not_depend_on_padding_on_its_content_or_on_other_samples(cell):
    ours, _ = recurrent_pair(cell)
    x = torch.randn(4, 7, 6)
    expected = ours(x, MASK)
    longer = F.pad(x.masked_fill(~MASK[..., None], 1e4), (0, 0, 0, 5), value=-1e4)
    torch.testing.assert_close(ours(longer, F.pad(MASK, (0, 5)))[:, :7], expected)
    torch.testing.assert_close(ours(x[1:2, :4], MASK[1:2, :4])[0], expected[1, :4])


def test_recurrent_drops_in_training_only():
    layer, x = Recurrent(6, "gru", dropout=0.5), torch.randn(4, 7, 6)
    assert not torch.equal(layer(x, MASK), layer(x, MASK))
    layer.eval()
    assert torch.equal(layer(x, MASK), layer(x, MASK))


def test_a_wrong_cell_or_width_is_named():
    with pytest.raises(
        ValueError, match=r"cell is 'LSTM', expected one of \['gru', 'lstm', 'rnn'\]"
    ):
        Recurrent(6, "LSTM")
    with pytest.raises(ValueError, match="dim is 7, expected an even number"):
        Recurrent(7)


def test_a_transformer_does_not_see_padding_and_a_memory_reaches_it():
    torch.manual_seed(0)
    model = Transformer(8, 2, 2, cross=True)
    x, memory, memory_mask = (
        torch.randn(4, 7, 8),
        torch.randn(4, 5, 8),
        torch.arange(5) < torch.tensor([5, 0, 2, 3])[:, None],
    )
    look, look_memory = MASK[:, None, None], memory_mask[:, None, None]
    y = model(x, look, memory, look_memory)
    hidden = model(
        x.masked_fill(~MASK[..., None], 9.0),
        look,
        memory.masked_fill(~memory_mask[..., None], 9.0),
        look_memory,
    )
    torch.testing.assert_close(hidden[MASK], y[MASK])
    changed = model(x, look, memory + 1 + torch.randn_like(memory), look_memory)
    assert torch.equal(
        (changed != y).flatten(1).any(dim=1), torch.tensor([True, False, True, True])
    )


def test_a_model_can_be_copied_and_pickled_after_recording_and_its_weights_stay_readable():
    model = Transformer(8, 1, 2)
    with recording(model):
        model(torch.randn(4, 7, 8), MASK[:, None, None]).sum().backward()
    kept = model.blocks[0].attention.weights
    assert not kept.requires_grad and kept.grad_fn is None
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.blocks[0].attention.weights, kept)


def test_recording_does_not_change_the_gradient():
    model, x = Transformer(8, 1, 2), torch.randn(4, 7, 8)
    plain = gradients(model(x, MASK[:, None, None]), list(model.parameters()))
    with recording(model):
        recorded = gradients(model(x, MASK[:, None, None]), list(model.parameters()))
    torch.testing.assert_close(recorded, plain)


@pytest.mark.parametrize("branch", ["attention", "cross", "mlp"])
def test_dropout_acts_on_every_branch_of_a_block(branch):
    """With everything dropped, what each branch would add is gone and x comes out as it went in."""
    block, x = Block(8, 2, cross=True, dropout=1.0), torch.randn(4, 7, 8)
    for other in {"attention", "cross", "mlp"} - {branch}:  # one branch at a time
        last = block.mlp[2] if other == "mlp" else getattr(block, other).out
        nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    assert not torch.allclose(block.eval()(x, None, x, None), x), "the branch adds something"
    assert torch.equal(block.train()(x, None, x, None), x)
