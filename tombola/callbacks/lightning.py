"""Tickets in Lightning: each `Trainer.fit` is one level of a search."""

from typing import Any

from tombola.callbacks import levels_left
from tombola.errors import BadInput
from tombola.search import Level, Search

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise BadInput(
        where="tombola.callbacks.lightning",
        expected="the package lightning",
        found="that it is not installed",
        todo="pip install 'tombola[lightning]'",
    ) from error


class Tickets(Callback):
    """Makes each `fit` one level of a `Search`: rewinds on the way in, holds pruned weights at 0, prunes at the end.

    Every level needs a Trainer of its own, which makes optimiser and scheduler as it does anyway:

        tickets = Tickets(levels=10, rewind="500it")
        while tickets.left:
            Trainer(max_epochs=10, callbacks=[tickets]).fit(module, loader)
        ticket = tickets.search.ticket(level=7)

    What the module logs in validation is reported: `tickets.search.history`.

    Args:
        levels: how many times to prune; there are `levels + 1` fits.
        options: as `Search` has them; with a `path` that is there already, its search goes on.
            Optimiser and schedulers are the trainer's.

    Raises:
        BadInput: at the first fit, where an option or the module does not fit, or it has not one optimiser.
    """

    def __init__(self, *, levels: int, **options: Any) -> None:
        self._options = {"levels": levels, **options}
        self._search: Search | None = None
        self._level: Level | None = None

    @property
    def search(self) -> Search:
        """The search, from the first fit on."""
        if self._search is None:
            raise BadInput(where="search", expected="a fit before", found="none", todo="Call Trainer.fit.")
        return self._search

    @property
    def left(self) -> int:
        """How many fits there are to come."""
        return self._search.left if self._search else levels_left(self._options)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before loaders draw their order, and after optimisers are made."""
        if len(trainer.optimizers) != 1:
            raise BadInput(
                where=type(pl_module).__name__,
                expected="one optimizer",
                found=str(len(trainer.optimizers)),
                todo="Search around a loop of your own instead.",
            )
        if trainer.global_step:
            raise BadInput(
                where="Trainer.fit",
                expected="a Trainer of its own for every level",
                found=f"one that has taken {trainer.global_step} steps",
                todo="Make it inside of the loop over the levels.",
            )
        optimizer, schedulers = trainer.optimizers[0], [each.scheduler for each in trainer.lr_scheduler_configs]
        if self._search is None:
            self._search = Search.opened(pl_module, optimizer, schedulers, self._options)
        self._level = self._search.begin(optimizer, schedulers)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was logged."""
        if self._level and not trainer.sanity_checking:
            self._level.report(**{name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune."""
        self._level = None
        self.search.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the level up."""
        self._level = None
        if self._search:
            self._search.leave()
