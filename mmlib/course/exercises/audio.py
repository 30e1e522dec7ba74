"""Exercises of 05_audio."""

import torch
from torch import Tensor

from mmlib.course.exercises.exercise import Exercise

# The frequency that is heard of a tone of 11,000 Hz, sampled 16,000 times a second, no filter.
heard = Exercise(
    5000.0,
    {
        "half the rate is the highest tone that samples can hold; "
        "a higher one comes back as another": 11000.0,
        "it is folded at half the rate, 8,000 Hz: as far below it as the tone is above it": 3000.0,
        "that is half the rate, where the folding happens, not what is heard": 8000.0,
        "the sum of both; what is heard lies below half the rate": 27000.0,
        "negative frequencies sound like positive ones": -5000.0,
    },
    tolerance=1e-3,
)


def _noisy(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and noisy clips (B, L) and a mask (B, L).

    The padding holds noise too, as in a batch that was processed after padding.
    """
    clean = torch.randn(3, 50, generator=generator) * torch.tensor([[1.0], [0.3], [0.05]])
    noisy = 1.1 * clean + 0.1 * torch.randn(3, 50, generator=generator)
    return clean, noisy, torch.arange(50) < torch.tensor([50, 30, 17])[:, None]


def _ratio(clean: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    return (clean.square() * mask).sum(dim=1) / (noise.square() * mask).sum(dim=1)


def _decibels(clean: Tensor, noisy: Tensor, mask: Tensor) -> Tensor:
    return 10 * _ratio(clean, noisy - clean, mask).log10()


def _over_the_batch(clean: Tensor, noisy: Tensor, mask: Tensor) -> Tensor:
    signal = (clean.square() * mask).sum(dim=0)
    noise = ((noisy - clean).square() * mask).sum(dim=0).clamp(min=1e-9)
    return 10 * (signal / noise).clamp(min=1e-9).log10()


signal_to_noise = Exercise(
    _decibels,
    {
        "the padding is in the sums: use the mask": (
            lambda clean, noisy, mask: _decibels(clean, noisy, torch.ones_like(mask))
        ),
        "of powers (squares) it is 10 log10; 20 log10 is for amplitudes": (
            lambda clean, noisy, mask: 2 * _decibels(clean, noisy, mask)
        ),
        "decibels need the logarithm to base 10": (
            lambda clean, noisy, mask: 10 * _ratio(clean, noisy - clean, mask).log()
        ),
        "the noise is what was added: noisy - clean, not the noisy sound": (
            lambda clean, noisy, mask: 10 * _ratio(clean, noisy, mask).log10()
        ),
        "it is upside down: signal over noise": (
            lambda clean, noisy, mask: -_decibels(clean, noisy, mask)
        ),
        "that is the bare ratio; decibels are 10 log10 of it": (
            lambda clean, noisy, mask: _ratio(clean, noisy - clean, mask)
        ),
        "one number for each clip (B,), not one for the batch": (
            lambda clean, noisy, mask: _decibels(clean, noisy, mask).mean()
        ),
        "the sums run over the batch; each clip has its own": _over_the_batch,
    },
    _noisy,
)


def _log_mels(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log-mel spectrograms (B, F, T), -9 in padded frames, and the masks (B, T) of the frames."""
    mask = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    loudness = torch.tensor([0.0, 3.0, -2.0])[:, None, None]
    x = 2 * torch.randn(3, 4, 8, generator=generator) + loudness
    return x.masked_fill(~mask[:, None], -9.0), mask


def _standard(x: Tensor, real: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean 0 and deviation 1 over ``axes``; only what is ``real`` (B, 1, T) or (B, F, T) counts."""
    real = real.expand_as(x)
    count = real.sum(dim=axes, keepdim=True).clamp(min=1)
    x = x - (x * real).sum(dim=axes, keepdim=True) / count
    return x / ((x * real).square().sum(dim=axes, keepdim=True) / count + 1e-5).sqrt()


def _per_clip(x: Tensor, mask: Tensor) -> Tensor:
    return _standard(x, mask[:, None], (1, 2)) * mask[:, None]


normalise = Exercise(
    _per_clip,
    {
        "the mean counts padded frames: the same clip looks different in a longer batch": (
            lambda x, mask: _standard(x, torch.ones_like(mask)[:, None], (1, 2)) * mask[:, None]
        ),
        "the mean counts padded frames, and they do not stay 0": (
            lambda x, mask: _standard(x, torch.ones_like(mask)[:, None], (1, 2))
        ),
        "what is not real must be 0 at the end, too": (
            lambda x, mask: _standard(x, mask[:, None], (1, 2))
        ),
        "the mean runs over the whole batch: a clip then depends on its neighbours": (
            lambda x, mask: _standard(x, mask[:, None], (0, 1, 2)) * mask[:, None]
        ),
        "one mean for each band: that removes how loud the bands are beside each other; "
        "take one for the clip": (
            lambda x, mask: _standard(x, mask[:, None], (2,)) * mask[:, None]
        ),
        "one mean for each frame: that removes how loud the moments are beside each other; "
        "take one for the clip": (
            lambda x, mask: _standard(x, mask[:, None], (1,)) * mask[:, None]
        ),
    },
    _log_mels,
)
