"""What classical learners read: features of images, audio and text that nothing was trained for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.encoders.audio import LogMel

SIDE = 64  # pixels; larger images are brought to it
TURNS, CELL = 9, 8  # directions of an edge; pixels of a cell
COEFFICIENTS = 20  # of the cepstrum
SILENCE = 1e-6  # power, as in torchaudio.transforms.MFCC(log_mels=True)


def image_features(images: Tensor) -> np.ndarray:
    """Edges and colours of images (N, 3, S, S) uint8 -> (N, numbers) float32.

    ``hog``, and of the colours the means of 4 x 4 fields and a histogram of 8 bins a channel.

    >>> image_features(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    (2, 1836)
    """
    x = images.float() / 255
    if x.shape[-1] > SIDE:
        x = F.interpolate(x, size=(SIDE, SIDE), mode="area")
    fields = F.adaptive_avg_pool2d(x, 4).flatten(1)  # (N, 48)
    bins = (x * 8).long().clamp(max=7).flatten(2)  # (N, 3, S * S)
    histogram = torch.stack([(bins == i).float().mean(dim=2) for i in range(8)], dim=2).flatten(1)
    return np.concatenate([hog(x.numpy()), fields.numpy(), histogram.numpy()], axis=1)


def hog(images: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (Dalal & Triggs, 2005): (N, C, H, W) floats -> (N, numbers).

    Of each pixel the channel with the steepest gradient counts. Cells of 8 x 8 pixels have a
    histogram of 9 directions, blocks of 2 x 2 cells are brought to length 1, cut at 0.2 and brought
    to length 1 again. It equals skimage.feature.hog(orientations=9, pixels_per_cell=(8, 8),
    cells_per_block=(2, 2), block_norm="L2-Hys", channel_axis=0).

    >>> hog(np.zeros((1, 3, 32, 48))).shape  # 3 x 5 blocks of 4 cells with 9 directions
    (1, 540)
    """
    down, across = np.zeros_like(images), np.zeros_like(images)
    down[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    across[:, :, :, 1:-1] = images[:, :, :, 2:] - images[:, :, :, :-2]
    steepest = np.hypot(down, across).argmax(axis=1)[:, None]  # (N, 1, H, W)
    down, across = (np.take_along_axis(x, steepest, axis=1)[:, 0] for x in (down, across))
    length, turn = np.hypot(down, across), np.rad2deg(np.arctan2(down, across)) % 180
    rows, columns = (side // CELL for side in length.shape[1:])
    cut = np.s_[:, : rows * CELL, : columns * CELL]
    number = np.floor(turn[cut] * (TURNS / 180)).astype(int) % TURNS  # (N, H, W)
    cells = np.stack(
        [
            np.where(number == i, length[cut], 0)
            .reshape(-1, rows, CELL, columns, CELL)
            .mean(axis=(2, 4))
            for i in range(TURNS)
        ],
        axis=-1,
    )  # (N, rows, columns, TURNS)
    corners = [cells[:, y : rows - 1 + y, x : columns - 1 + x] for y in (0, 1) for x in (0, 1)]
    blocks = np.stack(corners, axis=3).reshape(len(cells), rows - 1, columns - 1, -1)
    blocks = np.minimum(_unit(blocks), 0.2)
    return _unit(blocks).reshape(len(cells), -1).astype(np.float32)


def _unit(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1e-10)


def audio_features(clip: Tensor) -> np.ndarray:
    """How a clip (L,), -1..1 at 16 kHz, sounds, whatever its length -> (numbers,) float32.

    Means and deviations over time of the cepstrum and of its steps from frame to frame, with the
    loudness in decibels and the length in seconds.

    >>> audio_features(torch.zeros(16_000)).shape
    (82,)
    """
    cepstrum = mfcc(clip[None])[0]  # (COEFFICIENTS, frames)
    steps = cepstrum.diff(dim=1) if cepstrum.shape[1] > 1 else torch.zeros_like(cepstrum)
    parts = [
        part for x in (cepstrum, steps) for part in (x.mean(dim=1), x.std(dim=1, correction=0))
    ]
    power = 10 * torch.log10(clip.square().mean() + 1e-10)
    return torch.cat([*parts, torch.stack([power, torch.tensor(len(clip) / 16_000)])]).numpy()


def mfcc(waveform: Tensor) -> Tensor:
    """Mel-frequency cepstrum (B, 20, frames) of waveforms (B, L): the DCT of the log-mel spectrum.

    It equals torchaudio.transforms.MFCC(n_mfcc=20, log_mels=True) with the settings of ``LogMel``.

    >>> mfcc(torch.randn(1, 1600)).shape
    torch.Size([1, 20, 11])
    """
    mel = (LogMel().spectrogram(waveform) + SILENCE).log()  # (B, F, frames)
    mels = mel.shape[1]
    angle = torch.arange(COEFFICIENTS)[:, None] * (torch.arange(mels) + 0.5) * (torch.pi / mels)
    cosines = angle.cos() * (2 / mels) ** 0.5
    cosines[0] /= 2**0.5
    return cosines @ mel


def text_features(train: Sequence[np.ndarray]) -> Any:
    """TF-IDF of words and of pairs of neighbours, from token ids: a fitted TfidfVectorizer.

    >>> learner = text_features([np.array([4, 5]), np.array([4])])
    >>> learner.transform([np.array([5, 9])]).shape, sorted(learner.vocabulary_)  # 9 is not known
    ((1, 3), ['4', '4 5', '5'])
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=_words_and_pairs, sublinear_tf=True).fit(train)


def _words_and_pairs(ids: np.ndarray) -> list[str]:
    words = [str(i) for i in ids]
    return [*words, *(f"{one} {other}" for one, other in zip(words, words[1:]))]
