"""Compiles the kernels. Where that cannot be done the installation goes on without them."""

from setuptools import Extension, setup

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

setup(ext_modules=[ENGINE, SPARSE])
