"""The search methods: each a generator of trainings, level by level, level 0 dense, in the file of its kind."""

from tombola.method import Method
from tombola.methods import (
    at_initialisation,
    colt,
    deterministic,
    dual,
    early_bird,
    elastic,
    elsewhere,
    generalised,
    rewinding,
    signs,
    sparse_training,
    supermasks,
)

METHODS: dict[str, Method] = {
    **rewinding.METHODS,
    **at_initialisation.METHODS,
    **elsewhere.METHODS,
    **elastic.METHODS,
    **early_bird.METHODS,
    **colt.METHODS,
    **dual.METHODS,
    **generalised.METHODS,
    **sparse_training.METHODS,
    **signs.METHODS,
    **supermasks.METHODS,
    **deterministic.METHODS,
}
