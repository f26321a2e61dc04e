"""Builds the extension with CMake; pyproject.toml holds everything else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt with Ninja in place of setuptools' own compilation."""

    def build_extension(self, ext: Extension) -> None:
        built = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = ROOT / self.build_temp
        configure = ["cmake", "-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja", "--fresh"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={built.parent}"]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir)], check=True)
        # `python -m` puts the current folder before the installed packages: a command started in the checkout imports
        # xmixup_fast from here, and must find the extension here too.
        beside_sources = ROOT / "xmixup_fast" / built.name
        if built != beside_sources:
            aside = beside_sources.with_suffix(f".{os.getpid()}.part")
            shutil.copy2(built, aside)
            aside.replace(beside_sources)


setup(ext_modules=[Extension("xmixup_fast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
