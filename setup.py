"""Compiles the engine's kernels. Where that cannot be done the installation goes on without them."""

from setuptools import Extension, setup

# optional: no compiler is no reason not to install; `tombola plan` then says that the plain loop is used.
# A product and a sum are one operation only where the kernels say so, on every machine and with every compiler alike.
# -g0: the same source makes the same bytes, wherever it lies; what was measured is kept under their hash.
KERNELS = Extension(
    "tombola.engine._kernels",
    sources=["tombola/engine/kernels.c"],
    depends=[f"tombola/engine/{name}.h" for name in ("kernels", "convolution", "packed", "inference", "undefine")],
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-g0"],
    libraries=["m"],
    optional=True,
)

setup(ext_modules=[KERNELS])
