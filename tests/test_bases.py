"""Tickets in other bases: masks on the coordinates of weights in an orthonormal basis."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState
from safetensors.torch import save_file
from torch import Tensor, nn

from tombola import cash, data, groups, models, orthonormal, prunable, weights
from tombola.bases import BASES, chosen, model_in
from tombola.cash import factors
from tombola.cli import main
from tombola.errors import BadInput, SpecError
from tombola.lab.attempt import do
from tombola.lab.costs import Costs
from tombola.lab.kinds import Prune
from tombola.lab.plan import plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.models import variants
from tombola.models.in_basis import InBasis
from tombola.orthonormal import Basis
from tombola.pruning import Round
from tombola.report.tickets import ticket_record, ticket_text
from tombola.search import Search
from tombola.ticket import Ticket

DIGITS = (1, 8, 8)
SMALL = ["levels=2", "replicates=1", "recipe.model=lenet-20-10", "recipe.length=40it"]
RANK = """
levels = 2
replicates = 1
arms = ["ticket"]
[recipe]
model = "lenet-60-40"
data = "digits"
length = "40it"
batch = 60
optimizer = {name = "adam", lr = 2e-3}
[prune]
rate = 0.5
basis = "svd"
scope = "units"
keep = ["output"]
"""
NAMED = ("dct", "dct-pixels", "orthogonal~7", "svd-glorot-normal~0")
every_variant = pytest.mark.parametrize("variant", NAMED)
shapes = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
)
KINDS: dict[str, Callable[[Sequence[int]], Basis]] = {
    "dct": orthonormal.dct,
    "dct-pixels": lambda shape: orthonormal.dct_of_pixels((shape[0], prod(shape[1:])), (1, shape[1], prod(shape[2:]))),
    "orthogonal": lambda shape: orthonormal.orthogonal(shape, RandomState(3)),
    "svd": lambda shape: orthonormal.singular(some(shape)),
}


def built(name: str, seed: int = 0) -> nn.Module:
    return models.build(name, DIGITS, 10, "glorot-normal", seed)


def some(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(basis: Basis, shape: Sequence[int]) -> Tensor:
    """B written out, [n, n], from what it makes of each unit vector."""
    units = torch.eye(prod(shape), dtype=torch.float64)
    return torch.stack([basis.coordinates(unit.view(*shape)).flatten() for unit in units], dim=1)


# ---------------------------------------------------------------- bases


@pytest.mark.parametrize("kind", KINDS)
@given(shape=shapes)
def test_a_basis_is_orthonormal(kind: str, shape: tuple[int, ...]) -> None:
    basis = KINDS[kind](shape)
    b = matrix(basis, shape)
    assert torch.allclose(b @ b.T, torch.eye(len(b), dtype=torch.float64), atol=1e-6)
    theta = some(shape)
    assert torch.allclose(basis.weight(basis.coordinates(theta)), theta, atol=1e-6)
    assert torch.allclose(basis.weight(theta).flatten(), b.T @ theta.flatten(), atol=1e-6)


@given(shape=shapes)
def test_the_dct_is_scipys(shape: tuple[int, ...]) -> None:
    theta = some(shape)
    theirs = scipy.fft.dctn(theta.numpy(), type=2, norm="ortho", axes=(-2, -1))
    assert np.allclose(orthonormal.dct(shape).coordinates(theta).numpy(), theirs, atol=1e-9)


@given(height=st.integers(1, 6), width=st.integers(1, 6))
def test_a_constant_filter_has_one_coordinate(height: int, width: int) -> None:
    c = orthonormal.dct((1, 1, height, width)).coordinates(torch.full((1, 1, height, width), 2.0).double())
    assert (c.abs() > 1e-9).sum() == 1 and c[0, 0, 0, 0] == pytest.approx(2 * (height * width) ** 0.5)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (4, 2, 3, 3)])
def test_the_first_singular_coordinates_are_the_nearest_matrix_of_their_rank(shape: tuple[int, ...]) -> None:
    """Eckart and Young, against torch's own decomposition."""
    theta = some(shape, seed=1)
    basis = orthonormal.singular(theta)
    left, values, right = torch.linalg.svd(theta.flatten(1), full_matrices=False)
    c = basis.coordinates(theta).flatten(1)
    assert torch.allclose(c.diagonal(), values, atol=1e-9) and float(c.abs().sum()) == pytest.approx(
        float(values.sum())
    )
    for rank in range(len(values) + 1):
        first = torch.zeros_like(c, dtype=torch.bool)
        first[range(rank), range(rank)] = True
        best = left[:, :rank] @ values[:rank].diag() @ right[:rank]
        assert torch.allclose(basis.weight((c * first).view(*shape)).flatten(1), best, atol=1e-9)


def test_singular_vectors_are_the_same_where_their_signs_are_found_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, svd = some((5, 8)), torch.linalg.svd
    first = orthonormal.singular(theta)

    def otherwise(matrix: Tensor, full_matrices: bool) -> tuple[Tensor, ...]:
        left, values, right = svd(matrix, full_matrices=full_matrices)
        return -left, values, -right

    monkeypatch.setattr(torch.linalg, "svd", otherwise)
    for one, other in zip(first.turns, orthonormal.singular(theta).turns, strict=True):
        assert torch.allclose(one[0], other[0], atol=1e-9)


def test_more_inputs_than_one_rotation_mixes_are_rotated_in_parts() -> None:
    basis = orthonormal.orthogonal((1, 1030), RandomState(0))
    assert [len(block) for block in basis.turns[1]] == [1024, 6]
    theta = some((1, 1030))
    turned = basis.coordinates(theta)
    assert turned[0, 1024:].norm() == pytest.approx(float(theta[0, 1024:].norm())) and (turned != theta).all()


# ---------------------------------------------------------------- models in a basis


@every_variant
def test_a_variant_computes_what_the_plain_network_does(variant: str) -> None:
    plain, turned, images = built("lenet-20-10"), built(f"lenet-20-10+{variant}"), some((5, *DIGITS)).float()
    assert torch.allclose(plain(images), turned(images), atol=1e-5)
    assert not torch.equal(plain.get_parameter("fc1.weight"), turned.get_parameter("fc1.weight"))
    assert prunable.prunable(turned) == prunable.prunable(plain)
    assert {name: value.shape for name, value in weights.of(turned).items()} == {
        name: value.shape for name, value in weights.of(plain).items()
    }


@every_variant
def test_gradients_are_those_of_the_coordinates(variant: str) -> None:
    """dL/dc = B dL/dtheta, as theta = B^T c."""
    plain, turned, images = built("lenet-20-10"), built(f"lenet-20-10+{variant}"), some((5, *DIGITS)).float()
    for network in (plain, turned):
        network(images).square().sum().backward()
    ours, theirs = (network.get_parameter("fc1.weight").grad for network in (turned, plain))
    assert ours is not None and theirs is not None
    assert ours.norm() == pytest.approx(float(theirs.norm()), rel=1e-4) and not torch.allclose(ours, theirs)


@every_variant
def test_sgd_on_coordinates_is_sgd_on_weights_that_are_projected_after_each_step(variant: str) -> None:
    """theta <- B^T (m * B (theta - lr g)): the same for SGD, momentum and weight decay too, as B is orthonormal."""
    turned, plain, draw = built(f"lenet-20-10+{variant}").double(), built("lenet-20-10").double(), torch.manual_seed(5)
    assert isinstance(turned, InBasis)
    bases = {name: basis.to(torch.device("cpu"), torch.float64) for name, basis in turned.bases.items()}
    mask = {name: torch.rand(weight.shape, generator=draw) < 0.4 for name, weight in turned.named_parameters()}
    mask = {name: alive for name, alive in mask.items() if name.endswith("weight")}
    project = {
        name: lambda w, name=name: (
            bases[name].weight(bases[name].coordinates(w) * mask[name]) if name in bases else w * mask[name]
        )
        for name in mask
    }
    steps = [torch.optim.SGD(each.parameters(), 0.05, momentum=0.9, weight_decay=1e-3) for each in (turned, plain)]
    with torch.no_grad():
        for name in mask:
            turned.get_parameter(name).mul_(mask[name])
            plain.get_parameter(name).copy_(project[name](plain.get_parameter(name)))
    for _ in range(10):
        images = torch.rand(8, *DIGITS, generator=draw, dtype=torch.float64)
        for network, optimizer in zip((turned, plain), steps, strict=True):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
        with torch.no_grad():
            for name in mask:
                turned.get_parameter(name).mul_(mask[name])
                plain.get_parameter(name).copy_(project[name](plain.get_parameter(name)))
    made = dict(turned.named_parameters()) | turned.made()
    for name, theta in plain.named_parameters():
        assert torch.allclose(made[name], theta, atol=1e-6), name
    assert not torch.allclose(made["fc1.weight"], built("lenet-20-10").double().get_parameter("fc1.weight"), atol=1e-2)


@every_variant
def test_a_stack_of_variants_computes_what_each_does(variant: str) -> None:
    """As the stacked engine calls networks, and scores that take derivatives of functional calls."""
    one, other = (built(f"lenet-20-10+{variant}", seed) for seed in (0, 1))
    images, names = some((2, 5, *DIGITS)).float(), [name for name, _ in one.named_parameters()]
    stack = {name: torch.stack([each.get_parameter(name).detach() for each in (one, other)]) for name in names}
    given = torch.func.vmap(lambda own, x: torch.func.functional_call(one, own, (x,)))(stack, images)
    gradient = torch.func.vmap(
        torch.func.grad(lambda own, x: torch.func.functional_call(one, own, (x,)).square().sum())
    )
    for number, network in enumerate((one, other)):
        assert torch.allclose(given[number], network(images[number]), atol=1e-5)
    other(images[1]).square().sum().backward()
    ours, theirs = gradient(stack, images)["fc1.weight"][1], other.get_parameter("fc1.weight").grad
    assert theirs is not None and torch.allclose(ours, theirs, atol=1e-4)


def test_a_network_that_was_float_is_as_exact_in_double_as_one_that_was_not() -> None:
    once, again = built("lenet-20-10+dct").double(), built("lenet-20-10+dct")
    images = some((5, *DIGITS))
    again(images.float())
    assert torch.equal(once(images), again.double()(images))


def test_what_the_plain_network_does_not_save_is_not_saved_in_a_basis() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    plain.register_buffer("scratch", torch.ones(1), persistent=False)
    saved = set(plain.state_dict())
    assert set(InBasis(plain, {"0.weight": orthonormal.dct((4, 4))}).state_dict()) == saved


def test_random_axes_are_drawn_once_for_networks_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first = built("lenet-20-10+orthogonal~3")
    monkeypatch.setattr(orthonormal, "orthogonal", None)
    second = built("lenet-20-10+orthogonal~3", seed=1)
    assert isinstance(first, InBasis) and isinstance(second, InBasis) and first.bases == second.bases


@pytest.mark.parametrize(
    "name", ["lenet-20+dtc", "lenet-20+dct~1", "lenet-20+", "lenet-20+orthogonal", "lenet-20+svd~3"]
)
def test_a_name_of_no_variant_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"lenet-20\+VARIANT, a variant being dct, dct-pixels, orthogonal~SEED"):
        models.check(name, DIGITS, 10)


def test_flat_inputs_are_read_as_the_square_image_they_may_have_been() -> None:
    flat, square = (models.build("lenet-20+dct-pixels", shape, 10, "glorot-normal", 0) for shape in ((64,), DIGITS))
    assert torch.equal(flat.get_parameter("fc1.weight"), square.get_parameter("fc1.weight"))
    models.check("lenet-20+dct-pixels", (3 * 4 * 4,), 10)
    with pytest.raises(ValueError, match=r"^a model whose first layer reads all pixels"):
        models.check("lenet-20+dct-pixels", (69,), 10)


def test_a_variant_is_of_the_family_of_its_model_and_no_chain() -> None:
    name = "lenet-300-100+dct"
    assert models.family(name) is models.family("lenet-300-100") and variants.parts(name) == ("lenet-300-100", "dct")
    assert models.weight_counts(name, DIGITS, 10) == models.weight_counts("lenet-300-100", DIGITS, 10)
    assert not models.chain(name) and not models.sequential(name)


# ---------------------------------------------------------------- specs


def test_the_identity_is_the_search_without_a_basis() -> None:
    plain, named = (read("digits-lenet", [*SMALL, *change]).spec for change in ([], ["prune.basis=identity"]))
    assert plain == named and plan(Experiment(name="a", spec=plain)).runs == plan(Experiment(name="b", spec=named)).runs
    assert chosen("identity") is None and model_in(None, "lenet-20", 1, "glorot-normal", 2) == "lenet-20"


def test_all_runs_of_a_replicate_are_in_the_basis_of_the_spec() -> None:
    spec = read("digits-lenet", [*SMALL, "prune.basis=dct"]).spec
    rows = plan(Experiment(name="a", spec=spec)).rows
    assert {row.run.recipe.model for row in rows} == {"lenet-20-10+dct"} and spec.recipe.model == "lenet-20-10"
    assert data.facts(rows[0].run.recipe.data) == spec.facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["prune.basis=dtc"], "prune.basis: expected one of identity, dct, dct-pixels, orthogonal, svd, units, blocks"),
        (["prune.basis=units"], "prune.keep: expected the output kept where units go, found []"),
        (
            ["prune.basis=units", "prune.scope=global"],
            "no other scope beside basis = 'units', which is scope = 'units'",
        ),
        (
            ["prune.basis=units", "prune.keep=output", "densities=0.5", "levels=none"],
            "densities: expected none in the scope",
        ),
        (
            ["recipe.model=conv-2", "recipe.data=cifar10", "prune.basis=dct-pixels"],
            "expected another basis, or a model whose first",
        ),
        (
            ["arms=ticket,generalised", "recipe.inputs=noise-5", "arm.generalised.basis=dct-pixels"],
            "arm.generalised.basis",
        ),
        (["recipe.model=lenet-20+dct"], "prune.basis: expected none beside a model of coordinates, found 'dct'"),
        (["recipe.model=lenet-20+gaussian-2"], "prune.basis: expected none beside Gaussian weights, found 'dct'"),
        (["recipe.model=conv-2+dct-pixels", "recipe.data=cifar10", "prune.basis=none"], "expected a model whose first"),
        (["recipe.model=lenet-20+dtc", "prune.basis=none"], "did you mean lenet-20+dct?"),
        (["recipe.model=lenet-20+gausian-2", "prune.basis=none"], "did you mean lenet-20+gaussian-2?"),
        (["recipe.model=lenet-20+gaussian-0", "prune.basis=none"], "lenet-20+gaussian[-SAMPLES], SAMPLES being 1 to"),
        (["recipe.model=lenet-20+gaussian-2+dct", "prune.basis=none"], "expected one variant of lenet-20"),
        (["recipe.objective=elbo", "prune.basis=none"], 'objective = {name = "elbo"}'),
        (["arms=elastic", "arm.elastic.length=10it", "prune.basis=none"], "no such choice of elastic, found 10it"),
        (["prune.basis=dct", "study.components.levels=1"], "prune.basis: expected identity beside study.components"),
        (
            ["prune.basis=identity", "recipe.model=lenet-20+dct", "study.anatomy.levels=1"],
            "recipe.model: expected one in its own weights beside study.anatomy",
        ),
        (
            ["prune.basis=identity", "method=generalised", "arms=ticket", "study.components.levels=1"],
            "study.components: expected networks in their own weights, found 'ticket'",
        ),
        (
            [
                "prune.basis=identity",
                "arms=ticket,generalised",
                "study.anatomy={levels=[1],arms=['ticket','generalised']}",
            ],
            "study.anatomy: expected networks in their own weights, found 'generalised'",
        ),
    ],
)
def test_a_basis_that_cannot_be_is_refused(changes: list[str], message: str) -> None:
    given = changes if "basis" in str(changes) else ["prune.basis=dct", *changes]
    with pytest.raises(SpecError, match=re.escape(message)):
        read("digits-lenet", given)


@pytest.mark.parametrize("name", ["supermask", "edge-popup", "signed-supermask", "sign-in", "gradual", "rebasin"])
def test_methods_that_take_parameters_for_weights_are_refused_in_a_basis(name: str) -> None:
    beside = f"another method beside prune.basis = 'dct', found {name!r}"
    for changes in ([f"arms=ticket,{name}"], ["arms=ticket", f"method={name}"]):
        with pytest.raises(SpecError, match=beside):
            read("digits-lenet", ["prune.basis=dct", *changes])
    read("digits-lenet", [f"arms=ticket,{name}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["arm.generalised.basis=units"], "arm.generalised.basis: expected the output kept where units go"),
        (
            ["arm.generalised.basis=units", "prune.keep=output", "arm.generalised.scope=global"],
            "arm.generalised.scope: expected no other scope beside basis = 'units'",
        ),
        (["arm.generalised.basis=blocks", "arm.generalised.scope=layer"], "arm.generalised.scope: expected no other"),
    ],
)
def test_an_arm_in_groups_is_refused_as_the_spec_in_groups_is(changes: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        read("digits-lenet", ["arms=ticket,generalised", *changes])
    read("digits-lenet", ["arms=ticket,generalised", "prune.keep=output", changes[0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["prune.basis=dct"], "prune.basis: expected identity, for a teacher's file"),
        (["arms=ticket,generalised"], "arm.generalised.basis: expected identity, for a teacher's file"),
        (["recipe.model=lenet-300-100+dct"], "recipe.objective.teacher: expected none beside lenet-300-100+dct"),
    ],
)
def test_a_teachers_file_is_refused_in_a_basis(changes: list[str], message: str, tmp_path: Path) -> None:
    """Its weights have the shapes of coordinates, and would be read as some."""
    save_file(weights.of(built("lenet-300-100")), tmp_path / "teacher.safetensors")
    objective = f"recipe.objective={{name='distill',teacher='{tmp_path / 'teacher.safetensors'}'}}"
    read("digits-lenet", [objective])
    with pytest.raises(SpecError, match=re.escape(message)):
        read("digits-lenet", [objective, *changes])


def test_specs_without_a_basis_are_written_as_before() -> None:
    spec = Spec.model_validate(read("digits-lenet").spec.model_dump(mode="json"))
    assert "basis" not in spec.model_dump(mode="json")["prune"] and BASES.keys() >= {"identity", "dct"}


# ---------------------------------------------------------------- groups


@given(shape=shapes, rate=st.sampled_from([0.0, 0.2, 0.5, 1.0]), seed=st.integers(0, 9))
def test_of_each_layer_so_many_rows_go_as_of_single_weights_would(
    shape: tuple[int, ...], rate: float, seed: int
) -> None:  # C1
    scores, full = some(shape, seed).abs(), Mask({"w": torch.ones(shape, dtype=torch.bool)})
    kept = groups.by_groups({"w": scores}, full, {"w": rate}, groups.units)["w"].flatten(1)
    assert torch.equal(kept.all(1), kept.any(1)) and int(kept.all(1).sum()) == shape[0] - int(rate * shape[0] + 0.5)
    sums = scores.flatten(1).sum(1)
    assert kept.all() or not kept.any() or sums[kept.all(1)].min() >= sums[~kept.any(1)].max()


def test_blocks_are_pruned_whole_and_the_rounds_nest() -> None:  # C5
    scores, mask = {"w": some((10, 9)).abs()}, Mask({"w": torch.ones(10, 9, dtype=torch.bool)})
    for stay in (7, 5, 4):
        after = groups.by_groups(scores, mask, {"w": 0.25}, groups.blocks)
        tiles = [after["w"][a : a + 4, b : b + 4] for a in (0, 4, 8) for b in (0, 4, 8)]
        assert all(tile.all() or not tile.any() for tile in tiles) and sum(int(tile.any()) for tile in tiles) == stay
        assert (after["w"] <= mask["w"]).all()
        mask = after


def test_what_is_pruned_of_a_group_that_stays_is_not_put_back() -> None:  # C5
    before = torch.tensor([[True, False, True], [True, True, True]])
    after = groups.by_groups({"w": torch.ones(2, 3)}, Mask({"w": before}), {"w": 0.0}, groups.units)
    assert torch.equal(after["w"], before)


def test_a_mask_on_units_is_a_smaller_layer() -> None:
    network, images = built("lenet-20-10").eval(), some((5, *DIGITS)).float()
    scores = {name: weight.detach().abs() for name, weight in network.named_parameters() if name.endswith("weight")}
    round = Round(scope="units", rates=(("*", 0.5),), keep=("output",))
    kinds = {"fc1.weight": "linear", "fc2.weight": "linear", "output.weight": "output"}
    mask = round.next(round.full(network), {name: scores[name] for name in ("fc1.weight", "fc2.weight")}, kinds)
    small = cash.compact(network, mask, images)
    assert small.get_parameter("fc1.weight").shape == (10, 64) and small.get_parameter("fc2.weight").shape == (5, 10)
    by_hand = [network.get_parameter(name).detach().clone() for name in ("fc1.weight", "fc2.weight", "output.weight")]
    values = images.flatten(1)
    for weight, name in zip(by_hand, ("fc1.weight", "fc2.weight", "output.weight"), strict=True):
        gone = ~mask[name].any(1) if name in mask else torch.zeros(len(weight), dtype=torch.bool)
        values = (values @ weight.T).relu() if name != "output.weight" else values @ weight.T
        values[:, gone] = 0
    assert torch.allclose(small(images), values, atol=1e-5)


# ---------------------------------------------------------------- cashing in


@every_variant
def test_a_ticket_in_a_basis_is_carried_out_to_plain_weights(variant: str) -> None:
    turned, images = built(f"lenet-20-10+{variant}"), some((5, *DIGITS)).float()
    assert isinstance(turned, InBasis)
    draw = torch.manual_seed(1)
    mask = Mask(
        {
            name: torch.rand(value.shape, generator=draw) < 0.3
            for name, value in turned.named_parameters()
            if name.endswith("weight")
        }
    )
    plain, alive = turned.carried_out(mask)
    with torch.no_grad():
        for name in mask:
            turned.get_parameter(name).mul_(mask[name])
    assert torch.allclose(plain(images), turned(images), atol=1e-5) and not isinstance(plain, InBasis)
    assert alive.density > 3 * mask.density * (variant != "dct-pixels")
    assert all((plain.get_parameter(name)[~alive[name]] == 0).all() for name in alive)


def test_a_ticket_of_few_singular_directions_is_two_smaller_layers() -> None:
    turned, images = built("lenet-40-30+svd-glorot-normal~0"), some((5, *DIGITS)).float()
    assert isinstance(turned, InBasis)
    rows = {"fc1.weight": 6, "fc2.weight": 4}
    mask = Mask({name: groups.units(turned.get_parameter(name).shape) < rank for name, rank in rows.items()})
    plain, _ = turned.carried_out(mask)
    assert {name: factors.rank(plain.get_parameter(name)) for name in rows} == rows
    small = cash.factorize(plain)
    assert small.get_parameter("fc1.reduce.weight").shape == (6, 64)
    assert (
        small.get_parameter("fc1.expand.weight").shape == (40, 6)
        and small.get_parameter("output.weight").numel() == 300
    )
    assert torch.allclose(small(images), plain(images), atol=1e-5)


def test_a_factored_file_is_read_back(tmp_path: Path) -> None:
    plain, images = built("lenet-40-30"), some((5, *DIGITS)).float()
    with torch.no_grad():
        plain.get_parameter("fc1.weight").copy_(torch.outer(torch.arange(40.0), torch.ones(64)))
    small = cash.factorize(plain)
    cash.to_safetensors(small, tmp_path / "small.safetensors")
    again = cash.from_safetensors(plain, tmp_path / "small.safetensors")
    assert torch.equal(again(images), small(images))


def test_coordinates_are_not_put_into_a_network_as_its_weights() -> None:
    turned, plain = built("lenet-20-10+dct"), built("lenet-20-10")
    ticket = Ticket.of(turned, prunable.full(turned), weights.of(turned), {"model": "lenet-20-10+dct"})
    for put in (ticket.apply, ticket.transfer):
        with pytest.raises(BadInput, match=r"coordinates in dct.*'lenet-20-10\+dct'"):
            put(plain)
    assert torch.equal(plain.get_parameter("fc1.weight"), built("lenet-20-10").get_parameter("fc1.weight"))
    ticket.apply(built("lenet-20-10+dct", seed=1))
    record = ticket_record(ticket, "ticket", 1, {"format": 2})
    assert {layer["idle_outputs"] for layer in record["layers"]} == {None} and "-" in ticket_text(record)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("other", ["", "+dct", "+orthogonal~8", "+svd-glorot-normal~0"])
def test_coordinates_are_put_into_networks_of_their_own_basis_alone(other: str, named: bool) -> None:
    ours = built("lenet-20-10+orthogonal~7")
    origin = {"model": "lenet-20-10+orthogonal~7"} if named else {}
    ticket = Ticket.of(ours, prunable.full(ours), weights.of(ours), origin)
    assert ticket.basis == "orthogonal~7"
    theirs = built(f"lenet-20-10{other}", seed=1)
    before = weights.of(theirs)
    for put in (ticket.apply, ticket.transfer):
        with pytest.raises(
            BadInput, match=rf"coordinates in orthogonal~7.*found one whose .* {other[1:] or 'weights'}"
        ):
            put(theirs)
    assert weights.equal(before, weights.of(theirs))
    ticket.apply(built("lenet-20-10+orthogonal~7", seed=1))
    if other:
        flat = built("lenet-20-10")
        with pytest.raises(BadInput, match="whose parameters are weights"):
            Ticket.of(flat, prunable.full(flat), weights.of(flat), {"model": "lenet-20-10"}).apply(theirs)


def test_axes_of_a_layer_are_not_taken_for_those_of_another() -> None:
    drawn, formula = built("lenet-20-20-10+orthogonal~7"), built("lenet-20-20-10+dct")
    of = {model: Ticket.of(model, prunable.full(model), weights.of(model)) for model in (drawn, formula)}
    with pytest.raises(BadInput, match="layers of the same names, rule='matching'"):
        of[drawn].transfer(built("lenet-20-20-20-10+orthogonal~7"), {"fc3": "fc2"})
    of[drawn].transfer(built("lenet-20-20-20-10+orthogonal~7"))
    of[formula].transfer(built("lenet-20-20-20-10+dct"), {"fc3": "fc2"})
    singular = built("lenet-20-20-10+svd-glorot-normal~0")
    ticket = Ticket.of(singular, prunable.full(singular), weights.of(singular))
    with pytest.raises(BadInput, match="a network of the same shapes"):
        ticket.transfer(built("lenet-20-20-20-10+svd-glorot-normal~0"))
    ticket.transfer(built("lenet-20-20-10+svd-glorot-normal~0"))


@pytest.mark.parametrize(
    "ours, theirs", [("+orthogonal~3", "+orthogonal~4"), ("+dct", "+dct"), ("+dct", ""), ("", "+dct")]
)
def test_coordinates_are_not_stretched(ours: str, theirs: str) -> None:
    flat, deep = built(f"lenet-20-20-10{ours}"), built(f"lenet-20-20-20-10{theirs}")
    tickets = [Ticket.of(each, prunable.full(each), weights.of(each)) for each in (flat, deep)]
    with pytest.raises(BadInput, match=f"a ticket in {ours[1:] or 'weights'}, a network of {theirs[1:] or 'weights'}"):
        tickets[0].stretch(deep)
    with pytest.raises(BadInput, match="coordinates are of one layer"):
        tickets[1].squeeze(flat)


def test_a_search_goes_on_in_its_own_basis_alone(tmp_path: Path) -> None:
    def search(seed: int, begin: Callable[..., Search]) -> Search:
        model = built(f"lenet-20-10+orthogonal~{seed}")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return begin(model, optimizer)

    path = tmp_path / "search.safetensors"
    for _ in (begun := search(3, partial(Search, levels=1, rate=0.5, rewind="0it", path=path))):
        begun._loop.model(torch.ones(1, *DIGITS)).sum().backward()
        begun._loop.optimizer.step()
    with pytest.raises(BadInput, match="expected model as in the search: InBasis orthogonal~3"):
        search(4, partial(Search.resume, path))


# ---------------------------------------------------------------- arms


def test_an_arm_in_the_identity_is_the_ticket_and_all_others_are_trainings_of_their_own() -> None:
    arms = {name: {"method": "generalised", "basis": name} for name in ("identity", "dct", "svd", "units")}
    table = read("digits-lenet", [*SMALL, "prune.keep=output"]).spec.model_dump(mode="json")
    spec = Spec.model_validate(table | {"arm": arms, "arms": ["ticket", *arms]})
    runs = {(row.arm, row.level): row.run for row in plan(Experiment(name="a", spec=spec)).rows}
    assert runs["identity", 2] == runs["ticket", 2] and len({run.key for run in runs.values()}) == len(runs) - 2
    assert {run.recipe.model.partition("~")[0] for run in runs.values()} == {
        "lenet-20-10",
        "lenet-20-10+dct",
        "lenet-20-10+svd-glorot-normal",
    }
    masks = {arm: runs[arm, 2].mask for arm in ("ticket", "units")}
    assert [mask.scope for mask in masks.values() if isinstance(mask, Prune)] == ["layer", "units"]


def test_bases_that_are_drawn_are_other_ones_in_each_replicate() -> None:
    spec = read("digits-lenet", [SMALL[0], *SMALL[2:], "replicates=3", "prune.basis=orthogonal"]).spec
    assert len({row.run.recipe.model for row in plan(Experiment(name="a", spec=spec)).rows}) == 3


def asked(spec: Spec, store: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What is measured for each question of the spec's study, by its part and its level."""
    wanted, worker = plan(Experiment(name="a", spec=spec)), Worker(Store(store).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return {(each.part, each.level): dict(worker.store.values(each.run)) for each in wanted.questions}


def test_tickets_of_several_replicates_answer_each_in_its_own_basis(tmp_path: Path) -> None:
    changes = ["replicates=2", "arms=ticket", "levels=1", "prune.basis=orthogonal", *SMALL[2:3], "recipe.length=300it"]
    found = asked(
        read("digits-lenet", [*changes, "study.ensemble={levels=[1],kinds=['replicates'],members=2}"]).spec, tmp_path
    )
    assert min(member["accuracy"] for member in found["replicates", 1]["members"]) > 0.6


@pytest.mark.parametrize(
    ("model", "changes", "times"),
    [
        ("lenet-20-10+dct", [], 1),
        ("lenet-20-10+gaussian-3", ["recipe.objective={name='elbo',samples=1}"], 3),
    ],
)
def test_an_ensemble_costs_what_its_networks_multiply(
    model: str, changes: list[str], times: int, tmp_path: Path
) -> None:
    given = ["replicates=1", "arms=ticket", "levels=1", "recipe.length=4it", "prune.rate=0.5", "prune.output_rate=0.5"]
    study = "study.ensemble={levels=[1],kinds=['orders'],members=2}"
    spec = read(
        "digits-lenet",
        [*given, f"recipe.model={model}", "evaluate.every=4it", "evaluate.test_every=4it", *changes, study],
    ).spec
    found = asked(spec, tmp_path)["orders", 1]
    whole, biases = 64 * 20 + 20 * 10 + 10 * 10, 40
    living = whole if times == 1 else whole // 2
    assert found["dense"]["macs"] == times * whole and found["macs"] == 2 * times * living
    assert found["parameters"] == 2 * (whole // 2 * (2 if times > 1 else 1) + biases)


def test_a_ticket_in_a_basis_is_found_trained_and_cashed_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank.toml").write_text(RANK)
    given = [str(tmp_path / "rank.toml"), "--store", str(tmp_path / "store")]
    assert main(["run", *given, "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["cash", *given, "--level", "2", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (
        record["coordinates"] == {"basis": "svd", "density": pytest.approx(0.25, abs=0.01)} and record["density"] == 1
    )
    forms = {form["name"]: form for form in record["forms"]}
    assert (
        forms["low-rank"]["multiply_adds"] < forms["dense"]["multiply_adds"] and forms["low-rank"]["difference"] < 1e-3
    )
    ticket = tmp_path / "ticket.safetensors"
    assert main(["ticket", *given, "--level", "2", "-o", str(ticket), "--as-seed"]) == 0
    assert (Ticket.load(ticket).basis or "").startswith("svd-")
    capsys.readouterr()
    assert main(["cash", *given, "--level", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "of the coordinates in the basis svd are kept. They make 100.00% of the weights" in out


def test_a_ticket_in_the_dct_costs_what_a_dense_network_does() -> None:
    costs = {}
    for basis in ("identity", "dct", "blocks"):
        spec = read("digits-lenet", [*SMALL, "prune.keep=output", f"prune.basis={basis}"]).spec
        made = plan(Experiment(name="a", spec=spec))
        (row,) = (row for row in made.rows if (row.arm, row.level) == ("ticket", 2))
        costs[basis] = Costs(made.experiment, made.runs).of(row).training.ideal
    assert costs["identity"] < costs["dct"] and costs["blocks"] < costs["dct"]
