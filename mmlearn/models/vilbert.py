"""ViLBERT: one stream for regions, one for words, and layers in which each asks the other (Lu et al., NeurIPS 2019).

Dimensions: B batch, T words, R regions of a picture, D features of a stream, F of a region, C region classes.
Masks are boolean, True means keep. Chapter 12 builds everything here by hand.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import ShapeError
from mmlearn.nn import BertConfig, FeedForward, TransformerConfig, TransformerLayer, scaled_dot_product_attention
from mmlearn.nn.bert import LAYER_TO_OWN, BertEmbedding, MaskedWordHead
from mmlearn.nn.pretrained import Rules, substitute


@dataclass(frozen=True)
class ViLBERTConfig:
    """Sizes of both streams and where they meet; `ViLBERTConfig.published()` is the model of the paper.

    co_vision, co_text: co-attention layer i comes after so many layers of either stream.
    n_features: numbers of a region (2048 of Faster R-CNN in the paper); n_region_classes: 1600 and "background".
    Raises ShapeError where the streams do not meet in order.
    """

    vocab_size: int
    n_features: int
    n_region_classes: int
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    d_ff: int | None = None
    max_len: int = 32
    v_d_model: int = 128
    v_n_heads: int = 4
    v_n_layers: int = 2
    v_d_ff: int | None = None
    co_d_model: int = 128
    co_n_heads: int = 4
    co_text: tuple[int, ...] = (2, 3)
    co_vision: tuple[int, ...] = (0, 1)
    dropout: float = 0.0
    norm_eps: float = 1e-12

    def __post_init__(self):
        if self.co_d_model % self.co_n_heads:
            raise ShapeError(f"co_d_model={self.co_d_model} is no multiple of co_n_heads={self.co_n_heads}")
        for name, places, most in (("text", self.co_text, self.n_layers), ("vision", self.co_vision, self.v_n_layers)):
            if list(places) != sorted(places) or not 0 <= min(places) <= max(places) <= most:
                raise ShapeError(f"co_{name}={places} must rise from 0 or more to at most {most} layers")
        if len(self.co_text) != len(self.co_vision):
            raise ShapeError(f"co_text={self.co_text} and co_vision={self.co_vision} must be equally many")
        self.text.transformer, self.vision  # noqa: B018  (checks the rest)

    @classmethod
    def published(cls) -> "ViLBERTConfig":
        """Twelve layers of 768 for words, six of 1024 for regions, six co-attention layers of 1024 (section 3.2)."""
        return cls(
            vocab_size=30522,
            n_features=2048,
            n_region_classes=1601,
            d_model=768,
            n_heads=12,
            n_layers=12,
            d_ff=3072,
            max_len=512,
            v_d_model=1024,
            v_n_heads=8,
            v_n_layers=6,
            v_d_ff=1024,
            co_d_model=1024,
            co_n_heads=8,
            co_text=tuple(range(6, 12)),
            co_vision=tuple(range(6)),
            dropout=0.1,
        )

    @property
    def text(self) -> BertConfig:
        """The stream of words: a BERT."""
        sizes = (self.vocab_size, self.d_model, self.n_heads, self.n_layers, self.d_ff, self.max_len)
        return BertConfig(*sizes, dropout=self.dropout, norm_eps=self.norm_eps)

    @property
    def vision(self) -> TransformerConfig:
        """The stream of regions: post-norm layers of another width."""
        return TransformerConfig.stack_of(
            self,
            d_model=self.v_d_model,
            n_heads=self.v_n_heads,
            n_layers=self.v_n_layers,
            d_ff=self.v_d_ff,
            norm_first=False,
        )


class RegionEmbedding(nn.Module):
    """What a region looks like plus where it is, normalised. (B, R, F) and (B, R, 5) -> (B, R, D)."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        self.look = nn.Linear(config.n_features, config.v_d_model)
        self.place = nn.Linear(5, config.v_d_model)
        self.norm = nn.LayerNorm(config.v_d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, regions: Float[Tensor, "B R F"], places: Float[Tensor, "B R 5"]) -> Float[Tensor, "B R D"]:
        return self.dropout(self.norm(self.look(regions) + self.place(places)))


def place_of_boxes(boxes: Float[Tensor, "B R 4"], image_size: int) -> Float[Tensor, "B R 5"]:
    """Left, top, right, bottom and area of boxes as shares of the picture, from corners in pixels (section 3.1)."""
    corners = boxes / image_size
    area = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    return torch.cat([corners, area[..., None]], dim=-1)


class CoAttention(nn.Module):
    """Regions ask words and words ask regions, both at once; then each stream has its feed-forward network.

    Queries of one stream meet keys and values of the other (figure 2b of the paper); both have the width
    `co_d_model` inside. Post-norm, as everywhere in BERT.
    """

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        self.n_heads = config.co_n_heads
        self.dropout, self.rate = nn.Dropout(config.dropout), config.dropout
        for stream, transformer in (("vision", config.vision), ("text", config.text.transformer)):
            d, inner = transformer.d_model, config.co_d_model
            for name in ("q_proj", "k_proj", "v_proj"):
                self.add_module(f"{stream}_{name}", nn.Linear(d, inner))
            self.add_module(f"{stream}_out", nn.Linear(inner, d))
            self.add_module(f"{stream}_norm", nn.LayerNorm(d, config.norm_eps))
            self.add_module(f"{stream}_feed_forward", FeedForward(transformer))
            self.add_module(f"{stream}_feed_forward_norm", nn.LayerNorm(d, config.norm_eps))

    def forward(
        self,
        vision: Float[Tensor, "B R V"],
        text: Float[Tensor, "B T D"],
        vision_mask: Bool[Tensor, "B R"] | None = None,
        text_mask: Bool[Tensor, "B T"] | None = None,
        *,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "B R V"], Float[Tensor, "B T D"]] | tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Both streams after the exchange; with `return_weights` also (regions to words, words to regions)."""
        looked = self._ask("vision", vision, "text", text, text_mask, return_weights)
        read = self._ask("text", text, "vision", vision, vision_mask, return_weights)
        vision, text = self._add("vision", vision, looked[0]), self._add("text", text, read[0])
        return (vision, text, (looked[1], read[1])) if return_weights else (vision, text)

    def _ask(self, stream: str, x: Tensor, other: str, memory: Tensor, mask, return_weights: bool) -> tuple:
        q = getattr(self, f"{stream}_q_proj")(x)
        k, v = getattr(self, f"{other}_k_proj")(memory), getattr(self, f"{other}_v_proj")(memory)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
        dropout = self.rate if self.training else 0.0
        found = scaled_dot_product_attention(q, k, v, mask, dropout=dropout, return_weights=return_weights)
        heads, weights = found if return_weights else (found, None)
        return heads.transpose(1, 2).flatten(2), weights

    def _add(self, stream: str, x: Tensor, heads: Tensor) -> Tensor:
        x = getattr(self, f"{stream}_norm")(x + self.dropout(getattr(self, f"{stream}_out")(heads)))
        change = self.dropout(getattr(self, f"{stream}_feed_forward")(x))
        return getattr(self, f"{stream}_feed_forward_norm")(x + change)


class Streams(NamedTuple):
    """What comes out: every word and region, and one vector of each stream."""

    words: Float[Tensor, "B T D"]
    regions: Float[Tensor, "B R V"]
    text: Float[Tensor, "B P"]
    picture: Float[Tensor, "B P"]


class ViLBERT(nn.Module):
    """Two streams, co-attention, and the heads of its pretraining: masked words, masked regions, alignment.

    `model(regions, places, (tokens, mask))`; the first region stands for the whole picture, as in the paper.
    """

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        self.config = config
        d, v = config.d_model, config.v_d_model
        self.embed_text, self.embed_regions = BertEmbedding(config.text), RegionEmbedding(config)
        self.text_layers = nn.ModuleList(TransformerLayer(config.text.transformer) for _ in range(config.n_layers))
        self.vision_layers = nn.ModuleList(TransformerLayer(config.vision) for _ in range(config.v_n_layers))
        self.co_layers = nn.ModuleList(CoAttention(config) for _ in config.co_text)
        self.text_pooler, self.vision_pooler = nn.Linear(d, config.co_d_model), nn.Linear(v, config.co_d_model)
        self.word_head = MaskedWordHead(config.text)
        norm = nn.LayerNorm(v, config.norm_eps)
        self.region_head = nn.Sequential(nn.Linear(v, v), nn.GELU(), norm, nn.Linear(v, config.n_region_classes))
        self.match_head = nn.Linear(config.co_d_model, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        regions: Float[Tensor, "B R F"],
        places: Float[Tensor, "B R 5"],
        text: tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]],
        regions_mask: Bool[Tensor, "B R"] | None = None,
    ) -> Streams:
        """Read a batch of pictures, each with its text. Raises ShapeError where their numbers differ."""
        words, seen, _ = self._run(regions, places, text, regions_mask)
        return Streams(words, seen, self.text_pooler(words[:, 0]).relu(), self.vision_pooler(seen[:, 0]).relu())

    def co_attention_maps(self, regions, places, text, regions_mask=None) -> list[tuple[Tensor, Tensor]]:
        """For each co-attention layer: who among the words (B, N, R, T) and the regions (B, N, T, R) was looked at."""
        return self._run(regions, places, text, regions_mask, return_weights=True)[2]

    def guess_words(self, streams: Streams) -> Float[Tensor, "B T V"]:
        """Logits of the word at every position."""
        return self.word_head(streams.words, self.embed_text.token.weight)

    def guess_regions(self, streams: Streams) -> Float[Tensor, "B R C"]:
        """Logits of the class of every region."""
        return self.region_head(streams.regions)

    def matching(self, streams: Streams) -> Float[Tensor, " B"]:
        """The logit that picture and text belong together, from the product of their vectors (section 3.1)."""
        logits = self.match_head(streams.text * streams.picture)
        return logits[:, 0] - logits[:, 1]  # the published model's class 0 means aligned

    def _run(self, regions, places, text, regions_mask, *, return_weights: bool = False) -> tuple:
        tokens, mask = text
        if len(regions) != len(tokens):
            raise ShapeError(f"{len(regions)} pictures but {len(tokens)} texts: give each picture its text")
        words, seen, maps = self.embed_text(tokens), self.embed_regions(regions, places), []
        done_text, done_vision = 0, 0
        for layer, until_text, until_vision in zip(
            self.co_layers, self.config.co_text, self.config.co_vision, strict=True
        ):
            words = _through(self.text_layers[done_text:until_text], words, mask)
            seen = _through(self.vision_layers[done_vision:until_vision], seen, regions_mask)
            seen, words, *weights = layer(seen, words, regions_mask, mask, return_weights=return_weights)
            maps += weights
            done_text, done_vision = until_text, until_vision
        words = _through(self.text_layers[done_text:], words, mask)
        return words, _through(self.vision_layers[done_vision:], seen, regions_mask), maps

    @classmethod
    def own_state(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict (vilbert_beta, or MMF below `model.`) under our names.

        Left out on purpose: `q_dense1` and `q_dense2`, which the published code makes and never uses, and the word
        decoder, which repeats the word embedding.
        """
        renamed = {substitute(name, PUBLISHED): value for name, value in state.items()}
        unused = ("q_dense", "predictions.decoder", "position_ids")
        return {name: value for name, value in renamed.items() if not any(part in name for part in unused)}


def masked_region_loss(
    logits: Float[Tensor, "B R C"], target: Float[Tensor, "B R C"], masked: Bool[Tensor, "B R"]
) -> Float[Tensor, ""]:
    """How far the predicted classes of the masked regions are from the detector's: mean KL in nats, 0 where none is.

    Source: Lu et al. 2019, section 3.1, "masked multi-modal modelling".
    """
    divergence = F.kl_div(logits.log_softmax(dim=-1), target, reduction="none").sum(dim=-1)
    return (divergence * masked).sum() / masked.sum().clamp(min=1)


def _through(layers, x: Tensor, mask: Tensor | None) -> Tensor:
    for layer in layers:
        x = layer(x, mask=mask)
    return x


_STREAM = {"1": "vision", "2": "text", "v": "vision", "t": "text"}
PUBLISHED: Rules = (
    (r"^(module\.|model\.)+", ""),
    (r"^bert\.", ""),
    (r"^embeddings\.word_embeddings", "embed_text.token"),
    (r"^embeddings\.position_embeddings", "embed_text.position"),
    (r"^embeddings\.token_type_embeddings", "embed_text.segment"),
    (r"^embeddings\.LayerNorm", "embed_text.norm"),
    (r"^v_embeddings\.image_embeddings", "embed_regions.look"),
    (r"^v_embeddings\.image_location_embeddings", "embed_regions.place"),
    (r"^v_embeddings\.LayerNorm", "embed_regions.norm"),
    (r"^encoder\.layer\.", "text_layers."),
    (r"^encoder\.v_layer\.", "vision_layers."),
    (r"^encoder\.c_layer\.", "co_layers."),
    (r"\.biattention\.(query|key|value)([12])", lambda m: f".{_STREAM[m[2]]}_{m[1][0]}_proj"),
    (r"\.biOutput\.dense([12])", lambda m: f".{_STREAM[m[1]]}_out"),
    (r"\.biOutput\.LayerNorm([12])", lambda m: f".{_STREAM[m[1]]}_norm"),
    (r"\.([vt])_intermediate\.dense", lambda m: f".{_STREAM[m[1]]}_feed_forward.widen"),
    (r"\.([vt])_output\.dense", lambda m: f".{_STREAM[m[1]]}_feed_forward.narrow"),
    (r"\.([vt])_output\.LayerNorm", lambda m: f".{_STREAM[m[1]]}_feed_forward_norm"),
    *LAYER_TO_OWN,
    (r"^t_pooler\.dense", "text_pooler"),
    (r"^v_pooler\.dense", "vision_pooler"),
    (r"^cls\.predictions\.transform\.dense", "word_head.dense"),
    (r"^cls\.predictions\.transform\.LayerNorm", "word_head.norm"),
    (r"^cls\.predictions\.bias", "word_head.bias"),
    (r"^cls\.imagePredictions\.transform\.dense", "region_head.0"),
    (r"^cls\.imagePredictions\.transform\.LayerNorm", "region_head.2"),
    (r"^cls\.imagePredictions\.decoder", "region_head.3"),
    (r"^cls\.bi_seq_relationship", "match_head"),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
