"""Random changes that keep the answer: whole-batch tensor code.

Every random number is a function of (seed, epoch, row), so batch and process do not matter.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.audio import RATE, WINDOW
from mmlib.data.text import UNKNOWN
from mmlib.renamed import old_names, renamed

IMAGE_DRAWS, AUDIO_DRAWS = 8, 6  # random numbers for a sample


@renamed(hide="modality_dropout")
@dataclass(frozen=True)
class Augment:
    """How strongly training samples are changed; 0 turns a change off.

    Only the loader "train" changes samples; evaluation does not. Flipping is off by default: it
    makes another image of digits, letters and anything with a left and a right. Raises ValueError,
    naming the field, for a value out of range.

    >>> calm = Augment(rotate=5, modality_dropout=0.2)
    >>> calm.rotate, calm.shift
    (5, 0.08)
    >>> Augment(words=2.0)
    Traceback (most recent call last):
    ValueError: Augment.words is 2.0, out of range; 0 turns it off
    """

    rotate: float = 10.0  # degrees, either way
    scale: float = 0.1  # part of the size
    shift: float = 0.08  # part of the side
    shear: float = 0.1
    flip: bool = False  # half of the images mirrored
    brightness: float = 0.2  # in standard deviations of the training images
    contrast: float = 0.2
    gain: float = 6.0  # decibels
    silence: float = 0.1  # seconds of silence before the clip, at most
    speed: float = 0.1  # part of the speed, and with it of the pitch
    noise: float = 0.01  # white noise, part of the clip's peak, at most
    words: float = 0.1  # chance that a word is read as unknown
    modality_dropout: float = 0.1  # chance that a sample loses a modality; one is always left

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < (90 if name in ("rotate", "gain") else 1.01):
                raise ValueError(f"Augment.{name} is {value}, out of range; 0 turns it off")
        if self.scale >= 1 or self.speed >= 1:
            raise ValueError("Augment.scale and Augment.speed must be below 1")


DEFAULT = Augment()


def change_images(x: Tensor, u: Tensor, augment: Augment) -> Tensor:
    """Turn, scale, shear and shift each image, then change its brightness and contrast.

    x (B, 3, S, S) normalised, u (B, IMAGE_DRAWS) uniform in 0..1. One affine map moves an image.
    There is no matrix product and no sum over pixels: an image's result is the same, bit for bit,
    in any batch.
    """
    a = (2 * u - 1)[..., None, None]  # (B, 8, 1, 1)  in -1..1
    angle = a[:, 0] * augment.rotate * torch.pi / 180  # (B, 1, 1), as all below
    scale = 1 + a[:, 1] * augment.scale
    shear = a[:, 2] * augment.shear
    mirror = torch.where(a[:, 3] < 0, -1.0, 1.0) if augment.flip else 1.0
    line = (2 * torch.arange(x.shape[-1]) + 1) / x.shape[-1] - 1  # (S,)  pixel centres
    column, row = line[None, None, :], line[None, :, None]
    column, row = (column + shear * row) * scale, row * scale  # (B, S, S)
    across = (angle.cos() * column - angle.sin() * row) * mirror + 2 * augment.shift * a[:, 4]
    down = angle.sin() * column + angle.cos() * row + 2 * augment.shift * a[:, 5]
    grid = torch.stack([across, down], dim=-1)  # (B, S, S, 2)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return x.mul_(1 + a[:, 6:7] * augment.contrast).add_(a[:, 7:8] * augment.brightness)


def change_audio(x: Tensor, lengths: Tensor, u: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Silence before the clip, another speed (and pitch), gain and noise.

    x (B, L), lengths (B,), u (B, AUDIO_DRAWS) uniform in 0..1 -> the changed clips (B, L') and
    their lengths (B,). Length 0 stays 0; at most four seconds are kept.
    """
    speed = 1 + augment.speed * (2 * u[:, :1] - 1)  # (B, 1)
    lead = (u[:, 1:2] * augment.silence * RATE).floor()
    last = (lengths[:, None] - 1).clamp(min=0)
    length = (lead + (last / speed).floor() + 1).long().clamp(max=WINDOW)
    length = length.masked_fill(lengths[:, None] == 0, 0)
    time = torch.arange(max(1, int(length.max())))  # (L',)
    # (B, L') where in x each new sample lies. In place where possible: new buffers of this size
    # cost as much as the arithmetic.
    position = (time - lead).mul_(speed).clamp_(min=0).minimum(last)
    left = position.long()
    x, part = F.pad(x, (0, 1)), position.sub_(left)  # a column for left + 1, read with part 0
    y = x.gather(1, left).mul_(1 - part).add_(x.gather(1, left.add_(1)).mul_(part))
    gain = 10 ** (augment.gain * (2 * u[:, 2:3] - 1) / 20)
    y = y.masked_fill_((time < lead) | (time >= length), 0).mul_(gain)
    starts = (u[:, 3] * (len(_noise()) - WINDOW)).long().tolist()
    noise = torch.stack([_noise()[start : start + len(time)] for start in starts])  # (B, L')
    y += noise.mul_(y.abs().amax(dim=1, keepdim=True) * u[:, 4:5] * augment.noise)
    return y.clamp_(-1, 1).masked_fill_(time >= length, 0), length[:, 0]


@lru_cache(maxsize=1)
def _noise() -> Tensor:
    """White noise of deviation 1, the same in every process.

    Each clip reads it from another place.
    """
    return torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))


def drop_words(ids: Tensor, mask: Tensor, u: Tensor, augment: Augment) -> Tensor:
    """Some words become unknown, which also teaches what unknown means. ids, mask and u (B, T)."""
    return ids.masked_fill((u < augment.words) & mask, UNKNOWN)


def drop_modalities(present: Tensor, u: Tensor, augment: Augment) -> Tensor:
    """Modality dropout: (B, M) bool, True = take this modality away.

    Takes only those that are ``present`` (B, M), and never the last one of a sample. u (B, M) is
    uniform in 0..1.
    """
    dropped = (u < augment.modality_dropout) & present
    kept = u.masked_fill(~present, -1).argmax(dim=1, keepdim=True)  # (B, 1)
    every = dropped.sum(dim=1, keepdim=True) == present.sum(dim=1, keepdim=True)
    return dropped & ~(every & (torch.arange(present.shape[1]) == kept))


__getattr__ = old_names(
    __name__,
    {
        "hide_senses": "drop_modalities",
        "change_pictures": "change_images",
        "change_sounds": "change_audio",
        "PICTURE_DRAWS": "IMAGE_DRAWS",
        "SOUND_DRAWS": "AUDIO_DRAWS",
    },
    globals(),
)
