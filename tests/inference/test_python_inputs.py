"""Whatever a model is given in Python: the right result, or a ValueError that says what is
wrong."""

import random
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small import small_data, small_model
from PIL import Image

NAN, INF = float("nan"), float("inf")
LINES, CHARACTERS = 20, 1000  # of a message


class Subclass(torch.Tensor):
    pass


class Named:
    def __repr__(self):
        return "named\n" * 10**5


def image(*shape):
    return torch.rand(shape or (3, 40, 50))


# What can stand for an image or a batch of them, and for the content of targets.
IMAGES = [
    image,
    lambda: (image() * 255).byte(),
    lambda: image().half(),
    lambda: image().bfloat16(),
    lambda: image().double(),
    lambda: (image() * 255).long(),
    lambda: image() > 0.5,
    lambda: image().to(torch.complex64),
    lambda: image(3, 0, 5),
    lambda: image(3, 1, 1),
    lambda: image(3, 1, 3000),
    lambda: image(1, 40, 50),
    lambda: image(40, 50),
    lambda: image(1, 3, 40, 50),
    lambda: torch.full((3, 20, 20), NAN),
    lambda: torch.full((3, 20, 20), -INF),
    lambda: image() * 255,
    lambda: image() - 0.5,
    lambda: image().requires_grad_(),
    lambda: image().mT,
    lambda: image(40, 50, 3).permute(2, 0, 1),
    lambda: image(1, 1, 1).expand(3, 40, 50),
    lambda: image()[:, ::2, ::3],
    lambda: image().to_sparse(),
    lambda: image().to("meta"),
    lambda: torch.nn.Parameter(image()),
    lambda: image().as_subclass(Subclass),
    lambda: torch.quantize_per_tensor(image(), 0.1, 0, torch.quint8),
    lambda: torch.nested.nested_tensor([image()]),
    lambda: torch.zeros(3, 8, 8, dtype=torch.uint16),
    lambda: torch.zeros(3, 8, 8).to(torch.float8_e4m3fn),
    lambda: np.zeros((40, 50, 3), np.uint8),
    lambda: np.zeros((40, 50, 3), np.uint8)[::-1, ::-1],
    lambda: np.zeros((3, 40, 50)),
    lambda: np.array(["a"]),
    lambda: np.zeros((0, 5, 3), np.uint8),
    lambda: np.zeros((4, 4, 3), object),
    lambda: np.zeros((4, 4, 3), ">u2"),
    lambda: np.zeros((4, 4, 3), bool),
    lambda: np.zeros((4, 4), [("a", "u1")]),
    lambda: [[[0.5] * 5] * 5] * 3,
    lambda: Image.new("RGB", (30, 20)),
    lambda: Image.new("1", (30, 20)),
    lambda: Image.new("F", (3, 2)),
    lambda: Image.new("RGB", (0, 0)),
    lambda: Path("nowhere"),
    lambda: "",
    lambda: "\0",
    lambda: "a" * 300,
    Named,
    lambda: b"abc",
    lambda: memoryview(b"abc"),
    dict,
    set,
    list,
    tuple,
    lambda: None,
    lambda: 5,
    lambda: deque([image()]),
]
VALUES = [
    lambda: None,
    lambda: 5,
    lambda: -1,
    lambda: 2**70,
    lambda: True,
    lambda: 1.5,
    lambda: NAN,
    lambda: "a",
    Named,
    list,
    dict,
    lambda: [[1, 2, 3, 4]],
    lambda: [1],
    lambda: np.array([1]),
    lambda: np.zeros((1, 4)),
    lambda: torch.tensor(1),
    lambda: torch.tensor([1]),
    lambda: torch.tensor([1.0]),
    lambda: torch.tensor([True]),
    lambda: torch.tensor([1j]),
    lambda: torch.tensor([-1]),
    lambda: torch.tensor([2**62]),
    lambda: torch.tensor([1, 1]),
    lambda: torch.zeros(0),
    lambda: torch.zeros(0, 4),
    lambda: torch.zeros(1, 4),
    lambda: torch.tensor([[0, 0, 5, 5]]),
    lambda: torch.tensor([[5.0, 5, 1, 1]]),
    lambda: torch.ones(1).to_sparse(),
    lambda: torch.tensor([[0, 0, 5.0, 5]]).half(),
    lambda: torch.tensor([[0, 0, 5.0, 5]]).requires_grad_(),
    lambda: torch.tensor([[NAN] * 4]),
    lambda: torch.tensor([[0, 0, 1e38, 1e38]]),
    lambda: torch.full((1, 4), 1e300, dtype=torch.float64),
    lambda: torch.tensor([[0, 0, 5.0, 5]]).as_subclass(Subclass),
    lambda: torch.ones(1, dtype=torch.uint8),
    lambda: torch.ones(1, dtype=torch.int16),
    lambda: torch.ones(1, dtype=torch.uint16),
    lambda: torch.ones(1, dtype=torch.uint64),
    lambda: torch.ones(1, 40, 50),
    lambda: torch.ones(1, 40, 50).bool(),
    lambda: torch.ones(1, 40, 50).byte() * 255,
    lambda: torch.ones(40, 50).bool(),
    lambda: torch.zeros(1, 0, 0).bool(),
    lambda: torch.zeros(1, 1, 1).bool().expand(1, 40, 50),
    lambda: torch.ones(1, 50, 40).bool().mT,
    lambda: torch.zeros(1, 40, 50).bool().to_sparse(),
    lambda: torch.zeros(1, 4, device="meta"),
    lambda: torch.zeros(1, 40, 50, device="meta").bool(),
    lambda: torch.nested.nested_tensor([torch.zeros(1, 4)]),
    lambda: torch.zeros(1, 4).to_sparse(),
    lambda: torch.zeros(1, 4).to(torch.float8_e4m3fn),
]


def refused(call):
    """Whether a call raises ValueError, with a message that can be read."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message
        assert message.count("\n") < LINES
        assert len(message) <= CHARACTERS
        return True
    return False


def attempt(model, rng):
    """One call with odd input."""
    images, targets = small_data([rng.choice([0, 1, 2]) for _ in range(2)], ((40, 50),) * 2)
    for _ in range(rng.choice([1, 1, 2, 3])):
        k, kind = rng.choice((0, 1)), rng.random()
        if kind < 0.3:
            images[k] = rng.choice(IMAGES)()
        elif kind < 0.9 and isinstance(targets[k], dict):
            targets[k][rng.choice(["boxes", "labels", "masks", "iscrowd", "seed"])] = rng.choice(
                VALUES
            )()
            if rng.random() < 0.1:
                targets[k].pop(rng.choice(list(targets[k])))
        else:
            targets[k] = rng.choice(VALUES)()
    what = rng.random()
    if what < 0.1:
        images = rng.choice(IMAGES)()
    elif what < 0.2:
        targets = rng.choice(VALUES)()
    model.train(rng.random() < 0.6)
    if rng.random() < 0.2:
        return refused(lambda: model.predict(images, rng.choice([1, 2, 4, 0, None, "2", 2.0])))
    return refused(lambda: model(images, targets))


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_odd_inputs_of_all_kinds(count):
    model, rng = small_model(), random.Random(count)
    torch.manual_seed(count)
    outcomes = [attempt(model, rng) for _ in range(count)]
    assert 0.5 * count < sum(outcomes) < 0.98 * count
    model.train()
    images, targets = small_data()
    assert sum(model(images, targets).values()).isfinite()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        lambda x: torch.nn.Parameter(x),
        lambda x: x.clone().requires_grad_(),
        lambda x: x.flip(2).flip(2),
        lambda x: x.as_subclass(Subclass),
    ],
)
def test_unusual_tensors_of_the_same_values_give_the_same(change):
    model = small_model().eval()
    images, targets = small_data()
    with torch.no_grad():
        want, want_losses = model(images, [target | {"seed": 3} for target in targets])
        changed = [
            {
                "boxes": change(target["boxes"][None])[0],
                "labels": target["labels"].to(torch.int32),
                "masks": target["masks"].mT.contiguous().mT.byte(),
                "seed": 3,
            }
            for target in targets
        ]
        found, losses = model([change(one) for one in images], changed)
    for one, other in zip(found, want):
        assert all(torch.allclose(one[key].float(), other[key].float(), atol=1e-4) for key in other)
    for name in want_losses:
        torch.testing.assert_close(losses[name].as_subclass(torch.Tensor), want_losses[name])


def test_sequences_of_all_kinds():
    model, images = small_model().eval(), small_data()[0]
    want = model.predict(images)
    for given in (tuple(images), deque(images)):
        assert all(
            torch.equal(one["boxes"], other["boxes"])
            for one, other in zip(model.predict(given), want)
        )
    assert model.predict([]) == model.predict(()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: image().to_sparse(), r"images\[0\] is a tensor of layout torch.sparse_coo"),
        (lambda: image().to("meta"), r"images\[0\] is a tensor on the meta device"),
        (lambda: torch.nested.nested_tensor([image()]), r"images\[0\] is a tensor nested"),
        (
            lambda: (image() * 255).long(),
            r"images\[0\] is torch.int64; expected float in 0..1 or uint8",
        ),
        (lambda: image() > 0.5, r"images\[0\] is torch.bool"),
        (lambda: image().to(torch.float8_e4m3fn), r"images\[0\] is torch.float8"),
    ],
)
def test_tensors_that_no_model_computes_with(given, message):
    for call in (small_model().eval(), small_model().predict):
        with pytest.raises(ValueError, match=message):
            call([given()])


def test_another_default_device_changes_nothing():
    """What goes to compiled operators by its address has to lie where they look."""
    images, targets = small_data()
    targets = [target | {"seed": 3} for target in targets]
    model = small_model().train()
    want = model.predict(images)
    with torch.device("meta"):
        found = model.predict(images)
        losses = model(images, targets)
        sum(losses.values()).backward()
    for one, other in zip(found, want):
        assert all(torch.equal(one[key], other[key]) for key in other)
    want_losses = small_model().train()(images, targets)
    assert all(torch.equal(losses[name], want_losses[name]) for name in want_losses)
