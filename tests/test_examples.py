"""Every piece of Python in examples/README.md runs, in order, and its models learn."""

import pickle
import re

import pytest
import torch
import torchvision
from helpers.detectron2 import their_state
from helpers.paths import ROOT
from helpers.small import small_data
from torchvision.models.detection import maskrcnn_resnet50_fpn

PAGE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    part.splitlines()[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder that the page is read in: the examples, and weights that stand in for those to be
    downloaded."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    arrays = {key: value.numpy() for key, value in their_state("r50-fpn").items()}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": arrays}))

    def fetch(url, *args, **kwargs):
        if "maskrcnn" not in url:
            return torchvision.models.resnet50(weights=None).state_dict()
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
        return {
            key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
        }

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "section",
    ["Swapping a backbone", "Writing a head", "Weights of other libraries", "Fine-tuning"],
)
def test_the_page(files, section):
    pytest.importorskip("timm")
    from maskrcnn import MaskRCNN

    assert SECTIONS[section]
    space = {"MaskRCNN": MaskRCNN}
    for block in SECTIONS[section]:
        exec(block, space)
    assert isinstance(space["model"], MaskRCNN)


@pytest.mark.parametrize(
    ("section", "marker", "most"),
    [("Swapping a backbone", "class Plain", 30), ("Writing a head", "class FineMaskHead", 60)],
)
def test_a_swap_is_short_and_learns(section, marker, most):
    """A new part touches no other file."""
    from maskrcnn import MaskRCNN

    block = next(block for block in SECTIONS[section] if marker in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= most
    space = {"MaskRCNN": MaskRCNN}
    exec(block, space)
    torch.manual_seed(0)
    model = space["model"].train()
    model.transform.resize.min_size = (256,)
    losses = model(*small_data())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    part = model.backbone.trunk if "backbone" in section else model.branches["mask"].head
    assert all(
        parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.dim() > 1
    )
    assert len(model.eval()(small_data()[0])) == 2
