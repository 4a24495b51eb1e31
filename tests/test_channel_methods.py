"""Every method, control and kind of ensemble either keeps channels whole or is refused before anything is trained."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tombola import coupling as coupled
from tombola import models, prunable
from tombola.lab.attempt import do
from tombola.lab.kinds import Prune, Train
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.runs import Network
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_checks import contradictions
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.pruning import SCOPES, Round, channels_in_common
from tombola.scores import SCORES

GAUSSIAN = ("deterministic", "transplant")
ABLE = frozenset({
    "iterative", "continued", "one-shot", "lr-rewind", "fine-tune", "elsewhere", "rebasin", "elastic", "colt", "aws",
    "winning-sign",
})  # fmt: skip
WITH = {"elastic": {"source": "resnet-14-w2"}}


def asked(scope: str = "channel", **changes: Any) -> Spec:
    recipe: dict[str, Any] = {"model": "resnet-8-w2", "data": "digits", "length": "4it", "batch": 50}
    recipe |= {"optimizer": {"name": "sgd", "lr": 0.1}} | changes.pop("recipe", {})
    table = {"recipe": recipe, "prune": {"scope": scope, "rate": 0.4}, "levels": 1, "replicates": 1, "rewind": ["1it"]}
    return Spec.model_validate(table | changes)


def faults(spec: Spec) -> list[str]:
    return [f"{each.path}: expected {each.expected}, found {each.found}; {each.todo}" for each in
            contradictions(spec, BUILT_IN)]  # fmt: skip


def masks_of(spec: Spec, folder: Path) -> Iterator[tuple[str, Mask]]:
    """Each arm's masks, of a spec all of whose runs are done."""
    wanted, worker = plan(Experiment(name="a", spec=spec)), Worker(Store(folder).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    for row in wanted.rows:
        if row.level and isinstance(row.run, Train) and row.run.mask:
            yield row.arm, worker.store.mask(row.run.mask)


def whole(spec: Spec, folder: Path, arms: set[str]) -> bool:
    """Whether all of these arms have masks of whole channels, some of which are gone."""
    found = Network(spec.recipe.model, spec.facts.shape, spec.facts.classes).coupling()
    made = list(masks_of(spec, folder))
    assert {arm for arm, _ in made} == arms
    return all(coupled.made_of_channels(mask, found) and mask.density < 1 for _, mask in made)


@pytest.mark.parametrize("said", ["prune", "search"])
@pytest.mark.parametrize("scope", [name for name, scope in SCOPES.items() if scope.coupled])
@pytest.mark.parametrize("name", BUILT_IN.methods)
def test_a_method_keeps_channels_whole_or_is_refused(name: str, scope: str, said: str, tmp_path: Path) -> None:
    own = WITH.get(name, {}) | ({"scope": scope} if said == "search" else {})
    changes: dict[str, Any] = {"search": own} if own else {}
    if name in GAUSSIAN:
        changes["recipe"] = {"model": "resnet-8-w2+gaussian", "objective": {"name": "elbo"}}
    arms = ["ticket", "random", "shuffle"] if BUILT_IN.methods[name].rewinds else ["ticket"]
    spec = asked("layer" if said == "search" else scope, method=name, arms=arms, **changes)
    refused = faults(spec)
    assert (name in ABLE) == (not refused)
    if refused:
        assert scope in refused[0] and not refused[0].endswith("; "), "and says what to change"
    else:
        assert whole(spec, tmp_path, set(arms))


@pytest.mark.parametrize("scope", ["units", "blocks", "n_of_m"])
@pytest.mark.parametrize("name", [name for name in BUILT_IN.methods if name not in GAUSSIAN])
def test_a_scope_of_its_own_that_a_method_cannot_prune_in_is_refused(name: str, scope: str) -> None:
    search = {**WITH.get(name, {}), "scope": scope}
    able = scope != "n_of_m" and BUILT_IN.methods[name].options.by_rounds
    refused = faults(asked("layer", method=name, search=search, arms=["ticket"]))
    assert not refused if able else [each for each in refused if each.startswith("search.scope")]
    if name != "one-shot":
        beside = asked("layer", method="one-shot", arm={"other": {"method": name, **search}}, arms=["ticket", "other"])
        assert able or [each for each in faults(beside) if each.startswith("arm.other.scope")]


def test_the_page_names_the_methods_that_take_channels() -> None:
    page = (Path(__file__).parents[1] / "docs" / "structured.md").read_text()
    sentence = page[page.index("that prune in rounds take channels") :].partition("\n\n")[0].partition(". Those")[0]
    assert {name for name in BUILT_IN.methods if f"`{name}`" in sentence} == ABLE


@pytest.mark.parametrize("name", BUILT_IN.controls)
def test_a_control_of_channels_keeps_them_whole_or_is_refused(name: str, tmp_path: Path) -> None:
    elastic = name in ("own-ticket", "copies-permuted")
    method: dict[str, Any] = {"method": "elastic", "search": WITH["elastic"]} if elastic else {}
    spec = asked(arms=["ticket", name], **method)
    if not faults(spec):
        assert whole(spec, tmp_path, {"ticket", name})
    assert name not in ("random", "shuffle", "reinit", "sparse-init", "half-data") or not faults(spec)


@pytest.mark.parametrize("name", ["set", "rigl", "escape"])
def test_dynamics_that_move_single_weights_are_refused(name: str) -> None:
    spec = asked(recipe={"dynamics": {"name": name}})
    assert [each for each in faults(spec) if "dynamics that keep channels whole in the scope channel" in each]


@pytest.mark.parametrize("name", ["pool", "dst", "edst"])
def test_ensembles_of_single_weights_are_refused(name: str) -> None:
    spec = asked(study={"ensemble": {"levels": [1], "members": 2, "kinds": [name]}})
    assert f"kinds of whole groups in the scope channel, found '{name}'" in str(faults(spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "generalised"}, "method: expected methods of the weights themselves in the scope channel, found"),
        ({"arms": ["ticket", "generalised"]}, "arms: expected methods of the weights themselves in the scope channel"),
        ({"method": "generalised", "search": {"basis": "units"}}, "search.basis: expected identity in the scope"),
        ({"prune": {"multiple": 2}, "levels": 1}, "prune.multiple: expected absent in the scope layer, found 2"),
        ({"prune": {}, "search": {"scope": "channel"}, "densities": [0.5], "levels": None}, "search.scope: expected a"),
        ({"search": {"scope": "layer", "score": "norm"}}, "search.score: expected a score of single weights in the"),
    ],
)
def test_what_one_arm_prunes_by_is_checked_in_its_own_scope(changes: Mapping[str, Any], message: str) -> None:
    spec = asked(**{name: value for name, value in changes.items() if name != "levels"})
    spec = spec.model_copy(update={"levels": 1})
    assert any(each.startswith(message) for each in faults(spec))


def test_an_arm_has_channels_beside_tickets_of_single_weights(tmp_path: Path) -> None:
    own = {"by-channel": {"method": "iterative", "search": {"scope": "channel", "score": "norm"}}}
    spec = asked("layer", arms=["ticket", "by-channel"], arm=own)
    assert not faults(spec)
    found = Network(spec.recipe.model, spec.facts.shape, spec.facts.classes).coupling()
    made = {arm: coupled.made_of_channels(mask, found) for arm, mask in masks_of(spec, tmp_path)}
    assert made == {"ticket": False, "by-channel": True}


@pytest.mark.parametrize("scope", ["channel", "channel_global"])
def test_what_trainings_have_in_common_is_the_intersection_of_the_channels_that_each_would_keep(scope: str) -> None:
    """Of each set, or of all, the channels that both would keep where each keeps as many as that takes."""
    network = Network("lenet-12-9", (8, 8), 10)
    model, found = network.build(), network.coupling()
    full, round = prunable.full(model), Round(scope, (("*", 0.4),), score=SCORES["norm"])
    draw = torch.Generator().manual_seed(5)
    scores = [{name: torch.rand(alive.shape, generator=draw) for name, alive in full.items()} for _ in range(2)]
    by, ranks = channels_in_common(round, scores, full, found)
    kinds = models.kinds(network.model, network.shape, network.classes)
    kept = found.alive(by.next(full, ranks, kinds, coupling=found))
    groups = [channels for _, channels in found.sets(full)]
    groups = groups if scope == "channel" else [torch.cat(groups)]
    worths = [_worth(each, found, groups if scope == "channel" else [c for _, c in found.sets(full)], scope)
              for each in scores]  # fmt: skip
    for channels in groups:
        stay = int(kept[channels].sum())
        for most in range(stay, len(channels) + 1):
            best = [set(channels[worth[channels].argsort(descending=True)[:most]].tolist()) for worth in worths]
            if len(common := best[0] & best[1]) >= stay:
                break
        there = set(channels[kept[channels]].tolist())
        assert there == common if len(common) == stay else there < common
        assert 0 < stay < len(channels)


def test_colt_prunes_by_what_its_halves_have_in_common(tmp_path: Path) -> None:
    spec = asked(method="colt")
    wanted, worker = plan(Experiment(name="a", spec=spec)), Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    (made,) = (run for run in wanted.runs if isinstance(run, Prune))
    model, found = made.network.build(), made.network.coupling()
    full, kinds = prunable.full(model), prunable.prunable(model)
    halves = [worker.store.weights(run) for run in (made.trained, *(made.beside or ()))]
    sizes = [{name: half[name].abs() for name in full} for half in halves]
    by, ranks = channels_in_common(made.round(SCORES), sizes, full, found)
    left, stored = by.next(full, ranks, kinds, coupling=found), worker.store.mask(made)
    assert all(torch.equal(stored[name], alive) for name, alive in left.items())


def _worth(scores: Mapping[str, Tensor], found: Any, sets: list[Tensor], scope: str) -> Tensor:
    """The root mean square of all weights of a channel, by loops; in the global scope over the mean of its set."""
    total, number = torch.zeros(found.size).double(), torch.zeros(found.size).double()
    for along in (*found.makes, *found.reads):
        if along.name in scores:
            each = scores[along.name].double().movedim(along.axis, 0).flatten(1)
            for place, channel in enumerate(along.channels.tolist()):
                total[channel] += each[place].square().sum()
                number[channel] += each.shape[1]
    worth = (total / number.clamp(min=1)).sqrt()
    if scope == "channel_global":
        for channels in sets:
            worth[channels] /= worth[channels].mean()
    return worth
