"""Image files: how they are turned, their pages, and what is no image or a damaged one."""

import io
import os
import socket
import warnings

import numpy as np
import pytest
import torch
from helpers.damaged_images import metadata, oriented, write_set
from helpers.fuzzing import MOST_LINES, command
from helpers.small import small_model
from PIL import Image, ImageOps

from maskrcnn.tools.images import files as image_files
from maskrcnn.tools.images.files import TURNS, exif_orientation
from maskrcnn.tools.images.read import (
    ImageOptions,
    as_image,
    image_size,
    read_image,
    read_pixels,
    read_plane,
)

COLORS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
DEEP = (COLORS[..., 0].astype(np.uint16) * 200) + 3


def bare(image):
    """[C, h, w] as an array [h, w, C]."""
    return image.permute(1, 2, 0).numpy()


# -----------------------------------------------------------------------------------------------
# orientation


MODES = {
    "RGB": COLORS[..., :3],
    "L": COLORS[..., 0],
    "1": COLORS[..., 0] > 99,
    "RGBA": COLORS,
    "LA": COLORS[..., :2],
    "I;16": DEEP,
    "I": DEEP.astype(np.int32),
    "F": DEEP.astype(np.float32),
    "P": COLORS[..., :3],
    "CMYK": COLORS[..., :3],
    "square": COLORS[:6, :6, :3],
}
SAVING = {
    "png": {},
    "jpg": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
    "avif": {},
}


@pytest.mark.parametrize("suffix", SAVING)
def test_one_function_turns_every_image(tmp_path, suffix):
    """Sizes, images and masks agree, in every mode and format that can have an orientation, as
    Pillow turns them."""
    turned = 0
    for mode, pixels in MODES.items():
        image = Image.fromarray(pixels)
        if mode in ("P", "CMYK"):
            image = image.convert(mode)
        for value in range(1, 9):
            path = tmp_path / f"{image.mode.replace(';', '')}-{value}.{suffix}"
            try:
                image.save(path, exif=oriented(value), **SAVING[suffix])
            except (OSError, ValueError):
                continue  # the format has no such mode
            turned += 1
            stored, upright = (
                read_image(path, ImageOptions(3, "image", way)) for way in ("stored", "exif")
            )
            assert image_size(path, "stored") == stored.shape[1:] == image.size[::-1]
            assert image_size(path) == upright.shape[1:]
            assert np.array_equal(bare(upright), TURNS[value](bare(stored)))
            if image.mode in ("RGB", "L", "RGBA", "P", "CMYK"):
                with Image.open(io.BytesIO(path.read_bytes())) as opened:
                    opened.load()
                    want = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
                assert np.array_equal(bare(read_image(path)), want)
            for way, want in (("stored", stored), ("exif", upright)):
                for source in (path, io.BytesIO(path.read_bytes())):
                    with Image.open(source) as opened:
                        assert torch.equal(
                            as_image(opened, options=ImageOptions(3, "image", way)), want
                        )
                plane = read_plane(path, "L", way)
                assert plane.shape == want.shape[1:]
            assert np.array_equal(
                read_plane(path, "L"), TURNS[value](read_plane(path, "L", "stored"))
            )
    assert turned >= 4 * 8


def odd_exif():
    """EXIF data with an orientation of 6 that says something else of the rest."""
    good = bytearray(metadata().tobytes())
    yield bytes(good)
    start = 6  # of the header, behind "Exif\0\0"
    count = int.from_bytes(
        good[start + 8 : start + 10], "little" if good[start : start + 2] == b"II" else "big"
    )
    for entry in range(count):
        place = start + 10 + 12 * entry
        if good[place : place + 2] in (b"\x12\x01", b"\x01\x12"):
            continue
        for offset, data in (
            (2, b"\0\0"),
            (2, b"\xff\xff"),
            (2, b"\0\x0c"),
            (4, b"\xff" * 4),
            (4, b"\0" * 4),
            (8, b"\xff" * 4),
        ):
            odd = bytearray(good)
            odd[place + offset : place + offset + len(data)] = data
            yield bytes(odd)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_orientation_alone_is_read(tmp_path, suffix):
    """Whatever is wrong with the rest of the EXIF data, an image stands upright."""
    path = tmp_path / f"a.{suffix}"
    for exif in odd_exif():
        Image.fromarray(COLORS[..., :3]).save(path, exif=exif)
        assert image_size(path) == read_image(path).shape[1:] == (9, 6)
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"x" * 50):
        Image.fromarray(COLORS[..., :3]).save(path, exif=exif)
        assert image_size(path) == read_image(path).shape[1:] == (6, 9)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_orientations_that_are_none(tmp_path, value):
    Image.fromarray(COLORS[..., :3]).save(tmp_path / "a.png", exif=oriented(value))
    with Image.open(tmp_path / "a.png") as image:
        assert exif_orientation(image) == 1


# -----------------------------------------------------------------------------------------------
# pages


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp", "avif"])
def test_pages(tmp_path, suffix):
    """Several are an error that counts them, in every function; one that was chosen is taken, and a
    single one."""
    first, second = (Image.fromarray(COLORS[..., k]).convert("RGB") for k in (0, 1))
    path = tmp_path / f"pages.{suffix}"
    first.save(path, save_all=True, append_images=[second, first])
    message = r"pages.*it has 3 pages or frames"
    for read in (read_image, image_size, read_plane, read_pixels):
        with pytest.raises(ValueError, match=message):
            read(path)
    with Image.open(path) as image:
        with pytest.raises(ValueError, match=r"images\[2\] cannot be read: it has 3 pages"):
            as_image(image, "images[2]")
        image.seek(1)
        chosen = as_image(image)
    assert np.abs(bare(chosen).astype(int) - np.asarray(second)).mean() < 5
    first.save(path, save_all=True)
    assert read_image(path).shape == (3, 6, 9)


def test_what_is_one_page(tmp_path):
    """A phone's JPEG with a preview behind the photo, and a TIFF with smaller copies of its
    page."""
    first = Image.fromarray(COLORS[..., :3])
    first.save(
        tmp_path / "phone.jpg",
        format="MPO",
        save_all=True,
        append_images=[first.rotate(180)],
        quality=95,
    )
    assert Image.open(tmp_path / "phone.jpg").n_frames == 2
    with Image.open(tmp_path / "phone.jpg") as photo:
        assert np.array_equal(bare(read_image(tmp_path / "phone.jpg")), np.asarray(photo))
    small = first.resize((4, 3))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "pyramid.tif") as image:
        image.seek(1)
        assert image.tag_v2[254] == 1
    assert np.array_equal(bare(read_image(tmp_path / "pyramid.tif")), COLORS[..., :3])
    first.save(tmp_path / "stack.tif", tiffinfo={270: "ImageJ=1.53t\nimages=5\nslices=5\n"})
    with pytest.raises(ValueError, match="5 pages"):
        read_image(tmp_path / "stack.tif")


# -----------------------------------------------------------------------------------------------
# what is no image


def test_predict_names_what_cannot_be_read(tmp_path):
    """Loops, pipes, sockets, folders, odd names and damaged files, with a good image between
    them."""
    odd = hostile(tmp_path)
    Image.fromarray(COLORS[..., :3]).resize((40, 30)).save(tmp_path / "fine.png")
    small_model().save(tmp_path / "tiny.pt")
    files = [*odd[:3], tmp_path / "fine.png", *odd[3:]]
    outcome = command(
        "predict",
        *files,
        "--weights",
        tmp_path / "tiny.pt",
        "--output",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert outcome.status == 1
    assert (tmp_path / "out" / "fine.png").is_file()
    assert len(outcome.text.splitlines()) <= MOST_LINES
    for file in odd:
        with pytest.raises(ValueError, match=r"read image|no image file") as error:
            read_image(file)
        assert str(file) in str(error.value)
        assert outcome.text.count("maskrcnn predict: ") <= 12


def hostile(folder):
    """Paths of what is no image, of every kind."""
    good = io.BytesIO()
    Image.fromarray(COLORS[..., :3]).save(good, "PNG")
    content = {
        "empty.png": b"",
        "text.jpg": b"hello",
        "head.png": good.getvalue()[:40],
        "cut.png": good.getvalue()[:-60],
        "html.gif": b"<html></html>",
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\nshowpage\n",
        "dds.png": b"DDS " + (124).to_bytes(4, "little") + b"\x07" * 120,
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    os.symlink(folder / "loop.png", folder / "loop.png")
    os.symlink(folder / "nowhere.png", folder / "dangling.png")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # names of sockets must be short
        server.bind("socket.png")
        os.chdir(here)
    names = [
        *content,
        "folder.png",
        "loop.png",
        "dangling.png",
        "pipe.png",
        "socket.png",
        "missing.png",
        "x" * 5000,
        "n\0l.png",
        "\udcff.png",
    ]
    return [f"{folder}/{name}" for name in names] + ["/dev/zero"]


@pytest.mark.parametrize("policy", ["skip", "error"])
def test_training_on_what_cannot_be_read(tmp_path, policy):
    """One pipe, one page too many and one file cut short, in a set of good images."""
    (tmp_path / "in").mkdir()
    Image.fromarray(COLORS[..., :3]).save(
        tmp_path / "in" / "pages.tif",
        save_all=True,
        append_images=[Image.fromarray(COLORS[..., :3])],
    )
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    bad = [tmp_path / "in" / "pages.tif", tmp_path / "in" / "empty.png"]
    config = write_set(tmp_path, bad, 20)
    outcome = command("train", config, "--set", f"data.broken={policy}")
    assert outcome.status == (0 if policy == "skip" else 1), outcome.text
    assert "pages.tif" in outcome.text or "empty.png" in outcome.text
    if policy == "skip":
        assert "it has 2 pages" in outcome.text
    outcome = command("check", config)
    assert outcome.status == 1
    assert "it has 2 pages" in outcome.text
    assert "empty.png" in outcome.text


def test_large_images(tmp_path, monkeypatch):
    """What Pillow takes for a trap names the setting that allows it; what is merely large passes
    without a word."""
    Image.new("1", (400, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(
        ValueError,
        match=r"a\.png: it has 120000 pixels, and above 100000 .*MASKRCNN_MAX_IMAGE_PIXELS",
    ):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("MASKRCNN_MAX_IMAGE_PIXELS", "120000")
    image_files.set_largest.cache_clear()
    assert read_image(tmp_path / "a.png").shape == (3, 300, 400)
    for text, limit in (("0", None), ("119999", 60000)):
        monkeypatch.setenv("MASKRCNN_MAX_IMAGE_PIXELS", text)
        image_files.set_largest.cache_clear()
        image_files.set_largest()
        assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("MASKRCNN_MAX_IMAGE_PIXELS", "lots")
    image_files.set_largest.cache_clear()
    with pytest.raises(ValueError, match="MASKRCNN_MAX_IMAGE_PIXELS = 'lots'"):
        read_image(tmp_path / "a.png")
    image_files.set_largest.cache_clear()


@pytest.mark.parametrize("own", [(), ("error",)])
def test_warnings_of_pillow(tmp_path, monkeypatch, own):
    """They are not passed on, but a user's own filters come first."""
    Image.new("1", (400, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with warnings.catch_warnings(record=True) as passed:
        warnings.resetwarnings()
        for action in own:
            warnings.simplefilter(action)
        image_files.silence_pillow()
        if own:
            with pytest.raises(ValueError, match="decompression bomb"):
                read_image(tmp_path / "a.png")
        else:
            assert read_image(tmp_path / "a.png").shape == (3, 300, 400)
    assert passed == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("deep"),
        AttributeError("x"),
        KeyError("y"),
        NotImplementedError(),
        ZeroDivisionError("z"),
        OverflowError("o"),
    ],
)
def test_whatever_a_decoder_raises(tmp_path, monkeypatch, error):
    Image.fromarray(COLORS[..., :3]).save(tmp_path / "a.png")

    def load(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    for read in (read_image, image_size, read_plane):
        with pytest.raises(ValueError, match=r"a\.png"):
            read(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(tmp_path / "a.png")


def interrupt(self):
    raise KeyboardInterrupt


def test_a_page_that_is_none(tmp_path):
    """A TIFF that names a further page where there is none, as a file cut short does."""
    Image.fromarray(COLORS[..., :3]).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    start = int.from_bytes(content[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
    content[end : end + 4] = (10**6).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.tif: after page 1 it has something that cannot be read"
    ):
        read_image(tmp_path / "a.tif")
