"""Where the pets are, and what lies beside them. Nothing here knows the species.

``w`` is a list of random numbers in 0..1, each (n, 1, 1) float32: the freedom that a scene has.
"""

import numpy as np

from mmlib.worlds.pets.drawing import (
    SIZE,
    Array,
    Canvas,
    ellipse,
    polygon,
    rgb,
    stroke,
    texture,
)

ACROSS = np.arange(SIZE, dtype=np.float32) + 0.5  # (SIZE,)
DOWN = ACROSS[:, None]  # (SIZE, 1)
WHITE = (0.98, 0.98, 0.97)

Colour = tuple[float, float, float]


def land(
    canvas: Canvas,
    w: list[Array],
    horizon: Array,
    sky: tuple[Colour, Colour],
    ground: tuple[Colour, Colour],
    grain: str,
    strength: float,
    hills: float,
) -> None:
    """Sky and ground, each a pair of colours (top, bottom).

    The ground is textured, and its edge goes up and down by ``hills`` pixels.
    """
    line = horizon + hills * (texture("clouds", ACROSS, 0 * ACROSS, w[1]) - 0.5)  # (n, 1, SIZE)
    (top, low), (near, far) = ([rgb(c) for c in pair] for pair in (sky, ground))
    above = top + (low - top) * (DOWN / horizon)
    below = near + (far - near) * ((DOWN - horizon) / (SIZE - horizon))
    below = below * (1 + strength * (texture(grain, ACROSS, DOWN, w[2]) - 0.5))
    canvas.pixels[...] = above + np.clip(DOWN - line + 0.5, 0, 1) * (below - above)


def cloud(canvas: Canvas, x: Array, y: Array, opacity: float) -> None:
    """A cloud centred at (x, y), as dense as ``opacity`` (0..1)."""
    for dx, dy, r in ((-5, 1, 3.2), (0, -1, 4.5), (5, 0.6, 3.6)):
        canvas.paint(ellipse(x + dx, y + dy, 1.5 * r, r), WHITE, opacity)


def grass(canvas: Canvas, w: list[Array]) -> None:
    """A meadow under a summer sky, with flowers."""
    land(
        canvas,
        w,
        24 + 12 * w[0],
        ((0.53, 0.79, 0.96), (0.86, 0.95, 0.98)),
        ((0.53, 0.78, 0.36), (0.33, 0.60, 0.26)),
        "streaks",
        0.5,
        5,
    )
    canvas.paint(
        ellipse(8 + 48 * w[3], 7 + 4 * w[4], 5, 5),
        (1.0, 0.88, 0.40),
        rim=rgb((1.0, 0.94, 0.62)),
        width=1.6,
    )
    cloud(canvas, 64 * w[5], 10 + 6 * w[6], 0.85)
    for i, petal in enumerate(
        ((0.98, 0.97, 0.99), (0.98, 0.62, 0.72), (0.99, 0.85, 0.35), (0.98, 0.97, 0.99))
    ):
        x, y = 4 + 56 * w[3 + i], 48 + 13 * w[7 - i]
        canvas.paint(ellipse(x, y, 1.7, 1.5), petal)
        canvas.paint(ellipse(x, y, 0.6, 0.6), (0.95, 0.72, 0.18))


def snow(canvas: Canvas, w: list[Array]) -> None:
    """Snow under a grey sky, with a fir tree."""
    land(
        canvas,
        w,
        28 + 10 * w[0],
        ((0.66, 0.77, 0.90), (0.88, 0.92, 0.97)),
        ((0.95, 0.97, 1.0), (0.80, 0.87, 0.95)),
        "clouds",
        0.12,
        7,
    )
    x, foot = 6 + 52 * w[3], 33 + 6 * w[4]
    for i in range(3):
        low, half = foot - 6 * i, 8 - 1.8 * i
        canvas.paint(
            polygon((x, low - 10), (x + half, low), (x - half, low)),
            (0.20 + 0.04 * i, 0.42 + 0.05 * i, 0.36 + 0.04 * i),
        )
        canvas.paint(polygon((x, low - 10.5), (x + 2.2, low - 7.5), (x - 2.2, low - 7.5)), WHITE)
    for i in range(8):
        canvas.paint(ellipse(64 * w[i], 4 + 7 * i + 6 * w[7 - i], 1.1, 1.1), WHITE, 0.9)


def night(canvas: Canvas, w: list[Array]) -> None:
    """A dark meadow under stars and a moon."""
    land(
        canvas,
        w,
        36 + 10 * w[0],
        ((0.06, 0.08, 0.24), (0.20, 0.24, 0.46)),
        ((0.17, 0.25, 0.33), (0.10, 0.16, 0.24)),
        "streaks",
        0.35,
        8,
    )
    for i in range(8):
        canvas.paint(ellipse(64 * w[i], 2 + 30 * w[7 - i], 0.7, 0.7), (0.95, 0.95, 0.80), 0.9)
    x, y = 8 + 48 * w[3], 8 + 5 * w[4]
    canvas.paint(ellipse(x, y, 9, 9), (0.55, 0.58, 0.72), 0.25)
    canvas.paint(ellipse(x, y, 5.6, 5.6), (0.98, 0.95, 0.78))
    for dx, dy, r in ((-1.5, -1, 1.3), (2, 1.4, 1.0), (1.6, -2.4, 0.7)):
        canvas.paint(ellipse(x + dx, y + dy, r, r), (0.88, 0.84, 0.66))


def beach(canvas: Canvas, w: list[Array]) -> None:
    """Sand before the sea, with a sail."""
    land(
        canvas,
        w,
        28 + 8 * w[0],
        ((0.50, 0.80, 0.95), (0.93, 0.96, 0.93)),
        ((0.96, 0.88, 0.66), (0.87, 0.75, 0.50)),
        "ripples",
        0.13,
        3,
    )
    shore, sea = 27 + 8 * w[0], 19 + 6 * w[0]
    water = np.clip(DOWN - sea, 0, 1) * np.clip(
        shore - DOWN + 2 * texture("clouds", ACROSS, 0 * ACROSS, w[1]), 0, 1
    )
    blue = rgb((0.16, 0.56, 0.74)) * (0.85 + 0.45 * texture("ripples", ACROSS / 3, DOWN, w[5]))
    canvas.pixels[...] += water * (blue - canvas.pixels)
    x, sail = 6 + 52 * w[3], sea + 0.5
    canvas.paint(
        polygon((x, sail - 10), (x + 6, sail - 1), (x, sail - 1), rounding=0.3), (0.99, 0.96, 0.90)
    )
    canvas.paint(
        polygon((x - 4, sail), (x + 7, sail), (x + 5, sail + 2), (x - 3, sail + 2), rounding=0.3),
        (0.78, 0.26, 0.20),
    )
    canvas.paint(
        ellipse(8 + 48 * w[4], 58 + 3 * w[6], 2.2, 1.5),
        (0.98, 0.80, 0.74),
        rim=rgb((0.80, 0.55, 0.48)),
        width=0.7,
    )


def rug(canvas: Canvas, w: list[Array]) -> None:
    """A room with a window and a rug."""
    wall = rgb((0.93, 0.83, 0.74)) + w[4] * (rgb((0.76, 0.86, 0.84)) - rgb((0.93, 0.83, 0.74)))
    land(
        canvas,
        w,
        34 + 4 * w[0],
        ((1.0, 1.0, 1.0), (0.95, 0.95, 0.95)),
        ((0.74, 0.53, 0.35), (0.60, 0.41, 0.26)),
        "streaks",
        0.12,
        0,
    )
    stripe = np.clip(np.abs((ACROSS + 16 * w[1]) % 8 - 4) - 1.5, 0, 1)
    upper = np.clip(34 + 4 * w[0] - DOWN, 0, 1)
    canvas.pixels[...] *= 1 + upper * (wall * (1 - 0.05 * stripe) - 1)
    x, y = 12 + 40 * w[3], 12 + 4 * w[5]
    canvas.paint(
        polygon((x - 7, y - 7), (x + 7, y - 7), (x + 7, y + 7), (x - 7, y + 7)),
        (0.70, 0.88, 0.97),
        rim=rgb(WHITE),
        width=1.8,
    )
    canvas.paint(stroke((x, y - 7), (x, y + 7), start=0.6), WHITE)
    canvas.paint(stroke((x - 7, y), (x + 7, y), start=0.6), WHITE)
    base = rgb((0.73, 0.28, 0.30)) + w[6] * (rgb((0.25, 0.42, 0.58)) - rgb((0.73, 0.28, 0.30)))
    for i, light in enumerate((0.15, 0.55, 0.05, 0.4)):
        canvas.paint(ellipse(32, 54, 29 - 5 * i, 9 - 1.8 * i), base + light * (1 - base))


def autumn(canvas: Canvas, w: list[Array]) -> None:
    """A brown hill under an autumn tree."""
    land(
        canvas,
        w,
        30 + 8 * w[0],
        ((0.90, 0.80, 0.62), (0.98, 0.92, 0.78)),
        ((0.80, 0.56, 0.28), (0.62, 0.38, 0.20)),
        "patched",
        0.12,
        4,
    )
    x = 5 + 54 * w[3]
    canvas.paint(
        polygon((x - 2, -2), (x + 2, -2), (x + 3.4, 38), (x - 3.4, 38)), (0.42, 0.29, 0.21)
    )
    for dx, dy, r, red in ((-7, 4, 8, 0.86), (6, 2, 9, 0.93), (0, 9, 7, 0.80)):
        canvas.paint(ellipse(x + dx, dy, r, 0.8 * r), (red, 0.48, 0.17))
    for i in range(8):
        leaf = ((0.86, 0.30, 0.14), (0.95, 0.66, 0.20), (0.72, 0.24, 0.16), (0.98, 0.80, 0.32))[
            i % 4
        ]
        canvas.paint(ellipse(64 * w[i], 40 + 22 * w[7 - i], 2.2, 1.2, w[3] - w[i]), leaf)


def ball(canvas: Canvas, w: list[Array]) -> None:
    """A striped ball."""
    tint = rgb((0.90, 0.25, 0.30)) + w[2] * (rgb((0.20, 0.50, 0.85)) - rgb((0.90, 0.25, 0.30)))
    canvas.paint(ellipse(0, 5.5, 6.5, 1.8), (0.0, 0.0, 0.0), 0.25)
    canvas.paint(ellipse(0, 0, 6, 6), tint, rim=tint * 0.6)
    canvas.paint(ellipse(0, 0, 1.8, 5), WHITE)
    canvas.paint(ellipse(-2.4, -2.6, 1.1, 1.1), WHITE, 0.8)


def bowl(canvas: Canvas, w: list[Array]) -> None:
    """A bowl of food."""
    tint = rgb((0.30, 0.62, 0.80)) + w[2] * (rgb((0.90, 0.60, 0.25)) - rgb((0.30, 0.62, 0.80)))
    canvas.paint(ellipse(0, 5.3, 8, 1.8), (0.0, 0.0, 0.0), 0.25)
    canvas.paint(polygon((-6, -1), (6, -1), (7.4, 4.5), (-7.4, 4.5)), tint, rim=tint * 0.6)
    canvas.paint(ellipse(0, -1.4, 6.4, 2.2), (0.48, 0.30, 0.18), rim=tint * 0.75)


def plant(canvas: Canvas, w: list[Array]) -> None:
    """A flower in a pot."""
    for dx, dy in ((-4, -8), (4, -8.5), (0, -11)):
        canvas.paint(stroke((0, 0), (dx, dy + 2), start=0.6), (0.22, 0.48, 0.24))
        canvas.paint(
            ellipse(dx, dy, 2.8, 2.8),
            (0.98, 0.72, 0.25) if dx else (0.93, 0.42, 0.55),
            rim=rgb((0.72, 0.35, 0.22)),
            width=0.7,
        )
    canvas.paint(
        polygon((-4.6, -1), (4.6, -1), (3.4, 5.5), (-3.4, 5.5)),
        (0.78, 0.42, 0.26),
        rim=rgb((0.50, 0.25, 0.15)),
    )


PLACES = {
    "grass": grass,
    "snow": snow,
    "night": night,
    "beach": beach,
    "rug": rug,
    "autumn": autumn,
}
PROPS = {"none": None, "ball": ball, "bowl": bowl, "plant": plant}
