"""GPT and its kin: which token comes next, at every position of a text, from those up to there.

Language Models are Unsupervised Multitask Learners (Radford et al., 2019), without dropout. The output is tied to the
embedding of the tokens: one matrix looks tokens up and scores them (Using the Output Embedding to Improve Language
Models, Press & Wolf, 2017). It counts once, as `tokens.weight`, and its kind is `output`: what it does last decides,
so that `prune.output_rate` and `keep = ["output"]` are about it.
"""

from typing import TYPE_CHECKING

from tombola.models import transformer
from tombola.models.layer import Layer
from tombola.models.transformer import products as products

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = False
FORM = transformer.form("gpt")


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs and gives such answers."""
    transformer.size(name)
    _, vocabulary = transformer.text(name, shape)
    if classes != vocabulary:
        raise ValueError(f"a model that tells {classes} classes apart, like bert-...; {name} says which token is next")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> sum(layer.weights for layer in layers("gpt-6-384", (256, 65), 65).values())
    10740096
    """
    length, vocabulary = transformer.text(name, shape)
    size = transformer.size(name)
    tokens = Layer("output", size.width, vocabulary, height=length)
    positions = Layer("embedding", length, size.width, height=length)
    return {"tokens.weight": tokens, "positions.weight": positions} | transformer.blocks(size, length)


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: tokens, positions, blocks.0.attention.query, ..., norm, output."""
    from tombola.models.attention import Decoder

    return Decoder(transformer.size(name), *transformer.text(name, shape))
