"""What is heard: a voice that shows the species, or the noises of a room, which do not.

Mono, float32, -1..1, at RATE. Clips have 10 bits, like those of a toy: as FLAC they take half the
space of 16 bits.
"""

import numpy as np

RATE = 16_000  # samples a second
Array = np.ndarray


def sound(rng: np.random.Generator, species: int | None) -> Array:
    """A clip of 0.6 to 0.95 s, (samples,): a voice in a room.

    Where ``species`` is None, it is a noise that any pet may be near.
    """
    length = int(RATE * rng.uniform(0.6, 0.95))
    source = SOUNDS[rng.integers(len(SOUNDS))] if species is None else (meow, bark)[species]
    wave = source(rng, length)
    wave = wave[:length] * (rng.uniform(0.25, 0.8) / max(np.abs(wave).max(), 1e-9))
    out = rng.normal(size=length) * rng.uniform(0.0005, 0.0015)
    start = int(rng.uniform(0, length - len(wave) + 1))
    out[start : start + len(wave)] += wave
    return quantised(out)


def quantised(wave: Array) -> Array:
    """Cut to -1..1 and rounded to 10 bits, which a 16-bit file holds exactly."""
    return (np.clip(np.rint(wave * 512), -512, 511) / 512).astype(np.float32)


def meow(rng: np.random.Generator, length: int) -> Array:
    """A gliding tone whose mouth opens and closes: harmonics under one moving formant."""
    t = _line(rng.uniform(0.40, 0.58))
    arch = 4 * t * (1 - t)  # 0 at both ends, 1 in the middle
    pitch = rng.uniform(420, 680) * (1 + rng.uniform(0.2, 0.4) * arch - rng.uniform(0, 0.25) * t)
    pitch = pitch * (1 + 0.012 * np.sin(2 * np.pi * rng.uniform(5, 8) * t))
    formant = rng.uniform(700, 1000) + rng.uniform(800, 1300) * arch
    return _harmonics(pitch, formant, 650, 7) * arch**0.6


def bark(rng: np.random.Generator, length: int) -> Array:
    """One to three short, rough, falling bursts."""
    base, rough, parts = rng.uniform(170, 380), rng.uniform(0.4, 0.8), []
    for _ in range(rng.integers(1, 4)):
        t = _line(rng.uniform(0.10, 0.15))
        tone = _harmonics(base * (1.35 - 0.6 * t), 900 - 350 * t, 700, 12)
        breath = _hiss(rng, len(t), 4)
        parts += [
            (tone + rough * breath) * np.exp(-4 * t) * np.minimum(1, 25 * t),
            np.zeros(int(RATE * rng.uniform(0.03, 0.07))),
        ]
    return np.concatenate(parts[:-1])


def footsteps(rng: np.random.Generator, length: int) -> Array:
    """Soft thuds at an even pace."""
    wave, gap = np.zeros(length), int(RATE * rng.uniform(0.17, 0.3))
    for start in range(int(rng.uniform(0, 0.1) * RATE), length - 1600, gap):
        t = np.arange(1600) / 1600
        wave[start : start + 1600] += (
            _hiss(rng, 1600, 24) * np.exp(-7 * t) * np.minimum(1, 20 * t) * rng.uniform(0.7, 1)
        )
    return wave


def bounce(rng: np.random.Generator, length: int) -> Array:
    """A ball that bounces quicker and quicker, each time less loud."""
    wave, at, gap, loud = np.zeros(length), rng.uniform(0, 0.06), rng.uniform(0.2, 0.3), 1.0
    pitch = rng.uniform(110, 190)
    while at * RATE < length - 1200 and gap > 0.03:
        t, start = np.arange(1200) / RATE, int(at * RATE)
        wave[start : start + 1200] += (
            loud * np.sin(2 * np.pi * pitch * t * (1 - 2 * t)) * np.exp(-45 * t)
        )
        at, gap, loud = at + gap, gap * 0.75, loud * 0.7
    return wave


def clock(rng: np.random.Generator, length: int) -> Array:
    """Ticks, high and short."""
    wave, gap, pitch = np.zeros(length), int(RATE * rng.uniform(0.2, 0.26)), rng.uniform(2200, 3800)
    for i, start in enumerate(range(int(rng.uniform(0, 0.12) * RATE), length - 500, gap)):
        t = np.arange(500) / RATE
        wave[start : start + 500] += np.sin(2 * np.pi * pitch * (1 - 0.15 * (i % 2)) * t) * np.exp(
            -280 * t
        )
    return wave


def rain(rng: np.random.Generator, length: int) -> Array:
    """A hiss with drops in it."""
    wave = 0.012 * _hiss(rng, length, 2)
    for start in rng.integers(0, length - 300, size=12):
        t = np.arange(300) / RATE
        wave[start : start + 300] += (
            rng.uniform(0.2, 1) * np.sin(2 * np.pi * rng.uniform(1200, 3000) * t) * np.exp(-350 * t)
        )
    return wave


SOUNDS = (footsteps, bounce, clock, rain)


def _line(seconds: float) -> Array:
    """Time from 0 to 1 over so many seconds."""
    return np.arange(int(RATE * seconds)) / int(RATE * seconds)


def _hiss(rng: np.random.Generator, length: int, width: int) -> Array:
    """Noise of deviation 1, without what is higher than about RATE / width."""
    total = np.cumsum(rng.normal(size=length + width))
    return (total[width:] - total[:-width]) / width**0.5


def _harmonics(pitch: Array, formant: Array, width: float, count: int) -> Array:
    """Overtones of a gliding pitch in Hz, loudest near the formant.

    sin(k x) follows from the two before it, without another sine.
    """
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    before, now, twice = np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
    out = np.zeros_like(phase)
    for k in range(1, count + 1):
        out += now / (1 + ((k * pitch - formant) / width) ** 2) ** 2
        before, now = now, twice * now - before
    return out
