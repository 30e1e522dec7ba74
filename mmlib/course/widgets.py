"""Interactive figures for notebooks: sliders over a function that also works without them.

The notebook shows a still figure beside each. The text and the image are plain widgets with a
value, so they change whenever the value of a slider changes, with or without a browser.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

from mmlib.course.figures import attention as plots_attention
from mmlib.course.figures import audio as plots_audio
from mmlib.course.figures import cnn as plots_cnn
from mmlib.course.figures import fusion as plots_fusion
from mmlib.course.figures import loss as plots_loss
from mmlib.course.figures import rnn as plots_rnn
from mmlib.course.figures import training as plots_training
from mmlib.train.config import TrainConfig
from mmlib.worlds.pets.dials import STRUCTURES

__all__ = ["aliasing", "attention", "convolution", "dials", "landscape", "memory", "schedule"]


def landscape() -> Any:
    """Gradient descent down a bowl: sliders for learning rate and momentum.

    It crawls, converges, oscillates or diverges.
    """
    import ipywidgets

    rate = ipywidgets.FloatSlider(
        0.01, min=0.002, max=0.2, step=0.002, readout_format=".3f", description="learning rate"
    )
    momentum = ipywidgets.FloatSlider(
        0.0, min=0.0, max=0.95, step=0.05, readout_format=".2f", description="momentum"
    )
    return panel(
        lambda lr, beta: (plots_loss.describe(lr, beta), plots_loss.landscape((lr, beta))),
        rate,
        momentum,
    )


def attention(pictures: Any, sentences: Sequence[Sequence[str]], weights: Any) -> Any:
    """What each word of a sentence attends to in its image: sliders for the sample and the word.

    Both count from 1. ``pictures`` are N images (N, 3, H, W) from 0 to 1, ``sentences`` are N lists
    of words, and ``weights`` are (N, T, rows, columns) with T at least the longest sentence.
    """
    import ipywidgets

    def show(sample: int, word: int) -> tuple[str, Any]:
        words, grids = sentences[sample - 1], weights[sample - 1]
        here = min(word, len(words)) - 1  # a short sentence stays at its last word
        picture, shown = pictures[sample - 1], slice(here, here + 1)
        return (
            plots_attention.describe(words, grids, here),
            plots_attention.word_by_word(picture, words[shown], grids[shown]),
        )

    sample = ipywidgets.IntSlider(1, min=1, max=len(sentences), description="sample")
    return panel(
        show,
        sample,
        ipywidgets.IntSlider(1, min=1, max=max(map(len, sentences)), description="word"),
    )


def convolution(picture: Any) -> Any:
    """A filter slides over an image: sliders for stride, padding and the filter.

    ``picture`` (H, W) is an image whose ink is large. The response and its size are shown.
    """
    import ipywidgets

    def show(stride: int, padding: int, name: str) -> tuple[str, Any]:
        given = picture, name, stride, padding
        return plots_cnn.describe(*given), plots_cnn.response(*given)

    stride, padding = (
        ipywidgets.IntSlider(low, min=low, max=low + 3, description=name)
        for low, name in ((1, "stride"), (0, "padding"))
    )
    return panel(
        show,
        stride,
        padding,
        ipywidgets.SelectionSlider(options=list(plots_cnn.FILTERS), description="filter"),
    )


def memory() -> Any:
    """A recurrent network: a slider for its gain.

    The gradient is shown over the steps back, and the largest number in the state over the steps.
    """
    import ipywidgets

    gain = ipywidgets.FloatSlider(
        1.0, min=0.5, max=2.0, step=0.05, readout_format=".2f", description="recurrent gain"
    )
    return panel(lambda gain: (plots_rnn.describe(gain), plots_rnn.memory(gain)), gain)


def aliasing() -> Any:
    """A tone and its samples: sliders for the tone and for the sampling rate.

    What is heard is drawn, described, and can be played.
    """
    import ipywidgets

    def show(frequency: int, rate: int) -> tuple[str, Any]:
        words = plots_audio.describe_alias(frequency, rate)
        player = plots_audio.listen({"as it is heard": plots_audio.heard(frequency, rate)})
        return words + player.data, plots_audio.aliasing(frequency, rate)

    tone = ipywidgets.IntSlider(
        500, min=100, max=plots_audio.HIGHEST, step=100, description="tone (Hz)"
    )
    return panel(
        show,
        tone,
        ipywidgets.IntSlider(
            8000, min=2000, max=plots_audio.RATE, step=1000, description="sampling rate"
        ),
    )


def dials() -> Any:
    """The dials of the pets world, and the best possible accuracy under them.

    Sliders for how the modalities share what they know, and how often each is uninformative.
    """
    import ipywidgets

    def show(*values: Any) -> tuple[str, Any]:
        chosen = plots_fusion.set_dials(*values)
        return plots_fusion.describe(chosen), plots_fusion.optimum(chosen)

    structure = ipywidgets.SelectionSlider(options=STRUCTURES, description="structure")
    return panel(
        show,
        structure,
        *(
            ipywidgets.FloatSlider(
                rate, min=0, max=0.95, step=0.05, description=f"{modality} silent"
            )
            for modality, rate in (("image", 0.3), ("text", 0.5), ("audio", 0.4))
        ),
    )


def schedule(train: Callable[[TrainConfig], Sequence[float]]) -> Any:
    """The learning rate and the loss of a short run: sliders for its schedule.

    ``train`` does the run: settings -> the loss in each step.
    """
    import ipywidgets

    def show(warmup: float, lr: float, epochs: int) -> tuple[str, Any]:
        config = TrainConfig(epochs=epochs, lr=lr, warmup=warmup, progress=False)
        losses = train(config)
        return plots_training.describe(config, losses), plots_training.schedule((config, losses))

    warmup = ipywidgets.FloatSlider(0.05, min=0, max=0.5, step=0.05, description="warm-up")
    rate = ipywidgets.FloatLogSlider(
        0.01, min=-4, max=0, step=0.25, readout_format=".2g", description="highest rate"
    )
    return panel(show, warmup, rate, ipywidgets.IntSlider(10, min=2, max=20, description="epochs"))


def panel(show: Callable[..., tuple[str, Any]], *sliders: Any) -> Any:
    """A column of the sliders, a text and an image.

    ``show`` takes the values of the sliders and returns the text and the figure.
    """
    import ipywidgets

    text, picture = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(change: Any = None) -> None:
        words, figure = show(*(slider.value for slider in sliders))
        file = io.BytesIO()
        figure.savefig(file, format="png")
        text.value, picture.value = words, file.getvalue()

    for slider in sliders:
        slider.style.description_width, slider.layout.width = "110px", "420px"
        slider.continuous_update = False  # draw only when the mouse lets go
        slider.observe(update, "value")
    update()
    return ipywidgets.VBox([*sliders, text, picture])
