"""The operators on CUDA: tensors in, kernels of cuda.cu launched on PyTorch's current stream.
`operators.py` registers them with PyTorch. Nothing here waits for the device.
"""

import functools
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.libs import reference, reference_masks
from maskrcnn.libs.op_checks import check_threshold

from . import compile_c, compile_cuda
from .calls import call

log = logging.getLogger("maskrcnn")
# What features may be stored in, by number as launcher.c has it, and how many fit into an access of
# 16 bytes.
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
WIDTHS = {torch.float32: 4, torch.float16: 8, torch.bfloat16: 8}
# NMS compares boxes of at most so many bytes of bits at a time, and of so many boxes a set: a bit
# for each has to fit into the memory that the threads of one block share.
NMS_ROOM = 1 << 27
NMS_LARGEST = 64 * 5900
RANK_LARGEST = 4096  # boxes of a set that one block sorts; of more, PyTorch does
MAX_LEVELS = 16
OUT_OF_MEMORY = 2  # an error of the driver


@functools.cache
def launcher() -> Any:
    """The compiled launcher with the driver opened, or None; a line in the log says what is
    missing."""
    if os.environ.get("MASKRCNN_OPS", "") == "reference" or torch.version.cuda is None:
        return None
    try:
        module = compile_c.load("cuda")
    except ImportError as error:
        log.warning("operators on CUDA: pure PyTorch, as the launcher does not load: %s", error)
        return None
    if module is None:
        log.warning("operators on CUDA: pure PyTorch; python libs/build_libs.py builds faster ones")
        return None
    error = module.lib.open_driver(compile_cuda.DRIVER.encode())
    if error:
        log.warning(
            "operators on CUDA: pure PyTorch, as %s does not open: error %d",
            compile_cuda.DRIVER,
            error,
        )
        return None
    return module


def kernels(device: torch.device) -> Any:
    """The kernels as loaded on a device, compiled now if need be, or None; one line in the log says
    which."""
    number = device.index
    if number is None:
        number = torch.cuda.current_device()
    if number not in _loaded:
        if launcher() is None:
            return None
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"the first call of an operator on cuda:{number} loads its kernels, which cannot "
                "be captured in a CUDA graph: run the model once before"
            )
        _loaded[number] = _load(number)
    return _loaded[number]


_loaded: dict[int, Any] = {}


def _load(number: int) -> Any:
    """The kernels for a device, as found ready or, where its driver refuses these, compiled
    anew."""
    module = launcher()
    major, minor = torch.cuda.get_device_capability(number)
    handle = module.ffi.new("struct kernels **")
    error = 0
    for find in (compile_cuda.cubin, compile_cuda.compile_and_keep):
        try:
            error = module.lib.load_kernels(number, find(10 * major + minor), handle)
        except compile_cuda.BuildError as missing:
            log.warning("operators on cuda:%d: pure PyTorch: %s", number, missing)
            return None
        if error == OUT_OF_MEMORY:
            torch.cuda.empty_cache()  # PyTorch may hold all of it
            error = module.lib.load_kernels(number, find(10 * major + minor), handle)
        if not error:
            log.info("operators: compiled for sm_%d%d, cuda:%d", major, minor, number)
            return handle[0]
    log.warning(
        "operators on cuda:%d: pure PyTorch, as the kernels do not load: %s", number, _text(error)
    )
    return None


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """See `reference.nms`."""
    check_threshold(iou_threshold)
    count = scores.shape[-1]
    if count > NMS_LARGEST:
        return reference.nms(boxes, scores, iou_threshold, groups, valid=valid)
    keep = torch.empty_like(scores, dtype=torch.bool, memory_format=torch.contiguous_format)
    if scores.numel() == 0:
        return keep
    images = scores.numel() // count
    words = math.ceil(count / 64)
    rows = 64 * max(1, min(words, NMS_ROOM // (images * words * 8 * 64)))
    if valid is not None:
        valid = valid.contiguous()
    if groups is not None:
        groups = groups.long().contiguous()
    order = _ranks(scores, valid, images, count)
    removed = torch.empty(images, words, dtype=torch.int64, device=boxes.device)
    overlapping = torch.empty(images, rows, words, dtype=torch.int64, device=boxes.device)
    boxes = boxes.float().contiguous()
    if boxes.data_ptr() % 16:  # a box is read at once
        boxes = boxes.clone()
    _launch(
        "nms",
        boxes.device,
        boxes,
        order,
        groups,
        valid,
        images,
        count,
        rows,
        iou_threshold,
        removed,
        overlapping,
        keep,
    )
    return keep


def _ranks(
    scores: Tensor,
    valid: Tensor | None,
    images: int,
    count: int,
) -> Tensor:
    """[N, P]: the slots by falling score, ties as they come; those without a score or that are not
    valid last."""
    if count <= RANK_LARGEST and scores.dtype != torch.float64:
        order = torch.empty(images, count, dtype=torch.int64, device=scores.device)
        room = 1 << (count - 1).bit_length()
        _launch(
            "rank", scores.device, scores.float().contiguous(), valid, images, count, room, order
        )
        return order
    ranking = scores.nan_to_num(
        nan=-math.inf,
        posinf=math.inf,
        neginf=-math.inf,
    )
    if valid is not None:
        ranking = ranking.masked_fill(~valid, -math.inf)
    return ranking.argsort(
        dim=-1,
        descending=True,
        stable=True,
    ).contiguous()


def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    output_size: int,
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """See `reference.roi_align`. An image_index or a level out of range gives NaN."""
    if any(m.dtype != maps[0].dtype for m in maps):
        raise ValueError(
            f"roi_align on CUDA needs features of one dtype, got {[m.dtype for m in maps]}"
        )
    cells = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    dtype = maps[0].dtype
    channels = maps[0].shape[1]
    pooled = maps[0].new_empty(len(boxes), output_size, output_size, channels)
    wide = channels % WIDTHS[dtype] == 0 and all(m.data_ptr() % 16 == 0 for m in cells)
    _pool(
        "roi_align",
        [wide],
        cells,
        [m.shape for m in maps],
        boxes=boxes,
        image_index=image_index,
        levels=levels,
        scales=scales,
        level_areas=level_areas,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        pooled=pooled,
    )
    return pooled.permute(0, 3, 1, 2)


def roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    shapes: Sequence[int],
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradients of the maps, whose `shapes` follow one another: sums in float32, in an order
    that is always the same where torch.use_deterministic_algorithms asks for it."""
    sizes = [shapes[i : i + 4] for i in range(0, len(shapes), 4)]
    sums = []
    for n, c, h, w in sizes:
        sums.append(torch.empty(n, h, w, c, dtype=torch.float32, device=grad.device))
    torch._foreach_zero_(sums)  # pyright: ignore[reportPrivateImportUsage]  # in one launch
    pooled = grad.permute(0, 2, 3, 1).contiguous()
    wide = pooled.shape[3] % 4 == 0 and pooled.data_ptr() % 16 == 0
    _pool(
        "roi_align_backward",
        [wide, torch.are_deterministic_algorithms_enabled()],
        sums,
        sizes,
        boxes=boxes,
        image_index=image_index,
        levels=levels,
        scales=scales,
        level_areas=level_areas,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        pooled=pooled,
    )
    return [s.permute(0, 3, 1, 2).to(grad.dtype) for s in sums]


def _pool(
    name: str,
    variant: list[bool],
    maps: list[Tensor],
    shapes: Sequence[Sequence[int]],
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
    pooled: Tensor,
) -> None:
    """Forward or backward: maps of channels last, pooled [R, s, s, C]."""
    if len(maps) > 1 and levels is None and not level_areas:
        raise ValueError(
            f"roi_align over {len(maps)} levels needs either levels [R] or level_areas, got neither"
        )
    if len(maps) > MAX_LEVELS:
        raise ValueError(
            f"roi_align on CUDA pools from at most {MAX_LEVELS} levels, got {len(maps)}"
        )
    if pooled.numel() == 0:
        return
    sides = tuple(int(side) for shape in shapes for side in shape[2:])
    areas = None
    if level_areas:
        areas = _numbers(tuple(level_areas), torch.float32)
    if levels is not None:
        levels = levels.contiguous()
    _launch(
        name,
        pooled.device,
        TYPES[pooled.dtype],
        *variant,
        maps,
        _numbers(sides, torch.int64),
        _numbers(tuple(scales), torch.float64),
        areas,
        len(maps),
        shapes[0][0],
        pooled.shape[3],
        boxes.float().contiguous(),
        image_index.contiguous(),
        levels,
        len(boxes),
        pooled.shape[1],
        sampling_ratio,
        aligned,
        pooled,
    )


@functools.lru_cache(maxsize=256)
def _numbers(values: tuple, dtype: torch.dtype) -> Tensor:
    """Numbers for the launcher to read, on the CPU; kept, as they are the same in most calls."""
    # whatever the default device is at the first call
    return torch.tensor(values, dtype=dtype, device="cpu")


def crop_masks(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    aligned: bool,
    sampling_ratio: int,
) -> Tensor:
    """See `reference_masks.crop_masks`. An index or image out of range gives NaN."""
    out = torch.full((len(boxes), size, size), math.nan, dtype=torch.float32, device=boxes.device)
    if out.numel() and len(masks):
        shapes = torch.tensor([list(mask.shape) for mask in masks], device="cpu")
        _launch(
            "crop_masks",
            boxes.device,
            list(masks),
            shapes,
            len(masks),
            boxes.float().contiguous(),
            index.contiguous(),
            image.contiguous(),
            len(boxes),
            size,
            sampling_ratio,
            aligned,
            out,
        )
    return out.to(boxes.dtype)


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float,
    whole_pixels: bool,
) -> Tensor:
    """See `reference_masks.paste_masks`."""
    grid, low, high = reference_masks.bordered(probabilities.float(), boxes.float(), whole_pixels)
    out = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    if out.numel():
        _launch(
            "paste_masks",
            boxes.device,
            grid.contiguous(),
            grid.shape[-1],
            torch.cat([low, high], dim=1).contiguous(),
            len(boxes),
            height,
            width,
            threshold,
            out,
        )
    return out


def _launch(
    name: str,
    device: torch.device,
    *arguments: object,
) -> None:
    error = call(launcher(), name, kernels(device), _stream(device), *arguments)
    if error:
        raise RuntimeError(f"{name} on {device}: the CUDA driver answers: {_text(error)}")


def _stream(device: torch.device) -> Any:
    return launcher().ffi.cast("void *", torch.cuda.current_stream(device).cuda_stream)


def _text(error: int) -> str:
    module = launcher()
    return f"{module.ffi.string(module.lib.error_text(error)).decode()} ({error})"
