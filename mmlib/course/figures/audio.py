"""Figures and players of sound: a tone and its alias, waveforms, spectra, spectrograms, mel
filters; accuracy against a dial.

Clips are (L,) numbers from -1 to 1 at ``rate`` samples a second. Figures stand alone; ``listen``
makes what a browser plays.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

RATE, HIGHEST, SHOWN = (
    16_000,
    8000,
    0.002,
)  # what players play; the highest tone and the seconds that ``aliasing`` draws
LINES = list(zip([*COLOURS.values(), GREY], ["-", "--", "-.", ":", (0, (5, 1))]))


def alias(frequency: float, rate: float) -> float:
    """The tone in Hz that samples of a tone of ``frequency`` Hz, taken ``rate`` times a second,
    cannot be told from: 0 to rate / 2.
    """
    if rate <= 0 or frequency < 0:
        raise ValueError(
            f"a tone of {frequency} Hz at {rate} samples a second, expected a frequency of 0 or "
            "more and a rate above 0"
        )
    return abs(frequency - rate * round(frequency / rate))


def heard(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    """A tone sampled ``rate`` times a second with no filter before, then played: (L,) at 16 kHz,
    with soft ends.

    The loudspeaker draws the smoothest curve through the samples: a polyphase filter here.
    """
    from scipy.signal import resample_poly

    samples = 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    sound = resample_poly(samples, RATE, rate)
    ends = np.minimum(
        1, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / (0.02 * RATE)
    )
    return (sound * ends).astype(np.float32)


def describe_alias(frequency: float, rate: int) -> str:
    """One sentence for a reader: what the samples of this tone sound like, and why."""
    found, half = alias(frequency, rate), rate / 2
    if frequency % half == 0:
        return (
            f"A tone of {frequency:g} Hz, {rate:g} samples a second: all samples lie where "
            "this tone crosses zero, so nothing is heard."
        )
    if frequency < half:
        return (
            f"A tone of {frequency:g} Hz, {rate:g} samples a second: below half the rate "
            f"({half:g} Hz), so it is heard as it is."
        )
    return (
        f"A tone of {frequency:g} Hz, {rate:g} samples a second: not below half the rate "
        f"({half:g} Hz), "
        f"so it is heard as {found:g} Hz, its alias."
    )


def listen(sounds: Mapping[str, Any], rate: int = RATE) -> Any:
    """A player per sound, with its name, for a notebook.

    Nothing is made louder: what lies above 1 is cut off.
    """
    import soundfile
    from IPython.display import HTML

    rows = []
    for name, sound in sounds.items():
        file, samples = io.BytesIO(), np.clip(np.asarray(sound, dtype=np.float64), -1, 1)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(
                f"the sound {name!r} has shape {samples.shape}, expected (L,) with at least one "
                "sample"
            )
        soundfile.write(
            file, np.round(samples * 32767).astype(np.int16), rate, format="WAV", subtype="PCM_16"
        )
        source = f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}"
        rows.append(
            f'<div><audio controls preload="none" aria-label="{escape(name)}" src="{source}" '
            'style="vertical-align:middle"></audio>'
            f" {escape(name)}</div>"
        )
    return HTML("".join(rows))


@styled
def aliasing(frequency: float, rate: int) -> Any:
    """Left: the tone, its samples and the tone that goes through the same samples.

    Right: what is heard, for every tone at this rate.
    """
    figure, found = empty_figure(9, 3), alias(frequency, rate)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    time, ticks = np.linspace(0, SHOWN, 800), np.arange(int(SHOWN * rate) + 1) / rate
    side = (
        1 if frequency >= rate * round(frequency / rate) else -1
    )  # folded down, a tone runs backwards
    left.plot(
        time * 1000,
        np.sin(2 * np.pi * frequency * time),
        color=GREY,
        linewidth=1,
        label=f"the tone, {frequency:g} Hz",
    )
    left.plot(
        time * 1000,
        side * np.sin(2 * np.pi * found * time),
        color=COLOURS["image"],
        linewidth=2,
        linestyle="--",
        label=f"heard, {found:g} Hz",
    )
    left.plot(
        ticks * 1000,
        np.sin(2 * np.pi * frequency * ticks),
        "o",
        color=INK,
        markersize=5,
        label=f"samples, {rate:g} a second",
    )
    left.set(xlabel="milliseconds", ylabel="pressure", ylim=(-1.1, 1.1))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8.5)
    tones = np.linspace(0, HIGHEST, 801)
    right.plot(
        tones / 1000,
        [alias(tone, rate) / 1000 for tone in tones],
        color=COLOURS["image"],
        linewidth=2,
    )
    right.plot(
        frequency / 1000, found / 1000, "o", color=COLOURS["all"], markersize=9, markeredgecolor=INK
    )
    right.axvline(rate / 2000, color=GREY, linestyle=":")
    right.set(
        xlabel="tone (kHz)",
        ylabel="heard (kHz)",
        xlim=(0, HIGHEST / 1000),
        ylim=(0, HIGHEST / 1000),
        title="dotted: half the sampling rate",
    )
    right.title.set_fontsize(9.5)
    return figure


@styled
def waves(sounds: Mapping[str, Any], rate: int = RATE) -> Any:
    """A column per sound: pressure over time, all on the same axes."""
    figure = empty_figure(max(4.0, 2.4 * len(sounds)), 1.9)
    row = figure.subplots(1, len(sounds), squeeze=False, sharey=True, sharex=True)[0]
    for (name, sound), axes in zip(sounds.items(), row):
        axes.plot(
            np.arange(len(sound)) / rate, np.asarray(sound), color=COLOURS["audio"], linewidth=0.6
        )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("seconds")
    row[0].set_ylabel("pressure")
    return figure


@styled
def spectra(powers: Mapping[str, Any], rate: int = RATE, lowest: float = -100.0) -> Any:
    """A line per power spectrum (bins,) from 0 to rate / 2, in decibels below its own loudest
    bin.
    """
    figure = empty_figure(7, 3)
    axes = figure.add_subplot()
    for (name, power), (colour, style) in zip(powers.items(), LINES):
        power = np.asarray(power, dtype=np.float64)
        level = 10 * np.log10(np.maximum(power / power.max(), 1e-20))
        axes.plot(
            np.linspace(0, rate / 2, len(power)), level, color=colour, linestyle=style, label=name
        )
    axes.set(xlabel="frequency (Hz)", ylabel="decibels", ylim=(lowest, 5))
    axes.legend(frameon=False)
    return figure


@styled
def spectrograms(
    pictures: Mapping[str, Any],
    frames: float = 100.0,
    highest: float | None = None,
    columns: int = 4,
) -> Any:
    """A panel per picture (bands, T), dark = low, bright = high, one scale of 24 colours for all.

    ``frames``: how many a second. Few colours make small files: a notebook holds many such
    pictures. ``highest``: the frequency of the last band in Hz, if bands are equally wide; without
    it, bands are numbered (mel bands).
    """
    if not pictures:
        raise ValueError("no spectrogram to draw, expected a name and an array (bands, T) for each")
    from matplotlib import colormaps

    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, colours = (
        empty_figure(max(4.0, 2.1 * columns), 2.4 * rows),
        colormaps["magma"].resampled(24),
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = {name: np.asarray(picture) for name, picture in pictures.items()}
    low, high = min(x.min() for x in values.values()), max(x.max() for x in values.values())
    for axes, (name, x) in zip(grid.flat, values.items()):
        top = len(x) if highest is None else highest / 1000
        axes.imshow(
            x,
            origin="lower",
            aspect="auto",
            cmap=colours,
            vmin=low,
            vmax=high,
            interpolation="nearest",
            extent=(0, x.shape[1] / frames, 0, top),
        )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("seconds")
    for axes in grid.flat[len(values) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("mel band" if highest is None else "frequency (kHz)")
    return figure


@styled
def filters(bank: Any, rate: int = RATE) -> Any:
    """Left: the mel scale.

    Right: the triangular filters (bins, mels), each over the frequencies that it adds up.
    """
    bank = np.asarray(bank)
    figure, frequency = empty_figure(9, 2.8), np.linspace(0, rate / 2, len(bank))
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.plot(frequency, 2595 * np.log10(1 + frequency / 700), color=COLOURS["image"], linewidth=2)
    left.set(xlabel="frequency (Hz)", ylabel="mel", title="the mel scale")
    for number, weights in enumerate(bank.T):
        colour, style = LINES[number % 2]
        right.plot(frequency, weights, color=colour, linestyle=style, linewidth=1)
    right.set(xlabel="frequency (Hz)", ylabel="weight", title=f"{bank.shape[1]} mel filters")
    return figure


@styled
def lines(
    curves: Mapping[str, Sequence[float]], x: Sequence[Any], label: str, chance: float | None = None
) -> Any:
    """A line per name: its accuracies at the settings ``x`` of a dial, at equal distances.

    ``label`` says what the dial is.
    """
    figure = empty_figure(6.5, 3.2)
    axes = figure.add_subplot()
    for (name, values), (colour, style), marker in zip(curves.items(), LINES, "osD^v"):
        axes.plot(values, color=colour, linestyle=style, marker=marker, linewidth=2, label=name)
    if chance is not None:
        axes.axhline(chance, color=INK, linestyle=":", linewidth=1.2, label="chance")
    axes.set_xticks(range(len(x)), [str(value) for value in x])
    axes.set(xlabel=label, ylabel="accuracy", ylim=(0, 1.03))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize=9)
    return figure
