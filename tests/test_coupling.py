"""Channels that live and die together: what goes with one, which of them go, and that smaller layers compute alike."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dying import masked
from torch import Tensor, nn

import tombola
from tombola import cash, models, prunable, weights
from tombola import coupling as coupled
from tombola import mask as masks
from tombola.cash import Importance, compact, coupling, shrink, shrunk_mask
from tombola.cash.equivalence import random_states
from tombola.coupling import Coupling
from tombola.errors import BadInput, SpecError
from tombola.lab import spec_file
from tombola.lab.attempt import do
from tombola.lab.plan import plan
from tombola.lab.runs import Network
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.models.attention import SelfAttention
from tombola.pruning import Round
from tombola.score import Scored, scores
from tombola.scores import SCORES
from tombola.search import Search
from tombola.train import guarded


class Residual(nn.Module):
    """A stem, a block with an identity and one with a projection, as residual networks have them."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a1, self.b1, self.a2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.c1, self.d1 = nn.Conv2d(8, 16, 3, 2, 1, groups=groups), nn.BatchNorm2d(16)
        self.c2, self.short = nn.Conv2d(16, 16, 3, padding=1, groups=groups), nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.a2(F.relu(self.b1(self.a1(x)))))
        x = F.relu(self.short(x) + self.c2(F.relu(self.d1(self.c1(x)))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Joined(nn.Module):
    """A U-Net of one level: what goes down is concatenated with what comes up again, by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm, self.deep = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 8, 3, padding=1),
        )
        self.up, self.across, self.out = (
            nn.ConvTranspose2d(8, 4, 2, 2),
            nn.Conv2d(10, 6, 3, padding=1),
            nn.Conv2d(6, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = F.relu(self.norm(self.down(x)))
        deep = F.relu(self.deep(F.max_pool2d(flat, 2)))
        smooth = F.interpolate(deep, scale_factor=2)
        return self.out(F.relu(self.across(torch.cat([flat, self.up(deep)], 1)))) + smooth[:, :2]  # type: ignore


class Depthwise(nn.Module):
    """A separable convolution, and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.each, self.point = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6 * 6 * 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(F.relu(self.each(F.relu(self.wide(x))))).flatten(1))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One layer that is called twice, between two that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(5, 8), nn.Linear(8, 8)
        self.hidden, self.last = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.twice(F.relu(self.first(x))))))
        return self.last(F.relu(self.hidden(x)))  # type: ignore[no-any-return]


class Attending(nn.Module):
    """A transformer's block with four heads and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), SelfAttention(16, 4, causal=False)
        self.wide, self.back, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return self.head((x + self.back(F.gelu(self.wide(x)))).mean(1))  # type: ignore[no-any-return]


class Twofold(nn.Module):
    """A concatenation that a grouped convolution reads: one output of `b` stands beside one or two of `a`."""

    def __init__(self, a: int = 32, b: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 1), nn.Conv2d(3, b, 1)
        self.grouped, self.head = nn.Conv2d(a + b, 48, 3, groups=3), nn.Conv2d(48, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(F.relu(self.grouped(F.relu(joined))))  # type: ignore[no-any-return]


IMAGES = (2, 3, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGES),
    "grouped": (lambda: Residual(groups=2), IMAGES),
    "concatenation": (Joined, IMAGES),
    "depthwise": (Depthwise, IMAGES),
    "shared": (Shared, (4, 5)),
    "attention": (Attending, (2, 7, 16)),
    "twofold": (Twofold, IMAGES),
    "uneven": (lambda: Twofold(20, 28), IMAGES),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """One whose normalisations are not those of the beginning, in float64, and an example."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build().double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(torch.randn(shape, dtype=torch.float64))
    return model.eval(), torch.randn(shape, dtype=torch.float64)


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def half(found: Coupling, full: Mask, seed: int = 0, multiple: int = 1) -> Mask:
    worth = torch.rand(found.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found.without(full, coupled.by_set(worth, found.living(full), found, dict.fromkeys(full, 0.5), multiple))


@every_network
def test_half_of_the_channels_leave_a_model_that_computes_what_the_masked_one_does(name: str) -> None:
    model, example = network(name)
    found, full = coupling(model, example), prunable.full(model)
    for seed in range(3):
        mask = half(found, full, seed)
        small, inputs = compact(model, mask, example), torch.randn_like(example)
        expected = masked(model, mask)(inputs)
        assert expected.std() > 1e-3, "the network says something"
        torch.testing.assert_close(small(inputs), expected, rtol=0, atol=1e-12)
        assert parameters(small) < 0.9 * parameters(model)
        # All that was pruned has gone, and nothing that was not.
        left = {place for place, value in small.named_parameters() if value.dim() > 1}
        assert sum(small.get_parameter(place).numel() for place in left) == mask.alive + uncounted(model, full)


def uncounted(model: nn.Module, full: Mask) -> int:
    return sum(value.numel() for name, value in model.named_parameters() if value.dim() > 1 and name not in full)


@every_network
def test_the_controls_of_a_mask_of_channels_keep_its_counts_and_whole_channels(name: str) -> None:
    model, example = network(name)
    found, full = coupling(model, example), prunable.full(model)
    mask = half(found, full)
    fewer = half(found, mask)
    assert coupled.made_of_channels(mask, found)
    assert not coupled.made_of_channels(masks.random_like(mask, 1), found)
    for make in (coupled.random_like, coupled.shuffle):
        made = make(mask, found, 1)
        assert made.counts == mask.counts and coupled.made_of_channels(made, found)
        assert found.widths(made) == found.widths(mask)
        assert make(mask, found, 1) == made
    drawn, nested = coupled.random_like(mask, found, 1), coupled.random_like(fewer, found, 1)
    assert all(bool((drawn[place] | ~nested[place]).all()) for place in drawn)


def test_an_mlp_without_its_least_units_is_what_is_written_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    small = shrink(model, 0.5, torch.zeros(1, 5, dtype=torch.float64))
    (first, b1), (second, b2), (third, b3) = (
        (model.get_parameter(f"{place}.weight").detach(), model.get_parameter(f"{place}.bias")) for place in (0, 2, 4)
    )
    into, on = first.square().sum(1) + second.square().sum(0), second.square().sum(1) + third.square().sum(0)
    hidden, later = (into / (5 + 4)).topk(3).indices.sort()[0], (on / (6 + 3)).topk(2).indices.sort()[0]
    x = torch.randn(7, 5, dtype=torch.float64)
    h = torch.relu(x @ first[hidden].T + b1[hidden])
    by_hand = torch.tanh(h @ second[later][:, hidden].T + b2[later]) @ third[:, later].T + b3
    torch.testing.assert_close(small(x), by_hand, rtol=0, atol=1e-12)
    assert [tuple(small.get_parameter(f"{place}.weight").shape) for place in (0, 2, 4)] == [(3, 5), (2, 3), (3, 2)]


@every_network
@pytest.mark.parametrize("multiple", [2, 4])
def test_widths_divide_by_the_multiple(name: str, multiple: int) -> None:
    model, example = network(name)
    found, full = coupling(model, example), prunable.full(model)
    rounds: list[Mask] = [full]
    for _ in range(3):
        for scope in ("channel", "channel_global"):
            by = Round(scope, (("*", 0.3),), score=SCORES["norm"], multiple=multiple)
            worth = {place: weights.of(model)[place].abs() for place in full}
            after = by.next(rounds[-1], worth, prunable.prunable(model), coupling=found)
            for names, channels in found.sets(full):
                kept = found.alive(after)[channels]
                assert kept.any(), "a layer never dies"
                for rows in (along for along in found.makes if along.name in names):
                    width = int(torch.isin(rows.channels, channels[kept]).sum())
                    assert width % multiple == 0 or kept.all() or len(channels) <= multiple
        rounds.append(after)
    assert rounds[-1].alive < rounds[0].alive


def test_inputs_and_answers_stay_and_it_is_said_why() -> None:
    model, example = network("attention")
    found = coupling(model, example)
    assert found.alone["back.weight"].startswith("they flow into") and found.alone["head.weight"] == (
        "they flow into the model's answer"
    )
    model, example = network("shared")
    assert "called twice" in coupling(model, example).alone["twice.weight"]
    only = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(BadInput, match=r"expected a layer whose channels can be taken out.*the model's answer"):
        shrink(only, 0.5, torch.zeros(1, 3))


def test_every_maker_of_a_concatenation_divides_by_the_multiple() -> None:
    small = shrink(Twofold(), 0.75, torch.zeros(IMAGES), multiple=8)
    assert [len(small.get_parameter(f"{layer}.weight")) for layer in ("a", "b", "grouped")] == [16, 8, 24]


def test_weights_whose_channels_are_one_have_one_rate() -> None:
    model, example = network("residual")
    found, full = coupling(model, example), prunable.full(model)
    by = Round("channel", (("a2.weight", 0.5), ("*", 0.1)), score=SCORES["norm"])
    scored = {place: weights.of(model)[place].abs() for place in full}
    with pytest.raises(BadInput, match=r"rate: expected one rate .* found 0\.1 for stem\.weight, 0\.5 for a2\.weight"):
        by.next(full, scored, prunable.prunable(model), coupling=found)
    torch.manual_seed(0)
    model = Residual()
    optimizer, start = torch.optim.SGD(model.parameters(), lr=0.05), weights.of(model)
    with pytest.raises(BadInput, match="rate: expected one rate"):
        for level in Search(model, optimizer, levels=1, scope="channel", rate={"a2.weight": 0.5, "*": 0.1}):
            loop(model, optimizer, level)
    assert weights.equal(weights.of(model), start), "nothing was trained"


FAMILIES: dict[str, tuple[tuple[int, ...], int]] = {
    "lenet-20-10": ((28, 28), 10), "lenet-5": ((1, 28, 28), 10), "conv-2": ((3, 32, 32), 10),
    "resnet-14-w4": ((3, 32, 32), 10), "vgg-11-w4": ((3, 32, 32), 10), "gpt-1-16": ((8, 20), 20),
    "bert-1-16": ((8, 20), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_in_an_experiment_rates_cannot_part_channels_that_are_one(name: str) -> None:
    """Its rates are of kinds, and layers whose channels are one are of one kind: a plan need not ask torch."""
    network = Network(name, *FAMILIES[name])
    model = network.build()
    kinds = prunable.prunable(model)
    sets = [names for names, _ in network.coupling().sets(prunable.full(model))]
    assert sets and all(len({kinds[weight] for weight in names}) == 1 for names in sets)


def test_of_attention_the_products_of_the_heads_that_are_left_count() -> None:
    model, _ = network("attention")
    long = torch.randn(1, 200, 16, dtype=torch.float64)  # whose products are most of what is done
    small = shrink(model, 0.6, long, of="multiply_adds")
    before, after = (sum(size.multiply_adds for size in cash.sizes(each, long).values()) for each in (model, small))
    assert 0.3 * before < after <= 0.6 * before
    attention = small.get_submodule("attention")
    assert isinstance(attention, SelfAttention) and attention.heads == 2


@pytest.mark.parametrize("of", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("scope", ["channel", "channel_global"])
def test_a_share_of_the_whole_is_met_from_below(of: str, scope: str) -> None:
    model, example = network("residual")
    mask = shrunk_mask(model, 0.4, example, of=of, by=Importance(scope=scope))
    small = compact(model, mask, example)
    from tombola.cash import sizes

    if of == "parameters":
        before, after = parameters(model), parameters(small)
    else:
        before, after = (sum(size.multiply_adds for size in sizes(each, example).values()) for each in (model, small))
    assert 0.3 * before < after <= 0.4 * before
    with pytest.raises(BadInput, match="which stay in any case"):
        shrink(model, 0.001, example, of=of)


@pytest.mark.parametrize("name", ["resnet-8-w4", "vgg-11-w4"])
def test_a_masked_network_trains_as_the_small_one_does_that_it_stands_for(name: str) -> None:
    """Step by step: nothing that is gone has a part in the statistics, in a gradient or in the optimiser's state."""
    draw = torch.Generator().manual_seed(1)
    model = models.build(name, (3, 32, 32), 4, "kaiming-normal", 0).double()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.bias, generator=draw)  # so that something comes out of a channel that nothing makes
    inputs = torch.randn(4, 3, 32, 32, generator=draw, dtype=torch.float64)
    mask = cash.shrunk_mask(model, 0.5, inputs)
    small = cash.compact(model, mask, inputs)
    answers = []
    for each, living in ((model, mask), (small, prunable.full(small))):
        optimizer = torch.optim.SGD(each.train().parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        batches = torch.Generator().manual_seed(2)
        with guarded(each, optimizer, living):
            for _ in range(12):
                images = torch.randn(8, 3, 32, 32, generator=batches, dtype=torch.float64)
                optimizer.zero_grad()
                F.cross_entropy(each(images), torch.arange(8) % 4).backward()
                optimizer.step()
        answers.append(each.eval()(inputs).detach())
    assert parameters(small) < 0.3 * parameters(model)
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-8, atol=1e-9)


# ---- scores of channels


def test_taylor_is_the_change_of_the_loss_when_a_channel_is_scaled() -> None:
    model, example = network("residual")
    found, full = coupling(model, example), prunable.full(model)
    labels = torch.tensor([0, 3])
    seen = Scored(copy.deepcopy(model), weights.of(model), full, [(example, labels)], coupling=found)
    given = scores(SCORES["taylor"], seen)
    for row in range(3):
        gate = torch.ones(8, dtype=torch.float64, requires_grad=True)
        own = copy.deepcopy(model)
        hook = own.get_submodule("a2").register_forward_pre_hook(
            lambda _, values, gate=gate: (values[0] * gate.view(1, -1, 1, 1),)
        )
        (slope,) = torch.autograd.grad(F.cross_entropy(own(example), labels), gate)
        hook.remove()
        torch.testing.assert_close(given["a1.weight"][row].flatten()[0], slope[row].abs(), rtol=1e-9, atol=1e-12)


def test_activation_and_scale_are_those_of_each_channel() -> None:
    model, example = network("residual")
    found, full = coupling(model, example), prunable.full(model)
    noted: list[Tensor] = []
    hook = model.get_submodule("a2").register_forward_pre_hook(lambda _, given: noted.append(given[0]))
    model(example)
    hook.remove()
    seen = Scored(copy.deepcopy(model), weights.of(model), full, [(example, torch.tensor([0, 1]))], coupling=found)
    given = scores(SCORES["activation"], seen)["a1.weight"].flatten(1)[:, 0]
    torch.testing.assert_close(given, noted[0].detach().abs().mean((0, 2, 3)))
    with pytest.raises(BadInput, match=r"none behind stem\.weight"):
        scores(SCORES["bn-scale"], seen)
    normed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    scale = nn.init.normal_(normed.get_parameter("1.weight")).detach()
    one = torch.zeros(1, 1, 8, 8)
    found, full = coupling(normed, one), prunable.full(normed)
    given = scores(SCORES["bn-scale"], Scored(normed, weights.of(normed), full, coupling=found))["0.weight"]
    torch.testing.assert_close(given.flatten(1)[:, 0], scale.abs().double())
    assert found.widths(full) == {("0.weight",): (4, 4)}


def test_a_score_of_channels_is_refused_where_single_weights_go() -> None:
    with pytest.raises(BadInput, match="expected a score of single weights in the scope 'layer', found 'norm'"):
        Round(score=SCORES["norm"])
    with pytest.raises(BadInput, match="multiple: expected none in the scope 'layer'"):
        Round(multiple=8)
    model = nn.Linear(2, 2)
    with pytest.raises(BadInput, match=r"cash\.coupling"):
        Round("channel").next(prunable.full(model), weights.of(model), prunable.prunable(model))
    with pytest.raises(BadInput, match="expected batches of training examples, which taylor sees"):
        shrink(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), 0.5, torch.zeros(1, 2), by="taylor")


# ---- in a loop of one's own


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, level: Any) -> None:
    for _ in range(6):
        x = torch.randn(16, 3, 8, 8)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.randint(4, (16,))).backward()
        optimizer.step()
        level.report(accuracy=float(torch.rand(())))


@pytest.mark.parametrize("scope", ["channel", "channel_global"])
def test_a_search_by_channels_ends_in_a_smaller_model(scope: str) -> None:
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    search = Search(model, optimizer, levels=2, rate=0.3, rewind="2it", scope=scope, score="norm")
    for level in search:
        loop(model, optimizer, level)
    assert search.mask(0).alive > search.mask(1).alive > search.mask(2).alive
    example = torch.randn(IMAGES)
    found = coupling(model, example)
    assert coupled.made_of_channels(search.mask(2), found)
    small = compact(model, search.mask(2), example)
    torch.testing.assert_close(small(example), model.eval()(example), rtol=0, atol=1e-5)
    assert all(living < before for living, before in found.widths(search.mask(2)).values()) or scope != "channel"
    verdict = search.verify(lambda level: loop(model, optimizer, level), level=2, replicates=2, controls=["random"])
    assert {trial.arm for trial in verdict.trials} == {"dense", "ticket", "random"}


def test_shrink_is_public_and_draws_nothing() -> None:
    model, before = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), random_states()
    assert tombola.shrink is shrink
    shrink(model, 0.5, torch.zeros(1, 2))
    assert all(torch.equal(one, other) for one, other in zip(before, random_states(), strict=True))


# ---- in the lab, and on other runtimes


def test_an_experiment_on_channels_takes_whole_ones_in_tickets_and_controls(tmp_path: Path) -> None:
    recipe = {"model": "resnet-8-w4", "data": "digits", "length": "6it", "batch": 50}
    spec = Spec.model_validate(
        {
            "recipe": recipe | {"optimizer": {"name": "sgd", "lr": 0.1}},
            "prune": {"scope": "channel", "rate": 0.3, "score": "taylor"},
            "arms": ["ticket", "random", "shuffle"],
            "levels": 2,
            "replicates": 1,
        }
    )
    wanted, worker = plan(Experiment(name="a", spec=spec)), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    found = Network("resnet-8-w4", spec.facts.shape, spec.facts.classes).coupling()
    trained = {(row.arm, row.level): row.run for row in wanted.rows}
    widths = []
    for level in (1, 2):
        runs = [mask for arm in spec.arms if (mask := trained[arm, level].mask)]
        ticket, *controls = map(worker.store.mask, runs)
        assert len(controls) == 2
        for control in controls:
            assert control.counts == ticket.counts and control != ticket
            assert coupled.made_of_channels(control, found)
        assert coupled.made_of_channels(ticket, found)
        widths.append([living for living, _ in found.widths(ticket).values()])
    assert all(later < earlier for earlier, later in zip(*widths, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["ticket", "even"]}, "arms: expected controls of whole channels in the scope channel, found 'even'"),
        ({"prune": {"score": "norm"}}, "prune.score: expected a score of single weights in the scope layer"),
        ({"prune": {"multiple": 8}}, "prune.multiple: expected absent in the scope layer, found 8"),
        ({"prune": {"scope": "channel", "basis": "dct"}}, "prune.basis: expected weights themselves"),
        ({"prune": {"scope": "channel"}, "densities": [0.5], "levels": None}, "densities: expected none in the scope"),
        ({"method": "snip", "prune": {"scope": "channel"}}, "method: expected methods that prune round by round"),
    ],
)
def test_what_does_not_go_with_channels_is_refused_before_anything_is_trained(
    changes: dict[str, Any], message: str
) -> None:
    table = {"prune": {"scope": "channel"}, **changes}
    flat = [f"{name}={json.dumps(value)}" for name, value in table.items() if name != "prune" and value is not None]
    flat += [f"prune.{name}={json.dumps(value)}" for name, value in table["prune"].items()]
    flat += ["levels=none"] if "densities" in changes else []
    with pytest.raises(SpecError, match=re.escape(message)):
        spec_file.read("digits", flat)


def test_a_smaller_model_is_saved_loaded_and_exported_as_any_other(tmp_path: Path) -> None:
    model, example = network("concatenation")
    small, inputs = shrink(model.float(), 0.5, example.float()), example.float()
    cash.to_safetensors(small, tmp_path / "small.safetensors")
    again = cash.from_safetensors(model, tmp_path / "small.safetensors")
    torch.testing.assert_close(again(inputs), small(inputs), rtol=0, atol=0)
    cash.to_torch_export(small, inputs, tmp_path / "small.pt2")
    loaded = torch.export.load(tmp_path / "small.pt2").module()
    torch.testing.assert_close(loaded(inputs), small(inputs))
    runtime = pytest.importorskip("onnxruntime")
    cash.to_onnx(small, inputs, tmp_path / "small.onnx")
    session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), small(inputs), rtol=1e-4, atol=1e-5)


# ---- controls and prices are those of the ticket


@pytest.mark.parametrize("make", [coupled.random_like, coupled.shuffle])
def test_no_control_of_channels_is_made_of_a_mask_of_single_weights(
    make: Callable[[Mask, Coupling, int], Mask],
) -> None:
    model, example = network("residual")
    found, full = coupling(model, example), prunable.full(model)
    single = masks.random_like(Mask({name: torch.rand(alive.shape) < 0.5 for name, alive in full.items()}), 0)
    with pytest.raises(BadInput, match="expected whole channels, found single weights"):
        make(single, found, 1)


def test_a_search_by_channels_begins_with_whole_ones() -> None:
    torch.manual_seed(0)
    model, before = Residual(), prunable.full(Residual())
    halves = Mask({name: torch.rand(alive.shape) < 0.5 for name, alive in before.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    search, start = Search(model, optimizer, levels=1, scope="channel", mask=halves), weights.of(model)
    with pytest.raises(BadInput, match="expected whole channels, found single weights"):
        for level in search:
            loop(model, optimizer, level)
    held = {name: value * halves[name] if name in halves else value for name, value in start.items()}
    assert weights.equal(weights.of(model), held), "nothing was trained"


def test_a_search_goes_on_from_a_mask_of_whole_channels_and_its_controls_are_as_dense() -> None:
    torch.manual_seed(0)
    model = Residual()
    found, optimizer = coupling(model, torch.randn(IMAGES)), torch.optim.SGD(model.parameters(), lr=0.05)
    begun = half(found, prunable.full(model))
    search = Search(model, optimizer, levels=1, rate=0.3, scope="channel", score="norm", mask=begun)
    for level in search:
        loop(model, optimizer, level)
    ticket = search.mask(1)
    for make in (coupled.random_like, coupled.shuffle):
        assert make(ticket, found, 3).counts == ticket.counts != begun.counts


@pytest.mark.parametrize("of", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("scope", ["channel", "channel_global"])
@pytest.mark.parametrize(("name", "keep"), [("mlp", "2.weight"), ("residual", "a2.weight"), ("grouped", "c2.weight")])
def test_what_a_layer_that_is_kept_reads_has_its_price_too(name: str, keep: str, scope: str, of: str) -> None:
    if name == "mlp":
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(*(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)))
        example = torch.randn(3, 8)
    else:
        model, example = network(name)

    def cost(each: nn.Module) -> int:
        if of == "parameters":
            return parameters(each)
        return sum(size.multiply_adds for size in cash.sizes(each, example).values())

    for share in (0.9, 0.7):
        small = shrink(model, share, example, of=of, by=Importance(scope=scope, keep=(keep,)))
        assert (share - 0.1) * cost(model) < cost(small) <= share * cost(model)
        kept = small.get_parameter(keep)
        assert len(kept) == len(model.get_parameter(keep)), "its own channels all stay"
        assert kept.shape[1] < model.get_parameter(keep).shape[1] or scope != "channel"


@pytest.mark.filterwarnings("ignore:.*torch.*:DeprecationWarning")
def test_a_model_that_is_called_compiled_only_is_refused_at_the_first_step() -> None:
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    compiled: Any = torch.compile(model, backend="eager")
    search, calls = Search(model, optimizer, levels=1, scope="channel"), 0
    with pytest.raises(BadInput, match=r"expected a model that has been called once.*compiled only"):
        for _ in search:
            for _ in range(3):
                calls += 1
                optimizer.zero_grad()
                F.cross_entropy(compiled(torch.randn(4, 3, 8, 8)), torch.randint(4, (4,))).backward()
                optimizer.step()
    assert calls == 1
    model.eval()(torch.randn(IMAGES))
    model.train()
    for level in search:
        loop(compiled, optimizer, level)
    assert coupled.made_of_channels(search.mask(1), coupling(model, torch.randn(IMAGES)))


class Remembering(nn.Sequential):
    """One that keeps what it has computed, as those with auxiliary losses do."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self[0](x)
        return self[2](self[1](self.last))  # type: ignore[no-any-return]


def test_a_model_that_keeps_what_it_has_computed_is_refused_with_the_reason_and_again() -> None:
    torch.manual_seed(0)
    model = Remembering(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model(torch.randn(2, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    search = Search(model, optimizer, levels=1, scope="channel")
    level, why = search.begin(), r"expected a plain model.*`last\.detach\(\)`"
    with pytest.raises(BadInput, match=why):
        model(torch.randn(2, 4))
    model(torch.randn(2, 4)).square().mean().backward()
    with pytest.raises(BadInput, match=why):
        optimizer.step()
    with pytest.raises(BadInput, match=why):
        search.finish()
    assert level.number == 0


def test_hooks_are_named_as_the_reason_and_so_are_layers_of_one_channel() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    hook = model[3].register_forward_hook(lambda *_: None)
    assert coupling(model, torch.zeros(1, 4)).alone["2.weight"] == "they flow into ReLU 3, which has hooks"
    hook.remove()
    model[2].register_forward_hook(lambda *_: None)
    assert coupling(model, torch.zeros(1, 4)).alone["2.weight"] == "it has hooks"
    grouped = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    alone = coupling(grouped, torch.zeros(1, 3, 4, 4)).alone
    assert alone["1.weight"] == "its 8 outputs are one channel, as groups stay as wide as each other; one always stays"
    assert set(alone) == {"1.weight", "3.weight"}
    narrow = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    assert coupling(narrow, torch.zeros(1, 4)).alone["0.weight"] == "it has one channel, and one always stays"
