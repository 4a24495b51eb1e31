"""BERT and its kin, from scratch: the class of a text, each token seeing all others.

BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding (Devlin et al., 2019), but with
normalisations before each part, without dropout, and with the mean over all tokens where BERT takes the first one's:
without pre-training no token is special.
"""

from typing import TYPE_CHECKING

from tombola.models import transformer
from tombola.models.layer import Layer
from tombola.models.transformer import products as products

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = False
FORM = transformer.form("bert")


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs and gives such answers."""
    transformer.size(name)
    _, vocabulary = transformer.text(name, shape)
    if classes == vocabulary:
        raise ValueError(f"a model that says which token is next, like gpt-...; {name} sees all of them")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> layers("bert-2-64", (48, 7751), 2)["output.weight"]
    Layer(kind='output', inputs=64, outputs=2, window=1, height=1, width=1)
    """
    length, vocabulary = transformer.text(name, shape)
    size = transformer.size(name)
    tables = {
        "tokens.weight": Layer("embedding", vocabulary, size.width, height=length),
        "positions.weight": Layer("embedding", length, size.width, height=length),
    }
    return tables | transformer.blocks(size, length) | {"output.weight": Layer("output", size.width, classes)}


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: tokens, positions, blocks.0.attention.query, ..., norm, output."""
    from tombola.models.attention import Encoder

    return Encoder(transformer.size(name), *transformer.text(name, shape), classes)
