"""Controls: each is its ticket with one field replaced. What a difference from the ticket shows is said beside it.

To add one: write a function like `redrawn.reinit`, and declare it in the `CONTROLS` of its file, or of a new file whose
table is joined here. The lab makes runs with it, `Search.verify` masks and weights: which of the two is the replicate's
business.
"""

from tombola.control import Control as Control
from tombola.controls import (
    across_layers,
    distilled,
    dual,
    elastic,
    noise,
    pruned,
    redrawn,
    sanity,
    signs,
    sparse_init,
    survivors,
)

CONTROLS: dict[str, Control] = {
    **redrawn.CONTROLS,
    **across_layers.CONTROLS,
    **sanity.CONTROLS,
    **survivors.CONTROLS,
    **pruned.CONTROLS,
    **signs.CONTROLS,
    **sparse_init.CONTROLS,
    **noise.CONTROLS,
    **distilled.CONTROLS,
    **dual.CONTROLS,
    **elastic.CONTROLS,
}
