"""Small image files of ten formats with everything in them that a decoder reads, to be damaged from
seeds."""

import io
import json
import random
from functools import cache

import numpy as np
from helpers.fuzzing import damage
from helpers.made import ring
from helpers.small import overlay
from PIL import Image

HEIGHT, WIDTH = 24, 32
# Each format as several programs write it: depth, compression, metadata, pages.
FORMS = {
    "png": ({}, {"mode": "I;16"}, {"mode": "P"}, {"mode": "LA"}, {"save_all": True}),
    "jpg": ({}, {"progressive": True}, {"mode": "CMYK"}, {"format": "MPO", "save_all": True}),
    "webp": ({}, {"lossless": True}, {"save_all": True}),
    "tif": (
        {},
        {"compression": "tiff_lzw"},
        {"compression": "tiff_deflate", "mode": "I;16"},
        {"mode": "F"},
        {"compression": "jpeg"},
        {"save_all": True},
    ),
    "gif": ({}, {"save_all": True}),
    "bmp": ({}, {"mode": "P"}),
    "avif": ({}, {"save_all": True}),
    "jp2": ({}, {"mode": "I;16"}),
    "ppm": ({}, {"mode": "L"}, {"mode": "1"}),
    "dds": ({}, {"pixel_format": "DXT5", "mode": "RGBA"}),
}
FORMATS = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
WITH_EXIF = ("png", "jpg", "webp", "tif", "avif")


def pixels(height=HEIGHT, width=WIDTH, seed=0):
    """Noise with a bright rectangle, uint8 [h, w, 3]."""
    image = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (230, 200, 90)
    return image


@cache
def intact(kind, form):
    """The content of a good file."""
    options = {"format": FORMATS.get(kind, kind.upper()), **FORMS[kind][form]}
    mode = options.pop("mode", "RGB")
    image = Image.fromarray(pixels())
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    elif mode != "RGB":
        image = image.convert(mode)
    if options.get("save_all"):
        options["append_images"] = [image.transpose(Image.Transpose.ROTATE_180)]
    # which ends Pillow's process
    if kind in WITH_EXIF and not (kind == "avif" and "save_all" in options):
        options["exif"] = metadata()
    content = io.BytesIO()
    image.save(content, **options)
    return content.getvalue()


def oriented(value):
    """EXIF data of this orientation alone."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def metadata():
    """EXIF data as a phone writes them: of every type, in several directories."""
    exif = oriented(6)
    exif[0x010F], exif[0x0110] = "maker", "model"
    exif[0x011A], exif[0x0128] = 72.5, 2
    exif.get_ifd(0x8769)[0x829A] = 0.01
    exif.get_ifd(0x8769)[0x927C] = bytes(range(40))
    exif.get_ifd(0x8825)[2] = (47.0, 5.0, 13.0)
    return exif


def damaged_image(kind, seed):
    """The content of a damaged file of this kind."""
    rng = random.Random(f"{kind} {seed}")
    return damage(intact(kind, rng.randrange(len(FORMS[kind]))), rng)


def write_set(root, damaged, good):
    """A data set in COCO's format of damaged images and, so many times, a good one, with an object
    each."""
    Image.fromarray(pixels()).save(root / "good.png")
    names = [path.relative_to(root).as_posix() for path in damaged] + ["good.png"] * good
    x, y, w, h = WIDTH // 4, HEIGHT // 4, WIDTH // 2 - WIDTH // 4, HEIGHT // 2 - HEIGHT // 4
    content = {
        "categories": [{"id": 1, "name": "thing"}],
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for i, name in enumerate(names, 1)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [ring(x, y, x + w, y + h)],
            }
            for i in range(1, len(names) + 1)
        ],
    }
    (root / "all.json").write_text(json.dumps(content))
    good_images = [image for image in content["images"] if image["file_name"] == "good.png"][:2]
    kept = {image["id"] for image in good_images}
    objects = [
        annotation for annotation in content["annotations"] if annotation["image_id"] in kept
    ]
    (root / "good.json").write_text(
        json.dumps({**content, "images": good_images, "annotations": objects})
    )
    sections = overlay(
        {
            "transform": {"min_size": 32, "max_size": 64},
            "data": {
                "format": "coco",
                "root": root,
                "train": "., all.json",
                "val": "., good.json",
                "test": "., good.json",
                "broken": "skip",
            },
            "train": {"epochs": 1, "batch_size": 2, "device": "cpu", "output": root / "run"},
        }
    )
    lines = []
    for section, keys in sections.items():
        values = {
            key: ", ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in keys.items()
        }
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    (root / "config.ini").write_text("\n".join(lines))
    return root / "config.ini"
