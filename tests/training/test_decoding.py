"""JPEG by simplejpeg beside Pillow: the same pixels, and Pillow for all that is not a plain JPEG."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from stablerep_hf.training import decoding
from stablerep_hf.training.decoding import decode_rgb


def picture(mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)
    return Image.fromarray(noise).resize((131, 90)).convert(mode)


def encoded(image, form="JPEG", **settings):
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def by_pillow(data):
    return np.array(datasets.Image().decode_example({"bytes": data, "path": None}).convert("RGB"))


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """With the extra and without; yields how often simplejpeg decoded."""
    calls = []
    if request.param == "pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    else:
        decode = decoding.simplejpeg.decode_jpeg
        monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", lambda data: (calls.append(1), decode(data))[1])
    return calls


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_pixels_are_pillow_s_bit_for_bit(decoder, quality, subsampling, progressive):
    data = encoded(picture(), quality=quality, subsampling=subsampling, progressive=progressive)
    pixels = decode_rgb({"bytes": data, "path": None})
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    assert np.array_equal(pixels, by_pillow(data))
    assert len(decoder) == (decoding.simplejpeg is not None)


@pytest.mark.parametrize(("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_any_mode_becomes_rgb(decoder, mode, form):
    data = encoded(picture(mode), form)
    assert np.array_equal(decode_rgb({"bytes": data, "path": None}), by_pillow(data))


def test_transparent_parts_are_white_and_pixels_without_alpha_what_they_were(decoder):
    icon = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    icon.paste((0, 0, 0, 255), (5, 5, 10, 10))
    pixels = decode_rgb({"bytes": encoded(icon, "PNG"), "path": None})
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[6, 6].tolist() == [0, 0, 0]
    data = encoded(picture(), "PNG")
    assert np.array_equal(decode_rgb({"bytes": data, "path": None}), by_pillow(data))


def test_a_turned_photo_is_turned_upright(decoder):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    data = encoded(picture(), exif=exif)
    pixels = decode_rgb({"bytes": data, "path": None})
    assert pixels.shape == (131, 90, 3)
    assert np.array_equal(pixels, by_pillow(data))


def test_a_path_is_read(decoder, tmp_path):
    data = encoded(picture())
    (tmp_path / "picture.jpg").write_bytes(data)
    assert np.array_equal(decode_rgb({"bytes": None, "path": str(tmp_path / "picture.jpg")}), by_pillow(data))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_torn_jpeg_is_unreadable(decoder, share):
    data = encoded(picture())
    with pytest.raises((OSError, SyntaxError)):
        decode_rgb({"bytes": data[: int(share * len(data))], "path": None})


def test_a_bomb_is_left_to_pillow_s_limit(decoder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError, match="decompression bomb"):
        decode_rgb({"bytes": encoded(picture()), "path": None})


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.jpg", "zip://x.jpg::http://127.0.0.1:9/x.zip", None])
def test_no_address_is_fetched(decoder, path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(ValueError, match=r"is an address|neither the bytes"):
        decode_rgb({"bytes": None, "path": path})
