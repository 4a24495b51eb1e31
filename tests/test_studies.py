"""Studies for real, on digits: what they ask, what of it is shared with the table, and what the answers are made of."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import acos, degrees, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import data, mask, mask_codec, models, weights
from tombola.cli import main
from tombola.controls import CONTROLS
from tombola.engine.reference.trainer import layout
from tombola.errors import BadInput
from tombola.evaluate import evaluate
from tombola.lab.attempt import do
from tombola.lab.kinds import Distance, Line, Prune, RandomMask, Train, mask_outcome
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.replicate import Replicate
from tombola.lab.results import results
from tombola.lab.runs import Outcome
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.studies import STUDIES
from tombola.lab.studies.connectivity import ConnectivityFinding
from tombola.lab.studies.overlap import OverlapFinding
from tombola.lab.studies.stability import STUDY as STABILITY
from tombola.lab.studies.stability import StabilityFinding, StabilitySpec
from tombola.lab.studies.study import Evidence, Series, Study
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.study.connectivity import barrier
from tombola.study.overlap import overlaps
from tombola.study.verdict import rewound

RECIPES: dict[str, dict[str, Any]] = {
    "lenet": {"model": "lenet-20-10", "optimizer": {"name": "adam", "lr": 1e-2}},
    "resnet": {
        "model": "resnet-8-w2",
        "length": "12it",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "augment": "flip-crop",
    },
}
STUDY: dict[str, Any] = {
    "stability": {"levels": [2], "orders": 3},
    "connectivity": {"levels": [0, 2], "arms": ["ticket", "random"], "orders": 2, "points": 4},
    "overlap": {"levels": [1, 2]},
}
Lab = Callable[[str], tuple[Plan, Worker]]


def planned(recipe: str, **changes: Any) -> Plan:
    whole = {"data": "digits", "length": "24it", "batch": 60} | RECIPES[recipe]
    spec: dict[str, Any] = {
        "replicates": 2,
        "levels": 2,
        "arms": ["ticket"],
        "rewind": ["0it", "6it"],
        "recipe": whole,
        "prune": {"rate": 0.4, "scope": "global", "keep": ["output"]},
        "evaluate": {"every": "8it", "test_every": "12it"},
        "verdict": {"at": "end"},
        "study": STUDY,
    }
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec | changes)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A finished plan, each once for all tests of this file."""
    finished: dict[str, tuple[Plan, Worker]] = {}

    def performed(recipe: str) -> tuple[Plan, Worker]:
        if recipe not in finished:
            wanted = planned(recipe)
            worker = Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None, "reference")
            for run in wanted.runs:
                assert do(run, worker, lambda *seen: None) == ("stored",)
            finished[recipe] = wanted, worker
        return finished[recipe]

    return performed


def lines(wanted: Plan) -> list[Line]:
    return [question.run for question in wanted.questions if isinstance(question.run, Line)]


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize("study", [each for each in STUDIES.values() if "arms" in each.table.model_fields])
def test_arms_may_be_written_with_commas(study: Study) -> None:
    required = {name: "uniform-noise" for name, field in study.table.model_fields.items() if field.is_required()}
    asked = study.table.model_validate(required | {"levels": [1], "arms": "ticket, reinit"})
    assert asked.model_dump()["arms"] == ("ticket", "reinit")


def test_two_trainings_of_a_pair_differ_in_order_and_augmentation_alone() -> None:  # K3 K8 R12
    wanted = planned("resnet")
    pairs = [
        (question.run.left, question.run.right)
        for question in wanted.questions
        if question.part != "pruning" and isinstance(question.run, Distance | Line)
    ]
    assert len(pairs) == 2 * 2 * (2 * 3 + 1 + 2)
    for left, right in pairs:
        assert left.order_seed != right.order_seed and left.augment_seed != right.augment_seed
        assert replace(right, order_seed=left.order_seed, augment_seed=left.augment_seed) == left


def test_the_random_baseline_differs_from_its_ticket_in_the_mask_alone() -> None:  # K1 K3
    wanted = planned("resnet")
    for question in (one for one in wanted.questions if one.arm == "random" and one.part == "pruning"):
        run = question.density_of
        assert isinstance(run.mask, RandomMask) and isinstance(run.mask.like, Prune)
        ticket = next(
            row.run
            for row in wanted.rows
            if (row.arm, row.replicate, row.level, row.rewind)
            == ("ticket", question.replicate, question.level, question.rewind)
        )
        assert replace(run, mask=ticket.mask) == ticket


def test_stability_to_pruning_compares_with_the_dense_network_of_the_same_order() -> None:
    wanted = planned("lenet")
    dense = {(row.replicate, row.rewind): row.run for row in wanted.rows if row.arm == "dense"}
    asked = [question for question in wanted.questions if question.part == "pruning"]
    assert len(asked) == 2 * 2 * 2
    for question in asked:
        assert isinstance(question.run, Distance) and question.run.mask == question.run.right.mask
        assert question.run.left == dense[question.replicate, question.rewind]
        assert question.run.left.order_seed == question.run.right.order_seed


def test_what_the_table_has_is_not_trained_again() -> None:
    """Of each pair with order 0 one training is the table's own; every order more costs one training."""
    with_studies, without = planned("lenet"), planned("lenet", study={})
    assert {row.run for row in with_studies.rows} == {row.run for row in without.rows}
    extra = {run for run in with_studies.runs if isinstance(run, Train)} - set(without.runs)
    # Per replicate and rewind step: ticket in orders 1 and 2; random in 0 to 2; dense in order 1.
    assert len(extra) == 2 * 2 * (2 + 3 + 1)


def test_orders_are_other_for_other_replicates() -> None:  # K10
    by_replicate: dict[int, set[int]] = {}
    for question in planned("lenet").questions:
        if isinstance(question.run, Distance | Line) and question.part != "pruning":
            seeds = {question.run.left.order_seed, question.run.right.order_seed}
            by_replicate.setdefault(question.replicate, set()).update(seeds)
    assert [len(seeds) for seeds in by_replicate.values()] == [3, 3] and by_replicate[0].isdisjoint(by_replicate[1])


# ---------------------------------------------------------------- what the answers are made of


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_ends_of_a_line_are_the_trained_networks(recipe: str, lab: Lab) -> None:  # E6
    wanted, worker = lab(recipe)
    for line in lines(wanted):
        found = worker.store.values(line)
        statistics = "interpolated" if recipe == "resnet" else "none"
        for place, run in ((0, line.left), (-1, line.right)):
            trained = worker.store.values(run)
            assert found["errors"][statistics]["test"][place] == pytest.approx(1 - trained["final_test_accuracy"])
            assert found["errors"][statistics]["train"][place] == pytest.approx(1 - trained["final_train_accuracy"])
        assert found["alphas"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        for each, risen in found["barriers"].items():
            assert risen == {name: barrier(found["errors"][each][name]) for name in ("train", "test")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_network_has_no_barrier_with_itself(recipe: str, lab: Lab) -> None:  # E6
    wanted, worker = lab(recipe)
    line = replace(lines(wanted)[-1], right=lines(wanted)[-1].left)
    found = line.perform(worker).values
    assert all(risen == 0 for each in found["barriers"].values() for risen in each.values())
    assert all(len(set(errors)) == 1 for each in found["errors"].values() for errors in each.values())


def test_the_middle_of_a_line_is_the_mean_of_its_ends(lab: Lab) -> None:
    wanted, worker = lab("resnet")
    line = replace(lines(wanted)[0], points=3)
    found = line.perform(worker).values["errors"]
    left, right = (worker.store.weights(end) for end in (line.left, line.right))
    dataset = data.load("digits")
    model = models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    middle = {name: (value + right[name]) / 2 if value.is_floating_point() else value for name, value in left.items()}
    weights.put(model, middle)
    seen = evaluate(model, dataset, dataset.test_images, dataset.test_labels)
    assert found["interpolated"]["test"][1] == pytest.approx(1 - seen.accuracy, abs=2 / 597)
    assert found["interpolated"] != found["recomputed"], "statistics of a mean are no mean of statistics"


def test_a_line_of_a_few_examples_is_about_the_first_ones(lab: Lab) -> None:
    wanted, worker = lab("lenet")
    line = replace(lines(wanted)[0], examples=100, points=2)
    dataset, model = data.load("digits"), models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    weights.put(model, worker.store.weights(line.left))
    train = data.split(dataset, line.split_seed)[0][:100]
    seen = evaluate(model, dataset, dataset.images, dataset.labels, train)
    found = line.perform(worker).values["errors"]["none"]
    assert found["train"][0] == pytest.approx(1 - seen.accuracy) and found["test"][0] * 100 % 1 == pytest.approx(
        0, abs=1e-9
    )


def test_a_few_test_images_are_a_few_of_all_classes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the test set lies class by class, as in a folder."""
    wanted, worker = lab("lenet")
    seen: list[torch.Tensor] = []

    def watched(model: Any, dataset: Any, images: Any, labels: torch.Tensor, places: torch.Tensor, *rest: Any) -> Any:
        seen.append(places)
        return evaluate(model, dataset, images, labels, places, *rest)

    monkeypatch.setattr("tombola.evaluate.evaluate", watched)
    for _ in range(2):
        replace(lines(wanted)[0], examples=100, points=2).perform(worker)
    _, test, *_, again = seen
    assert len(set(test.tolist())) == 100 and max(test) > 500 and torch.equal(test, again), (
        "spread, and always the same"
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_distances_are_those_of_the_surviving_weights(recipe: str, lab: Lab) -> None:
    wanted, worker = lab(recipe)
    for question in [one for one in wanted.questions if isinstance(one.run, Distance)][:4]:
        run = question.run
        assert isinstance(run, Distance)
        alive = worker.store.mask(run.mask)
        left, right = (
            [float(value) for name in alive for value in worker.store.weights(end)[name][alive[name]].double()]
            for end in (run.left, run.right)
        )
        found = worker.store.values(run)
        assert found["l2"] == pytest.approx(sqrt(sum((a - b) ** 2 for a, b in zip(left, right, strict=True))))
        dot = sum(a * b for a, b in zip(left, right, strict=True))
        lengths = sqrt(sum(a * a for a in left) * sum(b * b for b in right))
        assert found["degrees"] == pytest.approx(degrees(acos(dot / lengths)), abs=1e-4)


@pytest.mark.parametrize("steps", [1, 6])
def test_a_rewound_state_is_the_state_after_exactly_k_steps(steps: int, lab: Lab) -> None:  # R3 R4 R6
    """Running statistics included: the rewind point against a loop written here."""
    _, worker = lab("resnet")
    wanted = planned("resnet", rewind=f"{steps}it")
    point = wanted.rows[0].run.start
    assert isinstance(point, Train) and (point.begin, point.until) == (0, steps)
    for run in (point.start, *([point.mask] if point.mask else []), point):
        do(run, worker, lambda *seen: None)
    state = worker.store.weights(point)

    recipe, dataset = point.recipe, data.load("digits")
    model = models.build("resnet-8-w2", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    model.to(memory_format=layout(model))  # type: ignore[call-overload]
    weights.put(model, worker.store.weights(point.start))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    train = data.split(dataset, point.split_seed)[0]
    batches = data.Batches(dataset, train, 60, point.order_seed, recipe.augment, point.augment_seed or 0)
    for step in range(steps):
        inputs, labels = batches(step)
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert weights.equal(weights.of(model), state), "all of it, running statistics and counters too"
    assert int(state["stem.norm.num_batches_tracked"]) == steps
    start = {row.run.start for row in wanted.rows if row.replicate == 0}
    assert start == {point}, "every level goes back to it"


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_study_has_its_findings(recipe: str, lab: Lab) -> None:
    wanted, worker = lab(recipe)
    found = results(wanted, worker.store).findings
    stable = [one for one in found if isinstance(one, StabilityFinding)]
    assert {(one.found.kind, one.level, one.rewind) for one in stable} == {
        (kind, 2, step) for kind in ("pruning", "data order") for step in (0, 6)
    }
    connected = [one for one in found if isinstance(one, ConnectivityFinding)]
    statistics = {"none"} if recipe == "lenet" else {"interpolated", "recomputed"}
    assert {one.found.statistics for one in connected} == statistics
    assert {(one.arm, one.level, one.rewind, one.on) for one in connected} == {
        (arm, level, step, on)
        for arm, level in (("dense", 0), ("ticket", 2), ("random", 2))
        for step in (0, 6)
        for on in ("train", "test")
    }
    assert all(one.found.barrier.n == 2 and one.found.pairs == (1, 1) for one in connected)
    alike = [one for one in found if isinstance(one, OverlapFinding)]
    assert {(one.level, one.rewind) for one in alike} == {(level, step) for level in (1, 2) for step in (0, 6)}
    assert all(one.sentence.endswith(".") for one in found)


def test_a_mean_barrier_is_that_of_the_pairs(lab: Lab) -> None:
    wanted, worker = lab("lenet")
    for one in (
        one
        for one in results(wanted, worker.store).findings
        if isinstance(one, ConnectivityFinding) and one.on == "test"
    ):
        theirs = [
            worker.store.values(question.run)["barriers"]["none"]["test"]
            for question in wanted.questions
            if (question.study, question.arm, question.level, question.rewind)
            == ("connectivity", one.arm, one.level, one.rewind)
        ]
        assert one.found.barrier.mean == pytest.approx(sum(theirs) / len(theirs)) and len(theirs) == 2


def test_overlap_is_that_of_the_replicates_masks(lab: Lab) -> None:
    wanted, worker = lab("lenet")
    one = next(one for one in results(wanted, worker.store).findings if isinstance(one, OverlapFinding))
    masks = [
        worker.store.mask(row.run.mask)
        for row in wanted.rows
        if row.run.mask and (row.arm, row.level, row.rewind) == ("ticket", one.level, one.rewind)
    ]
    (pair,) = combinations(masks, 2)
    assert one.layers[-1].overlap == pytest.approx(overlaps(*pair)[-1].overlap)
    density = masks[0].density
    assert one.layers[-1].chance != pytest.approx(density / (2 - density)), "layer by layer, each with its own counts"


def test_what_studies_lack_is_counted(tmp_path: Path, lab: Lab) -> None:
    """A training that failed may be the one that would have spoken against the rest."""
    wanted, worker = lab("lenet")
    assert results(wanted, worker.store).unanswered == []
    shutil.copytree(worker.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    lost = next(question for question in wanted.questions if question.study == "connectivity")
    assert isinstance(lost.run, Line)
    for run in (lost.run, lost.run.right):
        shutil.rmtree(store.root / "runs" / run.key)
    (said,) = results(wanted, store).unanswered
    assert said.startswith(f"1 of {len(wanted.questions)} measurements") and "because" not in said
    store.fail(lost.run.right, "it diverged", "")
    (said,) = results(wanted, store).unanswered
    assert "1 of them because a run failed" in said
    assert said in results(wanted, store).sentences


def test_studies_that_are_not_finished_say_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    assert results(planned("lenet"), store).findings == []
    assert len(missing(planned("lenet"), store)) == len(planned("lenet").runs)


# ---------------------------------------------------------------- several rewind steps in one table


def test_each_rewind_step_has_its_own_dense_network_and_verdict(lab: Lab) -> None:
    wanted, worker = lab("lenet")
    found = results(wanted, worker.store)
    assert {(record["rewind"], record["level"]) for record in found.table} == {
        (k, level) for k in (0, 6) for level in range(3)
    }
    judged = found.verdicts
    assert [(one.rewind, one.level) for one in judged] == [(0, 1), (0, 2), (6, 1), (6, 2)]
    elsewhere = [replace(result, values=result.values | {"early_stop_test_accuracy": 0.0}) for result in found.rows]
    assert replace(found, rows=elsewhere).verdicts == judged, "of the early stop nothing is asked"
    for one in judged:
        mine = {
            (result.row.arm, result.row.replicate): result.values["final_test_accuracy"]
            for result in found.rows
            if result.row.rewind == one.rewind and (result.row.level in (0, one.level))
        }
        gaps = [mine["ticket", number] - mine["dense", number] for number in range(2)]
        assert one.dense.accuracy.mean == pytest.approx(sum(gaps) / 2), "the accuracy at the end"
        assert one.verdict != "winning", "where paces are not compared nothing wins"


def test_a_later_rewind_step_is_compared_with_the_first(lab: Lab) -> None:
    wanted, worker = lab("lenet")
    found = results(wanted, worker.store)
    judged = {(one.rewind, one.level): one for one in found.verdicts}
    assert all(control.against != rewound(0) for control in judged[0, 1].controls)
    (against,) = [control for control in judged[6, 2].controls if control.against == rewound(0)]
    theirs = {
        (result.row.rewind, result.row.replicate): result.values["final_test_accuracy"]
        for result in found.rows
        if (result.row.arm, result.row.level) == ("ticket", 2)
    }
    gaps = [theirs[6, number] - theirs[0, number] for number in range(2)]
    assert against.accuracy.mean == pytest.approx(sum(gaps) / 2)


def test_the_command_shows_them(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, worker = lab("lenet")
    file = tmp_path / "tiny.toml"
    spec = wanted.experiment.spec.model_dump(mode="json", exclude_none=True)
    file.write_text("\n".join(_toml(spec)))
    where = [str(file), "--store", str(worker.store.root)]
    assert main(["study", *where, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {one["study"] for one in content["findings"]} == {"stability", "connectivity", "overlap"}
    assert main(["study", *where]) == 0 and "Stability to pruning at" in capsys.readouterr().out
    assert main(["report", *where]) == 0
    page = (worker.store.root / "reports" / "tiny" / "report.html").read_text()
    assert page.count("<li>Stability to pruning at") == 1 and "more: errors on training images" in page
    assert all(
        f"<figure id={name}>" in page for name in ("rewinding", "connectivity", "barriers", "stability", "overlap")
    )
    assert "(replicate 0, rewound to step 0)" in page, "what survives is of one search"
    (images,) = re.findall(r"<figure id=survivors>.*?</figure>", page, re.DOTALL)
    assert images.count("% remain") == 2 * 2, "one image for each level, its title once more as its label"
    assert main(["study", *where, "--set", "study=none"]) == 2
    assert "no [study] table" in capsys.readouterr().err
    assert main(["ticket", *where, "--level", "1", "-o", str(tmp_path / "t")]) == 2
    assert "--set rewind=0it" in capsys.readouterr().err
    assert main(["ticket", *where, "--level", "1", "-o", str(tmp_path / "t"), "--set", "rewind=6it"]) == 0
    assert "rewind 6it" in capsys.readouterr().out


def _toml(table: dict[str, Any], path: str = "") -> list[str]:
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    head = [f"[{path}]"] if path else []
    lines = [*head, *(f"{name} = {json.dumps(value)}" for name, value in plain.items())]
    return lines + [line for name, value in inner.items() for line in _toml(value, f"{path}.{name}".lstrip("."))]


# ---------------------------------------------------------------- the papers'


def test_lenet_on_mnist_has_a_barrier_under_one_point_from_the_initialisation(mnist_dir: Path, tmp_path: Path) -> None:
    """Figure 1 of Linear Mode Connectivity and the Lottery Ticket Hypothesis, in a twentieth of the steps."""
    spec = {
        "replicates": 1,
        "levels": 0,
        "arms": ["ticket"],
        "recipe": {
            "model": "lenet-300-100",
            "data": "mnist",
            "length": "1200it",
            "batch": 60,
            "optimizer": {"name": "adam", "lr": 1.2e-3},
        },
        "evaluate": {"every": "600it", "test_every": "1200it"},
        "study": {"connectivity": {"levels": [0], "orders": 2, "points": 5}},
    }
    wanted = plan(Experiment(name="lenet", spec=Spec.model_validate(spec)))
    worker = Worker(Store(tmp_path / "store").open(), mnist_dir)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    (line,) = lines(wanted)
    risen = worker.store.values(line)["barriers"]["none"]
    assert risen["test"] < 0.01 and risen["train"] < 0.01


# ---------------------------------------------------------------- trainings that end under a mask of their own


def test_studies_are_about_the_masks_that_trainings_ended_under(tmp_path: Path) -> None:
    """Where a training changes its mask, the one that it was given is no more than where it began."""
    wanted, store = planned("lenet"), Store(tmp_path / "store").open()
    generator = torch.Generator().manual_seed(0)
    given = Mask({"w": torch.ones(4, 5, dtype=torch.bool)})
    runs = [row.run for row in wanted.rows if (row.arm, row.level, row.rewind) == ("ticket", 1, 0)]
    own = [Mask({"w": torch.rand(4, 5, generator=generator) < 0.5}) for _ in runs]
    ends = [mask.apply({"w": torch.rand(4, 5, generator=generator)}, living) for living in own]
    for run, living, end in zip(runs, own, ends, strict=True):
        made = mask_outcome(living)
        store.save(run, Outcome(made.values, {**made.tensors, "weights": mask_codec.compress(end, living)}), {})
        assert run.mask
        store.save(run.mask, mask_outcome(given), {})

    done, spec = frozenset(store.keys()), wanted.experiment.spec
    assert Evidence(spec, wanted.rows, (), store, 0.95, done).masks("ticket", 1, 0) == own
    assert runs[0].mask
    both = own[0]["w"] & own[1]["w"]
    apart = ((ends[0]["w"] - ends[1]["w"]) * both).norm().item()
    found = Distance(runs[0], runs[1], runs[0].mask).perform(Worker(store, None)).values
    assert both.any() and found["l2"] == pytest.approx(apart)


def test_a_ticket_without_a_mask_to_begin_with_is_its_own_and_has_no_controls() -> None:
    replicate = Replicate(planned("lenet", prune={}).experiment.spec, 0)
    training = replicate.train(replicate.rewind_point())
    series = Series(replicate, [training, training], {})
    asked = [question.run for question in STABILITY.questions(StabilitySpec(levels=(1,)), series)]
    assert asked and all(isinstance(run, Distance) and run.mask == training for run in asked)
    for control in ("random", "shuffle", "invert", "constant", "flipped-10"):  # which ask something of it
        with pytest.raises(BadInput, match="expected a ticket that was given a mask, found one without"):
            CONTROLS[control].make(replicate, training, 1, 0)
