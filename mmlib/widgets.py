"""Interactive figures for notebooks: sliders over a function that also works alone. Beside each the notebook shows a still figure.

The text and the picture are plain widgets with a value, so that they change wherever a slider's value changes, browser or not.
"""
import io
from collections.abc import Callable
from typing import Any

from mmlib import plots_loss

__all__ = ["landscape"]


def landscape() -> Any:
    """Gradient descent down a bowl, with sliders for learning rate and momentum: crawl, converge, oscillate, diverge."""
    import ipywidgets

    rate = ipywidgets.FloatSlider(0.01, min=0.002, max=0.2, step=0.002, readout_format=".3f", description="learning rate")
    momentum = ipywidgets.FloatSlider(0.0, min=0.0, max=0.95, step=0.05, readout_format=".2f", description="momentum")
    return panel(lambda lr, beta: (plots_loss.describe(lr, beta), plots_loss.landscape((lr, beta))), rate, momentum)


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
