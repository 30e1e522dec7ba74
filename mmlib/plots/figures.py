"""Figures of the course and the command line: numbers and samples in, a matplotlib Figure out.

Colours are those of Okabe and Ito, which colour-blind people can distinguish. The background is
white, so that figures can be read in dark themes too. A notebook shows a figure where a cell ends
with it; ``save`` writes it to a file. Labels are English.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from mmlib.plots.style import COLOURS, GREY, INK, empty_figure, families, styled


@styled
def confusion(matrix: Any, names: Sequence[str], title: str | None = None) -> Any:
    """A confusion matrix: counts (K, K), true class by predicted class.

    The shade is the share of the true class; with up to 20 classes the counts stand in the cells,
    with many not every class is named. ``title`` stands above them. Raises ValueError where the
    matrix is not square or the names do not fit it.

    >>> from mmlib.plots import describe
    >>> describe(confusion([[9, 1], [2, 8]], ["cat", "dog"]))
    'map; across: predicted; up: true'
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(names), len(names)):
        raise ValueError(
            f"the confusion matrix has shape {matrix.shape}, expected {(len(names), len(names))} "
            f"for {len(names)} class names"
        )
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(10.0, 2.4 + 0.42 * len(names))
    figure = empty_figure(side + 0.8, side)
    axes = figure.add_subplot()
    shades = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    _name_classes(axes, names)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour)
    figure.colorbar(shades, ax=axes, label="share of the true class", shrink=0.9)
    if title is not None:
        figure.suptitle(title)
    return figure


def _name_classes(axes: Any, names: Sequence[str]) -> None:
    """Write the names at both axes: of all classes, with 80 or more of every second, third, ..."""
    places = range(0, len(names), max(1, len(names) // 40))
    labels = [textwrap.shorten(str(names[i]), 24, placeholder="...") for i in places]
    as_written: dict[str, Any] = {"parse_math": False}  # '$5_$10' is a name, not a formula
    if not all(map(str.isascii, labels)):
        as_written["fontfamily"] = families()
    turned = max(map(len, labels)) > 3 and len(labels) > 3
    axes.set_xticks(places, labels, rotation=90 if turned else 0, **as_written)
    axes.set_yticks(places, labels, **as_written)


@styled
def bars(
    scores: Mapping[str, float],
    best: Mapping[str, float] | None = None,
    chance: float | None = None,
    label: str = "accuracy",
) -> Any:
    """One bar for each score (0 to 1), with its number.

    ``best`` marks the best score that is possible, by the same names, and ``chance`` that of a
    blind guess. Raises ValueError where ``best`` has a name that no bar has.

    >>> from mmlib.plots import describe
    >>> describe(bars({"image": 0.9, "text": 0.75}))
    'bars: image 0.9, text 0.75; up: accuracy'
    """
    unknown = set(best or {}) - set(scores)
    if unknown:
        raise ValueError(
            f"best has {sorted(unknown)}, which no bar has; the bars are {list(scores)}"
        )
    figure = empty_figure(max(4.5, 1.3 * len(scores) + 1.8), 3.4)
    axes = figure.add_subplot()
    plate = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none"}
    bold: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "weight": "bold"}
    for place, (name, score) in enumerate(scores.items()):
        axes.bar(place, score, 0.62, color=COLOURS.get(name, COLOURS["all"]))
        axes.text(place, 0.1, f"{score:.2f}", bbox=plate, **bold)
    if best:
        places = np.array([list(scores).index(name) for name in best])
        left, right, heights = places - 0.38, places + 0.38, list(best.values())
        axes.hlines(heights, left, right, color=INK, linewidth=2.5, label="best possible")
    if chance is not None:
        axes.axhline(chance, color=INK, linestyle=":", linewidth=1.5, label="chance")
    axes.set_xticks(range(len(scores)), [textwrap.fill(name, 14) for name in scores])
    axes.set(ylim=(0, 1.02), ylabel=label)
    if best or chance is not None:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2, frameon=False)
    return figure


@styled
def samples(
    images: Sequence[Any],
    texts: Sequence[str],
    sounds: Sequence[Any],
    titles: Sequence[str] | None = None,
    rate: int = 16_000,
) -> Any:
    """A column for each sample: image, caption, waveform, spectrogram (dark = soft, bright = loud).

    Images (H, W, 3) or (3, H, W), of 0 to 255 or 0 to 1; sounds (L,) at ``rate`` samples a second.
    What is None or empty is a missing modality. Raises ValueError where the numbers differ.

    >>> tone = np.sin(np.arange(8000) / 5)
    >>> figure = samples([np.zeros((16, 16, 3)), None], ["a cat", "it barks"], [None, tone])
    >>> len(figure.axes)
    8
    """
    if not len(images) == len(texts) == len(sounds):
        raise ValueError(
            f"got {len(images)} images, {len(texts)} captions and {len(sounds)} sounds, expected "
            "as many of each; give None where one is missing"
        )
    figure = empty_figure(2.25 * len(images), 5)
    grid = figure.subplots(
        4, len(images), squeeze=False, gridspec_kw={"height_ratios": [2.3, 0.85, 0.7, 1]}
    )
    longest = max([len(sound) for sound in sounds if sound is not None] + [1]) / rate
    for column, (image, text, sound) in enumerate(zip(images, texts, sounds)):
        photo, caption, wave, spectrum = grid[:, column]
        if titles is not None:
            photo.set_title(titles[column], fontsize=11)
        _show_image(photo, image)
        caption.axis("off")
        lines = textwrap.fill(text or "(no words)", 27, max_lines=5, placeholder=" ...")
        caption.text(
            0.5, 1, lines, ha="center", va="top", fontsize=8.5, transform=caption.transAxes
        )
        _show_sound(wave, spectrum, sound, rate, longest)
        if column:
            wave.set_yticklabels([])
            spectrum.set_yticklabels([])
    grid[2, 0].set_ylabel("waveform", fontsize=8)
    grid[3, 0].set_ylabel("kHz", fontsize=8)
    return figure


def _show_image(axes: Any, image: Any) -> None:
    """The image without ticks; (3, H, W) is turned to (H, W, 3)."""
    axes.set_xticks([])
    axes.set_yticks([])
    if image is None:
        axes.text(0.5, 0.5, "(no image)", ha="center", va="center", transform=axes.transAxes)
        axes.set_box_aspect(1)
        return
    image = np.asarray(image)
    if image.shape[0] == 3 and image.shape[-1] != 3:
        image = image.transpose(1, 2, 0)
    axes.imshow(image)


def _show_sound(wave: Any, spectrum: Any, sound: Any, rate: int, longest: float) -> None:
    """The waveform above, the spectrogram below, on one time axis of ``longest`` seconds."""
    for axes in (wave, spectrum):
        axes.tick_params(labelsize=7, length=2)
        axes.set_xlim(0, longest)
    wave.set(ylim=(-1, 1), yticks=[-1, 0, 1], xticklabels=[])
    spectrum.set(ylim=(0, rate / 2000))
    spectrum.set_xlabel("seconds", fontsize=8, labelpad=1)
    sound = np.zeros(0, np.float32) if sound is None else np.asarray(sound, dtype=np.float32)
    if not len(sound):
        wave.text(
            0.5, 0.5, "(no sound)", ha="center", va="center", fontsize=8.5, transform=wave.transAxes
        )
        return
    wave.plot(np.arange(len(sound)) / rate, sound, color=COLOURS["audio"], linewidth=0.5)
    size, step = 400, 80  # samples: windows of 25 ms, one every 5 ms, at 16 kHz
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(sound, size // 2), size)[::step]
    spectra = np.fft.rfft(windows * np.hanning(size), axis=1)  # (frames, bins)
    loudness = 10 * np.log10(np.abs(spectra) ** 2 + 1e-10).T  # (bins, frames), in decibels
    spectrum.imshow(
        loudness,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudness.max() - 70,
        extent=(0, len(sound) / rate, 0, rate / 2000),
    )


@styled
def robustness(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows of ``mmlib.robust.curves``: accuracy against the level of a fault.

    There is a panel for each fault and modality, with a line for each model.

    >>> from mmlib.plots import describe
    >>> row = {"fault": "noise", "modality": "image", "model": "sum"}
    >>> rows = [row | {"level": 0, "accuracy": 0.9}, row | {"level": 1, "accuracy": 0.6}]
    >>> describe(robustness(rows))
    'image: noise; lines: sum from 0.9 to 0.6; up: accuracy'
    """
    faults, modalities, models = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("fault", "modality", "model")
    )
    figure = empty_figure(1.2 + 2.6 * len(modalities), 0.8 + 2 * len(faults))
    grid = figure.subplots(len(faults), len(modalities), squeeze=False, sharey=True)
    colours, styles = cycle([*COLOURS.values(), GREY]), cycle(["-", "--", ":", "-."])
    looks = [
        {"color": colour, "linestyle": style, "label": model}
        for model, colour, style in zip(models, colours, styles)
    ]
    for (i, j), axes in np.ndenumerate(grid):
        for look in looks:
            here = (faults[i], modalities[j], look["label"])
            points = [
                (row["level"], row["accuracy"])
                for row in rows
                if (row["fault"], row["modality"], row["model"]) == here
            ]
            axes.plot(*zip(*points), marker="o", markersize=3.5, **look)
        axes.set(title=f"{modalities[j]}: {faults[i]}", ylim=(0, 1.02))
        axes.title.set_fontsize(10)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    figure.supxlabel("level", fontsize=10)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(models),
        frameon=False,
    )
    return figure
