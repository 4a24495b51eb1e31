"""Tickets in other bases: masks on the coordinates of weights in an orthonormal basis."""

import re
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState
from torch import Tensor, nn

from tombola import data, models, orthonormal, prunable, weights
from tombola.bases import BASES, chosen, model_in
from tombola.errors import SpecError
from tombola.lab.plan import plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.models import variants
from tombola.models.in_basis import InBasis
from tombola.orthonormal import Basis

DIGITS = (1, 8, 8)
SMALL = ["levels=2", "replicates=1", "recipe.model=lenet-20-10", "recipe.length=40it"]
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


@pytest.mark.parametrize(
    "name", ["lenet-20+dtc", "lenet-20+dct~1", "lenet-20+", "lenet-20+dct+dct", "lenet-20+orthogonal", "lenet-20+svd~3"]
)
def test_a_name_of_no_variant_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"lenet-20\+VARIANT, a variant being dct, dct-pixels, orthogonal~SEED"):
        models.check(name, DIGITS, 10)


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
            "for dct-pixels, a model whose first",
        ),
        (
            ["arms=ticket,generalised", "recipe.inputs=rotated", "arm.generalised.basis=dct-pixels"],
            "arm.generalised.basis",
        ),
        (["recipe.model=lenet-20+dct"], "prune.basis: expected lenet-20"),
        (["prune.basis=dct", "study.components.levels=1"], "prune.basis: expected identity beside study.components"),
    ],
)
def test_a_basis_that_cannot_be_is_refused(changes: list[str], message: str) -> None:
    given = changes if "basis" in str(changes) else ["prune.basis=dct", *changes]
    with pytest.raises(SpecError, match=re.escape(message)):
        read("digits-lenet", given)


def test_specs_without_a_basis_are_written_as_before() -> None:
    spec = Spec.model_validate(read("digits-lenet").spec.model_dump(mode="json"))
    assert "basis" not in spec.model_dump(mode="json")["prune"] and BASES.keys() >= {"identity", "dct"}
