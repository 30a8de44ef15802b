"""Anchors: the boxes that the RPN refines (Ren et al., Faster R-CNN, section 3.1.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Anchors(nn.Module):
    """Anchors of one size and several ratios at every cell of every level.

    Args:
        sizes: root of the area in input pixels, one a level. For a single level, all of them apply
            to it.
        ratios: height / width.
        strides: input pixels a cell, one a level, as the backbone declares them.
        centered: anchors sit at the cell's centre, else at its top left corner.
        rounded: corners are rounded to whole pixels.
        stride_measured: take (padded input size) // (map size) for the stride, as torchvision does;
            where a size is no multiple of the stride, that is not the declared one.

    Attributes:
        per_cell: A, the number of anchors a cell.

    Raises:
        ValueError: numbers of sizes and strides that do not fit, or values that are not positive.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        ratios: Sequence[float],
        strides: Sequence[int],
        *,
        centered: bool = True,
        rounded: bool = False,
        stride_measured: bool = False,
    ) -> None:
        super().__init__()
        if len(strides) > 1 and len(sizes) != len(strides):
            raise ValueError(
                f"[rpn] anchor_sizes: {len(sizes)} sizes for {len(strides)} levels of strides "
                f"{tuple(strides)}; give one size a level"
            )
        if not sizes or not ratios or min(*sizes, *ratios, 1) <= 0:
            raise ValueError(
                f"[rpn] anchor_sizes {tuple(sizes)} and anchor_ratios {tuple(ratios)} must be "
                "positive"
            )
        self.strides = tuple(strides)
        self.centered = centered
        self.stride_measured = stride_measured
        levels = [[size] for size in sizes] if len(strides) > 1 else [list(sizes)]
        for i, level in enumerate(levels):
            shapes = _shapes(level, ratios)
            shapes = shapes.round() if rounded else shapes
            self.register_buffer(f"shapes{i}", shapes, persistent=False)
        self.per_cell = len(levels[0]) * len(ratios)

    def forward(
        self, grids: Sequence[tuple[int, int]], image_size: tuple[int, int]
    ) -> list[Tensor]:
        """For each level the anchors [H * W * A, 4], absolute xyxy in input pixels, cell by cell in
        reading order.

        grids: (H, W) of each level's map. image_size: (height, width) of the padded input.
        """
        anchors = []
        for i, (height, width) in enumerate(grids):
            shapes = getattr(self, f"shapes{i}")
            stride_y = stride_x = self.strides[i]
            if self.stride_measured:
                stride_y = image_size[0] // height
                stride_x = image_size[1] // width
            offset = 0.5 if self.centered else 0.0
            y = (torch.arange(height, device=shapes.device, dtype=shapes.dtype) + offset) * stride_y
            x = (torch.arange(width, device=shapes.device, dtype=shapes.dtype) + offset) * stride_x
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
            centers = grid.flip(-1).repeat(1, 1, 2)
            anchors.append((centers[:, :, None] + shapes).reshape(-1, 4))
        return anchors


def _shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """[len(ratios) * len(sizes), 4] boxes around the origin, ratio by ratio."""
    height_factor = torch.tensor(ratios, dtype=torch.float32).sqrt()
    width_factor = 1 / height_factor
    size = torch.tensor(sizes, dtype=torch.float32)
    w = (width_factor[:, None] * size).flatten()
    h = (height_factor[:, None] * size).flatten()
    return torch.stack([-w, -h, w, h], dim=1) / 2
