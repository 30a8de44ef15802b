"""Mask files of every kind: read rightly, or reported."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
from helpers.fuzzing import peak
from helpers.made import noise
from helpers.paths import ROOT
from PIL import Image, ImageDraw, ImageFilter

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.masks.mask_files import encode
from maskrcnn.datasets.masks.pieces import find_pieces
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.mask_folders import read_folders
from maskrcnn.tools import segments
from maskrcnn.tools.config import load_config

NUCLEI = ROOT / "../shared/data/dsb2018-subset.tar.gz"
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [255, 255, 255]], np.uint8)
MASKS = np.zeros((90, 120), np.uint8)  # three objects, of which the first two touch
MASKS[10:40, 10:30], MASKS[20:60, 30:52], MASKS[50:80, 80:110] = 1, 2, 3
PLAIN = np.zeros((90, 120), np.uint8)
PLAIN[MASKS == 3] = 255


def palette(indices, colors, **more):
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(np.asarray(colors, np.uint8).ravel().tolist())
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()


def png(array, kind="PNG", **more):
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, kind, **more)
    return file.getvalue()


def raw_png(rows, width, depth, color, chunks=b""):
    """A PNG of rows of packed bytes: what Pillow cannot write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunks
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def gamma(data):
    """With a gAMA chunk, that viewers brighten by."""
    at = data.index(b"IDAT") - 4
    body = b"gAMA" + struct.pack(">I", 22727)
    return data[:at] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]


def four_bits():
    pairs = MASKS.reshape(90, 60, 2)
    return raw_png(
        [bytes((pairs[y, :, 0] << 4 | pairs[y, :, 1]).tolist()) for y in range(90)], 120, 4, 0
    )


def rgba(opacity):
    return np.dstack([COLORS[MASKS], opacity])


def drawn(scale, colors=(0, 1, 2, 3)):
    """The objects as ellipses, drawn large and made small with smooth edges."""
    image = Image.new("L", (120 * scale, 90 * scale))
    draw = ImageDraw.Draw(image)
    for value, (x, y) in zip(colors[1:], ((30, 30), (70, 60), (100, 25))):
        draw.ellipse(
            [scale * (x - 12), scale * (y - 15), scale * (x + 12), scale * (y + 15)], fill=value
        )
    return image.resize((120, 90), Image.LANCZOS if scale > 1 else Image.NEAREST)


def write(root, content, images=3, suffix="png", one=False):
    """Images that all have the same mask; or, where they are of one object, folders with a mask
    file each."""
    for i in range(images):
        folder = root / "train" / (f"s{i}" if one else "")
        noise(folder / "images" / f"a{i}.png", 90, 120, i)
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        (folder / "masks" / f"a{i}.{suffix}").write_bytes(content)


def read(root):
    problems = Problems("skip")
    table = read_folders(root, "train", problems, ["cell"])
    return table, problems.all


def objects(table):
    """The masks of the first image."""
    codes = [table.masks[k] for k in range(int(table.first[0]), int(table.first[1]))]
    return segments.decode(codes, *table.sizes[0].tolist())


def same(table, expected=MASKS):
    found = {mask.tobytes() for mask in objects(table)}
    assert found == {(expected == index).tobytes() for index in np.unique(expected[expected > 0])}
    assert len(table.ids) == 3 * len(found)


GOOD = {
    "grey": (png(MASKS), "png"),
    "spaced": (png(MASKS * 60), "png"),
    "16 bits": (png(MASKS.astype(np.uint16) * 300), "png"),
    "32 bits": (png(MASKS.astype(np.int32) * 100_000, "TIFF"), "tif"),
    "floats": (png(MASKS.astype(np.float32), "TIFF"), "tif"),
    "4 bits": (four_bits(), "png"),
    "a gamma": (gamma(png(MASKS)), "png"),
    "colours": (png(COLORS[MASKS]), "png"),
    "grey in three bands": (png(np.dstack([MASKS * 80] * 3)), "png"),
    "opaque colours": (png(rgba(np.full_like(MASKS, 255))), "png"),
    "transparent background": (png(rgba(255 * (MASKS > 0).astype(np.uint8))), "png"),
    "opacity without meaning": (png(rgba(np.zeros_like(MASKS))), "png"),
    "grey and opacity": (png(np.dstack([MASKS * 80, 255 * (MASKS > 0).astype(np.uint8)])), "png"),
    "a palette": (palette(MASKS, COLORS), "png"),
    "an odd palette": (palette(MASKS, COLORS[[4, 1, 2, 3]]), "png"),
    "a transparent index": (palette(MASKS, COLORS, transparency=0), "png"),
    "lossless WebP": (png(COLORS[MASKS], "WEBP", lossless=True), "webp"),
    "BMP": (png(COLORS[MASKS], "BMP"), "bmp"),
    "GIF": (png(Image.fromarray(MASKS), "GIF"), "gif"),
    "index 0 as an object": (palette((MASKS + 3) % 4, COLORS[[1, 2, 3, 0]]), "png"),
    "255 as an object and black": (
        palette(
            np.where(MASKS > 0, MASKS - 1, 255),
            np.vstack([COLORS[1:4], np.zeros((253, 3), np.uint8)]),
        ),
        "png",
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_masks_that_are_read(tmp_path, kind):
    content, suffix = GOOD[kind]
    write(tmp_path, content, suffix=suffix)
    table, problems = read(tmp_path)
    assert [str(problem) for problem in problems] == []
    same(table)


def test_more_objects_than_eight_bits_count(tmp_path):
    many = np.kron(np.arange(900, dtype=np.uint16).reshape(30, 30), np.ones((3, 4), np.uint16))
    write(tmp_path, png(many))
    table, problems = read(tmp_path)
    assert problems == []
    assert len(table.ids) == 3 * 899


BLURRED = {
    "JPEG": (png(MASKS * 60, "JPEG", quality=80), "jpg", "is a JPEG file, which blurs indices"),
    "JPEG called PNG": (png(MASKS * 60, "JPEG", quality=95), "png", "is a JPEG file"),
    "lossy WebP": (png(COLORS[MASKS], "WEBP", quality=80), "webp", "is a WebP file"),
    "JPEG in TIFF": (png(MASKS * 60, "TIFF", compression="jpeg"), "tif", "is a JPEG file"),
    "JPEG saved as PNG": (
        png(Image.open(io.BytesIO(png(MASKS * 60, "JPEG", quality=80)))),
        "png",
        "no indices|edges",
    ),
    "best JPEG saved as PNG": (
        png(Image.open(io.BytesIO(png(MASKS * 60, "JPEG", quality=95)))),
        "png",
        "no indices|edges",
    ),
    "resized": (
        png(
            Image.fromarray(np.where(MASKS > 0, 255, 0).astype(np.uint8))
            .resize((60, 45))
            .resize((120, 90), Image.BILINEAR)
        ),
        "png",
        "smoothed edges",
    ),
    "smoothed": (
        png(Image.fromarray(MASKS * 60).filter(ImageFilter.GaussianBlur(2))),
        "png",
        "smoothed edges",
    ),
    "drawn smoothly": (png(drawn(8, (0, 80, 160, 240))), "png", "smoothed edges"),
    "small indices": (png(drawn(8, (0, 1, 5, 9))), "png", "smoothed edges"),
    "colours": (
        png(Image.fromarray(COLORS[MASKS]).resize((60, 45)).resize((120, 90), Image.BICUBIC)),
        "png",
        "smoothed edges",
    ),
    "colours in a palette": (
        png(
            Image.fromarray(COLORS[MASKS])
            .resize((60, 45))
            .resize((120, 90), Image.BILINEAR)
            .quantize(32)
        ),
        "png",
        "smoothed edges|no indices",
    ),
    "JPEG of colours saved as PNG": (
        png(Image.open(io.BytesIO(png(COLORS[MASKS], "JPEG")))),
        "png",
        "no indices|edges",
    ),
    "soft opacity": (
        png(np.dstack([MASKS * 0 + 200, np.asarray(drawn(8, (0, 255, 255, 255)))])),
        "png",
        "smoothed edges",
    ),
    "a photo": (
        png(
            Image.fromarray(
                np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
            ).filter(ImageFilter.GaussianBlur(3))
        ),
        "png",
        "smoothed edges",
    ),
    "16 bits in three bands": (
        raw_png([bytes(720)] * 90, 120, 16, 2),
        "png",
        "several bands of 16 bits",
    ),
    "fractions": (png(MASKS.astype(np.float32) / 2, "TIFF"), "tif", "no whole numbers"),
    "negative": (png(MASKS.astype(np.int32) - 1, "TIFF"), "tif", "no whole numbers from 0 on"),
    "inks": (
        png(Image.fromarray(COLORS[MASKS]).convert("CMYK"), "TIFF"),
        "tif",
        "its mode is CMYK",
    ),
    "transparent and black": (
        png(
            rgba(np.where(np.arange(120) > 5, 255, 0) * np.ones((90, 1), np.uint8)).astype(np.uint8)
        ),
        "png",
        "transparent and black pixels",
    ),
    "two backgrounds": (
        palette(np.where(MASKS > 0, MASKS, 3 * (np.arange(120) > 60)), COLORS[[4, 1, 2, 0]]),
        "png",
        "both could be background",
    ),
}


@pytest.mark.parametrize("kind", BLURRED)
def test_masks_without_indices(tmp_path, kind):
    content, suffix, message = BLURRED[kind]
    write(tmp_path, content, suffix=suffix)
    table, problems = read(tmp_path)
    assert len(table) == 0
    assert len(problems) == 3
    assert all(
        problem.error and f"a{i}.{suffix}" in problem.message for i, problem in enumerate(problems)
    )
    with pytest.raises(ValueError, match=message):
        read_folders(tmp_path, "train", Problems("error"), ["cell"])


def inside_out(plane):
    return np.where(plane > 0, 0, 255).astype(np.uint8)


CLASSES = np.where(MASKS == 3, 1, MASKS)
CLASSES[70:85, 20:50] = 2
SPECKS = np.zeros_like(MASKS)
SPECKS[5:80:15, 5:80:15] = np.arange(1, 26).reshape(5, 5)

TOLD = {
    "binary": (png(255 * (MASKS > 0).astype(np.uint8)), "objects in one", 3),
    "one bit": (png(Image.fromarray(MASKS > 0)), "objects in one", 3),
    "binary in a palette": (palette(MASKS > 0, COLORS[[0, 4]]), "objects in one", 3),
    "classes": (png(CLASSES), "objects in one", 6),
    "opacity alone": (
        png(np.dstack([np.zeros_like(MASKS), 255 * (MASKS > 0).astype(np.uint8)])),
        "objects in one",
        3,
    ),
    "black objects": (png(inside_out(MASKS)), "masks inside out", 3),
    "black objects of a palette": (
        palette(inside_out(MASKS) // 255, COLORS[[0, 4]]),
        "masks inside out",
        3,
    ),
    "black objects in colours": (png(COLORS[[4, 1, 2, 0]][MASKS]), "masks inside out", 9),
    "index 0 as an object": (
        png(np.where(MASKS > 0, MASKS - 1, 255).astype(np.uint8)),
        "masks inside out",
        9,
    ),
    "all white": (png(np.full_like(MASKS, 255)), "mask of all pixels", 3),
    "specks": (png(SPECKS), "specks", 75),
    "a rim": (
        png(np.where((MASKS == 0) & (np.roll(MASKS, 3, 1) > 0), 255, MASKS).astype(np.uint8)),
        "void index",
        9,
    ),
    "a rim in colour": (
        png(
            np.where(
                ((MASKS == 0) & (np.roll(MASKS, 3, 1) > 0))[:, :, None],
                (224, 224, 192),
                COLORS[MASKS],
            ).astype(np.uint8)
        ),
        "void index",
        9,
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_masks_that_give_a_warning(tmp_path, kind):
    content, expected, count = TOLD[kind]
    write(tmp_path, content)
    table, problems = read(tmp_path)
    assert (expected, False) in {(problem.kind, problem.error) for problem in problems}
    assert len(table.ids) == count
    assert all("a0.png, a1.png, a2.png" in problem.message for problem in problems)


def test_objects_in_pieces_among_others(tmp_path):
    """Something before an object hides its middle."""
    plane = MASKS.copy()
    plane[60:70, 80:110] = 0
    write(tmp_path, png(plane))
    table, problems = read(tmp_path)
    assert problems == []
    same(table, plane)


ONE = PLAIN > 0
CUT_OUT = np.where(
    ONE[:, :, None], np.random.default_rng(0).integers(1, 255, (90, 120, 3)), 0
).astype(np.uint8)
SOFT = np.asarray(drawn(8, (0, 0, 255, 0)))


@pytest.mark.parametrize(
    ("content", "suffix", "expected"),
    [
        (png(PLAIN), "png", ONE),
        (png(PLAIN // 255), "png", ONE),
        (png(PLAIN, "JPEG"), "jpg", ONE),
        (png(Image.fromarray(ONE)), "png", ONE),
        (palette(ONE, COLORS[[0, 3]]), "png", ONE),
        (palette(~ONE, COLORS[[3, 0]]), "png", ONE),
        (png(COLORS[ONE.astype(int) * 2]), "png", ONE),
        (png(np.dstack([PLAIN * 0] * 3 + [PLAIN])), "png", ONE),
        (png(SOFT), "png", SOFT >= 128),
        (png(np.dstack([PLAIN] * 3 + [PLAIN * 0 + 9])), "png", ONE),
        (png(CUT_OUT), "png", ONE),
    ],
)
def test_masks_of_one_object(tmp_path, content, suffix, expected):
    write(tmp_path, content, suffix=suffix, one=True)
    table, problems = read(tmp_path)
    assert [str(problem) for problem in problems] == []
    assert np.array_equal(objects(table), expected[None])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png(MASKS), "several objects"),
        (png(COLORS[MASKS]), "several objects"),
        (png(MASKS * 0), "empty mask"),
        (png(MASKS * 0 + 1), "mask of all pixels"),
        (png(inside_out(MASKS)), "masks inside out"),
        (png((MASKS > 0).astype(np.uint8)), "objects in one"),
    ],
)
def test_masks_that_are_not_of_one_object(tmp_path, content, kind):
    write(tmp_path, content, one=True)
    _, problems = read(tmp_path)
    assert {problem.kind for problem in problems} == {kind}


def test_objects_in_pieces_with_a_file_each(tmp_path):
    """Some are hidden in their middle, and others are beside them."""
    for i in range(3):
        folder = tmp_path / f"train/s{i}"
        noise(folder / "images/a.png", 90, 120, i)
        (folder / "masks").mkdir()
        for k in range(3):
            mask = (np.roll(MASKS, k, 1) == 3) * np.uint8(255)
            mask[60:66] = mask[60:66] * (k > 0)
            Image.fromarray(mask).save(folder / f"masks/{k}.png")
    assert read(tmp_path)[1] == []


def test_files_that_are_no_masks(tmp_path):
    write(tmp_path, png(PLAIN), one=True)
    np.save(tmp_path / "train/s1/masks/b.npy", PLAIN)
    _, problems = read(tmp_path)
    assert [(p.kind, p.image, p.error) for p in problems] == [
        ("unread file", "s1/images/a1.png", False)
    ]


@pytest.mark.parametrize("one", [True, False])
def test_masks_of_more_pixels_than_memory(tmp_path, one):
    """The head of a mask file says that it is not that of its image."""
    write(tmp_path, png(PLAIN), one=one)
    path = next((tmp_path / "train").rglob("masks/a1.png"))
    path.write_bytes(png(Image.new("1", (13000, 13000), 1)))
    before = peak()
    _, problems = read(tmp_path)
    assert [p.kind for p in problems if p.error] == ["size mismatch"]
    assert peak() - before < 2**27


def test_training_tells(tmp_path, caplog):
    write(tmp_path, png(255 * (MASKS > 0).astype(np.uint8)))
    data = load_config({"data": {"format": "masks", "root": tmp_path, "classes": ["cell"]}}).data
    open_dataset(data, "train")
    assert "3 of 3 masks have several separate pieces, 6 in all" in caplog.text


def test_images_of_one_name_do_not_share_a_mask(tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "day1/c.png", "day2/c.png"):
        noise(tmp_path / "train/images" / name, 90, 120, len(name))
    for name, plane in (
        ("a", MASKS),
        ("b", MASKS),
        ("b_mask", MASKS),
        ("day1/c", MASKS),
        ("day2/c", MASKS[::-1]),
    ):
        path = tmp_path / "train/masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(plane.copy()))
    table, problems = read(tmp_path)
    assert [(p.kind, p.image) for p in problems] == [
        ("ambiguous mask", "images/a.jpg"),
        ("ambiguous mask", "images/b.png"),
    ]
    assert [bytes(table.files[i]) for i in range(len(table))] == [
        b"images/day1/c.png",
        b"images/day2/c.png",
    ]
    assert not np.array_equal(objects(table)[0], segments.decode([table.masks[3]], 90, 120)[0])
    (tmp_path / "train/masks/day2/c.png").unlink()
    assert ("missing mask", "images/day2/c.png") in [(p.kind, p.image) for p in read(tmp_path)[1]]


def test_pieces():
    plane = np.array(
        [
            [1, 0, 2, 2],
            [0, 1, 0, 2],
            [0, 0, 1, 0],
            [3, 0, 0, 1],
            [3, 0, 1, 0],
            [0, 0, 0, 1],
            [1, 1, 0, 0],
        ]
    )
    found = find_pieces(plane)
    assert sorted(zip(found.indices.tolist(), found.sizes.tolist(), found.touching.tolist())) == [
        (1, 2, False),
        (1, 6, True),
        (2, 3, True),
        (3, 2, False),
    ]
    masks = encode(plane)
    assert set(masks) == {1, 2, 3}
    for index, code in masks.items():
        assert code == segments.from_mask(plane == index)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_nuclei_as_indices(tmp_path, step):
    """Hundreds of nuclei that touch each other, also after resizing with nearest neighbours, give
    no false alarm."""
    if not NUCLEI.is_file():
        pytest.skip(f"sample of the Data Science Bowl not found at {NUCLEI}")
    wanted = 0
    with tarfile.open(NUCLEI) as archive:
        members = [m for m in archive if "/val/" in m.name and "/masks/" in m.name and m.isfile()]
        for name in sorted({m.name.split("/")[2] for m in members})[:12]:
            plane = None
            for k, member in enumerate((m for m in members if f"/{name}/" in m.name), 1):
                mask = (
                    np.asarray(
                        Image.open(io.BytesIO(archive.extractfile(member).read())).convert("L")
                    )
                    > 0
                )
                plane = np.zeros(mask.shape, np.uint16) if plane is None else plane
                plane[mask] = k
            plane = np.ascontiguousarray(plane[::step, ::step])
            wanted += len(np.unique(plane)) - 1
            noise(tmp_path / "train/images" / f"{name}.png", *plane.shape, 0)
            (tmp_path / "train/masks").mkdir(exist_ok=True)
            Image.fromarray(plane).save(tmp_path / "train/masks" / f"{name}.png")
    table, problems = read(tmp_path)
    assert [str(problem) for problem in problems] == []
    assert len(table.ids) == wanted > 300
