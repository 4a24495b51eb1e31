"""Compiles the kernels. Where that cannot be done the installation goes on without them."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SHARED = [f"tombola/{name}.h" for name in ("vectors", "instances", "undefine")]


def kernels(room: str, headers: tuple[str, ...]) -> Extension:
    """The kernels of a room of the package.

    optional: no compiler is no reason not to install; `tombola plan` then says that the plain loop is used.
    A product and a sum are one operation only where the kernels say so, on every machine and with every compiler alike.
    -g0: the same source makes the same bytes, wherever it lies; what was measured is kept under their hash.
    """
    return Extension(
        f"tombola.{room}._kernels",
        sources=[f"tombola/{room}/kernels.c"],
        depends=[*SHARED, *(f"tombola/{room}/{name}.h" for name in headers)],
        extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-g0"],
        libraries=["m"],
        optional=True,
    )


ENGINE = kernels("engine", ("arithmetic", "kernels", "convolution", "packed", "inference"))
SPARSE = kernels("sparse", ("walk",))


class Kernels(build_ext):
    """Kernels are loaded as plain libraries, so that one file is for every Python: `_kernels.so`, without a version."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"


class Wheel(bdist_wheel):
    """One wheel for each platform, of whatever Python; for any platform where no kernels could be compiled."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        compiled = any(Path(self.bdist_dir).rglob("_kernels.so"))
        return "py3", "none", platform if compiled else "any"


setup(ext_modules=[ENGINE, SPARSE], cmdclass={"build_ext": Kernels, "bdist_wheel": Wheel})
