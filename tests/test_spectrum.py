"""Which frequencies are learned when: the amplitudes, the data of sinusoids, and the study."""

from math import pi
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola import data, models
from tombola.data import sinusoids, slow_sinusoids
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Watched
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies.spectrum import SpectrumFinding, figures
from tombola.lab.worker import Worker
from tombola.study.spectrum import amplitudes, compared, heard, learned, sentence, shares

SMALL = ["recipe.model=lenet-16-16", "recipe.length=60it", "replicates=2", "levels=2", "evaluate.every=20it"]
ASKED = ["evaluate.test_every=20it", "study.spectrum={levels=[1,2],every='20it',arms=['ticket','random']}"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6, unique=True), st.integers(0, 1000))
def test_the_amplitudes_of_a_sum_of_sinusoids_are_those_that_it_was_made_of(frequencies: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed)
    sizes, phases = drawn.uniform(0.5, 2, len(frequencies)), drawn.uniform(0, 2 * pi, len(frequencies))
    z = drawn.permutation(np.linspace(0, 1, 130))
    values = 3 + sum(a * np.cos(2 * pi * k * z + p) for a, k, p in zip(sizes, frequencies, phases, strict=True))
    found = amplitudes(torch.tensor(z), torch.tensor(values), frequencies)
    assert np.allclose(found.numpy(), sizes * np.exp(1j * phases), atol=1e-8)


def test_on_an_even_grid_the_amplitudes_are_those_of_the_discrete_fourier_transform() -> None:
    z, values = torch.arange(64).double() / 64, torch.randn(64, generator=torch.Generator().manual_seed(0)).double()
    wanted = 2 * np.fft.rfft(values.numpy())[1:20] / 64
    assert np.allclose(amplitudes(z, values, range(1, 20)).numpy(), wanted)


def test_a_share_is_1_where_a_frequency_is_there_and_less_where_it_is_out_of_phase() -> None:
    z = torch.linspace(0, 1, 100)
    labels = torch.sin(2 * pi * 3 * z) + 2 * torch.cos(2 * pi * 7 * z)
    answers = 0.5 * torch.sin(2 * pi * 3 * z) + 2 * torch.sin(2 * pi * 7 * z) + torch.sin(2 * pi * 11 * z)
    assert shares(z, answers, labels, [3, 7]) == pytest.approx([0.5, 0], abs=1e-5)
    assert shares(z, labels, labels, [3, 7]) == pytest.approx([1, 1])


@pytest.mark.parametrize("module", [sinusoids, slow_sinusoids])
def test_the_data_are_the_sinusoids_that_they_are_said_to_be(module: Any) -> None:
    found = data.load(module.FACTS.name)
    z = torch.cat([found.images, found.test_images])[:, 0] / 12**0.5 + 0.5
    labels = torch.cat([found.labels, found.test_labels])
    points = (z - z.min()) / (z.max() - z.min())
    assert heard(points, labels) == module.FREQUENCIES
    sizes = amplitudes(points, labels, module.FREQUENCIES).abs()
    assert torch.allclose(sizes, sizes.mean(), rtol=1e-3), "all amplitudes are alike"
    assert found.images.dtype == found.labels.dtype == torch.float32
    assert abs(float(found.images.mean())) < 1e-5 and float(found.labels.std(unbiased=False)) == pytest.approx(1)
    ends = found.images.min(), found.images.max()
    assert ends[0] < found.test_images.min() and found.test_images.max() < ends[1], "none lies beyond what is seen"


def test_a_frequency_that_is_never_learned_has_no_step_and_is_counted_apart() -> None:
    assert learned([0, 5, 10], [[0.1, 0.2], [0.9, 0.89], [0.5, 0.89]], [1, 2]) == {1: 5, 2: None}
    steps: Any = {
        "ticket": {0: {5: 10, 6: None, 7: 40}, 1: {5: 10, 6: None, 7: 40}},
        "random": {0: {5: 20, 6: 30, 7: None}, 1: {5: 20, 6: 30, 7: None}},
    }
    ticket, random = compared(steps, 0.95, every=1)
    assert (ticket.learned, ticket.asked, ticket.times) == (4, 6, None)
    assert random.times and random.times.mean == pytest.approx(0.5)
    assert (random.alone, random.behind, random.verdict) == (2, 2, "undecided")


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [
        ([10, 11], [30, 31], "sooner"),
        ([30, 31], [10, 11], "later"),
        ([10, 30], [30, 10], "undecided"),
        ([10, None], [30, 31], "undecided"),
        ([None, None], [10, 11], "undecided"),
    ],
)
def test_sooner_and_later_need_an_interval_and_no_frequency_against_it(
    own: list[int | None], others: list[int | None], verdict: str
) -> None:
    steps: Any = {
        "ticket": {n: {5: one} for n, one in enumerate(own)},
        "dense": {n: {5: one} for n, one in enumerate(others)},
    }
    arms = compared(steps, 0.95, every=1)
    assert arms[1].verdict == verdict
    said = sentence(0.2, [5], arms, 2)
    assert {"sooner": "sooner than dense", "later": "later than dense"}.get(verdict, "neither sooner nor later") in said


def test_the_study_watches_each_training_and_says_what_came(tmp_path: Path) -> None:
    wanted = plan(read("spectrum-quick", [*SMALL, *ASKED]))
    worker = Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    rows = {(row.arm, row.level, row.replicate): row.run for row in wanted.rows}
    assert {(one.arm, one.level) for one in wanted.questions} == {
        ("dense", 0), *((arm, level) for arm in ("ticket", "random") for level in (1, 2))
    }  # fmt: skip
    found = worker.dataset("slow-sinusoids")
    for question in wanted.questions:
        assert isinstance(question.run, Watched)
        values = worker.store.values(question.run)
        assert values["step"] == [0, 20, 40, 60]
        own = rows.get((question.arm, question.level, question.replicate))
        if own:
            model = models.build("lenet-16-16", (1,), 1, "kaiming-normal", init_seed=0)
            model.load_state_dict({**worker.store.weights(own)})
            inputs, labels = (
                torch.cat(each) for each in ((found.images, found.test_images), (found.labels, found.test_labels))
            )
            z = (inputs[:, 0] - inputs.min()) / (inputs.max() - inputs.min())
            with torch.no_grad():
                wanted_shares = shares(z, model(inputs)[:, 0], labels, slow_sinusoids.FREQUENCIES)
            assert values["measured"][-1]["shares"] == pytest.approx(wanted_shares, abs=1e-4)
    said = [one for one in results(wanted, worker.store).findings if isinstance(one, SpectrumFinding)]
    assert [one.level for one in said] == [1, 2]
    assert said[0].fast == (5, 6, 8, 10) and set(said[0].course) == {"ticket", "random", "dense"}
    assert said[0].sentence.startswith("At 80.2%, of the fast half of the frequencies (k = 5, 6, 8, 10) ")
    for figure in figures(said, BUILT_IN.marks(wanted.experiment.spec)).values():
        alt.Chart.from_dict(figure.spec, validate=True)


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("digits-lenet", ["study.spectrum.levels=1"], "inputs are one number.*found digits.*slow-sinusoids"),
        ("spectrum-quick", ["study.spectrum.frequencies=5,5"], "each frequency once"),
        ("spectrum-quick", ["study.spectrum.arms=random"], "the ticket among them"),
        ("spectrum-quick", ["study.spectrum.every=0it"], "at least one step"),
    ],
)
def test_what_it_cannot_answer_is_refused(preset: str, changes: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(preset, changes)
