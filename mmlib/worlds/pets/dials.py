"""The dials of the pets world, and the best accuracy that any model can reach under them."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import prod

from mmlib.renamed import old_names, renamed

MODALITIES = ("image", "text", "audio")
STRUCTURES = ("unique", "redundant", "synergy")


@dataclass(frozen=True)
class Dials:
    """How a world is made. All rates are probabilities per row.

    ``structure`` says how the modalities share what they know:

    - "unique": each modality has its own coin, which decides whether it tells the species. So every
      further modality helps.
    - "redundant": one coin for all modalities, which need equal rates. No modality adds anything to
      another.
    - "synergy": every modality shows a species of its own, and the label is their exclusive-or
      ("dog" when an odd number of modalities shows a dog). Each modality alone is chance. A
      modality whose rate is 1 never shows anything and takes no part.

    Raises ValueError, naming the dial, for a value out of range.

    >>> Dials(image=0.1).text
    0.5
    >>> Dials(image=1.5)
    Traceback (most recent call last):
    ValueError: dial 'image' is 1.5, expected a number from 0 to 1
    """

    # how often the picture does not tell the species: asleep in a ball, turned away, ...
    image: float = 0.3
    text: float = 0.5  # how often the caption is vague
    audio: float = 0.4  # how often no voice is heard: footsteps, a ball, ...
    missing_image: float = 0.0  # how often there is no picture, whatever it would have shown
    missing_text: float = 0.0
    missing_audio: float = 0.0
    # blurs what tells: deviation of pixel noise, and of white noise under the voice; share of words
    # lost
    noise: float = 0.0
    label_noise: float = 0.0  # how often the label is wrong, 0 to 0.5
    # how often the place follows the label (1: always, -1: always the other way round); else it is
    # drawn freely
    spurious: float = 0.0
    structure: str = "unique"

    def __post_init__(self) -> None:
        ranges = {"label_noise": (0, 0.5), "spurious": (-1, 1)}
        for name in (f.name for f in fields(self) if f.type is float):
            low, high = ranges.get(name, (0, 1))
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(
                    f"dial {name!r} is {value!r}, expected a number from {low} to {high}"
                )
        if self.structure not in STRUCTURES:
            raise ValueError(
                f"dial 'structure' is {self.structure!r}, expected one of {STRUCTURES}"
            )
        if self.structure == "redundant" and not self.image == self.text == self.audio:
            raise ValueError(
                "structure 'redundant' has one coin for all modalities, so the dials 'image', "
                "'text' and 'audio' must be equal; "
                f"given {self.image}, {self.text}, {self.audio}"
            )
        if self.structure == "synergy" and len(self.active) < 2:
            raise ValueError(
                "structure 'synergy' needs two modalities or more that tell at times (a dial "
                f"below 1); only {self.active} do"
            )

    @property
    def active(self) -> tuple[str, ...]:
        """The modalities that tell the species at least sometimes."""
        return tuple(modality for modality in MODALITIES if getattr(self, modality) < 1)


DEFAULT = Dials()


@renamed(senses="modalities")
def best_accuracy(dials: Dials, modalities: Iterable[str] = MODALITIES) -> float:
    """The accuracy, over endless rows, of the best possible reader of these modalities only.

    Let u be the chance that a modality does not tell the species, and m that it is missing. Then
    nothing is known of a row with probability

    - unique: the product over the modalities of 1 - (1 - u) (1 - m);
    - redundant: u + (1 - u) times the product of the m;
    - synergy: 1 - the product of (1 - u) (1 - m) over all active modalities; 1 when one of them is
      not used.

    There one guess in two is right; elsewhere all answers are. Without any modality it is 1/2.
    Label noise e turns an accuracy a into a (1 - e) + (1 - a) e. Raises ValueError for an unknown
    modality, and for a dial that leaves no known optimum.

    >>> best_accuracy(Dials(image=0.3), ["image"])
    0.85
    >>> best_accuracy(Dials(image=0.3, text=0.5, audio=0.4))
    0.97
    """
    modalities = check_known(dials, modalities)
    tells = {modality: 1 - getattr(dials, modality) for modality in MODALITIES}
    there = {modality: 1 - getattr(dials, f"missing_{modality}") for modality in MODALITIES}
    if dials.structure == "unique":
        unknown = prod(1 - tells[modality] * there[modality] for modality in modalities)
    elif dials.structure == "redundant":
        missing = prod(1 - there[modality] for modality in modalities)
        unknown = dials.image + (1 - dials.image) * missing
    elif set(dials.active) <= set(modalities):
        unknown = 1 - prod(tells[modality] * there[modality] for modality in dials.active)
    else:
        unknown = 1
    accuracy = 1 - unknown / 2
    return accuracy * (1 - dials.label_noise) + (1 - accuracy) * dials.label_noise


def check_known(dials: Dials, modalities: Iterable[str]) -> tuple[str, ...]:
    """The modalities, once each.

    Raises ValueError for one that is unknown, or when these dials have no known optimum.
    """
    modalities = (modalities,) if isinstance(modalities, str) else tuple(dict.fromkeys(modalities))
    for modality in modalities:
        if modality not in MODALITIES:
            raise ValueError(f"unknown modality {modality!r}, expected some of {MODALITIES}")
    if dials.noise > 0:
        raise ValueError(
            f"no optimum is known for dial 'noise' = {dials.noise}: how much blurred evidence "
            "still shows has no formula; set it to 0"
        )
    if dials.spurious != 0:
        raise ValueError(
            f"no optimum is known for dial 'spurious' = {dials.spurious}: the place then says "
            "something about the label, in pictures and captions that show it; set it to 0"
        )
    return modalities


__getattr__ = old_names(__name__, {"SENSES": "MODALITIES"}, globals())
