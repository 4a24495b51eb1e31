"""The page of `tombola explore`, in a real browser: what it shows is what the store has, and nothing leaves it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tombola import cli, data, models, prunable, weights
from tombola.explorer import experiment, page
from tombola.lab.plan import plan
from tombola.lab.results import Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.mask import Mask
from tombola.study import paths
from tombola.ticket import Ticket

SPEC = """
about = "Small </script><script>document.title = 'taken over'</script> networks"
replicates = 2
levels = 3
arms = ["ticket", "random"]
[recipe]
model = "lenet-20-10"
data = "digits"
length = "30it"
batch = 60
optimizer = {name = "adam", lr = 5e-3}
[prune]
rate = 0.5
[evaluate]
every = "10it"
test_every = "30it"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("explored")
    (folder / "small.toml").write_text(SPEC)
    assert cli.main(["run", str(folder / "small.toml"), "--store", str(folder / "store"), "--workers", "1"]) == 0
    return results(plan(read(str(folder / "small.toml"))), Store(folder / "store"))


@pytest.fixture(scope="module")
def written(found: Results) -> Path:
    spec = str(found.store.root.parent / "small.toml")
    path = found.store.root.parent / "explorer.html"
    assert cli.main(["explore", spec, "--store", str(found.store.root), "-o", str(path)]) == 0
    return path


@pytest.fixture
def tab(browser: Any, written: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    opened = context.new_page()
    opened.errors, opened.requests = [], []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("request", lambda request: opened.requests.append(request.url))
    opened.at = lambda view="": _go(opened, written, view)
    yield opened
    assert not opened.errors
    context.close()


def _go(tab: Any, path: Path, view: str) -> None:
    tab.goto("about:blank")
    tab.goto(path.as_uri() + view)
    tab.locator("body[data-shown]:not([data-busy])").wait_for(state="attached")


def shown(tab: Any) -> str:
    tab.wait_for_timeout(20)
    tab.locator("body:not([data-busy])").wait_for(state="attached")
    return str(tab.locator("body").get_attribute("data-shown"))


def slide(tab: Any, place: int) -> None:
    tab.locator("#level").fill(str(place))
    shown(tab)


def rows(tab: Any, name: str) -> list[dict[str, str]]:
    """A table of the page, as its reader has it."""
    if tab.locator(f"#{name}").get_attribute("open") is None:
        tab.locator(f"#{name} summary").click()
    table = tab.locator(f"#{name} table")
    table.wait_for()
    head = table.locator("thead th").all_inner_texts()
    return [
        dict(zip(head, row.locator("th,td").all_inner_texts(), strict=True)) for row in table.locator("tbody tr").all()
    ]


def test_nothing_leaves_the_page_and_no_words_of_a_spec_are_executed(tab: Any, written: Path) -> None:
    tab.at()
    assert tab.title().startswith("small: lenet-20-10") and "</script>" in tab.locator(".about").inner_text()
    blocked = """() => new Promise((resolve) => {
      document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      fetch("http://127.0.0.1:9/").catch(() => 0);
    })"""
    assert tab.evaluate(blocked) == "connect-src"
    assert {url.partition("#")[0] for url in tab.requests} <= {written.as_uri(), "about:blank"}


def test_the_numbers_are_those_of_the_store(tab: Any, found: Results) -> None:
    for arm in ("ticket", "random"):
        tab.at(f"#arm={arm}&replicate=1")
        own = [row for row in found.table if row["replicate"] == 1 and row["arm"] in ("dense", arm)]
        for row, line in zip(own, rows(tab, "levels-table"), strict=True):
            assert line["level"] == str(row["level"]) and line["weights"] == f"{row['alive']:,}"
            assert line["test accuracy at the early stop"] == f"{100 * row['early_stop_test_accuracy']:.2f} %"
            assert line["early-stopping step"] == f"{row['early_stop_step']:,}"
            assert line["test accuracy at the end"] == f"{100 * row['final_test_accuracy']:.2f} %"
    verdict = found.verdicts[1]
    tab.at("#level=2")
    assert f"Verdict: {verdict.label}." in tab.locator("#sentence").inner_text()


def test_the_slider_changes_the_masks(tab: Any, found: Results) -> None:
    tab.at("#arm=ticket&replicate=0")
    pictures, labels = [], []
    tickets = [one.row.run for one in found.rows if one.row.arm == "ticket" and one.row.replicate == 0]
    for place in range(4):
        slide(tab, place)
        pictures.append(tab.locator("#masks").evaluate("canvas => canvas.toDataURL()"))
        labels.append(tab.locator("#masks").get_attribute("aria-label"))
    assert len(set(pictures)) == 4
    for run, label in zip(tickets, labels[1:], strict=True):
        kept = found.store.alive(run.mask)["fc1.weight"] if run.mask else np.ones(0)
        assert f"{kept.sum():,} of 1,280 weights kept" in label


def test_an_address_restores_a_view_and_follows_what_is_chosen(tab: Any) -> None:
    tab.at("#level=2&arm=random&replicate=1&unit=fc2.7")
    assert shown(tab) == "random/1/2/fc2.7"
    slide(tab, 3)
    tab.locator("#arm").select_option("ticket")
    assert shown(tab) == "ticket/1/3/fc2.7"
    address = tab.url.partition("#")[2]
    tab.at("#" + address)
    assert shown(tab) == "ticket/1/3/fc2.7" and tab.url.partition("#")[2] == address
    tab.at("#level=99&arm=none&replicate=7&unit=fc9.1")  # a link of another experiment
    assert shown(tab).startswith("ticket/")


def test_a_unit_shows_its_weights_what_it_feeds_and_what_excites_it(tab: Any, found: Results) -> None:
    tab.at("#level=2&arm=ticket&replicate=0&unit=fc1.3")
    run = next(one.row.run for one in found.rows if (one.row.arm, one.row.replicate, one.row.level) == ("ticket", 0, 2))
    assert run.mask
    kept, trained, start = found.store.alive(run.mask), found.store.weights(run), found.store.weights(run.start)
    own = kept["fc1.weight"][3]
    sentence = tab.locator("#unit-sentence").inner_text()
    assert f"keeps {own.sum()} of its 64 weights; feeds {kept['fc2.weight'][:, 3].sum()} of the 10 units" in sentence
    listed = rows(tab, "weights-table")
    assert [row["from"] for row in listed] == [f"pixel row {j // 8}, column {j % 8}" for j in np.flatnonzero(own)]
    for name, values in (("before training", start), ("after", trained)):
        grain = float(values["fc1.weight"].abs().max()) / 127
        for row, value in zip(listed, values["fc1.weight"][3][torch.from_numpy(own)].tolist(), strict=True):
            assert abs(float(row[name]) - value) <= grain * 1.01 + 0.06 * abs(value)  # and two digits are shown
    digits, chosen = data.load("digits"), torch.randperm(597, generator=torch.Generator().manual_seed(0))[:256].sort()
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    weights.put(model, trained)
    inputs = digits.inputs(digits.test_images[chosen.values]).flatten(1)
    answers = inputs.double() @ trained["fc1.weight"][3].double() + trained["fc1.bias"][3].double()
    best = int(answers.argmax())
    label = tab.locator("#unit-parts .pictures canvas[aria-label^=example]").first.get_attribute("aria-label")
    assert label.startswith(f"example {best}, answer {int(digits.test_labels[chosen.values[best]])},")


def test_units_are_dead_that_lie_on_no_path(tab: Any, tmp_path: Path) -> None:
    model = models.build("lenet-5-4-3", (1, 2, 2), 2, "glorot-normal", 0)
    full = prunable.full(model)
    alive = {name: torch.zeros_like(each) for name, each in full.items()}
    for name, unit, given in (
        ("fc1.weight", 0, 1),
        ("fc1.weight", 1, 2),  # nothing reads it
        ("fc1.weight", 3, 0),  # what it feeds, fc2.2, feeds nobody
        ("fc2.weight", 0, 0),
        ("fc2.weight", 1, 4),  # reads fc1.4, which reads nothing
        ("fc2.weight", 2, 3),
        ("fc3.weight", 0, 0),
        ("fc3.weight", 1, 1),
        ("output.weight", 0, 0),
        ("output.weight", 1, 1),
    ):
        alive[name][unit, given] = True
    Ticket.of(model, Mask(alive), weights.of(model)).save(tmp_path / "one.safetensors")
    _go(tab, _page_of(tmp_path / "one.safetensors"), "#unit=fc1.0")
    assert "before training, red above 0" in tab.locator("#drawn").inner_text()
    begun = weights.of(model)["fc2.weight"][0, 0].item()
    assert f"fc2.0 {'-' if begun < 0 else '+'}" in tab.locator("#unit-parts").inner_text()
    lies = dict(zip(full, paths.on_a_path(list(paths.chain(Mask(alive)).values()))[1:], strict=True))
    for place, (name, own) in enumerate(lies.items()):
        tab.locator("#layer").select_option(str(place))
        shown(tab)
        assert [row["state"] for row in rows(tab, "units-table")] == ["alive" if each else "dead" for each in own], name
    told = {
        "fc1.0": "",
        "fc1.1": "nothing reads it",
        "fc1.2": "it reads nothing",
        "fc1.3": "what it feeds reaches no output",
        "fc2.1": "what it reads is dead",
        "output.1": "what it reads is dead",
    }
    for name, reason in told.items():
        _go(tab, tmp_path / "one.html", f"#unit={name}")
        sentence = tab.locator("#unit-sentence").inner_text()
        assert ("dead" in sentence) == bool(reason) and reason in sentence


def _page_of(file: Path) -> Path:
    assert cli.main(["explore", str(file)]) == 0
    return file.with_suffix(".html")


def test_a_keyboard_reaches_everything(tab: Any) -> None:
    tab.at()
    reached = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    for name in ("arm", "replicate", "level", "play", "network", "layer", "levels-table", "weights-table"):
        assert name in reached, name
    tab.locator("#level").focus()
    tab.keyboard.press("ArrowRight")
    assert shown(tab) == "ticket/0/1/"
    tab.locator("#network").focus()
    for key, unit in (("ArrowDown", "fc1.0"), ("ArrowDown", "fc1.1"), ("ArrowRight", "fc2.1"), ("ArrowUp", "fc2.0")):
        tab.keyboard.press(key)
        assert shown(tab) == f"ticket/0/1/{unit}"
    tab.keyboard.press("Escape")
    assert shown(tab) == "ticket/0/1/"


def test_a_click_chooses_the_unit_under_it(tab: Any) -> None:
    tab.at("#level=1")
    x, y = tab.evaluate("places[2].at(4)")
    tab.locator("#network").click(position={"x": x, "y": y})
    assert shown(tab) == "ticket/0/1/fc2.4"
    tab.locator("#unit-parts .units button").first.click()
    assert shown(tab).startswith("ticket/0/1/fc1.")


def test_each_drawing_has_words_and_each_table_heads(tab: Any) -> None:
    tab.at("#level=2&unit=fc2.1")
    for drawing in tab.locator("canvas, svg").all():
        assert (drawing.get_attribute("aria-label") or "").strip(), drawing.evaluate("each => each.outerHTML")
        assert drawing.get_attribute("role") in ("img", "application")
    for name in ("levels-table", "layers-table", "units-table", "weights-table"):
        assert rows(tab, name)
        assert tab.locator(f"#{name} caption").count() == 1
        assert tab.locator(f"#{name} th:not([scope])").count() == 0
    assert tab.locator("#sentence").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [390, 760, 1280])
def test_nothing_stands_beside_a_narrow_screen(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 844})
    tab.at("#level=2&unit=fc2.1")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_what_has_no_room_is_left_out_and_named(found: Results) -> None:
    whole = experiment.page(found, data.load)
    for share in (0.8, 0.3, 0.05):
        room = int(share * sum(map(len, whole.parts)))
        small = experiment.page(found, data.load, room=room)
        assert sum(map(len, small.parts)) <= room
        lacking = [level for series in small.series for level in series.levels if level.trained is None]
        assert bool(lacking) or len(small.series) < len(whole.series)
        assert any("stays small" in note for note in small.notes)
        json.loads(json.dumps(small.record))
    assert not any("stays small" in note for note in whole.notes)


def test_a_page_without_examples_says_so(found: Results) -> None:
    made = experiment.page(found, lambda name: None)
    assert not made.examples and any("examples" in note for note in made.notes)
    assert "@@" not in page.text(made)


@pytest.mark.parametrize(
    ("name", "first", "column"),
    [("moons-circles", "input 0", "test accuracy"), ("table:diabetes@progression+noise-2~1", "age", "test R2")],
)
def test_a_network_on_vectors_has_a_page(name: str, first: str, column: str, browser: Any, tmp_path: Path) -> None:
    spec, store, path = tmp_path / "vectors.toml", tmp_path / "store", tmp_path / "page.html"
    changed = SPEC.replace('"digits"', f'"{name}"').replace("replicates = 2", "replicates = 1")
    spec.write_text(changed.replace("levels = 3", "levels = 1"))
    assert cli.main(["run", str(spec), "--store", str(store), "--workers", "1"]) == 0
    assert cli.main(["explore", str(spec), "--store", str(store), "-o", str(path)]) == 0
    tab, errors = browser.new_page(), list[str]()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    _go(tab, path, "#level=1&unit=fc1.3")
    assert shown(tab) == "ticket/0/1/fc1.3" and not errors
    assert tab.locator("#unit-parts .pictures .text").count() == 9
    _go(tab, path, "#level=0&unit=fc1.3")
    assert (first in tab.locator("#unit-parts .units").first.inner_text()) == (first == "age"), "what it sees"
    for table in ("levels-table", "weights-table"):
        tab.locator(f"#{table} summary").click()
    assert rows(tab, "weights-table")[0]["from"] == first
    (accuracy,) = [text for head, text in rows(tab, "levels-table")[0].items() if head.startswith(column)][:1]
    assert accuracy.endswith("%")
    tab.close()
