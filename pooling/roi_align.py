"""RoIAlign over a feature pyramid."""

from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn.libs.ops import roi_align


class RoIAlign(nn.Module):
    """Fixed-size features of boxes, each pooled from the level that fits its size; output in input
    order.

    Args:
        output_size: s, side of the output in bins.
        strides: of the levels that are pooled from, finest first: powers of two.
        sampling_ratio: samples a bin and direction; 0 takes as many as the bin has cells.
        aligned: see `maskrcnn.libs.reference.roi_align`.
        canonical_size, canonical_level: a box of this many pixels is pooled from the level of
            stride 2 ** canonical_level (Lin et al., FPN, equation 1).
    """

    def __init__(
        self,
        output_size: int,
        strides: Sequence[int],
        sampling_ratio: int = 2,
        aligned: bool = True,
        canonical_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.level_areas = level_areas(self.strides, canonical_size, canonical_level)

    def forward(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image_index: Tensor,
    ) -> Tensor:
        """L maps [N, C, H, W] (further, coarser ones are not used), boxes [R, 4] in input pixels
        and the image of each [R] -> [R, C, s, s]."""
        maps = list(features[: len(self.strides)])
        return roi_align(
            maps,
            boxes,
            image_index,
            self.output_size,
            scales=[1 / s for s in self.strides],
            levels=self.level_areas,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )


def level_areas(
    strides: Sequence[int],
    canonical_size: int = 224,
    canonical_level: int = 4,
) -> list[float]:
    """The box areas, in input pixels squared, from which on the second, third, ... of these strides
    is pooled from.

    Lin et al., Feature Pyramid Networks, equation 1: a box of area a belongs on level
    k = floor(canonical_level + log2(sqrt(a) / canonical_size)), the level of stride 2 ** k.

    Raises:
        ValueError: several strides that are no powers of two in ascending order.
    """
    ascending = list(strides) == sorted(set(strides))
    if len(strides) > 1 and not (
        ascending and all(stride & (stride - 1) == 0 for stride in strides)
    ):
        raise ValueError(
            f"pooling from several levels needs strides that are powers of two, finest first; the "
            f"backbone declares {tuple(strides)}. [pooling] levels = 1 pools from the finest alone"
        )
    # The small constant makes a box of exactly a power of two times canonical_size fall on its own
    # level whatever the rounding of its area.
    return [
        (canonical_size * 2 ** (stride.bit_length() - 1 - canonical_level - 1e-6)) ** 2
        for stride in strides[1:]
    ]
