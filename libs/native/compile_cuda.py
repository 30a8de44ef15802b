"""The CUDA kernels as cubins: compiled by NVRTC, the compiler library that PyTorch's CUDA builds
bring along, and kept.

Needs cffi, but neither a GPU nor CUDA's toolkit nor a C compiler nor PyTorch.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import site
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
SOURCES = ("cuda.cu", "geometry.h", "launch.h")
# What each package of NVRTC compiles for: versions 13.5, 12.9 and 11.8.
PACKAGES = {
    "nvidia-cuda-nvrtc": (75, 80, 86, 87, 88, 89, 90, 100, 103, 107, 110, 120, 121),
    "nvidia-cuda-nvrtc-cu12": (
        50,
        52,
        53,
        60,
        61,
        62,
        70,
        72,
        75,
        80,
        86,
        87,
        89,
        90,
        100,
        101,
        103,
        120,
        121,
    ),
    "nvidia-cuda-nvrtc-cu11": (35, 37, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
}
# Without fused multiply-add, so that results are those of the CPU.
OPTIONS = ("--std=c++14", "--fmad=false")

DECLARATIONS = """
typedef void *nvrtcProgram;
int nvrtcVersion(int *major, int *minor);
int nvrtcGetNumSupportedArchs(int *count);
int nvrtcGetSupportedArchs(int *architectures);
int nvrtcCreateProgram(nvrtcProgram *, const char *source, const char *name, int,
    const char *const *, const char *const *);
int nvrtcCompileProgram(nvrtcProgram, int count, const char *const *options);
int nvrtcDestroyProgram(nvrtcProgram *);
int nvrtcGetProgramLogSize(nvrtcProgram, size_t *);
int nvrtcGetProgramLog(nvrtcProgram, char *);
int nvrtcGetCUBINSize(nvrtcProgram, size_t *);
int nvrtcGetCUBIN(nvrtcProgram, char *);
"""


class BuildError(RuntimeError):
    """The operators cannot be built here; the message says what is missing."""


@dataclass
class Compiler:
    """One NVRTC: where it lies, its version, and the architectures (62 for sm_62) that it compiles
    for."""

    path: str
    version: tuple[int, int]
    architectures: list[int]
    ffi: Any
    lib: Any

    def __str__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]} ({self.path})"


def new_ffi() -> Any:
    """Return a fresh FFI of cffi. Raise BuildError if cffi is not installed."""
    try:
        from cffi import FFI
    except ImportError:
        raise BuildError("cffi is not installed: pip install cffi") from None
    return FFI()


def find_compilers() -> list[Compiler]:
    """Every NVRTC on this machine that loads, the newest first: in Python's packages, in a CUDA
    toolkit, or where the system looks for libraries.

    Raises:
        BuildError: cffi is not installed.
    """
    ffi = new_ffi()
    ffi.cdef(DECLARATIONS)
    found: dict[int, Compiler] = {}
    for path in _candidates():
        compiler = _open(ffi, path)
        if compiler is not None:
            # A name may find a library that a path has found before: it is the same in memory.
            address = int(ffi.cast("intptr_t", compiler.lib.nvrtcVersion))
            found.setdefault(address, compiler)
    return sorted(found.values(), key=lambda compiler: compiler.version, reverse=True)


def _open(ffi: Any, path: str) -> Compiler | None:
    """Return the NVRTC of this path or name, or None where there is none that can be used."""
    major = ffi.new("int *")
    minor = ffi.new("int *")
    count = ffi.new("int *")
    try:
        lib = ffi.dlopen(path)
        if lib.nvrtcVersion(major, minor) or lib.nvrtcGetNumSupportedArchs(count):
            return None
        architectures = ffi.new("int[]", count[0])
        if lib.nvrtcGetSupportedArchs(architectures) or not count[0]:
            return None
    except (OSError, AttributeError):
        # of another platform, or older than the functions that are needed
        return None
    version = (major[0], minor[0])
    return Compiler(path, version, sorted(architectures), ffi=ffi, lib=lib)


def driver_version() -> int | None:
    """The major version of CUDA that this machine's driver belongs to, or None where there is no
    driver."""
    ffi = new_ffi()
    ffi.cdef("int cuDriverGetVersion(int *version);")
    try:
        version = ffi.new("int *")
        ffi.dlopen(DRIVER).cuDriverGetVersion(version)
        return version[0] // 1000
    except (OSError, AttributeError):
        return None


def choose(
    architecture: int,
    compilers: list[Compiler],
    driver: int | None,
) -> list[Compiler]:
    """The compilers that know an architecture, in the order in which to try them: those no newer
    than the driver first, the newest before the others, as a driver may not load what comes from a
    later major version; then newer ones, the oldest before the others. All are newer where the
    driver is not known, as it is that of another machine.

    Raises:
        BuildError: none knows it, and the message says which package would.
    """
    able = [compiler for compiler in compilers if architecture in compiler.architectures]
    if not able:
        raise BuildError(_advice(architecture, compilers))
    able.sort(key=lambda compiler: compiler.version)
    fitting = []
    newer = []
    for compiler in able:
        if driver is not None and compiler.version[0] <= driver:
            fitting.append(compiler)
        else:
            newer.append(compiler)
    return fitting[::-1] + newer


def compile_cubin(architecture: int) -> bytes:
    """The kernels compiled for an architecture, 62 for sm_62.

    Raises:
        BuildError: none does, and the message says which package would; or the compiler failed.
    """
    errors = []
    for compiler in choose(architecture, find_compilers(), driver_version()):
        try:
            return _compiled(compiler, architecture)
        except BuildError as error:  # its installation may be damaged, and another one whole
            errors.append(error)
    raise errors[0]


def _compiled(compiler: Compiler, architecture: int) -> bytes:
    ffi = compiler.ffi
    lib = compiler.lib
    parts = _open_parts(compiler)
    options = [
        f"--gpu-architecture=sm_{architecture}",
        f"--include-path={HERE}",
        f'--define-macro=SOURCE_HASH="{source_hash()}"',
        *OPTIONS,
    ]
    texts = [ffi.new("char[]", option.encode()) for option in options]
    program = ffi.new("nvrtcProgram *")
    size = ffi.new("size_t *")
    source = (HERE / "cuda.cu").read_bytes()
    lib.nvrtcCreateProgram(program, source, b"cuda.cu", 0, ffi.NULL, ffi.NULL)
    try:
        if lib.nvrtcCompileProgram(program[0], len(texts), ffi.new("char *[]", texts)):
            lib.nvrtcGetProgramLogSize(program[0], size)
            log = ffi.new("char[]", size[0])
            lib.nvrtcGetProgramLog(program[0], log)
            raise BuildError(f"{compiler} failed:\n{ffi.string(log).decode(errors='replace')}")
        lib.nvrtcGetCUBINSize(program[0], size)
        cubin = ffi.new("char[]", size[0])
        lib.nvrtcGetCUBIN(program[0], cubin)
        return bytes(ffi.buffer(cubin))
    finally:
        lib.nvrtcDestroyProgram(program)
        del parts


def _open_parts(compiler: Compiler) -> list[Any]:
    """NVRTC opens a part of itself by name alone, and not all of its versions then look where they
    lie themselves: the system does not look in Python's packages, but finds what is open
    already."""
    folder = Path(compiler.path).parent
    parts = []
    for file in [*folder.glob("libnvrtc-builtins.so*"), *folder.glob("nvrtc-builtins*.dll")]:
        with contextlib.suppress(OSError):
            parts.append(compiler.ffi.dlopen(str(file)))
    return parts


def source_hash() -> str:
    """A digest of the kernels' sources, which every cubin carries: one of other sources is
    stale."""
    digest = hashlib.sha256("".join(OPTIONS).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def cubin_path(architecture: int, folder: Path = HERE) -> Path:
    """Where the cubin for an architecture is kept."""
    return folder / f"_cuda.sm_{architecture}.cubin"


def is_current(path: Path) -> bool:
    """Whether a cubin is there, can be read, and was built from these sources."""
    try:
        return source_hash().encode() in path.read_bytes()
    except OSError:
        return False


def cubin(architecture: int, ahead: Path = HERE) -> bytes:
    """The kernels for an architecture: built ahead of time, from the user's cache, or compiled now
    and cached. Many processes may do so at once: each writes a file of its own and then puts it
    into place whole.

    Raises:
        BuildError: there is none, and it cannot be compiled here.
    """
    for folder in (ahead, cache_folder()):
        path = cubin_path(architecture, folder)
        if is_current(path):
            return path.read_bytes()
    return compile_and_keep(architecture)


def compile_and_keep(architecture: int) -> bytes:
    """Compile the kernels for an architecture into the user's cache. Raises BuildError as
    `compile_cubin` does."""
    compiled = compile_cubin(architecture)
    # a home that cannot be written to: the next process compiles anew
    with contextlib.suppress(OSError):
        write(cubin_path(architecture, cache_folder()), compiled)
    return compiled


def cache_folder() -> Path:
    """The user's folder for kernels compiled at their first call; MASKRCNN_CACHE in the environment
    sets another. This folder for a user without a home."""
    if os.environ.get("MASKRCNN_CACHE"):
        return Path(os.environ["MASKRCNN_CACHE"])
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    home = os.environ.get(variable)
    try:
        return Path(home or Path("~/.cache").expanduser()) / "maskrcnn"
    except RuntimeError:
        return HERE


def write(path: Path, content: bytes) -> Path:
    """Put a file into place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(
        dir=path.parent,
        prefix=".",
        suffix=f"-{path.name}",
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError:
        os.unlink(part)
        raise
    return path


def _candidates() -> list[str]:
    """Paths and names under which an NVRTC may be found."""
    packages = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    toolkits = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        os.environ.get("CONDA_PREFIX"),
        sys.prefix,
        *glob.glob("/usr/local/cuda*"),
    ]
    if sys.platform == "win32":
        inside = ["nvidia/*/bin", "nvidia/*/bin/x86_64", "torch/lib", "bin", "bin/x64"]
        names = ["nvrtc64_*.dll"]
        system = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll", "nvrtc64_112_0.dll"]
    else:
        inside = ["nvidia/*/lib", "torch/lib", "lib", "lib64", "targets/*/lib"]
        names = ["libnvrtc.so.*", "libnvrtc-*.so*"]
        system = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"]
    files = {}  # without those that links lead to twice
    for root, folder, name in itertools.product([*packages, *toolkits], inside, names):
        if not root:
            continue
        for file in sorted(glob.glob(os.path.join(root, folder, name))):
            if "builtins" not in os.path.basename(os.path.realpath(file)):
                files[os.path.realpath(file)] = None
    return [*files, *system]


def _advice(architecture: int, compilers: list[Compiler]) -> str:
    """Return what the compilers here know, and which package knows the architecture."""
    known = []
    for compiler in compilers:
        major, minor = compiler.version
        first = compiler.architectures[0]
        last = compiler.architectures[-1]
        known.append(f"NVRTC {major}.{minor} knows sm_{first} to sm_{last}")
    here = "; ".join(known) or "no NVRTC was found"
    for package, architectures in PACKAGES.items():
        if architecture in architectures:
            return f"no compiler at hand knows sm_{architecture} ({here}): pip install {package}"
    return f"no compiler at hand knows sm_{architecture} ({here}), and no package of NVRTC does"
