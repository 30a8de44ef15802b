"""Detections of images as they come: files, PIL images, arrays."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn import MaskRCNN
from maskrcnn.tools.checks.inputs import check_images
from maskrcnn.tools.images.read import ImageOptions, as_image
from maskrcnn.tools.limits import Reached
from maskrcnn.tools.text import shown

from .evaluation_view import evaluation_view


def predict_images(
    model: MaskRCNN,
    images: Sequence[Any],
    batch_size: int = 4,
) -> list[dict[str, Tensor]]:
    """Return detections of image files, PIL images, [h, w, 3] arrays of uint8 or uint16, or [3, h,
    w] tensors, as `MaskRCNN.forward` does.

    A model for other than three channels takes images with as many. All but tensors are read as
    [data] value_range and orientation of the model's configuration say; arrays of other numbers
    need a value_range.

    The model computes in evaluation mode, and is itself left as it is: several threads may predict
    with it, and another one train it. For parts that a view of it cannot reach see
    `evaluation_view`.

    Raises:
        ValueError: an image that cannot be read, named by its file or its place in the list.
    """
    if isinstance(images, (str, os.PathLike)) or not isinstance(images, Sequence):
        raise ValueError(
            f"predict takes a list of images, got {type(images).__name__}; for one give [image]"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"predict: batch_size = {shown(batch_size)} should be an integer of at least 1"
        )
    options = options_of(model)
    view = evaluation_view(model)
    reached = Reached.of(model)
    results: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            end = min(start + batch_size, len(images))
            chunk = [as_image(images[i], f"images[{i}]", options) for i in range(start, end)]
            check_images(chunk, model.transform.channels, start)
            results += view(chunk)
    for found in results:
        reached.add(found["scores"])
    reached.warn()
    return results


def options_of(model: MaskRCNN) -> ImageOptions:
    """Return how a model's configuration asks to read images."""
    data = model.config.data
    return ImageOptions(model.transform.channels, data.value_range, data.orientation)
