"""Units of one network matched with those of another, and masks carried over by what was found."""

import copy
from itertools import permutations as orders
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import models, prunable, rebasin, weights
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import AlignedMask, Alignment
from tombola.lab.plan import plan
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask, random_like
from tombola.prune import by_layer

SHAPES: dict[str, tuple[int, ...]] = {
    "lenet-20-10": (1, 8, 8),
    "conv-2-w4": (3, 12, 12),
    "vgg-11-w4": (3, 16, 16),
    "resnet-8-w4": (3, 16, 16),
}


def trained(name: str, seed: int) -> nn.Module:
    """A network whose biases and norms are as no initialisation has them; all is positive, so that no unit is dead."""
    model = models.build(name, SHAPES[name], 10, "kaiming-normal", seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.abs() if value.dim() > 1 else 0.5 + torch.rand(value.shape, generator=draw))
    return model.eval()


def images(name: str, count: int = 64) -> Tensor:
    return torch.rand(count, *SHAPES[name], generator=torch.Generator().manual_seed(9))


def drawn(symmetries: rebasin.Symmetries, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {each.name: torch.randperm(len(each.units), generator=draw) for each in symmetries.ordered}


def with_weights(model: nn.Module, values: weights.Weights) -> nn.Module:
    other = copy.deepcopy(model)
    weights.put(other, values)
    return other


every_network = pytest.mark.parametrize("name", SHAPES)


@every_network
def test_a_permuted_network_computes_the_same_and_every_weight_is_elsewhere(name: str) -> None:
    theirs, inputs = trained(name, 1), images(name)
    symmetries = rebasin.Symmetries.of(theirs, inputs[:2])
    moved = rebasin.carried(weights.of(theirs), drawn(symmetries, 2), symmetries)
    assert torch.allclose(with_weights(theirs, moved)(inputs), theirs(inputs), rtol=1e-4)
    assert not any(torch.equal(moved[key], value) for key, value in weights.of(theirs).items() if value.dim() > 1)


@every_network
def test_a_network_with_permuted_units_is_recognised_and_the_mask_goes_with_them(name: str) -> None:
    theirs, inputs = trained(name, 1), images(name)
    symmetries = rebasin.Symmetries.of(theirs, inputs[:2])
    asked = drawn(symmetries, 2)
    ours = with_weights(theirs, rebasin.carried(weights.of(theirs), asked, symmetries))
    found = rebasin.matched(ours, theirs, [inputs[:40], inputs[40:]], symmetries)
    assert found.permutations.keys() == asked.keys()
    for layer, permutation in asked.items():
        assert torch.equal(found.permutations[layer], permutation)
        assert found.correlations[layer] == pytest.approx(1, abs=1e-5)
    full = prunable.full(theirs)
    rates = {layer: 0.7 for layer in full}
    mask = by_layer({key: value.abs() for key, value in weights.of(theirs).items() if key in full}, full, rates)
    own = by_layer({key: value.abs() for key, value in weights.of(ours).items() if key in full}, full, rates)
    moved = rebasin.carried_mask(mask, found.permutations, symmetries)
    assert moved == own and moved != mask and moved.counts == mask.counts


def test_a_mask_is_carried_as_two_matrix_products_have_it() -> None:
    """pi_l m_l pi_{l-1}^T, with permutation matrices, over the layers of a network written out by hand."""
    model = trained("lenet-20-10", 3)
    symmetries = rebasin.Symmetries.of(model, images("lenet-20-10", 2))
    mask = random_like(Mask({name: torch.rand(each.shape) < 0.3 for name, each in prunable.full(model).items()}), 4)
    chosen = drawn(symmetries, 5)
    matrix = {layer: np.eye(len(order))[order.numpy()] for layer, order in chosen.items()}
    expected = {
        "fc1.weight": matrix["fc1"] @ mask["fc1.weight"].numpy(),
        "fc2.weight": matrix["fc2"] @ mask["fc2.weight"].numpy() @ matrix["fc1"].T,
        "output.weight": mask["output.weight"].numpy() @ matrix["fc2"].T,
    }
    moved = rebasin.carried_mask(mask, chosen, symmetries)
    for name, value in expected.items():
        assert np.array_equal(moved[name].numpy(), value.astype(bool))


def test_the_matching_is_the_best_of_all_orders() -> None:
    """Tried out over all 5! orders of the units, with numpy's own correlations."""
    one, other = (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).eval() for _ in range(2))
    inputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    symmetries = rebasin.Symmetries.of(one, inputs)
    found = rebasin.matched(one, other, [inputs], symmetries).permutations["0"]
    with torch.no_grad():
        ours, theirs = (model[1](model[0](inputs)).numpy() for model in (one, other))
    table = np.corrcoef(ours.T, theirs.T)[:5, 5:]
    best = max(orders(range(5)), key=lambda order: sum(table[unit, order[unit]] for unit in range(5)))
    assert tuple(found.tolist()) == best


def test_a_network_of_which_no_unit_is_known_to_be_free_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a network with hidden units that may be permuted"):
        rebasin.Symmetries.of(nn.Sequential(nn.Linear(4, 3)).eval(), torch.rand(2, 4))


# ---------------------------------------------------------------- as methods


def test_masks_found_elsewhere_are_trained_from_ones_own_rewind_point_as_they_are_and_permuted(tmp_path: Path) -> None:
    changes = ["replicates=1", "levels=2", "recipe.model=lenet-20-10", "recipe.length=30it", "rewind=6it"]
    wanted = plan(read("digits-lenet", [*changes, "arms=ticket,rebasin,elsewhere", "evaluate.every=15it"]))
    worker = Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    rows, store = {(row.arm, row.level): row.run for row in wanted.rows}, worker.store
    dense = rows["dense", 0]
    for level in (1, 2):
        ticket, aligned, naive = (rows[arm, level] for arm in ("ticket", "rebasin", "elsewhere"))
        assert aligned.start == naive.start == ticket.start and isinstance(aligned.mask, AlignedMask) and naive.mask
        assert aligned.mask.like == naive.mask
        alignment = aligned.mask.alignment
        assert isinstance(alignment, Alignment) and alignment.ours == dense and alignment.theirs != dense
        permutations = store.tensors(alignment, "permutations")
        ours, theirs = store.mask(aligned.mask), store.mask(naive.mask)
        first, second = (np.eye(size)[permutations[name].numpy()] for name, size in (("fc1", 20), ("fc2", 10)))
        assert np.array_equal(
            ours["fc2.weight"].numpy(), (second @ theirs["fc2.weight"].numpy() @ first.T).astype(bool)
        )
        assert ours.counts == theirs.counts == store.mask(ticket.mask or ticket).counts and ours != theirs
    one, two = (store.mask(rows["rebasin", level].mask or dense) for level in (1, 2))
    assert all(not (two[name] & ~one[name]).any() for name in one), "masks of the levels nest"


def test_a_network_of_texts_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(BadInput, match=r"expected another method for a network that reads text, found .rebasin."):
        plan(read("gpt-shakespeare-quick", ["arms=ticket,rebasin"]))
