"""CLIP: pictures and texts in one space by contrast (Radford et al., ICML 2021), and SigLIP (Zhai et al., ICCV 2023).

Dimensions: B batch of pictures, N of texts, T tokens, D features of a tower, P of the shared space (`d_proj`).
Chapter 13 builds everything here by hand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, DataError, ShapeError
from mmlearn.models.two_tower import MAX_SCALE
from mmlearn.nn.cnn import BasicBlock
from mmlearn.nn.pretrained import Pretrained, number, published_stack, read_stack
from mmlearn.nn.transformer import FeedForward, Transformer, TransformerConfig, check_tokens


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one tower. norm_eps and activation are those of CLIP; SigLIP has 1e-6 and "gelu_tanh"."""

    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    d_ff: int | None = None
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5

    @property
    def transformer(self) -> TransformerConfig:
        """The stack of pre-norm layers."""
        return TransformerConfig.stack_of(self)


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of a CLIP or SigLIP. end_id: the token behind the last word, whose vector stands for the text (CLIP)."""

    vocab_size: int
    vision: TowerConfig = TowerConfig()
    text: TowerConfig = TowerConfig(n_layers=2)
    image_size: int = 32
    patch_size: int = 4
    in_channels: int = 3
    max_len: int = 32
    d_proj: int = 128
    end_id: int = 3

    def __post_init__(self):
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % self.patch_size:
            raise ShapeError(f"a picture of {self.image_size} pixels cannot be cut into patches of {self.patch_size}")
        if min(self.vocab_size, self.max_len, self.d_proj) < 1:
            raise ShapeError(f"vocab_size, max_len and d_proj must be at least 1: {self}")
        self.vision.transformer, self.text.transformer  # noqa: B018  (checks the rest)


class PatchTower(nn.Module):
    """Patches to the tokens of the last layer; the first is the class token, where there is one (CLIP)."""

    def __init__(self, config: CLIPConfig, *, class_token: bool):
        super().__init__()
        self.config, self.d_model = config, config.vision.d_model
        d, n_patches = self.d_model, (config.image_size // config.patch_size) ** 2
        self.stem = nn.Conv2d(config.in_channels, d, config.patch_size, config.patch_size, bias=not class_token)
        self.class_token = nn.Parameter(torch.randn(d) * d**-0.5) if class_token else None
        self.position = nn.Embedding(n_patches + class_token, d)
        nn.init.normal_(self.position.weight, std=d**-0.5)
        self.norm_before = nn.LayerNorm(d, config.vision.norm_eps) if class_token else nn.Identity()
        self.transformer = Transformer(config.vision.transformer)

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        """What enters the first layer. Raises ShapeError for pictures of another shape."""
        config = self.config
        if images.shape[1:] != (config.in_channels, config.image_size, config.image_size):
            expected = f"(batch, {config.in_channels}, {config.image_size}, {config.image_size})"
            raise ShapeError(f"images have shape {tuple(images.shape)}, expected {expected}")
        x = self.stem(images).flatten(2).transpose(1, 2)  # (B, patches, D)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        return self.norm_before(x + self.position.weight)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        return self.transformer(self.embed(images))


class ResNetTower(nn.Module):
    """Residual blocks and attention pooling: the mean of all places asks the places (section 2.4 of the paper).

    image_size: in pixels; a stride-2 stem and one halving between stages leave a grid of
    image_size / 2 ** len(widths) places a side. The last width is `d_model`.
    """

    def __init__(self, image_size: int = 32, widths: tuple[int, ...] = (32, 64, 128), n_heads: int = 4):
        super().__init__()
        if image_size % 2 ** len(widths):
            raise ShapeError(f"a picture of {image_size} pixels cannot be halved {len(widths)} times")
        self.d_model = widths[-1]
        layers = [nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for before, width in zip((widths[0], *widths), widths, strict=False):
            layers.append(BasicBlock(before, width, stride=1 if len(layers) == 3 else 2))
        self.blocks = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        places = (image_size // 2 ** len(widths)) ** 2
        self.positions = nn.Parameter(torch.randn(1 + places, self.d_model) * self.d_model**-0.5)
        self.attention = nn.MultiheadAttention(self.d_model, n_heads, batch_first=True)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        x = self.blocks(images.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        if 1 + x.shape[1] != len(self.positions):
            raise ShapeError(
                f"pictures of {tuple(images.shape)} give {x.shape[1]} places, not {len(self.positions) - 1}"
            )
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions
        return self.attention(x[:, :1], x, x, need_weights=False)[0][:, 0]


class TextTower(nn.Module):
    """Tokens to vectors; CLIP reads from the left only (causal), SigLIP to both sides."""

    def __init__(self, config: CLIPConfig, *, causal: bool):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.text.d_model)
        self.position = nn.Embedding(config.max_len, config.text.d_model)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.01)
        self.transformer = Transformer(config.text.transformer, causal=causal)

    def forward(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N T D"]:
        """Raises ShapeError for a text that is too long, DataError for a token outside the vocabulary."""
        if tokens.ndim != 2 or tokens.is_floating_point() or not 0 < tokens.shape[1] <= self.config.max_len:
            raise ShapeError(
                f"tokens are {tuple(tokens.shape)} of {tokens.dtype}, expected whole numbers of the shape (batch, "
                f"length) with 1 to {self.config.max_len} a row: pass truncate=True to cut (the end token is kept)"
            )
        check_tokens(tokens, self.config.vocab_size)
        return self.transformer(self.token(tokens) + self.position.weight[: tokens.shape[1]])


class CLIP(Pretrained):
    """Two towers whose unit vectors agree for a picture and its text.

    vision: None for a Vision Transformer, or a module from pictures (B, C, H, W) to vectors (B, d_model) with the
    attribute `d_model`, such as `ResNetTower()` (the paper's ResNets, in small) or `image_encoder("convnet")`.
    Checkpoints as "openai/clip-vit-base-patch32" can be read and written.
    """

    model_type = "clip"
    ignored = (r"position_ids$",)
    to_own = (
        (r"^vision_model\.embeddings\.class_embedding", "vision.class_token"),
        (r"^vision_model\.embeddings\.patch_embedding", "vision.stem"),
        (r"^vision_model\.pre_layrnorm", "vision.norm_before"),
        (r"^vision_model\.post_layernorm", "vision.transformer.norm"),
        (r"^text_model\.final_layer_norm", "text.transformer.norm"),
        (r"^text_model\.embeddings\.token_embedding", "text.token"),
        (r"^(vision|text)_model\.embeddings\.position_embedding", r"\1.position"),
        (r"^(vision|text)_model\.encoder\.layers", r"\1.transformer.layers"),
        (r"\.self_attn\.", ".attention."),
        (r"\.layer_norm1", ".norm"),
        (r"\.layer_norm2", ".feed_forward_norm"),
        (r"(layers\.\d+)\.mlp\.fc1", r"\1.feed_forward.widen"),
        (r"(layers\.\d+)\.mlp\.fc2", r"\1.feed_forward.narrow"),
        (r"^visual_projection", "vision_projection"),
        (r"^logit_scale", "log_scale"),
    )
    to_published = (
        (r"^vision\.class_token", "vision_model.embeddings.class_embedding"),
        (r"^vision\.stem", "vision_model.embeddings.patch_embedding"),
        (r"^vision\.norm_before", "vision_model.pre_layrnorm"),
        (r"^vision\.transformer\.norm", "vision_model.post_layernorm"),
        (r"^text\.transformer\.norm", "text_model.final_layer_norm"),
        (r"^text\.token", "text_model.embeddings.token_embedding"),
        (r"^(vision|text)\.position", r"\1_model.embeddings.position_embedding"),
        (r"^(vision|text)\.transformer\.layers", r"\1_model.encoder.layers"),
        (r"(layers\.\d+)\.attention\.", r"\1.self_attn."),
        (r"\.feed_forward_norm", ".layer_norm2"),
        (r"(\d)\.norm", r"\1.layer_norm1"),
        (r"\.feed_forward\.widen", ".mlp.fc1"),
        (r"\.feed_forward\.narrow", ".mlp.fc2"),
        (r"^vision_projection", "visual_projection"),
        (r"^log_scale", "logit_scale"),
    )

    def __init__(self, config: CLIPConfig, vision: nn.Module | None = None):
        super().__init__()
        self.config, self.own_vision = config, vision is None
        self.vision = PatchTower(config, class_token=True) if vision is None else vision
        self.text = TextTower(config, causal=True)
        self.vision_projection = nn.Linear(self.vision.d_model, config.d_proj, bias=False)
        self.text_projection = nn.Linear(config.text.d_model, config.d_proj, bias=False)
        for projection in (self.vision_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_images(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P"]:
        """Unit vectors of normalised pictures."""
        seen = self.vision(images)
        return F.normalize(self.vision_projection(seen[:, 0] if self.own_vision else seen), dim=-1)

    def embed_text(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N P"]:
        """Unit vectors of texts, taken at their first end token; what stands behind it is never seen.

        Raises DataError for a text without an end token (it was cut off).
        """
        ends = tokens == self.config.end_id
        if tokens.ndim == 2 and not ends.any(dim=1).all():
            raise DataError(
                f"text {int((~ends.any(dim=1)).nonzero()[0])} has no end token {self.config.end_id}: "
                "cut long texts with truncate=True, which keeps it"
            )
        read = self.text(tokens)
        pooled = read[torch.arange(len(tokens), device=tokens.device), ends.int().argmax(dim=1)]
        return F.normalize(self.text_projection(pooled), dim=-1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with before the softmax: 1 / temperature, learned, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, images: Float[Tensor, "B C H W"], tokens: Int[Tensor, "N T"]) -> Float[Tensor, "B N"]:
        """The logits of every picture with every text."""
        return self.compare(self.embed_images(images), self.embed_text(tokens))

    def compare(self, images: Float[Tensor, "B P"], texts: Float[Tensor, "N P"]) -> Float[Tensor, "B N"]:
        """The logits of unit vectors."""
        return self.scale * images @ texts.T

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> CLIPConfig:
        text = described["text_config"]
        return _read_sizes(described, number(described, "projection_dim"), end_id=_end_token(text))

    def _published_config(self) -> dict:
        if not self.own_vision:
            raise CheckpointError("transformers has no CLIP with another picture tower than a ViT")
        if self.config.end_id == 2:
            raise CheckpointError(
                "transformers takes an end token of 2 for the last token: make the model with another"
            )
        config = self.config
        return {
            "architectures": ["CLIPModel"],
            "projection_dim": config.d_proj,
            "vision_config": {"model_type": "clip_vision_model", **_published_vision(config)},
            "text_config": {"model_type": "clip_text_model", **_published_text(config)},
        }


class AttentionPool(nn.Module):
    """One learned query that asks all patches, then a feed-forward network (the "MAP head" of Zhai et al. 2022)."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, config.d_model) * config.d_model**-0.5)
        self.attention = nn.MultiheadAttention(config.d_model, config.n_heads, batch_first=True)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config.transformer)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        x = self.attention(self.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return (x + self.feed_forward(self.norm(x)))[:, 0]


class SigLIP(Pretrained):
    """CLIP's two towers with a yes-or-no question for every pair; "google/siglip-base-patch16-224" can be read.

    The texts are padded to one length, as in training: the last position stands for the text.
    """

    model_type = "siglip"
    ignored = (r"position_ids$",)
    to_own = (
        (r"^vision_model\.head\.probe", "pool.probe"),
        (r"^vision_model\.head\.attention", "pool.attention"),
        (r"^vision_model\.head\.layernorm", "pool.norm"),
        (r"^vision_model\.head\.mlp\.fc1", "pool.feed_forward.widen"),
        (r"^vision_model\.head\.mlp\.fc2", "pool.feed_forward.narrow"),
        (r"^text_model\.head", "text_head"),
        *CLIP.to_own,
    )
    to_published = (
        (r"^pool\.probe", "vision_model.head.probe"),
        (r"^pool\.attention", "vision_model.head.attention"),
        (r"^pool\.norm", "vision_model.head.layernorm"),
        (r"^pool\.feed_forward\.widen", "vision_model.head.mlp.fc1"),
        (r"^pool\.feed_forward\.narrow", "vision_model.head.mlp.fc2"),
        (r"^text_head", "text_model.head"),
        *CLIP.to_published,
    )

    def __init__(self, config: CLIPConfig):
        super().__init__()
        if config.d_proj != config.vision.d_model:
            raise ShapeError(
                f"SigLIP has no picture projection: d_proj={config.d_proj} must be {config.vision.d_model}"
            )
        self.config = config
        self.vision = PatchTower(config, class_token=False)
        self.pool = AttentionPool(config.vision)
        self.text = TextTower(config, causal=False)
        self.text_head = nn.Linear(config.text.d_model, config.d_proj)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # section 3.2
        self.logit_bias = nn.Parameter(torch.tensor([-10.0]))

    def embed_images(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P"]:
        """Unit vectors of normalised pictures."""
        return F.normalize(self.pool(self.vision(images)), dim=-1)

    def embed_text(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N P"]:
        """Unit vectors of texts, all padded to the length of training."""
        return F.normalize(self.text_head(self.text(tokens)[:, -1]), dim=-1)

    def forward(self, images: Float[Tensor, "B C H W"], tokens: Int[Tensor, "N T"]) -> Float[Tensor, "B N"]:
        """The logits that each picture and each text belong together."""
        return self.compare(self.embed_images(images), self.embed_text(tokens))

    def compare(self, images: Float[Tensor, "B P"], texts: Float[Tensor, "N P"]) -> Float[Tensor, "B N"]:
        """The logits of unit vectors."""
        return self.log_scale.exp() * images @ texts.T + self.logit_bias

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> CLIPConfig:
        vision, text = described["vision_config"], described["text_config"]
        width = number(vision, "hidden_size")
        if number(text, "projection_size", number(text, "hidden_size")) != width:
            raise ValueError(f"projection_size of the text is not the pictures' hidden_size {width}")
        return _read_sizes(described, width)

    def _published_config(self) -> dict:
        vision = {"model_type": "siglip_vision_model", "vision_use_head": True, **_published_vision(self.config)}
        text = {"model_type": "siglip_text_model", "projection_size": self.config.d_proj}
        text |= _published_text(self.config)
        return {"architectures": ["SiglipModel"], "vision_config": vision, "text_config": text}


def sigmoid_loss(logits: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """A yes-or-no cross-entropy for every pair of the table, summed over texts, averaged over pictures (algorithm 1).

    Text i belongs to picture i. Raises ShapeError where the table is not square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ShapeError(f"the logits have shape {tuple(logits.shape)}, expected a square: one text for each picture")
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def cached_gradients(
    model: CLIP | SigLIP,
    images: Float[Tensor, "B C H W"],
    tokens: Int[Tensor, "B T"],
    loss: Callable[[Tensor], Tensor],
    part: int,
) -> Float[Tensor, ""]:
    """Add the gradients of `loss(model(images, tokens))` while only `part` pairs at a time are held for them.

    The batch is embedded twice: first without a graph, to get the loss and its gradient for every vector; then part
    by part, each part's vectors carrying that gradient back. Equal to one pass where a picture's vector does not
    depend on its neighbours (no batch normalisation, no dropout). Returns the loss, detached.

    Source: Gao, Zhang, Han and Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    RepL4NLP 2021.
    """
    if part < 1:
        raise ShapeError(f"part is {part}, expected 1 or more pairs at a time")
    pieces = list(zip(images.split(part), tokens.split(part), strict=True))
    with torch.no_grad():
        seen = torch.cat([model.embed_images(x) for x, _ in pieces])
        read = torch.cat([model.embed_text(t) for _, t in pieces])
    seen.requires_grad_(), read.requires_grad_()
    value = loss(model.compare(seen, read))
    value.backward()  # reaches the scale, and stops at the vectors
    for (x, t), from_seen, from_read in zip(pieces, seen.grad.split(part), read.grad.split(part), strict=True):
        torch.autograd.backward([model.embed_images(x), model.embed_text(t)], [from_seen, from_read])
    return value.detach()


@torch.no_grad()
def embed_all(
    model: CLIP | SigLIP, images: Tensor | None = None, tokens: Tensor | None = None, batch_size: int = 250
) -> Float[Tensor, "N P"]:
    """Unit vectors of many normalised pictures *or* many texts, in evaluation mode, without gradients, on the CPU."""
    if (images is None) == (tokens is None):
        raise ShapeError("embed_all takes images or tokens, one of the two")
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    embed, inputs = (model.embed_text, tokens) if images is None else (model.embed_images, images)
    vectors = torch.cat([embed(piece.to(device)).cpu() for piece in inputs.split(batch_size)])
    model.train(was_training)
    return vectors


def class_vectors(model: CLIP | SigLIP, prompts: Int[Tensor, "C M T"]) -> Float[Tensor, "C P"]:
    """One unit vector a class from its M prompts: the mean of their unit vectors, normalised again (section 3.1.4)."""
    return F.normalize(
        embed_all(model, tokens=prompts.flatten(0, 1)).unflatten(0, prompts.shape[:2]).mean(dim=1), dim=-1
    )


def zero_shot(
    vectors: Float[Tensor, "N P"], classes: Float[Tensor, "C P"], labels: Int[Tensor, " N"]
) -> tuple[float, Int[Tensor, " N"]]:
    """Share of pictures whose own class has the highest cosine (0…1), and the class chosen for each."""
    chosen = (vectors @ classes.T).argmax(dim=1)
    return (chosen == labels).double().mean().item(), chosen


def _read_sizes(described: dict, d_proj: int, **more) -> CLIPConfig:
    vision, text = described["vision_config"], described["text_config"]
    return CLIPConfig(
        vocab_size=number(text, "vocab_size"),
        vision=TowerConfig(norm_eps=float(vision["layer_norm_eps"]), **read_stack(vision)),
        text=TowerConfig(norm_eps=float(text["layer_norm_eps"]), **read_stack(text)),
        image_size=number(vision, "image_size"),
        patch_size=number(vision, "patch_size"),
        in_channels=number(vision, "num_channels", 3),
        max_len=number(text, "max_position_embeddings"),
        d_proj=d_proj,
        **more,
    )


def _end_token(text: dict) -> int:
    """CLIP's first published configurations say 2, and mean the last token of the vocabulary."""
    end = number(text, "eos_token_id", 2)
    return number(text, "vocab_size") - 1 if end == 2 else end


def _published_vision(config: CLIPConfig) -> dict:
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size, "num_channels": config.in_channels}
    return published_stack(config.vision) | sizes


def _published_text(config: CLIPConfig) -> dict:
    sizes = {"vocab_size": config.vocab_size, "max_position_embeddings": config.max_len}
    return published_stack(config.text) | sizes | {"eos_token_id": config.end_id, "bos_token_id": 2, "pad_token_id": 0}
