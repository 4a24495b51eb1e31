"""A round says what goes: of which weights, how many, by which score."""

from typing import Any

import pytest
import torch
from torch import nn

from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.pruning import SCOPES, Round, by_kind, meant

# Those of channels are in tests/test_coupling.py.
BY_ROUNDS = [name for name, scope in SCOPES.items() if not scope.whole and not scope.coupled]
KINDS = {"a.weight": "conv", "b.weight": "linear", "b.shortcut.weight": "conv", "c.weight": "output"}


def test_the_first_entry_that_means_a_weight_has_its_rate() -> None:
    rates = (("*.shortcut.*", 0.5), ("conv", 0.1), ("*", 0.2))
    assert Round(rates=rates).rates_of(KINDS) == {
        "a.weight": 0.1,
        "b.weight": 0.2,
        "b.shortcut.weight": 0.5,
        "c.weight": 0.2,
    }


def test_what_is_kept_has_no_rate_and_stays_dense() -> None:
    kept = Round(keep=("conv", "c.*"))
    assert kept.kept(KINDS) == {"a.weight", "b.shortcut.weight", "c.weight"}
    assert kept.rates_of(KINDS) == {"b.weight": 0.2}
    assert kept.densities(KINDS, 2) == {**dict.fromkeys(KINDS, 1.0), "b.weight": pytest.approx(0.64)}


def test_a_tied_weight_is_meant_under_each_of_its_names() -> None:
    ties = {"head.weight": "embed.weight"}
    assert meant(["head.*"], {"embed.weight": "output"}, ties) == {"embed.weight"}
    assert Round(keep=("head.*",)).kept({"embed.weight": "output"}) == set()


def test_a_weight_without_a_rate_is_named() -> None:
    with pytest.raises(BadInput, match=r"rate: expected a rate for every weight .*, found none for b\.weight"):
        Round(rates=(("conv", 0.1), ("output", 0.1))).rates_of(KINDS)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"scope": "chanel"},
            "scope: expected one of 'layer', .*, 'n_of_m', 'units', 'blocks', .*, found 'chanel'",
        ),
        ({"rates": (("*", 1.5),)}, r"rate: expected a fraction in \[0, 1\], found 1.5"),
        ({"rates": (("*", "0.2"),)}, "rate: expected a number, found '0.2'"),
        ({"rates": (("conv", 0.1), ("*", 0.2)), "scope": "global"}, "rate: expected one number in the global scope"),
        ({"n": 2, "m": 4}, "n, m: expected none in the scope 'layer', found 2 of 4"),
        ({"scope": "n_of_m"}, "prune: expected n of m with 0 <= n <= m and m > 0, found None of None"),
        ({"scope": "n_of_m", "n": 5, "m": 4}, "found 5 of 4"),
    ],
)
def test_a_round_that_is_none_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Round(**parts)


@pytest.mark.parametrize("scope", BY_ROUNDS)
def test_every_scope_leaves_about_the_density_that_is_foreseen(scope: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 40), nn.Linear(40, 20))
    parts: dict[str, Any] = {"n": 2, "m": 4} if scope == "n_of_m" else {"rates": (("*", 0.3),)}
    round = Round(scope=scope, **parts)
    kinds = {"0.weight": "linear", "1.weight": "output"}
    living = round.full(model)
    for rounds in range(1, 2 if SCOPES[scope].once else 4):
        living = round.next(living, {name: torch.rand(alive.shape) for name, alive in living.items()}, kinds)
        foreseen = round.densities(kinds, rounds)
        for name, alive in living.items():
            assert float(alive.float().mean()) == pytest.approx(foreseen[name], abs=0.05)


def test_a_second_round_of_a_scope_that_is_done_at_once_removes_nothing() -> None:
    full = Mask({"w": torch.ones(8, 16, dtype=torch.bool)})
    scores, kinds = {"w": torch.rand(8, 16)}, {"w": "linear"}
    for scope in BY_ROUNDS:
        round = Round(scope=scope, **({"n": 2, "m": 4} if scope == "n_of_m" else {}))  # type: ignore[arg-type]
        once = round.next(full, scores, kinds)
        assert (round.next(once, scores, kinds) == once) == SCOPES[scope].once


def test_each_expert_of_a_stack_loses_its_own_share() -> None:
    scores = {"experts": torch.arange(24.0).view(2, 3, 4)}
    full = Mask({"experts": torch.ones(2, 3, 4, dtype=torch.bool)})
    kinds = {"experts": "named"}
    apart = Round(rates=(("*", 0.5),), stacks=("experts",)).next(full, scores, kinds)["experts"]
    assert apart.flatten(1).sum(dim=1).tolist() == [6, 6]
    assert Round(rates=(("*", 0.5),)).next(full, scores, kinds)["experts"].flatten(1).sum(dim=1).tolist() == [0, 12]


def test_rates_by_kind_are_those_of_a_spec() -> None:
    rates = {"linear": 0.2, "conv": 0.1, "embedding": 0.2, "output": 0.05}
    assert Round(rates=by_kind(rates, "layer")).rates_of({**KINDS, "d": "named"}) == {
        "a.weight": 0.1,
        "b.weight": 0.2,
        "b.shortcut.weight": 0.1,
        "c.weight": 0.05,
        "d": 0.2,
    }
    assert by_kind(rates, "global") == (("*", 0.2),)
