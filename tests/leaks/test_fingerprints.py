"""What copies are recognised by is computed as it is described."""

from itertools import product

import numpy as np
import pytest

from mmlib.leaks.files import BANDS, HOP, RATE, SLICES, audio_fingerprint
from mmlib.leaks.texts import WordPairs


def test_each_slice_of_a_sound_is_its_mean_power_in_decibels_below_the_loudest():
    power = np.random.default_rng(0).uniform(0.01, 1, (200, BANDS))  # (frames, BANDS)
    passed = np.sqrt(power.sum(axis=1)).cumsum()
    start, end = np.interp([0.01 * passed[-1], 0.99 * passed[-1]], passed, np.arange(200))
    edges, frames = np.linspace(start, end + 1, SLICES + 1), np.arange(200)
    # the share of each frame, from its number to the next, that lies in each slice
    inside = np.minimum(edges[1:, None], frames + 1) - np.maximum(edges[:-1, None], frames)
    mean = inside.clip(min=0) @ power  # (SLICES, BANDS)
    decibel = 10 * np.log10(mean / mean.max() + 0.01)
    found = audio_fingerprint(power)
    np.testing.assert_allclose(found[:-1], decibel.ravel() / np.sqrt(decibel.size), atol=1e-9)
    assert found[-1] == pytest.approx(10 * np.log((end - start + 1) * HOP / RATE))


def test_the_chances_of_all_texts_of_a_language_add_up_to_one():
    pairs = WordPairs([*["a b", "b b a", "a", "b", "b a", "a b b", "b b"] * 2, "c a"])
    total = sum(
        np.exp(pairs.log_chance(" ".join(words)))
        for length in range(10)
        for words in product("abc", repeat=length)
    )
    assert 0.99 < total < 1
