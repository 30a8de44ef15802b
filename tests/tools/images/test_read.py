"""Images from files, PIL images and arrays: their values, what becomes 0 and 1."""

import struct
import zlib

import numpy as np
import pytest
import torch
from helpers.damaged_images import oriented
from helpers.small import small_model
from helpers.transforms import make_transform
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from maskrcnn import MaskRCNN
from maskrcnn.tools.config import load_config
from maskrcnn.tools.images.read import ImageOptions, as_image, read_image, read_pixels
from maskrcnn.tools.images.value_range import parse_range, range_text, to_unit
from maskrcnn.tools.transform import LEAST_STD, LEAST_STD_DEEP

COLORS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
DEEP = (COLORS[..., 0].astype(np.uint16) * 200) + 3


def bare(image):
    """[C, h, w] as an array [h, w, C]."""
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_deep_images_keep_their_values(tmp_path, suffix):
    """290 and 370 of 65535 stay apart: the same of a file, a PIL image and an array, with one
    channel and three."""
    deep = np.where(COLORS[..., 0] > 99, 370, 290).astype(np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(deep).save(path)
    ranges = (
        ("dtype", 0, 65535),
        ("image", 290, 370),
        ("300, 400", 300, 400),
        ((0, 1000), 0, 1000),
    )
    for value_range, low, high in ranges:
        want = ((deep.astype(np.float64) - low) / (high - low)).clip(0, 1)
        for channels in (1, 3):
            options = ImageOptions(channels, value_range)
            for image in (path, str(path), Image.open(path), deep, deep.astype(">u2")):
                got = as_image(image, options=options)
                assert got.dtype == torch.float32
                assert got.shape == (channels, 6, 9)
                assert np.abs(bare(got) - want[:, :, None]).max() < 1e-6


def test_values_of_8_bits():
    grey = COLORS[..., 0]
    assert torch.equal(as_image(grey)[0], torch.from_numpy(grey))
    assert as_image(grey, options=ImageOptions(3, "0, 255")).dtype == torch.uint8
    stretched = as_image(COLORS[..., :3] // 4, options=ImageOptions(3, "image"))
    assert stretched.min() == 0
    assert stretched.max() == 1
    assert (
        as_image(np.full((4, 5), 7, np.uint8), options=ImageOptions(3, "image")).tolist()
        == [[[0.0] * 5] * 4] * 3
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_limits(tmp_path, dtype):
    """Numbers of 32 bits are refused by a message that names the setting and what there is, and
    read with it."""
    values = (COLORS[..., 0].astype(dtype) - 100) * 10
    Image.fromarray(values).save(tmp_path / "a.tif")
    for image in (tmp_path / "a.tif", Image.open(tmp_path / "a.tif")):
        with pytest.raises(
            ValueError, match=rf"no fixed range.*{values.min():g} to {values.max():g}.*value_range"
        ):
            as_image(image)
    with pytest.raises(
        ValueError, match=r"images\[0\] is an array of .*\[data\] value_range = image"
    ):
        as_image(values, "images[0]")
    want = (values.astype(np.float64) + 500) / 1500
    for image in (
        tmp_path / "a.tif",
        Image.open(tmp_path / "a.tif"),
        values,
        values.astype(np.float64),
    ):
        assert (
            np.abs(
                as_image(image, options=ImageOptions(1, "-500, 1000"))[0].numpy() - want.clip(0, 1)
            ).max()
            < 1e-6
        )


def test_values_that_are_no_numbers():
    values = np.array([[0.0, np.inf], [1.0, -np.inf]], np.float32)
    assert to_unit(values, (0.0, 2.0)).tolist() == [[0, 1], [0.5, 0]]
    with pytest.raises(ValueError, match="no finite numbers"):
        to_unit(values, "image")
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="no finite numbers"):
        to_unit(values, (0.0, 2.0))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "dtyp",
        "5",
        "1, 2, 3",
        "2, 1",
        "1, 1",
        "nan, 1",
        "0, inf",
        "a, b",
        "0; 1",
        [1],
        True,
        [1, "x"],
        [True, 2],
        None,
        3,
        "0, 1e-320",
        "1e12, 1000000000001",
        {"a": 1},
        [[0], [1]],
        "1" * 5000 + ", 2",
    ],
)
def test_value_ranges_that_are_none(value, tmp_path):
    for data in ({"value_range": value}, {"value_range": value, "format": "coco"}):
        with pytest.raises(ValueError, match=r"\[data\] value_range") as error:
            load_config({"data": data})
        assert len(str(error.value)) < 1000
    if isinstance(value, str):
        (tmp_path / "a.ini").write_text(f"[data]\nvalue_range = {value}\n")
        with pytest.raises(ValueError, match=r"a\.ini: \[data\] value_range"):
            load_config(tmp_path / "a.ini")


def test_value_ranges_in_a_configuration(tmp_path):
    (tmp_path / "a.ini").write_text("[data]\nvalue_range = -100,4095.5\n")
    for source in (
        tmp_path / "a.ini",
        *({"data": {"value_range": same}} for same in ((-100, 4095.5), "-1e2, 4095.5")),
    ):
        cfg = load_config(source)
        assert cfg.data.value_range == "-100, 4095.5"
        assert load_config(cfg).data.value_range == "-100, 4095.5"
        assert ImageOptions(3, cfg.data.value_range).value_range == (-100.0, 4095.5)
    assert parse_range(range_text((0.1, 1e22))) == (0.1, 1e22)


def test_predictions_follow_the_configuration_of_the_model(tmp_path):
    """A model that learnt with a value range and an orientation reads images with them, from
    wherever they come."""
    pixels = np.random.default_rng(1).integers(290, 370, (60, 70), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=oriented(3))
    small_model(changes={"data": {"value_range": [290, 370], "orientation": "stored"}}).save(
        tmp_path / "model.pt"
    )
    model = MaskRCNN.load(tmp_path / "model.pt")
    stretched = torch.from_numpy((pixels.astype(np.float32) - 290) / 80).expand(3, -1, -1)
    want = model.predict([stretched])[0]
    assert len(want["boxes"])
    for image in (tmp_path / "a.tif", Image.open(tmp_path / "a.tif"), pixels):
        found = model.predict([image])[0]
        assert torch.allclose(found["boxes"], want["boxes"], atol=1e-3)
        assert torch.allclose(found["scores"], want["scores"], atol=1e-5)


def test_deep_colors(tmp_path):
    """Pillow drops the lower 8 of 16 bits a colour. Of PNG they are read; of others it is told, and
    refused for a value range that needs them."""
    deep = np.random.default_rng(2).integers(290, 370, (6, 9, 3)).astype(np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(png16(deep))
    assert np.array_equal(
        decode_png(torch.from_numpy(np.fromfile(path, np.uint8)), ImageReadMode.UNCHANGED).numpy(),
        deep.transpose(2, 0, 1),
    )
    for image in (path, Image.open(path), deep):
        assert np.abs(bare(as_image(image)) - deep / 65535).max() < 1e-7
        assert (
            np.abs(
                bare(as_image(image, options=ImageOptions(3, "290, 370"))) - (deep - 290) / 80
            ).max()
            < 1e-6
        )
    grey = (deep @ [0.299, 0.587, 0.114]).round() / 65535
    assert np.abs(as_image(path, options=ImageOptions(1))[0].numpy() - grey).max() < 1e-6
    assert not read_pixels(path).reduced
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6 9 6 65535\n" + (deep * 100).astype(">u2").tobytes())
    assert np.abs(bare(read_image(path)) - deep * 100 / 257).max() <= 1
    assert read_pixels(path).reduced
    with pytest.raises(
        ValueError, match=r"deep\.ppm: it has more than 8 bits a colour.*\[data\] value_range"
    ):
        read_image(path, ImageOptions(3, "image"))


def test_white_is_zero(tmp_path):
    """In 16 bits as in 8, in which Pillow minds it: bright is bright."""
    deep = COLORS[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "deep.tif") as image:
        assert image.tag_v2[262] == 0
        stored = np.asarray(image)
    assert np.abs(read_image(tmp_path / "deep.tif")[0].numpy() + stored / 65535 - 1).max() < 1e-6


def png16(pixels):
    """Pixels [h, w, 3] uint16 as a PNG, which Pillow cannot write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_noise_of_deep_images():
    """normalize = image leaves images of 8 bits as they were, and flattens no deeper ones."""
    transform = make_transform((40,), 60, (0.5,) * 3, (0.2,) * 3, normalize="image").eval()
    noise = torch.randint(
        100, 102, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    of_8_bits = transform([noise]).images
    mean, std = (
        noise.float().div(255).mean((1, 2), keepdim=True),
        noise.float().div(255).std((1, 2), keepdim=True),
    )
    assert std.max() < LEAST_STD
    assert torch.allclose(of_8_bits[0, :, :40, :50], (noise / 255 - mean) / LEAST_STD, atol=1e-5)
    assert torch.equal(transform([noise / 255]).images, of_8_bits)
    deep = (
        torch.from_numpy(np.where(noise[:1].numpy() == 100, 290, 370) / 65535)
        .float()
        .expand(3, -1, -1)
    )
    shown = transform([deep]).images[0, :, :40, :50]
    assert shown.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert deep.std() > LEAST_STD_DEEP
    assert transform([torch.zeros(3, 40, 50)]).images.abs().max() == 0


def test_transparency_is_told_and_left_out(tmp_path):
    hidden = COLORS.copy()
    hidden[..., 3] = 255
    Image.fromarray(hidden).save(tmp_path / "opaque.png")
    hidden[2:, :, 3] = 0
    Image.fromarray(hidden).save(tmp_path / "hidden.png")
    assert np.array_equal(bare(read_image(tmp_path / "hidden.png")), hidden[..., :3])
    assert read_pixels(tmp_path / "hidden.png").transparent
    assert not read_pixels(tmp_path / "opaque.png").transparent
    assert not read_pixels(tmp_path / "hidden.png", ImageOptions(4)).transparent
