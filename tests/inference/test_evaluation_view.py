"""Several threads share one model: predictions, and a training step, do not see each other."""

import copy
import functools
import importlib.util
import threading
import weakref

import pytest
import torch
from helpers.small import small_data, small_model
from torch import nn

from maskrcnn.inference.evaluation_view import evaluation_view


def snapshot(model):
    """Modes, parameters and buffers, each of them by itself and by its content."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        [module.training for module in model.modules()],
        {name: (id(value), value.detach().clone()) for name, value in tensors.items()},
    )


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, (place, value) in before[1].items():
        assert after[1][name][0] == place, name
        assert torch.equal(after[1][name][1], value), name


def assert_equal_detections(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want):
        assert all(torch.equal(one[key], other[key]) for key in other)


def at_once(*tasks):
    """What tasks return that begin together, each in a thread of its own."""
    results, barrier = [None] * len(tasks), threading.Barrier(len(tasks))

    def work(k):
        barrier.wait()
        results[k] = tasks[k]()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_predict_what_one_does_and_change_nothing():
    model = small_model(changes={"transform": {"min_size": [48, 56, 64]}}).train()
    model.backbone.trunk.layer1.eval()
    images = [
        small_data((2, 1), sizes)[0] for sizes in (((70, 90), (64, 50)), ((40, 90), (90, 60)))
    ]
    want = [model.predict(some) for some in images]
    before, random = snapshot(model), torch.get_rng_state()
    found = at_once(
        *(
            functools.partial(lambda some: [model.predict(some) for _ in range(6)], images[k % 2])
            for k in range(4)
        )
    )
    for k, several in enumerate(found):
        for one in several:
            assert_equal_detections(one, want[k % 2])
    assert_same(before, snapshot(model))
    assert torch.equal(random, torch.get_rng_state())


def test_predictions_equal_those_of_a_model_in_evaluation_mode():
    model = small_model(changes={"backbone": {"drop_path": 0.5}}).train()
    images, targets = small_data()
    model(images, targets)  # gives the batch norms statistics
    got = model.predict(images)
    with torch.no_grad():
        assert_equal_detections(got, copy.deepcopy(model).eval()(images))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_in_another_thread_is_undisturbed(checkpointing):
    changes = {
        "backbone": {"checkpointing": checkpointing, "drop_path": 0.3},
        "transform": {"min_size": [48, 64]},
    }
    images, targets = small_data()

    def steps(model):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        losses = []
        for _ in range(6):
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    alone, disturbed = small_model(changes=changes).train(), small_model(changes=changes).train()
    want = steps(alone)
    done = threading.Event()

    def predict():
        count = 0
        while not done.is_set() or not count:
            disturbed.predict(images)
            count += 1

    def train():
        try:
            return steps(disturbed)
        finally:
            done.set()

    got, *_ = at_once(train, predict, predict)
    assert got == want
    for (name, one), other in zip(disturbed.state_dict().items(), alone.state_dict().values()):
        assert torch.equal(one, other), name


class Odd(nn.Module):
    """A backbone whose modules know each other by all kinds of ways."""

    channels, strides = (8,), (8,)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, 8)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(8))
        self.drop = nn.Dropout(0.5)
        norms = list(self.norms)
        self.by_list = [norms[0]]
        self.by_dict = {"norm": {"in": norms[1]}}
        self.by_method = norms[2].forward
        self.by_partial = functools.partial(_apply, norms[3])
        self.by_reference = weakref.ref(norms[4])
        closed_over = norms[5]
        self.by_function = lambda x: closed_over(x)
        self.by_object = Helper(norms[6])
        original = norms[7].forward
        norms[7].forward = lambda x: original(x) + 1
        self.itself = (self,)
        self.steps = 0

    def forward(self, images):
        self.steps += 1
        x = self.conv(images)
        x = (
            self.by_list[0](x)
            + self.by_dict["norm"]["in"](x)
            + self.by_method(x)
            + self.by_partial(x)
        )
        x = (
            x
            + self.by_reference()(x)
            + self.by_function(x)
            + self.by_object(x)
            + self.itself[0].norms[7](x)
        )
        return [self.drop(x)]


class Helper:
    def __init__(self, norm):
        self.norm = norm

    def __call__(self, x):
        return self.norm(x)


def _apply(norm, x):
    return norm(x)


def test_modules_that_are_known_by_other_ways_than_as_children():
    model = small_model(backbone=Odd()).train()
    images = small_data()[0]
    calls = []
    model.backbone.drop.register_forward_hook(lambda module, *_: calls.append(module.training))
    model.backbone.norms[0].running_mean += 0.5
    before = snapshot(model)
    found = model.predict(images)
    assert calls == [False]
    assert model.backbone.steps == 0
    assert_same(before, snapshot(model))
    with torch.no_grad():
        assert_equal_detections(found, model.eval()(images))


def test_a_view_shares_weights_and_follows_them():
    model = small_model().train()
    view = evaluation_view(model)
    assert all(one is other for one, other in zip(view.parameters(), model.parameters()))
    assert all(one is other for one, other in zip(view.buffers(), model.buffers()))
    assert [name for name, _ in view.named_modules()] == [name for name, _ in model.named_modules()]
    assert not any(module.training for module in view.modules())
    assert not {id(module) for module in view.modules()} & {
        id(module) for module in model.modules()
    }
    assert view.backbone.trunk is view.get_submodule("backbone.trunk")


def test_a_module_in_two_places_stays_one():
    shared = nn.Dropout()
    view = evaluation_view(nn.Sequential(shared, nn.Linear(2, 2), shared))
    assert view[0] is view[2]
    assert view[0] is not shared


def test_hooks_and_the_casts_of_mixed_precision_reach_the_view():
    model = small_model().train()
    inner = model.forward
    # as accelerate wraps it
    model.forward = functools.wraps(inner)(lambda *arguments: inner(*arguments))
    images = small_data()[0]
    before = snapshot(model)
    found = model.predict(images)
    assert_same(before, snapshot(model))
    del model.forward
    with torch.no_grad():
        assert_equal_detections(found, model.eval()(images))


def test_scripted_and_compiled_parts():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8)

        def forward(self, images):
            return [self.norm(self.conv(images))]

    class Outer(nn.Module):
        channels, strides = (8,), (8,)

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images)

    images = small_data()[0]
    for wrap in (torch.jit.script, functools.partial(torch.compile, backend="eager")):
        model = small_model(backbone=Outer(wrap(Tiny()))).train()
        before = snapshot(model)
        found = model.predict(images)
        assert_same(before, snapshot(model))
        with torch.no_grad():
            assert_equal_detections(found, model.eval()(images))


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_hooks_of_timm_do_not_mix_threads_up():
    from maskrcnn.backbones.timm import Timm

    torch.manual_seed(0)
    trunk = Timm("legacy_xception", norm="batch").eval()
    inputs = [torch.rand(1, 3, 64, 64) for _ in range(2)]
    with torch.no_grad():
        want = [trunk(x) for x in inputs]

    def run(k):
        with torch.no_grad():
            return [trunk(inputs[k]) for _ in range(3)]

    for k, several in enumerate(at_once(*(functools.partial(run, k) for k in range(2)))):
        for maps in several:
            assert all(torch.equal(one, other) for one, other in zip(maps, want[k]))
    assert not trunk.model.hooks._feature_outputs
