"""How many answers stay right when inputs are changed a little, on purpose? And is the number to be believed?

An attack looks for the worst input within epsilon of an example in every pixel, and in the box of pixels; robust
accuracy is the share of examples that no attack fools. It is an upper bound: another attack may fool more of them.

A network can look robust because gradients lead nowhere: gradient masking (Obfuscated Gradients Give a False Sense of
Security, Athalye et al., 2018, https://arxiv.org/abs/1802.00420). `Robustness.masking` says what speaks for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tombola.errors import BadInput
from tombola.value import Count, Number, Value

if TYPE_CHECKING:  # a plan names attacks, and touches no tensor
    import torch
    from torch import Tensor

    from tombola.perturbation import Ball, Model
    from tombola.study.attacks import Visited

CHUNK = 500  # examples that are attacked together, for the sake of memory
FROM_DENSE = "from dense"  # inputs found on the dense network, among what networks are attacked by
WHOLE_BOX_STEPS = 20

# The shares of examples from which on a number speaks for masked gradients.
MANY_ZEROS, NOT_NOTHING, MORE = 0.05, 0.01, 0.01


class Attack(Value, ABC):
    """A way to look for the worst point of a ball around each example.

    Attributes:
        name: of the way; a class declares it as a `Literal` with itself as the default.
    """

    of_gradients: ClassVar[bool] = True  # else the network is a black box
    of_images: ClassVar[bool] = False  # whether it needs N x C x H x W

    name: str

    @property
    def title(self) -> str:
        """By which people know it."""
        return self.name.upper()

    @abstractmethod
    def seek(self, model: "Visited", ball: "Ball", draw: "torch.Generator") -> None:
        """Ask the model, which remembers the worst, at points of the ball."""

    @property
    def classes(self) -> int:
        """How many classes there must be, at least."""
        return 2

    @property
    def looks(self) -> int:
        """How many looks at an example it takes, a gradient as two more."""
        return 3


class FGSM(Attack):
    """One step of epsilon along the sign of the gradient."""

    name: Literal["fgsm"] = "fgsm"

    def seek(self, model: "Visited", ball: "Ball", draw: "torch.Generator") -> None:
        """Once."""
        from tombola.perturbation import fgsm

        model(fgsm(model, model.pixels, model.labels, ball))


class PGD(Attack):
    """Steps along the sign of the gradient, from a random point of the ball.

    Attributes:
        steps: how many.
        step: the change of a pixel in one; None for 2.5 epsilon / steps.
        restarts: how often it is begun, each time from another point.
        random_start: whether it begins at a random point, not at the example.
    """

    name: Literal["pgd"] = "pgd"
    steps: Count = Field(default=40, ge=1)
    step: Number | None = Field(default=None, gt=0)
    restarts: Count = Field(default=1, ge=1)
    random_start: bool = True

    def seek(self, model: "Visited", ball: "Ball", draw: "torch.Generator") -> None:
        """Once for each restart; without a random start all of them are the same, and one is made."""
        from tombola.perturbation import Climb, pgd

        climb = Climb(self.step or 2.5 * ball.epsilon / self.steps, self.steps)
        for _ in range(self.restarts if self.random_start else 1):
            model(pgd(model, model.pixels, model.labels, ball, climb, draw if self.random_start else None))

    @property
    def looks(self) -> int:
        return 3 * self.steps * self.restarts


class APGD(Attack):
    """Auto-PGD, which finds its own steps, on cross-entropy or on the difference of logits ratio.

    Attributes:
        loss: what is climbed.
        steps: how many.
        restarts: how often it is begun, each time from another random point.
    """

    name: Literal["apgd"] = "apgd"
    loss: Literal["ce", "dlr"] = "ce"
    steps: Count = Field(default=100, ge=1)
    restarts: Count = Field(default=1, ge=1)

    @property
    def title(self) -> str:
        """With its loss."""
        return f"APGD-{self.loss.upper()}"

    @property
    def classes(self) -> int:
        """The difference of logits ratio is of the three largest."""
        return 3 if self.loss == "dlr" else 2

    def seek(self, model: "Visited", ball: "Ball", draw: "torch.Generator") -> None:
        """Once for each restart."""
        from tombola.perturbation import cross_entropies
        from tombola.study.attacks import apgd, dlr

        for _ in range(self.restarts):
            apgd(model, ball, cross_entropies if self.loss == "ce" else dlr, self.steps, draw)

    @property
    def looks(self) -> int:
        return 3 * self.steps * self.restarts


class Square(Attack):
    """Random squares, kept where they help; no gradient is asked.

    Attributes:
        queries: of each example.
        start: the share of pixels in the first square.
    """

    of_gradients = False
    of_images = True

    name: Literal["square"] = "square"
    queries: Count = Field(default=1000, ge=1)
    start: Number = Field(default=0.8, gt=0, le=1)

    @property
    def title(self) -> str:
        return "Square"

    def seek(self, model: "Visited", ball: "Ball", draw: "torch.Generator") -> None:
        """Of images alone."""
        from tombola.study.attacks import square

        square(model, ball, self.queries, self.start, draw)

    @property
    def looks(self) -> int:
        return self.queries


AnyAttack = Annotated[FGSM | PGD | APGD | Square, Field(discriminator="name")]
STANDARD: tuple[Attack, ...] = (FGSM(), PGD(), APGD(), APGD(loss="dlr"), Square())


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack has found for N examples.

    Attributes:
        points: the worst input that was tried for each, the example itself among them: one with a false answer before
            all with right ones, of these one with the largest loss. N x ...
        fooled: whether the answer there is false, N; so it is where the example's own answer is.
        losses: the largest cross-entropy of all inputs tried, N.
        kind: the attack; None where the inputs were given.
    """

    points: "Tensor"
    fooled: "Tensor"
    losses: "Tensor"
    kind: Attack | None

    @property
    def accuracy(self) -> float:
        """The share of examples that are not fooled, in [0, 1]."""
        return 1 - float(self.fooled.double().mean())


def attack(
    model: "Model", pixels: "Tensor", labels: "Tensor", kind: Attack, epsilon: "float | Ball", seed: int = 0
) -> Attacked:
    """The worst input in the ball around each example that an attack finds.

    The model is in evaluation mode meanwhile if it is a module, and nothing of it is changed.

    Args:
        model: pixels N x ... -> logits N x classes, before the softmax, with normalisation inside:
            `perturbation.OfPixels(network, normalise)`.
        pixels: in the box, [0, 1] unless a `Ball` has another one, N x ...
        labels: the true classes, N.
        kind: `FGSM()`, `PGD(steps=40)`, `APGD(loss="dlr")`, `Square(queries=1000)`.
        epsilon: the largest change of a pixel, or a `Ball` with its box.
        seed: that starts and squares are drawn from.

    Raises:
        BadInput: pixels outside of the box, a negative epsilon, probabilities where logits are needed, labels that are
            no classes of the model, too few classes for the loss, or no images for squares.

    >>> import torch
    >>> model = lambda pixels: torch.cat([pixels - 0.5, 0.5 - pixels], dim=1)
    >>> found = attack(model, torch.tensor([[0.9], [0.6]]), torch.tensor([0, 0]), FGSM(), epsilon=0.2)
    >>> found.accuracy
    0.5
    """
    import torch

    from tombola.perturbation import Ball, calm
    from tombola.study.attacks import Visited

    ball = epsilon if isinstance(epsilon, Ball) else Ball(epsilon)
    _check_types(pixels, labels, kind)
    with torch.inference_mode(False), calm(model):  # whoever calls in inference mode needs gradients here too
        pixels, labels = pixels.clone(), labels.to(torch.int64, copy=True)
        _check(model, pixels, labels, ball, kind)
        parts = []
        for place in range(0, len(pixels), CHUNK):
            visited = Visited(model, pixels[place : place + CHUNK], labels[place : place + CHUNK])
            with torch.no_grad():
                visited(visited.pixels)
            kind.seek(visited, ball, torch.Generator().manual_seed((seed + place) % 2**63))
            parts.append(visited)
    return _attacked(parts, kind)


def transferred(model: "Model", pixels: "Tensor", labels: "Tensor", points: "Tensor") -> Attacked:
    """Whom points fool that were found elsewhere, on another network for one.

    Args:
        model, pixels, labels: as `attack` has them.
        points: one for each example, like `pixels`.
    """
    import torch

    from tombola.perturbation import calm
    from tombola.study.attacks import Visited

    parts = []
    with calm(model), torch.no_grad():
        for own, answers, given in zip(*(each.split(CHUNK) for each in (pixels, labels, points)), strict=True):
            visited = Visited(model, own, answers)
            visited(own)
            visited(given)
            parts.append(visited)
    return _attacked(parts, None)


def _attacked(parts: "Sequence[Visited]", kind: Attack | None) -> Attacked:
    import torch

    found = ((each.points, each.fooled, each.losses) for each in parts)
    points, fooled, losses = (torch.cat(each) for each in zip(*found, strict=True))
    return Attacked(points, fooled, losses, kind)


def _check_types(pixels: object, labels: object, kind: object) -> None:
    """Raise `BadInput` where arguments are other things than tensors and an attack."""
    import torch

    whole = isinstance(labels, torch.Tensor) and not labels.is_floating_point() and labels.dim() == 1
    wanted = (
        ("pixels", pixels, "a tensor of real numbers", isinstance(pixels, torch.Tensor)),
        ("labels", labels, "a tensor of N whole numbers, the true classes", whole),
        ("kind", kind, "an attack, like PGD(steps=40)", isinstance(kind, Attack)),
    )
    for name, given, expected, right in wanted:
        if not right:
            raise BadInput(
                where=f"attack({name}=...)",
                expected=expected,
                found=f"{given.dtype} {tuple(given.shape)}"
                if isinstance(given, torch.Tensor)
                else type(given).__name__,
                todo="Make a tensor of an array with torch.from_numpy, and take an attack like those in STANDARD.",
            )


def _check(model: "Model", pixels: "Tensor", labels: "Tensor", ball: "Ball", kind: Attack) -> None:
    """Raise `BadInput` where these cannot be attacked."""
    if not len(pixels) or len(labels) != len(pixels):
        raise BadInput(
            where="attack(labels=...)",
            expected="one example or more, and a label for each",
            found=f"{len(pixels)} examples and {len(labels)} labels",
            todo="Hand the labels of the same examples.",
        )
    inside = pixels.is_floating_point() and bool(((pixels >= ball.low) & (pixels <= ball.high)).all())
    if not inside:
        span = f"from {pixels.min():.4g} to {pixels.max():.4g}"
        raise BadInput(
            where="attack(pixels=...)",
            expected=f"real numbers from {ball.low:g} to {ball.high:g}, before any normalisation",
            found=f"{pixels.dtype} {span}",
            todo="Divide bytes by 255, put normalisation into the model with OfPixels, or give another box with Ball.",
        )
    if kind.of_images and pixels.dim() != 4:
        raise BadInput(
            where="attack(pixels=...)",
            expected=f"images N x C x H x W for {kind.title}",
            found=f"{tuple(pixels.shape)}",
            todo="Attack numbers that are no images by gradients.",
        )
    classes = _classes(model, pixels, len(labels), kind)
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise BadInput(
            where="attack(labels=...)",
            expected=f"whole numbers from 0 to {classes - 1}, the model's classes",
            found=f"{labels.dtype} from {labels.min()} to {labels.max()}",
            todo="Give the true classes.",
        )


def _classes(model: "Model", pixels: "Tensor", n: int, kind: Attack) -> int:
    """How many classes the logits of n examples are of; `BadInput` where these are none."""
    import torch

    from tombola.probabilities import refuse_probabilities

    with torch.no_grad():
        outputs = [model(chunk) for chunk in pixels.split(CHUNK)]
    if not isinstance(outputs[0], torch.Tensor):
        raise BadInput(
            where="attack(model=...)",
            expected="a model that gives one tensor, the logits",
            found=type(outputs[0]).__name__,
            todo="Hand lambda pixels: model(pixels).logits, say.",
        )
    shapes = {tuple(each.shape[1:]) for each in outputs}
    rows = sum(len(each) for each in outputs if each.dim() == 2)
    finite = all(bool(each.isfinite().all()) for each in outputs)
    if len(shapes) > 1 or rows != n or outputs[0].shape[1] < kind.classes or not finite:
        raise BadInput(
            where="attack(model=...)",
            expected=f"finite logits, one row for each example, of {kind.classes} classes or more for {kind.title}",
            found=f"{'' if finite else 'not only finite '}outputs {tuple(outputs[0].shape)} for {min(n, CHUNK)} labels",
            todo="Attack a classifier that gives logits, by an attack for so many classes.",
        )
    todo = "Leave out the softmax: its gradients vanish where the network is sure, and it would look robust."
    refuse_probabilities(torch.cat(outputs), "attack(model=...)", "logits, before the softmax", todo)
    return int(outputs[0].shape[1])


@dataclass(frozen=True)
class Robustness:
    """How many of the answers stay right, as shares of the examples, and whether that is to be believed.

    Attributes:
        clean: right as they are.
        attacked: by the attack's title, what it does not fool; of inputs found elsewhere what they do not.
        worst: what none of the attacks fools.
        zero_gradients: of the right ones, those whose gradient is 0 in every pixel.
        whole_box: what stays right when pixels may become anything in the box.
        one_step_more: what FGSM fools and no attack of several steps by gradients; None where not both were made.
        black_box_more: what is fooled without gradients, or by inputs found elsewhere, and by no gradient; None where
            not both were made.
        deterministic: whether two passes give the same logits.
    """

    clean: float
    attacked: Mapping[str, float]
    worst: float
    zero_gradients: float
    whole_box: float
    one_step_more: float | None
    black_box_more: float | None
    deterministic: bool

    @property
    def masking(self) -> tuple[str, ...]:
        """What speaks for masked gradients, in words; nothing where nothing does."""
        signs = {
            "logits differ from one pass to the next": not self.deterministic,
            f"gradients are 0 at {self.zero_gradients:.1%} of the right answers": self.zero_gradients > MANY_ZEROS,
            f"{self.whole_box:.1%} stay right when pixels may become anything": self.whole_box > NOT_NOTHING,
        }
        if self.one_step_more is not None:
            signs[f"one step fools {self.one_step_more:.1%} that many do not"] = self.one_step_more > MORE
        if self.black_box_more is not None:
            signs[f"black boxes fool {self.black_box_more:.1%} that gradients do not"] = self.black_box_more > MORE
        return tuple(words for words, seen in signs.items() if seen)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """What was found where nothing speaks for masked gradients."""
        found = ["logits repeat"]
        found.append(f"gradients are 0 at {self.zero_gradients:.1%}" if self.zero_gradients else "gradients are not 0")
        but = f" but {self.whole_box:.1%}" if self.whole_box else ""
        found.append(f"pixels that may become anything fool all{but}")
        beside = (
            ("one step fools", "many", self.one_step_more),
            ("black boxes fool", "gradients", self.black_box_more),
        )
        for name, few, more in beside:
            if more is not None:
                found.append(f"{name} no more than {few}" + (f" but {more:.1%}" if more > 0 else ""))
        return tuple(found)


def judge(
    model: "Model",
    pixels: "Tensor",
    labels: "Tensor",
    attacks: Sequence[Attack],
    epsilon: "float | Ball",
    seed: int = 0,
) -> Robustness:
    """The accuracy of a model under several attacks, and what says whether gradients are masked.

    Args:
        model, pixels, labels, epsilon, seed: as `attack` has them.
        attacks: `STANDARD`, for one; one at least. Of several with one title the second is `PGD #2`.

    Raises:
        BadInput: as `attack` does.

    >>> import torch
    >>> model = lambda pixels: torch.cat([pixels - 0.5, 0.5 - pixels], dim=1)
    >>> found = judge(model, torch.tensor([[0.9], [0.6]]), torch.tensor([0, 0]), [FGSM(), PGD()], epsilon=0.2)
    >>> found.clean, found.worst, found.masking
    (1.0, 0.5, ())
    """
    if not attacks:
        raise BadInput(where="judge(attacks=...)", expected="one at least", found="none", todo="Give STANDARD, say.")
    found: dict[str, Attacked] = {}
    for kind in attacks:
        again = sum(name.split(" #")[0] == kind.title for name in found)
        title = f"{kind.title} #{again + 1}" if again else kind.title
        found[title] = attack(model, pixels, labels, kind, epsilon, seed)
    return summary(model, pixels, labels, found, epsilon, seed)


def summary(
    model: "Model",
    pixels: "Tensor",
    labels: "Tensor",
    found: Mapping[str, Attacked],
    epsilon: "float | Ball",
    seed: int = 0,
) -> Robustness:
    """`judge` of what attacks have found already.

    Args:
        found: by title, an `attack` at least, and `transferred` ones.
    """
    import torch

    from tombola.perturbation import Ball, calm, losses_and_slopes

    ball = epsilon if isinstance(epsilon, Ball) else Ball(epsilon)
    anything = Ball(ball.high - ball.low, ball.low, ball.high)
    with torch.inference_mode(False), calm(model):
        pixels, labels = pixels.clone(), labels.to(torch.int64, copy=True)
        chunks = list(zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True))
        with torch.no_grad():
            first, second = (torch.cat([model(own) for own, _ in chunks]) for _ in range(2))
        flat = torch.cat([losses_and_slopes(model, *chunk)[1].flatten(1).eq(0).all(dim=1) for chunk in chunks])
    right = first.argmax(dim=1) == labels
    none = torch.zeros_like(right)

    own = [each for each in found.values() if each.kind]
    white = [each for each in own if each.kind and each.kind.of_gradients]
    one, many = ([each for each in white if isinstance(each.kind, FGSM) is single] for single in (True, False))
    black = [each for each in found.values() if each not in white]
    return Robustness(
        clean=float(right.double().mean()),
        attacked={title: each.accuracy for title, each in found.items()},
        worst=1 - float(_any(own, none).double().mean()),
        zero_gradients=float(flat[right].double().mean()) if right.any() else 0.0,
        whole_box=attack(model, pixels, labels, PGD(steps=WHOLE_BOX_STEPS), anything, seed).accuracy,
        one_step_more=_more(one, many, none),
        black_box_more=_more(black, white, none),
        deterministic=bool(torch.equal(first, second)),
    )


def _any(attacks: Sequence[Attacked], none: "Tensor") -> "Tensor":
    """Which examples one of the attacks fools."""
    fooled = none
    for each in attacks:
        fooled = fooled | each.fooled
    return fooled


def _more(attacks: Sequence[Attacked], others: Sequence[Attacked], none: "Tensor") -> float | None:
    """The share that one of the attacks fools and none of the others; None where either is missing."""
    if not (attacks and others):
        return None
    return float((_any(attacks, none) & ~_any(others, none)).double().mean())
