"""Operators' speed as a ratio to torchvision's, both in this process, in turn.

    python tests/benchmarks/ops.py [--pairs 15] [--threads 2]

Each figure is time(ours) / time(torchvision), below 1 is faster: the median over the pairs, and their range.
"""

import argparse
import sys
from pathlib import Path

import torch
import torchvision
from pairs import compare
from torchvision.models.detection.roi_heads import paste_masks_in_image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from maskrcnn.libs import ops  # noqa: E402

HEIGHT, WIDTH, STRIDES = 800, 1088, (4, 8, 16, 32)


def random_boxes(count: int, largest: float = 200) -> torch.Tensor:
    """Boxes [count, 4] of 8 to `largest` pixels anywhere in the image."""
    corner = torch.rand(count, 2) * torch.tensor([WIDTH - largest, HEIGHT - largest])
    return torch.cat([corner, corner + 8 + torch.rand(count, 2) * (largest - 8)], dim=1)


def roi_align(pairs: int, layout: torch.memory_format) -> None:
    """1000 RoIs from four levels of 256 channels, forward and backward."""
    features = [torch.randn(1, 256, HEIGHT // s, WIDTH // s).contiguous(memory_format=layout) for s in STRIDES]
    boxes, image, gradient = random_boxes(1000), torch.zeros(1000, dtype=torch.int64), torch.randn(1000, 256, 7, 7)
    side = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1)).sqrt()
    levels = (4 + torch.log2(side / 224) + 1e-6).floor().clamp(2, 5).long() - 2
    pool = torchvision.ops.MultiScaleRoIAlign(list("0123"), 7, 2)
    named = {str(i): f.contiguous() for i, f in enumerate(features)}

    def ours(maps: list[torch.Tensor]) -> torch.Tensor:
        return ops.roi_align(maps, boxes, image, 7, [1 / s for s in STRIDES], levels, 2, aligned=False)

    def theirs(maps: dict[str, torch.Tensor]) -> torch.Tensor:
        return pool(maps, [boxes], [(HEIGHT, WIDTH)])

    name = "channels last" if layout == torch.channels_last else "contiguous"
    compare(f"RoIAlign forward, {name}", lambda: ours(features), lambda: theirs(named), pairs)
    learned = [f.clone().requires_grad_() for f in features]
    their_learned = {key: f.clone().requires_grad_() for key, f in named.items()}
    out, their_out = ours(learned), theirs(their_learned)
    compare(f"RoIAlign backward, {name}",
            lambda: torch.autograd.grad(out, learned, gradient, retain_graph=True),
            lambda: torch.autograd.grad(their_out, list(their_learned.values()), gradient, retain_graph=True), pairs)


def nms(pairs: int, count: int) -> None:
    """One set of `count` boxes, IoU 0.5; both return the indices of what is kept, best first."""
    boxes, scores = random_boxes(count), torch.rand(count)

    def ours() -> torch.Tensor:
        kept = ops.nms(boxes, scores, 0.5).nonzero()[:, 0]
        return kept[scores[kept].argsort(descending=True, stable=True)]

    if not torch.equal(ours(), torchvision.ops.nms(boxes, scores, 0.5)):
        raise RuntimeError("the two keep different boxes: the comparison would be of no use")
    compare(f"NMS of {count} boxes", ours, lambda: torchvision.ops.nms(boxes, scores, 0.5), pairs)


def paste(pairs: int) -> None:
    """100 masks of 28 x 28; torchvision's are probabilities, to be compared with 0.5 in a further step."""
    masks, boxes = torch.rand(100, 28, 28), random_boxes(100)
    compare("paste of 100 masks", lambda: ops.paste_masks(masks, boxes, HEIGHT, WIDTH),
            lambda: paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) > 0.5, pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"image {HEIGHT} x {WIDTH}, {arguments.threads} threads, torch {torch.__version__}, "
          f"{'compiled' if ops.compiled(torch.zeros(1)) else 'pure PyTorch'} operators")
    for layout in (torch.contiguous_format, torch.channels_last):
        roi_align(arguments.pairs, layout)
    for count in (1000, 5000, 20000):
        nms(arguments.pairs, count)
    paste(arguments.pairs)
