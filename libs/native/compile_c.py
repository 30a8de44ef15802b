"""What runs on the host, compiled from C through cffi: the CPU operators and the launcher of CUDA
kernels.

Needs a C compiler and Python's headers, but no PyTorch: all that is compiled takes pointers and
numbers.
"""

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

if __package__:
    from .compile_cuda import HERE, BuildError, new_ffi, write
else:  # for build_libs.py, which runs as a script
    from compile_cuda import HERE, BuildError, new_ffi, write


@dataclass
class Module:
    """C that is compiled through cffi: its sources, the first of which is compiled, and what Python
    sees of it."""

    sources: tuple[str, ...]
    declarations: str
    # to try one after the other: not every compiler knows OpenMP and all levels of x86
    options: list[list[str]]


# Each function once for float and once for double.
CPU_FUNCTIONS = """
int nms_{scalar}(const {scalar} *boxes, const int64_t *starts, int64_t runs, double threshold,
    uint8_t *keep);
void roi_align_{scalar}({scalar} *const *maps, const int64_t *sides, const double *scales,
    const {scalar} *areas, int levels, int64_t channels, const {scalar} *boxes,
    const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
    int aligned, {scalar} *pooled);
void roi_align_backward_{scalar}({scalar} *const *grads, const int64_t *sides, const double *scales,
    const {scalar} *areas, int levels, int64_t channels, const {scalar} *boxes,
    const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
    int aligned, {scalar} *pooled);
int crop_masks_{scalar}(const uint8_t *const *masks, const int64_t *sides, const {scalar} *boxes,
    int64_t count, int bins, int sampling_ratio, int aligned, {scalar} *out);
int paste_masks_{scalar}(const {scalar} *grids, int cells, const {scalar} *corners, int64_t count,
    int64_t height, int64_t width, double threshold, uint8_t *out);
"""
LAUNCHER_FUNCTIONS = """
struct kernels;
int open_driver(const char *name);
const char *error_text(int error);
int capabilities(int *out, int room);
int load_kernels(int number, const void *cubin, struct kernels **out);
int rank(const struct kernels *kernels, void *stream, const float *scores, const uint8_t *valid,
    int64_t images, int count, int room, int64_t *order);
int nms(const struct kernels *kernels, void *stream, const float *boxes, const int64_t *order,
    const int64_t *groups, const uint8_t *valid, int64_t images, int64_t count, int64_t rows,
    double threshold, uint64_t *removed, uint64_t *overlapping, uint8_t *keep);
int roi_align(const struct kernels *kernels, void *stream, int type, int wide, void *const *maps,
    const int64_t *sides, const double *scales, const float *areas, int levels, int64_t images,
    int64_t channels, const float *boxes, const int64_t *image, const int64_t *level, int64_t count,
    int bins, int sampling_ratio, int aligned, void *pooled);
int roi_align_backward(const struct kernels *kernels, void *stream, int type, int wide,
    int deterministic, void *const *grads, const int64_t *sides, const double *scales,
    const float *areas, int levels, int64_t images, int64_t channels, const float *boxes,
    const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
    int aligned, const void *pooled);
int crop_masks(const struct kernels *kernels, void *stream, const uint8_t *const *pixels,
    const int64_t *shapes, int64_t images, const float *boxes, const int64_t *index,
    const int64_t *image, int64_t count, int bins, int sampling_ratio, int aligned, float *out);
int paste_masks(const struct kernels *kernels, void *stream, const float *grids, int cells,
    const float *corners, int64_t count, int64_t height, int64_t width, double threshold,
    uint8_t *out);
"""
OPTIMISE = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_OPENMP = ["-fopenmp"]
_LINKED = ["-ldl", "-lm"]
_SHARED = ["-shared"]
if sys.platform in ("darwin", "win32"):
    _OPENMP = []
    _LINKED = []
if sys.platform == "darwin":
    _SHARED = ["-bundle", "-undefined", "dynamic_lookup"]
MODULES = {
    "cpu": Module(
        sources=("cpu.c", "cpu_kernels.h", "geometry.h"),
        declarations="".join(
            CPU_FUNCTIONS.replace("{scalar}", scalar) for scalar in ("float", "double")
        ),
        options=[[*_OPENMP], ["-DPLAIN", *_OPENMP], ["-DPLAIN"]],
    ),
    "cuda": Module(
        sources=("launcher.c", "launch.h"),
        declarations=LAUNCHER_FUNCTIONS,
        options=[[]],
    ),
}


def source_hash(name: str) -> str:
    """A digest of a module's sources, which the compiled module carries: one of other sources is
    stale."""
    digest = hashlib.sha256(MODULES[name].declarations.encode())
    for source in MODULES[name].sources:
        digest.update((HERE / source).read_bytes())
    return digest.hexdigest()[:16]


def build(name: str, folder: Path = HERE) -> Path:
    """Compile a module, "cpu" (the CPU operators) or "cuda" (what launches CUDA kernels), into
    `folder`, replacing an older build at once; returns the file.

    Raises:
        BuildError: cffi or a C compiler is missing, or the compiler failed.
        OSError: the file cannot be written.
    """
    ffi = new_ffi()
    module = MODULES[name]
    ffi.cdef("const char *source_hash(void);" + module.declarations)
    carried = f'static const char *source_hash(void) {{ return "{source_hash(name)}"; }}'
    ffi.set_source(
        f"_{name}",
        f'#include "{module.sources[0]}"\n{carried}',
        include_dirs=[str(HERE)],
        extra_compile_args=["/O2"],
    )
    last_error = ""
    for flags in module.options:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                compiled = _compile(ffi, Path(scratch), name, flags)
                return write(folder / _file_name(name), compiled.read_bytes())
            except BuildError as error:
                last_error = str(error)
    raise BuildError(
        "the C compiler failed; is one installed (gcc, clang or MSVC), and the headers of "
        f"Python?\n{last_error[-2000:]}"
    )


def _file_name(name: str) -> str:
    return f"_{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _compile(
    ffi: Any,
    scratch: Path,
    name: str,
    flags: list[str],
) -> Path:
    """One call of the compiler. cffi would do this through setuptools, which newer versions of
    Python no longer bring along; where the compiler is not to be found by its name, on Windows, it
    still does."""
    if sys.platform == "win32":
        try:
            return Path(ffi.compile(tmpdir=str(scratch)))
        except Exception as error:  # whatever setuptools raises
            raise BuildError(
                f"{error} (setuptools, which finds it, is needed too: pip install setuptools)"
            ) from error
    source = scratch / f"_{name}.c"
    built = scratch / _file_name(name)
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it writes
        ffi.emit_c_code(str(source))
    paths = sysconfig.get_paths()
    command = [
        *_find_compiler(),
        *OPTIMISE,
        "-fPIC",
        *_SHARED,
        *_words("CFLAGS"),
        *flags,
        f"-I{HERE}",
        f"-I{paths['include']}",
        f"-I{paths['platinclude']}",
        str(source),
        "-o",
        str(built),
        *_words("LDFLAGS"),
        *_LINKED,
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BuildError(str(error)) from error
    if done.returncode:
        raise BuildError(done.stderr)
    return built


def _find_compiler() -> list[str]:
    """Return the command of the C compiler: what CC in the environment asks for, or the first usual
    one that is there."""
    asked = _words("CC")
    if asked:
        return asked
    that_built_python = shlex.split(sysconfig.get_config_var("CC") or "")
    for command in (that_built_python, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise BuildError("no cc, gcc or clang was found")


def _words(variable: str) -> list[str]:
    """What a variable of the environment holds, split as a shell does it. Raises BuildError for
    quotes left open."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise BuildError(
            f"{variable}={os.environ[variable]} in the environment: {error}"
        ) from error


def load(name: str, folder: Path = HERE) -> ModuleType | None:
    """A compiled module of this folder, or None where there is none, or only a stale one.

    Raises:
        ImportError: a build that is up to date but cannot be loaded.
    """
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_{name}{suffix}"
        if path.is_file() and source_hash(name).encode() in path.read_bytes():
            loader = importlib.machinery.ExtensionFileLoader(f"_{name}", str(path))
            spec = importlib.util.spec_from_file_location(f"_{name}", path, loader=loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return module
    return None
