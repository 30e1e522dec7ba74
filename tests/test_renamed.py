"""Names of version 0.1 work for one release more, and say what they are called now."""

import inspect
from dataclasses import asdict, replace
from importlib import import_module

import pandas as pd
import pytest

from mmlib.data import Augment, Preprocessing, Target, read_manifest
from mmlib.data.manifest import Modality
from mmlib.renamed import renamed
from mmlib.worlds import pets


@renamed(size="width")
def area(width: int, height: int = 2) -> int:
    """Of a rectangle."""
    return width * height


def test_an_old_keyword_is_taken_and_warns_at_the_line_of_the_caller():
    with pytest.warns(DeprecationWarning, match=r"area\(size=\) is now area\(width=\)") as found:
        assert area(size=3) == 6
    assert found[0].filename == __file__
    assert area(3) == area(width=3) == 6 and area.__doc__ == "Of a rectangle."
    assert list(inspect.signature(area).parameters) == ["width", "height"]


def test_both_names_at_once_and_unknown_names_are_errors():
    with pytest.raises(TypeError, match="'width' and its old name 'size'; give 'width' only"):
        area(size=3, width=3)
    with pytest.raises(TypeError, match="depth"):
        area(3, depth=3)


def test_augment_takes_and_shows_hide():
    with pytest.warns(DeprecationWarning, match=r"Augment\(hide=\).*Augment\(modality_dropout=\)"):
        old = Augment(hide=0.3)
    assert old == Augment(modality_dropout=0.3) and "hide" not in asdict(old)
    with pytest.warns(DeprecationWarning, match="Augment.hide is now Augment.modality_dropout"):
        assert old.hide == 0.3
    with pytest.raises(ValueError, match="modality_dropout is 2"):
        with pytest.warns(DeprecationWarning):
            Augment(hide=2)


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_a_name_of_today_does_not_warn():
    augment = replace(Augment(modality_dropout=0.3), words=0.2)
    assert augment.modality_dropout == 0.3 and pets.MODALITIES[0] == "image"
    assert len(pets.draw(2, modalities=()).label) == 2


def test_manifest_and_preprocessing_show_their_senses():
    manifest = read_manifest(pd.DataFrame({"text": ["a"], "label": ["x"]}))
    fitted = Preprocessing({"text": Modality("text", "text")}, "label", Target(["x", "y"]))
    for thing in (manifest, fitted):
        name = type(thing).__name__
        with pytest.warns(DeprecationWarning, match=f"{name}.senses is now {name}.modalities"):
            assert thing.senses is thing.modalities
    with pytest.warns(DeprecationWarning, match=r"Preprocessing\(senses=\)"):
        assert Preprocessing(senses=fitted.modalities, target_name="label", target=fitted.target)


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("mmlib.worlds.pets", "SENSES", "MODALITIES"),
        ("mmlib.worlds.pets.dials", "SENSES", "MODALITIES"),
        ("mmlib.data.augment", "hide_senses", "drop_modalities"),
        ("mmlib.data.augment", "change_pictures", "change_images"),
        ("mmlib.data.augment", "change_sounds", "change_audio"),
        ("mmlib.data.augment", "PICTURE_DRAWS", "IMAGE_DRAWS"),
        ("mmlib.data.augment", "SOUND_DRAWS", "AUDIO_DRAWS"),
        ("mmlib.plots", "speaking", "with_alt_text"),
    ],
)
def test_a_module_gives_its_old_names(module, old, new):
    home = import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {module}.{new}") as found:
        assert getattr(home, old) is getattr(home, new)
    assert found[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        home.nothing  # noqa: B018


def test_the_pets_are_drawn_by_senses_as_before():
    with pytest.warns(DeprecationWarning, match=r"draw\(senses=\) is now draw\(modalities=\)"):
        world = pets.draw(3, senses=["text"])
    assert world.text == pets.draw(3, modalities=["text"]).text and not world.images.any()
    with pytest.warns(DeprecationWarning, match=r"build\(senses=\)"):
        assert pets.build(pets.chances(3), senses=()).text == ["", "", ""]
    with pytest.warns(DeprecationWarning, match=r"best_accuracy\(senses=\)"):
        assert pets.best_accuracy(pets.Dials(), senses="image") == 0.85
    with pytest.warns(DeprecationWarning, match=r"ideal_accuracy\(senses=\)"):
        pets.ideal_accuracy(world, senses=["image"])
