"""Two towers, one space: a small picture network and a small text network trained to agree.

The first model of the course (chapter 00), made of PyTorch's own layers; chapters 02 to 04 build those layers
by hand and chapter 13 grows this model into CLIP.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

MAX_SCALE = 100.0  # CLIP clips its logit scale here (Radford et al. 2021, section 2.5)


@dataclass(frozen=True)
class TwoTowerConfig:
    """Sizes of a two-tower model. ``widths``: channels of each picture stage, every one halving the picture."""

    vocab_size: int
    max_len: int = 32
    widths: tuple[int, ...] = (32, 64, 128)
    d_model: int = 96
    n_heads: int = 4
    n_layers: int = 1
    d_proj: int = 128
    dropout: float = 0.0

    @property
    def d_ff(self) -> int:
        return 2 * self.d_model


class TwoTower(nn.Module):
    """Pictures and captions to unit vectors of one space, with a learned temperature.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    figure 3, with a small convolutional network and a mean-pooled Transformer as towers.
    """

    def __init__(self, config: TwoTowerConfig):
        super().__init__()
        self.config = config
        self.image_tower = PictureTower(config)
        self.text_tower = TextTower(config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_images(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Unit vectors of normalised pictures (``data.normalise``)."""
        return F.normalize(self.image_tower(images), dim=-1)

    def embed_text(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Unit vectors of captions; ``mask`` is True where a token is to be read."""
        return F.normalize(self.text_tower(tokens, mask), dim=-1)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], tokens: Int[Tensor, "N T"], mask: Bool[Tensor, "N T"]
    ) -> Float[Tensor, "B N"]:
        """Scaled similarities of every picture with every caption."""
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        return scale * self.embed_images(images) @ self.embed_text(tokens, mask).T


class PictureTower(nn.Module):
    """Convolutions that halve the picture at each stage; a linear layer reads the last grid, place by place."""

    def __init__(self, config: TwoTowerConfig):
        super().__init__()
        stages, before = [], 3
        for width in config.widths:
            stages += [_conv(before, width, stride=2), _conv(width, width)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.project = nn.Linear(before * 16, config.d_proj)
        self.to(memory_format=torch.channels_last)  # the order of numbers in which convolutions are fastest

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.project(self.pool(self.stages(images)).flatten(1))


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class TextTower(nn.Module):
    """Word vectors plus positions, a few Transformer layers, the mean over the words that are there."""

    def __init__(self, config: TwoTowerConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_len, config.d_model))
        nn.init.normal_(self.words.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.n_heads, config.d_ff, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.d_model)
        self.project = nn.Linear(config.d_model, config.d_proj)

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        x = self.words(tokens) + self.positions[: tokens.shape[1]]
        x = self.norm(self.layers(x, src_key_padding_mask=~mask))
        keep = mask[..., None].to(x.dtype)
        return self.project((x * keep).sum(1) / keep.sum(1).clamp(min=1))


def contrastive_loss(logits: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """Each picture should choose its own caption among the batch's, and each caption its own picture.

    ``logits[i, j]`` scores picture i with caption j; the pairs stand on the diagonal. In nats, ln B at chance.
    Source: Radford et al. 2021, figure 3.
    """
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
