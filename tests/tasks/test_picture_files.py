"""One reader of pictures for all commands and tasks: right in every mode, or refused with the mode's name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tokensieve.cli.files import read_image
from tokensieve.errors import RefusedError, TaskError
from tokensieve.models.picture_files import as_rgb, picture_note, read_picture
from tokensieve.tasks import files

LEVELS = np.linspace(0, 1, 256).reshape(16, 16)
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def png(depth, colour_type, row, width, transparent):
    """A PNG of one row, with a transparent colour, as Pillow does not write them."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, bits, numbers=1, meaning=1):
    """A little-endian TIFF of greys in one strip, as Pillow does not write them."""
    content = values.tobytes() if isinstance(values, np.ndarray) else values
    side = 16
    tags = [(256, 3, side), (257, 3, side), (258, 3, bits), (259, 3, 1), (262, 3, meaning), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, side), (279, 4, len(content)), (339, 3, numbers)]
    place = 8 + len(content)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<I", place) + content + struct.pack("<H", len(tags))
    return head + entries + struct.pack("<I", 0)


def packed_12_bits(values):
    pairs = values.astype(np.uint16).reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


def greys(file):
    image = read_picture(file)
    assert image.mode == "RGB"
    array = np.asarray(image)
    assert (array == array[..., :1]).all()
    return array[..., 0]


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "LA", "P", "1", "CMYK", "RGB"])
def test_a_picture_that_others_opened_is_what_its_file_is(tmp_path, mode):
    """So do documents of lmms-eval and `tokensieve.show` hand pictures over."""
    deep = {"I;16": (LEVELS * 65535).round().astype(np.uint16), "F": LEVELS.astype(np.float32)}
    image = Image.fromarray(deep[mode]) if mode in deep else Image.fromarray(GREYS).convert(mode)
    if "A" in mode:
        # Black is hidden, and white is seen.
        image.putalpha(Image.fromarray(255 - GREYS))
    image.save(file := tmp_path / ("x.png" if mode in ("RGBA", "LA", "P", "1", "RGB") else "x.tif"))
    with Image.open(file) as opened:
        opened.load()
        found = as_rgb(opened)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(read_picture(file)))
    held = as_rgb(image)
    assert np.abs(np.asarray(held).astype(int) - np.asarray(found)).max() == 0
    assert mode != "RGB" or held is image


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2"])
def test_greys_of_16_bits_are_scaled(tmp_path, suffix):
    file = tmp_path / f"deep.{suffix}"
    Image.fromarray((LEVELS * 65535).round().astype(np.uint16)).save(file)
    assert np.abs(greys(file).astype(int) - GREYS).max() <= 1


def test_a_pgm_of_16_bits_is_scaled_by_its_own_largest_value(tmp_path):
    for top in (1000, 65535):
        file = tmp_path / f"{top}.pgm"
        file.write_bytes(b"P5 16 16 %d\n" % top + (LEVELS * top).round().astype(">u2").tobytes())
        assert np.abs(greys(file).astype(int) - GREYS).max() <= 1


def test_greys_of_12_bits_are_scaled_by_12_bits(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(packed_12_bits((LEVELS * 4095).round()), 12))
    assert (greys(tmp_path / "a.tif") == GREYS).all()


def test_floats_are_scaled(tmp_path):
    Image.fromarray(LEVELS.astype(np.float32)).save(tmp_path / "a.tif")
    assert (greys(tmp_path / "a.tif") == GREYS).all()


@pytest.mark.parametrize(
    ("values", "bits", "numbers"),
    [((LEVELS * 65535).round().astype(np.uint16), 16, 1), (LEVELS.astype(np.float32), 32, 3)],
    ids=["integers", "floats"],
)
def test_greys_in_which_0_is_white(tmp_path, values, bits, numbers):
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, numbers, meaning=0))
    assert (greys(tmp_path / "a.tif") == 255 - GREYS).all()


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (np.full((16, 16), 200.0, np.float32), "F"),
        (np.full((16, 16), -0.5, np.float32), "F"),
        (np.full((16, 16), np.nan, np.float32), "F"),
        (np.full((16, 16), np.inf, np.float32), "F"),
        (np.full((16, 16), 70_000, np.int32), "I"),
        (np.full((16, 16), 2**32 - 1, np.uint32), "I"),
        (np.full((16, 16), 300, np.int16), "I"),
    ],
    ids=["floats to 200", "negative", "nan", "inf", "int32", "uint32", "int16"],
)
def test_values_of_unknown_range_are_refused_with_the_mode(tmp_path, values, mode):
    file = tmp_path / "a.tif"
    bits, numbers = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    file.write_bytes(tiff(values, bits, numbers))
    with pytest.raises(RefusedError, match=rf"a\.tif cannot be read .* mode is '{mode}'.*save it as RGB"):
        read_picture(file)
    with pytest.raises(TaskError, match=f"mode is '{mode}'"):
        files.picture(file)


def test_a_mode_that_is_not_known_is_refused_with_its_name(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(RefusedError, match=r"mode is 'LAB'; .* can be read, so save it as RGB"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("LA", "png"), ("LA", "tif"), ("RGBA", "png"), ("RGBA", "gif"), ("RGBA", "webp"), ("RGBA", "tif"), ("P", "png")],
)
def test_transparent_pixels_are_white(tmp_path, mode, suffix):
    hidden, shown = (10, 20, 30, 0), (10, 20, 30, 255)
    image = Image.new("RGBA", (4, 4), hidden)
    image.paste(shown, (0, 0, 2, 4))
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / f"a.{suffix}")
    made = np.asarray(read_picture(tmp_path / f"a.{suffix}"))
    assert (made[:, 2:] == 255).all()
    assert (made[:, :2] < 60).all()


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 100, 255, 128)).save(tmp_path / "a.png")
    assert np.abs(np.asarray(read_picture(tmp_path / "a.png"))[0, 0].astype(int) - [127, 177, 255]).max() <= 1


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (png(1, 0, bytes([0b01000000]), 2, struct.pack(">H", 0)), [255, 255]),
        (png(2, 0, bytes([0b00110000]), 2, struct.pack(">H", 0)), [255, 255]),
        (png(2, 0, bytes([0b00100000]), 2, struct.pack(">H", 2)), [0, 255]),
        (png(4, 0, bytes([0x0A]), 2, struct.pack(">H", 10)), [0, 255]),
        (png(8, 0, bytes([0, 200]), 2, struct.pack(">H", 200)), [0, 255]),
        (png(16, 0, struct.pack(">HH", 0, 40_000), 2, struct.pack(">H", 40_000)), [0, 255]),
        (png(8, 2, bytes([0, 0, 0, 7, 8, 9]), 2, struct.pack(">HHH", 7, 8, 9)), [0, 255]),
    ],
    ids=["1 bit", "2 bits, black", "2 bits", "4 bits", "8 bits", "16 bits", "RGB"],
)
def test_one_transparent_colour_is_white(tmp_path, content, row):
    (tmp_path / "a.png").write_bytes(content)
    assert greys(tmp_path / "a.png").tolist() == [row]


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(16, 2, struct.pack(">6H", *range(6)), 2, struct.pack(">HHH", 0, 1, 2)))
    with pytest.raises(RefusedError, match="mode is 'RGB' of 16 bits"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_of_several_frames_the_first_is_read_and_noted(tmp_path, suffix, capsys):
    file = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    image = read_picture(file)
    assert (np.asarray(image) == [255, 0, 0]).all()
    assert picture_note(image) == f"a.{suffix} holds 3 frames or pages; the first is read"
    assert picture_note(files.picture(file, longest_side=4)) == picture_note(image)
    read_image(file)
    assert capsys.readouterr().err == f"note: {picture_note(image)}\n"


def test_a_name_that_is_too_long_is_no_picture(tmp_path):
    with pytest.raises(RefusedError, match="there is no picture"):
        read_picture(tmp_path / ("a" * 5000))


def test_a_single_picture_has_no_note(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    assert picture_note(read_picture(tmp_path / "a.gif")) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_other_modes_are_as_pillow_converts_them(tmp_path, mode):
    image = Image.radial_gradient("L").resize((32, 32)).convert("RGB").convert(mode)
    image.save(tmp_path / "a.tif")
    assert (np.asarray(read_picture(tmp_path / "a.tif")) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16", "F", "RGBA"])
def test_every_mode_is_upright(tmp_path, mode, orientation):
    values = {"I;16": (LEVELS * 65535).round().astype(np.uint16), "F": LEVELS.astype(np.float32)}
    image = Image.fromarray(values[mode]) if mode in values else Image.fromarray(GREYS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.crop((0, 0, 16, 8)).save(tmp_path / "a.tif", exif=exif)
    plain = Image.fromarray(GREYS).crop((0, 0, 16, 8))
    plain.getexif()[0x0112] = orientation
    assert (greys(tmp_path / "a.tif") == np.asarray(ImageOps.exif_transpose(plain))).all()


def test_both_readers_are_one(tmp_path):
    Image.fromarray((LEVELS * 65535).round().astype(np.uint16)).save(tmp_path / "a.png")
    assert (np.asarray(read_image(tmp_path / "a.png")) == np.asarray(files.picture(tmp_path / "a.png"))).all()


def test_no_file_at_all(tmp_path):
    with pytest.raises(RefusedError, match=r"there is no picture .*gone\.png"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(RefusedError, match="no file at all"):
        read_picture(tmp_path)
