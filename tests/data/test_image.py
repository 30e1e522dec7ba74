"""Images of every kind become uint8 (3, S, S): the whole image, upright, with its colours."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mmlib.data import ManifestErrors, load_data, read_manifest
from mmlib.data.image import choose_size, image_size, read_image

RED, BLUE = (220, 30, 40), (20, 60, 200)


def two_colours(width=60, height=60) -> Image.Image:
    """Red on top, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def halves(pixels: torch.Tensor) -> tuple[list[int], list[int]]:
    """The colours of the top and of the bottom part."""
    size = pixels.shape[-1]
    return pixels[:, size // 8, size // 2].tolist(), pixels[:, -size // 8, size // 2].tolist()


def close(a, b, by=12) -> bool:
    return bool(((torch.as_tensor(a).float() - torch.as_tensor(b).float()).abs() <= by).all())


@pytest.mark.parametrize(
    "suffix, mode",
    [
        ("png", "RGB"),
        ("png", "P"),
        ("jpg", "RGB"),
        ("jpg", "CMYK"),
        ("bmp", "RGB"),
        ("gif", "P"),
        ("webp", "RGB"),
        ("tiff", "CMYK"),
        ("png", "RGBA"),
        ("tiff", "YCbCr"),
    ],
)
def test_every_mode_keeps_its_colours(tmp_path, suffix, mode):
    two_colours().convert(mode).save(tmp_path / f"x.{suffix}")
    pixels = read_image(tmp_path / f"x.{suffix}", 32)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8
    top, bottom = halves(pixels)
    assert close(top, RED, 40) and close(bottom, BLUE, 40)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_grey_modes_give_three_equal_channels_in_the_right_order(tmp_path, mode):
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (1, 64))
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(ramp).convert(mode)
    image.save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", 32)
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
    top, bottom = halves(pixels)
    assert top[0] < 80 and bottom[0] > 170


@pytest.mark.parametrize("top", [65535, 4095])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, top):
    values = np.linspace(0, top, 64 * 64).reshape(64, 64)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "x.png")
    expected = read_image((values / top).astype(np.float32), 32)
    assert close(read_image(tmp_path / "x.png", 32), expected, 1)
    assert expected.float().std() > 50


@pytest.mark.parametrize("top", [4095, 65535, 255.0, 65535.0, 1.0])
def test_the_full_range_of_each_depth_is_scaled_to_the_rounded_share(tmp_path, top):
    values = np.linspace(0, top, 4096).reshape(64, 64)
    values = values.round().astype(np.uint16) if isinstance(top, int) else values.astype(np.float32)
    Image.fromarray(values).save(tmp_path / "x.tiff")
    expected = np.rint(values.astype(np.float64) * 255 / top)
    assert np.array_equal(read_image(tmp_path / "x.tiff", 64)[0].numpy(), expected)


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((40, 40), 20_000, np.uint16)).save(tmp_path / "x.png")
    assert close(read_image(tmp_path / "x.png", 32), 20_000 / 257, 1)


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_wide_tiffs_use_their_own_range(tmp_path, kind):
    values = np.linspace(-1000, 90_000, 64 * 64).reshape(64, 64).astype(kind)
    Image.fromarray(values).save(tmp_path / "x.tiff")
    pixels = read_image(tmp_path / "x.tiff", 64)
    assert pixels.min() == 0 and pixels.max() == 255 and close(pixels[0].float().mean(), 127.5, 2)


def test_transparent_parts_are_white(tmp_path):
    for name, image in {
        "rgba": Image.new("RGBA", (40, 40), (0, 0, 0, 0)),
        "half": Image.new("RGBA", (40, 40), (0, 0, 0, 128)),
        "la": Image.new("LA", (40, 40), (0, 0)),
    }.items():
        image.save(tmp_path / f"{name}.png")
    indexed = Image.new("P", (40, 40), 0)
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.save(tmp_path / "p.png", transparency=0)
    means = {
        name: read_image(tmp_path / f"{name}.png", 32).float().mean().item()
        for name in ("rgba", "half", "la", "p")
    }
    assert means["rgba"] == means["la"] == means["p"] == 255 and 120 < means["half"] < 135


@pytest.mark.parametrize(
    "orientation, turn", [(1, None), (2, 0), (3, 3), (4, 1), (5, 5), (6, 4), (7, 6), (8, 2)]
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_rotation_is_undone(tmp_path, orientation, turn, suffix):
    """Pillow's own exif_transpose is the judge."""
    from PIL import ImageOps

    image = two_colours(80, 48)
    image.paste((250, 250, 250), (0, 0, 20, 10))  # no symmetry
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x.{suffix}", exif=exif)
    with Image.open(tmp_path / f"x.{suffix}") as stored:
        upright = ImageOps.exif_transpose(stored)
    assert close(read_image(tmp_path / f"x.{suffix}", 64), read_image(upright, 64), 30)


@pytest.mark.parametrize("shape", [(6, 10), (4000, 4000), (1, 300), (300, 1), (1, 1), (97, 41)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_any_size_is_kept_whole_and_padded_with_its_mean_colour(tmp_path, shape, suffix):
    Image.new("RGB", shape, RED).save(tmp_path / f"x.{suffix}")
    pixels = read_image(tmp_path / f"x.{suffix}", 96)
    assert pixels.shape == (3, 96, 96)
    assert close(pixels.flatten(1).T, torch.tensor(RED).expand(96 * 96, 3), 4)


def test_proportions_are_kept_and_the_padding_is_the_mean():
    pixels = read_image(two_colours(100, 50), 64)
    assert close(pixels[:, 0, 5], (np.array(RED) + BLUE) / 2, 3)
    assert close(pixels[:, 63, 5], (np.array(RED) + BLUE) / 2, 3)
    assert close(pixels[:, 18, 5], RED, 3) and close(pixels[:, 46, 60], BLUE, 3)


def test_a_large_jpeg_in_draft_mode_looks_like_the_same_picture_read_whole(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    image.save(tmp_path / "x.jpg", quality=95)
    difference = read_image(tmp_path / "x.jpg", 64).float() - read_image(image, 64).float()
    assert difference.abs().mean() < 3


def test_arrays_of_every_layout_agree():
    picture = np.asarray(two_colours(50, 40))
    expected = read_image(Image.fromarray(picture), 32)
    as_float = picture.astype(np.float32) / 255
    for source in (
        picture,
        picture.transpose(2, 0, 1),
        torch.from_numpy(picture.copy()).permute(2, 0, 1),
        as_float,
        torch.from_numpy(as_float),
        np.concatenate([picture, np.full_like(picture[..., :1], 255)], axis=2),
    ):
        assert torch.equal(read_image(source, 32), expected)
    assert torch.equal(read_image(picture[..., 0], 32), read_image(picture[..., :1], 32))
    assert read_image(np.eye(8, dtype=bool), 32).max() == 255


@pytest.mark.parametrize(
    "array, word",
    [
        (np.zeros((5, 5, 5), np.uint8), "shape"),
        (np.full((4, 4), 255.0), "0..1"),
        (np.full((4, 4), np.nan), "0..1"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((0, 4), np.uint8), "shape"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_the_reason(array, word):
    with pytest.raises(ValueError, match=word):
        read_image(array, 32)


def test_broken_files_say_what_is_wrong(tmp_path):
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (200, 200, 3), dtype=np.uint8))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    for suffix in ("png", "jpg", "bmp"):
        noise.save(tmp_path / f"whole.{suffix}")
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="cannot be decoded"):
            read_image(tmp_path / f"half.{suffix}", 32)
    with pytest.raises(ValueError, match="empty"):
        read_image(tmp_path / "empty.png", 32)
    with pytest.raises(ValueError, match="not an image"):
        read_image(tmp_path / "text.png", 32)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_gives_a_picture_or_a_valueerror(tmp_path):
    """Decoders raise many kinds of errors; the caller gets ValueError for all of them."""
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "gif", "tiff", "webp", "bmp"):
        two_colours().save(
            tmp_path / f"x.{suffix}", **({"exif": exif} if suffix in ("jpg", "png", "webp") else {})
        )
        data = (tmp_path / f"x.{suffix}").read_bytes()
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(random.integers(1, 12)):
                damaged[random.integers(min(len(damaged), 400))] = random.integers(256)
            (tmp_path / "y").write_bytes(damaged)
            for read in (lambda path: read_image(path, 32), image_size):
                try:
                    read(tmp_path / "y")
                except ValueError:
                    pass


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_exif_block_does_not_lose_the_picture(tmp_path):
    two_colours().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*" + struct.pack(">I", 1 << 20))
    assert close(halves(read_image(tmp_path / "x.jpg", 32))[0], RED, 20)


FAULTS = [
    RuntimeError("Failed to decode frame 0"),
    NotImplementedError("Unknown pixel format flags 0"),
    struct.error("unpack"),
    SyntaxError("broken"),
    KeyError("mode"),
    IndexError(),
    RecursionError("too deep"),
    OSError("gs failed"),
    MemoryError(),
    subprocess.CalledProcessError(1, ["gs"]),
    AttributeError("none"),
    ZeroDivisionError("division by zero"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_decoder_raises_is_a_reason_listed_with_all_others_and_skipped_when_asked(
    tmp_path, monkeypatch, fault
):
    rows = ["image,label,split"]
    for i in range(12):
        two_colours(8, 8 + i).save(tmp_path / f"{i}.png")
        rows.append(
            f"{i}.png,{'cat' if i % 2 else 'dog'},{('train', 'train', 'val', 'test')[i // 3]}"
        )
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile,
        "load",
        failing(PngImagePlugin.PngImageFile.load, (8, 8), fault),
    )
    with pytest.raises(ManifestErrors) as caught:
        load_data(read_manifest(tmp_path / "m.csv"), progress=False)
    assert [(p.row, p.column, p.path) for p in caught.value.problems] == [
        ("line 2", "image", "0.png"),
        ("line 5", "image", "3.png"),
    ]
    reason = caught.value.problems[0].reason
    said = str(fault) or type(fault).__name__
    assert ("memory" if isinstance(fault, MemoryError) else said) in reason
    data = load_data(read_manifest(tmp_path / "m.csv"), progress=False, on_error="skip")
    assert [problem.row for problem in data.skipped] == ["line 2", "line 5"]
    assert data.loaders["train"].samples == 4


def failing(real, size: tuple[int, int], fault: Exception):
    """``real`` that raises ``fault`` for images of one size."""

    def load(image, *arguments):
        if image.size == size:
            raise fault
        return real(image, *arguments)

    return load


def test_a_decoder_that_fails_at_the_header_is_a_reason_too(tmp_path, monkeypatch):
    two_colours().save(tmp_path / "x.png")
    for fault in FAULTS:
        monkeypatch.setattr(
            Image,
            "open",
            lambda *_, fault=fault, **__: failing(None, (0, 0), fault)(Image.new("L", (0, 0))),
        )
        with pytest.raises(ValueError, match=r"\w"):
            image_size(tmp_path / "x.png")


def test_pillow_says_nothing_about_a_bad_file_that_does_not_name_it(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.tiff")
    data = (tmp_path / "x.tiff").read_bytes()
    samples = data.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples per pixel: 3
    (tmp_path / "x.tiff").write_bytes(data[:samples] + b"\x08" + data[samples + 1 :])
    program = f"from mmlib.data import read_image\nread_image({str(tmp_path / 'x.tiff')!r}, 32)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ValueError: not an image" in done.stderr
    assert "More samples" not in done.stderr.partition("Traceback")[0]


def test_the_size_is_the_smallest_that_holds_the_median_longer_side():
    assert [choose_size([(s, 5)]) for s in (6, 28, 32, 33, 64, 65, 96, 97, 128, 4000)] == [
        32,
        32,
        32,
        64,
        64,
        96,
        96,
        128,
        128,
        128,
    ]
    assert choose_size([(20, 60), (4000, 4000), (10, 10)]) == 64


def test_image_size_reads_the_header(tmp_path):
    two_colours(70, 50).save(tmp_path / "x.png")
    assert image_size(tmp_path / "x.png") == (70, 50)
    (tmp_path / "t.png").write_text("no")
    with pytest.raises(ValueError):
        image_size(tmp_path / "t.png")
