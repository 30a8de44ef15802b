"""The image file that an annotation means: annotations are often written on another machine, or
with another layout."""

import os
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from maskrcnn.tools.text import shown

from .image_files import in_threads

Fault = tuple[str, str]  # the kind and a message
Listing = dict[str, list[str]]  # what is in a folder, by its plain name


def find_files(
    folder: Path,
    names: Sequence[Any],
    root: Path,
    outside: bool = True,
    what: str = "image",
) -> list[str | Fault]:
    """Return for each name the file, relative to the folder; or what is wrong: the kind and a
    message.

    A name is taken as it stands where that is a file. Otherwise these are tried, in this order:
    backslashes for slashes; the path behind ?d= of Label Studio's URLs, and what %20 and the like
    stand for; the end of a path, so that /home/me/images/a.png is images/a.png, or else a.png, in
    the folder; and another writing of the same letters: é as one character or as two, .JPG for
    .jpg. What is found in this way must be the one such file, and belong to one name.

    Args:
        folder: of the files.
        names: as annotated, each once.
        root: [data] root.
        outside: [data] outside, whether files may lie outside of root and of the folder. Links
            count as where they lead to.
        what: these are files of, for messages.
    """
    names = list(names)
    listings: dict[Path, Listing] = {}
    find = partial(_find, folder, what=what, listings=listings)
    found: list[str | Fault] = list(in_threads(find, names))
    owners: dict[str, list[int]] = defaultdict(list)
    for i, file in enumerate(found):
        if isinstance(file, str):
            owners[os.path.normpath(file)].append(i)
    for file, places in owners.items():
        if len({names[i] for i in places}) == 1:
            continue
        for i in places:
            if found[i] == _tidy(names[i]):
                continue  # its own name, not found by other means
            other = next(names[j] for j in places if names[j] != names[i])
            found[i] = (
                f"ambiguous {what}",
                f"there is no file {shown(names[i])} in {folder}; {shown(file)} could "
                f"be it, but is meant by {shown(other)} as well",
            )
    if outside:
        return found
    homes = [Path(os.path.realpath(root)), Path(os.path.realpath(folder))]
    for i, file in enumerate(found):
        if isinstance(file, str):
            found[i] = _inside(folder, file, homes, what)
    return found


def inside(path: str | os.PathLike, *homes: str | os.PathLike) -> bool:
    """Return whether a file lies in one of these folders, links followed."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(home)) for home in homes)


def _inside(
    folder: Path,
    file: str,
    homes: Sequence[Path],
    what: str,
) -> str | Fault:
    real = Path(os.path.realpath(folder / os.fsdecode(os.fsencode(file))))
    if any(real.is_relative_to(home) for home in homes):
        return file
    return f"{what} outside", (
        f"{shown(file)} is {shown(str(real))}, outside of {homes[0]}, which [data] outside = no "
        f"forbids"
    )


def _find(
    folder: Path,
    name: Any,
    what: str,
    listings: dict[Path, Listing],
) -> str | Fault:
    """Return the file that one name means, or what is wrong with it."""
    if not isinstance(name, str) or not name.strip():
        return f"malformed {what}", f"its file name is {shown(name)}; a text is expected"
    if not _can_be_a_name(name):
        return (
            f"malformed {what}",
            f"its file name {shown(name)} has characters that no file name can have",
        )
    try:
        files = _candidates(folder, name, listings)
    except (OSError, ValueError) as error:  # a name that is too long, or a URL that is none
        reason = getattr(error, "strerror", None) or str(error)
        return (
            f"malformed {what}",
            f"its file name {shown(name)} cannot be that of a file: {reason}",
        )
    if len(files) == 1:
        return files[0]
    if files:
        first = ", ".join(map(shown, files[:3]))
        return f"ambiguous {what}", (
            f"there is no file {shown(name)} in {folder}, but {len(files)} that "
            f"differ in case or accents alone: {first}"
        )
    is_plain = len(name) < 200 and name.isprintable()
    return f"missing {what}", f"there is no file {folder / name if is_plain else shown(name)}"


def _can_be_a_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except ValueError:
        return False
    return "\0" not in name


def _candidates(
    folder: Path,
    name: str,
    listings: dict[Path, Listing],
) -> list[str]:
    """Return the file that a name means as it stands, or else its likeliest reading that is a file,
    or else all files that are alike with its likeliest reading that has any."""
    if (folder / name).is_file():
        return [_tidy(name)]
    for reading in _readings(name):
        if reading != name and (folder / reading).is_file():
            return [_tidy(reading)]
    for reading in _readings(name):
        alike = _alike(folder, reading, listings)
        if alike:
            return alike
    return []


def _tidy(name: str) -> str:
    """Return a path without ./, // and / at its end, so that one file has one name; ../ stays, as
    links may precede."""
    return str(PurePosixPath(name))


def _readings(name: str) -> Iterator[str]:
    """Yield what a name may mean, the likeliest first."""
    forms = [name]
    if "?d=" in name:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(name).query)
        forms += query.get("d", [])[:1]
    if "%" in name:
        forms.append(urllib.parse.unquote(name))
    for form in dict.fromkeys(form.replace("\\", "/") for form in forms):
        parts = [part for part in PurePosixPath(form).parts if part not in ("/", ".")]
        yield form
        first = 0 if form.startswith("/") else 1
        for k in range(first, len(parts)):
            end = parts[k:]
            if ".." not in end:
                yield "/".join(end)


def _alike(
    folder: Path,
    name: str,
    listings: dict[Path, Listing],
) -> list[str]:
    """Return the files in a folder whose path is the same but for the way in which its letters are
    written."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return []
    ends = [""]
    for part in path.parts:
        found = []
        for end in ends:
            place = folder / end
            if place not in listings:
                listings[place] = _listing(place)
            for there in listings[place].get(_plain(part), []):
                found.append(os.path.join(end, there))
        ends = found
    return [end for end in ends if (folder / end).is_file()]


def _listing(folder: Path) -> Listing:
    """Return what is in a folder, by its plain name."""
    names: dict[str, list[str]] = defaultdict(list)
    if folder.is_dir():
        for there in sorted(os.listdir(folder)):
            names[_plain(there)].append(there)
    return names


def _plain(name: str) -> str:
    """Return a name in one form of Unicode and in one case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
