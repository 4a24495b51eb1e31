"""Verdicts, contrasts and criteria as JSON values, for programs."""

from dataclasses import asdict
from typing import Any

from tombola.study.smoothed import LOOKS, NAME
from tombola.study.verdict import Contrast, Criteria, Metric, Verdict


def criteria_record(criteria: Criteria) -> dict[str, Any]:
    """Criteria as JSON values."""
    return {name: value for name, value in asdict(criteria).items() if name != "looks" or value}


def contrast_record(contrast: Contrast, metric: Metric) -> dict[str, Any]:
    """A contrast as JSON values, the metric under its own name."""
    content = asdict(contrast)
    del content["gaps"]
    _drop_sure(content)
    content[metric.name] = content.pop("accuracy")
    return content


def record(verdict: Verdict, metric: Metric) -> dict[str, Any]:
    """A verdict as JSON values: the metric under its own name, and each result with the correction that it has."""
    content = asdict(verdict)
    for comparison in (content["dense"], *content["controls"]):
        _drop_sure(comparison)
        second = comparison.pop("second")
        comparison["second_reading"] = {"name": NAME, "evaluations": LOOKS, **second} if second else None
        together = "looks, Holm" if "sure" in comparison else "Holm"
        corrected = ("result_holm", "earlier_holm", "same_holm")
        comparison["correction"] = {"result": "none", **dict.fromkeys(corrected, together)}
        if "sure" in comparison:
            comparison["correction"]["result"] = together
        if comparison["result_holm"] is None:
            for name in corrected:
                del comparison[name], comparison["correction"][name]
        for each in (comparison, *comparison["pairs"]):
            each[metric.name] = each.pop("accuracy")
    return content


def _drop_sure(content: dict[str, Any]) -> None:
    """Leave the confidences out where all are that of the criteria."""
    if content["sure"] is None:
        del content["sure"]
