"""What each row of a table costs: what its search took, and its own training, in multiply-adds and in seconds.

Of a row's runs its training is its own; of a dense row the way to its rewind point, too. Its search is everything else
that it needs, each run once, whoever else needs it: what an arm costs is what it would cost by itself. The rule by
which multiply-adds are counted is in `tombola.macs`; docs/costs.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tombola import data, models
from tombola.data.facts import Facts
from tombola.engine.native import sparse_layers
from tombola.lab.row import Row
from tombola.lab.runs import Network, Run
from tombola.lab.spec import Experiment
from tombola.lab.store import Store
from tombola.macs import Macs, examples, forward
from tombola.models.layer import Layer
from tombola.score import Score


@dataclass(frozen=True)
class Cost:
    """What a row costs.

    Attributes:
        search, training: multiply-adds.
        search_seconds, training_seconds: that these runs took, as measured; None where a run is not in the store.
        dense: the multiply-adds of one dense training of the network, from its first step on.
    """

    search: Macs
    training: Macs
    search_seconds: float | None
    training_seconds: float | None
    dense: int

    @property
    def dense_trainings(self) -> float:
        """Search and training together, ideally, in dense trainings."""
        return (self.search.ideal + self.training.ideal) / self.dense

    @property
    def record(self) -> dict[str, Any]:
        """The same by the names of the table's columns."""
        return {
            "search_macs": self.search.ideal,
            "training_macs": self.training.ideal,
            "search_macs_executed": self.search.executed,
            "training_macs_executed": self.training.executed,
            "dense_trainings": round(self.dense_trainings, 6),
            "search_seconds": _rounded(self.search_seconds),
            "training_seconds": _rounded(self.training_seconds),
        }


class Costs:
    """What is known of an experiment's runs, as `lab.runs.Known` has it, and what its rows cost by that.

    Args:
        experiment: whose network and scores these are.
        runs: all that its rows need, inputs first.
        store: what is done of them; None to expect everything.
    """

    def __init__(self, experiment: Experiment, runs: Iterable[Run], store: Store | None = None) -> None:
        self._spec, self._scores = experiment.spec, experiment.members.scores
        self._store, self._done = store, store.keys() if store else set[str]()
        self._counts: dict[str, Mapping[str, int]] = {}
        self._place: dict[str, int] = {}
        self._needed: list[int] = []  # of each run, in bits: sets of this size would take a thousand times the memory
        self._macs: list[Macs] = []
        self._seconds: list[float | None] = []
        self._facts: dict[str, Facts] = {}
        self._networks: dict[Network, tuple[Mapping[str, Layer], int]] = {}
        for run in runs:
            place = self._place[run.key] = len(self._macs)
            self._needed.append(1 << place)
            for each in run.inputs:
                self._needed[place] |= self._needed[self._place[each.key]]
            self._macs.append(run.macs(self))
            self._seconds.append(self._how(run).get("seconds"))

    @property
    def scores(self) -> Mapping[str, Score]:
        """Those that a pruning may name."""
        return self._scores

    def facts(self, data_set: str) -> Facts:
        """Of a data set; a folder's are read once."""
        if data_set not in self._facts:
            self._facts[data_set] = data.facts(data_set)
        return self._facts[data_set]

    def layers(self, network: Network) -> Mapping[str, Layer]:
        """Of a network, by the name of their weight."""
        return self._network(network)[0]

    def values(self, run: Run) -> Mapping[str, Any]:
        """The numbers of a finished run; none of one that is not done."""
        return self._store.values(run) if self._store and run.key in self._done else {}

    def counts(self, mask: Run | None) -> Mapping[str, int]:
        """How many weights of each layer live under the mask that a run made, or is expected to make."""
        if mask is None:
            return {}
        if mask.key not in self._counts:
            self._counts[mask.key] = self.values(mask).get("counts") or mask.counts(self)
        return self._counts[mask.key]

    def forward(self, network: Network, living: Mapping[str, int], by: Run | None = None) -> Macs:
        """What an example takes forwards, with so many living weights; executed by the engine of `by`, or densely.

        Where they are coordinates in a basis of which every weight is made, none can be skipped, whatever lives.
        """
        layers, products = self._network(network)
        living = models.multiplied(network.model, layers, living)
        sparse = sparse_layers(self._how(by).get("engine", "")) if by else ()
        multiplied = {name: living[name] for name in sparse if name in living}
        return Macs(forward(layers, living, products), forward(layers, multiplied, products))

    def of(self, row: Row) -> Cost:
        """What a row costs."""
        whole = self._needed[self._place[row.run.key]]
        own = whole if row.level == 0 else 1 << self._place[row.run.key]
        search, training = list(_places(whole & ~own)), list(_places(own))
        return Cost(
            sum((self._macs[place] for place in search), Macs()),
            sum((self._macs[place] for place in training), Macs()),
            _total(self._seconds[place] for place in search),
            _total(self._seconds[place] for place in training),
            self._dense(),
        )

    def _dense(self) -> int:
        spec, facts = self._spec, self._spec.facts
        layers, products = self._network(Network(spec.recipe.model, facts.shape, facts.classes))
        seen = examples(0, spec.iterations(spec.recipe.length), facts.train, spec.recipe.batch)
        return spec.recipe.forwards * seen * forward(layers, {}, products)

    def _network(self, network: Network) -> tuple[Mapping[str, Layer], int]:
        if network not in self._networks:
            name, shape = network.model, network.shape
            self._networks[network] = models.layers(name, shape, network.classes), models.products(name, shape)
        return self._networks[network]

    def _how(self, run: Run) -> Mapping[str, Any]:
        return self._store.provenance(run) if self._store and run.key in self._done else {}


def _places(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _total(seconds: Iterable[float | None]) -> float | None:
    known = list(seconds)
    return None if None in known else sum(each for each in known if each is not None)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
