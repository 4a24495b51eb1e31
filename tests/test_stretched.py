"""The arm `elastic`: a search of the source, its tickets stretched to the spec's network, their controls and costs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import weights
from tombola.card import card
from tombola.cli import main
from tombola.controls.elastic import permuted_copies
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.costs import Costs
from tombola.lab.kinds import MatchedMask, Prune, StretchedMask, StretchedWeights, Train
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import Plan, plan
from tombola.lab.results import results
from tombola.lab.runs import ancestry, untold
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_checks import contradictions
from tombola.lab.store import Store
from tombola.lab.tickets import stretched_to, ticket_of
from tombola.lab.worker import Worker
from tombola.mask import Mask

SOURCE, TARGET = "lenet-20-20-10", "lenet-20-20-20-20-10"
LEVELS = 2
RECIPE: dict[str, Any] = {
    "model": TARGET,
    "data": "digits",
    "length": "30it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 1e-2},
    "schedule": {"name": "step", "milestones": ["20it"]},
}
ELASTIC: dict[str, Any] = {"source": SOURCE, "map": "interpolated"}
SPEC: dict[str, Any] = {
    "replicates": 2,
    "levels": LEVELS,
    "rewind": "6it",
    "engine": "reference",
    "arms": ["ticket", "elastic", "anywhere", "permuted", "own"],
    "recipe": RECIPE,
    "prune": {"rate": 0.4, "output_rate": 0.2},
    "evaluate": {"every": "6it", "test_every": "15it"},
    "arm": {
        "elastic": ELASTIC,
        "anywhere": {"method": "elastic", "control": "random", **ELASTIC},
        "permuted": {"method": "elastic", "control": "copies-permuted", **ELASTIC},
        "own": {"method": "elastic", "control": "own-ticket", **ELASTIC},
    },
}


def spec(**changes: Any) -> Spec:
    return Spec.model_validate(SPEC | changes)


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=spec(**changes)))


def rows(made: Plan, arm: str, replicate: int = 0) -> list[Train]:
    return [row.run for row in made.rows if (row.arm, row.replicate) == (arm, replicate)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Worker]:
    wanted, worker = planned(), Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, untold) == ("stored",), run
    return wanted, worker


# ---------------------------------------------------------------- how it is wired


def test_the_source_is_searched_from_its_own_initial_weights_and_the_target_trained_from_step_k() -> None:  # R5 K8
    """The only difference from the ticket of the target itself is from which weights and under which mask."""
    made = planned()
    for ticket, ours in zip(rows(made, "ticket"), rows(made, "elastic"), strict=True):
        start, mask = ours.start, ours.mask
        assert isinstance(start, StretchedWeights) and isinstance(mask, StretchedMask)
        both = ticket.described, ours.described
        assert {name for name in both[0] if both[0][name] != both[1][name]} == {"start", "mask"}
        assert start.stretch == mask.stretch and start.stretch.map == "0:0;1:1,2,3"
        assert (start.stretch.source.model, start.stretch.target.model) == (SOURCE, TARGET)
        assert isinstance(start.of, Train) and (start.of.until, start.of.mask) == (6, None)
        assert {run.recipe.model for run in ancestry([start, mask]) if isinstance(run, Train)} == {SOURCE}
    chain = [run.mask.like for run in rows(made, "elastic") if isinstance(run.mask, StretchedMask)]
    assert all(isinstance(each, Prune) for each in chain) and len(chain) == LEVELS
    last = chain[-1]
    assert isinstance(last, Prune) and last.mask == chain[0]
    # Nothing of the source is another run than in an experiment of its own.
    own = planned(arms=["ticket"], arm={}, recipe=RECIPE | {"model": SOURCE})
    assert set(chain) <= set(own.runs)


def test_a_map_in_words_and_the_same_written_out_are_the_same_runs() -> None:
    one, other = (
        planned(arms=["ticket", "elastic"], arm={"elastic": {"source": SOURCE, "map": how}})
        for how in ("interpolated", "0:0;1:1,2,3")
    )
    assert one.runs == other.runs


def test_of_the_network_itself_it_is_the_iterative_search() -> None:
    made = planned(arms=["ticket", "elastic"], arm={})
    assert rows(made, "elastic") == rows(made, "ticket")
    made = planned(arms=["ticket", "elastic"], arm={}, prune={"basis": "dct"})
    assert rows(made, "elastic") == rows(made, "ticket")
    turned = planned(arms=["ticket", "elastic"], arm={"elastic": {"source": TARGET, "map": "0:0;1:2;2:1;3:3"}})
    assert not {run.key for run in rows(turned, "elastic")} & {run.key for run in rows(turned, "ticket")}


# ---------------------------------------------------------------- as it is performed


def test_the_tickets_are_the_sources_stretched(done: tuple[Plan, Worker]) -> None:
    made, worker = done
    for run in rows(made, "elastic"):
        start, mask = run.start, run.mask
        assert isinstance(start, StretchedWeights) and isinstance(mask, StretchedMask)
        theirs, ours = worker.store.weights(start.of), worker.store.weights(start)
        alive, stretched = worker.store.mask(mask.like), worker.store.mask(mask)
        # fc1 and the layer before the output one to one; of the second layer three copies.
        copied = {"fc1": "fc1", "fc2": "fc2", "fc3": "fc2", "fc4": "fc2", "fc5": "fc3", "output": "output"}
        for name, source in copied.items():
            assert torch.equal(ours[f"{name}.weight"], theirs[f"{source}.weight"])
            assert torch.equal(ours[f"{name}.bias"], theirs[f"{source}.bias"])
            assert torch.equal(stretched[f"{name}.weight"], alive[f"{source}.weight"])
        assert weights.equal(worker.store.living(run) or {}, stretched)


def test_counts_are_as_expected_from_the_map_before_anything_is_trained(done: tuple[Plan, Worker]) -> None:
    made, worker = done
    costs = Costs(made.experiment, made.runs)
    for run in rows(made, "elastic"):
        assert run.mask and costs.counts(run.mask) == worker.store.mask(run.mask).counts
        alive = worker.store.values(run)["alive"]
        assert alive == sum(costs.counts(run.mask).values())


def test_copies_are_permuted_and_all_else_is_the_tickets(done: tuple[Plan, Worker]) -> None:  # K1 K3
    made, worker = done
    for run, control in zip(rows(made, "elastic"), rows(made, "permuted"), strict=True):
        assert control.start == run.start and run.mask and control.mask
        ticket, permuted = worker.store.mask(run.mask), worker.store.mask(control.mask)
        assert permuted.counts == ticket.counts
        other = {name for name in ticket if not torch.equal(ticket[name], permuted[name])}
        assert other == {"fc3.weight", "fc4.weight"}, "the first of three keeps its mask"
        assert not torch.equal(permuted["fc3.weight"], permuted["fc4.weight"])


@pytest.mark.parametrize(("scope", "target"), [("layer", TARGET), ("global", TARGET), ("global", "lenet-20-10")])
def test_the_networks_own_ticket_has_as_many_weights_and_is_pruned_by_its_own_search(
    scope: str, target: str, tmp_path: Path
) -> None:
    """More or fewer of the round go than went; of the ticket arm it is another mask, never another start."""
    source = SOURCE if target == TARGET else "lenet-20-20-10"
    arm = {name: each | {"source": source, "map": "appended"} for name, each in SPEC["arm"].items()}
    changes = {"recipe": RECIPE | {"model": target}, "arm": {name: arm[name] for name in ("elastic", "own")}}
    made = planned(arms=["ticket", "elastic", "own"], replicates=1, prune={"rate": 0.4, "scope": scope}, **changes)
    store = Store(tmp_path / "store").open()
    worker, differ = Worker(store, None), list[bool]()
    for run in made.runs:
        assert do(run, worker, untold) == ("stored",), run
    for ticket, stretched, own in zip(rows(made, "ticket"), rows(made, "elastic"), rows(made, "own"), strict=True):
        assert isinstance(own.mask, MatchedMask) and own.start == ticket.start and stretched.mask
        assert isinstance(ticket.mask, Prune) and own.mask.trained == ticket.mask.trained
        wanted, found, plain = (store.mask(mask) for mask in (stretched.mask, own.mask, ticket.mask))
        assert found.alive == wanted.alive
        differ.append(found.alive != plain.alive)
        smaller, larger = sorted((found, plain), key=lambda each: each.alive)
        assert all(bool((larger[name] | ~smaller[name]).all()) for name in larger), "of the same order of weights"
    assert any(differ) == (scope == "global")


def test_a_mask_without_copies_has_none_to_permute() -> None:
    with pytest.raises(BadInput, match="one whose layers all have masks of their own"):
        permuted_copies(Mask({"fc1.weight": torch.tensor([[True]]), "fc2.weight": torch.tensor([[False]])}), 0)


def test_the_search_costs_what_the_sources_does(done: tuple[Plan, Worker]) -> None:
    """In the columns of cost: the source's own search at that level, of whose ticket the target's training is not."""
    made, worker = done
    own = planned(arms=["ticket"], arm={}, recipe=RECIPE | {"model": SOURCE})
    costs, theirs = Costs(made.experiment, made.runs, worker.store), Costs(own.experiment, own.runs, worker.store)
    found = {(row.arm, row.level): costs.of(row) for row in made.rows if row.replicate == 0}
    source = {(row.arm, row.level): theirs.of(row) for row in own.rows if row.replicate == 0}
    for level in (1, 2):
        assert found["elastic", level].search == source["ticket", level].search
        assert found["elastic", level].search.ideal < found["ticket", level].search.ideal
        assert found["anywhere", level].search == found["elastic", level].search


def test_a_ticket_of_the_experiment_is_squeezed_as_the_arm_would_have_it(done: tuple[Plan, Worker]) -> None:
    made, worker = done
    ticket = ticket_of(made, worker.store, level=2, replicate=0)
    squeezed = stretched_to(ticket, made, SOURCE, "interpolated")
    assert squeezed.origin["elastic"] == {"model": TARGET, "density": ticket.mask.density, "map": "0:0;1:1"}
    assert squeezed.origin["model"] == SOURCE and squeezed.origin["key"] == ticket.origin["key"]
    assert torch.equal(squeezed.mask["fc3.weight"], ticket.mask["fc5.weight"])
    assert "elastic: from the ticket of lenet-20-20-20-20-10, density" in card(
        "a/b", "it", squeezed.mask, squeezed.origin
    )


def test_a_map_without_a_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ticket", "digits-lenet", "--level", "2", "-o", "x.safetensors", "--map", "interpolated"]) == 2
    assert "--map: expected --to MODEL beside it, found interpolated" in " ".join(capsys.readouterr().err.split())


def test_the_verdict_has_controls_and_densities(done: tuple[Plan, Worker]) -> None:
    made, worker = done
    found = results(made, worker.store)
    said = " ".join(found.sentences)
    for level, tickets in enumerate(zip(rows(made, "ticket"), rows(made, "ticket", 1), strict=True), start=1):
        own = [worker.store.values(run)["density"] for run in tickets]
        assert sorted(found.densities(level)) == sorted(own), "what is said of a level has the ticket's density"
    assert "elastic: its masks are those of lenet-20-20-10 by the map 0:0;1:1,2,3; what that leaves is" in said
    for words in (
        "the same stretched ticket with the masks of the copies permuted",
        "a random mask with the same",
    ):
        assert words in said


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"arm": {"elastic": {"source": "lenet"}}}, "arm.elastic.source", "hidden widths"),
        ({"arm": {"elastic": {"source": "resnet-20"}}}, "arm.elastic", ""),
        ({"arm": {"elastic": {"source": "lenet-20-10"}}}, "arm.elastic.map", "a block that can be replicated"),
        ({"arm": {"elastic": ELASTIC | {"map": "0:0"}}}, "arm.elastic.map", "each block of the target once"),
        ({"arm": {"elastic": ELASTIC | {"retrain": True}}}, "arm.elastic.retrain", "no such choice"),
        ({"arm": {"elastic": ELASTIC | {"lr": 0.1}}}, "arm.elastic.lr", "no such choice"),
        (
            {"arm": {"elastic": ELASTIC | {"source": f"{SOURCE}+dct"}}},
            "arm.elastic.source",
            "weights are made as those",
        ),
        ({"arm": {"elastic": ELASTIC}, "prune": {"basis": "dct"}}, "arm.elastic.source", "none beside prune.basis"),
        (
            {
                "arm": {"elastic": ELASTIC | {"source": f"{SOURCE}+orthogonal~7"}},
                "recipe": RECIPE | {"model": f"{TARGET}+orthogonal~7"},
            },
            "arm.elastic.source",
            "none beside a model of coordinates",
        ),
        ({"arm": {"elastic": ELASTIC}, "carry_optimizer": True}, "arm.elastic.source", "carry_optimizer"),
        (
            {"arm": {"elastic": ELASTIC}, "prune": {"keep": ["fc5.weight"]}},
            "arm.elastic.source",
            "prune.keep leaves fc3.weight as it leaves fc5.weight",
        ),
        ({"arm": {"elastic": ELASTIC}, "prune": {"include": ["fc1.bias"]}}, "arm.elastic.source", "prune.include"),
        ({"arms": ["ticket", "copies-permuted"], "arm": {}}, "arms", "controls of tickets that iterative makes so"),
        (
            {
                "arms": ["ticket", "elastic", "permuted"],
                "recipe": RECIPE | {"model": SOURCE},
                "arm": {
                    "elastic": {"source": TARGET},
                    "permuted": {"method": "elastic", "control": "copies-permuted", "source": TARGET},
                },
            },
            "arms",
            "no block of it has a copy",
        ),
    ],
)
def test_what_cannot_be_stretched_is_refused_before_anything_is_trained(
    changes: dict[str, Any], path: str, said: str
) -> None:
    made = spec(**({"arms": ["ticket", "elastic"]} | changes))
    found = [fault for fault in contradictions(made, BUILT_IN) if fault.path.startswith(path)]
    assert found and said in str(found[0]), [str(fault) for fault in contradictions(made, BUILT_IN)]


def test_layers_that_are_kept_by_kind_are_kept_in_both() -> None:
    made = spec(arms=["ticket", "elastic"], arm={"elastic": ELASTIC}, prune={"keep": ["output"]})
    assert not list(contradictions(made, BUILT_IN))
