"""The Transformer: attention and a feed-forward network, each beside a residual stream, stacked.

Vaswani et al., "Attention Is All You Need", NIPS 2017; pre-norm as in GPT-2 (Radford et al. 2019); rotary positions
of Su et al., "RoFormer", arXiv:2104.09864. Chapter 03 builds everything here by hand.

Dimensions: B batch, T tokens, S keys (those read before included), D features, N heads, H features of one head.
A mask is boolean, (B, T), and True means keep.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import DataError, ShapeError
from mmlearn.nn.attention import MultiHeadAttention, scaled_dot_product_attention

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
}


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer; frozen, so that a model and its checkpoint cannot drift apart.

    d_ff: width inside the feed-forward network; None means 4 · d_model (see `width_ff`).
    vocab_size: number of tokens; 0 where the input is not tokens. max_len: the longest sequence, in tokens.
    norm_first: normalise before each sublayer (pre-norm) or after it (post-norm, as in 2017).
    positions: "learned", "sinusoidal", "rotary" or "none". activation: "gelu", "gelu_tanh" (GPT-2), "quick_gelu"
    (CLIP) or "relu".
    tie_weights: one matrix for reading tokens and for predicting them. Raises ShapeError or ValueError.
    """

    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    d_ff: int | None = None
    vocab_size: int = 0
    max_len: int = 256
    norm_first: bool = True
    positions: str = "learned"
    activation: str = "gelu"
    dropout: float = 0.0
    bias: bool = True
    norm_eps: float = 1e-5
    tie_weights: bool = True

    def __post_init__(self):
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: use one of {', '.join(POSITIONS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: use one of {', '.join(ACTIVATIONS)}")
        least = {"d_model": 1, "n_layers": 1, "width_ff": 1, "vocab_size": 0, "max_len": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ShapeError(f"{name.replace('width_ff', 'd_ff')}={getattr(self, name)}: give {low} or more")
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ShapeError(f"d_model={self.d_model} cannot be cut into n_heads={self.n_heads} equal heads")
        if self.positions == "rotary" and self.d_head % 2:
            raise ShapeError(f"rotary positions turn pairs of features: d_model / n_heads = {self.d_head} must be even")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ShapeError(f"sinusoidal positions come in pairs: d_model={self.d_model} must be even")

    @classmethod
    def stack_of(cls, config, **changes) -> "TransformerConfig":
        """The layers inside a larger model, which makes its positions itself: the sizes of its configuration."""
        names = ("d_model", "n_heads", "n_layers", "d_ff", "activation", "dropout", "norm_eps")
        sizes = {name: getattr(config, name) for name in names if hasattr(config, name)}
        return cls(**{"positions": "none"} | sizes | changes)

    @property
    def d_head(self) -> int:
        """Features of one head, H."""
        return self.d_model // self.n_heads

    @property
    def width_ff(self) -> int:
        """Width inside the feed-forward network."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff


# ---------------------------------------------------------------------------------------------------------- positions
def sinusoidal_positions(length: int, d_model: int, device: torch.device | None = None) -> Float[Tensor, "T D"]:
    """sin and cos of the position at d_model / 2 rates, side by side in pairs (Vaswani et al. 2017, §3.5).

    Pair i turns by 10,000^(-2i / d_model) radians a position; every entry lies in [-1, 1]. Raises ShapeError for an
    odd d_model.
    """
    angles = _angles(torch.arange(length, device=device), d_model)  # (T, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotary_turns(
    positions: Int[Tensor, "*B T"], d_head: int
) -> tuple[Float[Tensor, "*B T H"], Float[Tensor, "*B T H"]]:
    """cos and sin of the angle by which each pair of features is turned at each position (Su et al. 2021, eq. 34).

    Raises ShapeError for an odd d_head.
    """
    angles = _angles(positions, d_head).repeat(*[1] * positions.ndim, 2)  # the same for both halves
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "B N T H"], turns: tuple[Float[Tensor, "*B T H"], Float[Tensor, "*B T H"]]
) -> Float[Tensor, "B N T H"]:
    """Turn the pairs (i, i + H/2) of queries or keys by their position's angles.

    The dot product of a turned query and a turned key depends on their distance only. The paper pairs neighbouring
    features; pairing halves, as GPT-NeoX and Llama do, is the same up to the order of the features. Raises ShapeError
    where the turns are not made for this length and width.
    """
    if turns[0].shape[-2:] != x.shape[-2:]:
        raise ShapeError(
            f"x is {tuple(x.shape)}, but the turns are for (length, features) = {tuple(turns[0].shape[-2:])}: make "
            f"them with rotary_turns(positions, {x.shape[-1]}), one position for each of the {x.shape[-2]}"
        )
    cos, sin = (t[:, None] if t.ndim == 3 else t for t in turns)  # the same for every head
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _angles(positions: Tensor, width: int) -> Tensor:
    """position · 10,000^(-2i / width) in radians: (..., width / 2)."""
    if width % 2:
        raise ShapeError(f"positions of {width} features: they come in pairs (sine and cosine), so make it even")
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000) / width))
    return positions[..., None] * rates


class TokenEmbedding(nn.Module):
    """Tokens to vectors, plus where they stand (nothing is added for rotary positions: those turn the queries).

    Raises DataError for a token outside the vocabulary. `where` makes the positions, and says what is too long.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        if config.vocab_size < 1:
            raise ShapeError("vocab_size=0: say how many tokens there are, TransformerConfig(vocab_size=…)")
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.token.weight, std=0.02)
        if config.positions == "learned":
            self.position = nn.Embedding(config.max_len, config.d_model)
            nn.init.normal_(self.position.weight, std=0.02)
        if config.positions == "sinusoidal":
            self.register_buffer("table", sinusoidal_positions(config.max_len, config.d_model), persistent=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]) -> Float[Tensor, "B T D"]:
        """positions: (T,) or (B, T), from 0 to max_len - 1."""
        check_tokens(tokens, self.config.vocab_size)
        x = self.token(tokens)
        if self.config.positions == "learned":
            x = x + self.position(positions)
        elif self.config.positions == "sinusoidal":  # §3.4: scaled, so that the table does not drown the tokens
            x = x * math.sqrt(self.config.d_model) + self.table[positions]
        return self.dropout(x)


def check_whole(tokens: Tensor) -> None:
    """Raises ShapeError unless tokens are whole numbers of the shape (batch, length)."""
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ShapeError(
            f"tokens are {tuple(tokens.shape)} of {tokens.dtype}, expected whole numbers of the shape (batch, length)"
        )


def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raises DataError, naming the first, where a token is outside the vocabulary."""
    if torch.compiler.is_compiling() or not tokens.numel():
        return
    low, high = torch.aminmax(tokens)
    if low < 0 or high >= vocab_size:
        row, column = ((tokens < 0) | (tokens >= vocab_size)).nonzero()[0].tolist()
        raise DataError(
            f"token {tokens[row, column].item()} at position {column} of sequence {row} is outside the vocabulary "
            f"of {vocab_size} tokens (0 to {vocab_size - 1}): encode with the tokenizer that the model was made for"
        )


def check_vectors(x: Tensor, width: int) -> None:
    """Raises ShapeError unless x is (batch, length, width)."""
    if x.ndim != 3 or x.shape[-1] != width:
        raise ShapeError(f"x has shape {tuple(x.shape)}, expected (batch, length, {width})")


def check_memory(memory: Tensor, x: Tensor) -> Tensor:
    """The memory as it came. Raises ShapeError unless it is as wide as x, and for as many sequences."""
    if memory.ndim != 3 or (len(memory), memory.shape[-1]) != (len(x), x.shape[-1]):
        raise ShapeError(
            f"the memory has shape {tuple(memory.shape)}, expected (batch, length, features) with the batch "
            f"{len(x)} and the features {x.shape[-1]} of x"
        )
    return memory


# --------------------------------------------------------------------------------------------------------- one layer
class CachedAttention(MultiHeadAttention):
    """Multi-head attention in two halves, so that keys and values can be kept and used again."""

    def keys_values(self, x, turns=None, past=None) -> tuple[Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """Keys and values of x (B, T, D), turned where positions are rotary, behind those of the past."""
        k, v = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        k = rotate(k, turns) if turns is not None else k
        if past is None:
            return k, v
        return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)

    def attend(self, x, keys_values, *, mask=None, causal=False, turns=None) -> Float[Tensor, "B T D"]:
        """What the queries of x (B, T, D) read from keys and values."""
        q = self._split(self.q_proj(x))
        heads = scaled_dot_product_attention(
            rotate(q, turns) if turns is not None else q,
            *keys_values,
            mask,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
            fused=self.fused,
        )
        return self.out_proj(heads.transpose(1, 2).flatten(2))  # (B, N, T, H) -> (B, T, D)


class FeedForward(nn.Module):
    """Each position by itself: widen, bend, narrow (Vaswani et al. 2017, eq. 2). (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.widen = nn.Linear(config.d_model, config.width_ff, config.bias)
        self.narrow = nn.Linear(config.width_ff, config.d_model, config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.narrow(self.activation(self.widen(x)))


class TransformerLayer(nn.Module):
    """Attention, then feed-forward, each added to the residual stream; `cross` reads a memory in between.

    Pre-norm: x + sublayer(norm(x)). Post-norm: norm(x + sublayer(x)).
    """

    def __init__(self, config: TransformerConfig, *, cross: bool = False):
        super().__init__()
        self.norm_first = config.norm_first
        options = {"dropout": config.dropout, "bias": config.bias}
        self.attention = CachedAttention(config.d_model, config.n_heads, **options)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
        self.cross = CachedAttention(config.d_model, config.n_heads, **options) if cross else None
        self.cross_norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
        memory_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """One layer on its own. Raises ShapeError for sizes that do not fit, and for a memory missing or unasked."""
        check_vectors(x, self.attention.d_model)
        if (memory is None) != (self.cross is None):
            raise ShapeError("a layer made with cross=True needs a memory, and one without it takes none")
        kept = None if memory is None else self.cross.keys_values(check_memory(memory, x))
        return self.step(x, mask=mask, causal=causal, memory=kept, memory_mask=memory_mask)[0]

    def step(self, x, *, mask=None, causal=False, turns=None, past=None, memory=None, memory_mask=None):
        """The layer's output (B, T, D) and the keys and values to keep; `past` and `memory` are keys and values."""
        h = self._before(x, self.norm)
        present = self.attention.keys_values(h, turns, past)
        x = self._add(x, self.attention.attend(h, present, mask=mask, causal=causal, turns=turns), self.norm)
        if self.cross is not None:
            h = self._before(x, self.cross_norm)
            x = self._add(x, self.cross.attend(h, memory, mask=memory_mask), self.cross_norm)
        x = self._add(x, self.feed_forward(self._before(x, self.feed_forward_norm)), self.feed_forward_norm)
        return x, present

    def _before(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.norm_first else x

    def _add(self, x: Tensor, change: Tensor, norm: nn.Module) -> Tensor:
        x = x + self.dropout(change)
        return x if self.norm_first else norm(x)


class Transformer(nn.Module):
    """Layers on top of each other, on vectors (B, T, D); pre-norm ends with one more normalisation.

    causal: no position sees a later one. cross: every layer also reads a memory (B, S, D).
    The layers that write into the residual stream start smaller, by 1/√(2 · n_layers), as in GPT-2.
    """

    def __init__(self, config: TransformerConfig, *, causal: bool = False, cross: bool = False):
        super().__init__()
        self.config, self.causal = config, causal
        self.layers = nn.ModuleList(TransformerLayer(config, cross=cross) for _ in range(config.n_layers))
        norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
        self.norm = norm if config.norm_first else nn.Identity()
        for name, parameter in self.layers.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith(("out_proj.weight", "narrow.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layers))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """mask: True = keep, (B, T); positions: (T,) or (B, T), used by rotary positions only (default 0, 1, …)."""
        check_vectors(x, self.config.d_model)
        kept = None if memory is None else self.remember(check_memory(memory, x))
        return self.step(x, mask=mask, positions=positions, memory=kept, memory_mask=memory_mask)[0]

    def attention_maps(
        self, x: Float[Tensor, "B T D"], *, mask: Bool[Tensor, "B T"] | None = None
    ) -> list[Float[Tensor, "B N T S"]]:
        """The self-attention weights of every layer and head, to be looked at (not with rotary positions)."""
        maps = []
        for layer in self.layers:
            h = layer.norm(x) if layer.norm_first else x
            maps.append(layer.attention(h, mask=mask, causal=self.causal, return_weights=True)[1])
            x = layer(x, mask=mask, causal=self.causal)
        return maps

    def remember(self, memory: Float[Tensor, "B S D"]) -> tuple:
        """Keys and values of a memory for every layer: computed once, read at every step."""
        if self.layers and self.layers[0].cross is None:
            raise ShapeError("this stack has no cross-attention: make it with cross=True to read a memory")
        return tuple(layer.cross.keys_values(memory) for layer in self.layers)

    def step(self, x, *, mask=None, positions=None, past=None, memory=None, memory_mask=None) -> tuple[Tensor, tuple]:
        """The outputs of x (B, T, D) and the keys and values of every layer, with the past's in front."""
        if memory is None and self.layers and self.layers[0].cross is not None:
            raise ShapeError("this stack was made with cross=True: pass the memory that it is to read")
        turns = None
        if self.config.positions == "rotary":
            positions = torch.arange(x.shape[1], device=x.device) if positions is None else positions
            turns = tuple(turn.to(x.dtype) for turn in rotary_turns(positions, self.config.d_head))
        kept = []
        for i, layer in enumerate(self.layers):
            x, present = layer.step(
                x,
                mask=mask,
                causal=self.causal,
                turns=turns,
                past=None if past is None else past[i],
                memory=None if memory is None else memory[i],
                memory_mask=memory_mask,
            )
            kept.append(present)
        return self.norm(x), tuple(kept)


# ------------------------------------------------------------------------------------------------------ whole models
class Encoder(nn.Module):
    """Tokens to vectors that have seen the whole sequence: (B, T) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.transformer = Transformer(config)

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """Outputs at hidden positions are defined, but mean nothing. Raises as `TokenEmbedding` does."""
        positions, _ = where(tokens, mask, self.config.max_len)
        return self.transformer(self.embedding(tokens, positions), mask=mask, positions=positions)


class CausalLM(nn.Module):
    """A language model: at each position the logits of the next token.

    `model(tokens)` reads all at once; `model.step(tokens, state)` goes on from where it was, with the keys and
    values of the past kept in `state` (the KV cache): the outputs are equal, the work is not.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.transformer = Transformer(config, causal=True)
        self.unembed = _unembedding(config)

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T V"]:
        """Logits of the token after each. A mask is only needed for padding on the left; that on the right is future.

        Positions count the kept tokens, so that padding on either side changes nothing.
        """
        positions, _ = where(tokens, mask, self.config.max_len)
        x = self.transformer(self.embedding(tokens, positions), mask=mask, positions=positions)
        return _logits(self, x)

    def start(self, mask: Bool[Tensor, "B T"] | None = None) -> dict:
        """The state before the first step; mask (B, T) where the first tokens are padded, on the left."""
        return _start(mask)

    def step(self, tokens: Int[Tensor, "B T"], state: dict | None = None) -> tuple[Float[Tensor, "B V"], dict]:
        """Logits of the token after these and the new state. The state given is not changed."""
        return _decode(self, self.transformer, tokens, state or self.start())


class EncoderDecoder(nn.Module):
    """Reads one sequence whole and writes another: the Transformer of 2017, both over one vocabulary."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.encoder = Transformer(config)
        self.decoder = Transformer(config, causal=True, cross=True)
        self.unembed = _unembedding(config)

    def forward(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each of the target's."""
        memory = self.encode(source, source_mask)
        positions, _ = where(target, target_mask, self.config.max_len)
        x = self.embedding(target, positions)
        x = self.decoder(x, memory, mask=target_mask, positions=positions, memory_mask=source_mask)
        return _logits(self, x)

    def encode(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B S D"]:
        """What the encoder makes of the source."""
        positions, _ = where(source, mask, self.config.max_len)
        return self.encoder(self.embedding(source, positions), mask=mask, positions=positions)

    def start(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"] | None = None) -> dict:
        """The state before the first step: the source is read once."""
        return _start(None) | {"memory": self.decoder.remember(self.encode(source, mask)), "memory_mask": mask}

    def step(self, tokens: Int[Tensor, "B T"], state: dict | None = None) -> tuple[Float[Tensor, "B V"], dict]:
        """Logits of the token after these and the new state, from `start(source)` or the step before."""
        if state is None:
            raise ShapeError("a decoder needs a source to look at: begin with state=model.start(source)")
        return _decode(self, self.decoder, tokens, state)


def where(tokens: Tensor, mask: Tensor | None, max_len: int, past: int = 0) -> tuple[Tensor, Tensor | None]:
    """The position of each token, (T,) or (B, T), counted over kept tokens, and the mask over past and present.

    mask: None, or over past and present, (B, past + T). Raises ShapeError where something does not fit or is too long.
    """
    check_whole(tokens)
    length = tokens.shape[1]
    if past + length > max_len:
        raise ShapeError(
            f"the sequence has {past + length} tokens, the model takes {max_len}: cut it, or make the model with a "
            "larger max_len"
        )
    if mask is None:
        return torch.arange(past, past + length, device=tokens.device), None
    if mask.shape != (tokens.shape[0], past + length) or mask.dtype != torch.bool:
        raise ShapeError(
            f"the mask is {tuple(mask.shape)} of {mask.dtype}, expected torch.bool of the shape "
            f"{(tokens.shape[0], past + length)} with True = keep"
        )
    return (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:], mask


def _unembedding(config: TransformerConfig) -> nn.Linear | None:
    return None if config.tie_weights else nn.Linear(config.d_model, config.vocab_size, bias=False)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, model.embedding.token.weight) if model.unembed is None else model.unembed(x)


def _start(mask: Tensor | None) -> dict:
    if mask is not None and (mask.ndim != 2 or mask.dtype != torch.bool):
        raise ShapeError(
            f"the mask is {tuple(mask.shape)} of {mask.dtype}, expected torch.bool of the shape (batch, length)"
        )
    if mask is not None and mask.shape[1] and not mask[:, -1].all():
        raise ShapeError("the last token of a prompt must be a real one: put the padding on the left")
    return {"past": None, "mask": mask}


def _decode(model: nn.Module, stack: Transformer, tokens: Tensor, state: dict) -> tuple[Tensor, dict]:
    """One step of a decoder with a cache."""
    past, mask = state["past"], state["mask"]
    kept = past or state.get("memory")
    if kept and len(kept[0][0]) != len(tokens):
        raise ShapeError(
            f"tokens are a batch of {len(tokens)}, but the state is one of {len(kept[0][0])}: pass the state of the "
            "same sequences, or choose among them with select_rows(state, rows)"
        )
    n_past = past[0][0].shape[2] if past else 0
    if mask is not None and past:
        mask = F.pad(mask, (0, tokens.shape[-1]), value=True)
    positions, _ = where(tokens, mask, model.config.max_len, n_past)
    if not tokens.shape[1]:
        raise ShapeError("a step needs at least one token: begin with the start token")
    x, past = stack.step(
        model.embedding(tokens, positions),
        mask=mask,
        positions=positions,
        past=past,
        memory=state.get("memory"),
        memory_mask=state.get("memory_mask"),
    )
    return _logits(model, x[:, -1]), state | {"past": past, "mask": mask}


# ------------------------------------------------------------------------------------------------- weights of others
def from_torch_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of an `nn.TransformerEncoderLayer` or `nn.TransformerDecoderLayer` under the names used here.

    Also a map for `mm.matches`. PyTorch numbers its norms: the last one belongs to the feed-forward network.
    """
    cross = any(name.startswith("multihead_attn") for name in state)
    names = {"linear1": "feed_forward.widen", "linear2": "feed_forward.narrow", "norm1": "norm"}
    names |= {"norm2": "cross_norm", "norm3": "feed_forward_norm"} if cross else {"norm2": "feed_forward_norm"}
    own = {}
    for name, value in state.items():
        module, _, rest = name.partition(".")
        if module in ("self_attn", "multihead_attn"):
            target = "attention" if module == "self_attn" else "cross"
            own |= _attention_part(target, rest, value)
        else:
            own[f"{names[module]}.{rest}"] = value
    return own


def from_torch_stack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of an `nn.TransformerEncoder` or `nn.TransformerDecoder` under the names of `Transformer`."""
    layers: dict[str, dict] = {}
    own = {name: value for name, value in state.items() if name.startswith("norm.")}
    for name, value in state.items():
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            layers.setdefault(number, {})[rest] = value
    for number, layer in layers.items():
        own |= {f"layers.{number}.{name}": value for name, value in from_torch_layer(layer).items()}
    return own


def _attention_part(target: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    if rest.startswith("in_proj"):
        kind = rest.removeprefix("in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{target}.{letter}_proj.{kind}": part for letter, part in parts}
    return {f"{target}.{rest}": value}


GPT2_NAMES = {
    "ln_1": "norm",
    "ln_2": "feed_forward_norm",
    "attn.c_proj": "attention.out_proj",
    "mlp.c_fc": "feed_forward.widen",
    "mlp.c_proj": "feed_forward.narrow",
}


def gpt2_config(config) -> TransformerConfig:
    """The config of a `GPT2Config` of transformers (or anything with its attributes)."""
    activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    return TransformerConfig(
        d_model=config.n_embd,
        n_heads=config.n_head,
        n_layers=config.n_layer,
        d_ff=config.n_inner,
        vocab_size=config.vocab_size,
        max_len=config.n_positions,
        activation=activations[config.activation_function],
        dropout=config.resid_pdrop,
        norm_eps=config.layer_norm_epsilon,
        tie_weights=config.tie_word_embeddings,
    )


def from_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `GPT2LMHeadModel` of transformers under the names of `CausalLM` (a map for `mm.matches`).

    GPT-2 keeps its matrices the other way round, (in, out), and stacks queries, keys and values into one. The
    checkpoints on the Hugging Face hub are those of a bare `GPT2Model`, without "transformer." in front: they fit too.
    """
    if "wte.weight" in state:
        state = {f"transformer.{name}": value for name, value in state.items()}
    tokens, head = state["transformer.wte.weight"], state.get("lm_head.weight")
    own = {"embedding.token.weight": tokens, "embedding.position.weight": state["transformer.wpe.weight"]}
    own |= {f"transformer.norm.{kind}": state[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")}
    if head is not None and not torch.equal(head, tokens):
        own["unembed.weight"] = head
    for name, value in state.items():
        if not name.startswith("transformer.h."):
            continue
        _, _, number, rest = name.split(".", 3)
        module, _, kind = rest.rpartition(".")
        value = value.T if value.ndim == 2 else value
        if module == "attn.c_attn":
            parts = zip("qkv", value.chunk(3), strict=True)
            own |= {f"transformer.layers.{number}.attention.{x}_proj.{kind}": part for x, part in parts}
        elif module in GPT2_NAMES:
            own[f"transformer.layers.{number}.{GPT2_NAMES[module]}.{kind}"] = value
    return own


def to_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back: the state of a `CausalLM` under the names of `GPT2LMHeadModel`.

    The activation is no weight: GPT-2's is "gelu_tanh" (`gelu_new`). Raises DataError for a model that is built
    otherwise: without a table of learned positions, post-norm, or without biases.
    """
    if not {"embedding.position.weight", "transformer.norm.bias"} <= state.keys():
        raise DataError(
            "GPT-2 has learned positions, pre-norm and biases: make the model with positions='learned', "
            "norm_first=True and bias=True"
        )
    tokens = state["embedding.token.weight"]
    theirs = {"transformer.wte.weight": tokens, "lm_head.weight": state.get("unembed.weight", tokens)}
    theirs |= {"transformer.wpe.weight": state["embedding.position.weight"]}
    theirs |= {f"transformer.ln_f.{kind}": state[f"transformer.norm.{kind}"] for kind in ("weight", "bias")}
    names = {ours: name for name, ours in GPT2_NAMES.items()}
    for name, value in state.items():
        if not name.startswith("transformer.layers."):
            continue
        _, _, number, rest = name.split(".", 3)
        module, _, kind = rest.rpartition(".")
        value = value.T.contiguous() if value.ndim == 2 else value
        if module in names:
            theirs[f"transformer.h.{number}.{names[module]}.{kind}"] = value
        elif module == "attention.q_proj":
            others = (state[name.replace("q_proj", f"{letter}_proj")] for letter in "kv")
            parts = [value, *(other.T if other.ndim == 2 else other for other in others)]
            theirs[f"transformer.h.{number}.attn.c_attn.{kind}"] = torch.cat(parts, dim=-1)  # (D, 3 D) or (3 D)
    return theirs
