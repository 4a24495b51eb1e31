"""The studies: what else is asked of an experiment's networks. One file each, and one line in `STUDIES`.

To add one: write a file like `overlap`, which needs no run of its own, or like `stability`, and name its `STUDY` here.
"""

from tombola.lab.studies import (
    alignment,
    anatomy,
    checks,
    columns,
    components,
    connectivity,
    corruption,
    double_descent,
    ensemble,
    features,
    gradients,
    out_of_distribution,
    overlap,
    regularisation,
    robustness,
    signs,
    spectrum,
    stability,
    untrained,
)
from tombola.lab.studies.study import (
    Answer,
    Evidence,
    Finding,
    Question,
    Series,
    Setting,
    Study,
    asked,
    by_replicate,
    grouped,
    study_table,
)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        stability.STUDY,
        connectivity.STUDY,
        overlap.STUDY,
        signs.STUDY,
        untrained.STUDY,
        gradients.STUDY,
        anatomy.STUDY,
        components.STUDY,
        spectrum.STUDY,
        features.STUDY,
        regularisation.STUDY,
        double_descent.STUDY,
        alignment.STUDY,
        columns.STUDY,
        robustness.STUDY,
        ensemble.STUDY,
        corruption.STUDY,
        out_of_distribution.STUDY,
    )
}

__all__ = [
    "STUDIES",
    "Answer",
    "Evidence",
    "Finding",
    "Question",
    "Series",
    "Setting",
    "Study",
    "asked",
    "by_replicate",
    "checks",
    "grouped",
    "study_table",
]
