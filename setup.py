"""Packaging. The folders beside this file are installed as subpackages of `maskrcnn`, so that they cannot collide with
a user's own `tools` or `libs`; `maskrcnn.py` itself becomes the module of that name and finds them through `__path__`.
"""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (here / "maskrcnn.py").read_text(encoding="utf-8"), re.M).group(1)
rooms = ["backbones", "datasets", "engine", "heads", "libs", "pooling", "proposal", "tools"]


class BuildPy(build_py):
    """config.ini lies at the top of the checkout, where no package owns it: put it beside the installed subpackages."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("config.ini", "py.typed"):
                self.copy_file(here / name, Path(self.build_lib) / "maskrcnn" / name)


setup(
    name="maskrcnn",
    version=version,
    description="Mask R-CNN in PyTorch: modular, readable, measured",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    py_modules=["maskrcnn"],
    packages=[f"maskrcnn.{room}" for room in rooms],
    package_dir={f"maskrcnn.{room}": room for room in rooms},
    cmdclass={"build_py": BuildPy},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "cffi>=1.15",
        "pillow>=10.1",
        "easydict>=1.10",
        "numpy>=1.23",
        "tqdm>=4.60",
        "matplotlib>=3.6",
        "faster-coco-eval>=1.6",
    ],
    extras_require={"test": ["pytest>=7", "hypothesis>=6", "ruff>=0.4"]},
    entry_points={"console_scripts": ["maskrcnn = maskrcnn.engine.cli:main"]},
    options={"editable_wheel": {"mode": "compat"}},
)
