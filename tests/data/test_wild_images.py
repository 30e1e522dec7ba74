"""Images that a careless reader gets wrong: foreign programs, bombs, more than 8 bits."""

import io
import os
import stat
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import mmlib.data.image as images
from mmlib.data import ManifestErrors, Preprocessing, load_data, read_manifest
from mmlib.data.image import image_size, read_image
from mmlib.leaks.files import image_features

CT = {"air": -1000, "water": 0, "metal": 3000}  # Hounsfield units


def manifest_of(folder, pictures):
    """A manifest of these (name, split), two classes in turn."""
    lines = [
        f"{name},{('a', 'b')[i % 2]},{split}" for i, (name, split) in enumerate(pictures.items())
    ]
    (folder / "m.csv").write_text("\n".join(["image,label,split", *lines]))
    return read_manifest(folder / "m.csv")


# ---- which decoders run


def test_postscript_in_a_png_starts_no_program(tmp_path, monkeypatch):
    called = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n")
    (tmp_path / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # found earlier, perhaps
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png", "EPS")
    for read in (lambda path: read_image(path, 32), image_size, image_features):
        with pytest.raises(ValueError, match=r"not an image .* PNG"):
            read(tmp_path / "a.png")
    assert not called.exists()


def test_only_the_listed_decoders_are_asked(tmp_path, monkeypatch):
    """A plugin of another package registers itself for a prefix of its own."""
    asked = []
    Image.init()
    Image.register_open("OWN", lambda *_: asked.append("OWN"), lambda start: b"OWN" in start)
    try:
        (tmp_path / "x.png").write_bytes(b"OWN" + bytes(100))
        with pytest.raises(ValueError, match="not an image"):
            read_image(tmp_path / "x.png", 32)
    finally:
        del Image.OPEN["OWN"]
        Image.ID.remove("OWN")
    assert not asked


def test_every_listed_format_is_read_where_pillow_writes_it(tmp_path):
    Image.init()
    assert set(images.FORMATS) <= set(Image.OPEN)
    for name in sorted(set(images.FORMATS) & set(Image.SAVE)):
        Image.new("RGB", (64, 64), (200, 30, 40)).save(tmp_path / "x", name)
        assert read_image(tmp_path / "x", 32)[0, 16, 16] > 150, name


# ---- how much memory


def bomb(path, mode, side=6000):
    """An image of few bytes and many pixels."""
    Image.new(mode, (side, side)).save(path)


@pytest.mark.parametrize("mode", ["I;16", "L", "1", "P", "RGB", "RGBA", "LA"])
def test_what_an_image_takes_is_known_before_it_is_decoded(tmp_path, monkeypatch, mode):
    bomb(tmp_path / "x.png", mode, 1000)
    monkeypatch.setattr(images, "MAX_BYTES", 500_000)
    with pytest.raises(ValueError, match=r"1,?000 x 1,?000.* MB.*smaller"):
        read_image(tmp_path / "x.png", 32)
    monkeypatch.setattr(images, "MAX_BYTES", 20_000_000)
    assert read_image(tmp_path / "x.png", 32).shape == (3, 32, 32)


def test_a_large_jpeg_is_measured_as_draft_mode_decodes_it(tmp_path, monkeypatch):
    Image.new("RGB", (4000, 4000), (200, 30, 40)).save(tmp_path / "x.jpg")
    monkeypatch.setattr(images, "MAX_BYTES", 4_000_000)  # 64 MB whole, 1 MB at an eighth
    assert read_image(tmp_path / "x.jpg", 32)[0].float().mean() > 150


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "LA", "P"])
def test_a_large_image_is_converted_in_blocks_to_the_same_pixels(tmp_path, monkeypatch, mode):
    random = np.random.default_rng(0)
    if mode in ("I;16", "F"):
        values = random.integers(0, 4000, (333, 70))
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        image = Image.fromarray(random.integers(0, 255, (333, 70, 4), dtype=np.uint8))
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "x.tiff")
    expected = read_image(tmp_path / "x.tiff", 64)
    monkeypatch.setattr("mmlib.data.depth.BLOCK", 70 * 7)
    assert torch.equal(read_image(tmp_path / "x.tiff", 64), expected)


def test_a_sixteen_bit_image_takes_no_more_than_a_few_bytes_a_pixel(tmp_path):
    """In numpy, that is: 8 bytes a pixel for a copy in float64, and several copies, before."""
    bomb(tmp_path / "x.png", "I;16", 4000)
    tracemalloc.start()
    read_image(tmp_path / "x.png", 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4000**2


# ---- more than 8 bits


def slice_of(*units, side=40):
    """(side, side) with a band of each value."""
    return np.repeat(np.array(units), side // len(units))[:, None].repeat(side, 1)


def save(path, values, kind):
    Image.fromarray(values.astype(kind)).save(path)


@pytest.fixture
def sixteen(tmp_path):
    """16-bit images of one scene, exposed a little less or more; the second crosses 12 bits."""
    scene = np.linspace(100, 4090, 1600).reshape(40, 40)
    pictures = {}
    for i, (exposure, split) in enumerate([(1, "train"), (1.01, "train"), (1, "val"), (8, "test")]):
        save(tmp_path / f"{i}.png", scene * exposure, np.uint16)
        pictures[f"{i}.png"] = split
    return tmp_path, manifest_of(tmp_path, pictures)


def pixels(data):
    """(rows, S, S) 0..255 as the loaders give them, before normalisation, in the file's order."""
    mean, std = (v["image"][0] for v in (data.preprocessing.mean, data.preprocessing.std))
    batches = [batch for loader in data.loaders.values() for batch in loader]
    rows = torch.cat([batch["row"] for batch in batches])
    images = torch.cat([batch["image"][:, 0] for batch in batches])
    return (255 * (images * std + mean)).round()[rows.argsort()]


def brightness(data):
    return pixels(data).flatten(1).mean(dim=1).tolist()


def test_a_brighter_exposure_of_one_scene_never_becomes_darker(sixteen):
    """A scale guessed for each image: a maximum of 4090 gave mean 127, and 4130 gave 8."""
    _, manifest = sixteen
    means = brightness(load_data(manifest, augment=None, progress=False))
    assert means[0] == means[2] < means[1] < means[3]
    assert abs(means[1] / means[0] - 1.01) < 0.05


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_water_is_one_grey_in_all_slices_of_a_scanner(tmp_path, kind):
    pictures = {"a.tiff": "train", "b.tiff": "train", "c.tiff": "val"}
    save(tmp_path / "a.tiff", slice_of(CT["air"], CT["water"]), kind)
    save(tmp_path / "b.tiff", slice_of(CT["water"], CT["metal"]), kind)
    save(tmp_path / "c.tiff", slice_of(CT["water"], 5000), kind)  # no training file has 5000
    data = load_data(manifest_of(tmp_path, pictures), augment=None, progress=False)
    a, b, c = (image[:, 32].tolist() for image in pixels(data))  # 64 pixels; the padding is none
    water = round(255 * 1000 / 4000)
    assert (a[-1], b[0], c[0]) == (water, water, water) and b[-1] == 255 and a[0] == 0


def test_float_images_of_a_little_over_one_are_not_black(tmp_path):
    scene = np.linspace(0, 1, 1600).reshape(40, 40)
    for i, top in enumerate((1.0, 1.01, 1.0)):
        save(tmp_path / f"{i}.tiff", scene * top, np.float32)
    pictures = {"0.tiff": "train", "1.tiff": "train", "2.tiff": "val"}
    data = load_data(manifest_of(tmp_path, pictures), augment=None, progress=False)
    assert min(brightness(data)) > 120
    assert data.preprocessing.scale["image"]["float"] == pytest.approx([0, 1.01])


def test_the_scale_is_of_training_files_alone_and_predict_has_it(sixteen):
    folder, manifest = sixteen
    data = load_data(manifest, augment=None, progress=False)
    fitted = data.preprocessing
    assert fitted.scale == {"image": {"integer": [0.0, 65535.0]}}  # the test image has 32,720
    again = Preprocessing.from_state(fitted.state())
    one = again.batch([{"image": folder / "0.png"}])["image"]
    array = np.asarray(Image.open(folder / "0.png"))
    for same in (array, Image.open(folder / "0.png"), array.astype(np.int32)):
        assert torch.equal(again.batch([{"image": same}])["image"], one)
    expected = next(iter(data.loaders["val"]))["image"]  # the same pixels, from the loader
    assert torch.equal(one[0], expected[0])
    on_disk = load_data(manifest, augment=None, progress=False, memory=False, workers=0)
    assert torch.equal(next(iter(on_disk.loaders["val"]))["image"], expected)


def test_values_beyond_the_fitted_range_are_its_ends(tmp_path):
    ends = {"integer": [-1000.0, 3000.0]}
    values = np.array([[-5000, -1000], [3000, 9000]], np.int32)
    save(tmp_path / "x.tiff", values, np.int32)
    assert read_image(tmp_path / "x.tiff", 2, ends)[0].tolist() == [[0, 0], [255, 255]]


def test_a_checkpoint_from_before_reads_as_it_did(sixteen):
    folder, manifest = sixteen
    state = load_data(manifest, progress=False).preprocessing.state()
    del state["scale"]
    old = Preprocessing.from_state(state)
    assert old.scale == {}
    mean, std = (torch.tensor(v)[:, None, None] for v in (old.mean["image"], old.std["image"]))
    expected = (read_image(folder / "0.png", old.sizes["image"]) / 255 - mean) / std
    torch.testing.assert_close(old.batch([{"image": folder / "0.png"}])["image"][0], expected)


def test_images_of_eight_bits_have_no_scale(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 40, 90)).save(tmp_path / f"{i}.png")
    pictures = {"0.png": "train", "1.png": "train", "2.png": "val"}
    fitted = load_data(manifest_of(tmp_path, pictures), progress=False).preprocessing
    assert fitted.scale == {} and "scale" not in fitted.state(), "older runs would not resume"


def test_a_bad_image_among_those_measured_is_listed_as_any_other(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.tiff", slice_of(i, 5000), np.uint16)
    save(tmp_path / "nan.tiff", np.full((8, 8), np.nan), np.float32)
    data = (tmp_path / "1.tiff").read_bytes()
    (tmp_path / "1.tiff").write_bytes(data[: len(data) // 2])
    pictures = {"0.tiff": "train", "1.tiff": "train", "nan.tiff": "train", "2.tiff": "val"}
    with pytest.raises(ManifestErrors) as caught:
        load_data(manifest_of(tmp_path, pictures), progress=False)
    assert [problem.path for problem in caught.value.problems] == ["1.tiff", "nan.tiff"]
    assert "NaN" in caught.value.problems[1].reason


def test_a_fitted_scale_is_said(sixteen):
    data = load_data(sixteen[1], progress=False)
    assert any("more than 8 bits" in line and "65,535" in line for line in data.summary)


def test_the_bytes_of_a_file_are_read_as_the_file(tmp_path):
    bomb(tmp_path / "x.png", "I;16", 50)
    for data in ((tmp_path / "x.png").read_bytes(), b"", b"%!PS-Adobe-3.0 EPSF-3.0"):
        (tmp_path / "y").write_bytes(data)
        found = []
        for source in (tmp_path / "y", data):
            try:
                found.append(read_image(source, 32).tolist())
            except ValueError as error:
                found.append(str(error))
        assert found[0] == found[1]


def test_an_image_in_memory_is_not_bound_to_the_listed_formats():
    Image.new("RGB", (50, 50), (9, 200, 9)).save(file := io.BytesIO(), "PNG")
    assert read_image(Image.open(file), 32)[1].min() == 200
