"""Small data sets in the formats of others, with seeds fixed, for tests to read and to damage."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

VOC = ("cat", "dog")


def noise(path, height, width, seed):
    """An image file of its own content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def ring(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def write_coco(root, images=4, split="train", start=0):
    """Images of 60 x 80 with three objects of differing sizes each, categories 1 to 3; returns the
    content."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": f"kind {k}"} for k in (1, 2, 3)],
    }
    for i in range(start, start + images):
        noise(root / split / f"{i}.png", 60, 80, i)
        content["images"].append(
            {"id": 100 + i, "file_name": f"{i}.png", "height": 60, "width": 80}
        )
        for k, (x, y, w, h) in enumerate(
            ((3, 2, 20, 30), (30, 10, 40, 12), (40 + i % 8, 30, 15.5, 20.25))
        ):
            content["annotations"].append(
                {
                    "id": 1000 + 3 * i + k,
                    "image_id": 100 + i,
                    "category_id": k + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [ring(x, y, x + w, y + h)],
                }
            )
    save_coco(root, content, split)
    return content


def save_coco(root, content, split="train"):
    (root / f"{split}.json").write_text(json.dumps(content))


def coco_data(root):
    return {
        "format": "coco",
        "root": str(root),
        "train": ["train", "train.json"],
        "val": ["val", "val.json"],
    }


def write_voc(root, names=("a", "b", "c"), split="train"):
    """Images of 50 x 70 in root/VOC2012 with two objects each, a cat and a dog."""
    folder = root / "VOC2012"
    for seed, name in enumerate(names):
        noise(folder / "JPEGImages" / f"{name}.jpg", 50, 70, sum(name.encode()) + seed)
        boxes = [(5, 6, 25, 30), (30, 10, 65, 45)]
        places, kinds = np.zeros((50, 70), np.uint8), np.zeros((50, 70), np.uint8)
        for place, (x1, y1, x2, y2) in enumerate(boxes, 1):
            places[y1:y2, x1:x2] = kinds[y1:y2, x1:x2] = 255
            places[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = place
            kinds[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = place
        for where, plane in (("SegmentationObject", places), ("SegmentationClass", kinds)):
            path = folder / where / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(plane, "P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(path)
        save_xml(
            folder,
            name,
            [(kind, (x1 + 1, y1 + 1, x2, y2)) for kind, (x1, y1, x2, y2) in zip(VOC, boxes)],
        )
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def save_xml(folder, name, objects, difficult=0, size=(50, 70)):
    """objects: pairs of a class and VOC's corners. size: height and width."""
    top = ElementTree.Element("annotation")
    sides = ElementTree.SubElement(top, "size")
    for key, side in zip(("height", "width"), size):
        ElementTree.SubElement(sides, key).text = str(side)
    for kind, corners in objects:
        entry = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(entry, "name").text = kind
        ElementTree.SubElement(entry, "difficult").text = str(difficult)
        box = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners):
            ElementTree.SubElement(box, key).text = str(value)
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(top).write(path)


def voc_data(root):
    return {
        "format": "voc",
        "root": str(root),
        "train": ["train"],
        "val": ["val"],
        "classes": list(VOC),
    }
