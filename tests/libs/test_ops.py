"""The compiled operators: what PyTorch must know of them, how they are built, and which version
runs when."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.operators import calls, pyramid, random_boxes
from helpers.paths import ROOT
from torch._dynamo.testing import CompileCounterWithBackend

from maskrcnn.libs import ops, reference, reference_masks

DOUBLE = torch.float64
needs_build = pytest.mark.skipif(
    not ops.compiled(torch.zeros(1)),
    reason="the operators are not compiled here: python libs/build_libs.py",
)


@needs_build
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", calls())
def test_what_pytorch_checks(name, dtype):
    torch.library.opcheck(
        getattr(torch.ops.maskrcnn, name).default, calls(dtype, gradient=True)[name]
    )


@needs_build
def test_gradients_are_those_of_finite_differences():
    maps = [m.detach()[:, :2, :6, :7].clone().requires_grad_() for m in pyramid(DOUBLE)]
    boxes, image = random_boxes(6, 40.0, DOUBLE), torch.randint(0, 2, (6,))
    levels = torch.tensor([0, 1, 2, 0, 1, 2])

    def pool(*features):
        return ops.roi_align(list(features), boxes, image, 3, [0.2, 0.1, 0.05], levels, 2)

    assert torch.autograd.gradcheck(pool, maps)


@needs_build
def test_gradients_of_gradients():
    maps = [m.detach()[:, :2, :6, :7].clone().requires_grad_() for m in pyramid(DOUBLE)]
    boxes, image = random_boxes(6, 40.0, DOUBLE), torch.randint(0, 2, (6,))

    def pool(*features):
        return ops.roi_align(
            list(features), boxes, image, 3, [0.2, 0.1, 0.05], torch.tensor([0, 1, 2, 0, 1, 2]), 2
        )

    assert torch.autograd.gradgradcheck(lambda *features: pool(*features) ** 2, maps)
    first, *_ = torch.autograd.grad((pool(*maps) ** 2).sum(), maps, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), maps[0])  # of one map alone
    assert second.abs().sum() > 0


@needs_build
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients_do_not_depend_on_the_number_of_threads(sampling_ratio):
    boxes, image, levels = (
        random_boxes(200),
        torch.randint(0, 2, (200,)),
        torch.randint(0, 3, (200,)),
    )
    gradient = torch.randn(200, 70, 7, 7)
    results = []
    before = torch.get_num_threads()
    features = pyramid(channels=70)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        maps = [m.clone().requires_grad_() for m in features]
        ops.roi_align(
            maps, boxes, image, 7, [0.25, 0.125, 0.0625], levels, sampling_ratio
        ).backward(gradient)
        results.append([m.grad for m in maps])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    maps = [m.clone().requires_grad_() for m in features]
    reference.roi_align(
        maps, boxes, image, 7, [0.25, 0.125, 0.0625], levels, sampling_ratio
    ).backward(gradient)
    assert all(torch.allclose(a, m.grad, atol=1e-4) for a, m in zip(results[0], maps))


@needs_build
@pytest.mark.slow
def test_torch_compile_sees_through():
    """Without a break of the graph; slow, as the compiler itself takes its time."""

    def run(maps, boxes, image, levels, scores, masks):
        pooled = ops.roi_align(maps, boxes, image, 7, [0.25, 0.125, 0.0625], levels, 2)
        keep = ops.nms(boxes, scores, 0.5)
        pasted = ops.paste_masks(pooled[:, 0].sigmoid(), boxes, 50, 60)
        targets = ops.crop_masks(masks, boxes, torch.zeros_like(image), image, 14)
        return pooled * 2, keep, pasted, targets + 1

    maps, boxes, image, levels, *_ = calls()["roi_align"]
    arguments = (maps, boxes, image, levels, torch.rand(30), calls()["crop_masks"][0])
    for got, want in zip(torch.compile(run, fullgraph=True)(*arguments), run(*arguments)):
        assert torch.equal(got, want) or torch.allclose(got, want, atol=1e-5)


@needs_build
@pytest.mark.slow
def test_torch_compile_of_changing_sizes():
    """One compilation for all of them, forward and backward."""
    counter = CompileCounterWithBackend("aot_eager")
    boxes, image = random_boxes(5), torch.zeros(5, dtype=torch.int64)

    @torch.compile(dynamic=True, fullgraph=True, backend=counter)
    def run(maps):
        return ops.roi_align(maps, boxes, image, 3, [0.25, 0.125], [400.0], 2).square().sum()

    for side in (16, 24, 40, 52):
        maps = [torch.randn(1, 3, side // s, side // s + 3, requires_grad=True) for s in (1, 2)]
        run(maps).backward()
    assert counter.frame_count <= 2


@pytest.mark.parametrize("shape", [(1, 0, 8), (1, 5, 0), (1, 0, 0)])
def test_masks_of_no_pixels(shape):
    zero = torch.zeros(2, dtype=torch.int64)
    for crop in (ops.crop_masks, reference_masks.crop_masks):
        assert not crop(
            [torch.zeros(shape, dtype=torch.bool)], random_boxes(2), zero, zero, 4
        ).any()


@needs_build
@pytest.mark.slow
def test_torch_compile_of_changing_thresholds():
    boxes, scores = random_boxes(20), torch.rand(20)
    nms = torch.compile(lambda threshold: ops.nms(boxes, scores, threshold), fullgraph=True)
    for threshold in (0.5, 0.6, 0.7):
        assert torch.equal(nms(threshold), ops.nms(boxes, scores, threshold))


@needs_build
def test_what_needs_a_gradient_elsewhere_is_taken():
    boxes, masks = random_boxes(3).requires_grad_(), [torch.ones(1, 60, 60, dtype=torch.bool)]
    zero = torch.zeros(3, dtype=torch.int64)
    assert not ops.crop_masks(masks, boxes, zero, zero, 7).requires_grad
    assert not ops.nms(boxes, torch.rand(3, requires_grad=True), 0.5).requires_grad
    assert not ops.paste_masks(torch.rand(3, 7, 7, requires_grad=True), boxes, 9, 9).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    maps, boxes, image, levels, *_ = calls()["roi_align"]
    halves = [m.to(dtype) for m in maps]
    got = ops.roi_align(halves, boxes, image, 7, [0.25, 0.125, 0.0625], levels, 2)
    want = reference.roi_align(
        [m.float() for m in halves], boxes, image, 7, [0.25, 0.125, 0.0625], levels, 2
    )
    assert got.dtype == dtype
    assert torch.allclose(got.float(), want, rtol=2e-2, atol=2e-2)
    assert ops.paste_masks(torch.rand(3, 7, 7, dtype=dtype), random_boxes(3), 20, 20).shape == (
        3,
        20,
        20,
    )


@needs_build
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    """Coordinates stay as precise as they are, and features are pooled in float32 and stay in their
    type."""
    maps, boxes, image, levels, *_ = calls()["roi_align"]
    scales = [0.25, 0.125, 0.0625]
    maps = [m.to(dtype).requires_grad_() for m in maps]
    probabilities, scores = torch.rand(30, 7, 7), torch.rand(30)
    crop = calls()["crop_masks"][0], boxes, torch.zeros_like(image), image, 14, True, 0
    with torch.autocast("cpu", torch.bfloat16):
        pooled = ops.roi_align(maps, boxes, image, 7, scales, levels, 2)
        direct = torch.ops.maskrcnn.roi_align(
            maps, boxes.bfloat16(), image, levels, 7, scales, None, 2, True
        )
        keep = torch.ops.maskrcnn.nms(boxes.bfloat16(), scores.bfloat16(), 0.5, None, None)
        pasted = ops.paste_masks(probabilities, boxes, 50, 60)
        cropped = torch.ops.maskrcnn.crop_masks(*crop)
    want = reference.roi_align([m.float() for m in maps], boxes, image, 7, scales, levels, 2)
    assert pooled.dtype == direct.dtype == dtype
    assert torch.allclose(
        pooled.float(), want, rtol=1e-2, atol=1e-2 if dtype == torch.bfloat16 else 1e-5
    )
    coarse = boxes.bfloat16().float()
    want = reference.roi_align([m.float() for m in maps], coarse, image, 7, scales, levels, 2)
    assert torch.allclose(
        direct.float(), want, rtol=1e-2, atol=1e-2 if dtype == torch.bfloat16 else 1e-5
    )
    assert torch.equal(keep, reference.nms(coarse, scores.bfloat16().float(), 0.5))
    assert torch.equal(pasted, ops.paste_masks(probabilities, boxes, 50, 60))
    assert torch.equal(cropped, torch.ops.maskrcnn.crop_masks(*crop))
    pooled.sum().backward()
    assert all(m.grad.dtype == dtype for m in maps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.nms(torch.zeros(3, 4), torch.zeros(2), 0.5),
            r"boxes \[3, 4\] and scores \[2\]",
        ),
        (
            lambda: ops.nms(torch.zeros(3, 4), torch.zeros(3), float("nan")),
            r"iou_threshold in 0\.\.1",
        ),
        (
            lambda: ops.roi_align(
                torch.zeros(1, 2, 8, 8), torch.zeros(1, 5), torch.zeros(1).long(), 7
            ),
            r"\[1, 5\]",
        ),
        (
            lambda: ops.roi_align(
                torch.zeros(1, 2, 8, 8), torch.zeros(1, 4), torch.ones(1).long(), 7
            ),
            r"1\.\.1, expected 0",
        ),
        (
            lambda: ops.roi_align(
                [torch.zeros(1, 2, 8, 8)] * 2,
                torch.zeros(1, 4),
                torch.zeros(1).long(),
                7,
                [1.0, 0.5],
            ),
            r"either levels \[R\] or level_areas, got neither",
        ),
        (
            lambda: ops.roi_align(
                [torch.zeros(1, 2, 8, 8)] * 3,
                torch.zeros(1, 4),
                torch.zeros(1).long(),
                7,
                [1.0] * 3,
                levels=[9.0, 4.0],
            ),
            r"2 rising level_areas, got \[9.0, 4.0\]",
        ),
        (
            lambda: ops.crop_masks(
                [torch.zeros(2, 8, 8).bool()],
                torch.zeros(1, 4),
                torch.tensor([2]),
                torch.zeros(1).long(),
                7,
            ),
            r"index \[2\] reaches outside",
        ),
        (
            lambda: ops.crop_masks(
                [torch.zeros(2, 8, 8)],
                torch.zeros(1, 4),
                torch.zeros(1).long(),
                torch.zeros(1).long(),
                7,
            ),
            "bool or uint8",
        ),
        (
            lambda: ops.nms(torch.zeros(3, 4), torch.zeros(3).int(), 0.5),
            "floating-point boxes and scores",
        ),
        (
            lambda: ops.nms(torch.zeros(3, 4), torch.zeros(3), 0.5, torch.zeros(3)),
            "groups of integers, got torch.float32",
        ),
        (
            lambda: ops.nms(torch.zeros(3, 4), torch.zeros(3), 0.5, None, torch.ones(3)),
            "valid as bool",
        ),
        (
            lambda: ops.roi_align(torch.zeros(1, 2, 8, 8), torch.zeros(1, 4), torch.zeros(1), 7),
            "image_index of integers",
        ),
        (
            lambda: ops.roi_align(
                torch.zeros(1, 2, 8, 8).int(), torch.zeros(1, 4), torch.zeros(1).long(), 7
            ),
            "torch.int32",
        ),
        (
            lambda: ops.roi_align(
                torch.zeros(1, 2, 8, 8), torch.zeros(1, 4), torch.zeros(1).long(), 1.5
            ),
            r"output_size as an integer in 1\.\.1024, got 1\.5",
        ),
        (
            lambda: ops.roi_align(
                torch.zeros(1, 2, 8, 8),
                torch.zeros(1, 4),
                torch.zeros(1).long(),
                7,
                1.0,
                None,
                2**30,
            ),
            r"sampling_ratio as an integer in 0\.\.1024",
        ),
        (
            lambda: ops.paste_masks(torch.zeros(1, 7, 6), torch.zeros(1, 4), 8, 8),
            r"probabilities \[1, 7, 6\]",
        ),
        (
            lambda: ops.paste_masks(torch.zeros(1, 7, 7), torch.zeros(1, 4), 0, 8),
            "at least one pixel",
        ),
        (lambda: ops.nms(torch.zeros(3, 4, device="meta"), torch.zeros(3), 0.5), "one device"),
        (
            lambda: ops.crop_masks(
                [torch.zeros(1, 8, 8, dtype=torch.uint8, device="meta")],
                torch.zeros(1, 4),
                torch.zeros(1).long(),
                torch.zeros(1).long(),
                7,
            ),
            "one device",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("threshold", [-1.0, -1e-9, 1 + 1e-9, 50, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "nms", [ops.nms, reference.nms, pytest.param(torch.ops.maskrcnn.nms, marks=needs_build)]
)
def test_thresholds_out_of_range(nms, threshold):
    """A negative one would suppress boxes that do not overlap, and the versions would not agree on
    those of no area."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 20, 20], [30, 30, 39, 39]])
    scores = torch.tensor([0.3, 0.2, 0.1])
    with pytest.raises(ValueError, match=r"nms needs an iou_threshold in 0\.\.1, got"):
        nms(boxes, scores, threshold, None, None)
    assert all(nms(boxes, scores, within, None, None).all() for within in (0.0, 0, 0.5, 1, 1.0))


@pytest.mark.parametrize("sides", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("rois", [0, 2])
def test_maps_without_cells(sides, rois):
    features, boxes, image = (
        torch.zeros(1, 2, *sides),
        torch.zeros(rois, 4),
        torch.zeros(rois).long(),
    )
    whole = torch.zeros(1, 2, 4, 4)
    for pool in (ops.roi_align, reference.roi_align):
        for maps, options in (
            (features, {}),
            ([whole, features], {"scales": [1.0, 0.5], "levels": [9.0]}),
        ):
            with pytest.raises(
                ValueError, match=r"roi_align needs maps of at least one cell, got \["
            ):
                pool(maps, boxes, image, 3, **options)
    assert ops.roi_align(torch.zeros(1, 2, 1, 1), boxes, image, 3).shape == (rois, 2, 3, 3)


def run(code, **environment):
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )


SAY = (
    "import logging; logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
    "import torch\nfrom maskrcnn.libs import ops\nprint(ops.compiled(torch.zeros(1)))"
)


def test_the_references_can_be_forced():
    done = run(SAY, MASKRCNN_OPS="reference")
    assert done.stdout.strip() == "False", done.stderr
    assert "pure PyTorch, as MASKRCNN_OPS=reference asks for" in done.stderr


@needs_build
def test_one_line_says_which_version_runs():
    done = run(SAY)
    assert done.stdout.strip() == "True"
    assert done.stderr.count("operators: compiled for the CPU") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc for its sanitizers")
@pytest.mark.parametrize(
    ("files", "version"),
    [
        (("test_reference.py", "test_reference_masks.py"), "compiled"),
        (("test_cuda.py",), "emulated"),
    ],
)
def test_memory_safety(tmp_path, files, version):
    """All operators under AddressSanitizer and UndefinedBehaviorSanitizer, on the cases of the
    other tests: those for the CPU, and the CUDA kernels and their launcher as emulated on it."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1"
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "_cpu.*", "data", "runs")
    )
    environment = {
        **os.environ,
        "CFLAGS": f"{flags} -DPLAIN",
        "CXXFLAGS": flags,
        "LDFLAGS": "-fsanitize=address,undefined",
    }
    built = subprocess.run(
        [sys.executable, str(checkout / "libs" / "build_libs.py"), "cpu"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-qs",
            "-p",
            "no:cacheprovider",
            "-k",
            version,
            *(f"tests/libs/{name}" for name in files),
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=1200,
        env={
            **environment,
            "PYTHONPATH": str(checkout),
            "LD_PRELOAD": ":".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",
        },
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    compiled = (checkout / "libs" / "native").glob("_cpu.*")
    assert any(b"__asan_report" in file.read_bytes() for file in compiled)


def test_probabilities_are_as_precise_as_they_come():
    """Boxes in half precision are widened, and do not make the probabilities coarse."""
    probabilities, boxes = torch.rand(40, 7, 7), random_boxes(40).bfloat16()
    got = ops.paste_masks(probabilities, boxes, 90, 80)
    assert torch.equal(got, ops.paste_masks(probabilities, boxes.float(), 90, 80))


def test_versions_agree_on_masks_in_one_batch():
    masks, boxes, index, image, *_ = calls()["crop_masks"]
    for sampling_ratio in (0, 1, 3):
        got = ops.crop_masks(masks, boxes, index, image, 14, True, sampling_ratio)
        want = reference_masks.crop_masks(masks, boxes, index, image, 14, True, sampling_ratio)
        assert torch.allclose(got, want, atol=1e-6)
