"""Figures of audio: the alias is the tone with the same samples.

Players hold what they were given, and figures show what they say.
"""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mmlib.course import widgets
from mmlib.course.figures import audio as plots_audio
from tests.figures import assert_whole, png

matplotlib.use("agg")
TIME = np.arange(8000) / 16_000
SOUND = 0.5 * np.sin(2 * np.pi * 440 * TIME)
POWER = np.abs(np.fft.rfft(SOUND[:512])) ** 2
PICTURE = np.arange(40.0).reshape(4, 10)
BANK = torchaudio.functional.melscale_fbanks(257, 0.0, 8000.0, 16, 16_000)
FIGURES = {
    "alias": lambda: plots_audio.aliasing(7000, 8000),
    "no alias": lambda: plots_audio.aliasing(500, 16_000),
    "waves": lambda: plots_audio.waves({"a": SOUND, "b": torch.from_numpy(SOUND[:2000])}),
    "spectra": lambda: plots_audio.spectra({"a": POWER, "b": torch.from_numpy(POWER) / 2}),
    "five images": lambda: plots_audio.spectrograms(
        {str(i): PICTURE[:, : 10 - i] for i in range(5)}
    ),
    "one image": lambda: plots_audio.spectrograms({"in Hz": torch.from_numpy(PICTURE)}, 50, 8000),
    "filters": lambda: plots_audio.filters(BANK),
    "lines": lambda: plots_audio.lines(
        {"a": [1, 0.5], "b": [0.9, 0.2], "c": [0.3, 0.1]}, ["clean", 10], "noise (dB)", chance=0.1
    ),
}


@pytest.mark.parametrize("rate", [2000, 6000, 8000, 11_025, 16_000])
def test_the_alias_is_the_lowest_tone_with_the_same_samples(rate):
    n = np.arange(400)
    for tone in range(50, 3 * rate, 317):
        found = plots_audio.alias(tone, rate)
        assert 0 <= found <= rate / 2
        np.testing.assert_allclose(
            np.cos(2 * np.pi * tone * n / rate), np.cos(2 * np.pi * found * n / rate), atol=1e-8
        )


def test_what_makes_no_modality_is_refused():
    for frequency, rate in ((100, 0), (-1, 8000)):
        with pytest.raises(
            ValueError, match="expected a frequency of 0 or more and a rate above 0"
        ):
            plots_audio.alias(frequency, rate)
    with pytest.raises(ValueError, match="expected a name and an array"):
        plots_audio.spectrograms({})
    with pytest.raises(ValueError, match=r"'pair' has shape \(2, 5\), expected \(L,\)"):
        plots_audio.listen({"pair": np.zeros((2, 5))})
    with pytest.raises(ValueError, match="at least one sample"):
        plots_audio.listen({"nothing": np.zeros(0)})


@pytest.mark.parametrize(
    "tone, rate",
    [
        (500, 8000),
        (3000, 8000),
        (5000, 8000),
        (7000, 8000),
        (7000, 6000),
        (7900, 16_000),
        (2500, 2000),
    ],
)
def test_the_tone_that_is_played_is_the_alias(tone, rate):
    sound = plots_audio.heard(tone, rate, seconds=1.0)
    assert (
        sound.dtype == np.float32
        and len(sound) == 16_000
        and sound[0] == 0 == sound[-1]
        and np.abs(sound).max() < 0.6
    )
    assert np.abs(np.fft.rfft(sound)).argmax() == pytest.approx(
        plots_audio.alias(tone, rate), abs=1
    )


@pytest.mark.parametrize(
    "tone, rate, words",
    [
        (500, 8000, "heard as it is"),
        (3999, 8000, "heard as it is"),
        (7000, 8000, "as 1000 Hz"),
        (4001, 8000, "as 3999 Hz"),
        (4000, 8000, "nothing"),
        (8000, 8000, "nothing"),
    ],
)
def test_the_sentence_says_what_is_heard(tone, rate, words):
    assert words in plots_audio.describe_alias(tone, rate)
    if words == "nothing":
        assert np.abs(plots_audio.heard(tone, rate)).max() < 1e-6


def decoded(html):
    return [
        soundfile.read(io.BytesIO(base64.b64decode(code)))
        for code in re.findall(r"base64,([\w+/=]+)", html)
    ]


def test_a_player_holds_the_sound_no_louder_and_names_it():
    html = plots_audio.listen(
        {"quiet": 0.1 * SOUND, "a <loud> one": torch.from_numpy(4 * SOUND)}
    ).data
    (quiet, rate), (loud, _) = decoded(html)
    assert (
        rate == 16_000
        and np.abs(quiet - 0.1 * SOUND).max() < 1e-4
        and np.abs(loud - np.clip(4 * SOUND, -1, 1)).max() < 1e-4
    )
    assert (
        html.count("<audio controls") == 2
        and 'aria-label="a &lt;loud&gt; one"' in html
        and "<loud>" not in html
    )
    assert decoded(plots_audio.listen({"slow": SOUND}, rate=8000).data)[0][1] == 8000


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.filterwarnings("error")
def test_nothing_is_cut_off_or_on_top_of_another_and_nothing_is_left_open(draw):
    figure = assert_whole(draw)
    assert all(axes.get_xlabel() for axes in figure.axes if axes.axison)


def test_the_dashed_line_goes_through_the_samples_of_the_tone():
    for tone, rate in ((7000, 8000), (5000, 8000), (9000, 8000), (500, 8000), (2500, 2000)):
        left, right = plots_audio.aliasing(tone, rate).axes
        (true, found, dots) = left.lines
        assert (
            np.abs(
                np.interp(dots.get_xdata(), found.get_xdata(), found.get_ydata()) - dots.get_ydata()
            ).max()
            < 0.02
        )
        assert (
            np.abs(
                np.interp(dots.get_xdata(), true.get_xdata(), true.get_ydata()) - dots.get_ydata()
            ).max()
            < 0.02
        )
        assert right.lines[1].get_ydata()[0] == plots_audio.alias(tone, rate) / 1000


def test_axes_are_in_seconds_hertz_and_decibels():
    waves = plots_audio.waves({"a": SOUND, "b": SOUND[:2000]}).axes
    assert [axes.lines[0].get_xdata()[-1] for axes in waves] == [7999 / 16_000, 1999 / 16_000]
    line = plots_audio.spectra({"a": POWER}).axes[0].lines[0]
    assert (
        line.get_ydata().max() == 0
        and abs(line.get_xdata()[line.get_ydata().argmax()] - 440) < 16_000 / 512
    )
    assert np.allclose(
        plots_audio.spectra({"a": [1, 10, 0.1]}).axes[0].lines[0].get_ydata(), [-10, 0, -20]
    )
    pictures = [
        axes.images[0]
        for axes in plots_audio.spectrograms({"a": PICTURE, "b": PICTURE[:, :5] + 7}, 50, 8000).axes
    ]
    assert [image.get_extent() for image in pictures] == [[0, 0.2, 0, 8], [0, 0.1, 0, 8]]
    assert {image.get_clim() for image in pictures} == {(0, 41)}, "one scale for all"
    assert plots_audio.spectrograms({"a": PICTURE}).axes[0].images[0].get_extent() == [0, 0.1, 0, 4]


def test_filters_and_lines_show_the_numbers_given():
    right = plots_audio.filters(BANK).axes[1]
    assert len(right.lines) == 16 and np.allclose(
        np.stack([line.get_ydata() for line in right.lines], axis=1), BANK
    )
    axes = plots_audio.lines({"a": [1, 0.5], "b": [0.9, 0.2]}, ["clean", 10], "noise (dB)").axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 0.5], [0.9, 0.2]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["clean", "10"]


def test_the_widget_says_draws_and_plays_the_alias():
    pytest.importorskip(
        "ipywidgets", reason="ipywidgets is not installed: pip install 'mmlib[course]'"
    )
    tone, rate, text, picture = widgets.aliasing().children
    assert (tone.description, rate.description) == ("tone (Hz)", "sampling rate")
    tone.value, rate.value = 7000, 3000
    assert text.value.startswith(plots_audio.describe_alias(7000, 3000)) and bytes(
        picture.value
    ) == png(plots_audio.aliasing(7000, 3000))
    ((sound, speed),) = decoded(text.value)
    assert np.abs(np.fft.rfft(sound, speed)).argmax() == pytest.approx(1000, abs=3)
