"""A ticket on another model: what the rule names is carried over, and what does not fit stays as it was."""

from typing import Any

import pytest
import torch
from torch import nn

from tombola import mask, models, prunable, prune, score, weights
from tombola.errors import BadInput
from tombola.ticket import Ticket
from tombola.transfer import Rule


def ticket_of(model: nn.Module, rate: float = 0.8) -> Ticket:
    start = weights.of(model)
    full = prunable.full(model)
    alive = prune.globally(score.magnitude(score.Scored.of(model, full)), full, rate)
    return Ticket.of(model, alive, start)


def resnet(classes: int, init_seed: int) -> nn.Module:
    return models.build("resnet-8-w4", (3, 8, 8), classes, "kaiming-normal", init_seed)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(13, 6)
        self.inner = nn.Linear(6, 6)


class Masked(nn.Module):
    """A masked language model: the head that names the word is tied to the words."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = Encoder()
        self.head = nn.Linear(6, 13)
        self.head.weight = self.bert.words.weight


class Judge(nn.Module):
    """A sentence classifier on the same encoder, under another name."""

    def __init__(self, encoder: str = "encoder") -> None:
        super().__init__()
        self.add_module(encoder, Encoder())
        self.classifier = nn.Linear(6, 2)


def test_a_new_head_stays_dense_and_as_it_was(  # E9 K14
) -> None:
    ticket, model = ticket_of(resnet(10, 1)), resnet(100, 2)
    before = weights.of(model)
    made = ticket.transfer(model)
    after, head = weights.of(model), {name for name in before if before[name].shape[:1] == (100,)}
    assert head == {"output.weight", "output.bias"} and set(made.dense) == {"output.weight"}
    for name in before:
        assert torch.equal(after[name], (before if name in head else ticket.weights)[name]), name
    assert list(made.mask) == list(prunable.prunable(model))
    for name, alive in made.mask.items():
        assert bool(alive.all()) if name in head else torch.equal(alive, ticket.mask[name]), name
    assert made.unused == ("output.weight",)
    assert "dense: output.weight, (100, 16) where the ticket has (10, 16)" in str(made)
    assert f"{len(made.taken)} of {len(made.mask)} layers took their mask" in str(made)


def test_the_mask_goes_without_the_weights_where_they_are_not_wanted() -> None:
    ticket, model = ticket_of(resnet(10, 1)), resnet(100, 2)
    before = weights.of(model)
    made = ticket.transfer(model, values=False)
    assert weights.equal(weights.of(model), before) and made.values == ()
    assert made.mask == ticket.transfer(model).mask


def test_transferred_to_its_own_model_it_is_applied() -> None:
    ticket, model = ticket_of(resnet(10, 1)), resnet(10, 2)
    made = ticket.transfer(nn.DataParallel(model))
    assert made.mask == ticket.mask and not made.dense and not made.unused
    assert weights.equal(weights.of(model), ticket.weights)


def test_an_encoder_is_found_by_its_name_and_loses_its_old_head() -> None:
    source, model = Masked(), Judge("bert")
    ticket = ticket_of(source)
    before = weights.of(model)
    made = ticket.transfer(model)
    assert dict(made.taken) == {"bert.words.weight": "bert.words.weight", "bert.inner.weight": "bert.inner.weight"}
    assert set(made.dense) == {"classifier.weight"}
    assert torch.equal(model.classifier.weight, before["classifier.weight"])


def test_a_module_of_another_name_takes_what_the_rule_says() -> None:
    ticket, model = ticket_of(Masked()), Judge()
    made = ticket.transfer(model, {"encoder": "bert"})
    assert dict(made.taken) == {f"encoder.{n}": f"bert.{n}" for n in ("words.weight", "inner.weight")}
    assert made.values == ("encoder.words.weight", "encoder.inner.weight", "encoder.inner.bias")
    whole = Encoder()
    assert len(ticket.transfer(whole, {"": "bert"}).taken) == 2
    assert torch.equal(whole.words.weight, ticket.weights["bert.words.weight"])
    back = Judge()
    assert len(ticket_of(whole).transfer(back, {"encoder": ""}).taken) == 2


def test_of_a_rule_the_closer_name_decides() -> None:
    ticket = ticket_of(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    made = ticket.transfer(model, {"": "", "1.weight": "0.weight"})
    assert dict(made.taken) == {"0.weight": "0.weight", "1.weight": "0.weight"} and made.unused == ("1.weight",)


def test_a_tied_weight_has_its_mask_under_every_name_of_the_ticket() -> None:  # P7
    ticket = ticket_of(Masked())
    model = nn.Linear(6, 13)
    made = ticket.transfer(model, {"": "head"})
    assert torch.equal(made.mask["weight"], ticket.mask["bert.words.weight"])
    assert bool((model.weight[~made.mask["weight"]] == 0).all())


def test_a_tied_weight_of_the_model_takes_what_any_of_its_names_is_given() -> None:  # P7
    ticket, model = ticket_of(nn.Linear(6, 13)), Masked()
    made = ticket.transfer(model, {"head": ""})
    assert made.taken == {"bert.words.weight": "weight"} and "head.weight" not in made.mask
    assert torch.equal(model.bert.words.weight, ticket.weights["weight"])
    assert made.dense == {"bert.inner.weight": "which the ticket has not"}


def test_why_a_layer_stays_dense_is_said() -> None:
    source = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    half = mask.Mask({"0.weight": torch.ones(3, 3) > torch.eye(3)})
    ticket = Ticket.of(source, half, weights.of(source))
    assert ticket.transfer(source).dense == {"1.weight": "which has no mask in the ticket"}
    assert ticket.transfer(source, {"0": "0"}).dense == {"1.weight": "which the rule leaves out"}


@pytest.mark.parametrize(
    ("model", "rule", "said"),
    [
        (nn.Linear(5, 5), "matching", r"expected weights that take a mask, of those of bert.words.*weight \(5, 5\)"),
        (Judge(), {"classifier": "bert"}, r"expected bert.weight \(2, 6\) in the ticket, for classifier.weight"),
        (Judge(), {"encodr": "bert"}, "expected something named encodr, found encoder.words.weight"),
        (Judge(), {"classifier.weight": "bert.inner.weight"}, r"\(2, 6\) in .*, found bert.inner.weight \(6, 6\)"),
        (Judge(), {"classifier.bias": "bert.inner.bias"}, "for classifier.bias"),
        (Judge(), {}, "expected weights that take a mask"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(model: nn.Module, rule: Rule, said: str) -> None:
    before = weights.of(model)
    with pytest.raises(BadInput, match=said):
        ticket_of(Masked()).transfer(model, rule)
    assert weights.equal(weights.of(model), before)


def test_what_is_no_rule_is_refused() -> None:
    wrong: Any = "matchin"
    with pytest.raises(BadInput, match="rule: expected 'matching' or a mapping, found 'matchin'"):
        ticket_of(Masked()).transfer(Judge("bert"), wrong)


def test_a_weight_that_is_computed_stays_dense() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    taken = ticket_of(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))).transfer(model)
    assert list(taken.mask) == ["0.weight"] and taken.unused == ("1.weight",)
    assert taken.dense == {"1.weight": "which is computed from others, as by weight_norm, and has no mask"}
    with pytest.raises(BadInput, match=r"none among 0\.weight"):
        ticket_of(nn.Sequential(nn.Linear(4, 4))).transfer(model)
