"""The library is tested from the checkout as well as installed; by several processes
(pytest-xdist), which share the cores among themselves: more threads than cores make PyTorch several
times slower."""

import importlib.util
import os
import sys

import pytest
import torch
from helpers.paths import ROOT

if "PYTEST_XDIST_WORKER" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the processes that tests start

if importlib.util.find_spec("maskrcnn") is None:
    sys.path.append(str(ROOT))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Share the files out among processes where all of them are run and pytest-xdist is installed;
    -n 0 does not."""
    alone = (
        config.option.collectonly
        or config.option.usepdb
        or config.args_source != config.ArgsSource.TESTPATHS
    )
    if (
        not alone
        and config.pluginmanager.hasplugin("xdist")
        and config.option.numprocesses is None
        and "PYTEST_XDIST_WORKER" not in os.environ
    ):
        config.option.numprocesses, config.option.maxprocesses, config.option.dist = (
            "auto",
            4,
            "loadfile",
        )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(
                    pytest.mark.skip(reason="needs an NVIDIA GPU, and this machine has none")
                )
