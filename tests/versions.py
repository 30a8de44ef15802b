"""Tests of operators run for the ones in pure PyTorch and for the compiled ones."""

import pytest
import torch

from maskrcnn.libs import ops


@pytest.fixture(autouse=True, params=["reference", "compiled"])
def each_version(request, monkeypatch):
    """A test file that imports this names its operators in VERSIONS: {name: (reference, compiled)}."""
    if request.param == "compiled" and not ops.compiled(torch.zeros(1)):
        pytest.skip("the operators are not compiled here: python libs/build_libs.py")
    for name, (plain, fast) in request.module.VERSIONS.items():
        monkeypatch.setattr(request.module, name, plain if request.param == "reference" else fast)
