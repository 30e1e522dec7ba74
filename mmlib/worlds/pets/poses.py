"""How a pet is drawn in each pose. The origin is the middle of the pet, the unit is a pixel.

The poses of TELLING take ``dog`` (all pictures of one call show the same species) and show it in
ears, eyes, muzzle, whiskers and tail. The poses of HIDING never get the species, so they cannot
leak it.
"""

from typing import NamedTuple

from mmlib.worlds.pets.drawing import (
    Array,
    Canvas,
    Shape,
    ellipse,
    join,
    polygon,
    rgb,
    stroke,
)

BLACK, PINK, WHITE = (0.07, 0.06, 0.08), (0.93, 0.58, 0.60), (1.0, 1.0, 1.0)
GOLD = (0.97, 0.80, 0.30)


class Pet(NamedTuple):
    """The looks of n pets. Colours are (3, n, 1, 1) float32, the rest (n, 1, 1)."""

    coat: Array
    mark: Array  # stripes, patches or spots
    pale: Array  # chest, muzzle and paws
    rim: Array  # outline: lighter than a dark coat, darker than a light one
    iris: Array
    cloth: Array  # of hat and blanket
    collar: Array
    collared: Array  # 1 where it wears one
    tile: Array  # texture of the coat, an id
    shift: Array  # where in the texture
    wiggle: list[Array]  # numbers in -1..1: the freedom that a pose has

    def fur(self, canvas: Canvas, shape: Shape, tone: float = 1.0) -> None:
        """A furry part, darker where ``tone`` is below 1."""
        canvas.fur(shape, self.coat, self.mark, self.tile, self.shift, self.rim, tone)

    def soft(self, canvas: Canvas, shape: Shape) -> None:
        """The pale parts, with an outline."""
        canvas.paint(shape, self.pale, rim=self.rim)

    def band(self, canvas: Canvas, x: float, y: float, half: float, high: float = 1.7) -> None:
        """A collar with a golden tag."""
        canvas.paint(
            stroke((x - half, y - 0.8), (x, y + 0.6), (x + half, y - 0.8), start=high),
            self.collar,
            self.collared,
        )
        canvas.paint(
            ellipse(x, y + high + 1.2, 1.7, 1.7),
            GOLD,
            self.collared,
            rim=rgb((0.62, 0.45, 0.10)),
            width=0.6,
        )


def sit(canvas: Canvas, pet: Pet, dog: bool) -> None:
    """Sitting, seen from the front."""
    w = 2 * pet.wiggle[0]
    if dog:
        pet.fur(canvas, stroke((9, 17), (17, 11 + w), (21, 3 + w), start=3.2, end=2.0))
    else:
        pet.fur(
            canvas,
            stroke((8, 22), (18, 22), (23, 15 + w), (21, 7 + w), (24, 1 + w), start=2.6, end=1.9),
        )
    pet.fur(canvas, join(ellipse(0, 8, 8.5, 10), ellipse(0, 17, 13, 9.5), 6))
    canvas.paint(ellipse(0, 9, 5.2, 7.5), pet.pale)
    for side in (-1, 1):
        pet.fur(canvas, stroke((side * 4.2, 12), (side * 4.4, 24), start=3.0))
        pet.soft(canvas, ellipse(side * 4.6, 25, 4.2, 2.8))
        pet.soft(canvas, ellipse(side * 11.5, 25, 4.4, 2.8))
    pet.band(canvas, 0, 2.8, 6.5)
    head(canvas, pet, dog, 0, -8, 1.0)


def portrait(canvas: Canvas, pet: Pet, dog: bool) -> None:
    """Head and shoulders."""
    pet.fur(canvas, join(ellipse(0, 30, 17, 17), ellipse(0, 18, 11, 9), 8))
    canvas.paint(ellipse(0, 27, 8, 10), pet.pale)
    pet.band(canvas, 0, 15.5, 11, 2.4)
    head(canvas, pet, dog, 0, -1, 1.6)


def stand(canvas: Canvas, pet: Pet, dog: bool) -> None:
    """Standing, in profile, looking to the right."""
    w = 2 * pet.wiggle[0]
    if dog:
        pet.fur(canvas, stroke((-13, 2), (-19, -4 + w), (-20, -10 + w), start=3.0, end=1.8))
    else:
        pet.fur(
            canvas,
            stroke(
                (-14, 3),
                (-20, -3),
                (-21, -11 + w),
                (-18, -17 + w),
                (-20, -22 + w),
                start=2.4,
                end=1.8,
            ),
        )
    for x, far in ((-7.5, True), (10, True), (-12, False), (6, False)):
        pet.fur(canvas, stroke((x, 7), (x - 1, 22), start=2.9, end=2.4), 0.78 if far else 1.0)
        pet.soft(canvas, ellipse(x + 0.3, 23.5, 3.6, 2.3))
        if x == 10:  # the body lies over the far legs, the near legs over the body
            pet.fur(canvas, join(ellipse(-8, 4, 9.5, 8.5), ellipse(7, 3.5, 8.5, 8), 6))
    pet.fur(canvas, stroke((9, 2), (13, -6), start=5.5))
    canvas.paint(stroke((7.5, -1.6), (16, 2.2), start=1.6), pet.collar, pet.collared)
    canvas.paint(
        ellipse(14.5, 3.8, 1.6, 1.6), GOLD, pet.collared, rim=rgb((0.62, 0.45, 0.10)), width=0.6
    )
    profile(canvas, pet, dog, 14.5, -9)


def lie(canvas: Canvas, pet: Pet, dog: bool) -> None:
    """Lying on the belly, head up, paws in front."""
    w = 2 * pet.wiggle[0]
    if dog:
        pet.fur(canvas, stroke((17, 14), (23, 9), (24, 2 + w), start=3.0, end=1.8))
    pet.fur(canvas, join(ellipse(10, 14, 12, 9), ellipse(-5, 14, 11, 10), 6))
    pet.fur(canvas, ellipse(15, 17, 7.5, 6.5))
    pet.soft(canvas, ellipse(12, 22.5, 5, 2.5))
    canvas.paint(ellipse(-7, 12, 5, 6), pet.pale)
    if not dog:
        pet.fur(
            canvas,
            stroke((21, 18), (24, 23), (16, 26), (8 + w, 25), (4 + w, 23), start=2.5, end=1.9),
        )
    for x in (-13, -3):
        pet.fur(canvas, stroke((x, 14), (x - 1, 22), start=3.2))
        pet.soft(canvas, ellipse(x - 1.2, 23, 4.4, 2.8))
    pet.band(canvas, -7, 5.8, 6.5)
    head(canvas, pet, dog, -7, -5, 1.0)


def head(canvas: Canvas, pet: Pet, dog: bool, x: float, y: float, size: float) -> None:
    """A head from the front, about 25 units wide at size 1."""
    place = canvas.x, canvas.y, canvas.scale
    canvas.x = canvas.x + canvas.scale * (canvas.c * canvas.mirror * x - canvas.s * y)
    canvas.y = canvas.y + canvas.scale * (canvas.s * canvas.mirror * x + canvas.c * y)
    canvas.scale = canvas.scale * size
    (dog_face if dog else cat_face)(canvas, pet)
    canvas.x, canvas.y, canvas.scale = place


def cat_face(canvas: Canvas, pet: Pet) -> None:
    """Pointed ears, slit eyes, a small pink nose and whiskers."""
    w = pet.wiggle[1]
    for side in (-1, 1):
        tip = (side * (11 + w), -16.5)
        corners = (
            (tip, (side * 1.5, -8), (side * 11.2, -1))
            if side < 0
            else (tip, (side * 11.2, -1), (side * 1.5, -8))
        )
        pet.fur(canvas, polygon(*corners))
        inner = [
            (side * 9 + 0.52 * (px - side * 9), -6.5 + 0.52 * (py + 6.5)) for px, py in corners
        ]
        canvas.paint(polygon(*inner, rounding=0.3), PINK)
    pet.fur(canvas, join(ellipse(0, 0, 11.5, 9.6), ellipse(0, 3, 12.4, 6.2), 2))
    for side in (-1, 1):
        canvas.paint(ellipse(side * 2.5, 5, 3.2, 2.6), pet.pale)
        canvas.paint(ellipse(side * 5.2, -0.8, 3.0, 3.3), pet.iris, rim=rgb(BLACK), width=0.7)
        canvas.paint(ellipse(side * 5.2, -0.8, 0.9, 2.9), BLACK)
        canvas.paint(ellipse(side * 5.2 + 1.0, -2.1, 0.7, 0.7), WHITE)
        for high, low in ((3.6, 1.4), (4.8, 4.8), (6.0, 8.2)):
            canvas.paint(
                stroke((side * 5, high), (side * 16.5, low), start=0.45, end=0.25), pet.rim, 0.95
            )
    canvas.paint(polygon((-1.3, 2.9), (1.3, 2.9), (0, 4.2), rounding=0.6), (0.90, 0.42, 0.47))
    canvas.paint(
        stroke((-3.2, 6.0), (-1.6, 7.0), (0, 5.6), (1.6, 7.0), (3.2, 6.0), start=0.4), BLACK, 0.75
    )


def dog_face(canvas: Canvas, pet: Pet) -> None:
    """Drooping ears, round eyes, a long pale muzzle with a big black nose, often a tongue."""
    w = pet.wiggle[1]
    pet.fur(canvas, join(ellipse(0, -2, 10.5, 9.5), ellipse(0, 4, 9.5, 7.5), 3))
    canvas.paint(
        ellipse(0, 10.2, 2.5, 3.9),
        (0.93, 0.42, 0.48),
        (w > -0.3).astype("float32"),
        rim=rgb((0.70, 0.22, 0.30)),
        width=0.7,
    )
    pet.soft(canvas, ellipse(0, 5.2, 6.4, 5.0))
    canvas.paint(stroke((0, 4), (0, 6.6), start=0.45), BLACK, 0.8)
    canvas.paint(stroke((-3.2, 7.0), (0, 7.6), (3.2, 7.0), start=0.5), BLACK, 0.8)
    canvas.paint(ellipse(0, 2.6, 3.2, 2.3), BLACK, rim=rgb((0.30, 0.29, 0.33)), width=0.5)
    canvas.paint(ellipse(-0.9, 1.8, 0.9, 0.5), WHITE, 0.8)
    for side in (-1, 1):
        pet.fur(canvas, ellipse(side * 11.2, 0.5, 4.3, 9.6, side * (-0.10 - 0.05 * w)), 0.74)
        canvas.paint(
            ellipse(side * 4.6, -3.4, 2.5, 2.8), (0.30, 0.17, 0.10), rim=pet.rim, width=0.6
        )
        canvas.paint(ellipse(side * 4.6 + 0.8, -4.5, 0.8, 0.8), WHITE)


def profile(canvas: Canvas, pet: Pet, dog: bool, x: float, y: float) -> None:
    """A head from the side, looking to the right."""
    w = pet.wiggle[1]
    if dog:
        pet.fur(
            canvas,
            join(
                ellipse(x, y, 7.8, 7.4),
                stroke((x + 4, y + 2.5), (x + 12, y + 3), start=4.2, end=3.2),
                3,
            ),
        )
        canvas.paint(ellipse(x + 9, y + 4.2, 4.2, 2.2), pet.pale)
        canvas.paint(
            ellipse(x + 14, y + 0.8, 2.3, 2.0), BLACK, rim=rgb((0.30, 0.29, 0.33)), width=0.5
        )
        canvas.paint(stroke((x + 7, y + 5.4), (x + 13, y + 4.6), start=0.4), BLACK, 0.7)
        canvas.paint(
            ellipse(x + 9.5, y + 7.6, 1.6, 2.4), (0.93, 0.42, 0.48), (w > -0.3).astype("float32")
        )
        pet.fur(canvas, ellipse(x - 3.5, y + 1.5, 3.9, 8.2, 0.10 + 0.05 * w), 0.74)
        canvas.paint(
            ellipse(x + 3.4, y - 2.2, 1.7, 1.9), (0.30, 0.17, 0.10), rim=pet.rim, width=0.5
        )
        canvas.paint(ellipse(x + 3.9, y - 2.9, 0.6, 0.6), WHITE)
        return
    pet.fur(canvas, polygon((x - 5, y - 14), (x + 1, y - 5), (x - 6.5, y - 3)), 0.8)
    pet.fur(canvas, polygon((x + 2, y - 14.5), (x + 6, y - 4), (x - 2, y - 5)))
    canvas.paint(polygon((x + 2, y - 11.5), (x + 4, y - 6), (x + 0.4, y - 6), rounding=0.3), PINK)
    pet.fur(canvas, join(ellipse(x, y, 8.6, 7.4), ellipse(x + 5.5, y + 2.4, 4.4, 3.8), 2))
    canvas.paint(ellipse(x + 6.5, y + 3.4, 3.2, 2.4), pet.pale)
    canvas.paint(ellipse(x + 9.4, y + 1.4, 1.3, 1.1), (0.90, 0.42, 0.47))
    canvas.paint(ellipse(x + 3.6, y - 1.4, 2.2, 2.7), pet.iris, rim=rgb(BLACK), width=0.6)
    canvas.paint(ellipse(x + 4.0, y - 1.4, 0.8, 2.3), BLACK)
    for low in (-0.5, 3.5, 7.0):
        canvas.paint(
            stroke((x + 5, y + 3.2), (x + 15.5, y + low), start=0.45, end=0.25), pet.rim, 0.95
        )


def curl(canvas: Canvas, pet: Pet) -> None:
    """Asleep in a ball, the nose under the tail."""
    w = pet.wiggle[0]
    pet.fur(canvas, join(ellipse(3, 11, 16, 13), ellipse(-8, 15, 11, 9.5), 4))
    pet.fur(canvas, ellipse(9.5, 14, 9.5, 9.5))
    pet.fur(canvas, ellipse(-9.5, 14.5, 8.8, 7.6))
    canvas.paint(stroke((-14.5, 12.6), (-12.3, 14.2), (-9.8, 13.2), start=0.7), BLACK, 0.9)
    canvas.paint(ellipse(-13.2, 16.4, 1.8, 1.2), PINK, 0.7)
    canvas.paint(stroke((-0.5, 7.5), (-2.0, 10.5), (-1.6, 14), start=1.4), pet.collar, pet.collared)
    pet.fur(
        canvas,
        stroke((19, 15), (17, 21), (9, 24), (-2, 23.5 + w), (-12, 20.5 + w), start=3.9, end=2.9),
    )
    pet.soft(canvas, stroke((-8, 22 + w), (-14.5, 19.5 + w), start=3.0, end=2.2))
    for x, y, r in ((-12, 0, 1.6), (-8, -7, 2.2), (-3, -15, 2.9)):
        across = r * canvas.mirror  # letters are not mirrored with the pet
        corners = (
            (x - across, y - r),
            (x + across, y - r),
            (x - across, y + r),
            (x + across, y + r),
        )
        canvas.paint(stroke(*corners, start=1.3), (0.30, 0.34, 0.58), 0.85)
        canvas.paint(stroke(*corners, start=0.6), WHITE)


def away(canvas: Canvas, pet: Pet) -> None:
    """Turned away, in a woolly hat."""
    w = pet.wiggle[0]
    pet.fur(canvas, join(ellipse(0, 8, 9.5, 10), ellipse(0, 16, 14, 10.5), 6))
    canvas.paint(stroke((0, 6), (0.6, 14), (0, 20), start=0.6), pet.rim, 0.5)
    for side in (-1, 1):
        pet.soft(canvas, ellipse(side * 9, 25, 4.8, 2.6))
    pet.fur(canvas, ellipse(0, -6, 11, 9.8))
    canvas.paint(stroke((-7.5, 2.2), (0, 3.6), (7.5, 2.2), start=1.7), pet.collar, pet.collared)
    canvas.paint(
        polygon((-3, -21), (3, -21), (10, -13), (11.4, -8), (-11.4, -8), (-10, -13), rounding=1.5),
        pet.cloth,
        rim=pet.cloth * 0.6,
    )
    canvas.paint(
        polygon((-11.6, -9), (11.6, -9), (11.6, -5.5), (-11.6, -5.5), rounding=1.2),
        pet.cloth * 0.4 + 0.58,
        rim=pet.cloth * 0.6,
    )
    for x in (-6, 0, 6):
        canvas.paint(stroke((x, -11.5), (0.5 * x, -19), start=0.5), pet.cloth * 0.4 + 0.58)
    canvas.paint(ellipse(w, -23, 3.6, 3.4), pet.cloth * 0.3 + 0.68, rim=pet.cloth * 0.6)


def box(canvas: Canvas, pet: Pet) -> None:
    """Hiding in a cardboard box: a back, two paws, and two eyes in the dark."""
    w = pet.wiggle[0]
    card, edge = rgb((0.80, 0.62, 0.41)), rgb((0.50, 0.36, 0.21))
    canvas.paint(polygon((-19, 0), (19, 0), (17, 6), (-17, 6)), edge * 0.8)
    pet.fur(canvas, ellipse(2 * w, 2, 13.5, 9.5))
    canvas.paint(polygon((-17, 4), (17, 4), (16, 25), (-16, 25)), card, rim=edge)
    canvas.paint(polygon((-17, 4), (-24, 9), (-24, 5), (-19, -1)), card * 0.92, rim=edge)
    canvas.paint(polygon((17, 4), (19, -1), (24, 5), (24, 9)), card * 0.92, rim=edge)
    canvas.paint(polygon((-2.5, 4.5), (2.5, 4.5), (2.5, 9), (-2.5, 9), rounding=0.3), card * 1.12)
    canvas.paint(ellipse(0, 16.5, 10, 5.2), (0.11, 0.08, 0.07), rim=edge, width=0.8)
    for side in (-1, 1):
        pet.soft(canvas, ellipse(side * 9.5, 4.5, 3.6, 3.2))
        canvas.paint(ellipse(side * 3.8 + w, 16.5, 2.5, 2.7), GOLD)
        canvas.paint(ellipse(side * 3.8 + 1.5 * w, 16.5, 1.4, 1.7), BLACK)
        canvas.paint(ellipse(side * 3.8 + 0.8 + w, 15.5, 0.6, 0.6), WHITE)


def blanket(canvas: Canvas, pet: Pet) -> None:
    """Under a blanket with dots: two paws look out."""
    w, light = pet.wiggle[0], pet.cloth * 0.35 + 0.63
    pet.fur(canvas, ellipse(0, 20, 19, 6.5))
    canvas.paint(
        join(
            join(ellipse(7, 12, 13, 11), ellipse(-9 + w, 9, 9.5, 10), 8),
            polygon((-18, 12), (19, 12), (21, 21), (-20, 21)),
            6,
        ),
        pet.cloth,
        rim=pet.cloth * 0.55,
    )
    canvas.paint(stroke((2, 6), (-0.5, 11), (1, 17), start=0.6), pet.cloth * 0.7)
    for x, y in (
        (-12, 4),
        (-5, 8),
        (-14, 13),
        (-6, 16),
        (7, 6),
        (6, 15),
        (14, 9),
        (13, 17),
        (0, 9),
    ):
        canvas.paint(ellipse(x + w, y, 1.7, 1.7), light)
    canvas.paint(
        stroke((-20, 21), (-12, 22.3), (0, 21.6), (12, 22.3), (21, 21), start=1.6),
        light,
        rim=pet.cloth * 0.55,
    )
    for x in (-12, -4):
        pet.soft(canvas, ellipse(x + w, 24.6, 3.8, 2.9))
        for toe in (-1.2, 1.2):
            canvas.paint(stroke((x + w + toe, 24.8), (x + w + toe, 26.4), start=0.35), pet.rim, 0.8)


TELLING = {"sitting": sit, "portrait": portrait, "standing": stand, "lying": lie}
HIDING = {"asleep": curl, "away": away, "box": box, "blanket": blanket}
