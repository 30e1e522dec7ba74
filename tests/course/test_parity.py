"""``parity`` sees a wrong value, a wrong gradient, a wrong shape and NaN.

It measures the error there is.
"""

import pytest
import torch
import torch.nn.functional as F

from mmlib.course.parity import parity

X, W = torch.randn(5, 3), torch.randn(3, requires_grad=True)


def linear(x, w):
    return x @ w


def test_equal_functions_are_equal_forward_and_gradient():
    found = parity("product", "einsum", linear, lambda x, w: torch.einsum("ij,j->i", x, w), X, W)
    assert 0 <= found.forward < 1e-6 and 0 <= found.gradient < 1e-6
    assert str(found).startswith("equal: product = einsum, forward ") and "gradient" in str(found)
    assert parity("no weights", "same", F.relu, torch.relu, X).gradient is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, w: 1.001 * (x @ w),
        lambda x, w: (x @ w)[:, None],
        lambda x, w: x @ w / 0,
        lambda x, w: x @ (0.5 * w + 0.5 * w.detach()),
        lambda x, w: x @ w.detach(),
        lambda x, w: (x @ w, x),
        lambda x, w: x @ w * float("nan"),
    ],
    ids=["value", "shape", "infinite", "half the gradient", "no gradient", "one more", "nan"],
)
def test_what_differs_is_refused(wrong):
    with pytest.raises((AssertionError, RuntimeError)):
        parity("product", "torch", wrong, linear, X, W)


def test_the_error_is_the_largest_as_a_share_of_the_largest_number():
    one, other = torch.tensor([100.0, 1.0]), torch.tensor([100.0, 1.5])
    assert parity("a", "b", lambda: one, lambda: other, tolerance=0.1).forward == pytest.approx(
        0.005
    )
    assert parity(
        "a", "b", lambda: one / 1e5, lambda: 0 * one, tolerance=0.1
    ).forward == pytest.approx(0.001)
