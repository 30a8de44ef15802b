"""Random arguments of the operators."""

import torch


def random_boxes(count, extent=100.0, dtype=torch.float32):
    corner = torch.rand(count, 2, dtype=dtype) * extent
    return torch.cat([corner, corner + torch.rand(count, 2, dtype=dtype) * extent * 0.5 + 1], dim=1)


def pyramid(dtype=torch.float32, channels=5, gradient=False):
    return [
        torch.randn(2, channels, 32 // s, 40 // s, dtype=dtype, requires_grad=gradient)
        for s in (1, 2, 4)
    ]


def calls(dtype=torch.float32, gradient=False):
    """For each operator its name and the arguments of one call of it, as torch.library has it."""
    boxes, image, level = (
        random_boxes(30, dtype=dtype),
        torch.randint(0, 2, (30,)),
        torch.randint(0, 3, (30,)),
    )
    scales = [0.25, 0.125, 0.0625]
    masks = [torch.randint(0, 2, (m, 60, 70), dtype=torch.uint8) for m in (3, 2)]
    return {
        "nms": (
            random_boxes(40, dtype=dtype).view(2, 20, 4),
            torch.rand(2, 20, dtype=dtype),
            0.5,
            torch.randint(0, 3, (2, 20)),
            torch.rand(2, 20) < 0.8,
        ),
        "roi_align": (
            pyramid(dtype, gradient=gradient),
            boxes,
            image,
            level,
            7,
            scales,
            None,
            2,
            True,
        ),
        "roi_align_backward": (
            torch.randn(30, 5, 7, 7, dtype=dtype),
            boxes,
            image,
            None,
            [side for m in pyramid() for side in m.shape],
            scales,
            [400.0, 900.0],
            2,
            True,
        ),
        "crop_masks": (masks, boxes, torch.randint(0, 2, (30,)), image, 14, True, 0),
        "paste_masks": (torch.rand(30, 14, 14, dtype=dtype), boxes, 90, 80, 0.5, False),
    }
