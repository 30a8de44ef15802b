"""Packaging. The folders beside this file are installed as subpackages of `maskrcnn`, so that they
cannot collide with a user's own `tools` or `libs`; `maskrcnn.py` itself becomes the module of that
name and finds them through `__path__`. An editable install puts the checkout on the path: its
folders then yield to any package of the same name.
"""

import re
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
source = (here / "maskrcnn.py").read_text(encoding="utf-8")
version = re.findall(r'^__version__ = "(.+)"', source, re.M)[0]
# to run notebooks, and to test the examples'
notebook = ["ipykernel>=6", "nbclient>=0.7", "nbformat>=5.7"]
ROOMS = (
    "backbones",
    "datasets",
    "engine",
    "evaluation",
    "heads",
    "inference",
    "libs",
    "pooling",
    "proposal",
    "tools",
)
folders = {path.parent for room in ROOMS for path in (here / room).rglob("*.py")}
packages = {}  # their folders, by name
for folder in sorted(folders):
    name = ".".join(("maskrcnn", *folder.relative_to(here).parts))
    packages[name] = str(folder.relative_to(here))


class BuildPy(build_py):
    """Compiles the CPU operators. And config.ini lies at the top of the checkout, where no package
    owns it: it is put beside the installed subpackages."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            compile_operators(here / "libs" / "native")
            return
        target = Path(self.build_lib) / "maskrcnn"
        for name in ("config.ini", "py.typed"):
            self.copy_file(here / name, target / name)
        # The example configurations, which are found by name, or by what a file of weights holds.
        for path in (here / "examples").glob("*/*.ini"):
            copy = target / path.relative_to(here)
            self.mkpath(str(copy.parent))
            self.copy_file(path, copy)
        compile_operators(target / "libs" / "native")


class BinaryDistribution(Distribution):
    """Compiled for one platform, as its wheel has to say."""

    def has_ext_modules(self) -> bool:
        return True


def compile_operators(folder: Path) -> None:
    """Where there is no C compiler the library installs all the same: its operators in PyTorch then
    serve."""
    sys.path.insert(0, str(here / "libs"))
    from native.compile_c import BuildError, build  # pyright: ignore[reportMissingImports]

    names = ["cpu"] if sys.platform == "darwin" else ["cpu", "cuda"]
    for name in names:
        try:
            print(f"operators compiled: {build(name, folder)}")
        except BuildError as error:
            print(f"operators not compiled, those in PyTorch will serve: {error}")


setup(
    name="maskrcnn",
    version=version,
    description="Mask R-CNN in PyTorch: modular, readable, measured",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    py_modules=["maskrcnn"],
    packages=list(packages),
    package_dir=packages,
    package_data={"maskrcnn.libs.native": ["*.c", "*.h", "*.cu"]},
    cmdclass={"build_py": BuildPy},
    distclass=BinaryDistribution,
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "accelerate>=1.0",
        "cffi>=1.15",
        "pillow>=10.1",
        "easydict>=1.10",
        "numpy>=1.23",
        "safetensors>=0.4",
        "tqdm>=4.60",
        "matplotlib>=3.6",
        "faster-coco-eval>=1.6",
    ],
    extras_require={
        "timm": ["timm>=1.0"],
        "tensorboard": ["tensorboard>=2.10"],
        "notebook": notebook,
        "test": [
            "pytest>=7.2",
            "pytest-xdist>=3.5",
            "hypothesis>=6",
            "ruff>=0.4",
            "timm>=1.0",
            "tensorboard>=2.10",
            *notebook,
        ],
    },
    entry_points={"console_scripts": ["maskrcnn = maskrcnn.engine.cli:main"]},
    options={"editable_wheel": {"mode": "compat"}},
)
