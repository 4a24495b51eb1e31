"""Corruption of images: laws of every corruption, and each against another way to compute it; what it costs tickets."""

import colorsys
from io import BytesIO
from math import cos, sin
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Philox, RandomState
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from tombola import data
from tombola.errors import BadInput
from tombola.lab.attempt import do
from tombola.lab.kinds import Measured
from tombola.lab.plan import plan
from tombola.lab.results import results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies import corruption
from tombola.lab.studies.corruption import CorruptedTest, CorruptionFinding
from tombola.lab.worker import Worker
from tombola.study.corruption import CORRUPTIONS, apply, standard
from tombola.study.corruption.blur import moved, zoomed
from tombola.study.corruption.columns import COLUMN_CORRUPTIONS, apply_to_columns
from tombola.study.corruption.draws import Draws
from tombola.study.corruption.error import compared, numbers, sentence
from tombola.study.corruption.weather import plasma

CASES = [(name, channels) for name, each in CORRUPTIONS.items() for channels in (1, 3) if each.severities(channels)]
every_corruption = pytest.mark.parametrize(("name", "channels"), CASES)
DRAWS = Draws("none", 0, [0, 1, 2])
SURE = {
    "stripe",
    "inverse",
    "brightness",
    "contrast",
    "saturate",
    "quantize",
    "pixelate",
    "jpeg_compression",
    "scale",
} | {"canny_edges", "defocus_blur", "gaussian_blur", "zoom_blur"}  # nothing is drawn for these


def pictures(channels: int, count: int = 4) -> Tensor:
    """Blots of several brightnesses on black, as bytes: smooth, with edges, and with pixels that are 0."""
    side, draw = 28 if channels == 1 else 32, RandomState(channels)
    blots = ndimage.gaussian_filter(draw.standard_normal((count, channels, side, side)), (0, 0, 3, 3))
    return torch.from_numpy((255 * (blots * 8).clip(0, 1)).astype(np.uint8))


def unit(channels: int) -> Any:
    return pictures(channels, 3).numpy() / 255


@every_corruption
def test_shape_dtype_and_range_are_kept_and_something_is_changed(name: str, channels: int) -> None:
    images = pictures(channels)
    for severity in CORRUPTIONS[name].severities(channels):
        for given, most in ((images, 255), (images / 255, 1), ((images / 255).double(), 1)):
            made = apply(given, name, severity, seed=1)
            assert made.shape == given.shape and made.dtype == given.dtype
            assert made.min() >= 0 and made.max() <= most
            assert (made != given).any()


@every_corruption
def test_a_seed_makes_the_same_images_each_time_and_another_seed_others(name: str, channels: int) -> None:  # K11 K13
    images, severity = pictures(channels), CORRUPTIONS[name].severities(channels)[-1]
    first = apply(images, name, severity, seed=1)
    np.random.seed(3)
    torch.manual_seed(3)
    assert torch.equal(first, apply(images, name, severity, seed=1))
    assert torch.equal(first, apply(images, name, severity, seed=2)) == (name in SURE)


@every_corruption
def test_severity_0_is_the_identity(name: str, channels: int) -> None:
    images = pictures(channels)
    made = apply(images, name, 0, seed=1)
    assert torch.equal(made, images) and made.data_ptr() != images.data_ptr()


@every_corruption
def test_neither_the_order_nor_the_size_of_a_batch_changes_an_image(name: str, channels: int) -> None:
    images, severity = pictures(channels), CORRUPTIONS[name].severities(channels)[0]
    whole, order = apply(images, name, severity, seed=1), [2, 0, 3, 1]
    assert torch.equal(apply(images[order], name, severity, seed=1, places=order), whole[order])
    assert torch.equal(apply(images[2:3], name, severity, seed=1, places=[2]), whole[2:3])
    assert torch.equal(apply(images[:0], name, severity, seed=1), images[:0])


def test_these_are_the_benchmarks_but_for_frost() -> None:
    """The lists of the two papers."""
    grey = "shot_noise impulse_noise glass_blur motion_blur shear scale rotate brightness translate stripe fog spatter "
    assert set(standard(1)) == {*grey.split(), "dotted_line", "zigzag", "canny_edges"}
    colour = (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow fog brightness "
    )
    assert set(standard(3)) == {*colour.split(), "contrast", "elastic_transform", "pixelate", "jpeg_compression"}
    assert "frost" not in CORRUPTIONS


@pytest.mark.parametrize("side", [8, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_other_sizes_are_corrupted_too(side: int, channels: int) -> None:
    images = torch.from_numpy(RandomState(0).randint(0, 256, (2, channels, side, side), dtype=np.uint8))
    for name, each in CORRUPTIONS.items():
        for severity in each.severities(channels):
            assert apply(images, name, severity, seed=0).shape == images.shape


def noise_of(name: str, severity: int, channels: int, level: float) -> Any:
    """What a flat image of one level becomes: 200,000 numbers."""
    side = 28 if channels == 1 else 32
    flat = torch.full((200_000 // (channels * side**2), channels, side, side), level, dtype=torch.float64)
    return apply(flat, name, severity, seed=0).numpy().ravel()


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_moments_of_its_law(channels: int) -> None:
    """Within five standard errors; at levels from which nothing is cut off."""
    for name, level in {"gaussian_noise": 0.5, "speckle_noise": 0.5, "shot_noise": 0.25}.items():
        corruption = CORRUPTIONS[name]
        constant = (corruption.grey if channels == 1 else corruption.colour)[0]
        found = noise_of(name, 1, channels, level)
        of_law = {"gaussian_noise": constant, "speckle_noise": level * constant}
        deviation = of_law.get(name, (level / constant) ** 0.5)
        assert abs(found.mean() - level) < 5 * deviation / len(found) ** 0.5
        assert found.std() == pytest.approx(deviation, rel=0.02)
    struck = noise_of("impulse_noise", 4, channels, 0.5)
    share = 0.17 if channels == 1 else 0.05
    assert (struck != 0.5).mean() == pytest.approx(share, abs=0.005)
    assert (struck == 1).sum() == pytest.approx((struck == 0).sum(), rel=0.05)


@pytest.mark.parametrize("name", ["brightness", "saturate"])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_tones_are_those_of_hsv(name: str, severity: int) -> None:
    images, corruption = unit(3), CORRUPTIONS[name]
    images[0, :, :4] = images[0, :1, :4]  # grey
    made, constant = corruption.make(images, corruption.colour[severity - 1], DRAWS), corruption.colour[severity - 1]
    for image, after in zip(images, made, strict=True):
        for row, column in [(0, 0), (3, 5), (10, 20), (31, 7)]:
            h, s, v = colorsys.rgb_to_hsv(*image[:, row, column])
            if name == "brightness":
                v = min(v + constant, 1)
            else:
                s = min(max(s * constant[0] + constant[1], 0), 1)
            assert after[:, row, column] == pytest.approx(colorsys.hsv_to_rgb(h, s, v), abs=1e-12)


@pytest.mark.parametrize("name", ["shear", "rotate", "scale", "translate"])
def test_pixels_come_from_where_the_matrix_says(name: str) -> None:
    """By hand, one pixel after the other, between four; beyond the image is 0."""
    images, constant = unit(1), CORRUPTIONS[name].grey[1]
    made = CORRUPTIONS[name].make(images, constant, Draws(name, 0, [0, 1, 2]))
    for image, after, sign, by in zip(
        images, made, Draws(name, 0, [0, 1, 2]).signs(), Draws(name, 0, [0, 1, 2]).signs(2), strict=True
    ):
        angle = constant * sign
        (a, b), (c, d), shift = {
            "shear": ((1, -sin(angle)), (0, cos(angle)), (0, 0)),
            "rotate": ((cos(angle), -sin(angle)), (sin(angle), cos(angle)), (0, 0)),
            "scale": ((constant, 0), (0, constant), (0, 0)),
            "translate": ((1, 0), (0, 1), constant * by),
        }[name]
        padded = np.pad(image[0], 60)
        for row, column in [(0, 0), (5, 9), (14, 14), (27, 20)]:
            x, y = column - 13.5, row - 13.5
            left, upper = a * x + b * y + 13.5 + shift[0] + 60, c * x + d * y + 13.5 + shift[1] + 60
            i, j = int(np.floor(upper)), int(np.floor(left))
            p, q = upper - i, left - j
            between = (1 - p) * ((1 - q) * padded[i, j] + q * padded[i, j + 1])
            between += p * ((1 - q) * padded[i + 1, j] + q * padded[i + 1, j + 1])
            assert after[0, row, column] == pytest.approx(between, abs=1e-9)


def test_blurs_keep_the_light_and_spread_it() -> None:
    """Of one white pixel in the middle: all of it is still there, and as far as the kernels say."""
    point = np.zeros((3, 1, 28, 28))
    point[:, :, 14, 14] = 1
    for name in ("gaussian_blur", "defocus_blur", "motion_blur"):
        made = CORRUPTIONS[name].make(point, CORRUPTIONS[name].grey[0], DRAWS)
        assert made.sum(axis=(1, 2, 3)) == pytest.approx([1] * 3, abs=1e-3 if name == "motion_blur" else 1e-9)
        assert made.max() < 0.3
    disk = CORRUPTIONS["defocus_blur"].make(point, (3, 0.1), DRAWS)[0, 0]
    assert (disk > 1e-6).sum() == sum(x * x + y * y <= 9 for x in range(-3, 4) for y in range(-3, 4))


def test_motion_is_along_its_angle_from_the_pixel_on() -> None:
    row = np.zeros((1, 1, 9, 9))
    row[0, 0, 4, 4] = 1
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    weights /= weights.sum()
    for angle, line in ((0.0, [(4, 4 - i) for i in range(5)]), (90.0, [(4 - i, 4) for i in range(5)])):
        made = moved(row, 2, 1, np.array([angle]))[0, 0]
        expected = np.zeros((9, 9))
        for weight, place in zip(weights, line, strict=True):
            expected[place] = weight
        assert np.allclose(made, expected)
    assert np.allclose(moved(np.ones((1, 1, 9, 9)), 2, 1, np.array([33.0])), 1), "beyond the border it goes on"


def test_zoom_is_that_of_scipy_on_each_image() -> None:
    images = unit(3)
    for zoom in (1.05, 1.2, 2.25):
        cut = int(np.ceil(32 / zoom))
        top = (32 - cut) // 2
        for image, after in zip(images, zoomed(images, zoom), strict=True):
            large = ndimage.zoom(image[0, top : top + cut, top : top + cut], zoom, order=1)
            trim = (len(large) - 32) // 2
            assert np.allclose(large[trim : trim + 32, trim : trim + 32], after[0], atol=1e-6)


def test_glass_of_grey_images_only_moves_what_is_there() -> None:
    images = np.floor(unit(1) * 255) / 255
    made = CORRUPTIONS["glass_blur"].make(images, (0, 1, 2), Draws("glass_blur", 0, [0, 1, 2]))
    for before, after in zip(images, made, strict=True):
        assert np.allclose(np.sort(before, axis=None), np.sort(after, axis=None)) and (before != after).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_and_jpeg_are_those_of_pillow(channels: int) -> None:
    images = pictures(channels)
    side = images.shape[-1]
    for severity in range(1, 6):
        for name in ("pixelate", "jpeg_compression"):
            corruption = CORRUPTIONS[name]
            constant = (corruption.grey if channels == 1 else corruption.colour)[severity - 1]
            for image, after in zip(images, apply(images, name, severity, seed=0), strict=True):
                held = Image.fromarray(image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy())
                if name == "pixelate":
                    small = (int(side * constant),) * 2
                    held = held.resize(small, Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
                else:
                    file = BytesIO()
                    held.save(file, "JPEG", quality=constant)
                    held = Image.open(file)
                expected = torch.from_numpy(np.array(held)).view(side, side, channels).permute(2, 0, 1)
                # Pillow rounds rows and columns one after the other.
                assert (after.int() - expected.int()).abs().max() <= (1 if name == "pixelate" else 0)


def test_a_plasma_is_rougher_the_slower_its_steps_decay() -> None:
    smooth, rough = (plasma(32, decay, Draws("fog", 0, range(20))) for decay in (3.0, 1.4))
    for heights in (smooth, rough):
        assert heights.min() == 0 and heights.max() == 1 and heights.shape == (20, 32, 32)
    slopes = [np.abs(np.diff(heights, axis=1)).mean() for heights in (smooth, rough)]
    assert slopes[0] < slopes[1] / 2


def test_a_plasma_is_the_mean_of_four_neighbours_where_nothing_is_drawn() -> None:
    class Corner(Draws):
        def uniform(self, low: float, high: float, *shape: int) -> Any:
            noise = np.zeros((1, *shape))
            noise[0, 0] = 1.0
            return noise

    heights = plasma(4, 2.0, Corner("fog", 0, [0]))[0]
    # Corner 0, middle 1; each side is between two corners and two middles, and so on.
    assert heights[[0, 2, 0, 2], [0, 2, 2, 0]] == pytest.approx([0, 1, 0.5, 0.5])
    assert heights[1, 1] == pytest.approx(0.5) and heights[0, 1] == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)


def test_edges_are_one_pixel_wide_and_where_the_step_is() -> None:
    image = np.zeros((1, 1, 28, 28))
    image[..., 14:] = 1
    edges = CORRUPTIONS["canny_edges"].make(image, None, DRAWS)[0, 0]
    assert set(np.unique(edges)) == {0, 1} and set(np.argwhere(edges[2:-2])[:, 1]) <= {13, 14}
    assert (edges[2:-2].sum(axis=1) >= 1).all()
    assert not CORRUPTIONS["canny_edges"].make(0.05 * image, None, DRAWS).any(), "below both thresholds"


def test_lines_fall_off_with_their_distance() -> None:
    empty = np.zeros((50, 1, 28, 28))
    made = CORRUPTIONS["line"].make(empty, None, Draws("line", 0, range(50)))
    for image in made[:, 0]:
        columns = np.flatnonzero(image.any(axis=0))
        assert columns[0] <= 5 and columns[-1] >= 20 and len(columns) == columns[-1] - columns[0] + 1
        assert (image > 0).sum(axis=0).max() <= 3, "a line is seen up to 1.45 pixels away"
    dotted = CORRUPTIONS["dotted_line"].make(empty, None, Draws("dotted_line", 0, range(50)))
    assert not dotted[..., np.arange(28) % 4 < 2].any() and dotted[..., np.arange(28) % 4 >= 2].any()


@pytest.mark.parametrize(
    ("images", "name", "severity", "message"),
    [
        (torch.zeros(1, 1, 28, 28), "frost", 1, "expected one of gaussian_noise"),
        (torch.zeros(1, 1, 28, 28), "fog", 6, "a severity of 1, 2, 3, 4, 5 for grey images, or 0, found 6"),
        (torch.zeros(1, 3, 28, 28), "zigzag", 1, "There is no zigzag of coloured images"),
        (torch.zeros(1, 2, 28, 28), "fog", 1, "images, .N, 1 or 3, side, side., found .1, 2, 28, 28."),
        (torch.zeros(1, 1, 28, 20), "fog", 1, "found .1, 1, 28, 20."),
        (torch.full((1, 1, 28, 28), -0.4), "fog", 1, "Corrupt images before they are normalised"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.int64), "fog", 1, "bytes, or floats"),
    ],
)
def test_bad_images_are_refused(images: Tensor, name: str, severity: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        apply(images, name, severity, seed=0)


def test_places_are_as_many_as_images() -> None:
    with pytest.raises(BadInput, match="2 places, found 1"):
        apply(torch.zeros(2, 1, 28, 28), "fog", 1, seed=0, places=[3])


def test_draws_are_independent_of_each_other() -> None:
    first, second, other = Draws("fog", 7, [0, 1]), Draws("snow", 7, [0, 1]), Draws("fog", 8, [0, 1])
    found = [each.uniform(0, 1, 3)[place].tolist() for each in (first, second, other) for place in (0, 1)]
    assert len({tuple(each) for each in found}) == 6
    assert isinstance(RandomState(Philox(key=1)).random_sample(), float)


# What it costs

CHANGES = ["levels=2", "replicates=2", "recipe.model=lenet-20-10", "recipe.length=60it", "evaluate.every=30it"]
NAMES = "['fog','stripe','gaussian_noise']"
ASKED = f"study.corruption={{levels=[1,2],arms=['ticket','reinit'],corruptions={NAMES},severities=[1,3],examples=200}}"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Worker]:
    wanted = plan(read("digits-lenet", [*CHANGES, "arms=ticket,reinit", "rewind=6it", ASKED]))
    worker = Worker(Store(tmp_path_factory.mktemp("corruption")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return wanted, worker


def test_every_network_is_judged_once_on_the_same_images(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    assert [(one.arm, one.level) for one in wanted.questions if one.replicate == 0] == [
        ("dense", 0),
        ("ticket", 1),
        ("reinit", 1),
        ("ticket", 2),
        ("reinit", 2),
    ]
    for question in wanted.questions:
        run = question.run
        assert isinstance(run, Measured) and isinstance(run.measurement, CorruptedTest) and run.seed == 0
        assert run.measurement.corruptions == (("fog", (1, 3)), ("stripe", (1,)), ("gaussian_noise", (1, 3)))
        values = worker.store.values(run)
        assert {name: list(each) for name, each in values["corrupted"].items()} == {
            "fog": ["1", "3"],
            "stripe": ["1"],
            "gaussian_noise": ["1", "3"],
        }


def test_accuracies_are_those_of_the_images_one_can_make_oneself(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    run = wanted.questions[1].run
    training = wanted.questions[1].density_of
    from tombola import models, weights

    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0).eval()
    weights.put(model, worker.store.weights(training))
    dataset, test = (
        worker.placed(training.recipe),
        worker.test(training.recipe).sort().values[torch.linspace(0, 596, 200).round().long()],
    )
    images, labels = dataset.test_images[test], dataset.test_labels[test]
    noisy = apply(images / 16, "gaussian_noise", 3, seed=0, places=test.tolist())
    values = worker.store.values(run)
    for found, inputs in (
        (values["clean"], images),
        (values["corrupted"]["gaussian_noise"]["3"], (16 * noisy).round()),
    ):
        with torch.no_grad():
            logits = model((inputs.float() / 16 - 0.3044) / 0.3759)
        assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
        assert found["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)


def test_tickets_are_held_against_dense_networks_and_controls(done: tuple[Any, Worker]) -> None:
    wanted, worker = done
    found = [each for each in results(wanted, worker.store).findings if isinstance(each, CorruptionFinding)]
    assert [(each.level, each.arm) for each in found] == [(1, "reinit"), (1, "dense"), (2, "reinit"), (2, "dense")]
    tables = {(one.arm, one.level, one.replicate): worker.store.values(one.run) for one in wanted.questions}
    for each in found:
        assert each.other_density == (1 if each.arm == "dense" else pytest.approx(each.density))
        assert each.sentence.startswith("Rewound to step 6: Under corruption, tickets at")
        other = each.arm, 0 if each.arm == "dense" else each.level
        ours, theirs = (
            [
                1 - np.mean([np.mean([s["accuracy"] for s in c.values()]) for c in table["corrupted"].values()])
                for table in both
            ]
            for both in ([tables["ticket", each.level, n] for n in (0, 1)], [tables[(*other, n)] for n in (0, 1)])
        )
        cost = each.cost.numbers["corrupted error"]
        for mean, values in ((cost.ticket, ours), (cost.other, theirs)):
            half = stats.t.ppf(0.975, 1) * stats.sem(values)
            assert (mean.mean, mean.high - mean.mean) == pytest.approx((np.mean(values), half))
        assert cost.more.mean == pytest.approx(np.mean(np.subtract(ours, theirs)))
        clean, relative = each.cost.numbers["clean error"].more, each.cost.numbers["relative error"].more
        assert relative.mean == pytest.approx(cost.more.mean - clean.mean)


def table(clean: float, **corrupted: float) -> dict[str, Any]:
    def judged(error: float) -> dict[str, float]:
        return {"accuracy": 1 - error, "nll": 2 * error, "ece": error / 2}

    return {"clean": judged(clean), "corrupted": {name: {"1": judged(error)} for name, error in corrupted.items()}}


def test_a_mean_corruption_error_counts_each_corruption_once_however_many_severities_it_has() -> None:
    two = table(0.0, fog=0.2, line=0.8)
    two["corrupted"]["fog"]["5"] = {"accuracy": 0.6, "nll": 1.0, "ece": 0.5}
    assert numbers(two)["corrupted error"] == pytest.approx(((0.2 + 0.4) / 2 + 0.8) / 2)
    assert numbers(two)["nll"] == pytest.approx(((0.4 + 1.0) / 2 + 1.6) / 2)


@pytest.mark.parametrize(("worse", "said"), [(0.2, "lose more than dense"), (-0.2, "lose less than dense")])
def test_the_word_follows_what_corruption_costs_and_not_the_error_itself(worse: float, said: str) -> None:
    dense = {n: table(0.02 + n / 1000, fog=0.3 + n / 500, line=0.4) for n in range(4)}
    ours = {n: table(0.02 + n / 1000, fog=0.3 + worse + n / 400, line=0.4) for n in range(4)}
    assert said in sentence(0.1, "dense", 1.0, compared(ours, dense, 0.95) or pytest.fail(), 500)
    only_worse = {n: table(0.22 + n / 1000, fog=0.5 + n / 500 + n % 2 / 500, line=0.6) for n in range(4)}
    cost = compared(only_worse, dense, 0.95)
    assert cost and "are not shown to lose more or less than dense" in sentence(0.1, "dense", 1.0, cost, 500)
    assert cost.numbers["corrupted error"].more.low > 0


def test_one_replicate_decides_nothing() -> None:
    cost = compared({0: table(0.1, fog=0.4)}, {0: table(0.1, fog=0.2)}, 0.95)
    assert cost and "one replicate decides nothing" in sentence(0.1, "dense", 1.0, cost, 500)
    assert compared({0: table(0.1, fog=0.4)}, {1: table(0.1, fog=0.4)}, 0.95) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{levels=[1],arms=['reinit']}", "the ticket, which all others are held against"),
        ("{levels=[1],corruptions=['snow']}", "corruptions.0: expected one of gaussian_noise"),
        ("{levels=[1],corruptions=['fog','fog']}", "each corruption once"),
        ("{levels=[1],severities=[6]}", "a severity from 1 to 5, found 6"),
        ("{levels=[1],corruptions=['stripe'],severities=[2]}", "severities that a corruption has"),
        ("{levels=[1],examples=1000}", "at most the 597 of the test set, found 1,000"),
        ("{levels=[0]}", "levels from 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(table: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read("digits-lenet", ["arms=ticket,reinit", f"study.corruption={table}"])


def saved(folder: Path, name: str, images: Any) -> str:
    (folder / name).mkdir(exist_ok=True)
    np.save(folder / name / "test_images.npy", images)
    return f"{{levels=[1],examples=50,corruptions=['fog','stripe'],published='{folder}'}}"


@pytest.fixture
def of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were published images of the digits."""
    monkeypatch.setattr(corruption, "_not_published", lambda name, known: "")


@pytest.mark.usefixtures("of_digits")
def test_published_images_are_taken_as_they_lie_there(tmp_path: Path) -> None:
    """Those that are the test set itself cost nothing, those that are black leave every network one answer."""
    clean = data.load("digits").test_images.permute(0, 2, 3, 1).numpy()
    saved(tmp_path, "fog", clean)
    table = saved(tmp_path, "stripe", np.zeros_like(clean))
    spec = read("digits-lenet", [*CHANGES[2:], "levels=1", "replicates=1", f"study.corruption={table}"])
    wanted, worker = plan(spec), Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    for question in wanted.questions:
        values = worker.store.values(question.run)
        assert values["corrupted"]["fog"]["5"] == values["clean"]
        assert values["corrupted"]["stripe"]["1"]["accuracy"] < 0.3
    saved(tmp_path, "stripe", clean)
    corruption._digest.cache_clear()
    assert {run.key for run in plan(spec).runs} != {run.key for run in wanted.runs}, "the content is in the key"


@pytest.mark.usefixtures("of_digits")
def test_published_images_that_are_not_there_or_of_another_test_set_are_refused(tmp_path: Path) -> None:
    table = saved(tmp_path, "fog", np.zeros((597, 8, 8, 1), np.uint8))
    with pytest.raises(BadInput, match=r"the published images of stripe in .*, found no such file"):
        read("digits-lenet", [f"study.corruption={table}"])
    saved(tmp_path, "stripe", np.zeros((10, 8, 8, 1), np.uint8))
    with pytest.raises(BadInput, match=r"bytes of shape .*597, 8, 8, 1.*, found uint8 of shape .10, 8, 8, 1"):
        read("digits-lenet", [f"study.corruption={table}"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["study.corruption={levels=[1],published='mnist_c'}"], "corrupted images are published, mnist or cifar10"),
        (["recipe.data=fashion-mnist", "study.corruption={levels=[1],published='mnist_c'}"], "mnist or cifar10"),
        (["recipe.inputs=permuted", "study.corruption={levels=[1]}"], "images that are not changed otherwise"),
    ],
)
def test_images_of_other_data_and_changed_ones_are_refused(changes: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read("digits-lenet", changes)


def test_texts_are_not_corrupted() -> None:
    with pytest.raises(BadInput, match=r"study.corruption: expected images, or numbers"):
        read("gpt-shakespeare-quick", ["study.corruption={levels=[1]}"])


# Tables

ROWS = np.stack([RandomState(1).standard_normal(500), RandomState(2).exponential(size=500), np.arange(500) % 2], axis=1)
TRAINING = torch.from_numpy(ROWS).float()
every_column_corruption = pytest.mark.parametrize("name", COLUMN_CORRUPTIONS)


@every_column_corruption
def test_corrupted_numbers_are_drawn_by_seed_and_place_and_severity_0_is_the_identity(name: str) -> None:
    rows = TRAINING[:50] + 7  # of no training example
    first, order = apply_to_columns(rows, name, 3, 1, TRAINING), torch.randperm(50)
    assert first.shape == rows.shape and first.dtype == rows.dtype and not torch.equal(first, rows)
    assert torch.equal(apply_to_columns(rows, name, 3, 1, TRAINING), first)
    assert not torch.equal(apply_to_columns(rows, name, 3, 2, TRAINING), first) or name == "missing_columns"
    assert torch.equal(apply_to_columns(rows[order], name, 3, 1, TRAINING, order.tolist()), first[order])
    assert torch.equal(apply_to_columns(rows, name, 0, 1, TRAINING), rows)
    assert apply_to_columns(rows[:0], name, 1, 1, TRAINING).shape == (0, 3)


def test_missing_columns_are_the_median_and_shuffled_ones_some_training_examples() -> None:
    far = torch.full((400, 20), 99.0)
    training = torch.from_numpy(RandomState(3).standard_normal((501, 20))).float()
    median = training.sort(dim=0).values[250]
    for severity in range(1, 6):
        gone = apply_to_columns(far, "missing_columns", severity, 0, training)
        assert ((gone != 99).sum(dim=1) == 2 * severity).all(), "a tenth of 20 columns for each severity"
        assert torch.equal(gone[gone != 99], median.expand(400, 20)[gone != 99])
        assert ((gone != 99).double().mean(dim=0) - severity / 10).abs().max() < 0.13, "each column as often"
        shuffled = apply_to_columns(far, "shuffled_columns", severity, 0, training)
        for column in range(20):
            others = shuffled[:, column][shuffled[:, column] != 99]
            assert torch.isin(others, training[:, column]).all() and len(others.unique()) > len(others) // 2


def test_noise_is_in_units_of_each_columns_deviation_and_leaves_categories() -> None:
    rows = torch.zeros(20_000, 3)
    noisy = apply_to_columns(rows, "noisy_columns", 5, 0, TRAINING)
    assert noisy.std(dim=0)[:2].tolist() == pytest.approx(TRAINING.std(dim=0)[:2].tolist(), rel=0.03)
    assert (noisy[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("name", "severity", "training"),
    [("fog", 1, TRAINING), ("noisy_columns", 6, TRAINING), ("noisy_columns", 1, TRAINING[:, :2])],
)
def test_bad_numbers_are_refused(name: str, severity: int, training: Tensor) -> None:
    with pytest.raises(
        BadInput, match=r"missing_columns, shuffled_columns, noisy_columns, at 0 to 5|\[50, 3\], \[500, 2\]"
    ):
        apply_to_columns(TRAINING[:50], name, severity, 0, training)


def test_tickets_of_tables_are_judged_on_corrupted_columns(tmp_path: Path) -> None:
    changes = [*CHANGES, "recipe.data=table:breast-cancer", "arms=ticket", "study.corruption={levels=[2]}"]
    wanted = plan(read("digits-lenet", changes))
    worker = Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    for question in wanted.questions:
        values = worker.store.values(question.run)
        assert set(values["corrupted"]) == set(COLUMN_CORRUPTIONS)
        by_severity = [one["accuracy"] for one in values["corrupted"]["shuffled_columns"].values()]
        assert len(by_severity) == 5 and by_severity[-1] < values["clean"]["accuracy"]
        clean = worker.store.values(question.density_of)["final_test_accuracy"]
        assert values["clean"]["accuracy"] == pytest.approx(clean)
    (found,) = results(wanted, worker.store).findings
    assert "Under corruption, tickets at" in found.sentence
