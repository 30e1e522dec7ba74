"""Does a function written by hand equal the reference, in its result and in its gradient?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Parity", "parity"]


class Parity(NamedTuple):
    """What ``parity`` found: the largest difference of the results, and of the gradients.

    Each is a share of the largest number there, or of 1, if that is more.
    """

    name: str
    reference: str
    forward: float
    gradient: float | None  # None: no input requires a gradient

    def __str__(self) -> str:
        gradient = "no gradient" if self.gradient is None else f"gradient {self.gradient:.0e}"
        return f"equal: {self.name} = {self.reference}, forward {self.forward:.0e}, {gradient}"


def parity(
    name: str,
    reference: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *inputs: Tensor,
    tolerance: float = 1e-5,
) -> Parity:
    """Call ``ours`` and ``theirs`` with the same ``inputs``, and compare results and gradients.

    Both give a tensor or a tuple of tensors. The gradient is that of a fixed random projection of
    the output, with respect to each input that requires one; so weights to compare are inputs too.
    ``name`` and ``reference`` are for the line that is printed. Raises AssertionError, with both
    differences, if one is above ``tolerance`` or if shapes differ.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> print(parity("x * x", "square", lambda x: x * x, torch.square, x))
    equal: x * x = square, forward 0e+00, gradient 0e+00
    """
    wanted = [x for x in inputs if x.requires_grad]
    found = [_outputs_and_gradients(function, inputs, wanted) for function in (ours, theirs)]
    outputs, gradients = zip(*found)
    result = Parity(name, reference, _largest(*outputs), _largest(*gradients) if wanted else None)
    if not max(result.forward, result.gradient or 0.0) <= tolerance:  # "not": also for NaN
        raise AssertionError(f"not {result}, tolerance {tolerance:.0e}")
    return result


def _outputs_and_gradients(
    function: Callable[..., Any], inputs: tuple[Tensor, ...], wanted: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradient of their projection with respect to each ``wanted`` input."""
    output = function(*inputs)
    outputs = list(output) if isinstance(output, (tuple, list)) else [output]
    if not wanted:
        return outputs, []
    make = torch.Generator().manual_seed(0)
    total = sum(
        (part * torch.randn(part.shape, generator=make, dtype=part.dtype)).sum() for part in outputs
    )
    gradients = torch.autograd.grad(total, wanted, materialize_grads=True)
    return [part.detach() for part in outputs], list(gradients)


def _largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, as a share of the largest number of ``theirs``, or of 1."""
    shapes = [[tuple(x.shape) for x in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise AssertionError(f"shapes {shapes[0]} and {shapes[1]} are not the same")
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
        for a, b in zip(ours, theirs)
        if a.numel()
    )
