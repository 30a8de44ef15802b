"""Build the compiled operators.

    python libs/build_libs.py            # for this machine
    python libs/build_libs.py cpu
    python libs/build_libs.py --check    # is what is built up to date, and does it load?

Runs as a plain script with cffi and a C compiler: neither PyTorch nor anything else of the library is imported. What it
builds speaks in pointers and numbers, so it fits every version of PyTorch.
"""

import argparse
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
CPU_SOURCES = ("cpu.c", "cpu_kernels.h", "geometry.h")

# Each function once for float and once for double.
CPU_FUNCTIONS = """
int nms_{scalar}(const {scalar} *boxes, const int64_t *starts, int64_t runs, double threshold, uint8_t *keep);
void roi_align_{scalar}({scalar} *const *maps, const int64_t *sides, const double *scales, int64_t channels,
    const {scalar} *boxes, const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
    int aligned, {scalar} *pooled);
void roi_align_backward_{scalar}({scalar} *const *grads, const int64_t *sides, const double *scales, int64_t channels,
    const {scalar} *boxes, const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
    int aligned, {scalar} *pooled);
int crop_masks_{scalar}(const uint8_t *const *masks, const int64_t *sides, const {scalar} *boxes, int64_t count,
    int bins, int sampling_ratio, int aligned, {scalar} *out);
int paste_masks_{scalar}(const {scalar} *grids, int cells, const {scalar} *corners, int64_t count, int64_t height,
    int64_t width, double threshold, uint8_t *out);
"""


class BuildError(RuntimeError):
    """The operators cannot be built here; the message says what is missing."""


def source_hash() -> str:
    """A digest of the CPU sources, which the compiled module carries: one of other sources is stale."""
    digest = hashlib.sha256(CPU_FUNCTIONS.encode())
    for name in CPU_SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def build_cpu(folder: Path = HERE) -> Path:
    """Compile the CPU operators into `folder`, replacing an older build at once; returns the file.

    Raises:
        BuildError: cffi or a C compiler is missing, or the compiler failed.
    """
    try:
        from cffi import FFI
    except ImportError:
        raise BuildError("cffi is not installed: pip install cffi") from None
    openmp = [] if sys.platform in ("darwin", "win32") else ["-fopenmp"]
    errors = []
    for flags in ([*openmp], ["-DPLAIN", *openmp], ["-DPLAIN"]):  # not every compiler knows OpenMP and all x86 levels
        ffi = FFI()
        ffi.cdef("const char *source_hash(void);" + "".join(
            CPU_FUNCTIONS.replace("{scalar}", scalar) for scalar in ("float", "double")))
        carried = f'static const char *source_hash(void) {{ return "{source_hash()}"; }}'
        ffi.set_source("_cpu", f'#include "cpu.c"\n{carried}', include_dirs=[str(HERE)],
                       extra_compile_args=_optimise() + flags,
                       extra_link_args=[flag for flag in flags if flag != "-DPLAIN"])
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with _quiet(Path(scratch) / "log") as log:
                    built = Path(ffi.compile(tmpdir=scratch))
            except Exception as error:  # cffi lets through whatever setuptools or distutils raise
                errors.append(f"{error}\n{log.read_text(errors='replace')[-2000:]}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{os.getpid()}-{built.name}"
            shutil.copyfile(built, part)
            os.replace(part, folder / built.name)
            return folder / built.name
    raise BuildError(f"the C compiler failed; is one installed (gcc, clang or MSVC), and the headers of Python?\n"
                     f"{errors[-1]}")


def load_cpu(folder: Path = HERE) -> ModuleType | None:
    """The compiled CPU operators of this folder, or None where there are none, or only stale ones.

    Raises:
        ImportError: a build that is up to date but cannot be loaded.
    """
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_cpu{suffix}"
        if path.is_file() and source_hash().encode() in path.read_bytes():
            loader = importlib.machinery.ExtensionFileLoader("_cpu", str(path))
            spec = importlib.util.spec_from_file_location("_cpu", path, loader=loader)
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return module
    return None


def main(arguments: list[str] | None = None) -> int:
    """Build or check; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the compiled operators.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="cpu; without one, what this machine can use")
    parser.add_argument("--check", action="store_true", help="say whether what is built is up to date and loads")
    options = parser.parse_args(arguments)
    unknown = [target for target in options.targets if target != "cpu"]
    if unknown:
        parser.error(f"unknown target {unknown[0]}: choose cpu")
    if options.check:
        module = load_cpu()
        print("cpu: " + ("up to date, loads" if module else "not built, or from other sources"))
        return 0 if module else 1
    try:
        print(f"cpu: {build_cpu()}")
    except BuildError as error:
        print(f"cpu: {error}", file=sys.stderr)
        return 1
    return 0


def _optimise() -> list[str]:
    if sys.platform == "win32":
        return ["/O2"]
    return ["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math"]


class _quiet:
    """Sends what the compiler prints to a file: it is of interest only where it fails."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __enter__(self) -> Path:
        sys.stdout.flush()
        sys.stderr.flush()
        self.kept = os.dup(1), os.dup(2)
        with open(self.log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        return self.log

    def __exit__(self, *exception: object) -> None:
        for number, copy in zip((1, 2), self.kept):
            os.dup2(copy, number)
            os.close(copy)


if __name__ == "__main__":
    sys.exit(main())
