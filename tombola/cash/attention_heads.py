"""Attention whose heads can be told apart, and without those that say nothing.

A head says nothing if its values are the same for every input - attention weights add up to 1, so that v_h = b_h comes
out of it as it is, and W_h b_h goes into the bias of the projection - or if the projection does not read it. Where
several heads share their keys and values (grouped-query attention), they go together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import weights
from tombola.cash.removal import ITSELF, Removals
from tombola.cash.replaceable import hooked, kind_of, uses
from tombola.cash.resizing import pick, put, tell_sizes

PARTS = (  # query, key, value and projection, as modules of attention call these linear layers
    ("query", "key", "value", "projection"),  # tombola's own
    ("self.query", "self.key", "self.value", "output.dense"),  # BERT and its kin, of transformers
    ("attention.query", "attention.key", "attention.value", "output.dense"),  # vision transformers there
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama and its kin
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # BART, OPT, CLIP
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    ("q", "k", "v", "o"),  # T5
    ("to_q", "to_k", "to_v", "to_out"),
)
STAYS = "stays"
_HEADS = ("heads", "num_heads", "n_heads", "n_head", "num_attention_heads")
_GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_WIDTHS = ("head_width", "head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "dim_head")
_INNER = ("all_head_size", "inner_dim")  # of all heads together


class FewerHeads(nn.MultiheadAttention):
    """What is left of torch's attention: fewer heads of the width that they had, under the names of its weights.

    Args:
        whole: without weights of its own for biases of keys and values, or a key of zeros.
        stays: which of all heads are left, [heads], by number.
    """

    stays: Tensor

    def __init__(self, whole: nn.MultiheadAttention, stays: Tensor) -> None:
        bias = whole.in_proj_bias is not None
        about: dict[str, Any] = {"kdim": whole.kdim, "vdim": whole.vdim, "batch_first": whole.batch_first}
        about["dropout"] = whole.dropout
        super().__init__(whole.embed_dim, whole.embed_dim // whole.head_dim, bias=bias, **about, device="meta")
        self.all_heads, self.num_heads = self.num_heads, len(stays)
        for name, value in [*whole.named_parameters(recurse=False)]:
            rows = (3 if name.startswith("in_proj") else 1) * len(stays) * self.head_dim
            setattr(self, name, nn.Parameter(value.new_zeros(rows, *value.shape[1:]), value.requires_grad))
        self.register_buffer(STAYS, stays.to(whole.out_proj.weight.device))
        self.out_proj = whole.out_proj
        self._qkv_same_embed_dim = False  # torch's layers then call `forward`, and do not read the weights

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's, but without attention weights, as those of the heads that went are not known.

        Masks for each head are of all heads that there were, [N * heads, L, S], or of those that are left.
        """
        one = query.dim() == 2
        if one:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        rows = _thirds(self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        bias = _thirds(self.in_proj_bias, None, None, None)
        q = self._apart(query, rows[0], bias[0])
        k = self._apart(key, rows[1], bias[1])
        v = self._apart(value, rows[2], bias[2])
        mask = self._seen(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal and mask is None)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if one:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, None

    def _apart(self, values: Tensor, rows: Tensor | None, bias: Tensor | None) -> Tensor:
        """[N, L, features] -> [N, heads, L, width]."""
        assert rows is not None
        made: Tensor = functional.linear(values, rows, bias).unflatten(-1, (self.num_heads, self.head_dim))
        return made.transpose(1, 2)

    def _seen(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
        """Both as one that is added to the scores, [N or 1, heads or 1, L or 1, S]."""
        total: Tensor | None = None
        if attn_mask is not None:
            total = _added(self._of_heads(attn_mask, len(like)), like)
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, like).view(-1, 1, 1, key_padding_mask.shape[-1])
            total = padding if total is None else total + padding
        return total

    def _of_heads(self, mask: Tensor, batch: int) -> Tensor:
        """[L, S] as it is, or [N * all or left, L, S] -> [N, left, L, S]."""
        if mask.dim() != 3:
            return mask
        of_left = len(mask) == batch * self.num_heads
        each: Tensor = mask.unflatten(0, (batch, self.num_heads if of_left else self.all_heads))
        return each if of_left else each.index_select(1, self.stays)

    def extra_repr(self) -> str:
        """How many heads there are, and how wide they are."""
        return f"heads={self.num_heads}, head_width={self.head_dim}"


def _added(mask: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf) if mask.dtype is torch.bool else mask


_Thirds = tuple[Tensor | None, Tensor | None, Tensor | None]


def _rows(attention: nn.MultiheadAttention) -> tuple[_Thirds, _Thirds]:
    """Weights and biases of queries, keys and values."""
    apart = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    return _thirds(attention.in_proj_weight, *apart), _thirds(attention.in_proj_bias, None, None, None)


def _thirds(whole: Tensor | None, one: Tensor | None, two: Tensor | None, three: Tensor | None) -> _Thirds:
    """Those of the whole, or these where there is none."""
    if whole is None:
        return one, two, three
    first, second, third = whole.chunk(3)
    return first, second, third


# ---- of linear layers


@dataclass(frozen=True)
class _Attention:
    """An attention of four linear layers.

    Attributes:
        parts: the names of its query, key, value and projection.
        width: features of a head.
        groups: heads of keys and values.
        shared: heads of queries for each of these.
    """

    parts: tuple[str, str, str, str]
    width: int
    groups: int
    shared: int

    def layers(self, module: nn.Module) -> list[Any]:
        return [module.get_submodule(part) for part in self.parts]


def removals(model: nn.Module) -> Removals:
    """The attentions of `model` in which heads say nothing."""
    changes, left, times = {}, {}, uses(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            own, gone = list(module.modules()), _dead_of_torch(module)
            drop: Any = partial(_replace, name=name, gone=gone)
            other = _other_than_torch(name, module)
        elif found := _attention(module):
            own, gone = found.layers(module), _dead(found, module)
            drop, other = partial(_drop, name=name, attention=found, gone=gone), ""
        else:
            continue
        if not gone.any() or (gone.sum() == 1 == len(gone)):
            continue
        if other:
            left[name] = f"heads are dead, but {other}"
        elif any(map(hooked, own)):
            left[name] = "heads are dead, but it has hooks"
        elif any(times[weights.place(value)] > 1 for each in own for value in each.parameters(recurse=False)):
            left[name] = "heads are dead, but its weights are another layer's too"
        else:
            changes[name] = drop
    return Removals(changes, left)


def _attention(module: nn.Module) -> _Attention | None:
    """What `module` is, where it has four linear layers and says how many heads there are, or how wide they are."""
    for parts in PARTS:
        layers = [_part(module, part) for part in parts]
        if any(layer is None or kind_of(layer) is not nn.Linear for layer in layers):
            continue
        query, key, value, projection = layers
        about = dict(_numbers(module, parts))
        width = _first(about, _WIDTHS) or query.out_features // (_first(about, _HEADS) or query.out_features)
        groups = value.out_features // width
        if query.out_features != projection.in_features or key.out_features != value.out_features:
            continue
        if groups * width == value.out_features and not query.out_features % value.out_features and width > 1:
            return _Attention(parts, width, groups, query.out_features // value.out_features)
    return None


def _part(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = module._modules.get(name)  # type: ignore[assignment]
        if module is None:
            return None
    return module


def _numbers(module: nn.Module, parts: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """The whole numbers that a module, and the one that holds its query, have as attributes."""
    for each in (module, _part(module, parts[0].rpartition(".")[0]) if "." in parts[0] else module):
        yield from ((name, value) for name, value in vars(each).items() if type(value) is int)


def _first(about: dict[str, int], names: tuple[str, ...]) -> int:
    return next((about[name] for name in names if name in about), 0)


def _gone(constant: Tensor, unread: Tensor, width: int, shared: int) -> Tensor:
    """Whether heads of keys and values say nothing, [groups]: of their own features, and of the projection's."""
    return (constant.view(-1, 1, width) | unread.view(-1, shared, width)).flatten(1).all(dim=1)


def _dead(attention: _Attention, module: nn.Module) -> Tensor:
    *_, value, projection = attention.layers(module)
    constant, unread = (value.weight == 0).all(dim=1), (projection.weight == 0).all(dim=0)
    return _gone(constant.cpu(), unread.cpu(), attention.width, attention.shared)


def _drop(model: nn.Module, name: str, attention: _Attention, gone: Tensor) -> None:
    """Take heads out of four linear layers; one stays in any case."""
    module = model.get_submodule(name)
    query, key, value, projection = attention.layers(module)
    each, groups = attention.width, attention.groups
    read = gone.repeat_interleave(attention.shared * each)
    constants = None if value.bias is None else value.bias.detach().cpu().view(groups, 1, each)
    spread = None if constants is None else constants.expand(-1, attention.shared, -1).flatten()
    _fold(projection, read, spread)
    stay = _staying(gone)
    wide, narrow = stay.repeat_interleave(attention.shared * each), stay.repeat_interleave(each)
    pick(query, wide)
    pick(key, narrow)
    pick(value, narrow)
    put(projection, "weight", projection.weight.detach()[:, wide.to(projection.weight.device)])
    tell_sizes(projection)
    tell_heads(module, attention.parts, groups * each, int(narrow.sum()))


def _staying(gone: Tensor) -> Tensor:
    stay = ~gone
    stay[0] |= bool(gone.all())
    return stay


def _fold(projection: Any, gone: Tensor, constants: Tensor | None) -> None:
    """Into the bias of a projection what it makes of the constant values, [inputs], of the heads that go."""
    weight = projection.weight.detach()
    gone = gone.to(weight.device)
    if constants is not None:
        shift = weight.double()[:, gone] @ constants.to(weight.device).double()[gone]
        put(projection, "bias", shift if projection.bias is None else shift + projection.bias.detach())
    put(projection, "weight", weight.masked_fill(gone, 0))


def tell_heads(module: nn.Module, parts: tuple[str, ...], before: int, after: int) -> None:
    """Tell a module that its keys have `after` features where they had `before`."""
    for holder in {module, _part(module, parts[0].rpartition(".")[0]) if "." in parts[0] else module}:
        for name, value in vars(holder).items():
            if type(value) is int and name in (*_HEADS, *_GROUPS, *_INNER) and value * after % before == 0:
                setattr(holder, name, value * after // before)


def fit(model: nn.Module, values: weights.Weights) -> nn.Module:
    """Make the attentions of `model`, in place, ready for `values` of fewer heads."""
    for name, module in [*model.named_modules()]:
        if isinstance(module, nn.MultiheadAttention):
            if f"{name}.{STAYS}" in values and not _other_than_torch(name, module):
                _put_in(model, name, FewerHeads(module, torch.zeros_like(values[f"{name}.{STAYS}"])))
        elif found := _attention(module):
            key = values.get(f"{name}.{found.parts[1]}.weight".lstrip("."))
            if key is not None:
                tell_heads(module, found.parts, found.groups * found.width, len(key))
    return model


# ---- of torch's own attention


def _other_than_torch(name: str, attention: nn.MultiheadAttention) -> str:
    """Why another class cannot take its place, or nothing."""
    if type(attention) not in (nn.MultiheadAttention, FewerHeads):
        return f"{type(attention).__name__} computes something of its own"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds keys and values of its own"
    return "" if name else ITSELF


def _dead_of_torch(attention: nn.MultiheadAttention) -> Tensor:
    (*_, value), _ = _rows(attention)
    assert value is not None
    constant, unread = (value == 0).all(dim=1), (attention.out_proj.weight == 0).all(dim=0)
    return _gone(constant.cpu(), unread.cpu(), attention.head_dim, 1)


def _replace(model: nn.Module, name: str, gone: Tensor) -> None:
    """Put `FewerHeads` in the place of torch's attention; one head stays in any case."""
    whole: Any = model.get_submodule(name)
    weight = whole.out_proj.weight
    _, biases = _rows(whole)
    constants = biases[2]
    _fold(whole.out_proj, gone.repeat_interleave(whole.head_dim), None if constants is None else constants.detach())
    stay = _staying(gone)
    numbers = whole.stays.cpu() if isinstance(whole, FewerHeads) else torch.arange(len(stay), dtype=torch.int32)
    fewer, rows = FewerHeads(whole, numbers[stay]), stay.repeat_interleave(whole.head_dim).to(weight.device)
    for part, value in [*whole.named_parameters(recurse=False)]:
        kept = rows.repeat(3) if part.startswith("in_proj") else rows
        setattr(fewer, part, nn.Parameter(value.detach()[kept], value.requires_grad))
    put(fewer.out_proj, "weight", fewer.out_proj.weight.detach()[:, rows])
    tell_sizes(fewer.out_proj)
    _put_in(model, name, fewer)


def _put_in(model: nn.Module, name: str, fewer: FewerHeads) -> None:
    model.set_submodule(name, fewer.train(model.training))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(each, FewerHeads) for each in module.modules()):
            module.use_nested_tensor = False  # of which it knows nothing
