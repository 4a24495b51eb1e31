"""How long the formats of a layer take, guessed from its size: what a plan goes by until they are measured."""

from tombola.engine import kernels
from tombola.engine.native.layer_formats import Shape
from tombola.sparse.times import DENSITIES, Times

PER_PRODUCT = {"avx512": 15e-12, "avx2": 35e-12, "portable": 110e-12}  # seconds of a multiply-add between two matrices
SPARSE = 1.7  # a living weight that is visited by itself, over one in a matrix
PER_VALUE, PER_VALUE_OF_MAPS = 10, 100  # what comes in or goes out, bringing into order and clearing, over a product


def guessed(shape: Shape) -> Times:
    """What the formats take on a processor of some years ago; of the plain loop nothing is said.

    >>> times = guessed(Shape(784, 300, batch=60, first=True))
    >>> times.dense / times.sparse_at(0.1) > 4
    True
    """
    positions = shape.height * shape.width * shape.batch
    each = PER_PRODUCT[kernels.sets()[-1]]
    products = (2 if shape.first else 3) * shape.inputs * shape.outputs * max(shape.window, 1) ** 2 * positions
    values = (PER_VALUE_OF_MAPS if shape.window else PER_VALUE) * (shape.inputs + shape.outputs) * positions
    sparse = tuple(each * (SPARSE * density * products + values) for density in DENSITIES)
    return Times(each * (products + values), sparse)
