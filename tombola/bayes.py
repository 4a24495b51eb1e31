"""Mean-field Gaussian weights for any network: w_i ~ N(mu_i, sigma_i^2), each by itself.

`Gaussian(model)` takes the model over. Its parameters become the means mu under their own names, and beside each weight
that may be pruned stands rho = log sigma, `fc1.weight_log_sigma` beside `fc1.weight`, in the model too; `means()` is a
plain copy without. Biases, normalisations and all else have no noise. What is trained is the evidence lower bound,
`elbo`; the network's answer is the mean of the probabilities of S draws.

A pruned weight is (mu, sigma) = (0, 0). Whoever prunes holds its mean at exactly 0, and a weight whose mean is exactly
0 has no noise and no part in the divergence: a mask is on both, though it names the mean alone. So it is in training,
whichever optimizer steps, and wherever trained weights are looked at again. A living weight whose mean begins at 0 has
no noise before its first step.

Bayesian Lottery Ticket Hypothesis (Kuhn et al., 2026), https://arxiv.org/abs/2602.18825; Weight Uncertainty in Neural
Networks (Blundell et al., 2015); Variational Dropout and the Local Reparameterization Trick (Kingma et al., 2015).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite, log, prod, sqrt
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tombola import weights
from tombola.errors import BadInput, shown
from tombola.probabilities import log_mean_probability
from tombola.prunable import prunable
from tombola.reparametrised import Reparametrised

NOISE = "_log_sigma"  # what rho is called, behind the name of its weight
SAMPLES = 10  # S
SIGMA = 0.01  # sigma_0 as a part of 1 / sqrt(fan_in), the bound of PyTorch's own Kaiming-uniform draw


class Gaussian(Reparametrised):
    """A network whose weights are drawn anew each time: w = mu + sigma * epsilon, epsilon ~ N(0, 1).

    In evaluation mode the same S draws are made each time, from `seed`: one network gives one answer, whatever the
    batches. In training mode they come from torch's own random state, as those of dropout do.

    Args:
        model: becomes the means, shares its parameters with this one, and has log sigma among them from now on; what it
            puts out are scores of classes.
        samples: S, draws for an answer.
        sigma: of sigma_0 = sigma / sqrt(fan_in), > 0.
        seed: of the draws in evaluation mode.

    Raises:
        BadInput: there is nothing to prune in the model, or it is a single layer, or is Gaussian already, or no model;
            samples or sigma is no such number.

    >>> model = Gaussian(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    >>> [name for name, _ in model.named_parameters()]  # doctest: +NORMALIZE_WHITESPACE
    ['0.weight', '0.bias', '0.weight_log_sigma', '2.weight', '2.bias', '2.weight_log_sigma']
    >>> log_p = model.eval()(torch.ones(5, 4))
    >>> torch.allclose(log_p.exp().sum(-1), torch.ones(5))
    True
    """

    def __init__(self, model: nn.Module, samples: int = SAMPLES, sigma: float = SIGMA, seed: int = 0) -> None:
        _bare(model)
        _number("Gaussian, samples", samples, "a whole number of draws, 1 or more", whole=True)
        _number("Gaussian, sigma", sigma, "a number above 0")
        names = tuple(prunable(model))
        if not names or any("." not in name for name in names):
            raise _no_layers(model, names)
        super().__init__(model)
        self.samples, self.seed, self.names = samples, seed, names
        parameters = dict(model.named_parameters())
        for name in names:
            layer, own = _owner(model, name)
            start = log(sigma / sqrt(_fan_in(parameters[name])))
            layer.register_parameter(own + NOISE, nn.Parameter(torch.full_like(parameters[name], start)))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """log p(c | x) with p the mean of the probabilities of S draws; their softmax is p again.

        Args:
            inputs, named: what the model asks for.
        """
        draw = None if self.training else Generator(self._device).manual_seed(self.seed)
        answers = []
        for statistics in self._statistics(self.samples):
            answers.append(self._drawn(draw, statistics, *inputs, **named))
        return log_mean_probability(torch.stack(answers), self.samples, dim=0)

    def sampled(self, inputs: Tensor, samples: int | None = None, draw: Generator | None = None) -> Tensor:
        """What the model puts out in each of so many draws, in the mode that it is in: S x N x ...

        A linear layer that is given one row of each example draws what it puts out in place of its weights: x w is
        N(x mu, x^2 sigma^2), drawn for each example by itself, which has the same mean and gradient, and less noise
        (local reparametrisation). All else draws weights, one set for all examples.

        Args:
            inputs: N examples.
            samples: by default S.
            draw: on the device of the weights; None for torch's own random state.

        Raises:
            BadInput: a linear layer is asked several times for an example, or its weight is taken without it; samples
                is no such number.
        """
        return self._sampled(self.noise, inputs, samples, draw)

    def means(self) -> nn.Module:
        """A plain network whose weights are the means: a copy, of the model's own class, without any deviation.

        It gives one answer, has the state_dict of the model before it had noise, and may be cashed in.

        >>> plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(Gaussian(plain).means().state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
        """
        plain = copy.deepcopy(self.plain)
        for name in self.names:
            layer, own = _owner(plain, name)
            delattr(layer, own + NOISE)
        return plain

    def _sampled(
        self, noise: Mapping[str, Tensor], inputs: Tensor, samples: int | None, draw: Generator | None
    ) -> Tensor:
        samples = self.samples if samples is None else samples
        _number("samples", samples, "a whole number of draws, 1 or more", whole=True)
        tied = weights.ties(self.plain).values()
        local = {name: noise[name] for name in self.names if self._is_linear(name) and name not in tied}
        return torch.stack([self._local(local, noise, inputs, draw, own) for own in self._statistics(samples)])

    @property
    def noise(self) -> Mapping[str, Tensor]:
        """sigma of each weight, by the weight's name; exactly 0 where the mean is."""
        return {name: _sigma(*self._pair(name)) for name in self.names}

    @property
    def _device(self) -> torch.device:
        return self._pair(self.names[0])[0].device

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        """(mu, rho) of a weight."""
        layer, own = _owner(self.plain, name)
        return layer._parameters[own], layer._parameters[own + NOISE]  # type: ignore[return-value]

    def _statistics(self, samples: int) -> Iterator[dict[str, Tensor]]:
        """For each draw the buffers that it writes to, where these are not the model's own.

        In training the first draw alone moves running statistics: else they would forget S times as fast.
        """
        yield {}
        for _ in range(1, samples):
            own = self.plain.named_buffers() if self.training else ()
            yield {name: buffer.clone() for name, buffer in own}

    def _drawn(self, draw: Generator | None, statistics: Mapping[str, Tensor], *inputs: Any, **named: Any) -> Tensor:
        """What one draw of the weights puts out."""
        noise = self.noise
        drawn = {name: self._pair(name)[0] + _standard(sigma, draw) * sigma for name, sigma in noise.items()}
        return self._with({**drawn, **statistics}, *inputs, **named)

    def _local(
        self,
        local: Mapping[str, Tensor],
        noise: Mapping[str, Tensor],
        inputs: Tensor,
        draw: Generator | None,
        statistics: Mapping[str, Tensor],
    ) -> Tensor:
        """What one draw puts out: of the outputs of these layers where that is the same as one of the weights."""
        others = {name: sigma for name, sigma in noise.items() if name not in local}
        drawn = {name: self._pair(name)[0] + _standard(sigma, draw) * sigma for name, sigma in others.items()}
        layers = [(_owner(self.plain, name)[0], _Asked(name, len(inputs), sigma)) for name, sigma in local.items()]
        with _noisy(layers, draw):
            return self._with({**drawn, **statistics}, inputs)

    def _is_linear(self, name: str) -> bool:
        layer, own = _owner(self.plain, name)
        return type(layer) is nn.Linear and own == "weight"

    def _with(self, drawn: Mapping[str, Tensor], *inputs: Any, **named: Any) -> Tensor:
        answers = functional_call(self.plain, dict(drawn), inputs, named)
        if not isinstance(answers, Tensor):
            raise _no_tensor(self.plain, answers)
        return answers


def divergence(model: Gaussian) -> Tensor:
    """KL(q || p) = sum_i (sigma_i^2 + mu_i^2 - 1) / 2 - log sigma_i over the living weights, with p = N(0, 1) of each.

    The paper does not say what its prior is; N(0, 1) is the default of the library that its authors wrote for it.

    Args:
        model: a pruned weight has no part in the sum.

    Returns:
        A scalar with a gradient, in nats.

    Raises:
        BadInput: the model is not Gaussian.
    """
    _gaussian(model)
    return _divergence(model, model.noise)


def elbo(
    model: Gaussian,
    batch: tuple[Tensor, Tensor],
    examples: int,
    temperature: float = 0.1,
    samples: int | None = None,
    draw: Generator | None = None,
) -> Tensor:
    """-1/S sum_s log p(y | x, w_s), averaged over a batch, + T / N KL(q || p): what variational training makes small.

    Args:
        model: in training mode.
        batch: inputs and classes, of which -100 is none.
        examples: N, of the whole training set.
        temperature: T; 1 is Bayes' own, below it is a cold posterior.
        samples: S; by default the model's.
        draw: on the device of the weights; None for torch's own random state.

    Returns:
        A scalar with a gradient, in nats for each example.

    Raises:
        BadInput: the model is not Gaussian; examples, temperature or samples is no such number.

    >>> model = Gaussian(nn.Sequential(nn.Linear(4, 3)))
    >>> elbo(model, (torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)), examples=100).backward()
    >>> [name for name, each in model.named_parameters() if each.grad is None]
    []
    """
    _gaussian(model)
    (inputs, labels), noise = batch, model.noise
    _number("elbo, examples", examples, f"N, of the whole training set, {len(inputs)} or more", len(inputs), whole=True)
    _number("elbo, temperature", temperature, "T, a number of 0 or more", least=0)
    answers = model._sampled(noise, inputs, samples, draw)
    every = labels.expand(len(answers), *labels.shape)
    fit = functional.cross_entropy(answers.flatten(0, -2), every.flatten())
    return fit + temperature / examples * _divergence(model, noise)


def noise_of(name: str) -> str:
    """The name of rho = log sigma of the weight of this name.

    >>> noise_of("fc1.weight")
    'fc1.weight_log_sigma'
    """
    return name + NOISE


def is_noise(name: str) -> bool:
    """Whether a parameter of this name is the logarithm of some weight's sigma: weight decay would draw sigma to 1.

    >>> is_noise("fc1.weight_log_sigma"), is_noise("fc1.weight")
    (True, False)
    """
    return name.endswith(NOISE)


def _standard(like: Tensor, draw: Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=draw, device=like.device, dtype=like.dtype)


def _sigma(mu: Tensor, rho: Tensor) -> Tensor:
    return rho.exp() * (mu != 0)


def _divergence(model: Gaussian, noise: Mapping[str, Tensor]) -> Tensor:
    terms = []
    for name, sigma in noise.items():
        mu, rho = model._pair(name)
        living = mu != 0
        terms.append((sigma.square().sum() + mu.square().sum() - living.sum()) / 2 - (rho * living).sum())
    return torch.stack(terms).sum()


@dataclass
class _Asked:
    """A linear layer: the noise of its weights, and how often it has put out noise, or drawn that of its weights."""

    name: str
    examples: int
    sigma: Tensor
    local: int = 0
    weights: Tensor | None = None


@contextmanager
def _noisy(layers: Sequence[tuple[nn.Module, _Asked]], draw: Generator | None) -> Iterator[None]:
    """Meanwhile linear layers add to what they put out the noise of their weights."""
    hooks = [layer.register_forward_hook(partial(_add_noise, asked, draw)) for layer, asked in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for _, asked in layers:
        if asked.local + (asked.weights is not None) != 1:
            raise _asked_otherwise(asked.name)


def _add_noise(
    asked: _Asked, draw: Generator | None, layer: nn.Module, given: tuple[Tensor], outputs: Tensor
) -> Tensor:
    inputs, sigma = given[0], asked.sigma
    if inputs.dim() != 2 or len(inputs) != asked.examples:  # all rows of an example see the same weights
        if asked.weights is None:
            asked.weights = sigma * _standard(sigma, draw)
        return outputs + functional.linear(inputs, asked.weights)
    asked.local += 1
    variance = functional.linear(inputs.square(), sigma.square())
    # The root has no gradient at 0, and what is 0 has no noise.
    deviation = torch.where(variance > 0, torch.where(variance > 0, variance, 1).sqrt(), 0)
    return outputs + deviation * _standard(deviation, draw)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own


def _fan_in(weight: Tensor) -> int:
    return prod(weight.shape[1:])


def _bare(model: object) -> None:
    """Raise BadInput unless it is a model, of weights that are numbers."""
    if not isinstance(model, nn.Module):
        todo = "models.build makes one of a name." if isinstance(model, str) else "Give the network itself."
        raise BadInput(where="Gaussian", expected="a torch.nn.Module", found=shown(repr(model)), todo=todo)
    if any(isinstance(each, Reparametrised) for each in model.modules()):
        raise BadInput(
            where=f"Gaussian({type(model).__name__})",
            expected="a model whose parameters are its weights",
            found="Gaussian weights" if isinstance(model, Gaussian) else "a model that makes its weights of others",
            todo="Wrap the plain network, once.",
        )


def _gaussian(model: object) -> None:
    """Raise BadInput unless the model has noise."""
    if not isinstance(getattr(model, "_orig_mod", model), Gaussian):  # that of a compiled one
        raise BadInput(
            where="model",
            expected="one with Gaussian weights",
            found=type(model).__name__,
            todo="Gaussian(model) makes it of a plain one; of one wrapped for several processes, give what is inside.",
        )


def _number(where: str, value: object, expected: str, least: float | None = None, whole: bool = False) -> None:
    """Raise BadInput unless it is a number, of that much at least; without `least`, above 0."""
    kinds = (int,) if whole else (int, float)
    known = isinstance(value, kinds) and not isinstance(value, bool) and isfinite(value)
    if not known or not (value > 0 if least is None else value >= least):  # type: ignore[operator]
        raise BadInput(where=where, expected=expected, found=shown(repr(value)), todo="Give another.")


def _no_layers(model: nn.Module, names: tuple[str, ...]) -> BadInput:
    return BadInput(
        where=f"Gaussian({type(model).__name__})",
        expected="a model with layers that may be pruned",
        found="a single layer" if names else "one without any",
        todo="Put a layer into nn.Sequential.",
    )


def _no_tensor(model: nn.Module, answers: object) -> BadInput:
    return BadInput(
        where=f"Gaussian({type(model).__name__})",
        expected="a model that puts out one tensor, scores of classes",
        found=f"a {type(answers).__name__}",
        todo="Wrap the model in one that returns its scores, answers.logits say.",
    )


def _asked_otherwise(name: str) -> BadInput:
    return BadInput(
        where=f"elbo, layer of {name}",
        expected="a linear layer that the model calls once for each example",
        found="one that it calls several times, or not at all, taking its weight by itself",
        todo="Average what the model gives in training mode, which draws weights, and add divergence(model).",
    )
