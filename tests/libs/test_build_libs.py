"""Building the compiled operators: the CPU's from C, and cubins for CUDA with NVRTC, on machines
with and without."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.emulated import stand_in
from helpers.paths import ROOT

from maskrcnn.libs import build_libs
from maskrcnn.libs.native import compile_cuda, cuda_ops

COMPILERS = compile_cuda.find_compilers()
# an architecture that can be built for here
HERE = COMPILERS[0].architectures[-1] if COMPILERS else 0
needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
needs_nvrtc = pytest.mark.skipif(
    not COMPILERS, reason="no NVRTC on this machine: pip install nvidia-cuda-nvrtc"
)


@pytest.fixture
def sources(tmp_path):
    """The folder libs/ without anything compiled."""
    return shutil.copytree(
        ROOT / "libs", tmp_path / "libs", ignore=shutil.ignore_patterns("_c*.*", "__pycache__")
    )


def script(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(folder / "build_libs.py"), *arguments],
        cwd=folder.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_c
def test_building(sources):
    assert script(sources, "--check").returncode == 1
    done = script(sources, "cpu")
    assert done.returncode == 0, done.stderr
    built = [file for file in (sources / "native").iterdir() if file.name.startswith("_cpu")]
    assert str(built[0]) in done.stdout
    assert len(built) == 1
    assert script(sources, "--check").stdout.startswith("cpu: up to date, loads")
    # A build of other sources is not used, and building again replaces it.
    (sources / "native" / "geometry.h").write_text(
        (sources / "native" / "geometry.h").read_text() + "\n/* changed */\n"
    )
    assert "cpu: from other sources, is not used" in script(sources, "--check").stdout
    assert script(sources, "cpu").returncode == 0
    assert script(sources, "--check").returncode == 0


def test_without_a_compiler(sources):
    done = script(sources, "cpu", CC="/nonexistent/cc", PATH="/nonexistent")
    assert done.returncode == 1
    assert "the C compiler failed; is one installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [file for file in (sources / "native").iterdir() if "_cpu" in file.name]


def test_an_unknown_target(sources):
    done = script(sources, "gpu")
    assert done.returncode == 2
    assert "unknown target gpu: choose cpu, cuda or architectures such as sm_62" in done.stderr


def test_building_imports_nothing_of_the_library():
    """The script has to run with cffi alone."""
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT / 'libs')!r})\nimport build_libs\n"
        "print(sorted(set(sys.modules) & {'torch', 'numpy', 'maskrcnn'}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


@needs_c
@needs_nvrtc
def test_building_for_an_architecture(sources):
    """Along with the launcher that its kernels need."""
    target = f"sm_{HERE}"
    done = script(sources, target)
    assert done.returncode == 0, done.stderr
    cubin = sources / "native" / f"_cuda.{target}.cubin"
    assert done.stdout.strip() == f"{target}: {cubin}"
    assert cubin.read_bytes().startswith(b"\x7fELF")
    assert compile_cuda.source_hash().encode() in cubin.read_bytes()
    assert any(
        file.name.startswith("_cuda.cpython") or file.suffix in (".so", ".pyd")
        for file in (sources / "native").iterdir()
    )
    said = script(sources, "--check", MASKRCNN_CACHE=str(sources / "none")).stdout
    assert "cuda: up to date, loads\n" in said
    assert f"{target}: up to date" in said
    # A build of other sources is not used, and building again replaces it.
    (sources / "native" / "geometry.h").write_text(
        (sources / "native" / "geometry.h").read_text() + "\n/* changed */\n"
    )
    said = script(sources, "--check", MASKRCNN_CACHE=str(sources / "none"))
    assert f"{target}: from other sources, is not used" in said.stdout
    assert said.returncode == 1
    stale = cubin.read_bytes()
    assert script(sources, target).returncode == 0
    assert cubin.read_bytes() != stale
    assert (
        f"{target}: up to date"
        in script(sources, "--check", MASKRCNN_CACHE=str(sources / "none")).stdout
    )


@needs_nvrtc
def test_a_source_that_does_not_compile(sources):
    (sources / "native" / "cuda.cu").write_text("nonsense")
    done = script(sources, f"sm_{HERE}")
    assert done.returncode == 1
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(sources.rglob("*cubin"))


def compiler(version, architectures):
    return compile_cuda.Compiler(f"libnvrtc.so.{version}", (version, 0), architectures, None, None)


@pytest.mark.parametrize(
    ("architecture", "compilers", "message"),
    [
        (
            62,
            [compiler(13, [75, 80, 121])],
            r"no compiler at hand knows sm_62 \(NVRTC 13.0 knows sm_75 to sm_121\): "
            r"pip install nvidia-cuda-nvrtc-cu12$",
        ),
        (
            90,
            [],
            r"no compiler at hand knows sm_90 \(no NVRTC was found\): "
            r"pip install nvidia-cuda-nvrtc$",
        ),
        (35, [compiler(12, [50, 90])], "pip install nvidia-cuda-nvrtc-cu11$"),
        (30, [compiler(13, [75, 121]), compiler(12, [50, 121])], "and no package of NVRTC does$"),
        (99, [compiler(13, [75, 121])], "and no package of NVRTC does$"),
    ],
)
def test_an_architecture_that_no_compiler_here_knows(architecture, compilers, message):
    with pytest.raises(compile_cuda.BuildError, match=message):
        compile_cuda.choose(architecture, compilers, None)


@pytest.mark.parametrize(
    ("driver", "version"), [(None, 11), (13, 13), (12, 12), (14, 13), (10, 11)]
)
def test_the_compiler_is_no_newer_than_the_driver(driver, version):
    compilers = [compiler(number, [75, 80]) for number in (13, 12, 11)]
    assert compile_cuda.choose(80, compilers, driver)[0].version == (version, 0)


def test_an_architecture_unknown_to_all(sources):
    done = script(sources, "sm_30")
    assert done.returncode == 1
    assert "sm_30: no compiler at hand knows sm_30" in done.stderr
    assert not list(sources.rglob("*cubin"))


@needs_nvrtc
def test_what_can_be_built_is_listed(sources):
    done = script(sources, "--list")
    assert done.returncode == 0
    assert done.stdout.startswith(str(COMPILERS[0]))
    known = {number for each in COMPILERS for number in each.architectures}
    for package, architectures in compile_cuda.PACKAGES.items():
        assert (f"pip install {package} adds" in done.stdout) == bool(set(architectures) - known)


@needs_nvrtc
def test_what_packages_know_is_what_they_say():
    """For the versions that are installed here: later ones may know more, but none lose what they
    are named for."""
    names = {11: "nvidia-cuda-nvrtc-cu11", 12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
    for each in COMPILERS:
        said = set(compile_cuda.PACKAGES[names[each.version[0]]])
        assert len(said & set(each.architectures)) >= len(said) - 6


def test_the_architectures_of_this_machine(monkeypatch):
    """As the driver tells them; here the stand-in for it, which has one device of capability
    9.0."""
    launcher, _ = stand_in()
    found = SimpleNamespace(
        ffi=launcher.ffi,
        lib=SimpleNamespace(open_driver=lambda name: 0, capabilities=launcher.lib.capabilities),
    )
    monkeypatch.setattr(build_libs, "load", lambda name: found)
    assert build_libs.own_targets() == ["cpu", "cuda", "sm_90"]


FIRST_CALL = (
    "import pathlib\nfrom maskrcnn.libs.native import compile_cuda\n"
    f"cubin = compile_cuda.cubin({HERE}, pathlib.Path('nowhere'))\n"
    "print(len(cubin), compile_cuda.source_hash().encode() in cubin)"
)


@needs_nvrtc
def test_processes_that_compile_at_once(tmp_path):
    """Each gets whole kernels, and nothing but these stays in the cache."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MASKRCNN_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_CALL], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = {run.communicate(timeout=300)[0] for run in runs}
    assert len(said) == 1
    assert said.pop().endswith("True\n")
    assert [file.name for file in tmp_path.iterdir()] == [f"_cuda.sm_{HERE}.cubin"]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU of architecture HERE, as far as the first call of an operator looks at it, and an empty
    cache."""
    launcher, _ = stand_in()
    monkeypatch.setattr(cuda_ops, "launcher", lambda: launcher)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: divmod(HERE, 10))
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compile_cuda.cubin, "__defaults__", (tmp_path / "ahead",))
    return torch.device("cuda", 0)


@needs_nvrtc
def test_kernels_are_compiled_at_the_first_call_and_kept(gpu, monkeypatch, caplog):
    caplog.set_level("INFO", logger="maskrcnn")
    assert cuda_ops._load(0) is not None
    assert caplog.messages == [f"operators: compiled for sm_{HERE}, cuda:0"]
    kept = compile_cuda.cubin_path(HERE, compile_cuda.cache_folder())
    assert compile_cuda.is_current(kept)
    monkeypatch.setattr(
        compile_cuda, "compile_cubin", lambda architecture: pytest.fail("compiled again")
    )
    assert cuda_ops._load(0) is not None


@needs_nvrtc
def test_a_stale_cubin_is_not_used(gpu, tmp_path):
    """Neither one in the cache nor one that was built ahead."""
    for folder in (compile_cuda.cache_folder(), tmp_path / "ahead"):
        compile_cuda.write(compile_cuda.cubin_path(HERE, folder), b"\x7fELF of other sources")
    assert compile_cuda.source_hash().encode() in compile_cuda.cubin(HERE)
    assert compile_cuda.is_current(compile_cuda.cubin_path(HERE, compile_cuda.cache_folder()))


@needs_nvrtc
def test_a_cache_that_cannot_be_written_to(gpu, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "file"))
    assert cuda_ops._load(0) is not None


def test_without_kernels_for_a_gpu_the_operators_in_pytorch_serve(gpu, monkeypatch, caplog):
    monkeypatch.setattr(compile_cuda, "find_compilers", list)
    assert cuda_ops._load(0) is None
    assert "operators on cuda:0: pure PyTorch: no compiler at hand knows" in caplog.text


@needs_nvrtc
def test_a_cubin_that_the_driver_refuses_is_compiled_anew(gpu):
    """As one is that a newer compiler made, or a part of a file: it has the digest, but does not
    load."""
    kept = compile_cuda.cubin_path(HERE, compile_cuda.cache_folder())
    compile_cuda.write(kept, b"spoilt, " + compile_cuda.source_hash().encode())
    assert cuda_ops._load(0) is not None
    assert kept.read_bytes().startswith(b"\x7fELF")


def test_kernels_that_never_load_are_reported(gpu, caplog, monkeypatch):
    monkeypatch.setattr(compile_cuda, "compile_cubin", lambda architecture: b"spoilt")
    assert cuda_ops._load(0) is None
    assert "as the kernels do not load: device kernel image is invalid (200)" in caplog.text


def test_another_compiler_where_one_is_damaged(monkeypatch):
    def compiled(each, architecture):
        if each.version == (12, 0):
            raise compile_cuda.BuildError("a part of it is missing")
        return b"cubin of " + str(each.version[0]).encode()

    monkeypatch.setattr(compile_cuda, "_compiled", compiled)
    monkeypatch.setattr(
        compile_cuda, "find_compilers", lambda: [compiler(13, [90]), compiler(12, [62, 90])]
    )
    monkeypatch.setattr(compile_cuda, "driver_version", lambda: None)
    assert compile_cuda.compile_cubin(90) == b"cubin of 13"
    with pytest.raises(compile_cuda.BuildError, match="a part of it is missing"):
        compile_cuda.compile_cubin(62)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows every user's home")
def test_a_user_without_a_home(monkeypatch, tmp_path):
    """Nothing is kept, but a cubin that was built ahead serves, and others are compiled."""
    for name in ("HOME", "XDG_CACHE_HOME", "MASKRCNN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    # as for a user that the system does not know
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(compile_cuda, "HERE", tmp_path)
    assert compile_cuda.cache_folder() == tmp_path


def test_a_cache_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    path = compile_cuda.cubin_path(90, tmp_path)
    path.mkdir()  # not even a file
    monkeypatch.setattr(compile_cuda, "compile_cubin", lambda architecture: b"anew")
    assert compile_cuda.cubin(90, tmp_path / "nothing ahead") == b"anew"


@needs_c
@pytest.mark.parametrize(
    ("variable", "value"), [("CC", '"'), ("CFLAGS", '"'), ("CC", "nowhere-cc")]
)
def test_an_environment_that_cannot_be_read(sources, variable, value):
    done = script(sources, "cpu", **{variable: value})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert value in done.stderr
