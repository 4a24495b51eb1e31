"""What a teacher adds to a loss, how a training asks it, and the arms and recipes that have one."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tombola import data, distillation, models, prunable, weights
from tombola.cli import main
from tombola.data import Batches
from tombola.dynamics import DYNAMICS, Setting, Timeline
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.errors import BadInput, SpecError
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Loaded, Prune, Train
from tombola.lab.plan import Plan, expected_costs, plan
from tombola.lab.runs import Network
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.objective import TEACHER, CrossEntropy, Distill, Objective
from tombola.recipe import SGD
from tombola.search import Search
from tombola.train import Span

SPEC: dict[str, Any] = {
    "replicates": 1,
    "levels": 2,
    "arms": ["ticket", "distilled", "smoothed", "distilled-trained"],
    "engine": "reference",
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits-300",
        "length": "24it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    },
    "prune": {"rate": 0.5},
    "evaluate": {"every": "6it", "test_every": "24it"},
}


def scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    asked = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(asked), asked)
    return found


# ---------------------------------------------------------------- the loss


def probabilities(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(each / temperature) for each in row]
    return [power / sum(powers) for power in powers]


def by_hand(
    student: Tensor, teacher: Tensor, labels: list[int], alpha: float, temperature: float, even: bool = False
) -> float:
    hard = soft = 0.0
    targets = [probabilities(row, temperature) for row in teacher.tolist()]
    if even:
        sure = sum(row[label] for row, label in zip(targets, labels, strict=True)) / len(labels)
        share = (1 - sure) / (len(targets[0]) - 1)
        targets = [
            [sure if place == label else share for place in range(len(row))]
            for row, label in zip(targets, labels, strict=True)
        ]
    for row, target, label in zip(student.tolist(), targets, labels, strict=True):
        hard -= math.log(probabilities(row, 1)[label])
        soft += sum(q * math.log(q / p) for q, p in zip(target, probabilities(row, temperature), strict=True))
    return ((1 - alpha) * hard + alpha * temperature**2 * soft) / len(labels)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.9, 5.0), (0.3, 1.0), (1.0, 0.5)])
def test_the_loss_is_the_one_by_hand(alpha: float, temperature: float, even: bool) -> None:
    student, teacher, labels = scores(0, 6, 4), 2 * scores(1, 6, 4), [0, 3, 1, 2, 0, 0]
    found = distillation.loss(student, teacher, torch.tensor(labels), alpha, temperature, even)
    assert float(found) == pytest.approx(by_hand(student, teacher, labels, alpha, temperature, even), rel=1e-9)


def test_of_a_text_it_leaves_out_what_is_no_label() -> None:
    student, teacher, labels = scores(0, 2, 3, 4), scores(1, 2, 3, 4), torch.tensor([[1, -100, 3], [0, 2, -100]])
    asked = labels != -100
    expected = by_hand(student[asked], teacher[asked], labels[asked].tolist(), 0.9, 5.0)
    assert float(distillation.loss(student, teacher, labels)) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(temperature=some.floats(0.05, 100), seed=some.integers(0, 9))
def test_a_teacher_that_answers_as_the_student_does_pulls_nowhere(temperature: float, seed: int) -> None:
    student = 3 * scores(seed, 5, 4)
    pull = gradient(
        lambda asked: distillation.loss(asked, student, torch.zeros(5, dtype=torch.long), 1.0, temperature), student
    )
    assert float(pull.abs().max()) < 1e-12 * temperature


def test_twice_the_temperature_leaves_the_gradient_of_small_scores_to_first_order() -> None:
    """What is left over falls with the scores, which the gradient itself does to first order only."""
    labels, apart = torch.zeros(5, dtype=torch.long), []
    for size in (1e-1, 1e-2, 1e-3):
        student, teacher = size * scores(0, 5, 4), size * scores(1, 5, 4)
        one, two = (
            gradient(lambda asked, t=t, z=teacher: distillation.loss(asked, z, labels, 1.0, t), student)  # type: ignore[misc]
            for t in (1.0, 2.0)
        )
        assert one.abs().max() > size / 100
        apart.append(float((one - two).norm() / one.norm()))
    assert apart[1] < apart[0] / 5 and apart[2] < apart[1] / 5


def test_without_alpha_it_is_cross_entropy_to_the_last_bit() -> None:
    student, teacher, labels = scores(0, 9, 4).float(), scores(1, 9, 4).float(), torch.arange(9) % 4
    pulls = [
        gradient(lambda asked: distillation.loss(asked, teacher, labels, alpha=0.0), student),
        gradient(lambda asked: functional.cross_entropy(asked, labels), student),
    ]
    assert torch.equal(*pulls)
    plain, taught = (trained(objective).weights() for objective in (CrossEntropy(), Distill(alpha=0)))
    assert weights.equal(plain, taught)
    assert not weights.equal(plain, trained(Distill(alpha=0.1)).weights())


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected a teacher whose outputs have the student's shape, \[6, 4\], found"):
        distillation.loss(scores(0, 6, 4), scores(1, 6, 5), torch.zeros(6, dtype=torch.long))


# ---------------------------------------------------------------- a teacher, asked


class Normalised(nn.Module):
    """A network that answers otherwise when it is trained: by what else is in the batch, and by luck."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10)
        )

    def forward(self, examples: Tensor) -> Tensor:
        outputs: Tensor = self.layers(examples)
        return outputs


class Counting(nn.Module):
    """Counts the examples that a network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, examples: Tensor) -> Tensor:
        self.seen += len(examples)
        outputs: Tensor = self.network(examples)
        return outputs


def batches(**changes: Any) -> Batches:
    dataset = data.load("digits")
    train, _ = data.split(dataset, 3)
    return Batches(dataset, train[:330], 60, 5, **changes)


def teacher() -> nn.Module:
    torch.manual_seed(1)
    model = Normalised()
    for _ in range(3):
        model(torch.randn(50, 1, 8, 8))  # its running means are none of one's choice
    return model


def test_what_is_known_of_a_teacher_is_what_it_would_answer() -> None:
    own, seen = teacher(), batches()
    still = Counting(distillation.still(Normalised(), weights.of(own)))
    before = weights.of(own)
    answers = distillation.answering(still, seen)
    fresh = own.eval()
    for step in (0, 4, 5, 6, 11, 12, 3):  # of three passes, and of a batch that is smaller
        examples, _ = seen(step)
        torch.testing.assert_close(answers(step, examples), fresh(examples).detach(), rtol=1e-5, atol=1e-6)
    assert still.seen == 330, "each example once"
    assert weights.equal(before, weights.of(own))


def test_a_teacher_sees_images_as_they_are_changed() -> None:
    own, seen = teacher(), batches(augment="flip-crop", augment_seed=2)
    answers = distillation.answering(distillation.still(Normalised(), weights.of(own)), seen)
    fresh, plain = own.eval(), batches()
    for step in (0, 7):
        examples, _ = seen(step)
        torch.testing.assert_close(answers(step, examples), fresh(examples).detach())
        assert not torch.allclose(answers(step, examples), fresh(plain(step)[0]).detach())


def test_outputs_that_are_too_many_are_asked_for_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "KNOWN_AT_MOST", 330 * 10 * 4 - 1)
    own, seen = teacher(), batches()
    still = distillation.still(Normalised(), weights.of(own))
    answers, (examples, _) = distillation.answering(still, seen), seen(2)
    assert torch.equal(answers(2, examples), still(examples))


@pytest.mark.parametrize("name", ["frozen", "sign-in", "edge-popup", "rigl"])
def test_a_teacher_has_plain_weights_whatever_those_of_its_student_are_made_of(name: str) -> None:
    own, other = (models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", seed) for seed in range(2))
    mask = Mask({each: torch.rand(alive.shape) < 0.5 for each, alive in prunable.full(own).items()})
    DYNAMICS[name].model_validate({}).course(Setting(own, mask, Timeline(0, 20, 20, 5), inputs={"target": mask}))
    still, examples = distillation.still(own, weights.of(other)), torch.randn(7, 1, 8, 8)
    assert torch.equal(still(examples), other(examples)) and not still(examples).requires_grad
    assert set(weights.of(still)) == set(weights.of(other))
    assert not torch.equal(own(examples), other(examples))


def started(objective: Objective | None, model: nn.Module | None = None) -> tuple[Training, Start]:
    training = Training(optimizer=SGD(name="sgd", lr=0.1, momentum=0.9), batch=60, objective=objective)
    built = [models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", seed) for seed in range(2)]
    own = model or built[0]
    inputs = {TEACHER: weights.of(built[1])}
    return training, Start(own, prunable.full(own), data.load("digits"), inputs=inputs)


def trained(objective: Objective | None, until: int = 15) -> Reference:
    trainer = Reference(*started(objective))
    trainer.train(batches(), Span(0, until, lambda step: 0.1), lambda step: None)
    return trainer


@pytest.mark.parametrize("spread", ["taught", "even"])
def test_an_interrupted_training_is_taught_the_same(spread: str) -> None:  # K11
    objective = Distill.model_validate({"spread": spread})
    whole, first = trained(objective), trained(objective, 4)
    training, start = started(objective)
    weights.put(start.model, first.weights())
    rest = Reference(training, replace(start, state=first.optimizer_state()))
    rest.train(batches(), Span(4, 15, lambda step: 0.1), lambda step: None)
    assert weights.equal(whole.weights(), rest.weights())


# ---------------------------------------------------------------- arms and recipes


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


def runs(wanted: Plan, arm: str) -> list[Train]:
    return [row.run for row in wanted.rows if row.arm == arm]


@pytest.mark.parametrize("rewind", ["0it", "6it"])
def test_an_arm_is_taught_by_the_dense_network_of_its_replicate(rewind: str) -> None:  # K8
    wanted = planned(rewind=rewind, replicates=2)
    for number in range(2):
        rows = {(row.arm, row.level): row.run for row in wanted.rows if row.replicate == number}
        for arm, objective in {"distilled": Distill(), "smoothed": Distill(spread="even")}.items():
            for level in (1, 2):
                made = replace(
                    rows["ticket", level],
                    recipe=rows["ticket", level].recipe.model_copy(update={"objective": objective}),
                    further=((TEACHER, rows["dense", 0]),),
                )
                assert rows[arm, level] == made
        for level, by in ((1, rows["dense", 0]), (2, rows["ticket", 1])):
            assert rows["distilled-trained", level] == replace(rows["distilled", level], start=by)


@pytest.mark.parametrize(("augment", "seen"), [(None, 250), ("flip-crop", 4 * 250 + 4 * 60)])
def test_what_a_teacher_takes_is_counted_and_the_plan_names_its_engine(
    augment: str | None, seen: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """250 examples are trained on, each seen once; or those of 24 steps, four passes and four batches of 60."""
    wanted = planned(levels=1, recipe=SPEC["recipe"] | ({"augment": augment} if augment else {}))
    costs = {cost["arm"]: cost["training_macs"] for cost in expected_costs(wanted) if cost["level"] == 1}
    forwards = 64 * 20 + 20 * 10 + 10 * 10
    assert costs["distilled"] - costs["ticket"] == costs["smoothed"] - costs["ticket"] == seen * forwards
    if not augment:
        assert main(["plan", "digits-lenet", "--set", "arms=ticket,distilled", "--store", str(tmp_path)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "Engine of distilled: reference (the kernels know no objective but cross-entropy; no layer is" in said


def test_a_search_that_is_taught_throughout_has_a_teacher_that_is_not() -> None:
    recipe = SPEC["recipe"] | {"objective": {"name": "distill", "temperature": 2.0}}
    wanted = planned(recipe=recipe, arms=["ticket"], rewind="6it")
    (plain,) = runs(planned(arms=["ticket"], rewind="6it"), "dense")
    tickets = [*runs(wanted, "dense"), *runs(wanted, "ticket")]
    for run in tickets:
        assert run.recipe.objective == Distill(temperature=2) and run.further == ((TEACHER, plain),)
        assert isinstance(run.start, Train) and run.start.further == run.further
        assert isinstance(run.start.start, Init)
    masks = [run.mask for run in tickets[1:]]
    assert [mask.trained for mask in masks if isinstance(mask, Prune)] == tickets[:2]


@pytest.mark.parametrize(
    "scored",
    [{}, {"prune": {"rate": 0.5, "score": "snip"}}, *({"method": each} for each in ("prospr", "grasp", "force"))],
)
def test_a_spec_is_taught_from_its_objective_to_its_numbers(tmp_path: Path, scored: dict[str, Any]) -> None:
    """Of a score that sees batches the loss has its teacher too."""
    recipe = SPEC["recipe"] | {"objective": {"name": "distill"}}
    wanted, worker = (
        planned(recipe=recipe, levels=1, arms=["ticket"], **scored),
        Worker(Store(tmp_path / "store").open(), None),
    )
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    (ticket,) = runs(wanted, "ticket")
    again = ticket.perform(worker)
    assert again.values == worker.store.values(ticket)


def test_a_teacher_may_come_out_of_a_file(tmp_path: Path) -> None:
    path, other = tmp_path / "teacher.safetensors", tmp_path / "other.safetensors"
    for file, classes in ((path, 10), (other, 7)):
        save_file(weights.of(models.build("lenet-20-10", (1, 8, 8), classes, "glorot-normal", 7)), file)
    changes = ["levels=1", "replicates=1", "recipe.length=12it", "recipe.model=lenet-20-10"]

    def taught(file: Path) -> Plan:
        return plan(read("digits-lenet", [*changes, f"recipe.objective={{name = 'distill', teacher = '{file}'}}"]))

    wanted, worker = taught(path), Worker(Store(tmp_path / "store").open(), None)
    assert [type(row.run.further[0][1]) for row in wanted.rows if row.run.further] == [Loaded] * len(wanted.rows)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    assert Distill.model_validate(
        json.loads(Distill(teacher=str(path)).model_dump_json(exclude_none=True))
    ).teacher == str(path)
    with pytest.raises(SpecError, match=r"100 of them in output.weight, found output.weight of shape \[7, 10\]"):
        taught(other)
    with pytest.raises(SpecError, match=r"expected a safetensors file of weights, found .*none: No such file"):
        taught(tmp_path / "none")
    broken = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 7)
    save_file({name: value * torch.nan for name, value in weights.of(broken).items()}, other)
    with pytest.raises(BadInput, match="finite weights of a teacher, found nan or inf in fc1"):
        Loaded.of(Network("lenet-20-10", (1, 8, 8), 10), str(other)).perform(worker)
    (tmp_path / "text").write_text("a teacher")
    with pytest.raises(SpecError, match=r"expected a safetensors file of weights, found .*text: another file"):
        taught(tmp_path / "text")
    before = {row.run.key for row in wanted.rows}
    save_file(weights.of(models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 8)), path)
    assert before.isdisjoint(row.run.key for row in taught(path).rows), "another file, other keys"
    (loaded,) = {each for row in wanted.rows for _, each in row.run.further or ()}
    with pytest.raises(BadInput, match="expected the file with SHA-256"):
        loaded.perform(worker)


def test_what_cannot_be_taught_is_refused_before_anything_is_trained() -> None:
    taught = SPEC["recipe"] | {"objective": {"name": "distill"}}
    for method in ("gradual", "edge-popup"):
        with pytest.raises(BadInput, match="expected trainings that a teacher can be handed to"):
            planned(recipe=taught, method=method, arms=["ticket"])
    with pytest.raises(BadInput, match="expected a ticket that is trained without a teacher, found one with the obj"):
        planned(recipe=taught)
    with pytest.raises(SpecError, match=r"arms: expected arms for answers of .*one number, found 'distilled'"):
        read("spectrum-quick", ["arms=ticket,distilled"])
    with pytest.raises(
        SpecError, match="arms: expected arms that leave the objective label-smoothing alone, found 'smo"
    ):
        read("digits-lenet", ["recipe.objective={name='label-smoothing'}", "arms=ticket,smoothed"])
    for fault in ("alpha = 1.5", "temperature = 0", "spread = 'odd'"):
        with pytest.raises(SpecError, match=f"recipe.objective.{fault.split()[0]}: expected"):
            read("digits-lenet", [f"recipe.objective={{name = 'distill', {fault}}}"])


def test_a_loop_of_ones_own_is_told_that_its_loss_is_its_own() -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Search(model, optimizer, levels=1)

    def train(level: Any) -> None:
        model(torch.randn(3, 6)).sum().backward()
        optimizer.step()
        level.report(accuracy=float(torch.rand(())))

    for level in search:
        train(level)
    for arm in ("distilled", "smoothed", "distilled-trained"):
        with pytest.raises(BadInput, match=r"which asks for the (objective distill, while the|trained weights of all)"):
            search.verify(train, level=1, controls=[arm])


@pytest.mark.parametrize(
    ("teacher", "settings", "words"),
    [
        (torch.eye(3), {}, "before the softmax, found rows that are probabilities"),
        (torch.ones(3, 3), {"alpha": 1.5}, "alpha from 0 to 1"),
        (torch.ones(3, 3), {"temperature": 0.0}, "a temperature above 0"),
    ],
)
def test_a_teacher_that_gives_probabilities_and_other_constants_are_refused(
    teacher: Tensor, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        distillation.loss(torch.ones(3, 3), teacher, torch.tensor([0, 1, 2]), **settings)


def test_labels_are_classes_of_any_whole_type_one_for_each_row() -> None:
    student, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    plain = distillation.loss(student, student, labels)
    assert torch.equal(distillation.loss(student, student, labels.int()), plain)
    for odd in (labels[:2], labels.float(), labels[:, None]):
        with pytest.raises(BadInput, match=r"labels of the shape \[3\]"):
            distillation.loss(student, student, odd)


def test_a_teacher_that_is_asked_without_a_copy_answers_as_a_copy_of_it_does() -> None:
    own, other = teacher(), teacher().train()
    state, examples = weights.of(own), torch.randn(7, 1, 8, 8)
    before = weights.of(other)
    assert torch.equal(distillation.with_weights(other, state, examples), own.eval()(examples))
    assert other.training and weights.equal(before, weights.of(other))
