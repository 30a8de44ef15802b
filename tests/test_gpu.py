"""What a GPU adds to the other tests: the operators as PyTorch sees them there, and the model as a
whole."""

import json
import math

import pytest
import torch
from helpers.operators import calls
from helpers.small import SMALL, small_data, small_model

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.engine.train import train
from maskrcnn.libs import ops

pytestmark = pytest.mark.cuda
GPU = "cuda"


def on_gpu(value):
    """Tensors in lists, tuples and dicts, moved."""
    if isinstance(value, torch.Tensor):
        moved = value.detach().to(GPU)
        return moved.requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        return type(value)(map(on_gpu, value))
    return {key: on_gpu(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def exact():
    """Convolutions in float32, not in the shorter numbers that GPUs take for them (products are so
    anyway)."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", calls())
def test_what_pytorch_checks(name):
    arguments = on_gpu(calls(gradient=True)[name])
    # The gradient of RoIAlign sums in varying order, and so differs in the last digits from call to
    # call.
    torch.use_deterministic_algorithms(True)
    try:
        torch.library.opcheck(getattr(torch.ops.maskrcnn, name).default, arguments)
    finally:
        torch.use_deterministic_algorithms(False)


def everything(maps, boxes, image, levels, scores, masks):
    """Each operator once."""
    pooled = ops.roi_align(maps, boxes, image, 7, [0.25, 0.125, 0.0625], levels, 2)
    return (
        pooled * 2,
        ops.nms(boxes, scores, 0.5),
        ops.paste_masks(pooled[:, 0].float().sigmoid(), boxes, 50, 60),
        ops.crop_masks(masks, boxes, torch.zeros_like(image), image, 14) + 1,
    )


def inputs(dtype=torch.float32):
    maps, boxes, image, levels, *_ = calls()["roi_align"]
    return on_gpu(
        (
            [m.to(dtype) for m in maps],
            boxes,
            image,
            levels,
            torch.rand(30),
            calls()["crop_masks"][0],
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_compile_sees_through(dtype):
    arguments = inputs(dtype)
    for got, want in zip(
        torch.compile(everything, fullgraph=True)(*arguments), everything(*arguments)
    ):
        assert got.dtype == want.dtype
        assert torch.equal(got, want) or torch.allclose(got, want, atol=1e-5)


def test_cuda_graphs():
    """Captured once, and replayed on other numbers in the same places."""
    maps, *rest = inputs()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        everything(maps, *rest)  # loads the kernels
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(maps, *rest)
    for m in maps:
        m.copy_(torch.randn_like(m))
    rest[0].add_(3)
    graph.replay()
    for got, want in zip(captured, everything(maps, *rest)):
        assert torch.equal(got, want)


def test_other_streams():
    """The kernels run on the stream that is current."""
    arguments = inputs()
    want, stream = everything(*arguments), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = [[m * 2 for m in arguments[0]], *arguments[1:]]
        got = everything(*late)
    stream.synchronize()
    assert torch.equal(got[0], want[0] * 2)
    assert torch.equal(got[1], want[1])


def test_a_model_on_the_cpu_waits_for_images_of_a_gpu():
    """Read before they have arrived, they would be anything."""
    model, (images, _) = small_model().eval(), small_data()
    with torch.no_grad():
        want = model(images)
        late = on_gpu(images)
        torch.cuda._sleep(200_000_000)
        got = model([image * 1 for image in late])
    assert all(torch.equal(mine["boxes"], theirs["boxes"]) for mine, theirs in zip(got, want))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    maps, boxes, image, levels, scores, masks = inputs(dtype)
    arguments = [m.requires_grad_() for m in maps], boxes, image, levels, scores, masks
    want = everything(*arguments)
    with torch.autocast(GPU, dtype):
        got = everything(*arguments)
        direct = torch.ops.maskrcnn.nms(boxes.to(dtype), scores.to(dtype), 0.5, None, None)
    assert got[0].dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(got, want))
    assert torch.equal(direct, ops.nms(boxes.to(dtype).float(), scores.to(dtype).float(), 0.5))
    got[0].float().sum().backward()
    assert all(m.grad.dtype == dtype and m.grad.isfinite().all() for m in maps)


def gradients(model, images, targets):
    torch.manual_seed(1)
    losses = model.train()(images, targets)
    model.zero_grad()
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [
        p.grad.clone().cpu() for p in model.parameters()
    ]


@pytest.mark.parametrize("version", ["compiled", "reference"])
@pytest.mark.parametrize("counts", [(2, 1), (0, 2), (0, 0)], ids=str)
def test_losses_and_gradients_are_those_of_the_cpu(counts, version, exact, monkeypatch):
    model = small_model(changes={"backbone": {"norm": "group"}})
    images, targets = small_data(counts)
    want, want_gradients = gradients(model, images, targets)
    if version == "reference":
        monkeypatch.setattr(ops, "_compiled", lambda device, dtype: False)
    got, got_gradients = gradients(model.to(GPU), on_gpu(images), on_gpu(targets))
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for a, b in zip(got_gradients, want_gradients):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-3 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("version", ["compiled", "reference"])
def test_detections_are_those_of_the_cpu(version, exact, monkeypatch):
    model = small_model().eval()
    images, _ = small_data()
    with torch.no_grad():
        want = model(images)
        if version == "reference":
            monkeypatch.setattr(ops, "_compiled", lambda device, dtype: False)
        got = model.to(GPU)(images)  # images of the CPU are moved along
    for mine, theirs in zip(got, want):
        assert len(mine["boxes"]) == len(theirs["boxes"]) > 0
        assert torch.allclose(mine["scores"].cpu(), theirs["scores"], atol=1e-4)
        # Scores of equal rank may trade places.
        near = (mine["boxes"].cpu()[:, None] - theirs["boxes"]).abs().amax(dim=2) < 0.05
        assert near.any(dim=1).float().mean() > 0.95
        assert mine["masks"].shape == theirs["masks"].shape


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_training(precision, tmp_path):
    data = cst.generate(tmp_path / "data", {"train": 6, "val": 3, "test": 4})
    metrics = train(
        {
            **SMALL,
            "data": {"root": str(data)},
            "evaluate": {"batch_size": 2},
            "train": {
                "epochs": 2,
                "batch_size": 2,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "device": GPU,
                "precision": precision,
                "output": str(tmp_path / "run"),
            },
        }
    )
    assert math.isfinite(metrics["test/loss"])
    assert metrics["train/memory_MB"] > 0
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").open()] == [1, 2]
