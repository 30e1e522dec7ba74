"""Counter-based random numbers: a function of (seed, epoch, row, stream) and of nothing else.

So they are the same whatever the batch, the order or the process.
"""

import numpy as np
import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15


def keys(seed: int, epoch: int, rows: np.ndarray, stream: int) -> np.ndarray:
    """One well-mixed uint64 per row: a hash of (seed, epoch, row, stream)."""
    state = np.full(len(rows), seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    for part in (epoch, stream, np.asarray(rows)):
        state = _mix(_mix(state) + np.asarray(part).astype(np.uint64))
    return _mix(state)


def draws(seed: int, epoch: int, rows: np.ndarray, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1): (B, count) float32.

    Row i is a function of (seed, epoch, rows[i], stream) only.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)  # (count,)
    bits = _mix(keys(seed, epoch, rows, stream)[:, None] + steps)  # (B, count)
    # 24 bits: exact in float32
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * 2.0**-24)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output step of SplitMix64 (Steele, Lea & Flood, 2014) on uint64, which wraps around."""
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
