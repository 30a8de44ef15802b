"""A pooling by name."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .backbone_stage import Staged
from .roi_align import RoIAlign
from .roi_pool import RoIPool


def choose_pool(
    output_size: int,
    strides: Sequence[int],
    kind: str,
    levels: int,
    canonical_size: int,
    canonical_level: int,
    sampling_ratio: int,
    aligned: bool,
    stage: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """The pooling of this kind over the finest levels, and then the backbone's stage for RoIs,
    where it has one. What the arguments mean stands in config.ini.

    Raises:
        ValueError: a kind that is not known.
    """
    if kind not in ("align", "max"):
        raise ValueError(f"[pooling] kind = {kind!r}; choose align or max")
    pool: nn.Module
    if kind == "max":
        pool = RoIPool(output_size, strides[:levels], canonical_size, canonical_level)
    else:
        pool = RoIAlign(
            output_size, strides[:levels], sampling_ratio, aligned, canonical_size, canonical_level
        )
    return pool if stage is None else Staged(pool, stage)
