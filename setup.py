"""Builds the extension with CMake; pyproject.toml holds everything else."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "cmake"))  # pip leaves this folder out of the path

import kept_module  # noqa: E402


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt in place of setuptools' own compilation, where no module built before can be taken."""

    def build_extension(self, ext: Extension) -> None:
        wanted = Path(self.get_ext_fullpath(ext.name)).resolve()
        # `python -m` puts the current folder before the installed packages: a command started in the checkout imports
        # xmixup_fast from here, and must find the extension here too.
        kept_module.provide([wanted, ROOT / "xmixup_fast" / wanted.name])


setup(ext_modules=[Extension("xmixup_fast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
