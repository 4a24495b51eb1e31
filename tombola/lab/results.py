"""What a plan's finished runs say: the rows of its table, and the trials that a verdict is made of."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tombola.errors import BadInput, StoreError
from tombola.lab.kinds import Init, Train
from tombola.lab.plan import Plan
from tombola.lab.replicate import Replicate
from tombola.lab.row import Row
from tombola.lab.runs import Run
from tombola.lab.store import Store
from tombola.lab.studies import Answer, Evidence, Finding, asked
from tombola.study.sentences import sentences
from tombola.study.smoothed import smoothed_early_stop
from tombola.study.verdict import Criteria, Trial, Verdict, judge

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask
    from tombola.ticket import Ticket

COLUMNS = (
    "experiment",
    "arm",
    "replicate",
    "level",
    "rewind",
    "draw",
    "density",
    "alive",
    "early_stop_step",
    "early_stop_test_accuracy",
    "early_stop_train_accuracy",
    "final_test_accuracy",
    "final_train_accuracy",
    "final_validation_loss",
    "seconds",
    "key",
)


@dataclass(frozen=True)
class Result:
    """A row of the plan and what its training gave: `values` as the run made them, and `how` that came about."""

    row: Row
    values: dict[str, Any]
    how: dict[str, Any]

    @property
    def seconds(self) -> float:
        """That the training took."""
        return float(self.how["seconds"])


def results(wanted: Plan, store: Store) -> list[Result]:
    """The finished rows of a plan, in its order."""
    done = store.keys()
    return [Result(row, store.values(row.run), store.provenance(row.run)) for row in wanted.rows if row.run.key in done]


def table(wanted: Plan, found: list[Result]) -> list[dict[str, Any]]:
    """One record per replicate x arm x level (x draw), with `COLUMNS`; accuracies as fractions."""
    return [
        {
            "experiment": wanted.experiment.name,
            "arm": result.row.arm,
            "replicate": result.row.replicate,
            "level": result.row.level,
            "rewind": result.row.rewind,
            "draw": result.row.draw,
            "seconds": round(result.seconds, 3),
            "key": result.row.run.key,
            **{name: result.values[name] for name in COLUMNS if name in result.values},
        }
        for result in found
    ]


def criteria(wanted: Plan) -> Criteria:
    """The experiment's own margins, in steps and fractions."""
    spec = wanted.experiment.spec
    every = spec.iterations(spec.evaluate.every)
    return Criteria(
        accuracy_margin=spec.verdict.accuracy_margin,
        step_margin=spec.iterations(spec.verdict.step_margin) if spec.verdict.step_margin else every,
        confidence=spec.verdict.confidence,
        accuracy_grain=spec.facts.grain(spec.facts.test),
        step_grain=every,
        isolated=wanted.experiment.members.methods[spec.method].rewinds,
        paced=spec.verdict.at == "early-stop",
        chance=spec.facts.chance,
    )


def verdicts(wanted: Plan, found: Sequence[Result]) -> list[Verdict]:
    """The verdict on the ticket arm at each level."""
    return judge([_trial(result, wanted.experiment.spec.verdict.at) for result in found], criteria(wanted))


def conclusions(wanted: Plan, found: Sequence[Result], judged: Sequence[Verdict], store: Store) -> list[str]:
    """The verdicts in plain sentences."""
    partial = f"{len(found)} of {len(wanted.rows)} trainings are finished; what follows is about these."
    spec, controls = wanted.experiment.spec, wanted.experiment.members.controls
    said = sentences(judged, criteria(wanted), controls) if spec.levels else [_NO_LEVEL]
    near = any(verdict.dense.accuracy.n > 1 and verdict.verdict != "not learned" for verdict in judged)
    close = made_by_several(found, near) or (_LAST_BITS if near else "")
    partly = [partial] if len(found) < len(wanted.rows) else []
    return [*partly, *said, *([close] if close else []), *_failures(wanted, store)]


def made_by_several(found: Sequence[Result], verdict: bool = False) -> str:
    """A sentence where several measurements of the engine or several processors made the trainings, else nothing.

    Args:
        found: the trainings.
        verdict: whether the sentence adds what that means for a verdict.
    """
    processors = {how.get("gpu") or how["processor"] for each in found if (how := each.how).get("processor")}
    measurements = {each.how["measurement"]["id"] for each in found if "measurement" in each.how}
    counts = {"measurements of the engine": len(measurements), "processors": len(processors)}
    several = " and ".join(f"{count} {what}" for what, count in counts.items() if count > 1)
    if not several:
        return ""
    return (
        f"These trainings were made by {several}: the same training made by another one may end with other last "
        f"digits, and now and then with another early stop{f', so {_NEAR} may come out otherwise' if verdict else ''}."
    )


_NO_LEVEL = "No verdict: the spec has no level of pruning (levels = 0), so there is no ticket to judge."
_NEAR = "a verdict whose interval ends near its margin"
_LAST_BITS = (
    "Another machine or engine rounds the last bits otherwise and makes other trainings of the same seeds: "
    f"{_NEAR} may come out otherwise there."
)


def network(found: Sequence[Result]) -> str:
    """The network of an experiment's results by its name and its prunable weights: `resnet-20, 0.27 M weights`."""
    model, count = found[0].row.run.recipe.model, weights_of(found)
    return f"{model}, {f'{count / 1e6:.2g} M' if count >= 100_000 else f'{count:,}'} weights"


def weights_of(found: Sequence[Result]) -> int:
    """How many prunable weights the network has."""
    return int(found[0].values["total"])


def _failures(wanted: Plan, store: Store) -> list[str]:
    """What the comparisons lack because it failed: an arm that diverges at times is not judged in silence."""
    failed = store.failed() - store.keys()
    arms = Counter(row.arm for row in wanted.rows if row.run.key in failed)
    listed = ", ".join(f"{count} of {arm}" for arm, count in arms.items())
    said = [f"{arms.total()} trainings failed and are left out of every comparison: {listed}."] if arms else []
    return [*said, *unanswered(wanted, store)]


def findings(wanted: Plan, store: Store) -> list[Finding]:
    """All that the finished answers allow to say, study by study."""
    spec, done = wanted.experiment.spec, frozenset(store.keys())
    answers = [
        Answer(question, store.values(question.density_of)["density"], store.values(question.run))
        for question in wanted.questions
        if question.run.key in done and question.density_of.key in done
    ]
    confidence, told = criteria(wanted).confidence, list[Finding]()
    for study, table in asked(spec.study, wanted.experiment.members.studies):
        own = [answer for answer in answers if answer.question.study == study.name]
        told += study.findings(table, Evidence(spec, wanted.rows, own, store, confidence, done))
    return told


def unanswered(wanted: Plan, store: Store) -> list[str]:
    """What the studies lack: what is left out may be what would have spoken against the rest."""
    done, failed = store.keys(), store.failed()
    open_ones = [question for question in wanted.questions if question.run.key not in done]
    if not open_ones:
        return []
    lost = [one for one in open_ones if failed & {one.run.key, *(each.key for each in one.run.inputs)}]
    why = f", {len(lost)} of them because a training failed" if lost else ""
    count = f"{len(open_ones)} of {len(wanted.questions)}"
    return [f"{count} measurements of the studies are not there{why}; what the studies say is about the others."]


ACCURACY = {"early-stop": "early_stop_test_accuracy", "end": "final_test_accuracy"}


def _trial(result: Result, at: str) -> Trial:
    row, values = result.row, result.values
    step, curve = values["early_stop_step"], values["curve"]
    return Trial(
        arm=row.arm,
        replicate=row.replicate,
        level=row.level,
        density=values["density"],
        step=step,
        accuracy=values[ACCURACY[at]],
        censored=step == row.run.until,
        rewind=row.rewind,
        first=step == row.run.begin,
        smoothed=smoothed_early_stop(curve["step"], curve["validation_loss"]),
        before=curve["test_accuracy"][0] if curve["test_step"][0] == 0 else None,
    )


def ticket_of(wanted: Plan, store: Store, level: int, replicate: int) -> "Ticket":
    """The ticket of a level and a replicate: its mask, and the weights that its survivors return to.

    Raises:
        BadInput: the experiment has no such level or replicate.
        StoreError: the runs that it is made of are not finished.
    """
    from tombola.ticket import Seed, Ticket

    spec = wanted.experiment.spec
    if not wanted.experiment.members.methods[spec.method].rewinds:
        raise BadInput(
            where="method",
            expected="one that rewinds to early weights",
            found=spec.method,
            todo="Its levels go on from trained weights: there is no ticket to write.",
        )
    run = _training(wanted, level, replicate)
    _need(run.inputs, wanted, store, level, replicate)
    start = store.weights(run.start)
    model, alive = _network(wanted, store, run)
    how = store.provenance(run.mask or run.start)
    origin = {
        "experiment": wanted.experiment.name,
        "key": run.key,
        "keys": {"start": run.start.key, **({"mask": run.mask.key} if run.mask else {})},
        "model": spec.recipe.model,
        "data": spec.recipe.data,
        "data_fingerprint": run.data_fingerprint,
        "method": spec.method,
        "level": level,
        "replicate": replicate,
        "rewind": f"{run.begin}it",
        "density": alive.density,
        "recipe": spec.recipe.model_dump(mode="json"),
        "made": how.get("finished"),
        "versions": {name: how[name] for name in ("tombola", "git", "torch", "machine") if how.get(name)},
    }
    seed, network = None, Replicate(spec, replicate).network
    if isinstance(run.start, Init) and network.checkpoint is None:
        seed = Seed(network.model, network.shape, network.classes, run.start.init, run.start.init_seed)
    return replace(Ticket.of(model, alive, start, origin), seed=seed)


def trained_of(wanted: Plan, store: Store, level: int, replicate: int) -> "tuple[nn.Module, Mask, Train]":
    """The network of a level and a replicate with its weights at the end of its training, its mask, and that training.

    Raises:
        BadInput: the experiment has no such level or replicate.
        StoreError: the training is not finished.
    """
    from tombola import weights

    run = _training(wanted, level, replicate)
    _need([run], wanted, store, level, replicate)
    model, alive = _network(wanted, store, run)
    weights.put(model, store.weights(run))
    return model, alive, run


def _training(wanted: Plan, level: int, replicate: int) -> Train:
    """The training of the ticket, or at level 0 of the dense network."""
    spec = wanted.experiment.spec
    if len(spec.rewind) > 1:
        raise BadInput(
            where="rewind",
            expected="one step",
            found=", ".join(map(str, spec.rewind)),
            todo=f"--set rewind={spec.rewind[0]} picks one of them.",
        )
    if not 0 <= level <= spec.levels:
        raise BadInput(
            where="--level", expected=f"0 to {spec.levels}", found=str(level), todo="Level 0 is the dense network."
        )
    if not 0 <= replicate < spec.replicates:
        raise BadInput(
            where="--replicate",
            expected=f"0 to {spec.replicates - 1}",
            found=str(replicate),
            todo="Replicates count from 0.",
        )
    arm = "ticket" if level else "dense"
    return next(row.run for row in wanted.rows if (row.arm, row.level, row.replicate) == (arm, level, replicate))


def _need(runs: Iterable[Run], wanted: Plan, store: Store, level: int, replicate: int) -> None:
    for needed in runs:
        if not store.has(needed):
            raise StoreError(
                where=str(store.root),
                expected=f"the finished runs of level {level} and replicate {replicate}",
                found=f"no {needed.key}",
                todo=f"`tombola run {wanted.experiment.asked_by}` makes them; give the same --set and --store here.",
            )


def _network(wanted: Plan, store: Store, run: Train) -> "tuple[nn.Module, Mask]":
    """The network that is trained, whatever its weights, and what lives of it."""
    from tombola import models, prunable

    facts, recipe = wanted.experiment.spec.facts, run.recipe
    model = models.build(recipe.model, facts.shape, facts.classes, recipe.init, init_seed=0)
    return model, store.mask(run.mask) if run.mask else prunable.full(model)
