"""The library is tested from the checkout as well as installed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("maskrcnn") is None:
    sys.path.append(str(ROOT))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and this machine has none"))
