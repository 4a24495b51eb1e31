"""What a training makes small: cross-entropy, label smoothing, L1 on the living weights, and one of one's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import data, models, prunable, weights
from tombola.cli import main
from tombola.code import attribute
from tombola.data import Batches
from tombola.engine.reference.trainer import Reference
from tombola.engine.stacked.trainer import Stacked
from tombola.engine.training import Start, Training
from tombola.errors import BadInput, SpecError
from tombola.lab.attempt import do
from tombola.lab.extension import load
from tombola.lab.kinds import Train
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask, apply
from tombola.objective import L1, OBJECTIVES, CrossEntropy, LabelSmoothing, Objective, Slimming, cross_entropy
from tombola.optimizers import optimizer_of
from tombola.recipe import SGD, Recipe
from tombola.train import Span, losses, train

FIELDS: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "4it",
    "batch": 60,
    "optimizer": {"name": "sgd", "lr": 0.1},
}
SMOOTH, LASSO = LabelSmoothing(epsilon=0.2), L1(strength=1e-3)


def network() -> tuple[nn.Module, Mask]:
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0).double()
    draw = torch.Generator().manual_seed(1)
    return model, Mask(
        {name: torch.rand(alive.shape, generator=draw) < 0.5 for name, alive in prunable.full(model).items()}
    )


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(9, 1, 8, 8, generator=draw).double(), torch.randint(10, (9,), generator=draw)


def trained(objective: Objective | None, steps: int = 5) -> dict[str, Tensor]:
    model, mask = network()
    optimizer = optimizer_of(SGD(name="sgd", lr=0.1, momentum=0.9), model)
    loss = losses(model, batch_of, objective)
    train(model, optimizer, mask, loss, Span(0, steps, lambda step: 0.1), lambda step: None)
    return weights.of(model)


def by_hand(loss: Callable[[nn.Module, Tensor, Tensor], Tensor], steps: int = 5) -> dict[str, Tensor]:
    """The same with a loop of its own."""
    model, mask = network()
    parameters = dict(model.named_parameters())
    moved = {name: torch.zeros_like(value) for name, value in parameters.items()}
    alive = {name: mask[name] if name in mask else torch.ones_like(value) for name, value in parameters.items()}
    for name, value in parameters.items():
        value.data *= alive[name]
    for step in range(steps):
        gradients = torch.autograd.grad(loss(model, *batch_of(step)), [*parameters.values()])
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            moved[name] = 0.9 * moved[name] + gradient * alive[name]
            parameter.data -= 0.1 * moved[name]
    return weights.of(model)


def close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-9, msg=name)


# ---------------------------------------------------------------- the losses


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_label_smoothing_is_torchs(epsilon: float) -> None:
    model, _ = network()
    inputs, labels = batch_of(0)
    ours = LabelSmoothing(epsilon=epsilon).loss(model, (inputs, labels), {})
    assert torch.equal(ours, functional.cross_entropy(model(inputs), labels, label_smoothing=epsilon))


def test_of_a_text_it_leaves_out_what_is_no_label() -> None:
    scores, labels = torch.randn(2, 3, 7, dtype=torch.float64), torch.tensor([[1, -100, 6], [0, 3, -100]])
    asked = labels != -100
    expected = functional.cross_entropy(scores[asked], labels[asked], label_smoothing=0.2)
    assert torch.allclose(cross_entropy(scores, labels, smoothing=0.2), expected)


def test_without_an_objective_it_is_cross_entropy() -> None:
    assert weights.equal(trained(None), trained(CrossEntropy()))
    close(trained(None), by_hand(lambda model, inputs, labels: functional.cross_entropy(model(inputs), labels)))


def test_a_smoothed_training_is_the_one_by_hand() -> None:
    close(
        trained(SMOOTH),
        by_hand(lambda model, inputs, labels: functional.cross_entropy(model(inputs), labels, label_smoothing=0.2)),
    )


def test_l1_is_of_the_living_weights_alone_as_by_hand() -> None:  # M1
    _, mask = network()

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        living = sum(model.get_parameter(name)[alive].abs().sum() for name, alive in mask.items())
        return functional.cross_entropy(model(inputs), labels) + 1e-3 * living

    close(trained(LASSO), by_hand(loss))


def test_l1_pulls_living_weights_by_its_strength_and_nothing_else() -> None:  # M1
    model, mask = network()
    start = {name: value + 0.1 for name, value in weights.of(model).items()}  # biases too are not 0
    weights.put(model, apply(start, mask))
    named = dict(model.named_parameters())
    both = [objective.loss(model, batch_of(0), {}) for objective in (LASSO, CrossEntropy())]
    with_l1, without = (torch.autograd.grad(loss, [*named.values()]) for loss in both)
    for (name, parameter), left, right in zip(named.items(), with_l1, without, strict=True):
        alive = mask[name] if name in mask else torch.zeros_like(parameter, dtype=torch.bool)
        expected = torch.where(alive, 1e-3 * parameter.detach().sign(), torch.zeros_like(parameter))
        torch.testing.assert_close(left - right, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_a_strong_l1_makes_weights_smaller() -> None:
    def size(end: dict[str, Tensor]) -> float:
        return sum(float(end[name].abs().sum()) for name in network()[1])

    assert size(trained(L1(strength=1e-2), steps=30)) < 0.9 * size(trained(None, steps=30))


def test_slimming_adds_the_sign_of_each_gamma_to_its_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    gammas = model[1].weight
    assert isinstance(gammas, torch.Tensor)
    gammas.data = torch.tensor([0.5, -0.5, 0.0])
    batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    plain, slimmed = (
        torch.autograd.grad(objective.loss(model, batch, {}), list(model.parameters()))
        for objective in (CrossEntropy(), Slimming(strength=0.25))
    )
    added = [one - other for one, other in zip(slimmed, plain, strict=True)]
    assert torch.allclose(added[2], torch.tensor([0.25, -0.25, 0.0]))
    assert all(not each.any() for place, each in enumerate(added) if place != 2)


@pytest.mark.parametrize("objective", [None, *(each for each in (SMOOTH, LASSO) if each.stacks)], ids=str)
def test_a_stack_descends_the_same_objective(objective: Objective | None) -> None:
    dataset, places = data.load("digits"), torch.arange(300)
    training = Training(optimizer=SGD(name="sgd", lr=0.1), batch=60, objective=objective)
    span, several = Span(0, 6, lambda step: 0.1), [Batches(dataset, places, 60, seed) for seed in range(2)]

    def started() -> list[Start]:
        built = (models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", seed) for seed in range(2))
        return [Start(model, prunable.full(model), dataset) for model in built]

    stack = Stacked(training, started())
    assert stack.train(several, span, [lambda step: None] * 2) == [None, None]
    for number, start in enumerate(started()):
        alone = Reference(training, start)
        alone.train(several[number], span, lambda step: None)
        for name, value in alone.weights().items():
            torch.testing.assert_close(stack.states[number].weights()[name], value, rtol=1e-4, atol=1e-5, msg=name)


class Odd(Objective):
    """One whose loss is nothing that a step descends."""

    stacks = True

    name: Literal["odd"] = "odd"
    how: str

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], inputs: Any) -> Any:
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return {"none": None, "vector": losses, "detached": losses.mean().detach()}[self.how]


@pytest.mark.parametrize("how", ["none", "vector", "detached"])
def test_what_no_step_can_descend_is_refused_alone_and_in_a_stack(how: str) -> None:
    objective, dataset = Odd(how=how), data.load("digits")
    training, span = Training(optimizer=SGD(name="sgd", lr=0.1), batch=60, objective=objective), Span(0, 1, float)
    batches = Batches(dataset, torch.arange(300), 60, 0)

    def start() -> Start:
        model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
        return Start(model, prunable.full(model), dataset)

    expected = "loss of the objective odd: expected a scalar tensor with a gradient, found "
    with pytest.raises(BadInput, match=expected):
        Reference(training, start()).train(batches, span, lambda step: None)
    with pytest.raises(BadInput, match=expected):
        Stacked(training, [start(), start()]).train([batches, batches], span, [lambda step: None] * 2)


# ---------------------------------------------------------------- in a recipe


def test_each_is_listed_by_its_own_name_and_says_what_it_is() -> None:
    for name, kind in OBJECTIVES.items():
        assert kind.model_fields["name"].default == name
        assert kind.about and (kind is CrossEntropy or (kind.paper and kind.year))


@pytest.mark.parametrize("plain", [{}, {"objective": None}, {"objective": {"name": "cross-entropy"}}])
def test_cross_entropy_is_absent(plain: dict[str, Any]) -> None:  # S9
    recipe = Recipe.model_validate(FIELDS | plain)
    assert recipe.objective is None and "objective" not in recipe.model_dump_json()
    assert recipe == Recipe.model_validate(FIELDS)


def test_a_recipe_with_an_objective_is_read_back() -> None:
    recipe = Recipe.model_validate(FIELDS | {"objective": {"name": "l1", "strength": 1e-5}})
    assert recipe.objective == L1(strength=1e-5)
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json", exclude_none=True)))) == recipe


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("recipe.objective=l1", "recipe.objective: expected a table, found 'l1'"),
        ("recipe.objective={strength = 1.0}", f"recipe.objective.name: expected {', '.join(OBJECTIVES)}"),
        ("recipe.objective={name = 'l2'}", f"recipe.objective.name: expected {', '.join(OBJECTIVES)}, found"),
        ("recipe.objective={name = 'l1'}", "recipe.objective.strength: expected a value, found nothing"),
        ("recipe.objective={name = 'l1', strength = -1.0}", "recipe.objective.strength: expected a number > 0, found"),
        ("recipe.objective={name = 'l1', strenght = 1.0}", "did you mean strength?"),
        ("recipe.objective={name = 'l1', strength = 1.0, code = 'x'}", "the unknown field 'code'"),
        ("recipe.objective={name = 'label-smoothing', epsilon = 1.0}", "recipe.objective.epsilon: expected a number <"),
        ("strength=0.1", "did you mean recipe.objective.strength?"),
    ],
)
def test_a_fault_is_told_with_its_path(change: str, fault: str) -> None:
    with pytest.raises(SpecError) as told:
        read("digits-lenet", [change])
    assert fault in str(told.value).replace("\n", " ")


def test_from_a_spec_to_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        *("recipe.objective={name = 'label-smoothing'}", "recipe.length=40it", "recipe.model=lenet-20-10"),
        *("levels=1", "replicates=2", "evaluate.every=10it", "evaluate.test_every=20it"),
    ]
    arguments = ["digits-lenet", "--store", str(tmp_path), *(part for change in changes for part in ("--set", change))]
    assert main(["plan", *arguments]) == 0
    assert "the kernels know no objective but cross-entropy" in capsys.readouterr().out.replace("\n", " ")
    assert main(["run", *arguments, "--workers", "1"]) == 0
    assert "report.html" in capsys.readouterr().out
    (report,) = (tmp_path / "reports").glob("*/report.html")
    assert "label-smoothing" in report.read_text(encoding="utf-8")


def test_processes_that_train_together_refuse_it_before_they_meet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    store = tmp_path / "store"
    changes = ["--set", "recipe.objective={name = 'label-smoothing'}", "--set", "device=cpu"]
    assert main(["run", "digits-lenet", "--store", str(store), *changes]) == 2
    assert "found the objective label-smoothing" in capsys.readouterr().err.replace("\n", " ") and not store.exists()


# ---------------------------------------------------------------- of one's own

DISTILLATION = '''
from typing import Literal

from torch.func import functional_call
from torch.nn import functional

from tombola.objective import Objective, cross_entropy


class Distillation(Objective):
    """The teacher's probabilities beside the labels (Hinton et al., 2015)."""

    name: Literal["distillation"] = "distillation"
    share: float = 0.5

    def loss(self, model, batch, inputs):
        examples, labels = batch
        scores = model(examples)
        taught = functional_call(model, inputs["teacher"], (examples,)).softmax(-1)
        return (1 - self.share) * cross_entropy(scores, labels) + self.share * functional.cross_entropy(scores, taught)


OBJECTIVES = {"distillation": Distillation}
'''


def test_an_objective_from_outside_learns_from_a_teacher(tmp_path: Path) -> None:
    """The weights of another training are an input of this one, and what learns from them has their key in its own."""
    mine = tmp_path / "mine.py"
    mine.write_text(DISTILLATION)
    changes = ["levels=0", "replicates=1", "recipe.length=20it", "recipe.model=lenet-20-10"]
    taught = read("digits-lenet", [*changes, "recipe.objective={name = 'distillation', share = 1.0}"], [mine])
    (plain,), (row,) = (plan(each).rows for each in (read("digits-lenet", changes), taught))
    objective = taught.spec.recipe.objective
    assert objective and objective.code and row.run.described["recipe"]["objective"]["code"] == objective.code
    pupil: Train = replace(row.run, further=(("teacher", plain.run),))
    worker = Worker(Store(tmp_path / "store").open(), None, "reference")
    for run in (plain.run.start, plain.run, pupil):
        assert do(run, worker, lambda *_: None) == ("stored",)
    shared = worker.store.weights(pupil), worker.store.weights(plain.run)
    assert not weights.equal(*shared) and pupil.key != row.run.key
    assert pupil.stack_size("stacked", "cpu") == 1


HARDER = '''
from typing import Literal

from tombola.objective import CrossEntropy


class Doubled(CrossEntropy):
    """Twice the cross-entropy."""

    name: Literal["doubled"] = "doubled"

    def loss(self, model, batch, inputs):
        return 2 * super().loss(model, batch, inputs)


class Unlisted(Doubled):
    """One that no table has, but a method may use."""


MADE = Doubled(), Unlisted()
OBJECTIVES = {"doubled": Doubled}
'''


def test_what_is_built_on_cross_entropy_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HARDER)
    experiment = read("digits-lenet", ["recipe.objective={name = 'doubled'}"], [tmp_path / "mine.py"])
    objective = experiment.spec.recipe.objective
    assert objective and objective.name == "doubled"
    model, _ = network()
    assert objective.loss(model, batch_of(0), {}) == 2 * CrossEntropy().loss(model, batch_of(0), {})


def test_the_code_of_an_objective_is_that_of_its_class_whoever_made_it_and_when(tmp_path: Path) -> None:  # S9
    """Before its table was read, and of a class that is in no table."""
    keys = []
    for text in (HARDER, HARDER + "\n"):
        (tmp_path / "mine.py").write_text(text)
        mine = load(tmp_path / "mine.py")
        for made in attribute("MADE", mine.sha256):
            assert made.code == mine.sha256
            recipe = Recipe.model_validate(FIELDS | {"objective": made})
            keys.append(replace(plan(read("digits-lenet", ["levels=0"])).rows[0].run, recipe=recipe).key)
    assert set(keys[:2]).isdisjoint(keys[2:])


def test_an_extension_lists_its_own_objectives_and_changes_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from tombola.objective import L1\n\nOBJECTIVES = {'l1': L1}\n")
    with pytest.raises(BadInput, match="line 3: expected a class that this file defines"):
        load(tmp_path / "mine.py")
    assert L1(strength=1e-5).code is None
