"""The files of PASCAL VOC: lists of names, and the image, annotation and masks that a name
means."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from maskrcnn.datasets.find_files import Fault, inside
from maskrcnn.tools.text import brief, listed

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class Image:
    """An image of a list."""

    root: Path  # [data] root
    folder: Path  # such as VOC2012
    path: Path
    name: str  # of its annotation and masks: its path in JPEGImages without suffix

    @property
    def annotation(self) -> Path:
        """Its XML file."""
        return self.folder / "Annotations" / f"{self.name}.xml"

    def mask(self, kind: str) -> Path:
        """Its file in SegmentationObject or SegmentationClass."""
        return self.folder / kind / f"{self.name}.png"


def find_list(root: Path, entry: str) -> tuple[Path, Path]:
    """The VOC folder and the file of a list."""
    inner, _, name = entry.rpartition("/")
    folder = root / inner
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    if not (folder / "ImageSets").is_dir():
        folder = _inner_folder(folder, name)
    lists = folder / "ImageSets" / "Segmentation"
    file = lists / f"{name}.txt"
    if not file.is_file():
        names = sorted(path.stem for path in lists.glob("*.txt"))
        there = listed(names) or "none"
        raise ValueError(f"no list {file}; there are {there}")
    return folder, file


def _inner_folder(folder: Path, name: str) -> Path:
    """Return the one folder in a folder that has lists.

    Raises:
        ValueError: there are several, or none; the message says how to choose one for the list of
            this name.
    """
    found = sorted(path.parent for path in folder.glob("*/ImageSets"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"{folder} has no folder ImageSets, and none of its folders has; expected is the "
            "layout of PASCAL VOC"
        )
    names = [path.name for path in found]
    raise ValueError(
        f"{folder} has no folder ImageSets; say which of {listed(names)}: {names[-1]}/{name}"
    )


def read_names(file: Path, folder: Path) -> list[str]:
    """The names in a list. What stands behind one, such as 1 or -1, is left out; but a name may
    have spaces."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    names = []
    for line in lines:
        name = line.strip()
        if not name:
            continue
        if " " not in name or not _files(folder, name):
            name = name.split()[0]
        names.append(name)
    return names


def _files(folder: Path, name: str) -> list[Path]:
    """The files in JPEGImages that a name means; none where no file could have it."""
    names = [f"{name}{suffix}" for suffix in SUFFIXES]
    names += [f"{name}{suffix.upper()}" for suffix in SUFFIXES]
    if Path(name).suffix.lower() in SUFFIXES:
        names.append(name)
    paths = [folder / "JPEGImages" / file for file in names]
    try:
        there = [path for path in paths if path.is_file()]
    except (OSError, ValueError):  # of a name that is too long
        return []
    found: list[Path] = []
    for path in there:
        if not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def find_image(
    folder: Path,
    name: str,
    root: Path,
    outside: bool,
) -> Image | Fault:
    """An image of a list, or what is wrong with it: the kind and a message."""
    found = _files(folder, name)
    if not found:
        return "missing image", f"there is no file {folder / 'JPEGImages'}/{brief(name)}.jpg"
    if len(found) > 1:
        several = " and ".join(brief(path.name) for path in found)
        return (
            "ambiguous image",
            f"{several} are both {brief(name)}, and have one annotation; give each a name of its "
            "own",
        )
    path = Path(os.path.normpath(found[0]))
    if ".." in Path(name).parts or not path.is_relative_to(root):
        return "image outside", f"{brief(name)} leads out of {folder / 'JPEGImages'}"
    if not outside and not inside(path, root, folder):
        return "image outside", f"{path} leads out of {root}, which [data] outside = no forbids"
    stem = path.relative_to(folder / "JPEGImages").with_suffix("")
    return Image(root, folder, path=path, name=str(stem))


def find_flat(images: list[Image]) -> None:
    """Let images in sub-folders whose annotations are in none have them, where no two images share
    their last name."""
    flat_images = []
    for image in images:
        last = os.path.basename(image.name)
        flat_images.append(replace(image, name=last))
    counts = Counter((flat.folder, flat.name) for flat in flat_images)
    for image, flat in zip(images, flat_images):
        if counts[flat.folder, flat.name] > 1 or image.annotation.is_file():
            continue
        if flat.annotation.is_file():
            image.name = flat.name
