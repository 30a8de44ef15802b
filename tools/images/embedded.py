"""Image files within LabelMe's annotation files."""

import base64
import io
import json
import os
from typing import TypeGuard

SUFFIX = ".json"


class ImageData(io.BytesIO):
    """An image file in memory, by a name that a decoder's messages can have."""

    def __repr__(self) -> str:
        return "in its imageData"


def is_embedded(source: object) -> TypeGuard[str | os.PathLike]:
    """Return True for the path of an annotation file, which may hold an image."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    return os.fsdecode(source).lower().endswith(SUFFIX)


def embedded_image(path: str | os.PathLike) -> ImageData:
    """Return the content of the image file that an annotation file of LabelMe holds in base64, as
    imageData.

    Raises:
        ValueError: no such file, no imageData, or one that is no base64.
    """
    with open(path, encoding="utf-8-sig") as file:
        content = json.load(file)
    data = content.get("imageData") if isinstance(content, dict) else None
    if not isinstance(data, str) or not data:
        raise ValueError("it is no image; nor has it one as imageData, as LabelMe's files may have")
    if data.startswith("data:"):  # as in a web page
        data = data.partition(",")[2]
    try:
        return ImageData(base64.b64decode("".join(data.split()), validate=True))
    except ValueError as error:
        raise ValueError(f"its imageData is no image in base64 ({error})") from error
