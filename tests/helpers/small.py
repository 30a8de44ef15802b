"""A model small enough to run in milliseconds, and images with targets for it."""

import torch

from maskrcnn import MaskRCNN

SMALL = {
    "transform": {"min_size": 64, "max_size": 96},
    "backbone": {"name": "resnet10", "width": 4, "norm": "batch", "freeze_at": 0},
    "fpn": {"channels": 8},
    "rpn": {
        "anchor_sizes": [8, 16, 32, 64, 128],
        "pre_nms_train": 50,
        "pre_nms_test": 50,
        "post_nms_train": 30,
        "post_nms_test": 20,
        "samples": 32,
    },
    "box": {"hidden": 16, "samples": 16, "score_threshold": 0.0},
    "mask": {"convs": 1, "channels": 8},
}


def overlay(*changes):
    """SMALL with further {"section": {"key": value}} laid over it."""
    merged = {section: dict(keys) for section, keys in SMALL.items()}
    for change in changes:
        for section, keys in change.items():
            merged.setdefault(section, {}).update(keys)
    return merged


def small_model(num_classes=3, changes=None, **arguments):
    torch.manual_seed(0)
    return MaskRCNN(num_classes, overlay(changes or {}), **arguments)


def small_data(counts=(2, 1), sizes=((70, 90), (64, 50)), num_classes=3):
    """Images with bright rectangles, as many as `counts` says, and their targets."""
    generator = torch.Generator().manual_seed(3)
    images, targets = [], []
    for count, (height, width) in zip(counts, sizes):
        image = torch.rand(3, height, width, generator=generator) * 0.2
        boxes, masks = torch.zeros(count, 4), torch.zeros(count, height, width, dtype=torch.bool)
        for k in range(count):
            x, y = (
                int(torch.randint(0, side // 2, (), generator=generator))
                for side in (width, height)
            )
            w, h = (
                int(torch.randint(12, side // 2, (), generator=generator))
                for side in (width, height)
            )
            boxes[k] = torch.tensor([x, y, x + w, y + h])
            masks[k, y : y + h, x : x + w] = True
            image[:, y : y + h, x : x + w] += 0.7
        images.append(image.clamp(0, 1))
        labels = torch.randint(1, num_classes + 1, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, targets
