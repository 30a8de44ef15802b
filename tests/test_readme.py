"""What the README shows works as it stands there."""

import re

import pytest
from helpers.paths import ROOT
from helpers.small import small_data

from maskrcnn import MaskRCNN

READMES = ["README.md", "README.zh.md"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", text(name), re.DOTALL)


@pytest.mark.parametrize("name", READMES)
def test_the_custom_backbone(name):
    block = next(block for block in blocks(name, "python") if "class Tiny" in block)
    space = {"MaskRCNN": MaskRCNN}
    exec(block, space)
    losses = space["model"].train()(*small_data())
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text(name)):
        assert (ROOT / link).exists(), link


def test_both_languages_have_the_same_commands_and_figures():
    english, chinese = (text(name) for name in READMES)
    assert blocks("README.md", "bash") == blocks("README.zh.md", "bash")

    def code(name):
        return [re.sub(r"\s*#.*", "", block) for block in blocks(name, "python")]

    assert code("README.md") == code("README.zh.md")
    assert len(re.findall(r"^## ", english, re.M)) == len(re.findall(r"^## ", chinese, re.M))
    figures = [re.findall(r"\d+\.\d+", section) for section in (english, chinese)]
    assert sorted(figures[0]) == sorted(figures[1])


def test_ci_runs_the_test_command_of_the_readme():
    command = next(block for block in blocks("README.md", "bash") if "pytest" in block).strip()
    assert command in (ROOT / ".ci" / "run").read_text()
