"""The dials of the pets world, and the best accuracy that any model can reach under them."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import prod

MODALITIES = ("image", "text", "audio")
STRUCTURES = ("unique", "redundant", "synergy")


@dataclass(frozen=True)
class Dials:
    """How a world is made. All rates are probabilities per row.

    ``structure`` says how the modalities share what they know:

    - "unique": each modality has its own coin for whether it tells, so every further modality helps;
    - "redundant": one coin for all modalities (which need equal rates): no modality adds anything to another;
    - "synergy": every modality shows a species of its own, and the label is their exclusive-or ("dog" when an odd number of modalities shows
      a dog): each modality alone is chance. A modality whose rate is 1 never shows anything and takes no part.

    Raises ValueError, naming the dial, for a value out of range.
    """

    image: float = 0.3  # how often the picture does not tell: asleep in a ball, turned away, ...
    text: float = 0.5  # how often the caption is vague
    audio: float = 0.4  # how often one hears no voice: footsteps, a ball, ...
    missing_image: float = 0.0  # how often there is no picture at all, whatever it would have told
    missing_text: float = 0.0
    missing_audio: float = 0.0
    # blurs what tells: deviation of pixel noise, and of white noise under the voice; share of words
    # lost
    noise: float = 0.0
    label_noise: float = 0.0  # how often the label is wrong, 0 to 0.5
    # how often the place follows the label (1: always, -1: always the other way round), else it is
    # drawn freely
    spurious: float = 0.0
    structure: str = "unique"

    def __post_init__(self) -> None:
        ranges = {"label_noise": (0, 0.5), "spurious": (-1, 1)}
        for name in (f.name for f in fields(self) if f.type is float):
            low, high = ranges.get(name, (0, 1))
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value <= high
            ):
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
        """The modalities that tell at least sometimes."""
        return tuple(modality for modality in MODALITIES if getattr(self, modality) < 1)


def best_accuracy(dials: Dials, modalities: Iterable[str] = MODALITIES) -> float:
    """The accuracy, over endless rows, of the best possible guesser that is given these modalities
    only. No modality at all: 1/2.

    With u the chance that a modality does not tell and m that it is missing, nothing is known of a
    row with probability

    - unique: the product over the modalities of 1 - (1 - u) (1 - m);
    - redundant: u + (1 - u) times the product of the m;
    - synergy: 1 - the product of (1 - u) (1 - m) over all active modalities; 1 when one of them is not used;

    there one guess in two is right, elsewhere all are. Label noise e turns an accuracy a into a (1
    - e) + (1 - a) e. Raises ValueError for an unknown modality, and for a dial that leaves no known
    optimum.
    """
    modalities = check_known(dials, modalities)
    tells = {modality: 1 - getattr(dials, modality) for modality in MODALITIES}
    there = {modality: 1 - getattr(dials, f"missing_{modality}") for modality in MODALITIES}
    if dials.structure == "unique":
        unknown = prod(1 - tells[modality] * there[modality] for modality in modalities)
    elif dials.structure == "redundant":
        unknown = dials.image + (1 - dials.image) * prod(
            1 - there[modality] for modality in modalities
        )
    else:
        unknown = (
            1 - prod(tells[modality] * there[modality] for modality in dials.active)
            if set(dials.active) <= set(modalities)
            else 1
        )
    accuracy = 1 - unknown / 2
    return accuracy * (1 - dials.label_noise) + (1 - accuracy) * dials.label_noise


def check_known(dials: Dials, modalities: Iterable[str]) -> tuple[str, ...]:
    """The modalities, once each.

    ValueError for one that is unknown, or when these dials have no known optimum.
    """
    modalities = (modalities,) if isinstance(modalities, str) else tuple(dict.fromkeys(modalities))
    for modality in modalities:
        if modality not in MODALITIES:
            raise ValueError(f"unknown modality {modality!r}, expected some of {MODALITIES}")
    if dials.noise > 0:
        raise ValueError(
            f"no optimum is known for dial 'noise' = {dials.noise}: how much blurred evidence "
            "still tells has no "
            "formula; set it to 0"
        )
    if dials.spurious != 0:
        raise ValueError(
            f"no optimum is known for dial 'spurious' = {dials.spurious}: the place then says "
            "something about the label, in "
            "pictures and captions that show it; set it to 0"
        )
    return modalities
