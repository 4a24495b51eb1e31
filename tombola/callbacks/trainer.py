"""Tickets in Hugging Face's Trainer: each `Trainer.train` is one level of a search."""

from typing import Any

from tombola.callbacks import SearchCallback
from tombola.errors import not_installed

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise not_installed("tombola.callbacks.trainer", "transformers and accelerate", "transformers") from error


class Tickets(SearchCallback, TrainerCallback):
    """Makes each `train` one level of a `Search`: rewinds on the way in, holds pruned weights at 0, prunes at the end.

    Every level needs a Trainer of its own around the same model, which makes optimiser and scheduler as it does anyway:

        tickets = Tickets(levels=10, rate=0.1, keep=["classifier*"])
        while tickets.left:
            Trainer(model, arguments, train_dataset=data, callbacks=[tickets]).train()
        ticket = tickets.search.ticket(level=7)

    What the trainer evaluates is reported: `tickets.search.history`.

    Args:
        levels: how many times to prune; there are `levels + 1` trainings.
        options: as `Search` has them; with a `path` that is there already, its search goes on.
            Optimiser and scheduler are the trainer's.

    Raises:
        BadInput: at the first training, where an option or the model does not fit.
    """

    _replayed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser is made, and before loaders draw their order."""
        self._from_step_0("train", state.global_step)
        self._begin(kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note whether this step is one of the replay."""
        self._replayed = self._replays

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Of a replay of level 0 nothing is kept, and nothing was best."""
        if self._replays:
            control.should_save = False
        elif self._replayed:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As `on_step_end`."""
        if self._replays:
            control.should_save = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was measured."""
        if self._level:
            metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
            self._level.report(**{name: value for name, value in metrics.items() if isinstance(value, int | float)})
        else:
            self._check_loaded(kwargs["model"])

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Look whether it is the ticket that was loaded."""
        self._check_loaded(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prune."""
        self._end()
