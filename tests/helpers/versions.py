"""Tests of operators run for those in pure PyTorch, for the compiled ones and, where there is one,
on a GPU."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from maskrcnn.libs import ops


@pytest.fixture(
    autouse=True, params=["reference", "compiled", pytest.param("cuda", marks=pytest.mark.cuda)]
)
def each_version(request, monkeypatch):
    """A test file that imports this names its operators in VERSIONS: {name: (reference,
    compiled)}."""
    if request.param == "compiled" and not ops.compiled(torch.zeros(1)):
        pytest.skip("the operators are not compiled here: python libs/build_libs.py")
    for name, (plain, fast) in request.module.VERSIONS.items():
        version = {"reference": plain, "compiled": fast, "cuda": on_device(fast, "cuda")}[
            request.param
        ]
        monkeypatch.setattr(request.module, name, version)


def on_device(operator, device):
    """The operator run there, for tensors of the CPU."""

    def run(*arguments, **named):
        arguments, named = tree_map_only(torch.Tensor, lambda t: t.to(device), (arguments, named))
        return operator(*arguments, **named).cpu()

    return run
