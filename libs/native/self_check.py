"""Do the compiled operators compute what those in PyTorch do? For `build_libs.py --check`."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.libs import ops, reference, reference_masks


def differences(device_name: str) -> list[str]:
    """Run each operator on random input, compiled for this device ("cpu", "cuda:0") and in PyTorch;
    returns a line for each that is not compiled or whose results differ by more than rounding."""
    device = torch.device(device_name)
    if not ops.compiled(torch.zeros(1, device=device)):
        return [f"no compiled operators serve {device}"]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    corner = random(200, 2) * 100
    boxes = torch.cat([corner, corner + 1 + random(200, 2) * 60], dim=1)
    image = (random(200) * 2).long()
    maps = [random(2, 16, 40 // s, 48 // s).requires_grad_() for s in (1, 2)]
    masks = [random(3, 90, 80) < 0.5 for _ in range(2)]
    gradient = random(200, 16, 7, 7)
    scores = random(200)
    groups = (random(200) * 3).long()
    probabilities = random(200, 14, 14)

    def pool(roi_align: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        pooled = roi_align(
            maps,
            boxes,
            image,
            7,
            scales=[0.25, 0.125],
            levels=[1000.0],
            sampling_ratio=2,
        )
        return pooled, *torch.autograd.grad(pooled, maps, gradient)

    pooled, *gradients = pool(ops.roi_align)
    want_pooled, *want_gradients = pool(reference.roi_align)
    results = [
        Result(
            "nms",
            ops.nms(boxes, scores, 0.5, groups),
            reference.nms(boxes, scores, 0.5, groups),
            tolerated=0.01,
        ),
        Result("roi_align", pooled, want_pooled),
        *(Result("its gradient", got, want) for got, want in zip(gradients, want_gradients)),
        Result(
            "crop_masks",
            ops.crop_masks(masks, boxes, image * 2, image, size=14),
            reference_masks.crop_masks(masks, boxes, image * 2, image, size=14),
        ),
        Result(
            "paste_masks",
            ops.paste_masks(probabilities, boxes, 120, 130),
            reference_masks.paste_masks(probabilities, boxes, 120, 130),
            tolerated=1e-3,
        ),
    ]
    wrong = []
    for result in results:
        difference = (result.compiled.float() - result.reference.float()).abs()
        share = (difference > 1e-3).float().mean().item()
        if not share <= result.tolerated:
            wrong.append(f"{result.operator}: {share:.1%} of the numbers differ")
    return wrong


class Result(NamedTuple):
    """What an operator computes, compiled and in PyTorch."""

    operator: str
    compiled: Tensor
    reference: Tensor
    tolerated: float = 0.0  # share of numbers that rounding may move
