"""BERT: a Transformer encoder that reads to both sides and learns by filling in masked words (Devlin et al. 2019).

Dimensions: B batch, T tokens, D features, V words of the vocabulary. A mask (B, T) is True where a token is to be
read. Chapter 10 builds everything here by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import DataError, ShapeError
from mmlearn.nn.pretrained import Pretrained, number, published_stack, read_stack
from mmlearn.nn.transformer import ACTIVATIONS, Transformer, TransformerConfig, check_tokens, where

IGNORE = -100  # the label of a position that is not to be predicted; F.cross_entropy leaves it out


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT; BERT-base of the paper is `BertConfig(30522, 768, 12, 12, max_len=512)`.

    n_segments: kinds of sentence, 2 for pairs. pooler: one more layer with tanh on the first token.
    d_ff: None means 4 · d_model. Raises ShapeError or ValueError.
    """

    vocab_size: int
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    d_ff: int | None = None
    max_len: int = 64
    n_segments: int = 2
    pooler: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    norm_eps: float = 1e-12

    def __post_init__(self):
        if min(self.vocab_size, self.max_len, self.n_segments) < 1:
            raise ShapeError(f"vocab_size, max_len and n_segments must be at least 1: {self}")
        self.transformer  # noqa: B018  (checks the rest)

    @property
    def transformer(self) -> TransformerConfig:
        """The stack of post-norm layers."""
        return TransformerConfig.stack_of(self, norm_first=False)


class BertEmbedding(nn.Module):
    """Word + position + segment, normalised (Devlin et al. 2019, figure 2). (B, T) -> (B, T, D)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.d_model)
        self.position = nn.Embedding(config.max_len, config.d_model)
        self.segment = nn.Embedding(config.n_segments, config.d_model)
        for table in (self.token, self.position, self.segment):
            nn.init.normal_(table.weight, std=0.02)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Int[Tensor, "B T"], segments: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """segments: 0 for every token where None. Raises ShapeError, or DataError for a token out of range."""
        positions, _ = where(tokens, None, self.config.max_len)
        check_tokens(tokens, self.config.vocab_size)
        segments = torch.zeros_like(tokens) if segments is None else segments
        if segments.shape != tokens.shape:
            raise ShapeError(
                f"segments {tuple(segments.shape)} and tokens {tuple(tokens.shape)} must be equal in shape"
            )
        if segments.numel() and not 0 <= segments.min() <= segments.max() < self.config.n_segments:
            raise DataError(f"segments go from 0 to {self.config.n_segments - 1}: give each sentence one of these")
        x = self.token(tokens) + self.position(positions) + self.segment(segments)
        return self.dropout(self.norm(x))


LAYER_TO_OWN = (
    (r"^encoder\.layer\.", "transformer.layers."),
    (r"\.attention\.self\.(query|key|value)", lambda m: f".attention.{m[1][0]}_proj"),
    (r"\.attention\.output\.dense", ".attention.out_proj"),
    (r"\.attention\.output\.LayerNorm", ".norm"),
    (r"\.intermediate\.dense", ".feed_forward.widen"),
    (r"\.output\.dense", ".feed_forward.narrow"),
    (r"\.output\.LayerNorm", ".feed_forward_norm"),
)
LAYER_TO_PUBLISHED = (
    (r"^transformer\.layers", "encoder.layer"),
    (r"\.feed_forward_norm", ".output.LayerNorm"),
    (r"(\d)\.norm", r"\1.attention.output.LayerNorm"),
    (r"\.attention\.out_proj", ".attention.output.dense"),
    (r"\.attention\.q_proj", ".attention.self.query"),
    (r"\.attention\.k_proj", ".attention.self.key"),
    (r"\.attention\.v_proj", ".attention.self.value"),
    (r"\.feed_forward\.widen", ".intermediate.dense"),
    (r"\.feed_forward\.narrow", ".output.dense"),
)


class Bert(Pretrained):
    """The encoder: tokens to vectors that have read the whole sentence.

    `from_pretrained("bert-base-uncased")` and its kind can be read and written; what a published file holds of the
    pretraining heads is left out here, and read by `BertForMaskedLM`.
    """

    model_type = "bert"
    prefix = "bert."
    ignored = (r"^cls\.", r"embeddings\.position_ids$")
    to_own = (
        (r"^embeddings\.word_embeddings", "embedding.token"),
        (r"^embeddings\.position_embeddings", "embedding.position"),
        (r"^embeddings\.token_type_embeddings", "embedding.segment"),
        (r"^embeddings\.LayerNorm", "embedding.norm"),
        *LAYER_TO_OWN,
        (r"^pooler\.dense", "pooler"),
    )
    to_published = (
        (r"^embedding\.token", "embeddings.word_embeddings"),
        (r"^embedding\.position", "embeddings.position_embeddings"),
        (r"^embedding\.segment", "embeddings.token_type_embeddings"),
        (r"^embedding\.norm", "embeddings.LayerNorm"),
        *LAYER_TO_PUBLISHED,
        (r"^pooler", "pooler.dense"),
    )

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embedding = BertEmbedding(config)
        self.transformer = Transformer(config.transformer)
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """A vector for every token; outputs at hidden positions are defined, but mean nothing.

        Raises ShapeError for a shape or a length that does not fit, DataError for a token outside the vocabulary.
        """
        return self.transformer(self.embedding(tokens, segments), mask=mask)

    def pool(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """One vector for a sentence: that of its first token (through the pooler, where there is one)."""
        return hidden[:, 0] if self.pooler is None else self.pooler(hidden[:, 0]).tanh()

    def attention_maps(
        self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None
    ) -> list[Float[Tensor, "B N T T"]]:
        """Which token reads which: the weights of every layer and head."""
        return self.transformer.attention_maps(self.embedding(tokens), mask=mask)

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> BertConfig:
        if described.get("is_decoder") or described.get("add_cross_attention"):
            raise ValueError("is_decoder or add_cross_attention is true: only an encoder can be read")
        return BertConfig(
            vocab_size=number(described, "vocab_size"),
            max_len=number(described, "max_position_embeddings"),
            n_segments=number(described, "type_vocab_size", 2),
            pooler="pooler.weight" in shapes,
            dropout=float(described.get("hidden_dropout_prob", 0.0)),
            norm_eps=float(described.get("layer_norm_eps", 1e-12)),
            **read_stack(described),
        )

    def _published_config(self) -> dict:
        config = self.config
        return {
            "architectures": [{"Bert": "BertModel"}.get(type(self).__name__, type(self).__name__)],
            "vocab_size": config.vocab_size,
            **published_stack(config),
            "max_position_embeddings": config.max_len,
            "type_vocab_size": config.n_segments,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
            "pad_token_id": 0,
        }


class MaskedWordHead(nn.Module):
    """From vectors to logits of words: dense, activation, norm, then the word vectors themselves and a bias."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Float[Tensor, "*B D"], words: Float[Tensor, "V D"]) -> Float[Tensor, "*B V"]:
        return F.linear(self.norm(self.activation(self.dense(x))), words, self.bias)


class BertForMaskedLM(Bert):
    """BERT with the head that fills in masked words (Devlin et al. 2019, section 3.1, task 1)."""

    heads = ("head.",)
    ignored = (r"^pooler", r"^cls\.seq_relationship", r"^cls\.predictions\.decoder", r"embeddings\.position_ids$")
    to_own = (
        *Bert.to_own,
        (r"^cls\.predictions\.transform\.dense", "head.dense"),
        (r"^cls\.predictions\.transform\.LayerNorm", "head.norm"),
        (r"^cls\.predictions\.bias", "head.bias"),
    )
    to_published = (
        *Bert.to_published,
        (r"^head\.dense", "cls.predictions.transform.dense"),
        (r"^head\.norm", "cls.predictions.transform.LayerNorm"),
        (r"^head\.bias", "cls.predictions.bias"),
    )

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.head = MaskedWordHead(config)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the word at every position."""
        return self.head(self.hidden(tokens, mask, segments), self.embedding.token.weight)

    def hidden(self, tokens, mask=None, segments=None) -> Float[Tensor, "B T D"]:
        """The vectors under the head, as `Bert` gives them."""
        return super().forward(tokens, mask, segments)

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> BertConfig:
        return super()._read_config(described, {n: s for n, s in shapes.items() if not n.startswith("pooler")})


def mask_tokens(
    tokens: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    mask_id: int,
    vocab_size: int,
    special: Iterable[int] = (0, 1, 2, 3, 4),
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """What the model reads and what it is to say: inputs, and labels that are `IGNORE` where nothing is asked.

    Of the real tokens, each is chosen with `probability`; of those, 80 % become `mask_id`, 10 % another word drawn
    evenly from the words that are not special, 10 % stay. Special tokens and padding are never chosen.
    Source: Devlin et al. 2019, section 3.1. Raises ShapeError or ValueError.
    """
    if mask.shape != tokens.shape or mask.dtype != torch.bool:
        raise ShapeError(f"the mask is {tuple(mask.shape)} of {mask.dtype}, expected torch.bool {tuple(tokens.shape)}")
    if not 0 < probability <= 1:
        raise ValueError(f"probability={probability} must lie above 0 and not above 1")
    special = torch.tensor(sorted({*special, mask_id}), device=tokens.device)
    words = torch.arange(vocab_size, device=tokens.device)
    words = words[~torch.isin(words, special)]
    if not len(words):
        raise ValueError(f"a vocabulary of {vocab_size} tokens has no word that is not special")

    def draw() -> Tensor:
        return torch.rand(tokens.shape, generator=generator, device=tokens.device)

    chosen = (draw() < probability) & mask & ~torch.isin(tokens, special)
    what = draw()
    others = words[(draw() * len(words)).long().clamp(max=len(words) - 1)]
    inputs = tokens.masked_fill(chosen & (what < 0.8), mask_id)
    inputs = torch.where(chosen & (what >= 0.8) & (what < 0.9), others, inputs)
    return inputs, tokens.masked_fill(~chosen, IGNORE)
