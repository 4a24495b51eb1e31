"""Tickets in Hugging Face's Trainer: each `Trainer.train` is one level of a search."""

from typing import Any

from tombola.callbacks import levels_left
from tombola.errors import BadInput
from tombola.search import Level, Search

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise BadInput(
        where="tombola.callbacks.trainer",
        expected="the packages transformers and accelerate",
        found="that they are not installed",
        todo="pip install 'tombola[transformers]'",
    ) from error


class Tickets(TrainerCallback):
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

    def __init__(self, *, levels: int, **options: Any) -> None:
        self._options = {"levels": levels, **options}
        self._search: Search | None = None
        self._level: Level | None = None

    @property
    def search(self) -> Search:
        """The search, from the first training on."""
        if self._search is None:
            raise BadInput(where="search", expected="a training before", found="none", todo="Call Trainer.train.")
        return self._search

    @property
    def left(self) -> int:
        """How many trainings there are to come."""
        return self._search.left if self._search else levels_left(self._options)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser is made, and before loaders draw their order."""
        # The trainer wraps its optimiser; steps that the wrapper only counts are not the optimiser's.
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        if self._search is None:
            self._search = Search.opened(kwargs["model"], optimizer, kwargs["lr_scheduler"], self._options)
        self._search.leave()  # a training that failed says nothing
        self._level = self._search.begin(optimizer, kwargs["lr_scheduler"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was measured."""
        if self._level:
            metrics = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
            self._level.report(**{name: value for name, value in metrics.items() if isinstance(value, int | float)})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prune."""
        self._level = None
        self.search.finish()
