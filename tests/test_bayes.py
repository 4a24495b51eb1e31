"""Gaussian weights: what is pruned has no noise, without noise it is the plain network, and the bound is the bound."""

import copy
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from torch.optim import Optimizer

from tombola import data, models, prunable, weights
from tombola.bayes import SAMPLES, Gaussian, divergence, elbo, is_noise, noise_of
from tombola.cash.comparison import prove
from tombola.errors import BadInput, SpecError
from tombola.explorer.experiment import page
from tombola.guard import Guard
from tombola.lab.attempt import do
from tombola.lab.kinds import Means, Prune, Train
from tombola.lab.kinds.training import further_inputs
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.runs import ancestry
from tombola.lab.spec import Experiment
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.tickets import trained_of
from tombola.lab.worker import Worker
from tombola.mask import Mask, apply, random_like
from tombola.models import variants
from tombola.optimizers import optimizer_of
from tombola.probabilities import log_mean_probability
from tombola.prune import globally
from tombola.recipe import SGD, Adam, AdamW
from tombola.recipe import Optimizer as OptimizerValue
from tombola.search import Search

INPUTS = torch.randn(12, 1, 8, 8, generator=Generator().manual_seed(0)).double()
BATCH = INPUTS, torch.arange(12) % 10


def plain(name: str = "lenet-20-10", shape: tuple[int, ...] = (1, 8, 8)) -> nn.Module:
    return models.build(name, shape, 10, "kaiming-uniform", init_seed=0).double()


def noisy(sigma: float = 2.0, samples: int = 3, name: str = "lenet-20-10") -> Gaussian:
    """With noise enough to be seen."""
    return Gaussian(plain(name, (3, 16, 16) if name.startswith("resnet") else (1, 8, 8)), samples, sigma)


def half(model: nn.Module) -> Mask:
    full = prunable.full(model)
    return random_like(globally(full, full, 0.5), 0)


def draws(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def trained(model: Gaussian, optimizer: Optimizer, mask: Mask, steps: int = 5, temperature: float = 0.1) -> None:
    guard = Guard(model, optimizer, mask)
    for step in range(steps):
        optimizer.zero_grad()
        elbo(model, BATCH, 12, temperature, draw=draws(step)).backward()
        optimizer.step()
    guard.check()


# ---------------------------------------------------------------- what it is


def test_it_has_the_parameters_of_the_plain_network_and_the_logarithms_of_deviations_beside_them() -> None:
    bare, model = weights.of(plain()), noisy()
    ours = weights.of(model)
    assert {name: ours[name] for name in bare}.keys() == bare.keys()
    assert weights.equal({name: ours[name] for name in bare}, bare)
    assert ours.keys() - bare.keys() == {noise_of(name) for name in prunable.prunable(plain())}
    assert prunable.prunable(model) == prunable.prunable(plain())  # rho is no weight by itself


def test_noise_begins_at_a_share_of_the_kaiming_bound() -> None:
    model = noisy(sigma=0.01)
    assert torch.allclose(model.noise["fc1.weight"], torch.tensor(0.01 / sqrt(64)).double())
    assert torch.allclose(model.noise["output.weight"], torch.tensor(0.01 / sqrt(10)).double())


def test_a_copy_and_another_mode_are_of_the_whole() -> None:
    model = noisy(name="resnet-8-w2")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    assert not any(bool((value == 0).all()) for name, value in model.named_parameters() if name in model.names)
    assert not any(module.training for module in model.eval().plain.modules() if module is not model.plain)
    images = torch.randn(4, 3, 16, 16).double()
    assert torch.equal(model(images), model(images))
    model.float().train()(images.float())
    assert not torch.equal(model.eval()(images.float()), other.float().eval()(images.float()))


def test_an_answer_is_the_mean_of_probabilities_and_the_same_again_whatever_the_batches() -> None:
    model = noisy().eval()
    state = torch.random.get_rng_state()
    whole = model(INPUTS)
    assert torch.equal(whole, model(INPUTS))
    torch.testing.assert_close(torch.cat([model(part) for part in INPUTS.split(5)]), whole)
    assert torch.equal(state, torch.random.get_rng_state())
    generator, each = draws(), []
    for _ in range(3):
        with torch.no_grad():
            drawn = {}
            for name, (mu, rho) in {name: _pair(model, name) for name in model.names}.items():
                drawn[name] = mu + rho.exp() * torch.randn(mu.shape, generator=generator, dtype=torch.float64)
            each.append(torch.func.functional_call(plain(), drawn, (INPUTS,)).softmax(-1))
    torch.testing.assert_close(whole.exp(), torch.stack(each).mean(0))


def test_in_training_it_draws_anew() -> None:
    model = noisy().train()
    assert not torch.equal(model(INPUTS), model(INPUTS))
    assert torch.equal(*(model.sampled(INPUTS, draw=draws(1)) for _ in range(2)))


@pytest.mark.parametrize("bad", [nn.Linear(2, 2), nn.Sequential(nn.ReLU())])
def test_what_has_no_layers_is_refused(bad: nn.Module) -> None:
    with pytest.raises(BadInput, match="layers that may be pruned"):
        Gaussian(bad)


def test_a_plain_network_is_had_of_the_means_again() -> None:
    before, model = plain(), noisy()
    means = model.means()
    assert weights.equal(weights.of(means), weights.of(before)) and type(means) is type(before)
    before.load_state_dict(means.state_dict())
    with torch.no_grad():
        for value in means.parameters():
            value.zero_()
    assert not any(bool((model._pair(name)[0] == 0).all()) for name in model.names)
    assert set(model.noise) == set(model.names), "the deviations of the model stay"


@pytest.mark.parametrize(
    "bad", [*({"samples": value} for value in (0, -2, 2.5, "3", True)), {"sigma": 0}, {"sigma": -1}, {"sigma": None}]
)
def test_numbers_that_no_gaussian_network_has_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"Gaussian, s\w+: expected a .*number"):
        Gaussian(plain(), **bad)


@pytest.mark.parametrize(
    "bad",
    [
        *({"examples": value} for value in (0, -5, len(BATCH[0]) - 1, 1e4)),
        *({"temperature": value} for value in (-1, float("nan"), "1")),
        *({"samples": value} for value in (0, -2, 2.5)),
    ],
)
def test_numbers_that_no_bound_has_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(bad))}: expected"):
        elbo(noisy(), BATCH, **{"examples": 100, **bad})


def test_what_has_noise_already_or_is_no_model_is_refused() -> None:
    for wrong, found in (
        ("lenet-20-10", "lenet"),
        (noisy(), "Gaussian weights"),
        (nn.Sequential(noisy()), "of others"),
    ):
        with pytest.raises(BadInput, match=f"found .*{found}"):
            Gaussian(wrong)  # type: ignore[arg-type]
    for asked in (partial(elbo, batch=BATCH, examples=100), divergence):
        with pytest.raises(BadInput, match="expected one with Gaussian weights, found Sequential"):
            asked(plain())  # type: ignore[arg-type]


def test_a_search_does_not_ask_to_prune_the_noise(recwarn: pytest.WarningsRecorder) -> None:
    model = noisy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Search(model, optimizer, levels=1, rate=0.5, rewind="0it", score="snr")
    assert not recwarn.list


# ---------------------------------------------------------------- pruned weights


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sigma_of_pruned_weights_is_exactly_0_through_every_step_of_any_optimiser(name: str) -> None:  # M1 M2 M10
    model = noisy()
    mask, optimizer = half(model), OPTIMIZERS[name](model.parameters())
    trained(model, optimizer, mask)
    for weight, alive in mask.items():
        assert bool((model.noise[weight][~alive] == 0).all()) and bool((model.noise[weight][alive] > 0).all())
    seen = model.eval()(INPUTS)
    with torch.no_grad():  # M5: whatever stands where nothing lives, nothing is heard of it
        for weight, alive in mask.items():
            model.get_parameter(noise_of(weight))[~alive] = 9.0
    assert torch.equal(model(INPUTS), seen)
    assert torch.equal(*(elbo(model, BATCH, 12, draw=draws()) for _ in range(2)))


def test_pruned_weights_have_no_part_in_the_divergence_and_no_gradient() -> None:
    model = noisy()
    mask = half(model)
    weights.put(model, apply(weights.of(model), mask))
    expected = sum(
        kl_divergence(Normal(mu[alive], rho[alive].exp()), Normal(0.0, 1.0)).sum()
        for (mu, rho), alive in ((_pair(model, name), mask[name]) for name in model.names)
    )
    found = divergence(model)
    torch.testing.assert_close(found, expected)
    elbo(model, BATCH, 12, draw=draws()).backward()
    for name, alive in mask.items():
        gradient = model.get_parameter(noise_of(name)).grad
        assert gradient is not None and bool((gradient[~alive] == 0).all()) and bool(gradient[alive].any())


def _pair(model: Gaussian, name: str) -> tuple[Tensor, Tensor]:
    return model.get_parameter(name).detach(), model.get_parameter(noise_of(name)).detach()


def test_rewinding_resets_means_and_noise() -> None:  # R1
    model = noisy()
    start, mask = weights.of(model), half(model)
    for _ in range(2):
        trained(model, torch.optim.Adam(model.parameters(), lr=0.1), mask)
        assert not any(torch.equal(value, start[name]) for name, value in model.state_dict().items() if is_noise(name))
        weights.put(model, start)
        assert weights.equal(weights.of(model), start)


@pytest.mark.parametrize(
    "value",
    [
        SGD(name="sgd", lr=0.1, weight_decay=0.5),
        Adam(name="adam", lr=0.1, weight_decay=0.5),
        AdamW(name="adamw", lr=0.1, weight_decay=0.5),
        Adam(name="adam", lr=0.1, weight_decay=0.5, decay="kernels"),
    ],
)
def test_weight_decay_leaves_sigma_alone(value: OptimizerValue) -> None:
    model = noisy()
    before, optimizer = weights.of(model), optimizer_of(value, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, after in weights.of(model).items():
        assert torch.equal(after, before[name]) == (is_noise(name) or name.endswith("bias")), name


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_without_noise_it_follows_the_deterministic_training(name: str) -> None:
    bare = plain()
    mask, optimizer = half(bare), OPTIMIZERS[name](bare.parameters())
    guard = Guard(bare, optimizer, mask)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(bare(INPUTS), BATCH[1]).backward()
        optimizer.step()
    guard.release()
    ends = []
    for sigma in (1e-2, 1e-5, 1e-8):
        model = noisy(sigma)
        trained(model, OPTIMIZERS[name](model.parameters()), mask, temperature=0.0)
        ends.append(max(float((_pair(model, n)[0] - bare.get_parameter(n)).detach().abs().max()) for n in model.names))
    assert ends[0] > 10 * ends[1] and ends[2] < 1e-6


def test_the_divergence_is_the_closed_form_of_torch() -> None:
    model = noisy(name="resnet-8-w2")
    expected = sum(
        kl_divergence(Normal(mu, rho.exp()), Normal(0.0, 1.0)).sum()
        for mu, rho in (_pair(model, name) for name in model.names)
    )
    torch.testing.assert_close(divergence(model), expected)


@pytest.mark.parametrize("name", ["lenet-20-10", "resnet-8-w2"])
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    model = noisy(0.3, name=name)
    batch = BATCH if name.startswith("lenet") else (torch.randn(6, 3, 16, 16).double(), torch.arange(6))

    def bound() -> Tensor:
        return elbo(model, batch, 40, 0.5, draw=draws())

    bound().backward()
    choose = draws(1)
    for parameter, gradient in [(each, each.grad) for each in model.parameters()]:
        assert gradient is not None
        place = int(torch.randint(parameter.numel(), (), generator=choose))
        flat, sides = parameter.detach().view(-1), []
        for step in (1e-6, -2e-6):
            flat[place] += step
            sides.append(float(bound().detach()))
        flat[place] += 1e-6
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(float(gradient.flatten()[place]), rel=1e-4, abs=1e-7)


def test_the_data_term_is_the_mean_over_draws_of_cross_entropy() -> None:
    model = noisy()
    inputs, labels = BATCH
    with torch.no_grad():
        each = [functional.cross_entropy(scores, labels) for scores in model.sampled(inputs, 4, draws())]
        found = elbo(model, BATCH, 50, 0.2, samples=4, draw=draws())
        expected = torch.stack(each).mean() + 0.2 / 50 * divergence(model)
    torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- local reparametrisation


def test_what_a_linear_layer_puts_out_has_the_moments_of_drawn_weights() -> None:
    model = Gaussian(nn.Sequential(nn.Linear(5, 4)), sigma=1.0).double()
    inputs, many = torch.randn(3, 5, generator=draws(2)).double(), 20_000
    found = model.sampled(inputs.repeat(many, 1), 1, draws()).detach().view(many, 3, 4)  # each row has its own noise
    mu, rho = _pair(model, "0.weight")
    mean, variance = inputs @ mu.T + model.get_parameter("0.bias").detach(), inputs.square() @ (2 * rho).exp().T
    assert ((found.mean(0) - mean).abs() < 5 * (variance / many).sqrt()).all()
    assert ((found.var(0) / variance - 1).abs() < 5 * sqrt(2 / many)).all()


class Shared(nn.Module):
    """Asks a linear layer in one of the ways in which its outputs are not to be drawn one by one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:  # N x T x 4
        answers: dict[str, Callable[[], Tensor]] = {
            "rows": lambda: self.layer(inputs),
            "flattened": lambda: self.layer(inputs.flatten(0, 1)).view_as(inputs),
            "twice": lambda: self.layer(self.layer(inputs[:, 0])),
            "by its weight": lambda: functional.linear(inputs, self.layer.weight),
        }
        return answers[self.how]()


@pytest.mark.parametrize("how", ["rows", "flattened"])
def test_all_rows_of_an_example_see_the_same_weights(how: str) -> None:
    model = Gaussian(Shared(how), sigma=1.0)
    found = model.sampled(torch.ones(2, 3, 4), 2, draws())
    assert torch.allclose(found[0], found[0, 0, 0].expand_as(found[0])) and not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("how", ["twice", "by its weight"])
def test_a_layer_that_is_asked_otherwise_is_refused_where_outputs_are_drawn(how: str) -> None:
    model = Gaussian(Shared(how), sigma=1.0)
    with pytest.raises(BadInput, match=r"layer.weight.*once for each example"):
        model.sampled(torch.ones(2, 3, 4))
    model.train()(torch.ones(2, 3, 4))  # which draws weights


def test_units_without_input_have_a_finite_gradient() -> None:
    model = Gaussian(nn.Sequential(nn.Linear(3, 2)))
    elbo(model, (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)), 4).backward()
    assert all(bool(each.grad.isfinite().all()) for each in model.parameters() if each.grad is not None)


# ---------------------------------------------------------------- beside the authors' library


def test_it_is_what_the_authors_library_computes() -> None:
    """Its weights alone are random here, its biases none: the library's KL, and its mean of probabilities."""
    vi: Any = pytest.importorskip("torch_blue.vi")
    distributions = importlib.import_module("torch_blue.vi.distributions")
    model = Gaussian(nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)), sigma=0.01)
    drawn = {"variational_distribution": distributions.MeanFieldNormal(std=0.01), "bias": False}
    theirs = vi.VISequential(vi.VILinear(5, 7, **drawn), nn.ReLU(), vi.VILinear(7, 3, **drawn))
    for place, name in ((0, "0.weight"), (2, "2.weight")):
        mu, rho = _pair(model, name)
        torch.testing.assert_close(
            theirs[place]._weight_log_std.detach(), rho, rtol=1e-4, atol=0
        )  # both begin with the same sigma
        with torch.no_grad():
            theirs[place]._weight_mean.copy_(mu)
    categorical = distributions.Categorical(eps=0.0)
    bound = vi.AnalyticalKullbackLeiblerLoss(theirs, categorical, dataset_size=40, heat=0.1)
    torch.testing.assert_close(divergence(model), bound.prior_matching(), rtol=1e-4, atol=0)
    answers = model.sampled(torch.randn(6, 5), 3)
    (p,) = categorical.predictive_parameters_from_samples(answers)
    torch.testing.assert_close(log_mean_probability(answers, 3, dim=0).exp(), p)
    # Of one draw the library's bound is ours; of several it takes the logarithm of their mean probability.
    with torch.no_grad():
        one = model.sampled(torch.randn(40, 5), 1, draws())
        labels = torch.arange(40) % 3
        ours = functional.cross_entropy(one[0], labels) + 0.1 / 40 * divergence(model)
    torch.testing.assert_close(bound(one, labels) / 40, ours, rtol=1e-4, atol=0)


# ---------------------------------------------------------------- in a spec


TINY = [
    "recipe.model=lenet-20-10+gaussian-2",
    "recipe.objective={name='elbo', samples=2}",
    "recipe.optimizer={name='adam', lr=0.01, weight_decay=0.0001}",
    "recipe.length=30it",
    "prune.score=snr",
    "replicates=1",
    "levels=2",
    "arms=ticket,reinit,shuffle,global-shuffle,even,deterministic,transplant",
]


def tiny(changes: Sequence[str] = ()) -> Experiment:
    """The spec in which some of its fields are written otherwise."""
    changed = {change.partition("=")[0] for change in changes}
    return read("digits-lenet", [*(each for each in TINY if each.partition("=")[0] not in changed), *changes])


def rows(changes: Sequence[str] = ()) -> dict[tuple[str, int], Train]:
    planned = plan(tiny(changes))
    return {(row.arm, row.level): row.run for row in planned.rows}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, int], Train], Store]:
    store, trainings = Store(tmp_path_factory.mktemp("store") / "store").open(), rows()
    worker = Worker(store, None)
    for run in ancestry([*trainings.values()]):
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return trainings, store


def test_a_spec_has_deterministic_and_gaussian_arms_beside_each_other() -> None:
    made = rows()
    of = {arm: run.recipe for (arm, level), run in made.items() if level == 1}
    assert {arm for arm, recipe in of.items() if recipe.model == "lenet-20-10"} == {"deterministic"}
    assert of["deterministic"].objective is None and of["transplant"] == of["ticket"]
    masks = {arm: run.mask for (arm, level), run in made.items() if level == 1}
    assert isinstance(masks["ticket"], Prune) and masks["ticket"].score == "snr"
    assert isinstance(masks["deterministic"], Prune) and masks["deterministic"].score == "magnitude"
    assert masks["transplant"] == masks["deterministic"]
    early, late = rows(), rows(["arm.transplant.weights=trained"])
    assert (
        isinstance(early["transplant", 2].start, Means)
        and early["transplant", 2].start.of == made["deterministic", 2].start
    )
    assert isinstance(late["transplant", 2].start, Means) and late["transplant", 2].start.of == made["deterministic", 2]


def test_a_transplant_begins_at_the_deterministic_weights_with_the_first_deviations(
    done: tuple[dict[tuple[str, int], Train], Store],
) -> None:
    made, store = done
    start, theirs = made["transplant", 1].start, made["deterministic", 1].start
    found, means, first = store.weights(start), store.weights(theirs), store.weights(made["ticket", 1].start)
    assert weights.equal({name: found[name] for name in means}, means)
    assert found.keys() == first.keys() and all(
        torch.equal(found[name], first[name]) for name in found if is_noise(name)
    )
    assert all(torch.equal(first[name], means[name]) for name in means), "one draw for both kinds of weights"


def test_trained_tickets_have_no_noise_where_they_are_pruned(
    done: tuple[dict[tuple[str, int], Train], Store],
) -> None:  # M1 M5
    made, store = done
    for (arm, level), run in made.items():
        model = models.build(run.recipe.model, (1, 8, 8), 10, "glorot-normal", 0)
        if run.mask is None or not isinstance(model, Gaussian):
            assert level == 0 or arm == "deterministic"
            continue
        weights.put(model, store.weights(run))
        for name, alive in store.mask(run.mask).items():
            assert bool((model.noise[name][~alive] == 0).all()) and bool((model.noise[name][alive] > 0).all())


def test_a_training_draws_the_same_again(
    done: tuple[dict[tuple[str, int], Train], Store], tmp_path: Path
) -> None:  # K11 K12
    made, store = done
    again = Store(tmp_path / "store").open()
    worker = Worker(again, None)
    for run in ancestry([made["ticket", 1]]):
        assert do(run, worker, lambda *seen: None) == ("stored",)
    assert weights.equal(again.weights(made["ticket", 1]), store.weights(made["ticket", 1]))


def test_the_bound_is_told_how_many_training_examples_there_are(
    done: tuple[dict[tuple[str, int], Train], Store],
) -> None:
    made, store = done
    worker = Worker(store, None)
    given = further_inputs(None, made["ticket", 1], worker)
    assert int(given["examples"]["count"]) == worker.placed(made["ticket", 1].recipe).facts.train == 1000


def test_shuffles_over_all_layers_keep_the_whole_count_and_not_that_of_each(
    done: tuple[dict[tuple[str, int], Train], Store],
) -> None:  # K1 K2
    made, store = done
    ticket, shuffled, even = (store.mask(made[arm, 2].mask) for arm in ("ticket", "global-shuffle", "even"))  # type: ignore[arg-type]
    assert ticket.alive == shuffled.alive == even.alive
    assert ticket.counts != shuffled.counts and ticket.counts != even.counts
    for alive in even.values():
        assert abs(int(alive.sum()) - ticket.density * alive.numel()) <= 1


def test_a_gaussian_network_has_one_name_and_its_means_one_score() -> None:
    assert variants.VARIANTS["gaussian"].usual == SAMPLES
    named, unnamed = (rows([f"recipe.model=lenet-20-10+gaussian{number}"]) for number in ("-10", ""))
    assert named == unnamed
    mean, size = (rows([f"prune.score={score}"])["deterministic", 2] for score in ("mean", "snr"))
    assert mean == size


def test_the_means_are_cashed_in(done: tuple[dict[tuple[str, int], Train], Store]) -> None:
    trainings, store = done
    model, alive, run = trained_of(plan(tiny()), store, 2, 0)
    assert run == trainings["ticket", 2] and not any(is_noise(name) for name in model.state_dict())
    kept = store.weights(run)
    assert weights.equal(weights.of(model), {name: kept[name] for name in weights.of(model)})
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    proof = prove(model, alive, images, labels, batches=(1, 9))
    assert {"dense", "sparse", "sparse int8"} <= {form.name for form in proof}


def test_the_explorer_shows_each_network_as_what_it_is(done: tuple[dict[tuple[str, int], Train], Store]) -> None:
    _, store = done
    found = page(results(plan(tiny()), store), data.load)
    assert {each.arm for each in found.series} >= {"ticket", "deterministic"}
    assert all(level.exciting is not None for each in found.series for level in each.levels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["recipe.model=lenet-20-10"], "recipe.objective: expected one for weights that are numbers, found 'elbo'"),
        (["recipe.model=lenet-20-10"], "prune.score: expected a score of weights that are numbers, found 'snr'"),
        (
            ["levels=5", "study.features.levels=5"],
            "recipe.model: expected weights that are numbers beside study.features",
        ),
        (["recipe.objective=none"], "recipe.objective: expected one for Gaussian weights, elbo"),
        (["recipe.model=lenet-20-10+gaussian-0"], "recipe.model: expected lenet-20-10"),
        (["arms=ticket,sign-in"], "arms: expected another method beside lenet-20-10+gaussian"),
        (["arms=ticket,rebasin"], "arms: expected another method beside lenet-20-10+gaussian"),
        (["arms=ticket,frozen"], "arms: expected controls of Gaussian weights beside lenet-20-10+gaussian"),
        (["prune.include=fc1.bias"], "prune.include: expected none beside prune.score = 'snr'"),
        (["recipe.model=lenet-20-10", "recipe.objective=none", "prune.score=mean"], "a model with Gaussian weights"),
        (["arm.transplant.length=20it"], "arm.transplant.retrain: expected no data, length"),
        (["arm.transplant.retrain=true", "arm.transplant.weights=trained"], "arm.transplant.retrain: expected no data"),
    ],
)
def test_gaussian_weights_that_cannot_be_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        tiny(changes)


@pytest.mark.parametrize("samples", [1, 4])
def test_running_statistics_forget_as_fast_whatever_the_number_of_draws(samples: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    inputs, labels, plain = torch.randn(9, 1, 8, 8), torch.arange(9) % 4, copy.deepcopy(layers)
    model = Gaussian(layers, samples, sigma=1e-9).train()
    elbo(model, (inputs, labels), examples=9).backward()
    plain.train()(inputs)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[name], buffer)
    model(inputs)
    assert int(dict(model.named_buffers())["1.num_batches_tracked"]) == 2
