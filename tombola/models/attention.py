"""Transformers as modules; in a file of their own, as their base class cannot be named without importing torch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola.models.transformer import EXPANSION, PADDING, TransformerSize


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in each head, its heads side by side, projected; d is the width of a head.

    Plain fully connected layers, of which head h has the outputs h d to (h + 1) d - 1, and of `projection` the inputs:
    so whole heads can be carried out.

    Args:
        causal: whether a token sees those up to itself only.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.head_width, self.causal = heads, width // heads, causal
        inner = heads * self.head_width
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.projection = nn.Linear(inner, width)

    def forward(self, values: Tensor, seen: Tensor | None = None) -> Tensor:
        """[N, T, width] -> [N, T, width]; `seen`, bool [N, 1, 1, T], says which tokens may be looked at."""
        q, k, v = (self._by_head(part(values)) for part in (self.query, self.key, self.value))  # [N, heads, T, d]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal)
        projected: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return projected

    def _by_head(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], self.heads, self.head_width).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), and to that + contract(gelu(expand(norm(.))))."""

    def __init__(self, size: TransformerSize, causal: bool) -> None:
        super().__init__()
        width = size.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, size.heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, EXPANSION * width)
        self.contract = nn.Linear(EXPANSION * width, width)

    def forward(self, values: Tensor, seen: Tensor | None = None) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        values = values + self.attention(self.norm1(values), seen)
        total: Tensor = values + self.contract(functional.gelu(self.expand(self.norm2(values))))
        return total


class _Transformer(nn.Module):
    def __init__(self, size: TransformerSize, length: int, vocabulary: int, causal: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, size.width)
        self.positions = nn.Embedding(length, size.width)
        self.blocks = nn.ModuleList(Block(size, causal) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)

    def embedded(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        values: Tensor = self.tokens(tokens) + self.positions(places)
        return values


class Decoder(_Transformer):
    """A token's scores as the next one, at every position; the output's weight is the embedding's."""

    def __init__(self, size: TransformerSize, length: int, vocabulary: int) -> None:
        super().__init__(size, length, vocabulary, causal=True)
        self.output = nn.Linear(size.width, vocabulary, bias=False)
        self.output.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T] -> [N, T, vocabulary]; T may be less than the length that it was made for."""
        values = self.embedded(tokens)
        for block in self.blocks:
            values = block(values)
        scores: Tensor = self.output(self.norm(values))
        return scores


class Encoder(_Transformer):
    """The classes' scores, from the mean over all tokens that are not padding."""

    def __init__(self, size: TransformerSize, length: int, vocabulary: int, classes: int) -> None:
        super().__init__(size, length, vocabulary, causal=False)
        self.output = nn.Linear(size.width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T] -> [N, classes]; T may be less than the length that it was made for."""
        real = tokens != PADDING  # [N, T]
        values, seen = self.embedded(tokens), real[:, None, None, :]
        for block in self.blocks:
            values = block(values, seen)
        values = self.norm(values) * real[..., None]
        scores: Tensor = self.output(values.sum(1) / real.sum(1, keepdim=True))
        return scores
