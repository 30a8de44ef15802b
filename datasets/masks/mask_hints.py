"""What the masks of a split give away together: objects that are several, or none, and colours
turned round."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .pieces import border, crumbled, find_pieces, parts

SPECK = 2  # pixels of an object at most, which hardly is one
# the share of a split's objects, and the number, above which they are reported
MANY_SPECKS = 0.1
LEAST_SPECKS = 5
IN_PARTS = 0.5  # of a split's objects: from here on it is not that something hides their middle
# where so few files are of several objects, this share of files is enough
SINGLE = 0.05
SINGLE_IN_PARTS = 0.2
# of the border that an object has, and that background has at most
AROUND = 0.9
WITHIN = 0.1
SHOWN = 3  # files in a message


class Look(NamedTuple):
    """What stands out in a mask file."""

    name: str  # of the file
    objects: int
    in_parts: int  # of the objects, those in several pieces
    pieces: int  # of all objects, without specks
    specks: int  # objects of hardly a pixel
    around: bool  # one object lies all along the border, and has a hole
    whole: bool  # one object covers all pixels
    crumbled: bool  # see `pieces.crumbled`
    void: str = ""  # the index that was taken for the rim between objects
    alone: bool = True  # its image has no other object


def look_at(
    plane: np.ndarray,
    name: str,
    void: str = "",
) -> Look:
    """Return what stands out in a mask [h, w] of indices, or of bool."""
    pieces = find_pieces(plane)
    counts = list(parts(pieces).values())
    indices = pieces.indices.astype(np.int64)
    areas = np.bincount(indices, pieces.sizes)
    specks = (areas > 0) & (areas <= SPECK)
    drawn = int(pieces.sizes.sum())
    whole = len(counts) == 1 and drawn == plane.size
    return Look(
        name=name,
        objects=len(counts),
        in_parts=sum(count > 1 for count in counts),
        pieces=sum(counts),
        specks=int(specks.sum()),
        around=not whole and _is_framed(border(plane)),
        whole=whole,
        crumbled=crumbled(pieces),
        void=void,
    )


def _is_framed(edge: np.ndarray) -> bool:
    """Return True if one object takes nearly all of the outermost pixels."""
    if not edge.size:
        return False
    most = int(np.bincount(edge).argmax())
    if most == 0:
        return False
    of_object = (edge == most).mean()
    of_background = (edge == 0).mean()
    return of_object >= AROUND and of_background <= WITHIN


def hints(looks: Sequence[Look]) -> Iterator[tuple[str, str]]:
    """Yield what the masks of a split give away: the kind and a message."""
    filled = [look for look in looks if look.objects]
    yield from _several_pieces(filled)
    around = [look for look in filled if look.around]
    if around:
        message = (
            f"in {len(around)} of {len(filled)} mask files an object lies all along the border "
            f"and background within it ({_names(around)}); if the objects are what is 0 or "
            "black there, turn the values round: 0 is background"
        )
        yield "masks inside out", message
    whole = [look for look in filled if look.whole]
    if whole:
        message = (
            f"{len(whole)} of {len(filled)} mask files are one object that covers the whole "
            f"image ({_names(whole)}); 0 is background"
        )
        yield "mask of all pixels", message
    objects = sum(look.objects for look in filled)
    specks = [look for look in filled if look.specks]
    count = sum(look.specks for look in specks)
    if count >= LEAST_SPECKS and count > MANY_SPECKS * objects:
        message = (
            f"{count} of {objects} objects have a mask of no more than {SPECK} pixels "
            f"({_names(specks)}); are these remains of smoothing, compression or resizing?"
        )
        yield "specks", message
    void = [look for look in looks if look.void]
    if void:
        message = (
            f"{void[0].void} stands apart from the other indices of {len(void)} mask files "
            f"({_names(void)}) and counts as background, like the rim between objects in "
            "PASCAL VOC; if it is an object, count on from the others"
        )
        yield "void index", message


def _several_pieces(looks: Sequence[Look]) -> Iterator[tuple[str, str]]:
    """Yield a hint where the objects of a split are likely to be several each."""
    apart = [look for look in looks if look.in_parts]
    if not apart:
        return
    objects = sum(look.objects for look in looks)
    in_parts = sum(look.in_parts for look in looks)
    pieces = sum(look.pieces for look in looks)
    several = sum(look.objects > 1 or not look.alone for look in looks)
    few_several = several <= SINGLE * len(looks)
    many_apart = len(apart) >= SINGLE_IN_PARTS * len(looks)
    single = few_several and many_apart
    if single or in_parts >= IN_PARTS * objects:
        message = (
            f"{in_parts} of {objects} masks have several separate pieces, {pieces} in all, and "
            f"each counts as one object ({_names(apart)}); if each piece is an object, give "
            "each an index, or a file, of its own"
        )
        yield "objects in one", message


def _names(looks: Sequence[Look]) -> str:
    """Return the names of the first files."""
    first = [look.name for look in looks[:SHOWN]]
    names = ", ".join(dict.fromkeys(first))
    return f"{names}, ..." if len(looks) > SHOWN else names
