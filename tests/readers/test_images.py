"""One image: upright, 8 bits, composited; and files that are broken, hostile or none at all."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.readers.images import normalize_image, read_image

LEVELS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(data, colour="RGB"):
    image, notes = read_image(io.BytesIO(data), "photo", colour)
    assert image.mode == colour
    return np.asarray(image), notes


def refusal(data, colour="RGB"):
    with pytest.raises(InputError) as caught:
        read_image(io.BytesIO(data), "photo", colour)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def png(width, height, data=b"", colour_type=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_plain_colours_pass_unchanged(kind):
    pixels, notes = read(encoded(Image.fromarray(LEVELS), kind))
    np.testing.assert_array_equal(pixels, LEVELS)
    assert notes == []


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_image_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _ = read(encoded(Image.fromarray(LEVELS), exif=exif))
    np.testing.assert_array_equal(pixels, UPRIGHT[orientation](LEVELS))


def test_alpha_goes_over_black_and_is_said():
    alpha = np.array([[0, 255, 128, 64, 1, 254, 100]] * 5, np.uint8)
    pixels, notes = read(encoded(Image.fromarray(np.dstack([LEVELS, alpha]))))
    np.testing.assert_allclose(pixels, LEVELS * (alpha[:, :, None] / 255.0), atol=1)
    assert notes == ["transparent pixels laid over black"]


def test_opaque_alpha_is_nothing_to_speak_of():
    pixels, notes = read(encoded(Image.fromarray(np.dstack([LEVELS, np.full((5, 7), 255, np.uint8)]))))
    np.testing.assert_array_equal(pixels, LEVELS)
    assert notes == []


def test_palettes_become_their_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(read(encoded(image))[0], [[[9, 8, 7], [200, 100, 50]]])
    grey, _ = read(encoded(image), "L")
    np.testing.assert_allclose(grey, [[8.2, 124.2]], atol=1)  # 0.299 R + 0.587 G + 0.114 B
    pixels, notes = read(encoded(image, transparency=1))
    np.testing.assert_array_equal(pixels, [[[9, 8, 7], [0, 0, 0]]])
    assert notes == ["transparent pixels laid over black"]


def test_sixteen_bit_grey_is_scaled_not_cut():
    levels = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        for colour, count in (("L", 1), ("RGB", 3), ("RGBA", 4)):
            channels, notes = read_image(io.BytesIO(encoded(Image.fromarray(levels), kind)), "photo", colour)
            assert [channel.mode for channel in channels] == ["F"] * count
            for channel in channels[:3]:
                np.testing.assert_allclose(np.asarray(channel), levels / 65_535 * 255, rtol=1e-6)
            assert notes == ["16-bit grey values scaled to 0..255"]
    assert set(np.asarray(channels[3]).reshape(-1)) == {255.0}


def test_sixteen_bit_colours_are_not_narrowed_in_silence():
    """Pillow reads the upper halves alone."""
    values = np.random.default_rng(2).integers(0, 65_536, (3, 4, 3))
    grey = np.dstack([values[..., :1], np.full((3, 4, 1), 65_535)])
    transparent = sixteen_bit_png(values, (b"tRNS", struct.pack(">HHH", *values[0, 0])))
    for content, expected, seen in (
        (b"P6 4 3 65535\n" + values.astype(">u2").tobytes(), values, np.ones((3, 4), bool)),
        (sixteen_bit_png(grey), values[..., :1], np.ones((3, 4), bool)),
        (transparent, values, (values != values[0, 0]).any(2)),
    ):
        pixels, notes = read(content)
        assert np.abs(pixels.astype(int) - expected / 257)[seen].max() <= 1
        assert "colours of 16 bits read as 8 bits, their upper ones" in notes


def sixteen_bit_png(values, *more):
    """A PNG of (height, width, channels) with every filter of the format, a row each in turn."""
    height, width, channels = values.shape
    rows, above = [], np.zeros((2 * channels * (width + 1)), int)
    for place, row in enumerate(values.astype(">u2")):
        here = np.concatenate([np.zeros(2 * channels, int), np.frombuffer(row.tobytes(), np.uint8)])
        x, a, b, c = here[2 * channels :], here[: -2 * channels], above[2 * channels :], above[: -2 * channels]
        near = np.abs([b - c, a - c, a + b - 2 * c])
        paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), a, np.where(near[1] <= near[2], b, c))
        guess = (0 * x, a, b, (a + b) // 2, paeth)[place % 5]
        rows.append(bytes([place % 5]) + ((x - guess) % 256).astype(np.uint8).tobytes())
        above = here
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def read_deep(data, colour="RGB"):
    channels, notes = read_image(io.BytesIO(data), "photo", colour)
    assert {channel.mode for channel in channels} == {"F"}
    return np.dstack([np.asarray(channel) for channel in channels]), notes


def test_sixteen_bit_colours_of_a_png_keep_all_their_bits():
    values = np.random.default_rng(3).integers(0, 65_536, (11, 7, 4))
    levels = values / 65_535 * 255
    note = "16-bit colours scaled to 0..255"
    pixels, notes = read_deep(sixteen_bit_png(values[..., :3]))
    np.testing.assert_allclose(pixels, levels[..., :3], rtol=1e-6)
    assert notes == [note]
    pixels, notes = read_deep(sixteen_bit_png(values[..., :3]), "RGBA")
    np.testing.assert_allclose(pixels, np.dstack([levels[..., :3], np.full((11, 7), 255)]), rtol=1e-6)
    pixels, notes = read_deep(sixteen_bit_png(values[..., :3]), "L")
    np.testing.assert_allclose(pixels[..., 0], levels[..., :3] @ [0.299, 0.587, 0.114], rtol=1e-5)
    pixels, notes = read_deep(sixteen_bit_png(values), "RGBA")
    np.testing.assert_allclose(pixels, levels, rtol=1e-6)
    assert notes == [note]
    pixels, notes = read_deep(sixteen_bit_png(values))
    np.testing.assert_allclose(pixels, levels[..., :3] * values[..., 3:] / 65_535, rtol=1e-5)
    assert notes == [note, "transparent pixels laid over black"]


def test_very_large_pictures_are_read_with_the_upper_halves(monkeypatch):
    monkeypatch.setattr("onnxscope.readers.images._MAX_DEEP_PIXELS", 11)
    values = np.random.default_rng(3).integers(0, 65_536, (3, 4, 3))
    pixels, notes = read(sixteen_bit_png(values))
    np.testing.assert_array_equal(pixels, values // 256)
    assert notes == ["colours of 16 bits read as 8 bits, their upper ones"]


def test_sixteen_bit_colours_are_turned_upright_and_broken_ones_told():
    values = np.random.default_rng(3).integers(0, 65_536, (4, 7, 3))
    exif = Image.Exif()
    exif[274] = 6  # its first row is the right side
    turned = sixteen_bit_png(values, (b"eXIf", exif.tobytes()))
    np.testing.assert_allclose(read_deep(turned)[0], np.rot90(values, -1) / 257, rtol=1e-6)
    whole = sixteen_bit_png(values)
    for end in (60, 100, len(whole) - 40):
        with pytest.raises(InputError, match=r"broken|not an image"):
            read_image(io.BytesIO(whole[:end]), "photo", "RGB")


def test_four_channels_keep_what_is_transparent():
    alpha = np.array([[0, 255, 128, 64, 1, 254, 100]] * 5, np.uint8)
    pixels, notes = read(encoded(Image.fromarray(np.dstack([LEVELS, alpha]))), "RGBA")
    np.testing.assert_array_equal(pixels, np.dstack([LEVELS, alpha]))
    assert notes == []
    np.testing.assert_array_equal(read(encoded(Image.fromarray(LEVELS)), "RGBA")[0][:, :, 3], 255)


def test_grey_becomes_colour_and_one_bit_becomes_grey():
    grey = LEVELS[:, :, 0]
    np.testing.assert_array_equal(read(encoded(Image.fromarray(grey)))[0], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(read(encoded(Image.fromarray(grey > 99)), "L")[0], (grey > 99) * 255)
    half = np.dstack([grey, np.full_like(grey, 0)])
    np.testing.assert_array_equal(read(encoded(Image.fromarray(half)), "L")[0], grey * 0)


def test_cmyk_is_said():
    pixels, notes = read(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"))
    np.testing.assert_array_equal(pixels, np.tile([255, 0, 0], (2, 2, 1)))
    assert notes == ["CMYK made RGB without a colour profile"]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels, notes = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])
    assert notes == ["several frames, only the first is used"]


def test_the_callers_image_is_left_alone():
    image = Image.fromarray(LEVELS)
    result, notes = normalize_image(image, "image 0", "RGB")
    result.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), LEVELS)
    assert notes == []


def test_a_text_is_no_image():
    message, hint = refusal(b"hello, I am called photo.jpg\n")
    assert message == "not an image: photo"
    assert hint == "we read PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP, AVIF"
    assert refusal(b"")[0] == "not an image: photo"


def test_postscript_is_no_image_because_ghostscript_would_run():
    assert refusal(encoded(Image.new("RGB", (4, 4)), "EPS"))[0] == "not an image: photo"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused_in_one_line(kind, share):
    levels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(levels), kind)
    message, hint = refusal(data[: int(len(data) * share)])
    assert message.startswith(("the image is broken (", "not an image: photo"))
    assert message.endswith(": photo")
    assert hint


def test_a_truncated_jpeg_says_how_much_is_missing():
    data = encoded(Image.fromarray(LEVELS).resize((64, 64)), "JPEG")
    message, hint = refusal(data[:-100])
    assert message.startswith("the image is broken (image file is truncated")
    assert hint == "save it again as PNG or JPEG with an image editor"


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 10_000), (65_536, 1), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_they_are_decoded(width, height):
    message, _ = refusal(png(width, height, zlib.compress(bytes(1000))))
    assert message.startswith("the image is too large to decode (")
    assert message.endswith("): photo")


def test_the_size_is_named():
    message, hint = refusal(png(10_000, 10_000))
    size = "10,000 x 10,000, at most 89,478,485 pixels and 65,535 a side"
    assert message == f"the image is too large to decode ({size}): photo"
    assert hint == "make it smaller with an image editor"


def test_a_text_chunk_that_expands_is_refused():
    body = b"zTXt" + b"k\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    good = png(1, 1, zlib.compress(bytes(4)))
    assert refusal(good[:33] + chunk + good[33:])[0].startswith("the image is broken (Decompressed data too large")


def test_pixels_without_a_range_are_refused():
    message, hint = refusal(encoded(Image.fromarray(np.array([[70_000]], np.int32)), "TIFF"))
    assert message == "32-bit grey values from 70000 to 70000 have no range that we know: photo"
    assert hint == "give a .npy file with the array that the model takes"
    message, _ = refusal(encoded(Image.fromarray(np.array([[0.5]], np.float32)), "TIFF"))
    assert message == "floating-point pixels have no range that we know: photo"


def test_an_empty_pillow_image_is_refused():
    with pytest.raises(InputError, match=r"^the image has no pixels \(0 x 4\): image 0$"):
        normalize_image(Image.new("RGB", (0, 4)), "image 0", "RGB")


def test_pillows_complaints_become_notes():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\xff\0\0\xff\xff"  # points beyond its end
    pixels, notes = read(encoded(Image.fromarray(LEVELS), "JPEG", exif=exif))
    assert pixels.shape == (5, 7, 3)
    assert any("EXIF" in note for note in notes)


def test_a_lower_limit_of_pillows_own_is_no_note(monkeypatch):
    data = encoded(Image.fromarray(LEVELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # 35 pixels make Pillow warn, and twice 20 would make it raise
    assert read(data)[1] == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert refusal(data)[0].startswith("the image is too large to decode (Image size (35 pixels) exceeds limit of 20")


def test_pillow_logs_nothing_beside_the_error(tmp_path):
    data = bytearray(encoded(Image.fromarray(LEVELS), "TIFF"))
    tag = data.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel
    data[tag + 8 : tag + 10] = struct.pack("<H", 60)
    (tmp_path / "a.tif").write_bytes(data)
    program = f"""
from onnxscope.errors import InputError
from onnxscope.readers.images import read_image
try:
    read_image(open({str(tmp_path / "a.tif")!r}, "rb"), "a.tif", "RGB")
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "not an image: a.tif\n"
    assert done.stderr == ""
