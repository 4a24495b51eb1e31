"""A gradient-boosted tree on the examples that a network has: the yardstick for tables."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.data.facts import Facts
from tombola.lab.runs import Outcome, Run, Tell, untold

if TYPE_CHECKING:
    from tombola.lab.worker import Worker

SECONDS = 3e-5  # of an example, its numbers and the trees of each class


@dataclass(frozen=True, eq=False, repr=False)
class Tree(Run):
    """Histogram-based gradient boosting of scikit-learn, with its defaults, on the training examples of a split.

    Classes are asked for by their frequency, numbers by their squares; the validation set is not looked at.

    Attributes:
        source: the name of the data set.
        split_seed: which part of it is trained on.
        tree_seed: what it draws from.
        data_fingerprint: of the data set's facts, as a training has it; None in keys that came before it.
    """

    kind = "tree"
    version = 1
    later = frozenset({"data_fingerprint"})

    source: str
    split_seed: int
    tree_seed: int
    data_fingerprint: str | None = None

    @property
    def data(self) -> tuple[str, ...]:
        return (self.source,)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        return 1 + SECONDS * facts.train * facts.classes

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Grow it, and count its right answers on the test set; of numbers R2 about the training set's mean."""
        import sklearn
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        from tombola import data

        dataset = worker.dataset(self.source)
        train, _ = data.split(dataset, self.split_seed)
        inputs, tests = (
            dataset.inputs(each).flatten(1).numpy() for each in (dataset.images[train], dataset.test_images)
        )
        labels, answers = dataset.labels[train].numpy(), dataset.test_labels.numpy()
        number = dataset.facts.answers == "number"
        made = HistGradientBoostingRegressor if number else HistGradientBoostingClassifier
        seed = self.tree_seed % 2**32
        with threadpool_limits(limits=1):
            found = made(random_state=seed).fit(inputs, labels).predict(tests)
        right = 1 - ((found - answers) ** 2).sum() / (answers**2).sum() if number else (found == answers).mean()
        return Outcome({"test": float(right)}, how={"scikit-learn": sklearn.__version__})
