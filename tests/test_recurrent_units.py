"""Hidden units of LSTM, GRU and RNN that say nothing go, and every output and state that is read stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import drawn, masked
from torch import Tensor, nn

from tombola import prunable, weights
from tombola.cash.compaction import compact, compacted
from tombola.cash.coupled import coupling
from tombola.cash.export import from_safetensors, stored, to_safetensors
from tombola.cash.quantization import quantize
from tombola.mask import Mask

INPUTS, HIDDEN = 6, 8
LINES = torch.randn(4, 11, INPUTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
GATE = {"LSTM": (2, 3), "GRU": (2, 3), "RNN": (0, 1)}  # that moves a unit, and the next
every_kind = pytest.mark.parametrize("kind", KINDS)


class Reads(nn.Module):
    """A recurrent layer whose outputs, or last states, a linear layer reads."""

    def __init__(self, kind: str, read: str = "outputs", **about: Any) -> None:
        super().__init__()
        self.recurrent, self.read = KINDS[kind](INPUTS, HIDDEN, batch_first=True, **about), read
        self.output = nn.Linear(HIDDEN * (2 if self.recurrent.bidirectional and read != "last state" else 1), 3)

    def forward(self, lines: Tensor) -> Tensor:
        outputs, states = self.recurrent(lines)
        hidden = states[0] if isinstance(self.recurrent, nn.LSTM) else states
        if self.read == "outputs":
            scores: Tensor = self.output(outputs)
        elif self.read == "last output":
            scores = self.output(torch.relu(outputs[:, -1]))
        elif self.read == "last state":
            scores = self.output(hidden[-1])
        elif self.read == "squeezed":
            scores = self.output(hidden.squeeze(0))
        elif self.read == "cell":
            scores = self.output(states[1][-1])
        elif self.read == "both ends":
            scores = self.output(torch.cat([hidden[-2], hidden[-1]], dim=1))
        elif self.read == "all states":
            scores = self.output(hidden.mean(0))
        else:
            scores = self.output(self.recurrent(lines[:, :5])[0] + outputs[:, :5])
        return scores


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(LINES)  # type: ignore[no-any-return]


def full(model: nn.Module) -> dict[str, Tensor]:
    return {name: flags.clone() for name, flags in prunable.full(model, ["recurrent.weight_*"]).items()}


def unread(model: nn.Module, *units: int) -> Mask:
    """No other unit and no other layer reads these; in modules of one layer and direction."""
    alive = full(model)
    for unit in units:
        others = [other for other in range(HIDDEN) if other != unit]
        for gate in alive["recurrent.weight_hh_l0"].view(-1, HIDDEN, HIDDEN):
            gate[others, unit] = False
        alive["output.weight"][:, unit] = False
    return Mask(alive)


def unmoved(model: nn.Module, kind: str, *units: int) -> Mask:
    """These are 0 at every step: nothing moves them, and their bias there, in the model, is made 0."""
    alive, (begin, end) = full(model), GATE[kind]
    for name, flags in alive.items():
        if name.startswith("recurrent.weight"):
            flags[begin * HIDDEN : end * HIDDEN][list(units)] = False
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("recurrent.bias"):
                value[begin * HIDDEN : end * HIDDEN][list(units)] = 0
    return Mask(alive)


def hidden(model: nn.Module) -> int:
    layer = model.get_submodule("recurrent")
    assert isinstance(layer, nn.RNNBase)
    return layer.hidden_size


def same(model: nn.Module, mask: Mask) -> nn.Module:
    """The compacted model, after what holds for all was checked on it."""
    small = compact(model, mask, LINES)
    torch.testing.assert_close(answer(small), answer(masked(model, mask)), rtol=0, atol=1e-12)
    assert type(small.get_submodule("recurrent")) is type(model.get_submodule("recurrent"))
    assert weights.equal(weights.of(compact(small, prunable.full(small), LINES)), weights.of(small)), "idempotent"
    return small


READ = ("outputs", "last output", "last state", "squeezed")


@every_kind
@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("how", ["unread", "unmoved"])
def test_units_that_say_nothing_go(kind: str, read: str, how: str, tmp_path: Path) -> None:
    model = drawn(lambda: Reads(kind, read), seed=2, by=2)
    mask = unread(model, 1, 5, 6) if how == "unread" else unmoved(model, kind, 1, 5, 6)
    small = same(model, mask)
    assert hidden(small) == HIDDEN - 3
    assert small.get_parameter("output.weight").shape == (3, HIDDEN - 3)
    assert len(stored(small)) < len(stored(masked(model, mask)))
    assert len(stored(small, zeros=True)) < 0.75 * len(stored(model, zeros=True))
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    assert torch.equal(answer(again), answer(small)) and hidden(again) == hidden(small)


@every_kind
@pytest.mark.parametrize("how", ["unread", "unmoved"])
def test_a_unit_with_one_living_weight_stays(kind: str, how: str) -> None:
    model = drawn(lambda: Reads(kind), seed=2, by=2)
    mask = unread(model, 1, 5) if how == "unread" else unmoved(model, kind, 1, 5)
    for name, place in {
        "unread": [("recurrent.weight_hh_l0", (0, 5)), ("output.weight", (2, 5))],
        "unmoved": [(f"recurrent.weight_{end}_l0", (GATE[kind][0] * HIDDEN + 5, 3)) for end in ("ih", "hh")],
    }[how]:
        alive = {each: flags.clone() for each, flags in mask.items()}
        alive[name][place] = True
        assert hidden(same(model, Mask(alive))) == HIDDEN - 1


@every_kind
def test_a_bias_moves_a_unit(kind: str) -> None:
    model = drawn(lambda: Reads(kind), seed=2, by=2)
    mask = unmoved(model, kind, 1, 5)
    with torch.no_grad():
        model.get_parameter("recurrent.bias_hh_l0")[GATE[kind][0] * HIDDEN + 5] = 0.1
    assert hidden(same(model, mask)) == HIDDEN - 1


def test_what_is_known_beforehand_but_not_0_stays_and_it_is_said() -> None:
    model = drawn(lambda: Reads("GRU"), seed=2, by=2)
    alive = full(model)
    for name in ("recurrent.weight_ih_l0", "recurrent.weight_hh_l0"):
        alive[name].view(3, HIDDEN, -1)[:, [2, 3]] = False
    found = compacted(model, Mask(alive), LINES)
    assert hidden(found.model) == HIDDEN
    assert found.left == {"recurrent": "2 units say the same for every input, but not 0 from the first step on"}


@every_kind
def test_units_that_feed_each_other_alone_go_together(kind: str) -> None:
    model = drawn(lambda: Reads(kind), seed=2, by=2)
    alive = full(model)
    alive["output.weight"][:, [1, 5]] = False
    others = [unit for unit in range(HIDDEN) if unit not in (1, 5)]
    for gate in alive["recurrent.weight_hh_l0"].view(-1, HIDDEN, HIDDEN):
        for unit in (1, 5):
            gate[others, unit] = False
    assert hidden(same(model, Mask(alive))) == HIDDEN - 2


@every_kind
@pytest.mark.parametrize(
    "about", [{"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}]
)
@pytest.mark.parametrize("read", ["outputs", "both ends", "all states"])
def test_layers_and_directions_stay_equally_wide(kind: str, about: dict[str, Any], read: str) -> None:
    if read == "both ends" and not about.get("bidirectional"):
        pytest.skip("one direction has one end")
    model = drawn(lambda: Reads(kind, read if read != "all states" else "last state", **about), seed=2, by=2)
    if read == "all states":
        model.read = "all states"  # type: ignore[assignment]
    begin, _ = GATE[kind]
    alive, count = full(model), {"weight_ih_l0": 3, "weight_ih_l0_reverse": 2, "weight_ih_l1": 2}
    with torch.no_grad():
        for name, value in model.named_parameters():
            own = name.removeprefix("recurrent.").split("_", 2)
            if name.startswith("recurrent"):
                gone = count.get(f"weight_ih_{own[2]}", 2)
                rows = slice(begin * HIDDEN, begin * HIDDEN + gone)
                if own[0] == "weight":
                    alive[name][rows] = False
                else:
                    value[rows] = 0
    found = compacted(model, Mask(alive), LINES)
    torch.testing.assert_close(answer(found.model), answer(masked(model, Mask(alive))), rtol=0, atol=1e-12)
    assert hidden(found.model) == (HIDDEN if read == "all states" else HIDDEN - 2)
    assert ("1 dead unit stays" in found.left.get("recurrent", "")) == (read != "all states")


@pytest.mark.parametrize("kind", KINDS)
def test_constants_that_a_recurrent_layer_reads_go_into_its_bias(kind: str) -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(INPUTS, INPUTS), Reads(kind)

        def forward(self, lines: Tensor) -> Tensor:
            return self.rest(torch.tanh(self.first(lines)))  # type: ignore[no-any-return]

    model = drawn(Fed, seed=2, by=2)
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["first.weight"][[0, 4]] = False
    small = compact(model, Mask(alive), LINES)
    torch.testing.assert_close(answer(small), answer(masked(model, Mask(alive))), rtol=0, atol=1e-12)
    layer = small.get_submodule("rest.recurrent")
    assert isinstance(layer, nn.RNNBase) and (layer.input_size, layer.hidden_size) == (INPUTS - 2, HIDDEN)


STAY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "called twice": (lambda: Reads("GRU", "twice"), "it is called more than once, or shares its weights"),
    "projected": (
        lambda: nn.Sequential(Last(nn.LSTM(INPUTS, HIDDEN, batch_first=True, proj_size=3)), nn.Linear(3, 2)),
        "it is of a class of its own, or projects its outputs",
    ),
    "begun elsewhere": (lambda: Begun(), "it is handed states to begin with"),
    "packed": (lambda: Packed(), "what it reads is no plain tensor"),
}


class Last(nn.Module):
    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, lines: Tensor) -> Tensor:
        return self.recurrent(lines)[0]  # type: ignore[no-any-return]


class Begun(Reads):
    """The first states are ones, so that a unit without weights is not 0."""

    def __init__(self) -> None:
        super().__init__("GRU")

    def forward(self, lines: Tensor) -> Tensor:
        begin = torch.ones(1, len(lines), HIDDEN, dtype=lines.dtype)
        return self.output(self.recurrent(lines, begin)[0])  # type: ignore[no-any-return]


class Packed(Reads):
    """It reads lines of other lengths."""

    def __init__(self) -> None:
        super().__init__("GRU")

    def forward(self, lines: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(lines, torch.tensor([11, 9, 4, 1]), batch_first=True)
        return self.output(self.recurrent(packed)[1][-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STAY)
def test_other_recurrent_layers_stay_as_they_are(name: str) -> None:
    model = drawn(STAY[name][0], seed=2, by=2)
    with torch.no_grad():
        for each, value in model.named_parameters():
            if "recurrent.bias" in each or "recurrent.weight_ih" in each or "recurrent.weight_hh" in each:
                value.unflatten(0, (-1, HIDDEN))[:, :3] = 0
    found = compacted(model, prunable.full(model), LINES)
    assert weights.equal(weights.of(found.model), weights.of(model))
    torch.testing.assert_close(answer(found.model), answer(model), rtol=0, atol=1e-12)
    (why,) = found.left.values()
    assert why == f"3 units that no weight moves stay, as {STAY[name][1]}"


class Resumed(nn.Module):
    """It goes on from states that it may be handed, and may give them back."""

    def __init__(self, kind: str, give: bool = True, **about: Any) -> None:
        super().__init__()
        self.recurrent, self.give = KINDS[kind](INPUTS, HIDDEN, batch_first=True, **about), give
        self.hidden = nn.Linear(HIDDEN * (2 if about else 1), 4)
        self.output = nn.Linear(4, 3)

    def forward(self, lines: Tensor, states: Any = None) -> Any:
        outputs, states = self.recurrent(lines, states)
        scores = self.output(torch.tanh(self.hidden(outputs)))
        return (scores, states) if self.give else scores


def resumed(kind: str, layers: int, give: bool) -> tuple[nn.Module, Mask, Any]:
    """A model with a unit of the hidden layer that reads silent units alone, and states to begin with."""
    about: dict[str, Any] = {"bidirectional": True} if layers > 1 else {}
    model = drawn(lambda: Resumed(kind, give, **about), seed=2, by=2)
    mask = {name: flags.clone() for name, flags in unmoved(model, kind, 1, 5).items()}
    mask["hidden.weight"][0] = False
    mask["hidden.weight"][0, 5] = True
    generator = torch.Generator().manual_seed(4)
    begin = torch.randn(2, layers, len(LINES), HIDDEN, generator=generator, dtype=torch.float64)
    return model, Mask(mask), (begin[0], begin[1]) if kind == "LSTM" else begin[0]


@every_kind
@pytest.mark.parametrize("layers", [1, 2])
def test_states_from_outside_give_the_same_where_all_units_stay(kind: str, layers: int) -> None:
    model, mask, states = resumed(kind, layers, give=True)
    found = compacted(model, mask, LINES)
    assert hidden(found.model) == HIDDEN
    with torch.no_grad():
        for given in (None, states):
            expected, given_back = masked(model, mask)(LINES, given)
            scores, other = found.model(LINES, given)
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(other, given_back, rtol=0, atol=1e-12)
    count = 2 * layers
    assert found.left["recurrent"] == f"{count} units that are 0 at every step stay, because of the model's answer"


@every_kind
def test_a_direction_that_fills_up_the_other_may_be_begun_elsewhere(kind: str) -> None:
    model, _, states = resumed(kind, 2, give=False)
    begin, _ = GATE[kind]
    alive = full(model)
    with torch.no_grad():
        for name in ("weight_ih_l0_reverse", "weight_hh_l0_reverse"):
            alive[f"recurrent.{name}"][begin * HIDDEN + 3] = False
            model.get_parameter(f"recurrent.{name.replace('weight', 'bias')}")[begin * HIDDEN + 3] = 0
    found = compacted(model, Mask(alive), LINES)
    assert found.left == {"recurrent": "1 dead unit stays, as all its layers and directions are equally wide"}
    with torch.no_grad():
        expected, scores = masked(model, Mask(alive))(LINES, states), found.model(LINES, states)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


@every_kind
def test_states_that_are_left_out_keep_no_unit_and_others_are_refused_by_their_size(kind: str) -> None:
    model, mask, states = resumed(kind, 1, give=False)
    found = compacted(model, mask, LINES)
    assert hidden(found.model) == HIDDEN - 2 and not found.left
    torch.testing.assert_close(answer(found.model), answer(masked(model, mask)), rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="hidden"):
        found.model(LINES, states)


@every_kind
@pytest.mark.parametrize("over", ["mean", "amax"])
def test_the_steps_may_be_the_first_axis_and_be_taken_together(kind: str, over: str) -> None:
    class Steps(Reads):
        def forward(self, lines: Tensor) -> Tensor:
            outputs, _ = self.recurrent(lines)
            return self.output(getattr(outputs, over)(0))  # type: ignore[no-any-return]

    model = drawn(lambda: Steps(kind), seed=2, by=2)
    model.recurrent.batch_first = False  # type: ignore[union-attr]
    assert hidden(same(model, unmoved(model, kind, 1, 5))) == HIDDEN - 2


@every_kind
@pytest.mark.parametrize("both", [False, True])
def test_of_what_says_nothing_and_goes_but_for_one_unit_nothing_is_said(kind: str, both: bool) -> None:
    model = drawn(lambda: Reads(kind, bidirectional=both), seed=2, by=2)
    found = compacted(model, unmoved(model, kind, *range(HIDDEN)), LINES)
    assert hidden(found.model) == 1 and not found.left


def test_where_the_code_asks_for_the_width_all_units_stay_and_it_is_said() -> None:
    class Asks(Reads):
        def forward(self, lines: Tensor) -> Tensor:
            outputs, _ = self.recurrent(lines)
            return self.output(outputs) * self.recurrent.hidden_size  # type: ignore[no-any-return]

    model = drawn(lambda: Asks("GRU"), seed=2, by=2)
    found = compacted(model, unread(model, 1), LINES)
    assert hidden(found.model) == HIDDEN and "the model's code gives something else" in found.left["recurrent"]


def test_the_cell_that_is_read_stays() -> None:
    model = drawn(lambda: Reads("LSTM", "cell"), seed=2, by=2)
    small = same(model, unread(model, 1, 5))
    assert hidden(small) == HIDDEN - 2, "what is read of the cell are the same units"
    alive = {name: flags.clone() for name, flags in unread(model, 1, 5).items()}
    alive["output.weight"][:, 5] = True
    assert hidden(same(model, Mask(alive))) == HIDDEN - 1


def test_what_is_left_can_be_quantised_and_coupling_knows_no_recurrent_units(tmp_path: Path) -> None:
    model = drawn(lambda: Reads("LSTM"), seed=2, by=2).float()
    small = quantize(compact(model, unread(model, 1, 5), LINES.float()))
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(again(LINES.float()), small(LINES.float()))
    assert [along.name for along in coupling(model, LINES.float()).makes] == ["output.weight"]
