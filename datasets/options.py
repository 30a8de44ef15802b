"""The splits of a data set, and settings of section [data] that readers of annotations follow."""

from dataclasses import dataclass

from maskrcnn.tools.images.files import check_orientation

SPLITS = ("train", "val", "test")
CROWD = ("ignore", "objects")


@dataclass(frozen=True)
class ReadOptions:
    """How annotations are read, whatever their format.

    Raises:
        ValueError: a choice that does not exist.
    """

    masks: bool = True  # an object without a mask is broken; otherwise its box serves as its mask
    crowd: str = "ignore"  # what becomes of crowd annotations: ignore, or objects
    # exif turns images upright, stored leaves them as they lie in the file
    orientation: str = "exif"
    outside: bool = True  # annotations may name files outside of root

    def __post_init__(self) -> None:
        if self.crowd not in CROWD:
            raise ValueError(f"[data] crowd = {self.crowd!r}; choose {' or '.join(CROWD)}")
        check_orientation(self.orientation)


DEFAULT = ReadOptions()
