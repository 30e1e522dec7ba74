"""Figures of audio: aliasing, waveforms, spectra, spectrograms, mel filters; and players.

A clip is (L,) numbers from -1 to 1 at ``rate`` samples a second.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, styled

RATE = 16_000  # samples a second, as players get them
HIGHEST, SHOWN = 8000, 0.002  # the highest tone in Hz and the seconds that ``aliasing`` draws
LINES = list(zip([*COLOURS.values(), GREY], ["-", "--", "-.", ":", (0, (5, 1))]))


def alias(frequency: float, rate: float) -> float:
    """The frequency in Hz, 0 to rate / 2, that a tone sampled ``rate`` times a second is heard as.

    Both tones have the same samples, apart from the sign. Raises ValueError for a ``frequency``
    below 0 or a ``rate`` that is not above 0.
    """
    if rate <= 0 or frequency < 0:
        raise ValueError(
            f"a tone of {frequency} Hz at {rate} samples a second, expected a frequency of 0 or "
            "more and a rate above 0"
        )
    return abs(frequency - rate * round(frequency / rate))


def heard(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    """A tone sampled ``rate`` times a second without a filter, as it is played: (L,) at 16 kHz.

    A loudspeaker draws the smoothest curve through the samples; here a polyphase filter does. The
    ends are faded.
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
        f"({half:g} Hz), so it is heard as {found:g} Hz, its alias."
    )


def listen(sounds: Mapping[str, Any], rate: int = RATE) -> Any:
    """A player with its name for each sound, for a notebook.

    The loudness is not changed; what lies beyond -1 to 1 is cut off. Raises ValueError for a sound
    that is not (L,) with at least one sample.
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
    """A tone in Hz sampled ``rate`` times a second, and what is heard of it.

    Left: the tone, its samples, and the tone that is heard, which has the same samples. Right: what
    is heard of every tone at this rate.
    """
    figure = empty_figure(9, 3)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _same_samples(left, frequency, rate)
    _heard_of_every_tone(right, frequency, rate)
    return figure


def _same_samples(axes: Any, frequency: float, rate: int) -> None:
    """The tone, the tone that is heard, and the samples of both, over time."""
    found = alias(frequency, rate)
    # a tone that is folded down runs backwards
    side = 1 if frequency >= rate * round(frequency / rate) else -1
    time, ticks = np.linspace(0, SHOWN, 800), np.arange(int(SHOWN * rate) + 1) / rate
    axes.plot(
        time * 1000,
        np.sin(2 * np.pi * frequency * time),
        color=GREY,
        linewidth=1,
        label=f"the tone, {frequency:g} Hz",
    )
    axes.plot(
        time * 1000,
        side * np.sin(2 * np.pi * found * time),
        color=COLOURS["image"],
        linewidth=2,
        linestyle="--",
        label=f"heard, {found:g} Hz",
    )
    axes.plot(
        ticks * 1000,
        np.sin(2 * np.pi * frequency * ticks),
        "o",
        color=INK,
        markersize=5,
        label=f"samples, {rate:g} a second",
    )
    axes.set(xlabel="milliseconds", ylabel="pressure", ylim=(-1.1, 1.1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8.5)


def _heard_of_every_tone(axes: Any, frequency: float, rate: int) -> None:
    """What is heard against what is played, with a dot at this tone."""
    tones = np.linspace(0, HIGHEST, 801)
    folded = [alias(tone, rate) / 1000 for tone in tones]
    dot = {"color": COLOURS["all"], "markersize": 9, "markeredgecolor": INK}
    axes.plot(tones / 1000, folded, color=COLOURS["image"], linewidth=2)
    axes.plot(frequency / 1000, alias(frequency, rate) / 1000, "o", **dot)
    axes.axvline(rate / 2000, color=GREY, linestyle=":")
    axes.set(
        xlabel="tone (kHz)",
        ylabel="heard (kHz)",
        xlim=(0, HIGHEST / 1000),
        ylim=(0, HIGHEST / 1000),
        title="dotted: half the sampling rate",
    )
    axes.title.set_fontsize(9.5)


@styled
def waves(sounds: Mapping[str, Any], rate: int = RATE) -> Any:
    """A panel for each sound: pressure over time, on the same scales."""
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
    """A line for each power spectrum (bins,) from 0 to rate / 2.

    It is drawn in decibels below its own loudest bin, down to ``lowest``.
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
    """A panel for each spectrogram (bands, T): dark is low, bright is high, on one scale for all.

    ``frames`` is their number a second. ``highest`` is the frequency of the last band in Hz, if
    bands are equally wide; without it the bands are numbered (mel bands). The scale has 24 colours
    only, because few colours make small files, and a notebook holds many such images. Raises
    ValueError if there is no spectrogram.
    """
    if not pictures:
        raise ValueError("no spectrogram to draw, expected a name and an array (bands, T) for each")
    from matplotlib import colormaps

    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = empty_figure(max(4.0, 2.1 * columns), 2.4 * rows)
    colours = colormaps["magma"].resampled(24)
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
    """Mel filters (bins, mels).

    Left: the mel scale. Right: the triangular filters, each over the frequencies that it adds up.
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
    """A line for each name: its accuracies at the settings ``x`` of a dial, at equal distances.

    ``label`` says what the dial is; ``chance`` is drawn as a dotted line.
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
