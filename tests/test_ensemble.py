"""Ensembles: what several networks are worth together, whose they are, and one network out of several."""

import re
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import models, weights
from tombola.cli import main
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Average, Measured, Pool, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.ensemble import KINDS, BestFinding, EnsembleFinding
from tombola.lab.worker import Worker
from tombola.study.at_equal_cost import Asked, best, sentence
from tombola.study.calibration import calibration
from tombola.study.ensemble import Ensemble, judge
from tombola.ticket import Ticket

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=60it", "evaluate.every=30it"]
ALL = "kinds=[" + ", ".join(f"'{name}'" for name in KINDS) + "]"
ASKED = [f"study.ensemble={{levels=[1,2],members=2,{ALL}}}"]


def drawn(seed: int, members: int, examples: int = 40, classes: int = 5) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(members, examples, classes, generator=generator)
    return list(logits), torch.randint(classes, (examples,), generator=generator)


def numbers(found: Ensemble) -> list[float]:
    return [
        *(getattr(found.whole, name) for name in ("accuracy", "nll", "brier", "ece")),
        found.disagreement,
        found.kl,
        found.js,
    ]


# ---------------------------------------------------------------- laws of judging


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_an_ensemble_of_one_network_repeated_is_that_network(seed: int, times: int) -> None:
    (logits,), labels = drawn(seed, 1)
    found, alone = judge([logits] * times, labels), calibration(logits, labels)
    for name in ("accuracy", "nll", "brier", "ece"):
        assert getattr(found.whole, name) == pytest.approx(getattr(alone, name), abs=1e-12)
    assert found.members == (alone,) * times and (found.disagreement, found.kl) == (0, 0)
    assert found.js == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10**6))
def test_the_order_of_members_changes_nothing(seed: int) -> None:
    logits, labels = drawn(seed, 4)
    found, other = judge(logits, labels), judge(logits[::-1], labels)
    assert numbers(other) == pytest.approx(numbers(found), abs=1e-12)
    assert other.members == found.members[::-1]


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_an_ensemble_is_what_plain_arithmetic_says(seed: int, members: int) -> None:
    """NumPy, member by member and example by example."""
    logits, labels = drawn(seed, members, examples=12, classes=3)
    p = [np.exp(each.numpy().astype(float)) for each in logits]
    p = [each / each.sum(1, keepdims=True) for each in p]
    whole, answers, found = sum(p) / members, labels.numpy(), judge(logits, labels)
    assert found.whole.nll == pytest.approx(
        np.mean([-log(row[label]) for row, label in zip(whole, answers, strict=True)])
    )
    assert found.whole.accuracy == np.mean(whole.argmax(1) == answers)
    ordered = [(i, j) for i in range(members) for j in range(members) if i != j]
    kl = [np.mean([sum(a * np.log(a / b)) for a, b in zip(p[i], p[j], strict=True)]) for i, j in ordered]
    assert found.kl == pytest.approx(np.mean(kl))
    middles = [(p[i], (p[i] + p[j]) / 2) for i, j in ordered]
    assert found.js == pytest.approx(np.mean([np.mean((a * np.log(a / m)).sum(1)) for a, m in middles]))
    assert found.disagreement == pytest.approx(np.mean([np.mean(p[i].argmax(1) != p[j].argmax(1)) for i, j in ordered]))


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_together_members_are_no_less_likely_than_alone_on_average(seed: int, members: int) -> None:
    """Jensen: the logarithm, and the square, of a mean; and the Jensen-Shannon divergence is below ln 2."""
    logits, labels = drawn(seed, members)
    found = judge(logits, labels)
    for name in ("nll", "brier"):
        alone = sum(getattr(member, name) for member in found.members) / members
        assert getattr(found.whole, name) <= alone + 1e-12
    assert 0 <= found.js <= log(2) and found.kl >= 0


def test_members_without_a_doubt_are_judged_too() -> None:
    """A probability that is 0 in double precision is none of a logarithm."""
    sure, other = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    found = judge([sure, other], torch.tensor([0]))
    assert found.whole.nll == pytest.approx(log(2)) and found.js == pytest.approx(log(2)) and found.kl == 1000


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([], "one member or more"),
        ([torch.zeros(3, 2), torch.zeros(4, 2)], r"all of one shape.*\(3, 2\), \(4, 2\)"),
        ([torch.zeros(3)], "examples x classes"),
        ([torch.full((3, 2), 0.5)], "rows that are probabilities"),
    ],
)
def test_what_is_no_ensemble_is_refused(logits: list[torch.Tensor], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        judge(logits, torch.tensor([0, 1, 1]))


def test_the_page_on_ensembles_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "ensembles.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert "together 0." in capsys.readouterr().out
    for kind in KINDS:
        assert f"| `{kind}` |" in page


# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Worker]:
    wanted = plan(read("digits-lenet", [*CHANGES, *ASKED]))
    worker = Worker(Store(tmp_path_factory.mktemp("ensemble")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return wanted, worker


def members_of(wanted: Plan, kind: str, level: int, replicate: int) -> list[Any]:
    (run,) = (
        question.run
        for question in wanted.questions
        if (question.part, question.level, question.replicate) == (kind, level, replicate)
    )
    assert isinstance(run, Measured)
    return [run.trained, *(training for _, training in run.further or ())]


def rows_of(wanted: Plan) -> dict[tuple[str, int, int], Train]:
    return {(row.arm, row.level, row.replicate): row.run for row in wanted.rows}


def test_members_are_the_networks_that_their_kind_says(done: tuple[Plan, Worker]) -> None:
    wanted, _ = done
    rows = rows_of(wanted)
    for replicate in (0, 1):
        for level in (1, 2):
            ticket = rows["ticket", level, replicate]
            first, other = members_of(wanted, "orders", level, replicate)
            assert first == ticket and other == replace(ticket, order_seed=other.order_seed) != ticket
            before = rows["ticket" if level > 1 else "dense", level - 1, replicate]
            assert members_of(wanted, "levels", level, replicate) == [ticket, before]
            (average,) = members_of(wanted, "average", level, replicate)
            assert isinstance(average, Average) and average.trained == (first, other)
            (pool,) = members_of(wanted, "pool", level, replicate)
            assert isinstance(pool, Pool) and pool.target == ticket and not pool.pooled
            others = [rows["dense", 0, replicate], rows["ticket", 3 - level, replicate]]
            assert list(pool.neighbours) == (others if level == 1 else others[::-1]), "the nearest first"
            assert members_of(wanted, "replicates", level, 1) == [rows["ticket", level, 1], rows["ticket", level, 0]]
        first, other = members_of(wanted, "dense", 0, replicate)
        assert first == rows["dense", 0, replicate] and other == replace(first, order_seed=other.order_seed)


def test_dynamic_sparse_trainings_are_apart_from_the_first_step_or_leave_each_other_by_a_large_move(
    done: tuple[Plan, Worker],
) -> None:
    wanted, worker = done
    for level in (1, 2):
        first, other = members_of(wanted, "dst", level, 0)
        assert first.start != other.start and first.order_seed != other.order_seed
        masks = [worker.store.mask(each.mask) for each in (first, other)]
        assert masks[0] != masks[1] and masks[0].counts == masks[1].counts
        explored, refined = members_of(wanted, "edst", level, 0)
        assert refined.start == refined.mask == explored
        assert (refined.begin, refined.until) == (36, 60), "three fifths of the training are for exploration"
        before, after = worker.store.mask(explored), worker.store.mask(refined)
        assert before.counts == after.counts and before != after


def test_what_is_measured_are_the_networks_outputs_on_the_test_set(done: tuple[Plan, Worker]) -> None:
    wanted, worker = done
    for question in wanted.questions:
        run = question.run
        assert isinstance(run, Measured)
        dataset = worker.placed(run.recipe)
        logits, alive = [], []
        for member in (run.trained, *(training for _, training in run.further or ())):
            model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
            weights.put(model, worker.store.weights(member))
            with torch.no_grad():
                logits.append(model(dataset.inputs(dataset.test_images)))
            living = worker.store.living(member)
            alive.append(living.alive if living else 20 * 64 + 10 * 20 + 10 * 10)
        found, values = judge(logits, dataset.test_labels), worker.store.values(run)
        assert values["whole"]["nll"] == pytest.approx(found.whole.nll, rel=1e-5)
        assert values["disagreement"] == pytest.approx(found.disagreement)
        assert values["macs"] == sum(alive), "in these layers each weight is used once"
        assert values["parameters"] == sum(alive) + len(alive) * (20 + 10 + 10)
        assert values["dense"] == {"parameters": 1620, "macs": 1580}


def test_the_average_of_one_network_with_itself_is_that_network(done: tuple[Plan, Worker]) -> None:
    wanted, worker = done
    ticket = rows_of(wanted)["ticket", 2, 0]
    made = Average.of([ticket] * 3)
    assert do(made, worker, lambda *_: None) == ("stored",)
    store = worker.store
    assert weights.equal(store.weights(made), store.weights(ticket)) and store.mask(made) == store.living(ticket)


def test_new_statistics_are_told_apart_from_an_average(tmp_path: Path) -> None:
    """A network with batch norms: the ticket's weights with statistics that are those of all training images."""
    network = ["levels=1", "replicates=1", "recipe.model=resnet-8-w2", "recipe.length=20it", "evaluate.every=20it"]
    kinds = "study.ensemble={levels=[1],members=2,kinds=['statistics','average']}"
    wanted, worker = plan(read("digits-lenet", [*network, kinds])), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (made,), ticket = members_of(wanted, "statistics", 1, 0), rows_of(wanted)["ticket", 1, 0]
    own, anew = worker.store.weights(ticket), worker.store.weights(made)
    moved = {name for name in own if not torch.equal(own[name], anew[name])}
    assert moved and all("running" in name or "num_batches" in name for name in moved)
    dataset, (train, _) = worker.placed(ticket.recipe), worker.split(ticket.recipe, ticket.split_seed)
    batches = dataset.inputs(dataset.images[train[: len(train) // 60 * 60]]).split(60)
    stems = [nn.functional.conv2d(batch, own["stem.conv.weight"], padding=1).mean((0, 2, 3)) for batch in batches]
    wanted_mean = torch.stack(stems).mean(0)
    torch.testing.assert_close(anew["stem.norm.running_mean"], wanted_mean, rtol=1e-3, atol=1e-4)
    found = results(wanted, worker.store).findings
    said = {each.kind: each.sentence for each in found if isinstance(each, EnsembleFinding)}
    assert "the kind `statistics` is that alone" in said["average"] and "anew" in said["statistics"]


def test_an_average_is_of_trainings_under_one_mask(done: tuple[Plan, Worker]) -> None:
    rows = rows_of(done[0])
    one, other = rows["ticket", 1, 0], rows["ticket", 2, 0]
    for several in ((), (one, other)):
        with pytest.raises(ValueError, match="under one mask"):
            Average.of(several)


def test_a_pool_is_chosen_on_validation_data_alone_and_judged_on_test_data(done: tuple[Plan, Worker]) -> None:
    """With other test images it is the same pool, bit for bit; its validation accuracy is never below the ticket's."""
    wanted, worker = done
    for level in (1, 2):
        (pool,) = members_of(wanted, "pool", level, 0)
        values, ticket = worker.store.values(pool), pool.target
        assert values["validation_accuracy"] >= values["target_validation_accuracy"]
        living = worker.store.living(ticket)
        assert living and values["counts"] == living.counts, "as small as the ticket"
        blind = Worker(worker.store, None)
        dataset = blind.placed(pool.recipe)
        generator = torch.Generator().manual_seed(0)
        blind._placed[pool.recipe.data] = replace(
            dataset,
            test_images=torch.randint(0, 16, dataset.test_images.shape, generator=generator, dtype=torch.uint8),
            test_labels=dataset.test_labels.flip(0),
        )
        again = pool.perform(blind)
        assert again.values == values
        kept = worker.store.tensors(pool, "weights")
        assert weights.equal(again.tensors["weights"], kept)


@pytest.mark.parametrize("kind", ["average", "pool"])
def test_one_network_out_of_several_is_written_as_a_ticket(
    kind: str, done: tuple[Plan, Worker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, worker = done
    spec = ["digits-lenet", *(part for change in [*CHANGES, *ASKED] for part in ("--set", change))]
    file = tmp_path / "one.safetensors"
    command = ["ticket", *spec, "--store", str(worker.store.root), "--replicate", "1", "-o", str(file)]
    assert main([*command, "--level", "2", "--of", kind]) == 0
    (made,) = members_of(wanted, kind, 2, 1)
    loaded = Ticket.load(file)
    assert weights.equal(loaded.weights, worker.store.weights(made)) and loaded.mask == worker.store.mask(made)
    assert loaded.origin["of"] == kind and loaded.origin["key"] == made.key and loaded.origin["rewind"] == "60it"
    capsys.readouterr()
    assert main([*command, "--level", "2", "--of", kind, "--set", "study.ensemble.levels=1"]) == 2
    assert f"an experiment whose study.ensemble asks for '{kind}' at level 2" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_each_kind_is_held_against_the_dense_network_of_its_replicate(done: tuple[Plan, Worker]) -> None:
    wanted, worker = done
    found = results(wanted, worker.store).findings
    own = [each for each in found if isinstance(each, EnsembleFinding)]
    assert {(each.kind, each.levels) for each in own} == {
        *((kind, (level,)) for level in (1, 2) for kind in ("one", *KINDS) if kind != "dense"),
        ("dense", (1, 2)),
    }
    values = {
        (question.part, question.level, question.replicate): worker.store.values(question.run)["whole"]["accuracy"]
        for question in wanted.questions
    }
    for each in own:
        level = 0 if each.kind == "dense" else each.levels[0]
        both = [values[each.kind, level, number] - values["one", 0, number] for number in each.asked.scores["nll"]]
        if each.kind == "replicates":  # a group of two beside the mean of its dense networks
            both = [values["replicates", level, 1] - (values["one", 0, 0] + values["one", 0, 1]) / 2]
            assert "(n = 1: one replicate decides nothing)" in each.sentence
        more = each.asked.more("accuracy", 0.95)
        assert more and more.mean == pytest.approx(sum(both) / len(both)) and more.n == len(both)
        _held_against_one_of_them(each, wanted, worker)
    (chosen,) = (each for each in found if isinstance(each, BestFinding))
    assert chosen.best and chosen.best.asked.affordable
    assert chosen.best.more.n == 2, "two replicates say more than one group of them"
    assert chosen.sentence.startswith("At no more than the dense network's cost: of ")


def _held_against_one_of_them(each: EnsembleFinding, wanted: Plan, worker: Worker) -> None:
    """An ensemble beside its members, one network out of several beside the ticket, the ticket beside nothing more."""
    level = 0 if each.kind == "dense" else each.levels[0]
    own = {
        (question.part, question.replicate): worker.store.values(question.run)
        for question in wanted.questions
        if question.level == level
    }
    beside = each.asked.more("nll", 0.95, than="alone")
    if each.kind == "one":
        assert beside is None and each.sentence.count("; against ") == 1
        return
    assert each.sentence.count("; against ") == 2
    differences = []
    for number in each.asked.scores["nll"]:
        values = own[each.kind, number]
        other = values if each.asked.members > 1 else own["one", number]
        alone = [member["nll"] for member in other["members"]]
        differences.append(values["whole"]["nll"] - sum(alone) / len(alone))
    assert beside and beside.mean == pytest.approx(sum(differences) / len(differences))
    assert each.asked.members == 1 or max(differences) <= 1e-9, "Jensen's inequality"


def test_logits_may_be_arrays_and_have_to_be_numbers() -> None:
    logits, labels = torch.randn(6, 4), torch.arange(6) % 4
    assert judge([logits.numpy()], labels.numpy()) == judge([logits], labels)
    with pytest.raises(BadInput, match="2 rows with nan or inf"):
        judge([logits, logits.index_fill(0, torch.tensor([1, 3]), float("nan"))], labels)


# ---------------------------------------------------------------- which is best


def asked(name: str, accuracy: list[float], cost: float = 0.5) -> Asked:
    scores = {"accuracy": dict(enumerate(accuracy))}
    return Asked(name, 3, cost, cost, scores, {"accuracy": dict.fromkeys(range(9), 0.9)})


def test_the_best_is_of_those_that_cost_no_more() -> None:
    dear, good, poor = asked("dear", [0.99, 0.98], 1.1), asked("good", [0.95, 0.96]), asked("poor", [0.91, 0.92])
    found = best([dear, poor, good], 0.95)
    assert found and (found.asked, found.candidates) == (good, 2)
    assert best([dear], 0.95) is None and "nothing that is finished" in sentence(None)


def test_the_best_of_many_has_to_be_better_by_more() -> None:
    """That of 20 candidates whose interval alone leaves 0 out is luck."""
    lucky = asked("lucky", [0.92, 0.94, 0.93])
    alone, many = (
        best([lucky], 0.95),
        best([lucky, *(asked(str(place), [0.88, 0.92, 0.86]) for place in range(19))], 0.95),
    )
    assert alone and many and (alone.word, many.word) == ("better", "not shown")
    assert many.more.low < alone.more.low < many.more.mean == alone.more.mean
    assert "holds together with those of all 20" in sentence(many) and "together" not in sentence(alone)


def test_a_gain_that_many_replicates_know_comes_before_a_larger_one_that_few_do() -> None:
    sure, large = asked("sure", [0.91, 0.912, 0.911, 0.909, 0.91]), asked("large", [0.91, 0.93])
    found = best([sure, large], 0.95)
    assert found and (found.asked, found.word, found.candidates) == (sure, "better", 2)


def test_one_replicate_decides_nothing() -> None:
    once, twice = asked("once", [0.99]), asked("twice", [0.91, 0.92])
    found, only = best([once, twice], 0.95), best([once], 0.95)
    assert found and found.asked == twice and only and only.word == "not shown"
    assert sentence(only).endswith("n = 1: one replicate decides nothing")


# ---------------------------------------------------------------- what cannot be asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["study.ensemble={levels=[0]}"], "levels from 1 to"),
        (["study.ensemble={levels=[1],members=3,kinds=['levels']}"], "levels from 2 on for 'levels'"),
        (["study.ensemble={levels=[2],members=3}", "replicates=2"], "no more than there are replicates"),
        (["study.ensemble={levels=[2],kinds=['orders','orders']}"], "each kind once"),
        (["study.ensemble={levels=[2],kinds=['swarm']}"], "orders"),
        (["study.ensemble={levels=[2],members=1}"], ">= 2"),
        (
            ["study.ensemble={levels=[2],members=2,kinds=['replicates']}", "recipe.inputs=rotated"],
            "inputs that all replicates have in common",
        ),
        (
            ["study.ensemble={levels=[2],kinds=['pool']}", "recipe.dynamics={name='frozen'}"],
            "trained under the mask they are given, for 'pool'",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read("digits-lenet", ["levels=2", *changes])


def test_replicates_of_a_table_have_inputs_of_their_own() -> None:
    asked = "study.ensemble={levels=[1],kinds=['replicates']}"
    with pytest.raises(BadInput, match="inputs that all replicates have in common"):
        read("digits-lenet", ["recipe.data=table:breast-cancer", "recipe.model=lenet-8", asked])
