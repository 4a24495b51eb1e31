"""The page of a network that reads texts: words in place of tokens, what a unit reads, and where it is excited."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tombola import models, prunable, weights
from tombola.data import Dataset
from tombola.data.facts import Facts
from tombola.explorer import experiment, page
from tombola.explorer.coding import Blobs
from tombola.explorer.filling import Line, Look, fill
from tombola.explorer.record import Level, Page
from tombola.explorer.shown import Shown
from tombola.study.units import excitement, reading

LENGTH, WORDS = 40, tuple("abcdefg \n<>")
NAMES = ("blocks.0.attention.value.weight", "blocks.0.expand.weight")
FACTS = Facts("play", (LENGTH, len(WORDS)), len(WORDS), train=1, validation=0, test=30)


def drawn_model() -> Any:
    model = models.build("gpt-1-8-h2", FACTS.shape, len(WORDS), "normal-0.02", 0).eval()
    draw = torch.Generator().manual_seed(0)
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=draw)
    return model


def texts() -> Dataset:
    tokens = torch.randint(len(WORDS), (31, LENGTH), generator=torch.Generator().manual_seed(1))
    return Dataset(FACTS, tokens[:1], tokens[:1], tokens[1:], tokens[1:])


def page_of_texts(words: Sequence[str] = WORDS) -> Page:
    model, blobs = drawn_model(), Blobs(10**6)
    shown = Shown(blobs)
    alive = prunable.full(model)
    place, inputs = shown.of(texts())
    network = experiment._network(model, alive)
    names = [layer.name for layer in network.layers]
    look = Look(Level(0, 1.0, alive.alive, {}), lambda: alive, lambda: weights.of(model))
    line = Line("ticket", 0, [look], partial(experiment._answers, model, FACTS.shape, inputs), place)
    series, _ = fill([line], network, blobs)
    seen = excitement(model, names, inputs)
    return Page(
        title="a play",
        about="",
        shape=FACTS.shape,
        chained=False,
        layers=network.layers,
        columns={},
        series=tuple(series),
        parts=tuple(blobs.parts),
        examples=tuple(shown.sets),
        excited=tuple(n for n, name in enumerate(names) if name in seen),
        words=tuple(words),
    )


def written(path: Path, made: Page) -> str:
    path.write_text(page.text(made), encoding="utf-8")
    return path.as_uri()


def test_a_unit_shows_the_characters_that_it_reads_and_where_it_is_excited(browser: Any, tmp_path: Path) -> None:
    address, model, dataset = written(tmp_path / "play.html", page_of_texts()), drawn_model(), texts()
    tab = browser.new_page()
    tab.goto(f"{address}#unit=blocks.0.attention.value.3")
    tab.locator("body[data-shown]:not([data-busy])").wait_for(state="attached")
    own = reading(model, [NAMES[0]], len(WORDS), LENGTH)[NAMES[0]]
    told = {"\n": "⏎"}
    expected = [(told.get(WORDS[t], WORDS[t]), v) for t, v in zip(own.tokens[3], own.values[3].tolist(), strict=True)]
    found = tab.locator(".word").evaluate_all("all => all.map((each) => each.textContent)")
    assert [each.rpartition(" ")[0] for each in found] == [word for word, _ in expected]
    for each, (_, value) in zip(found, expected, strict=True):
        assert abs(float(each.rpartition(" ")[2]) - value) <= 0.06 * abs(value)

    tab.goto(f"{address}#unit=blocks.0.expand.5")  # reads what attention has joined
    tab.locator("body[data-shown$='expand.5']").wait_for(state="attached")
    assert tab.locator(".word").count() == 0
    excited = excitement(model, [NAMES[1]], dataset.test_images[np.arange(30)])[NAMES[1]]
    lines = tab.locator("#unit-parts .pictures .text")
    for n, (example, spot) in enumerate(zip(excited.examples[5].tolist(), excited.spots[5].tolist(), strict=True)):
        written_out = "".join(WORDS[token] for token in dataset.test_images[example].tolist())
        near = written_out[max(0, spot - 24) : spot + 25].replace("\n", "⏎")
        line = lines.nth(n).evaluate("each => each.textContent")
        mark = lines.nth(n).locator("mark").evaluate("each => each.textContent")
        assert mark == written_out[spot].replace("\n", "⏎")
        place = min(spot, 24)
        assert near[:place] + mark + near[place + 1 :] in line
    tab.goto(f"{address}#unit=tokens.2")
    tab.locator("body[data-shown$='tokens.2']").wait_for(state="attached")
    assert tab.locator("#unit-title").inner_text() == "Unit tokens.2 (c)"
    assert "; is an output." in tab.locator("#unit-sentence").inner_text()
    tab.goto(f"{address}#unit=blocks.0.contract.0")  # its weight is the last one, and its sum is read by the output
    tab.locator("body[data-shown$='contract.0']").wait_for(state="attached")
    assert "; what it feeds is not known here." in tab.locator("#unit-sentence").inner_text()
    tab.close()


def test_whole_words_stand_apart_and_unknown_ones_as_numbers(browser: Any, tmp_path: Path) -> None:
    whole = page_of_texts([f"w{letter}" for letter in "abcdefghijk"])
    for made, form in ((whole, r"(\bw[a-k]\b ?)+"), (replace(whole, words=()), r"(\btoken \d+\b ?)+")):
        tab = browser.new_page()
        tab.goto(f"{written(tmp_path / 'words.html', made)}#unit=blocks.0.expand.5")
        tab.locator("body[data-shown]:not([data-busy])").wait_for(state="attached")
        lines = tab.locator("#unit-parts .pictures .text")
        for line in (lines.nth(0), lines.nth(8)):
            line.locator("mark").wait_for()
            assert re.fullmatch(r"-?[\d.]+: …?" + form + "…?", line.evaluate("each => each.textContent"))
        tab.close()
