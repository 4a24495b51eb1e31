"""What studies have in common that cannot be: levels that are not there, too much to measure."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tombola.errors import Fault
from tombola.lab.fields import MOST
from tombola.lab.studies.study import Setting


def levels(study: str, given: Sequence[int], setting: Setting, least: int, of_trained: bool = False) -> Iterator[Fault]:
    """Levels that the experiment does not have, or that are no tickets.

    Args:
        study: its name.
        given: the levels that it is asked at.
        setting: the experiment.
        least: the first level that it can be asked at: 0 where it is about the dense network too, else 1.
        of_trained: whether it asks something of methods, too, that never go back to early weights.
    """
    most = setting.spec.levels
    if most < least:
        yield Fault(f"study.{study}", "a spec with levels >= 1, as it is about tickets", f"levels = {most}")
        return
    for level in given:
        if not least <= level <= most:
            yield Fault(f"study.{study}.levels", f"levels from {least} to {most}, the spec's", str(level))
    yield from repeated(f"study.{study}.levels", "level", given)
    if not setting.rewinds and not of_trained:
        yield Fault(
            f"study.{study}", "a method that rewinds to early weights", repr(setting.method.name), "or no study"
        )


def arms(study: str, given: Sequence[str], setting: Setting) -> Iterator[Fault]:
    """Arms that the spec does not have, or that are named twice.

    Args:
        study: its name.
        given: the arms whose networks it is asked of.
        setting: the experiment.
    """
    yield from repeated(f"study.{study}.arms", "arm", given)
    for arm in given:
        if arm not in setting.spec.arms:
            yield Fault(f"study.{study}.arms", f"arms of the spec ({', '.join(setting.spec.arms)})", repr(arm))


def beside_ticket(study: str, given: Sequence[str], setting: Setting) -> Iterator[Fault]:
    """Arms that are neither the ticket nor one of its controls, or are named twice, or leave out the ticket.

    Args:
        study: its name.
        given: the arms whose networks it is asked of; controls may be others than the spec's.
    """
    yield from repeated(f"study.{study}.arms", "arm", given)
    for place, arm in enumerate(given):
        if arm not in (known := ("ticket", *setting.controls)):
            yield Fault(f"study.{study}.arms.{place}", f"one of {', '.join(known)}", repr(arm))
    if "ticket" not in given:
        yield Fault(f"study.{study}.arms", "the ticket among them, beside which the others are", ", ".join(given))


def orders(study: str, orders: int, networks: int, setting: Setting) -> Iterator[Fault]:
    """More pairs of data orders than anybody could measure.

    Args:
        study: its name.
        orders: in which each network is trained.
        networks: of one replicate at one rewind step.
        setting: the experiment.
    """
    asked = setting.tables * networks * (orders * (orders - 1) // 2)
    if asked > MOST:
        yield Fault(
            f"study.{study}.orders",
            f"a study of at most {MOST:,} measurements",
            f"{orders:,}, with which there are {asked:,}",
            "every two data orders are a measurement, at each level, in each replicate",
        )


def repeated(path: str, what: str, given: Sequence[str | int], unit: str = "") -> Iterator[Fault]:
    """What a list has several times: its answers would count as several, too."""
    for one, times in Counter(given).items():
        if times > 1:
            yield Fault(path, f"each {what} once", f"{one} {unit}{times} times")
