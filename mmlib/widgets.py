"""Interactive figures for notebooks: sliders over a function that also works alone. Beside each the notebook shows a still figure.

The text and the picture are plain widgets with a value, so that they change wherever a slider's value changes, browser or not.
"""
import io
from collections.abc import Callable, Sequence
from typing import Any

from mmlib import plots_attention, plots_audio, plots_loss, plots_rnn

__all__ = ["aliasing", "attention", "landscape", "memory"]


def landscape() -> Any:
    """Gradient descent down a bowl, with sliders for learning rate and momentum: crawl, converge, oscillate, diverge."""
    import ipywidgets

    rate = ipywidgets.FloatSlider(0.01, min=0.002, max=0.2, step=0.002, readout_format=".3f", description="learning rate")
    momentum = ipywidgets.FloatSlider(0.0, min=0.0, max=0.95, step=0.05, readout_format=".2f", description="momentum")
    return panel(lambda lr, beta: (plots_loss.describe(lr, beta), plots_loss.landscape((lr, beta))), rate, momentum)


def attention(pictures: Any, sentences: Sequence[Sequence[str]], weights: Any) -> Any:
    """Where each word of a sentence looks in its picture, with sliders for the sample and the word. Numbers from 1.

    ``pictures`` (N, 3, H, W) from 0 to 1; ``sentences``: N lists of words; ``weights`` (N, T, rows, columns), T at least the longest.
    """
    import ipywidgets

    def show(sample: int, word: int) -> tuple[str, Any]:
        words, grids = sentences[sample - 1], weights[sample - 1]
        here = min(word, len(words)) - 1                       # a short sentence stays at its last word
        return (plots_attention.describe(words, grids, here),
                plots_attention.word_by_word(pictures[sample - 1], words[here:here + 1], grids[here:here + 1]))

    sample = ipywidgets.IntSlider(1, min=1, max=len(sentences), description="sample")
    return panel(show, sample, ipywidgets.IntSlider(1, min=1, max=max(map(len, sentences)), description="word"))


def memory() -> Any:
    """A recurrent network with a slider for its gain: the gradient against the steps back, and how large the state grows."""
    import ipywidgets

    gain = ipywidgets.FloatSlider(1.0, min=0.5, max=2.0, step=0.05, readout_format=".2f", description="recurrent gain")
    return panel(lambda gain: (plots_rnn.describe(gain), plots_rnn.memory(gain)), gain)


def aliasing() -> Any:
    """A tone and its samples, with sliders for both: what is heard is drawn, said, and can be played."""
    import ipywidgets

    def show(frequency: int, rate: int) -> tuple[str, Any]:
        words, sound = plots_audio.describe_alias(frequency, rate), plots_audio.heard(frequency, rate)
        return words + plots_audio.listen({"as it is heard": sound}).data, plots_audio.aliasing(frequency, rate)

    tone = ipywidgets.IntSlider(500, min=100, max=plots_audio.HIGHEST, step=100, description="tone (Hz)")
    return panel(show, tone, ipywidgets.IntSlider(8000, min=2000, max=plots_audio.RATE, step=1000, description="sampling rate"))


def panel(show: Callable[..., tuple[str, Any]], *sliders: Any) -> Any:
    """A column of the sliders, a text and a picture. ``show`` gets the sliders' values and returns the text and the figure."""
    import ipywidgets

    text, picture = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(change: Any = None) -> None:
        words, figure = show(*(slider.value for slider in sliders))
        file = io.BytesIO()
        figure.savefig(file, format="png")
        text.value, picture.value = words, file.getvalue()

    for slider in sliders:
        slider.style.description_width, slider.continuous_update = "110px", False   # drawn when the mouse lets go
        slider.layout.width = "420px"
        slider.observe(update, "value")
    update()
    return ipywidgets.VBox([*sliders, text, picture])
