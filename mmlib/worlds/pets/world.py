"""Decide what each pet is and shows, then draw it: dials and a seed -> a World."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mmlib.renamed import renamed
from mmlib.worlds.pets import captions, poses, scenery
from mmlib.worlds.pets.dials import DEFAULT, MODALITIES, Dials, check_known
from mmlib.worlds.pets.drawing import SIZE, Array
from mmlib.worlds.pets.pictures import COATS, COLLARS, HIDDEN, PATTERNS, pick, pictures
from mmlib.worlds.pets.voices import quantised, sound

CLASSES = ("cat", "dog")
# pictures drawn together: enough to make calls cheap, few enough to stay near the cache
BLOCK = 512
# The random numbers of a row, in this order: a new one goes to the end, or every row of every world
# changes.
CHANCES = (
    "species shown_image shown_text shown_audio tells_image tells_text tells_audio "
    "there_image there_text there_audio flip cue place telling hiding coat pattern collar prop "
    "iris cloth noun template does x y scale turn mirror shift side w0 w1 w2 w3 w4 w5 w6 w7 "
    "wiggle0 wiggle1 sound noise"
).split()
LOOKS = ("coat", "pattern", "collar", "place", "prop", "pose")


class World(NamedTuple):
    """N pets.

    A missing modality is a black picture, an empty string or a clip of no samples; ``present`` says
    which are missing.

    >>> world = draw(2, seed=0, modalities=["text"])
    >>> print(world.text[1])
    Our furry friend is patched black and seems calm. Here it is under a blanket...
    >>> CLASSES[world.label[1]], bool(world.tells["text"][1])  # the caption is vague
    ('dog', False)
    """

    images: Array  # (N, SIZE, SIZE, 3) uint8
    text: list[str]
    text_zh: list[str]
    audio: list[Array]  # (samples,) float32 each, at RATE
    label: Array  # (N,) int64: index into CLASSES
    tells: dict[str, Array]  # modality -> (N,) bool: present, and shows a species
    present: dict[str, Array]  # modality -> (N,) bool
    # modality -> (N,) int64: the species that it shows where it tells; in synergy, each its own
    shown: dict[str, Array]
    # each of LOOKS: (N,) str; species: (N,) int64, the label before label noise
    attributes: dict[str, Array]
    dials: Dials


@renamed(senses="modalities")
def draw(
    rows: int | Sequence[int],
    seed: int = 0,
    dials: Dials = DEFAULT,
    modalities: Iterable[str] = MODALITIES,
) -> World:
    """Draw rows 0 .. rows - 1 of the world of this seed, or the rows listed.

    Modalities left out are decided on, but not drawn: that is fast. Raises ValueError for a
    negative number of rows, and for an unknown modality.

    >>> draw(3, seed=1).images.shape
    (3, 64, 64, 3)
    >>> draw([7], seed=1).text == draw(8, seed=1).text[7:]  # a row does not depend on the others
    True
    """
    return build(chances(rows, seed), dials, modalities)


def chances(rows: int | Sequence[int], seed: int = 0) -> dict[str, Array]:
    """The random numbers in 0..1 from which everything about the rows follows.

    -> name -> (N,) float64.

    >>> sorted(chances(2))[:3], chances(2)["coat"].shape
    (['cloth', 'coat', 'collar'], (2,))
    """
    if isinstance(rows, (int, np.integer)):
        if rows < 0:
            raise ValueError(f"rows is {rows}, expected 0 or more, or a list of row numbers")
        rows = range(rows)
    table = [np.random.default_rng([seed, int(row)]).random(len(CHANCES)) for row in rows]
    return dict(zip(CHANCES, np.array(table).reshape(-1, len(CHANCES)).T, strict=True))


@renamed(senses="modalities")
def build(
    chance: dict[str, Array], dials: Dials = DEFAULT, modalities: Iterable[str] = MODALITIES
) -> World:
    """The world that follows from these random numbers.

    Change one of them to see what depends on it.

    >>> chance = chances(1)
    >>> other = chance | {"species": (chance["species"] + 0.5) % 1}
    >>> one, two = build(chance, modalities=()), build(other, modalities=())
    >>> one.label != two.label, one.attributes["coat"] == two.attributes["coat"]
    (array([ True]), array([ True]))
    """
    modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if not set(modalities) <= set(MODALITIES):
        raise ValueError(
            f"unknown modalities {sorted(set(modalities) - set(MODALITIES))}, expected some of "
            f"{MODALITIES}"
        )
    world = _decide(chance, dials)
    for modality in modalities:
        {"image": _fill_images, "text": _fill_texts, "audio": _fill_audio}[modality](world, chance)
    return world


@renamed(senses="modalities")
def ideal_accuracy(world: World, modalities: Iterable[str] = MODALITIES) -> float:
    """The accuracy on these very rows of an observer who reads these modalities without error.

    Where none tells the species, the observer guesses: that counts 1/2. ``best_accuracy`` is its
    mean over all worlds. Raises ValueError where ``best_accuracy`` does, and for a world without
    rows.

    >>> world = draw(100, seed=0, modalities=())
    >>> ideal_accuracy(world, ["image"]) < ideal_accuracy(world) <= 1
    True
    """
    modalities = check_known(world.dials, modalities)
    if not len(world.label):
        raise ValueError("the world has no rows: an accuracy needs one at least")
    if world.dials.structure == "synergy":
        active = world.dials.active
        knows = np.logical_and.reduce([world.tells[s] & (s in modalities) for s in active])
        answer = _exclusive_or([world.shown[s] for s in active])
    else:
        knows = np.logical_or.reduce(
            [world.tells[s] for s in modalities] or [np.zeros(len(world.label), bool)]
        )
        answer = world.attributes["species"]
    return float(np.where(knows, answer == world.label, 0.5).mean())


def _exclusive_or(species: Sequence[Array]) -> Array:
    """1 (dog) where an odd number of these is 1."""
    return np.sum(species, axis=0) % 2


def _decide(chance: dict[str, Array], dials: Dials) -> World:
    """Everything about the rows, apart from the pictures, captions and clips themselves."""
    n = len(chance["species"])
    coins = {
        s: chance["tells_image" if dials.structure == "redundant" else f"tells_{s}"]
        >= getattr(dials, s)
        for s in MODALITIES
    }
    present = {s: chance[f"there_{s}"] >= getattr(dials, f"missing_{s}") for s in MODALITIES}
    species = (chance["species"] * 2).astype(np.int64)
    shown = dict.fromkeys(MODALITIES, species)
    if dials.structure == "synergy":
        shown = {s: (chance[f"shown_{s}"] * 2).astype(np.int64) for s in MODALITIES}
        species = _exclusive_or([shown[s] for s in dials.active])
    label = np.where(chance["flip"] < dials.label_noise, 1 - species, species)
    tables = {"coat": COATS, "pattern": PATTERNS, "collar": COLLARS, "prop": scenery.PROPS}
    attributes = {key: pick(chance[key], table) for key, table in tables.items()}
    telling, hiding = pick(chance["telling"], poses.TELLING), pick(chance["hiding"], poses.HIDING)
    attributes["pose"] = np.where(coins["image"], telling, hiding)
    attributes |= {"place": _places(chance, species, dials.spurious), "species": species}
    return World(
        images=np.zeros((n, SIZE, SIZE, 3), np.uint8),
        text=[""] * n,
        text_zh=[""] * n,
        audio=[np.zeros(0, np.float32)] * n,
        label=label,
        tells={s: coins[s] & present[s] for s in MODALITIES},
        present=present,
        shown=shown,
        attributes=attributes,
        dials=dials,
    )


def _places(chance: dict[str, Array], species: Array, spurious: float) -> Array:
    """(N,) str. A free place is drawn from all six.

    A place that follows the label is drawn from the three that are the label's own.
    """
    names = np.array(sorted(scenery.PLACES))
    own = np.where(spurious < 0, 1 - species, species)
    follows = chance["cue"] < abs(spurious)
    place = np.where(
        follows, (own + chance["place"]) * len(names) / 2, chance["place"] * len(names)
    )
    return names[place.astype(np.int64)]


def _noise(chance: dict[str, Array], i: int, modality: str) -> np.random.Generator:
    """The generator of the noise on one modality of one row."""
    return np.random.default_rng([int(chance["noise"][i] * 2**53), MODALITIES.index(modality)])


def _fill_images(world: World, chance: dict[str, Array]) -> None:
    species = np.where(world.tells["image"], world.shown["image"], HIDDEN)
    present = np.flatnonzero(world.present["image"])
    for start in range(0, len(present), BLOCK):
        rows = present[start : start + BLOCK]
        looks = {key: world.attributes[key][rows] for key in LOOKS}
        own = {key: values[rows] for key, values in chance.items()}
        images = pictures(looks, own, species[rows])
        if world.dials.noise:
            noise = [
                _noise(chance, i, "image").normal(size=images.shape[1:]) for i in rows.tolist()
            ]
            images = images + world.dials.noise * np.stack(noise)
        world.images[rows] = np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)


def _fill_texts(world: World, chance: dict[str, Array]) -> None:
    """With the noise dial, English words and Chinese characters are lost."""
    lost = world.dials.noise
    for i in np.flatnonzero(world.present["text"]).tolist():
        looks = {key: str(world.attributes[key][i]) for key in LOOKS}
        hint = int(world.shown["text"][i]) if world.tells["text"][i] else None
        own = {key: float(chance[key][i]) for key in ("noun", "template", "does")}
        english, chinese = captions.caption(looks, own, hint)
        if lost:
            rng = _noise(chance, i, "text")
            english = " ".join(word for word in english.split() if rng.random() >= lost)
            chinese = "".join(character for character in chinese if rng.random() >= lost)
        world.text[i], world.text_zh[i] = english, chinese


def _fill_audio(world: World, chance: dict[str, Array]) -> None:
    for i in np.flatnonzero(world.present["audio"]).tolist():
        species = int(world.shown["audio"][i]) if world.tells["audio"][i] else None
        wave = sound(np.random.default_rng(int(chance["sound"][i] * 2**53)), species)
        if world.dials.noise:
            noise = _noise(chance, i, "audio").normal(size=len(wave))
            wave = quantised(wave + world.dials.noise * noise)
        world.audio[i] = wave
