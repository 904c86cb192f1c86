"""Attention: look something up by content, softly (Vaswani et al., "Attention Is All You Need", NIPS 2017).

Dimensions: B batch, T queries, S keys and values, D features, N heads, H features of one head.
A mask is boolean and True means keep; chapter 02 builds everything here by hand.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmlearn.errors import ShapeError


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Bool[Tensor, "T S"]:
    """True where a query may look: not past itself, the queries being the last `n_queries` of the keys.

    With as many queries as keys it is the lower triangle; with one query (a decoder with a cache) all True.
    `F.scaled_dot_product_attention(is_causal=True)` agrees only where both are equal in number.
    """
    keep = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return keep.tril(diagonal=n_keys - n_queries)


def scaled_dot_product_attention(
    q: Float[Tensor, "... T D"],
    k: Float[Tensor, "... S D"],
    v: Float[Tensor, "... S E"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    fused: bool = False,
    return_weights: bool = False,
) -> Float[Tensor, "... T E"] | tuple[Float[Tensor, "... T E"], Float[Tensor, "... T S"]]:
    """softmax(q kᵀ / √D) v: each query's weighted mean of the values (Vaswani et al. 2017, eq. 1).

    mask: True = keep. (B, S) hides padded keys from every query and head; any other shape must broadcast to
    the scores (..., T, S). It is combined with `causal`. A query that may see no key gets zeros.
    dropout: share of the weights set to zero (the caller passes 0 outside training).
    fused: PyTorch's kernel, which never stores the weights: the same output, less time and memory.
    return_weights: also return the weights, (..., T, S) in [0, 1], each row summing to 1 (not with `fused`).
    Raises ShapeError when sizes do not fit, ValueError when the fused kernel is asked for its weights.
    """
    _check_shapes(q, k, v)
    if fused and return_weights:
        raise ValueError("the fused kernel never stores the weights: pass fused=False to see them")
    if fused and causal and mask is None and q.shape[-2] == k.shape[-2]:  # the kernel skips half of the work
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    keep = _what_to_keep(q, k, mask, causal)
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)

    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    if keep is None:
        weights = scores.softmax(dim=-1)
    else:
        weights = scores.masked_fill(~keep, -math.inf).softmax(dim=-1)
        weights = weights.masked_fill(~keep, 0.0)  # changes only rows without a key, which are not-a-number
    output = (F.dropout(weights, dropout) if dropout else weights) @ v  # (..., T, E)
    return (output, weights) if return_weights else output


class MultiHeadAttention(nn.Module):
    """Several lookups side by side, each in its own slice of the features (Vaswani et al. 2017, §3.2.2).

    `attention(x)` is self-attention; `attention(x, memory)` is cross-attention, where the queries come from
    `x` (B, T, d_model) and keys and values from `memory` (B, S, d_kv), which may have another width.
    `attention.fused = False` takes the readable path; the outputs are equal.
    """

    def __init__(self, d_model: int, n_heads: int, d_kv: int | None = None, *, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ShapeError(
                f"d_model={d_model} cannot be cut into n_heads={n_heads} equal heads: "
                "choose a number of heads that divides d_model"
            )
        self.d_model, self.n_heads = d_model, n_heads
        self.d_kv = d_model if d_kv is None else d_kv
        self.dropout, self.fused = dropout, True
        self.q_proj = nn.Linear(d_model, d_model, bias)
        self.k_proj = nn.Linear(self.d_kv, d_model, bias)
        self.v_proj = nn.Linear(self.d_kv, d_model, bias)
        self.out_proj = nn.Linear(d_model, d_model, bias)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S K"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
        return_weights: bool = False,
    ) -> Float[Tensor, "B T D"] | tuple[Float[Tensor, "B T D"], Float[Tensor, "B N T S"]]:
        """Each query's answer; with `return_weights` also the weights of every head, before dropout.

        mask: True = keep; (B, S) for padded keys, (B, T, S) for all heads, (B, N, T, S) for each head.
        Raises ShapeError when a width, a batch size or the mask does not fit.
        """
        memory = x if memory is None else memory
        self._check_inputs(x, memory)
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]  # (B, 1, T, S): the same for every head
        attended = scaled_dot_product_attention(
            self._split(self.q_proj(x)),
            self._split(self.k_proj(memory)),
            self._split(self.v_proj(memory)),
            mask,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
            fused=self.fused and not return_weights,
            return_weights=return_weights,
        )
        heads, weights = attended if return_weights else (attended, None)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))  # (B, N, T, H) -> (B, T, D)
        return (output, weights) if return_weights else output

    def _split(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B N L H"]:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def _check_inputs(self, x: Tensor, memory: Tensor) -> None:
        for name, tensor, width in (("x", x, self.d_model), ("memory", memory, self.d_kv)):
            if tensor.ndim != 3 or tensor.shape[-1] != width:
                raise ShapeError(
                    f"{name} has shape {tuple(tensor.shape)}, expected (batch, length, {width}); "
                    "a memory of another width needs d_kv=… when the module is made"
                )
        if x.shape[0] != memory.shape[0]:
            raise ShapeError(f"x is a batch of {x.shape[0]} but memory of {memory.shape[0]}: they must be equal")


def from_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an `nn.MultiheadAttention` under the names used here (also a map for `mm.matches`).

    PyTorch stacks the three projections into one matrix, unless keys and values have another width.
    """
    if "in_proj_weight" in state:
        q, k, v = state["in_proj_weight"].chunk(3)
    else:
        q, k, v = (state[f"{name}_proj_weight"] for name in "qkv")
    own = {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "out_proj.weight": state["out_proj.weight"]}
    if "in_proj_bias" in state:
        q, k, v = state["in_proj_bias"].chunk(3)
        own |= {"q_proj.bias": q, "k_proj.bias": k, "v_proj.bias": v, "out_proj.bias": state["out_proj.bias"]}
    return own


def to_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back: a state dict of `MultiHeadAttention` under the names of `nn.MultiheadAttention`.

    Only the weights are the same: PyTorch's module takes masks the other way round, True = ignore.
    """
    weights = [state[f"{name}_proj.weight"] for name in "qkv"]
    other = {name: value for name, value in state.items() if name.startswith("out_proj")}
    if weights[0].shape == weights[1].shape:
        other["in_proj_weight"] = torch.cat(weights)
    else:
        other |= {f"{name}_proj_weight": weight for name, weight in zip("qkv", weights, strict=True)}
    if "q_proj.bias" in state:
        other["in_proj_bias"] = torch.cat([state[f"{name}_proj.bias"] for name in "qkv"])
    return other


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    sizes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ShapeError(f"{sizes}: each needs at least two dimensions, (..., length, features)")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"{sizes}: queries have {q.shape[-1]} features but keys {k.shape[-1]}: they must be equal")
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"{sizes}: there are {k.shape[-2]} keys but {v.shape[-2]} values: each key needs a value")
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ShapeError(f"{sizes}: the dimensions before (length, features) must be equal")


def _what_to_keep(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """The mask and the causal mask as one boolean tensor that broadcasts to the scores, or None."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    keep = causal_mask(n_queries, n_keys, q.device) if causal else None
    if mask is None:
        return keep
    if mask.dtype != torch.bool:
        raise ShapeError(f"the mask has dtype {mask.dtype}, expected torch.bool with True = keep: pass mask.bool()")
    if mask.ndim == 2 and q.ndim > 2:  # (B, S): one row of keys for each sequence
        if mask.shape != (q.shape[0], n_keys):
            raise ShapeError(
                f"the mask has shape {tuple(mask.shape)}, expected (batch, keys) = {(q.shape[0], n_keys)}: "
                "pass mask[None] for a mask of (queries, keys)"
            )
        mask = mask.view(q.shape[0], *[1] * (q.ndim - 2), n_keys)
    wanted = (*q.shape[:-1], n_keys)
    if not _broadcasts(mask.shape, wanted):
        raise ShapeError(f"the mask has shape {tuple(mask.shape)}, which does not broadcast to the scores {wanted}")
    return mask if keep is None else mask & keep


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) > len(wanted):
        return False
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return all(size in (1, target) for size, target in pairs)
