"""A score is one number per weight."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola import score
from tombola.mask import Mask
from tombola.score import Scored
from tombola.scores import SCORES

WEIGHTS = {"a": torch.tensor([[-3.0, 1.0], [0.0, -0.5]]), "a.bias": torch.tensor([9.0]), "b": torch.tensor([2.0, -2.0])}


class Net(nn.Module):
    """A network of weights of any shape, each of which the answers depend on."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(each) for name, each in weights.items()})

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * sum((layer.sin().sum() for layer in self.layers.values()), torch.zeros(()))


def seen(weights: Mapping[str, Tensor], *names: str, seed: int = 0) -> Scored:
    mask = Mask({name: torch.ones_like(weights[name], dtype=torch.bool) for name in names})
    return Scored(nn.Module(), weights, mask, seed=seed)


def trained(weights: Mapping[str, Tensor]) -> Scored:
    """All that a score may ask for."""
    net = Net(weights)
    named = {name: value.detach().clone() for name, value in net.named_parameters()}
    mask = Mask({name: torch.ones_like(value, dtype=torch.bool) for name, value in named.items()})
    batches = [(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3)]
    return Scored(net, named, mask, batches, initial={name: value - 0.25 for name, value in named.items()})


def test_magnitude_is_the_absolute_value_of_the_named_weights_alone() -> None:  # P1 M6
    scores = score.magnitude(seen(WEIGHTS, "a", "b"))
    assert {name: values.tolist() for name, values in scores.items()} == {
        "a": [[3.0, 1.0], [0.0, 0.5]],
        "b": [2.0, 2.0],
    }


def test_magnitude_is_raw_not_normalised_per_layer() -> None:  # C16
    scores = score.magnitude(seen({"a": 1000 * WEIGHTS["a"]}, "a"))
    assert scores["a"].max() == 3000


def test_random_repeats_with_its_seed_and_only_with_it() -> None:  # K9
    first, again, other = (score.random(seen(WEIGHTS, "a", "b", seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_random_knows_nothing_of_the_weights_and_uses_no_process_wide_state() -> None:  # K9
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = score.random(seen(WEIGHTS, "a"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first["a"], score.random(seen({"a": -WEIGHTS["a"] + 1}, "a"))["a"])


def test_random_is_uniform() -> None:
    values = score.random(seen({"w": torch.zeros(100_000)}, "w"))["w"]
    assert values.min() >= 0 and values.max() < 1
    assert values.unique().numel() == values.numel(), "ties would make the tie rule choose"
    shares = torch.histc(values, bins=10, min=0, max=1) / values.numel()
    assert (shares - 0.1).abs().max() < 0.01


def test_every_score_gives_finite_numbers_of_the_weights_own_shape() -> None:
    for name, member in SCORES.items():
        if member.of_gaussian or member.of_channels:  # tests/test_bayes.py, tests/test_coupling.py
            continue
        given = trained({layer: WEIGHTS[layer] for layer in ("a", "b")})
        scores = score.scores(member, given)
        assert {layer: (values.shape, bool(values.isfinite().all())) for layer, values in scores.items()} == {
            "layers.a": (WEIGHTS["a"].shape, True),
            "layers.b": (WEIGHTS["b"].shape, True),
        }, name


def test_every_score_is_declared_with_its_name_and_what_it_is() -> None:
    for name, member in SCORES.items():
        assert member.name == name and member.about and bool(member.paper) == bool(member.year)


def test_a_score_that_writes_into_what_it_is_given_changes_nothing_of_it() -> None:
    given = seen(WEIGHTS, "a", "b")
    weights, mask = {name: value.clone() for name, value in WEIGHTS.items()}, Mask(given.mask)

    def writing(scored: Scored) -> dict[str, Tensor]:
        ranked = {name: scored.weights[name].abs() for name in scored.mask}
        for name, alive in scored.mask.items():
            alive.fill_(False)
            scored.weights[name].zero_()
        return ranked

    ranked = score.scores(score.Score("writing", writing), given)
    assert given.mask == mask and all(torch.equal(value, weights[name]) for name, value in given.weights.items())
    assert torch.equal(ranked["a"], weights["a"].abs())
