"""A ViT and a BERT that read together: `MultimodalModel(images, text)`, with three ways to let them meet.

The same model is put together from our own parts or from those of Hugging Face Transformers; with the same weights
the outputs are equal. Chapter 11 builds everything here by hand.

Dimensions: B batch, P patches and class token of a picture, T tokens of a text, D features of the fusion.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.nn import Bert, BertConfig, Transformer, TransformerConfig, ViT, ViTConfig
from mmlearn.nn.bert import IGNORE
from mmlearn.nn.pretrained import locate, read_any_config, read_config, read_headers, read_tensors, write_pretrained

FUSIONS = ("concatenation", "merged", "cross")
LIBRARIES = ("mmlearn", "transformers")


@dataclass(frozen=True)
class FusionConfig:
    """How vision and language meet, and what is asked of them.

    fusion: "concatenation" of one vector each; "merged" attention over all tokens of both; "cross"-attention, in
    which the words ask the picture. n_layers: layers after the encoders (not for "concatenation").
    n_answers: classes of the answer head; 0 for none. d_ff: None means 4 · d_model. Raises ShapeError or ValueError.
    """

    fusion: str = "merged"
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 2
    n_answers: int = 0
    dropout: float = 0.0
    d_ff: int | None = None

    def __post_init__(self):
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion={self.fusion!r}: use one of {', '.join(FUSIONS)}")
        self.transformer  # noqa: B018  (checks the sizes)

    @property
    def transformer(self) -> TransformerConfig:
        """The stack of the merged or cross-attention layers."""
        return TransformerConfig.stack_of(self)


class Fused(NamedTuple):
    """What comes out: one vector for the pair, and one for each word that has seen the picture."""

    pooled: Float[Tensor, "B D"]
    words: Float[Tensor, "B T D"]


class KeptViT(ViT):
    """A ViT that transformers has no name for (a convolutional stem, say), written under our own names."""

    model_type = "mmlearn-vit"
    prefix, heads, to_own, to_published, ignored = "", (), (), (), ()

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> ViTConfig:
        return ViTConfig(**{name: value for name, value in described.items() if name != "model_type"})

    def _published_config(self) -> dict:
        return asdict(self.config)


class TransformersVision(nn.Module):
    """`ViTModel` of Hugging Face Transformers behind the interface of our ViT."""

    def __init__(self, vit: nn.Module):
        super().__init__()
        self.vit = vit
        self.d_model = vit.config.hidden_size

    def tokens(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        return self.vit(pixel_values=images).last_hidden_state

    def layers(self) -> nn.ModuleList:
        return self.vit.layers if hasattr(self.vit, "layers") else self.vit.encoder.layer

    def save_pretrained(self, folder: str | Path) -> None:
        self.vit.save_pretrained(folder)


class TransformersLanguage(nn.Module):
    """`BertModel` of Hugging Face Transformers behind the interface of our BERT."""

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert
        self.d_model, self.vocab_size = bert.config.hidden_size, bert.config.vocab_size

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state

    def layers(self) -> nn.ModuleList:
        return self.bert.encoder.layer


class VisionModel(nn.Module):
    """Our ViT as the eyes of a `MultimodalModel`."""

    def __init__(self, vit: ViT):
        super().__init__()
        self.vit = vit
        self.d_model = vit.config.d_model

    def tokens(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        return self.vit.tokens(images)

    def layers(self) -> nn.ModuleList:
        return self.vit.transformer.layers

    def save_pretrained(self, folder: str | Path) -> None:
        """As transformers' ViTModel where it has such a model, else as a `KeptViT`."""
        config = self.vit.config
        if config.stem == "patches" and config.pool == "class":
            return self.vit.save_pretrained(folder)
        kept = KeptViT(config)
        kept.load_state_dict(self.vit.state_dict())
        kept.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VisionModel":
        """The ViT of a folder or of the Hub. Raises CheckpointError."""
        folder = locate(folder)
        kept = read_any_config(folder).get("model_type") == KeptViT.model_type
        return cls((KeptViT if kept else ViT).from_pretrained(folder))


class LanguageModel(nn.Module):
    """Our BERT as the reader of a `MultimodalModel`."""

    def __init__(self, bert: Bert):
        super().__init__()
        self.bert = bert
        self.d_model, self.vocab_size = bert.config.d_model, bert.config.vocab_size

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.bert(tokens, mask)

    def layers(self) -> nn.ModuleList:
        return self.bert.transformer.layers


class MultimodalModel(nn.Module):
    """`model(images, text)` with text = (tokens, mask), as a tokenizer returns it.

    vision: a `VisionModel` or `TransformersVision`; language: a `LanguageModel` or `TransformersLanguage`.
    Heads: `matching` (do picture and text belong together?), `guess_words` (masked words), `answer` (of n_answers).
    """

    def __init__(self, vision: nn.Module, language: nn.Module, config: FusionConfig):
        super().__init__()
        self.vision, self.language, self.config = vision, language, config
        d = config.d_model
        self.see, self.read = nn.Linear(vision.d_model, d), nn.Linear(language.d_model, d)
        if config.fusion == "concatenation":
            self.join = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.LayerNorm(d))
        else:
            self.kind = nn.Embedding(2, d)  # which of the two a token comes from
            nn.init.normal_(self.kind.weight, std=0.02)
            self.join = Transformer(config.transformer, cross=config.fusion == "cross")
        self.match_head = nn.Linear(d, 1)
        self.word_head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d), nn.Linear(d, language.vocab_size))
        self.answer_head = nn.Linear(d, config.n_answers) if config.n_answers else None

    def forward(self, images: Float[Tensor, "B C H W"], text: tuple[Int[Tensor, "M T"], Bool[Tensor, "M T"]]) -> Fused:
        """Read pictures, each with its text; or with several, K · B texts: the K of the first picture come first.

        Each picture is looked at once. Raises ShapeError where the texts cannot be shared out.
        """
        tokens, mask = text
        texts, left = divmod(len(tokens), max(len(images), 1))
        if left or not texts:
            raise ShapeError(f"{len(images)} pictures but {len(tokens)} texts: give each picture as many texts")
        seen = self.see(self.vision.tokens(images)).repeat_interleave(texts, dim=0)
        words = getattr(self, f"_{self.config.fusion}")(seen, self.read(self.language(tokens, mask)), mask)
        return Fused(words[:, 0], words)

    def _concatenation(self, seen: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """Each word's own vector beside the picture's one vector; no word chooses where to look."""
        picture = seen[:, :1].expand(-1, read.shape[1], -1)
        return self.join(torch.cat([picture, read], dim=-1))

    def _merged(self, seen: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """Words and patches in one sequence; everything reads everything."""
        x = torch.cat([read + self.kind.weight[0], seen + self.kind.weight[1]], dim=1)  # (B, T + P, D)
        return self.join(x, mask=F.pad(mask, (0, seen.shape[1]), value=True))[:, : read.shape[1]]

    def _cross(self, seen: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """Words read words, and ask the patches; the patches stay as they are."""
        return self.join(read + self.kind.weight[0], seen + self.kind.weight[1], mask=mask)

    def matching(self, fused: Fused) -> Float[Tensor, " B"]:
        """The logit that picture and text belong together."""
        return self.match_head(fused.pooled).squeeze(-1)

    def guess_words(self, fused: Fused) -> Float[Tensor, "B T V"]:
        """Logits of the word at every position."""
        return self.word_head(fused.words)

    def answer(self, fused: Fused) -> Float[Tensor, "B A"]:
        """Logits of every answer. Raises ShapeError for a model made without answers."""
        if self.answer_head is None:
            raise ShapeError("this model has no answers: make it with FusionConfig(n_answers=…), or with_answers(n)")
        return self.answer_head(fused.pooled)

    def with_answers(self, n_answers: int) -> "MultimodalModel":
        """The same parts, shared with this model, with a fresh head of `n_answers` answers."""
        config = FusionConfig(**asdict(self.config) | {"n_answers": n_answers})
        model = MultimodalModel(self.vision, self.language, config).to(self.see.weight.device)
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("answer_head")}
        model.load_state_dict(own, strict=False)
        return model

    def train_encoders(self, vision: int | None, language: int | None) -> "MultimodalModel":
        """Which part of each encoder learns: 0 frozen, n its last n layers, None all. The fusion always learns.

        A frozen encoder stays in evaluation mode: else dropout, and running means of a stem, would go on changing it.
        """
        for encoder, last_layers in ((self.vision, vision), (self.language, language)):
            encoder.requires_grad_(last_layers is None)
            for layer in list(encoder.layers())[-last_layers:] if last_layers else ():
                layer.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "MultimodalModel":
        """As for every module, but what is frozen does not follow."""
        super().train(mode)
        for encoder in (self.vision, self.language):
            for part in encoder.modules():
                own = [p.requires_grad for p in part.parameters()]
                if own and not any(own):
                    part.eval()
        return self

    @classmethod
    def build(cls, vision: ViTConfig, language: BertConfig, fusion: FusionConfig) -> "MultimodalModel":
        """A fresh model of our own parts."""
        return cls(VisionModel(ViT(vision)), LanguageModel(Bert(language)), fusion)

    @classmethod
    def from_parts(
        cls, vision: str | Path, language: str | Path, fusion: FusionConfig, library: str = "mmlearn"
    ) -> "MultimodalModel":
        """Pretrained encoders with a fresh fusion: `from_parts("google/vit-base-patch16-224", "bert-base-uncased", …)`.

        vision, language: folders, or names on the Hugging Face Hub. library: whose modules carry the weights,
        "mmlearn" or "transformers"; the outputs are equal. Raises CheckpointError where a part cannot be read.
        """
        if library not in LIBRARIES:
            raise ValueError(f"library={library!r}: use one of {', '.join(LIBRARIES)}")
        if library == "mmlearn":
            return cls(VisionModel.from_pretrained(vision), LanguageModel(Bert.from_pretrained(language)), fusion)
        import transformers

        vit, bert = (
            _by_transformers(transformers.ViTModel, vision),
            _by_transformers(transformers.BertModel, language),
        )
        return cls(TransformersVision(vit), TransformersLanguage(bert), fusion)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vision/` and `language/`, which transformers opens as ViTModel and BertModel, and the fusion.

        Eyes that transformers has no class for (a convolutional stem) are written under our own names.
        """
        folder = Path(folder)
        self.vision.save_pretrained(folder / "vision")
        self.language.bert.save_pretrained(folder / "language")
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(ENCODERS)}
        write_pretrained(folder, {"model_type": "mmlearn-fusion", **asdict(self.config)}, state)

    @classmethod
    def from_pretrained(cls, folder: str | Path, library: str = "mmlearn") -> "MultimodalModel":
        """The model that `save_pretrained` wrote, in evaluation mode. Raises CheckpointError, naming what is wrong."""
        folder = Path(folder)
        described = read_config(folder, "mmlearn-fusion")
        described.pop("model_type")
        try:
            config = FusionConfig(**described)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}/config.json cannot be used: {error}") from error
        model = cls.from_parts(folder / "vision", folder / "language", config, library)
        own = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.startswith(ENCODERS)}
        held = read_headers(folder)
        wrong = sorted(name for name in own.keys() | held.keys() if own.get(name) != held.get(name, (None, None))[1])
        if wrong:
            raise CheckpointError(f"{folder} has another {wrong[0]} than its config.json says: it is not a whole model")
        model.load_state_dict(read_tensors({name: (name, held[name][0]) for name in own}, folder), strict=False)
        return model.eval()


ENCODERS = ("vision.", "language.")


def _by_transformers(kind: type, name_or_folder: str | Path) -> nn.Module:
    """A model of transformers, whole: it would fill what a checkpoint lacks with random numbers, and only warn."""
    if Path(name_or_folder).is_dir():
        read_config(Path(name_or_folder), kind.config_class.model_type)
    try:
        model, found = kind.from_pretrained(name_or_folder, add_pooling_layer=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"transformers cannot read {name_or_folder}: {error}") from None
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{name_or_folder} lacks {missing[0]}: it is another model, or only a part of one")
    return model


def matching_loss(logits: Float[Tensor, " B"], together: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Image-text matching: the cross-entropy of "do they belong together?", in nats (Chen et al. 2020, section 3.2)."""
    return F.binary_cross_entropy_with_logits(logits, together.to(logits.dtype))


def masked_word_loss(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """The mean cross-entropy of the words that were masked, in nats; 0 where none was."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)
