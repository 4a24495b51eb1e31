"""What a plan's finished runs say, as one value: the rows of its table, the verdicts, the findings, the sentences."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean
from typing import Any

from tombola.controls import Control
from tombola.errors import BadInput
from tombola.lab.costs import Cost, Costs
from tombola.lab.families import families
from tombola.lab.kinds import Cut
from tombola.lab.plan import Plan, complete, of_first
from tombola.lab.row import Row
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.studies import Answer, Evidence, Finding, asked
from tombola.method import Found
from tombola.models.variants import SEED_MARK
from tombola.study.front import Way, sentence
from tombola.study.sentences import of_another, sentences
from tombola.study.sequential import FIRST
from tombola.study.smoothed import smoothed_early_stop
from tombola.study.standing import Standing, needed, standings
from tombola.study.verdict import ACCURACY as RIGHT
from tombola.study.verdict import R2, Criteria, Trial, Verdict, judge

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
    "search_macs",
    "training_macs",
    "search_macs_executed",
    "training_macs_executed",
    "dense_trainings",
    "search_seconds",
    "training_seconds",
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


ACCURACY = {"early-stop": "early_stop_test_accuracy", "end": "final_test_accuracy"}


@dataclass(frozen=True)
class Results:
    """What the finished runs of a plan say. Each part is made when it is first asked for, and once.

    Attributes:
        plan: of which they are.
        store: that has them.
        rows: the rows of the plan's table whose trainings are finished, in its order.
    """

    plan: Plan
    store: Store
    rows: Sequence[Result]

    @property
    def experiment(self) -> Experiment:
        """The experiment that was planned."""
        return self.plan.experiment

    @property
    def at(self) -> str:
        """Where in a training the verdict compares accuracy: at the `early-stop` or at the `end`."""
        return self.experiment.spec.verdict.at

    @property
    def accuracy(self) -> str:
        """The name of that accuracy among a row's values."""
        return ACCURACY[self.at]

    @property
    def arms(self) -> list[str]:
        """The arms that have rows beside the dense one, as `arms_of` has it."""
        return arms_of(self.rows)

    @property
    def weights(self) -> int:
        """How many prunable weights the network has."""
        return int(self.rows[0].values["total"])

    @property
    def network(self) -> str:
        """The network by its name and its prunable weights: `resnet-20, 0.27 M weights`.

        Of bases that each replicate draws anew the name has no seed.
        """
        model, count = self.rows[0].row.run.recipe.model, self.weights
        if SEED_MARK not in self.experiment.spec.recipe.model:
            model = model.partition(SEED_MARK)[0]
        return f"{model}, {f'{count / 1e6:.2g} M' if count >= 100_000 else f'{count:,}'} weights"

    @cached_property
    def families(self) -> dict[str, dict[str, Control]]:
        """By arm, the controls of its tickets, as `lab.families` has it."""
        return families(self.experiment.spec, self.experiment.members)

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """One record per replicate x arm x level (x draw), with `COLUMNS`; accuracies as fractions.

        Where there is another measure in the place of accuracy, its name is in those of the columns.
        """
        costs, measure = self.costs, self.experiment.spec.facts.measure
        records = [_record(result, costs.of(result.row), self.experiment.name) for result in self.rows]
        return [{name.replace("accuracy", measure): value for name, value in each.items()} for each in records]

    @cached_property
    def costs(self) -> Costs:
        """What the plan's runs cost."""
        return Costs(self.experiment, self.plan.runs, self.store)

    @cached_property
    def searches(self) -> list[str]:
        """Those of the arms that are ways to a ticket, and no controls of one."""
        spec, members = self.experiment.spec, self.experiment.members
        return [arm for arm in self.arms if arm != "dense" and not members.arm(arm, spec).control]

    @cached_property
    def ways(self) -> dict[int, list[Way]]:
        """At each level after the first what each way to a ticket costs and comes to; {} where there is only one."""
        several = len({result.row.rewind for result in self.rows}) > 1
        groups: dict[int, dict[str, list[Result]]] = {}
        for result in self.rows if len(self.searches) > 1 else ():
            row = result.row
            if row.arm in self.searches and result.values["alive"]:
                name = f"{row.arm}, k = {row.rewind:,}" if several else row.arm
                groups.setdefault(row.level, {}).setdefault(name, []).append(result)
        return {
            level: [self._way(name, group) for name, group in named.items()] for level, named in sorted(groups.items())
        }

    def dense_trainings(self, group: Sequence[Result]) -> float:
        """What each of a group of rows costs on average, search and training, in trainings of the dense network."""
        return mean(self.costs.of(result.row).dense_trainings for result in group)

    def _way(self, name: str, group: Sequence[Result]) -> Way:
        return Way(
            name, self.dense_trainings(group), {result.row.replicate: result.values[self.accuracy] for result in group}
        )

    @cached_property
    def fronts(self) -> dict[int, str]:
        """Which ways nothing cheaper beats, in a sentence for each level."""
        metric = self.criteria.metric
        better = "more accurate" if metric == RIGHT else f"higher in {metric.label}"
        return {
            level: sentence(mean(self.densities(level)), ways, _confidence(self.experiment.spec), better)
            for level, ways in self.ways.items()
        }

    @property
    def front(self) -> list[str]:
        """That sentence for the sparsest level at which one way is as accurate as the dense network on average, or
        else for the first one.
        """
        enough = mean(self.accuracies(0)) - self.criteria.accuracy_margin if self.accuracies(0) else 1.0
        level = max(
            (level for level, ways in self.ways.items() if max(way.accuracy for way in ways) >= enough), default=0
        )
        return [self.fronts[level or min(self.fronts)]] if self.fronts else []

    def densities(self, level: int) -> list[float]:
        """Of the tickets of a level, or of the dense networks; of all its rows where there is none."""
        rows = [result for result in self.rows if result.row.level == level]
        return [result.values["density"] for result in of_tickets(rows)]

    @cached_property
    def other_densities(self) -> dict[str, tuple[float, ...]]:
        """Of each arm whose mean densities are not the tickets', to a tenth of a percent: those of its levels."""
        levels = sorted({result.row.level for result in self.rows} - {0})
        found: dict[str, tuple[float, ...]] = {}
        for arm in self.arms:
            rows = [one for one in self.rows if one.row.arm == arm]
            own = {level: [one.values["density"] for one in rows if one.row.level == level] for level in levels}
            means = {level: mean(each) for level, each in own.items() if each}
            if any(f"{each:.1%}" != f"{mean(self.densities(level)):.1%}" for level, each in means.items()):
                found[arm] = tuple(means.values())
        return found

    def accuracies(self, level: int) -> list[float]:
        """Those that the verdict is about, of all rows of a level."""
        return [result.values[self.accuracy] for result in self.rows if result.row.level == level]

    @cached_property
    def criteria(self) -> Criteria:
        """The experiment's own margins, in steps and fractions.

        Where replicates are added until it is decided, ways that have controls of their own share the error with the
        ticket's, so that all that is said holds together.
        """
        known = criteria(self.plan)
        if not known.looks:
            return known
        return replace(known, confidence=1 - (1 - known.confidence) / (1 + len(self._others)))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on the ticket arm at each rewind step and level."""
        others = {arm for way, controls in self.families.items() if way != "ticket" for arm in controls}
        return judge(self._trials_of(lambda arm: arm not in others), self.criteria)

    @cached_property
    def other_verdicts(self) -> dict[str, list[Verdict]]:
        """By arm, the verdicts on other ways to a ticket that have controls of their own."""
        return {way: judge(self._trials_near(way), self.criteria, way) for way in self._others}

    @property
    def _others(self) -> list[str]:
        return [way for way, controls in self.families.items() if way != "ticket" and controls]

    def _trials_near(self, way: str) -> list[Trial]:
        """Of a way, its controls and the dense network."""
        near = ("dense", way, *self.families[way])
        return self._trials_of(lambda arm: arm in near)

    def _trials_of(self, chosen: Callable[[str], bool]) -> list[Trial]:
        return [_trial(result, self.accuracy) for result in self.rows if chosen(result.row.arm)]

    @cached_property
    def standings(self) -> list[Standing]:
        """How far each question is, where replicates are added until it is decided."""
        if not self.criteria.looks or not self.rows:
            return []
        others = {arm for way in self._others for arm in self.families[way]}
        found = standings(self._trials_of(lambda arm: arm not in others), self.criteria)
        for way in self._others:
            about = standings(self._trials_near(way), self.criteria, way)
            found += [each for each in about if each.place.against in self.families[way]]
        return found

    @cached_property
    def sentences(self) -> list[str]:
        """The verdicts in plain sentences, with what they are about and what they lack."""
        count, whole = len(self.rows), len(self.plan.rows)
        partial = f"{count} of {whole} trainings are finished; what follows is about these."
        near = any(verdict.dense.accuracy.n > 1 and verdict.verdict != "not learned" for verdict in self.verdicts)
        close = self.made_by_several(near) or (_LAST_BITS if near else "")
        return [
            *([partial] if count < whole else []),
            *(self._on_the_ticket if self.experiment.spec.levels else [_NO_LEVEL]),
            *self._on_others,
            *(needed(self.standings, self.verdicts, self.criteria.looks) if self.criteria.looks else []),
            *([_ADDED] if self.added else []),
            *self.front,
            *self.found,
            *([close] if close else []),
            *_failures(self.plan, self.store),
            *self.unanswered,
        ]

    @property
    def added(self) -> bool:
        """Whether replicates were added until it was decided, and the experiment as it is asked for is not."""
        spec = self.experiment.spec
        fixed = spec.looks is None and spec.replicates > FIRST
        return fixed and bool(self.plan.rows) and self.plan.rows[0].run.key in self.store.until()

    @property
    def _on_the_ticket(self) -> list[str]:
        return sentences(self.verdicts, self.criteria, self.families["ticket"])

    @property
    def _on_others(self) -> list[str]:
        """What the controls of the other ways' tickets show."""
        verdicts, families = self.other_verdicts, self.families
        return [line for way in verdicts for line in of_another(way, verdicts[way], self.criteria, families[way])]

    @property
    def found(self) -> list[str]:
        """What methods say of how they found their masks, arm by arm."""
        spec, members = self.experiment.spec, self.experiment.members
        said: list[str] = []
        for name in self.searches:
            says = members.arm(name, spec).method.says
            own = [result for result in self.rows if result.row.arm == name and result.row.run.mask]
            if says and own:
                said += (f"{name}: {each}" for each in says([self._found(result) for result in own]))
        return said

    def _found(self, result: Result) -> Found:
        run = result.row.run
        assert run.mask
        cut = self.store.values(run.start) if isinstance(run.start, Cut) else {}
        return Found(result.row.level, result.values["density"], {**self.store.values(run.mask), **cut})

    @cached_property
    def findings(self) -> list[Finding]:
        """All that the finished answers allow to say, study by study.

        Raises:
            BadInput: a study's finding says that it is of another one.
        """
        spec, store, done = self.experiment.spec, self.store, frozenset(self.store.keys())
        answers = [
            Answer(question, store.values(question.density_of)["density"], store.values(question.run))
            for question in self.plan.questions
            if question.run.key in done and question.density_of.key in done
        ]
        findings: list[Finding] = []
        for study, table in asked(spec.study, self.experiment.members.studies):
            own = [answer for answer in answers if answer.question.study == study.name]
            evidence = Evidence(spec, self.plan.rows, own, store, _confidence(spec), done)
            findings += (_own(finding, study.name) for finding in study.findings(table, evidence))
        return findings

    @cached_property
    def unanswered(self) -> list[str]:
        """What the studies lack, in a sentence: what is left out may be what would have spoken against the rest."""
        done, failed, asked = self.store.keys(), self.store.failed(), self.plan.questions
        missing = [question for question in asked if question.run.key not in done]
        if not missing:
            return []
        lost = [one for one in missing if failed & {one.run.key, *(each.key for each in one.run.inputs)}]
        why = f", {len(lost)} of them because a run failed" if lost else ""
        count = f"{len(missing)} of {len(asked)}"
        return [f"{count} measurements of the studies are not there{why}; what the studies say is about the others."]

    def made_by_several(self, verdict: bool = False) -> str:
        """A sentence where several measurements of the engine or several processors made the trainings, else nothing.

        Args:
            verdict: whether the sentence adds what that means for a verdict.
        """
        processors = {how.get("gpu") or how["processor"] for row in self.rows if (how := row.how).get("processor")}
        measurements = {row.how["measurement"]["id"] for row in self.rows if "measurement" in row.how}
        counts = {"measurements of the engine": len(measurements), "processors": len(processors)}
        several = " and ".join(f"{count} {what}" for what, count in counts.items() if count > 1)
        if not several:
            return ""
        return (
            f"These trainings were made by {several}: the same training made by another one may end with other last "
            f"digits, and now and then with another early stop"
            f"{f', so {_NEAR} may come out otherwise' if verdict else ''}."
        )


def results(plan: Plan, store: Store) -> Results:
    """The results of a plan, as far as the store has them.

    Where replicates are added until it is decided they are those of the last look: a replicate that is under way is
    left out.
    """
    if looks := plan.experiment.spec.looks:
        plan = of_first(plan, max(looks.first, complete(plan, store)))
    done = store.keys()
    asked = (key for each in plan.questions for key in (each.run.key, each.density_of.key))
    store.ahead(done.intersection(asked) | done.intersection(row.run.key for row in plan.rows))
    rows = [Result(row, store.values(row.run), store.provenance(row.run)) for row in plan.rows if row.run.key in done]
    return Results(plan, store, rows)


def of_tickets(rows: Sequence[Result]) -> Sequence[Result]:
    """Those of the rows that are tickets or the dense networks; all of them where none is."""
    return [result for result in rows if result.row.arm in ("dense", "ticket")] or rows


def arms_of(rows: Sequence[Result]) -> list[str]:
    """The arms that have rows beside the dense one, in the plan's order; the dense one where there is no other."""
    return list(dict.fromkeys(result.row.arm for result in rows if result.row.arm != "dense")) or ["dense"]


def criteria(plan: Plan) -> Criteria:
    """The experiment's own margins, in steps and fractions."""
    spec = plan.experiment.spec
    every = spec.iterations(spec.evaluate.every)
    return Criteria(
        accuracy_margin=spec.verdict.accuracy_margin,
        step_margin=spec.iterations(spec.verdict.step_margin) if spec.verdict.step_margin else every,
        confidence=spec.verdict.confidence,
        accuracy_grain=spec.facts.grain(spec.facts.test),
        step_grain=every,
        isolated=plan.experiment.members.arm("ticket", spec).rewinds,
        paced=spec.verdict.at == "early-stop",
        metric=R2 if spec.facts.measure == "R2" else RIGHT,
        chance=spec.facts.chance,
        looks=spec.looks,
    )


def _confidence(spec: Spec) -> float:
    """Of each interval of a study: where replicates are added, so much that it holds at all looks together."""
    confidence = spec.verdict.confidence
    return 1 - spec.looks.nominal(1 - confidence) if spec.looks else confidence


_ADDED = (
    "Replicates of this experiment were added until it was decided, and intervals of a number fixed beforehand, as "
    "these are, are too narrow for that: --until decided has those that hold."
)


_NO_LEVEL = "No verdict: the spec has no level of pruning (levels = 0), so there is no ticket to judge."
_NEAR = "a verdict whose interval ends near its margin"
_LAST_BITS = (
    "Another machine or engine rounds the last bits otherwise and makes other trainings of the same seeds: "
    f"{_NEAR} may come out otherwise there."
)


def _record(result: Result, cost: Cost, experiment: str) -> dict[str, Any]:
    row = result.row
    return {
        "experiment": experiment,
        "arm": row.arm,
        "replicate": row.replicate,
        "level": row.level,
        "rewind": row.rewind,
        "draw": row.draw,
        **cost.record,
        "seconds": round(result.seconds, 3),
        "key": row.run.key,
        **{name: result.values[name] for name in COLUMNS if name in result.values},
    }


def _own(finding: Finding, study: str) -> Finding:
    """`finding`, if it says that it is of `study`, by which pages and figures find it."""
    named = getattr(finding, "study", None)
    if named != study:
        raise BadInput(
            where=f"study {study}",
            expected=f"findings of its own, whose class has study = {study!r}",
            found=f"{type(finding).__name__}, with {named!r}",
            todo="A finding is named after the study that finds it.",
        )
    return finding


def _failures(plan: Plan, store: Store) -> list[str]:
    """What the comparisons lack because it failed: an arm that diverges at times is not judged in silence."""
    failed = store.failed() - store.keys()
    arms = Counter(row.arm for row in plan.rows if row.run.key in failed)
    listed = ", ".join(f"{count} of {arm}" for arm, count in arms.items())
    return [f"{arms.total()} trainings failed and are left out of every comparison: {listed}."] if arms else []


def _trial(result: Result, accuracy: str) -> Trial:
    row, values = result.row, result.values
    step, curve = values["early_stop_step"], values["curve"]
    return Trial(
        arm=row.arm,
        replicate=row.replicate,
        level=row.level,
        density=values["density"],
        step=step,
        accuracy=values[accuracy],
        censored=step == row.run.until,
        rewind=row.rewind,
        first=step == row.run.begin,
        smoothed=smoothed_early_stop(curve["step"], curve["validation_loss"]),
        before=curve["test_accuracy"][0] if curve["test_step"][0] == 0 else None,
    )
