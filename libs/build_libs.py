"""Build the compiled operators.

    python libs/build_libs.py                   # for this machine: its processor and its GPUs
    python libs/build_libs.py cpu sm_62 sm_90   # the CPU's, and CUDA kernels for these GPUs
    python libs/build_libs.py --list            # architectures that can be built here
    python libs/build_libs.py --check           # what is built: up to date, loading, right?

Runs as a plain script with cffi, a C compiler (for what runs on the host) and an NVRTC (for CUDA
kernels): neither PyTorch nor a GPU nor CUDA's toolkit is needed. What it builds speaks in pointers
and numbers, so it fits every version of PyTorch.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

if __package__:
    from .native import compile_cuda
    from .native.compile_c import MODULES, build, load
    from .native.compile_cuda import DRIVER, HERE, BuildError
else:  # as a script
    from native import compile_cuda
    from native.compile_c import MODULES, build, load
    from native.compile_cuda import DRIVER, HERE, BuildError


def build_target(target: str) -> Path:
    """Build "cpu", "cuda" or an architecture such as "sm_62", along with the launcher that it
    needs.

    Raises:
        BuildError: it cannot be built here; the message says what is missing.
    """
    if target in MODULES:
        return build(target)
    architecture = int(target.removeprefix("sm_"))
    cubin = compile_cuda.compile_cubin(architecture)
    path = compile_cuda.write(compile_cuda.cubin_path(architecture), cubin)
    if not _loads("cuda"):
        build("cuda")
    return path


def _loads(name: str) -> bool:
    try:
        return load(name) is not None
    except ImportError:  # a damaged file: built again
        return False


def own_targets() -> list[str]:
    """What this machine can use: the CPU operators, the launcher, and the architectures of its
    GPUs."""
    if sys.platform == "darwin":
        return ["cpu"]
    targets = ["cpu", "cuda"]
    for architecture in sorted(set(own_architectures())):
        targets.append(f"sm_{architecture}")
    return targets


def own_architectures() -> list[int]:
    """The architectures of the GPUs in this machine, 90 for sm_90."""
    if not _loads("cuda"):
        build("cuda")
    module = load("cuda")
    assert module is not None
    if module.lib.open_driver(DRIVER.encode()):
        return []
    numbers = module.ffi.new("int[]", 64)
    count = module.lib.capabilities(numbers, 64)
    return list(numbers)[:count]


def list_architectures() -> int:
    """Print what can be built here, and which packages add more."""

    def names(architectures: Iterable[int]) -> str:
        return " ".join(f"sm_{number}" for number in sorted(architectures))

    compilers = compile_cuda.find_compilers()
    if not compilers:
        print("no NVRTC was found: CUDA kernels cannot be built here")
    for compiler in compilers:
        print(f"{compiler}: {names(compiler.architectures)}")
    known = {number for compiler in compilers for number in compiler.architectures}
    for package, architectures in compile_cuda.PACKAGES.items():
        more = set(architectures) - known
        if more:
            print(f"pip install {package} adds {names(more)}")
    return 0


def check() -> int:
    """Print what is built and whether it is up to date, loads and agrees with the operators in
    PyTorch; 1 if the CPU operators are missing or anything is wrong."""
    right = [_check_module(name) for name in MODULES]
    own = own_architectures() if _loads("cuda") else []
    for folder in dict.fromkeys((HERE, compile_cuda.cache_folder())):
        for path in sorted(folder.glob("_cuda.sm_*.cubin")):
            found = re.fullmatch(r"_cuda\.sm_(\d+)\.cubin", path.name)
            if found:
                right.append(_check_cubin(path, int(found[1]), own))
    return int(not all(right))


def _check_module(name: str) -> bool:
    """Print the state of a compiled module; return False if anything is wrong with it."""
    try:
        module = load(name)
    except ImportError as error:
        print(f"{name}: does not load: {error}")
        return False
    if module is not None:
        said, agrees = _agreement("cpu") if name == "cpu" else ("", True)
        print(f"{name}: up to date, loads{said}")
        return agrees
    if any((HERE / f"_{name}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES):
        print(f"{name}: from other sources, is not used: build it again")
        return False
    print(f"{name}: not built")
    return name != "cpu"


def _check_cubin(
    path: Path,
    architecture: int,
    own: list[int],
) -> bool:
    """Print the state of kernels for an architecture; return False if anything is wrong with them.
    `own` are the architectures of this machine's GPUs."""
    if not compile_cuda.is_current(path):
        print(f"sm_{architecture}: from other sources, is not used: {path}")
        return path.parent != HERE
    if architecture not in own:
        print(f"sm_{architecture}: up to date, no such GPU here to load it on: {path}")
        return True
    said, agrees = _agreement(f"cuda:{own.index(architecture)}")
    print(f"sm_{architecture}: up to date{said}: {path}")
    return agrees


def _agreement(device: str) -> tuple[str, bool]:
    """Compare the operators on a device with those in PyTorch: return what to append to a line, and
    False if results differ."""
    sys.path.append(str(HERE.parent.parent))
    try:
        from maskrcnn.libs.native.self_check import differences
    except ImportError as error:
        return f", not compared with the operators in PyTorch: {error}", True
    wrong = differences(device)
    if wrong:
        return f", results differ: {'; '.join(wrong)}", False
    return ", agrees with the operators in PyTorch", True


def main(arguments: list[str] | None = None) -> int:
    """Build, list or check; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the compiled operators.")
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="cpu; an architecture of GPUs such as sm_62; cuda, which compiles kernels at their "
        "first call; without one, what this machine can use",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="architectures that can be built here, and what adds more",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="is what is built up to date, does it load, and agree with the operators in PyTorch?",
    )
    options = parser.parse_args(arguments)
    if options.list + options.check + bool(options.targets) > 1:
        parser.error("give targets to build, or --list, or --check")
    for target in options.targets:
        if target not in MODULES and not re.fullmatch(r"sm_[1-9][0-9]{1,2}", target):
            parser.error(
                f"unknown target {target}: choose cpu, cuda or architectures such as sm_62"
            )
    try:
        if options.list:
            return list_architectures()
        if options.check:
            return check()
        targets = options.targets or own_targets()
    except (BuildError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    failed = 0
    for target in dict.fromkeys(targets):
        try:
            print(f"{target}: {build_target(target)}", flush=True)
        except (BuildError, OSError) as error:
            print(f"{target}: {error}", file=sys.stderr, flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
