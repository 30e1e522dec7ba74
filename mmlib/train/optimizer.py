"""AdamW, the learning rate of each step, and gradient clipping."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.train import distributed
from mmlib.train.config import TrainConfig

MakeOptimizer = Callable[[nn.Module, TrainConfig], torch.optim.Optimizer]


def lr_factor(step: int, steps: int, config: TrainConfig) -> float:
    """The share of the highest learning rate that a step gets, 0 to 1.

    It rises in a straight line over the warm-up, then falls along half a cosine towards 0. ``step``
    counts from 0.
    """
    rise = round(config.warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def lr_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a step with the default optimizer: ``config.lr`` times ``lr_factor``."""
    return config.lr * lr_factor(step, steps, config)


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019), fused.

    Weights with two axes or more decay; biases, norms and single numbers do not.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, fused=True
    )


def make_optimizer(
    make: MakeOptimizer, model: nn.Module, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimizer that ``make(model, config)`` returns.

    Raises ValueError if ``make`` is not a function, if it returns anything else, or if the
    optimizer holds a parameter that is not the model's.
    """
    if isinstance(make, torch.optim.Optimizer) or not callable(make):
        raise ValueError(
            f"optimizer is {_article(make)}, expected a function (model, config) -> "
            "torch.optim.Optimizer, for example "
            "optimizer=lambda model, config: torch.optim.SGD(model.parameters(), lr=0.1)"
        )
    made, own = make(model, config), {id(p) for p in model.parameters()}
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            f"the function given as optimizer returned {_article(made)}, expected a "
            "torch.optim.Optimizer"
        )
    if not all(id(p) in own for group in made.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer holds a parameter that is not one of the model's: make it from the "
            "model that the function is given"
        )
    return made


def _article(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def divide_and_clip(parameters: list[nn.Parameter], divisor: Tensor, clip: float) -> Tensor:
    """Divide all gradients by ``divisor``, a scalar, then clip their common norm to ``clip``.

    Both are one division, by the larger of ``divisor`` and norm / ``clip``. Returns the norm before
    it, a scalar tensor: it is finite if all gradients are, and a GPU has not been waited for.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(
        torch.stack([distributed.full(norm) for norm in torch._foreach_norm(gradients)])
    )
    if math.isfinite(clip):
        divisor = torch.maximum(divisor, norm / clip)
    torch._foreach_div_(gradients, divisor)
    return norm
