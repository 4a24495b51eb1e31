"""Tickets in Lightning: each `Trainer.fit` is one level of a search."""

from copy import deepcopy
from typing import Any

from tombola.callbacks import SearchCallback
from tombola.errors import BadInput, not_installed

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise not_installed("tombola.callbacks.lightning", "lightning", "lightning") from error


class Tickets(SearchCallback, Callback):
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

    _before: list[Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before loaders draw their order, and after optimisers are made."""
        if len(trainer.optimizers) != 1:
            raise BadInput(
                where=type(pl_module).__name__,
                expected="one optimizer",
                found=str(len(trainer.optimizers)),
                todo="Search around a loop of your own instead.",
            )
        if getattr(trainer, "fast_dev_run", False) and self._options.get("path"):
            raise BadInput(
                where="Tickets(path=...)",
                expected="a training that is meant",
                found="Trainer(fast_dev_run=...), whose few steps the file would hold as a level",
                todo="Leave `path` out of a trial.",
            )
        self._from_step_0("fit", trainer.global_step)
        self._begin(pl_module, trainer.optimizers[0], [each.scheduler for each in trainer.lr_scheduler_configs])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By now a checkpoint would have been put in place, and the callbacks that keep the best know their folder."""
        self._from_step_0("fit", trainer.global_step)
        self._before = [deepcopy(each.state_dict()) for each in _comparing(trainer)] if self._replays else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *which: Any) -> None:
        """At the rewind point: what was best in the replay of level 0 is not this level's best."""
        if self._before is not None and not self._replays:
            for callback, state in zip(_comparing(trainer), self._before, strict=True):
                callback.load_state_dict(state)
            self._before = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Outside of a training: look whether it is the ticket that was loaded."""
        self._check_loaded(pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *which: Any) -> None:
        """Make sure that it is the ticket which is measured: some callbacks put other weights in its place."""
        if self._level and not trainer.sanity_checking:
            self._level.check()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was logged."""
        if self._level and not trainer.sanity_checking:
            self._level.report(**{name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """What has no training has no end of it."""
        if self._level:
            self._leave()
            raise BadInput(
                where="Trainer.fit", expected="a training", found="none", todo="max_epochs=1, at least, makes one."
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the level up."""
        self._leave()


def _comparing(trainer: Trainer) -> list[Any]:
    """The callbacks that know what was best so far."""
    return [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]
