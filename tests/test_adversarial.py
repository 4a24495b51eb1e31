"""Adversarial training: what it descends, what it draws from, and whom it refuses."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import data, models, perturbation, prunable, weights
from tombola.data import normalise
from tombola.data.normalise import Normalisation
from tombola.errors import SpecError
from tombola.evaluate import evaluate
from tombola.lab.attempt import do
from tombola.lab.costs import Costs
from tombola.lab.kinds import Prune, Train
from tombola.lab.kinds.training import further_inputs
from tombola.lab.plan import plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.objective import Adversarial, LabelSmoothing, Objective
from tombola.optimizers import optimizer_of
from tombola.recipe import SGD, Recipe
from tombola.train import Span, losses, train

DIGITS = data.load("digits")
FGSM = Adversarial(attack="fgsm", epsilon=0.2)
PGD = Adversarial(epsilon=0.2, step=0.07, steps=4)
NORMALISATIONS: tuple[Normalisation, ...] = ("standard", "range")
SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "20it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "normalise": "range",
        "objective": {"name": "adversarial", "steps": 3},
    },
    "evaluate": {"every": "10it", "test_every": "10it"},
}


def inputs(how: Normalisation = "range", seed: int = 7, step: int = 0) -> dict[str, dict[str, Tensor]]:
    draw = {"seed": torch.tensor(seed), "step": torch.tensor(step)}
    return {"pixels": normalise.pixel_scale(DIGITS.facts, how), "draw": draw}


def batch(how: Normalisation = "range") -> tuple[Tensor, Tensor]:
    return DIGITS.normalised(how).inputs(DIGITS.images[:60]), DIGITS.labels[:60]


def network(name: str = "lenet-20-10") -> nn.Module:
    return models.build(name, (1, 8, 8), 10, "glorot-normal", init_seed=0)


def trained(
    objective: Objective | None, steps: int = 30, how: Normalisation = "range", name: str = "lenet-20-10"
) -> nn.Module:
    model, dataset = network(name), DIGITS.normalised(how)
    batches = data.Batches(dataset, torch.arange(600), 60, order_seed=0)
    loss = losses(model, batches, objective, inputs=inputs(how))
    optimizer = optimizer_of(SGD(name="sgd", lr=0.2, momentum=0.9), model)
    train(model, optimizer, prunable.full(model), loss, Span(0, steps, lambda step: 0.2), lambda step: None)
    return model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """What the functions of `perturbation` have given."""
    found: list[Tensor] = []
    for name in ("fgsm", "pgd"):
        ours = getattr(perturbation, name)

        def spied(*given: Any, ours: Any = ours) -> Tensor:
            found.append(ours(*given))
            return found[-1]

        monkeypatch.setattr(perturbation, name, spied)
    yield found


# ---------------------------------------------------------------- what it descends


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("changes", [{"share": 0.0}, {"epsilon": 0.0}, {"epsilon": 0.0, "share": 1.0}], ids=str)
@pytest.mark.parametrize("objective", [FGSM, PGD], ids=lambda objective: objective.attack)
def test_without_a_share_or_without_a_change_it_is_cross_entropy_bit_for_bit(
    objective: Adversarial, changes: dict[str, float], how: Normalisation
) -> None:
    same = objective.model_copy(update=changes)
    assert weights.equal(weights.of(trained(same, how=how)), weights.of(trained(None, how=how)))


@pytest.mark.parametrize("objective", [FGSM, PGD], ids=lambda objective: objective.attack)
def test_pixels_that_do_not_change_are_the_batch_s_inputs_bit_for_bit(objective: Adversarial) -> None:
    """Also where pixels that are told from inputs and made inputs again have other last bits."""
    scale, shift = torch.tensor([[[3.2457]]]), torch.tensor([[[-0.4242]]])
    examples = scale * torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + shift
    given, same = inputs() | {"pixels": {"scale": scale, "shift": shift}}, objective.model_copy(update={"epsilon": 0.0})
    assert torch.equal(same._changed(network(), (examples, DIGITS.labels[:60]), given), examples)


@pytest.mark.parametrize("objective", [FGSM, PGD], ids=lambda objective: objective.attack)
def test_labels_are_smoothed_as_label_smoothing_does_it(objective: Adversarial) -> None:
    same = objective.model_copy(update={"share": 0.0, "smoothing": 0.1})
    expected = weights.of(trained(LabelSmoothing(epsilon=0.1)))
    assert weights.equal(weights.of(trained(same)), expected)


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_fgsm_is_one_step_of_epsilon_in_pixels_by_hand(how: Normalisation) -> None:
    """In the inputs' own units, with no function of ours: |x' - x| <= epsilon white / (white std), black to white."""
    model, (examples, labels) = network(), batch(how)
    facts = DIGITS.facts
    mean, std = (facts.mean[0], facts.std[0]) if how == "standard" else (0.0, 1.0)
    leaf = examples.clone().requires_grad_()
    functional.cross_entropy(model(leaf), labels).backward()
    assert leaf.grad is not None
    changed = (examples + 0.2 / std * leaf.grad.sign()).clamp((0 - mean) / std, (1 - mean) / std)
    both = [functional.cross_entropy(model(each), labels) for each in (examples, changed)]
    expected = (both[0] + both[1]) / 2
    torch.testing.assert_close(FGSM.loss(model, (examples, labels), inputs(how)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("objective", [FGSM, PGD], ids=lambda objective: objective.attack)
def test_what_is_trained_on_is_what_perturbation_gives(
    objective: Adversarial, how: Normalisation, seen: list[Tensor]
) -> None:
    model, (examples, labels) = network(), batch(how)
    loss = objective.loss(model, (examples, labels), inputs(how))
    (points,), pixels = seen, DIGITS.images[:60].float() / DIGITS.facts.white
    assert (points - pixels).abs().max() <= 0.2 + 1e-6 and points.min() >= 0 and points.max() <= 1
    given = inputs(how)["pixels"]
    changed = given["scale"] * points + given["shift"]
    both = [functional.cross_entropy(model(each), labels) for each in (examples, changed)]
    torch.testing.assert_close(loss, (both[0] + both[1]) / 2, rtol=1e-5, atol=1e-6)
    assert both[1] > both[0], "the network errs more on it"


def test_away_from_the_prediction_labels_make_no_difference_to_the_examples(seen: list[Tensor]) -> None:
    model, (examples, labels) = network(), batch()
    for asked in (labels, (labels + 1) % 10):
        FGSM.model_copy(update={"away_from": "prediction"}).loss(model, (examples, asked), inputs())
    assert torch.equal(*seen)
    FGSM.loss(model, (examples, model(examples).argmax(dim=1)), inputs())
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("objective", [FGSM, PGD.model_copy(update={"away_from": "prediction"})], ids=str)
def test_the_attack_leaves_modes_statistics_and_gradients_alone(objective: Adversarial) -> None:
    model = models.build("resnet-8-w2", (1, 8, 8), 10, "kaiming-normal", init_seed=0).train()
    before = weights.of(model)
    objective._changed(model, batch(), inputs())
    assert weights.equal(weights.of(model), before) and all(each.training for each in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------- what it draws from


def test_the_start_is_a_function_of_the_seed_and_the_step_and_of_nothing_else(seen: list[Tensor]) -> None:
    model, state = network(), torch.get_rng_state()
    for seed, step in ((7, 3), (7, 3), (7, 4), (8, 3)):
        PGD.loss(model, batch(), inputs(seed=seed, step=step))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seen[0], seen[1]) and not any(torch.equal(seen[0], other) for other in seen[2:])


def test_steps_have_starts_of_their_own_in_a_training(seen: list[Tensor]) -> None:
    examples = batch()
    loss = losses(network(), lambda step: examples, PGD, inputs=inputs())
    for step in (0, 1, 0):
        loss(step)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("objective", "draws"),
    [
        (PGD, True),
        (FGSM, False),
        (PGD.model_copy(update={"random_start": False}), False),
        (PGD.model_copy(update={"share": 0.0}), False),
        (None, False),
    ],
    ids=str,
)
def test_a_training_has_a_seed_where_its_objective_draws_and_nowhere_else(
    objective: Objective | None, draws: bool
) -> None:  # S9
    recipe = SPEC["recipe"] | {"objective": objective}
    made = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | {"replicates": 2, "recipe": recipe})))
    dense = [row.run for row in made.rows if row.level == 0]
    seeds = {run.augment_seed for run in dense}
    assert (len(seeds) == 2 and None not in seeds) if draws else seeds == {None}


def test_a_training_is_handed_its_own_seed_and_its_own_scale(tmp_path: Path) -> None:
    made = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC)))
    run, worker = made.rows[0].run, Worker(Store(tmp_path).open(), None, "reference")
    given = further_inputs(None, run, worker)
    assert given.keys() == {"pixels", "draw"} and int(given["draw"]["seed"]) == run.augment_seed
    assert float(given["pixels"]["scale"]) == 1 and float(given["pixels"]["shift"]) == 0
    plain = replace(run, recipe=run.recipe.model_copy(update={"objective": None}))
    assert further_inputs(None, plain, worker) == {}


# ---------------------------------------------------------------- what it is good for


def test_who_trains_on_adversarial_examples_withstands_them() -> None:
    """By an attack of this test's own: one step of epsilon on the test images."""

    def withstood(model: nn.Module) -> float:
        model.eval()
        pixels = DIGITS.normalised("range").inputs(DIGITS.test_images).requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(pixels), DIGITS.test_labels), pixels)
        changed = (pixels + 0.1 * slope.sign()).clamp(0, 1)
        return float((model(changed).argmax(dim=1) == DIGITS.test_labels).double().mean())

    objectives = None, Adversarial(epsilon=0.1, step=0.05, steps=3)
    plain, hardened = (trained(each, 150, name="lenet-100") for each in objectives)
    clean = evaluate(hardened, DIGITS.normalised("range"), DIGITS.test_images, DIGITS.test_labels)
    print(clean.accuracy, withstood(hardened), withstood(plain))
    assert clean.accuracy > 0.6 and withstood(hardened) > withstood(plain) + 0.1


def test_a_search_under_it_takes_masks_from_weights_that_were_trained_so() -> None:
    made = plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC)))
    trainings = [run for run in made.runs if isinstance(run, Train)]
    assert trainings and all(isinstance(run.recipe.objective, Adversarial) for run in trainings)
    pruned = [run.trained for run in made.runs if isinstance(run, Prune)]
    assert len(pruned) == 2 and set(pruned) <= set(trainings)


def test_a_score_that_sees_the_loss_sees_this_one(tmp_path: Path) -> None:
    """SNIP's masks under it are others than under cross-entropy, and the same ones again."""
    spec = SPEC | {"method": "snip", "levels": 1}
    plain = spec | {"recipe": {name: value for name, value in SPEC["recipe"].items() if name != "objective"}}
    masks = []
    for number, each in enumerate((spec, plain, spec)):
        made = plan(Experiment(name="tiny", spec=Spec.model_validate(each)))
        (pruning,) = (run for run in made.runs if isinstance(run, Prune))
        worker = Worker(Store(tmp_path / str(number)).open(), None, "reference")
        assert do(pruning.trained, worker, lambda *_: None) == ("stored",)
        assert do(pruning, worker, lambda *_: None) == ("stored",)
        masks.append(worker.store.mask(pruning))
    same = [all(torch.equal(masks[0][name], other[name]) for name in other) for other in masks[1:]]
    assert same == [False, True]


# ---------------------------------------------------------------- in a recipe


def test_fgsm_has_none_of_the_fields_of_pgd() -> None:
    assert FGSM.model_dump().keys() == Adversarial().model_dump().keys() - {"step", "steps", "random_start"}
    for objective in (FGSM, PGD):
        recipe = Recipe.model_validate(SPEC["recipe"] | {"objective": objective})
        assert Recipe.model_validate(json.loads(recipe.model_dump_json(exclude_none=True))) == recipe


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["epsilon = -0.1"], "recipe.objective.epsilon: expected a number >= 0"),
        (["epsilon = 8.0"], "recipe.objective.epsilon: expected a number <= 1"),
        (["attack = 'fgsm'", "steps = 3"], "steps: only pgd has any"),
        (["share = 1.5"], "recipe.objective.share: expected a number <= 1"),
        (["steps = 0"], "recipe.objective.steps: expected a number > 0"),
    ],
)
def test_a_fault_is_told_with_its_path(changes: list[str], fault: str) -> None:
    table = ", ".join(["name = 'adversarial'", *changes])
    with pytest.raises(SpecError) as told:
        read("digits-lenet", [f"recipe.objective={{{table}}}"])
    assert fault in str(told.value).replace("\n", " ")


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ({"normalise": "unit"}, "recipe.normalise: expected standard or range"),
        ({"inputs": "rotated"}, "recipe.objective: expected one for real numbers"),
        ({"data": "sst2", "model": "bert-1-32"}, "recipe.objective: expected one for texts"),
        ({"data": "moons-circles"}, "recipe.objective: expected one for real numbers"),
    ],
)
def test_what_has_no_pixels_with_one_scale_is_refused(recipe: dict[str, str], fault: str) -> None:
    changes = [f"recipe.{name}={value}" for name, value in recipe.items()]
    with pytest.raises(SpecError) as told:
        read("digits-lenet", ["recipe.objective={name = 'adversarial'}", *changes])
    assert fault in str(told.value).replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "forwards"),
    [
        ({}, 3 + 3 + 4 * 2),
        ({"attack": "fgsm"}, 3 + 3 + 2),
        ({"share": 1.0}, 3 + 4 * 2),
        ({"share": 0.0}, 3),
        ({"away_from": "prediction"}, 3 + 3 + 4 * 2 + 1),
    ],
    ids=str,
)
def test_what_a_step_takes_is_counted(changes: dict[str, Any], forwards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward for each call of the network, one back to the inputs for each gradient of these, two for the loss's."""
    objective = PGD.model_copy(update=changes)
    called: list[int] = []
    model, ours = network(), torch.autograd.grad

    def counted(*given: Any, **more: Any) -> Any:
        called.append(1)
        return ours(*given, **more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    calls: list[int] = []
    model.register_forward_hook(lambda *given: calls.append(1))
    objective.loss(model, batch(), inputs())
    losses_descended = (objective.share < 1) + (objective.share > 0)
    assert len(calls) + len(called) + 2 * losses_descended == objective.forwards == forwards


def test_costs_and_time_count_them() -> None:
    experiment = Experiment(name="tiny", spec=Spec.model_validate(SPEC))
    run = plan(experiment).rows[0].run
    plain = replace(run, recipe=run.recipe.model_copy(update={"objective": None}), augment_seed=None)
    seconds = [each.seconds(data.facts("digits"), lambda: 1.0) for each in (run, plain)]
    assert seconds[0] - seconds[1] == pytest.approx((12 / 3 - 1) * run.steps)
    macs = [each.macs(Costs(experiment, [])) for each in (run, plain)]
    assert macs[0].ideal == 12 / 3 * macs[1].ideal > 0


@pytest.mark.parametrize("method", ["gradual", "edge-popup", "early-bird", "snip"])
def test_what_a_search_costs_counts_them_and_not_only_of_plain_trainings(method: str, tmp_path: Path) -> None:
    """In dense trainings it costs what it costs under cross-entropy, whatever moves or scores."""
    found = []
    for objective in (SPEC["recipe"]["objective"], None):
        spec = SPEC | {
            "method": method,
            "levels": 1,
            "arms": ["ticket"],
            "recipe": SPEC["recipe"] | {"objective": objective},
        }
        search = {"search": {"every": "2it"}} if method == "early-bird" else {}
        experiment = Experiment(name="tiny", spec=Spec.model_validate(spec | search))
        made, store = plan(experiment), Store(tmp_path / str(objective is None)).open()
        for run in made.runs:
            assert do(run, Worker(store, None, "reference"), lambda *_: None) == ("stored",)
        cost = Costs(experiment, made.runs, store).of(made.rows[-1])
        found.append((cost.search.ideal / cost.dense, cost.training.ideal / cost.dense))
    assert found[0] == pytest.approx(found[1], rel=0.2) and sum(found[1]) > 0
