"""Operators' speed as a ratio to torchvision's, both in this process, in turn.

    python tests/benchmarks/ops.py [--device cuda] [--pairs 15] [--threads 2]

Each figure is time(ours) / time(torchvision), below 1 is faster: the median over the pairs, and
their range. The rate behind it counts the bytes that the task itself reads and writes, each once;
compare it with that of a copy.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pairs as measure
import torch
import torchvision
from torchvision.models.detection.roi_heads import paste_masks_in_image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from maskrcnn.libs import ops  # noqa: E402
from maskrcnn.pooling.roi_align import level_areas  # noqa: E402

HEIGHT, WIDTH, STRIDES = 800, 1088, (4, 8, 16, 32)


def random_boxes(count: int, largest: float = 200) -> torch.Tensor:
    """Boxes [count, 4] of 8 to `largest` pixels anywhere in the image."""
    corner = torch.rand(count, 2) * torch.tensor([WIDTH - largest, HEIGHT - largest])
    return torch.cat([corner, corner + 8 + torch.rand(count, 2) * (largest - 8)], dim=1)


def size(*tensors: torch.Tensor) -> int:
    """Bytes of these tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def roi_align(
    compare: Callable, device: str, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """1000 RoIs from four levels of 256 channels, forward and backward."""
    features = [
        torch.randn(1, 256, HEIGHT // s, WIDTH // s, device=device, dtype=dtype) for s in STRIDES
    ]
    features = [f.contiguous(memory_format=layout) for f in features]
    boxes, image = (
        random_boxes(1000).to(device),
        torch.zeros(1000, dtype=torch.int64, device=device),
    )
    gradient = torch.randn(1000, 256, 7, 7, device=device, dtype=dtype)
    pool = torchvision.ops.MultiScaleRoIAlign(list("0123"), 7, 2)
    named = {str(i): f.contiguous() for i, f in enumerate(features)}
    areas = level_areas(STRIDES)

    def ours(maps: list[torch.Tensor]) -> torch.Tensor:
        return ops.roi_align(maps, boxes, image, 7, [1 / s for s in STRIDES], areas, 2, False)

    def theirs(maps: dict[str, torch.Tensor]) -> torch.Tensor:
        return pool(maps, [boxes.to(dtype)], [(HEIGHT, WIDTH)])

    name = (
        f"{'channels last' if layout == torch.channels_last else 'contiguous'}, "
        f"{str(dtype).split('.')[1]}"
    )
    moved = size(*features, gradient)
    compare(f"RoIAlign forward, {name}", lambda: ours(features), lambda: theirs(named), moved=moved)
    learned = [f.clone().requires_grad_() for f in features]
    their_learned = {key: f.clone().requires_grad_() for key, f in named.items()}
    out, their_out = ours(learned), theirs(their_learned)
    compare(
        f"RoIAlign backward, {name}",
        lambda: torch.autograd.grad(out, learned, gradient, retain_graph=True),
        lambda: torch.autograd.grad(
            their_out, list(their_learned.values()), gradient, retain_graph=True
        ),
        moved=moved,
    )


def nms(compare: Callable, device: str, count: int) -> None:
    """One set of `count` boxes, IoU 0.5. torchvision returns the indices of what is kept, best
    first; ours a mask, all that the model needs, and in the second figure the same indices."""
    boxes, scores = random_boxes(count).to(device), torch.rand(count).to(device)

    def ours() -> torch.Tensor:
        kept = ops.nms(boxes, scores, 0.5).nonzero()[:, 0]
        return kept[scores[kept].argsort(descending=True, stable=True)]

    mine, other = set(ours().tolist()), set(torchvision.ops.nms(boxes, scores, 0.5).tolist())
    # one may round an IoU of just the threshold differently
    if len(mine ^ other) > len(other) / 1000:
        raise RuntimeError("the two keep different boxes: the comparison would be of no use")
    # of which overlap which, half of them written and read
    bits = count * count // 8 if device == "cuda" else 0
    moved = size(boxes, scores) + bits
    compare(
        f"NMS of {count} boxes, a mask",
        lambda: ops.nms(boxes, scores, 0.5),
        lambda: torchvision.ops.nms(boxes, scores, 0.5),
        moved=moved,
    )
    compare(
        f"NMS of {count} boxes, indices",
        ours,
        lambda: torchvision.ops.nms(boxes, scores, 0.5),
        moved=moved,
    )


def batched_nms(compare: Callable, device: str) -> None:
    """What an RPN asks for: 2000 boxes of each of 5 levels of 4 images, levels apart, IoU 0.7.
    torchvision takes one image after the other, and returns indices; ours a mask for all."""
    boxes, scores = random_boxes(4 * 5 * 2000).to(device), torch.rand(4 * 5 * 2000).to(device)
    level = torch.arange(5, device=device).repeat_interleave(2000)
    images = list(zip(boxes.view(4, -1, 4), scores.view(4, -1)))
    compare(
        "NMS of 4 images, 5 levels, 2000 boxes",
        lambda: ops.nms(boxes.view(20, 2000, 4), scores.view(20, 2000), 0.7),
        lambda: [torchvision.ops.batched_nms(*image, level, 0.7) for image in images],
    )


def paste(compare: Callable, device: str) -> None:
    """100 masks of 28 x 28; torchvision's are probabilities, to be compared with 0.5 in a further
    step."""
    masks, boxes = torch.rand(100, 28, 28).to(device), random_boxes(100).to(device)
    compare(
        "paste of 100 masks",
        lambda: ops.paste_masks(masks, boxes, HEIGHT, WIDTH),
        lambda: paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) > 0.5,
        moved=size(masks) + 100 * HEIGHT * WIDTH,
    )


def copy(compare: Callable, device: str) -> None:
    """The rate of a copy on this device: 512 MB are read and as many written."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    compare(
        "copy, against itself",
        lambda: target.copy_(source),
        lambda: target.copy_(source),
        moved=2 * size(source),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = arguments.device
    where = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} threads"
    print(
        f"image {HEIGHT} x {WIDTH}, {where}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, "
        f"{'compiled' if ops.compiled(torch.zeros(1, device=device)) else 'pure PyTorch'} operators"
    )
    compare = functools.partial(
        measure.compare, pairs=arguments.pairs, wait=measure.waiting(device)
    )
    copy(compare, device)
    for dtype in (torch.float32, torch.float16) if device == "cuda" else (torch.float32,):
        for layout in (torch.contiguous_format, torch.channels_last):
            roi_align(compare, device, layout, dtype)
    for count in (1000, 5000, 20000):
        nms(compare, device, count)
    batched_nms(compare, device)
    paste(compare, device)
