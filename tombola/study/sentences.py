"""What a person wants to know of verdicts, in plain sentences."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.study.sanity import Words, as_good
from tombola.study.sequential import Looks
from tombola.study.smoothed import LOOKS, NAME
from tombola.study.verdict import (
    ACCURACY,
    LOW_DENSITY,
    Comparison,
    Contrast,
    Criteria,
    Metric,
    Verdict,
    amount,
    contrasts,
    margin_of,
)
from tombola.study.written import times


def sentences(verdicts: Sequence[Verdict], criteria: Criteria, controls: Mapping[str, Control] = CONTROLS) -> list[str]:
    """Whether there are winning tickets, what each control shows, and how it was found out.

    Args:
        verdicts: all that `judge` gave, of whose levels the corrections are.
        criteria: those that it was given.
        controls: those that have words of their own; other arms are compared by name.
    """
    if not verdicts:
        return ["No level has both a ticket and a dense network yet."]
    steps = sorted({verdict.rewind for verdict in verdicts})
    made = contrasts(verdicts, criteria)
    lines = []
    for step in steps:
        here = [verdict for verdict in verdicts if verdict.rewind == step]
        which = f"Rewound to step {step:,}: " if len(steps) > 1 else ""
        of_step = [contrast for contrast in made if contrast.rewind == step]
        lines += [which + line for line in _at_one_step(here, of_step, criteria, controls)]
    if all(verdict.verdict == "not learned" for verdict in verdicts):
        return lines
    levels = len({verdict.level for verdict in verdicts})
    tried = f"{levels} level{'s' if levels > 1 else ''}" + (f" at {len(steps)} rewind steps" if len(steps) > 1 else "")
    counts = sorted({verdict.dense.accuracy.n for verdict in verdicts})
    if looks := criteria.looks:
        return [*lines, *_sequential(looks, counts, criteria)]
    if counts[-1] < 2:
        return [*lines, "One replicate decides nothing: run at least two, better five."]
    if counts[-1] == 2:
        lines.append("Two replicates give wide intervals that one more may move far: better five.")
    beyond = "below" if criteria.metric.higher_is_better else "above"
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines.append(
        f"Differences are paired over n = {n} replicates, with {criteria.confidence:.0%} Student t intervals; winning "
        f"and matching are decided level by level{_fixed(made, tried)}. "
        f"{_subject(criteria.metric)} is that at {_where(criteria)}, and holds if not more than "
        f"{margin_of(criteria)} {beyond} dense."
    )
    return lines


def _sequential(looks: Looks, counts: Sequence[int], criteria: Criteria) -> list[str]:
    """How it was found out where replicates were added until it was decided."""
    if counts[-1] < looks.first:
        return [f"Nothing is decided before the first look, which is after {looks.first} replicates."]
    beyond = "below" if criteria.metric.higher_is_better else "above"
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    several = looks.first < looks.last
    rule = f"the looks after {looks.first} to {looks.last}" if several else f"the look after {looks.last}"
    return [
        f"Replicates were added until it was decided: differences are paired over n = {n}, and what is said of "
        f"levels and arms above holds together at {criteria.confidence:.0%} over {rule} replicates (Pocock's boundary "
        "as repeated Student t intervals, shared out evenly over the comparisons and corrected in each by Holm), so "
        "that intervals are wider than those of a number fixed beforehand. "
        f"{_subject(criteria.metric)} is that at {_where(criteria)}, and holds if not more than "
        f"{margin_of(criteria)} {beyond} dense."
    ]


def _fixed(made: Sequence[Contrast], tried: str) -> str:
    """What was fixed beforehand of the other arms, where there are any."""
    if not made:
        return ""
    low = any(max(contrast.densities) < LOW_DENSITY for contrast in made)
    over = f"the levels below {LOW_DENSITY:.0%}" if low else "all levels"
    return (
        f"; of another arm the mean over {over} is the contrast fixed beforehand, and single levels are corrected for "
        f"{tried} (Holm)"
    )


def _at_one_step(
    verdicts: Sequence[Verdict], made: Sequence[Contrast], criteria: Criteria, controls: Mapping[str, Control]
) -> list[str]:
    if verdicts[0].verdict == "not learned":
        return [f"No verdict: {verdicts[0].reason}."]
    against = _of_controls(verdicts, made, criteria, controls)
    return [_tickets(verdicts, criteria), *_second_reading(verdicts), *against]


def of_another(way: str, verdicts: Sequence[Verdict], criteria: Criteria, controls: Mapping[str, Control]) -> list[str]:
    """What the controls of another way's tickets show, each line with its name in front: `the ticket` is that way's.

    Args:
        way: the name of the arm that `judge` was asked about.
        verdicts, criteria, controls: as in `sentences`.
    """
    steps = sorted({verdict.rewind for verdict in verdicts if verdict.verdict != "not learned"})
    made, lines = contrasts(verdicts, criteria), []
    for step in steps:
        here = [verdict for verdict in verdicts if verdict.rewind == step]
        which = f"{way}, rewound to step {step:,}: " if len(steps) > 1 else f"{way}: "
        of_step = [contrast for contrast in made if contrast.rewind == step]
        lines += [which + line for line in _of_controls(here, of_step, criteria, controls)]
    return lines


def _of_controls(
    verdicts: Sequence[Verdict], made: Sequence[Contrast], criteria: Criteria, controls: Mapping[str, Control]
) -> list[str]:
    by_control = {contrast.against: contrast for contrast in made}
    names = dict.fromkeys(control.against for verdict in verdicts for control in verdict.controls)
    against = []
    for name in names:
        words = Words.of(name, controls.get(name))
        contrast = by_control.get(name)
        of_ticket = contrast is not None and contrast.result != "not shown"
        against.append(_against(words, contrast, criteria, _levels(name, verdicts, criteria, of_ticket)))
    return against


def _subject(metric: Metric) -> str:
    return "Accuracy" if metric == ACCURACY else f"The {metric.label}"


def _as_good(metric: Metric) -> str:
    return "as accurate" if metric == ACCURACY else "as good"


def _where(criteria: Criteria) -> str:
    return "the step of minimum validation loss" if criteria.paced else "the end of training, as long for all"


def _meanings(criteria: Criteria) -> dict[str, str]:
    """What each label of a verdict says."""
    good = _as_good(criteria.metric)
    few = ", winning takes five replicates" if criteria.isolated else ""
    return {
        "winning": f"winning ({good} as the dense network, in at most as many steps)",
        "matching, as fast": f"matching ({good}, in at most as many steps{few})",
        "matching, speed open": f"matching ({good}, speed not decided)",
        "matching, slower": f"matching ({good}, slower)",
        "matching": f"matching ({good}, trained for as many steps)",
        "losing": "losing",
        "not decided": "not decided",
    }


def _tickets(verdicts: Sequence[Verdict], criteria: Criteria) -> str:
    meanings = _meanings(criteria)
    by_label = {label: [verdict for verdict in verdicts if verdict.label == label] for label in meanings}
    words = {verdict.verdict for verdict in verdicts}
    best = next((word for word in ("winning", "matching") if word in words), None)
    opening = f"{best.capitalize()} tickets are found" if best else "No winning ticket is shown"
    if best and not criteria.isolated:
        good = _as_good(criteria.metric)
        opening = f"Sparse networks {good} as the dense one are found (from trained weights, so no tickets)"
    parts = [f"{meanings[label]} at {spans(at, verdicts)}{_more(at)}" for label, at in by_label.items() if at]
    return f"{opening}. Of the densities tried, {'; '.join(parts)}."


def _more(verdicts: Sequence[Verdict]) -> str:
    """How many more replicates would decide those that are not decided."""
    needed = sorted(verdict.more_replicates for verdict in verdicts if verdict.more_replicates is not None)
    if not needed:
        return ""
    count = f"{needed[0]}" if needed[0] == needed[-1] else f"{needed[0]} to {needed[-1]}"
    return f" (about {count} more replicate{'s' if needed[-1] > 1 else ''} would decide, by the spread found)"


def _second_reading(verdicts: Sequence[Verdict]) -> list[str]:
    """The pace by the smoothed early stop, in a sentence of its own."""
    by_pace = {
        word: [verdict for verdict in verdicts if verdict.dense.second and verdict.dense.second.pace == word]
        for word in ("as fast", "slower", "speed open")
    }
    names = {"as fast": "no later than dense", "slower": "later than dense", "speed open": "not decided"}
    parts = [f"{names[word]} at {spans(at, verdicts)}" for word, at in by_pace.items() if at]
    if not parts or verdicts[0].dense.accuracy.n < 2:
        return []
    return [
        f"Second reading, on which no word rests: the {NAME}, the minimum of the validation loss averaged over {LOOKS} "
        f"evaluations, is {'; '.join(parts)}."
    ]


def spans(levels: Sequence[Verdict], everything: Sequence[Verdict]) -> str:
    """The densities of some levels, neighbours as one span: `80.0% to 26.2%, 5.6%`."""
    order = [verdict.level for verdict in everything]
    places = [order.index(verdict.level) for verdict in levels]
    spans = []  # neighbouring levels as one span
    for _, group in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        members = [everything[place] for _, place in group]
        spans.append(_span(members[0].density, members[-1].density))
    return ", ".join(spans)


def _span(first: float, last: float) -> str:
    return f"{first:.1%}" if first == last else f"{first:.1%} to {last:.1%}"


def _against(words: Words, contrast: Contrast | None, criteria: Criteria, levels: str) -> str:
    """How the ticket compares with another arm at one rewind step: over the low densities together, then by level.

    Args:
        words: of the other arm.
        levels: what holds level by level.
    """
    claim, what, metric = words.claim, words.what, criteria.metric
    if contrast is None:
        opening = f"That {claim} stays open" if claim else f"The ticket beside {what} stays open"
        return f"{opening}: no replicate has both at every level yet{levels}."
    where = _over(contrast)
    numbers = f"{amount(contrast.accuracy, metric)}"
    if contrast.result == "not shown":
        early = f"; the ticket stops {_early(contrast)}" if contrast.earlier != "not shown" else ""
        if contrast.same:
            return as_good(words, _as_good(metric), margin_of(criteria), f"{where} ({numbers}){early}{levels}")
        same = f"no difference between the ticket and {what} is shown {where} ({numbers}){early}{levels}."
        return f"That {claim} stays open: {same}" if claim else same[0].upper() + same[1:]
    subject, form = "the ticket is", f"accurate than {what}"
    word = "more" if contrast.result == "better" else "less"
    if metric != ACCURACY:
        subject, form = f"the ticket's {metric.label} is", f"than that of {what}"
        word = "higher" if contrast.accuracy.mean > 0 else "lower"
    opening = f"{claim}: " if contrast.result == "better" else f"that {claim} is not shown by {metric.label}: "
    early = f" and stops {_early(contrast)}" if contrast.earlier != "not shown" else ""
    numbers += f", by less than {margin_of(criteria)}" if contrast.same else ""
    sentence = f"{opening if claim else ''}{subject} {word} {form} {where} ({numbers}){early}{levels}."
    return sentence[0].upper() + sentence[1:]


def _early(contrast: Contrast) -> str:
    return f"{contrast.earlier}, after {times(contrast.ratio)} the steps"


def _over(contrast: Contrast) -> str:
    if len(contrast.levels) == 1:
        return f"at {contrast.densities[0]:.1%}"
    which = f"below {LOW_DENSITY:.0%}" if contrast.densities[0] < LOW_DENSITY else "tried"
    return f"on average over the levels {which}, {_span(contrast.densities[0], contrast.densities[-1])}"


def _levels(name: str, verdicts: Sequence[Verdict], criteria: Criteria, of_ticket: bool) -> str:
    """What holds level by level, corrected: `; level by level more accurate at 5.6% to 3.6%, earlier at 3.6%`.

    Args:
        of_ticket: whether what comes before is said of the ticket, so that this need not say so again.
    """
    metric = criteria.metric
    if len(verdicts) < 2:
        return ""

    def at(holds: Callable[[Comparison], bool]) -> list[Verdict]:
        return [one for one in verdicts if any(each.against == name and holds(each) for each in one.controls)]

    better, worse, whose = "more accurate", "less accurate", "the ticket is "
    if metric != ACCURACY:
        better, worse = ("higher", "lower") if metric.higher_is_better else ("lower", "higher")
        whose = f"the ticket's {metric.label} is "
    good = {
        better: at(lambda control: control.result_holm == "better"),
        worse: at(lambda control: control.result_holm == "worse"),
        f"{_as_good(metric)} within {margin_of(criteria)}": at(
            lambda control: bool(control.same_holm) and control.result_holm == "not shown"
        ),
    }
    fast = {
        "earlier": at(lambda control: control.earlier_holm == "earlier"),
        "later": at(lambda control: control.earlier_holm == "later"),
    }
    parts = []
    for groups, subject in ((good, whose), (fast, "the ticket stops ")):
        part = ", ".join(f"{word} at {spans(levels, verdicts)}" for word, levels in groups.items() if levels)
        parts += [part if of_ticket else subject + part] if part else []
    return f"; level by level {', '.join(parts) or 'nothing is shown'}"
