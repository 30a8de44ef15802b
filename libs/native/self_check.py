"""Do the compiled operators compute what those in PyTorch do? For `build_libs.py --check`."""

import torch

from maskrcnn.libs import ops, reference, reference_masks


def differences(device: str) -> list[str]:
    """Run each operator on random input, compiled for this device ("cpu", "cuda:0") and in PyTorch;
    returns a line for each that is not compiled or whose results differ by more than rounding."""
    device = torch.device(device)
    if not ops.compiled(torch.zeros(1, device=device)):
        return [f"no compiled operators serve {device}"]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    corner = random(200, 2) * 100
    boxes = torch.cat([corner, corner + 1 + random(200, 2) * 60], dim=1)
    image = (random(200) * 2).long()
    maps = [random(2, 16, 40 // s, 48 // s).requires_grad_() for s in (1, 2)]
    masks = [random(3, 90, 80) < 0.5 for _ in range(2)]
    gradient = random(200, 16, 7, 7)
    wrong = []

    def compare(name: str, got: torch.Tensor, want: torch.Tensor, most: float) -> None:
        """`most`: the share of numbers that rounding may move."""
        far = ((got.float() - want.float()).abs() > 1e-3).float().mean().item()
        if not far <= most:
            wrong.append(f"{name}: {far:.1%} of the numbers differ")

    def pool(version: object) -> list[torch.Tensor]:
        pooled = version.roi_align(maps, boxes, image, 7, [0.25, 0.125], None, 2, True, [1000.0])
        return [pooled, *torch.autograd.grad(pooled, maps, gradient)]

    scores = random(200)
    groups = (random(200) * 3).long()
    compare(
        "nms", ops.nms(boxes, scores, 0.5, groups), reference.nms(boxes, scores, 0.5, groups), 0.01
    )
    for name, got, want in zip(
        ("roi_align", "its gradient", "its gradient"), pool(ops), pool(reference)
    ):
        compare(name, got, want, 0)
    compare(
        "crop_masks",
        ops.crop_masks(masks, boxes, (image * 2), image, 14),
        reference_masks.crop_masks(masks, boxes, (image * 2), image, 14),
        0,
    )
    probabilities = random(200, 14, 14)
    compare(
        "paste_masks",
        ops.paste_masks(probabilities, boxes, 120, 130),
        reference_masks.paste_masks(probabilities, boxes, 120, 130),
        1e-3,
    )
    return wrong
