"""The CUDA operators for tests: on a GPU where there is one, and on every CPU, where
emulator/driver.cpp stands in for CUDA's driver."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from cffi import FFI
from helpers.paths import ROOT

from maskrcnn.libs import ops
from maskrcnn.libs import torch_library as operators
from maskrcnn.libs.native import compile_c, cuda_ops

FLAGS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-shared",
    "-fPIC",
    "-mf16c",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
)


@functools.cache
def stand_in() -> tuple:
    """The launcher, opened on the stand-in, and the stand-in itself; skips where they cannot be
    compiled."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler for the stand-in of CUDA's driver")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    flags = [
        *FLAGS,
        *os.environ.get("CXXFLAGS", "").split(),
        f"-I{ROOT / 'libs' / 'native'}",
        "-o",
        str(folder / "driver.so"),
    ]
    built = subprocess.run(
        ["g++", *flags, str(ROOT / "tests" / "helpers" / "emulator" / "driver.cpp")],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    compile_c.build("cuda", folder)  # a copy of its own: a process opens one driver
    launcher = compile_c.load("cuda", folder)
    assert launcher.lib.open_driver(str(folder / "driver.so").encode()) == 0
    ffi = FFI()
    ffi.cdef("extern int reversed;")
    return launcher, ffi.dlopen(str(folder / "driver.so"))


@pytest.fixture
def emulation(monkeypatch):
    """torch.ops.maskrcnn.* run the CUDA kernels on tensors of the CPU, emulated."""
    launcher, _ = stand_in()
    handle = launcher.ffi.new("struct kernels **")
    assert launcher.lib.load_kernels(0, b"\x7fELF", handle) == 0
    monkeypatch.setattr(cuda_ops, "launcher", lambda: launcher)
    monkeypatch.setattr(cuda_ops, "kernels", lambda device: handle[0])
    monkeypatch.setattr(cuda_ops, "_stream", lambda device: launcher.ffi.NULL)
    monkeypatch.setitem(operators.BACKENDS, "cpu", cuda_ops)
    monkeypatch.setattr(ops, "_compiled", lambda device, dtype: dtype in cuda_ops.TYPES)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """The device on which torch.ops.maskrcnn.* run the CUDA kernels: the CPU, emulated, or a
    GPU."""
    if request.param == "cuda":
        return torch.device("cuda", 0)
    request.getfixturevalue("emulation")
    return torch.device("cpu")
