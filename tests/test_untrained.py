"""The study untrained: its accuracies are those of the masks on the weights that trainings start from."""

from pathlib import Path
from statistics import mean

import pytest

from tombola import data, mask, models, weights
from tombola.cli import main
from tombola.errors import SpecError
from tombola.evaluate import evaluate
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.untrained import UntrainedFinding

SPEC = """
replicates = 2
levels = 2
arms = ["ticket", "constant", "random"]
randoms = 2
engine = "reference"
device = "cpu"
[recipe]
model = "lenet-20-10"
data = "digits"
length = "40it"
batch = 60
optimizer = {name = "adam", lr = 1e-2}
[prune]
rate = 0.5
score = "large-final-same-sign"
[evaluate]
every = "20it"
test_every = "20it"
[study.untrained]
levels = [1, 2]
arms = ["ticket", "constant", "random"]
"""


def test_an_untrained_network_is_the_mask_on_the_weights_that_its_training_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(SPEC)
    assert main(["run", str(tmp_path / "mine.toml"), "--store", str(tmp_path / "store"), "--workers", "1"]) == 0
    wanted, store = plan(read(str(tmp_path / "mine.toml"), [])), Store(tmp_path / "store").open()
    found = [each for each in results(wanted, store).findings if isinstance(each, UntrainedFinding)]
    assert [finding.level for finding in found] == [1, 2]
    dataset = data.load("digits")
    for finding in found:
        for arm in finding.arms:
            seen: dict[int, list[float]] = {}
            for row in wanted.rows:
                if (row.arm, row.level) == (arm.arm, finding.level):
                    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
                    assert row.run.mask is not None
                    weights.put(model, mask.apply(store.weights(row.run.start), store.mask(row.run.mask)))
                    seen.setdefault(row.replicate, []).append(
                        evaluate(model, dataset, dataset.test_images, dataset.test_labels).accuracy
                    )
            assert arm.accuracy.n == 2 and arm.accuracy.mean == pytest.approx(mean(mean(own) for own in seen.values()))
    assert "before any step is taken" in capsys.readouterr().out


def test_what_the_table_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SPEC)
    changes = ['study.untrained={levels=[3], arms=["ticket", "reinit"]}']
    with pytest.raises(SpecError) as caught:
        read(str(tmp_path / "mine.toml"), changes)
    assert {fault.path for fault in caught.value.faults} == {"study.untrained.levels", "study.untrained.arms"}


def test_masks_that_moved_are_asked_about_once_they_are_trained_from_early_weights() -> None:
    """A study is about what tickets begin with, whatever has found their masks."""
    changes = ["method=rigl", "study.untrained.levels=1", "levels=1", "arms=ticket"]
    with pytest.raises(SpecError, match="a method that rewinds to early weights"):
        read("digits-lenet", changes)
    assert read("digits-lenet", [*changes, "search.retrain=true"]).spec.search.apart
