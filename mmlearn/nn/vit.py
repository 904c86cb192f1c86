"""The Vision Transformer: a picture as a sentence of patches (Dosovitskiy et al., ICLR 2021).

Dimensions: B batch, C channels, H × W picture, P patches, T = P + 1 tokens with the class token, D features.
Chapter 09 builds everything here by hand.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.nn.cnn import check_images
from mmlearn.nn.pretrained import Pretrained, number, published_stack, read_stack
from mmlearn.nn.transformer import Transformer, TransformerConfig

STEMS = ("patches", "convolutions")
POOLS = ("class", "mean")


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer; ViT-B/16 of the paper is `ViTConfig(224, 16, 768, 12, 12)`.

    stem: "patches" (one linear map of each patch) or "convolutions" (3 × 3 steps of stride 2, Xiao et al. 2021).
    pool: "class" (a token of its own) or "mean" (of all patches, no class token).
    pooler: one more layer with tanh on the class token, as `ViTModel` of transformers has.
    n_classes: 0 gives the pooled features. d_ff: None means 4 · d_model. Raises ShapeError or ValueError.
    """

    image_size: int = 32
    patch_size: int = 4
    d_model: int = 192
    n_heads: int = 3
    n_layers: int = 6
    d_ff: int | None = None
    n_classes: int = 0
    stem: str = "patches"
    pool: str = "class"
    pooler: bool = False
    in_channels: int = 3
    activation: str = "gelu"
    dropout: float = 0.0
    norm_eps: float = 1e-12

    def __post_init__(self):
        if self.stem not in STEMS or self.pool not in POOLS:
            raise ValueError(f"stem {self.stem!r} is one of {STEMS}, pool {self.pool!r} one of {POOLS}")
        if self.pooler and (self.pool == "mean" or self.n_classes):
            raise ValueError("a pooler reads the class token and ends a model without classes")
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % self.patch_size:
            raise ShapeError(f"a picture of {self.image_size} pixels cannot be cut into patches of {self.patch_size}")
        if self.stem == "convolutions" and self.patch_size & (self.patch_size - 1):
            raise ShapeError(f"convolutions of stride 2 reach patches of 2, 4, 8 … pixels, not of {self.patch_size}")
        self.transformer  # noqa: B018  (checks the rest)

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.image_size // self.patch_size

    @property
    def transformer(self) -> TransformerConfig:
        """The stack of pre-norm layers."""
        return TransformerConfig.stack_of(self)


def patchify(images: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B P K"]:
    """A picture as a row of patches, each a row of K = C · patch_size² numbers, left to right, top to bottom.

    A linear map of these rows equals a convolution whose kernel and stride are the patch. Raises ShapeError.
    """
    _check_patches(images, images.shape[1] if images.ndim == 4 else 3, patch_size)
    x = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # (B, C, P, p, Q, p)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Float[Tensor, "B P K"], patch_size: int, channels: int = 3) -> Float[Tensor, "B C H W"]:
    """The square picture of a row of patches: the inverse of `patchify`. Raises ShapeError."""
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or patches.shape[2] != channels * patch_size**2:
        raise ShapeError(f"{tuple(patches.shape)} is no square of patches of {channels} × {patch_size} × {patch_size}")
    x = patches.unflatten(2, (channels, patch_size, patch_size)).unflatten(1, (side, side))  # (B, P, Q, C, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def resize_positions(
    positions: Float[Tensor, "1 T D"], grid: tuple[int, int], *, extra: int = 1
) -> Float[Tensor, "1 S D"]:
    """Learned positions of a square grid, stretched to another grid (height, width) by bicubic interpolation.

    The first `extra` rows (the class token) stay as they are. Source: Dosovitskiy et al. 2021, section 3.2.
    """
    kept, places = positions[:, :extra], positions[:, extra:]
    side = math.isqrt(places.shape[1])
    if side * side != places.shape[1]:
        raise ShapeError(f"{places.shape[1]} positions are no square grid")
    if grid == (side, side):
        return positions
    square = places.transpose(1, 2).unflatten(2, (side, side))  # (1, D, side, side)
    square = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([kept, square.flatten(2).transpose(1, 2)], dim=1)


def convolutional_stem(config: ViTConfig) -> nn.Sequential:
    """3 × 3 convolutions of stride 2 down to the grid of patches, then 1 × 1 to d_model (Xiao et al., NeurIPS 2021)."""
    steps = int(math.log2(config.patch_size))
    layers, before = [], config.in_channels
    for step in range(steps):
        width = config.d_model // 2 ** (steps - 1 - step)
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, config.d_model, 1))


class ViT(Pretrained):
    """A Vision Transformer. `from_pretrained("google/vit-base-patch16-224")` and its kind can be read and written."""

    model_type = "vit"
    prefix = "vit."
    heads = ("head.",)
    ignored = (r"^embeddings\.mask_token$",)
    to_own = (
        (r"^embeddings\.cls_token$", "class_token"),
        (r"^embeddings\.position_embeddings$", "positions"),
        (r"^embeddings\.patch_embeddings\.projection", "stem"),
        (r"^(encoder\.layer|layers)\.", "transformer.layers."),
        (r"\.attention\.attention\.(query|key|value)", lambda m: f".attention.{m[1][0]}_proj"),
        (r"\.attention\.(output\.dense|o_proj)", ".attention.out_proj"),
        (r"\.(intermediate\.dense|mlp\.fc1)", ".feed_forward.widen"),
        (r"\.(output\.dense|mlp\.fc2)", ".feed_forward.narrow"),
        (r"\.layernorm_before", ".norm"),
        (r"\.layernorm_after", ".feed_forward_norm"),
        (r"^layernorm", "transformer.norm"),
        (r"^pooler\.dense", "pooler"),
        (r"^classifier", "head"),
    )
    to_published = (
        (r"^class_token$", "embeddings.cls_token"),
        (r"^positions$", "embeddings.position_embeddings"),
        (r"^stem", "embeddings.patch_embeddings.projection"),
        (r"^transformer\.norm", "layernorm"),
        (r"^transformer\.layers", "encoder.layer"),
        (r"\.feed_forward_norm", ".layernorm_after"),
        (r"(\d)\.norm", r"\1.layernorm_before"),
        (r"\.attention\.out_proj", ".attention.output.dense"),
        (r"\.attention\.q_proj", ".attention.attention.query"),
        (r"\.attention\.k_proj", ".attention.attention.key"),
        (r"\.attention\.v_proj", ".attention.attention.value"),
        (r"\.feed_forward\.widen", ".intermediate.dense"),
        (r"\.feed_forward\.narrow", ".output.dense"),
        (r"^pooler", "pooler.dense"),
        (r"^head", "classifier"),
    )

    def __init__(self, config: ViTConfig | None = None):
        super().__init__()
        self.config = config = config or ViTConfig()
        if config.stem == "patches":
            self.stem = nn.Conv2d(config.in_channels, config.d_model, config.patch_size, config.patch_size)
            nn.init.trunc_normal_(self.stem.weight, std=1 / math.sqrt(config.in_channels * config.patch_size**2))
            nn.init.zeros_(self.stem.bias)
        else:
            self.stem = convolutional_stem(config)
        n_extra = int(config.pool == "class")
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.d_model)) if n_extra else None
        self.positions = nn.Parameter(torch.empty(1, n_extra + config.grid**2, config.d_model))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Transformer(config.transformer)
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        self.head = nn.Linear(config.d_model, config.n_classes) if config.n_classes else nn.Identity()

    def embed(self, images: Float[Tensor, "B C H W"], *, interpolate: bool = False) -> Float[Tensor, "B T D"]:
        """The tokens that enter the first layer: patches (behind the class token) plus positions.

        interpolate: take pictures of another size than `image_size`, and stretch the positions to it.
        Raises ShapeError for another size without it, other channels, or a side that is no multiple of the patch.
        """
        config = self.config
        _check_patches(images, config.in_channels, config.patch_size)
        if not interpolate and images.shape[2:] != (config.image_size, config.image_size):
            raise ShapeError(
                f"images have {images.shape[2]} × {images.shape[3]} pixels, the model was made for "
                f"{config.image_size} × {config.image_size}: resize them, or pass interpolate=True"
            )
        x = self.stem(images)  # (B, D, P, Q)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return self.dropout(x + resize_positions(self.positions, grid, extra=int(self.class_token is not None)))

    def tokens(self, images: Float[Tensor, "B C H W"], *, interpolate: bool = False) -> Float[Tensor, "B T D"]:
        """The tokens after the last layer and its normalisation, the class token first. Raises as `embed`."""
        return self.transformer(self.embed(images, interpolate=interpolate))

    def pool(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """One vector for a picture: its class token (through the pooler, where there is one) or the mean."""
        if self.class_token is None:
            return tokens.mean(dim=1)
        return tokens[:, 0] if self.pooler is None else self.pooler(tokens[:, 0]).tanh()

    def forward(self, images: Float[Tensor, "B C H W"], *, interpolate: bool = False) -> Float[Tensor, "B classes"]:
        """Scores (logits) of each class for normalised pictures, or pooled features where n_classes is 0."""
        return self.head(self.pool(self.tokens(images, interpolate=interpolate)))

    def attention_maps(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B N T T"]]:
        """Who looks at whom: the weights of every layer and head."""
        return self.transformer.attention_maps(self.embed(images))

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> ViTConfig:
        if not described.get("qkv_bias", True):
            raise ValueError("qkv_bias is false: only a ViT with biases can be read")
        return ViTConfig(
            image_size=number(described, "image_size"),
            patch_size=number(described, "patch_size"),
            n_classes=shapes.get("head.weight", (0,))[0],
            pooler="pooler.weight" in shapes and "head.weight" not in shapes,
            in_channels=number(described, "num_channels", 3),
            dropout=float(described.get("hidden_dropout_prob", 0.0)),
            norm_eps=float(described.get("layer_norm_eps", 1e-12)),
            **read_stack(described),
        )

    def _published_config(self) -> dict:
        config = self.config
        if config.stem != "patches" or config.pool != "class":
            raise CheckpointError(
                f"transformers has no ViT with stem={config.stem!r} and pool={config.pool!r}: "
                "save model.state_dict() with safetensors instead"
            )
        return {
            "architectures": ["ViTForImageClassification" if config.n_classes else "ViTModel"],
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            **published_stack(config),
            "num_channels": config.in_channels,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
            "qkv_bias": True,
            **({"id2label": {i: f"LABEL_{i}" for i in range(config.n_classes)}} if config.n_classes else {}),
        }


def _check_patches(images: Tensor, channels: int, patch_size: int) -> None:
    check_images(images, channels, smallest=0)
    if min(images.shape[2:]) < patch_size or images.shape[2] % patch_size or images.shape[3] % patch_size:
        raise ShapeError(
            f"images of {images.shape[2]} × {images.shape[3]} pixels cannot be cut into patches of {patch_size}"
        )
