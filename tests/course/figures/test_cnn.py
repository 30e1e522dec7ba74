"""A filter over an image: its response is torch's, sizes and receptive fields are right.

Figures say when they cannot be drawn.
"""

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal

from mmlib.course.figures import cnn as plots_cnn

matplotlib.use("agg")
PICTURE = np.random.default_rng(0).random((16, 16))


@pytest.mark.parametrize("name", plots_cnn.FILTERS)
@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 1), (3, 0), (4, 3)])
def test_the_response_is_that_of_torch_and_its_size_as_computed(name, stride, padding):
    kernel = plots_cnn.FILTERS[name]
    found = plots_cnn.slide(PICTURE, kernel, stride, padding)
    theirs = F.conv2d(
        torch.tensor(PICTURE)[None, None],
        torch.tensor(kernel)[None, None],
        stride=stride,
        padding=padding,
    )[0, 0]
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-12)
    assert found.shape == (plots_cnn.size_after(16, 3, stride, padding),) * 2
    assert f"= {len(found)} places" in plots_cnn.describe(PICTURE, name, stride, padding)


def test_the_filter_is_not_flipped():
    kernel = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(
        plots_cnn.slide(PICTURE, kernel), signal.correlate2d(PICTURE, kernel, mode="valid")
    )


@pytest.mark.parametrize(
    "layers", [[(3, 1)], [(3, 1), (2, 2)] * 2, [(5, 2), (2, 2), (3, 1)], [(3, 2), (3, 2), (1, 1)]]
)
def test_the_receptive_field_is_what_the_gradient_reaches(layers):
    x = torch.rand(1, 1, 60, 60, dtype=torch.double, requires_grad=True)
    y = x
    for kernel, stride in layers:
        y = F.conv2d(y, torch.ones(1, 1, kernel, kernel, dtype=torch.double), stride=stride)
    here, next_one = (
        torch.autograd.grad(y[0, 0, 2, 2 + n], x, retain_graph=True)[0][0, 0]
        .abs()
        .sum(dim=0)
        .nonzero()
        for n in (0, 1)
    )
    assert plots_cnn.receptive(layers) == (len(here), int(next_one[0] - here[0]))


def test_what_cannot_be_drawn_is_said():
    for call, words in (
        (lambda: plots_cnn.size_after(2, 5), "does not fit"),
        (lambda: plots_cnn.tiles([]), "no picture"),
        (lambda: plots_cnn.response(PICTURE, "cat"), "expected one of"),
        (lambda: plots_cnn.heat([PICTURE], [], []), "as many of each"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_signed_tiles_have_zero_in_the_middle_and_the_heat_covers_its_picture():
    image = plots_cnn.tiles([PICTURE - 0.2], signed=True).axes[0].images[0]
    assert image.get_clim()[0] == -image.get_clim()[1] < 0
    picture, _, warm = [
        image
        for axes in plots_cnn.heat([PICTURE], [np.eye(4)], ["a"]).axes
        for image in axes.images
    ]
    assert warm.get_extent() == picture.get_extent()
