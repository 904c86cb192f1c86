"""Visual question answering: a picture and a question in, a score for every answer out.

`AnswerPrior` and `PhraseModel` count words, `QuestionOnly` and `PictureOnly` see half of the input, `ProductVQA`
multiplies the two halves (Antol et al., ICCV 2015), `StackedAttention` looks where the question points (Yang et al.,
CVPR 2016). All are called alike, `model(images, tokens, mask)`. Chapter 08 builds them by hand.

Dimensions: B pictures, K questions about each of them, T tokens, A answers, D features, P × Q places, L looks ("hops").
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from mmlearn.errors import DataError, ShapeError
from mmlearn.models.encoders import image_encoder
from mmlearn.nn.rnn import Recurrent, padded_at_the_end

UNKNOWN = -1  # the number of an answer that is not in the vocabulary


# ------------------------------------------------------------------------------------------------------------ answers
class AnswerVocabulary:
    """The answers that a model can give, numbered from 0, the commonest first.

    Any other answer is UNKNOWN, -1, a number that no model predicts: so it counts as wrong, as it must. Leaving such
    questions out of the test would give a higher accuracy on an easier test.
    """

    def __init__(self, answers: Sequence[str]):
        self.answers = tuple(answers)
        self.numbers = {answer: number for number, answer in enumerate(self.answers)}
        if not self.answers or len(self.numbers) < len(self.answers):
            raise DataError("an answer vocabulary needs at least one answer, and each only once")

    @classmethod
    def train(cls, answers: Sequence[str], size: int | None = None, min_count: int = 1) -> "AnswerVocabulary":
        """The answers given at least `min_count` times, at most `size` of them; equally common ones by the alphabet."""
        counts = Counter(answers)
        ordered = sorted((a for a in counts if counts[a] >= min_count), key=lambda a: (-counts[a], a))
        return cls(ordered[:size])

    def encode(self, answers: Sequence[str]) -> Int[Tensor, " N"]:
        """The number of each answer, UNKNOWN where it has none."""
        return torch.tensor([self.numbers.get(answer, UNKNOWN) for answer in answers], dtype=torch.long)

    def decode(self, numbers: Int[Tensor, " N"]) -> list[str]:
        """The answers with these numbers. Raises DataError for a number out of range, UNKNOWN too."""
        wrong = [n for n in numbers.tolist() if not 0 <= n < len(self)]
        if wrong:
            raise DataError(f"there is no answer {wrong[0]}: they are numbered from 0 to {len(self) - 1}")
        return [self.answers[n] for n in numbers.tolist()]

    def soft_targets(self, given: Sequence[Sequence[str]]) -> Float[Tensor, "N A"]:
        """For each question, answered by several people, the official soft accuracy of every answer, 0…1.

        Targets for `answer_loss` on VQA v2: what `metrics.vqa.soft_scores` would give if this answer were predicted
        (answers are taken as they are: pass them normalised).
        """
        targets = torch.zeros(len(given), len(self))
        for row, answers in enumerate(given):
            for answer, n in Counter(answers).items():
                if answer in self.numbers:
                    others = len(answers) - n  # the people whose own answer stays in when they are left out
                    agreed = n * min(1.0, (n - 1) / 3) + others * min(1.0, n / 3)
                    targets[row, self.numbers[answer]] = agreed / len(answers)
        return targets

    def save(self, path: str | Path) -> None:
        """Write the answers, in their order, as a JSON list."""
        Path(path).write_text(json.dumps(self.answers, ensure_ascii=False, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "AnswerVocabulary":
        """Read what `save` wrote. Raises DataError where it is missing or damaged."""
        try:
            return cls(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is no answer vocabulary that save wrote: {error}") from error

    def __len__(self) -> int:
        return len(self.answers)

    def __contains__(self, answer: str) -> bool:
        return answer in self.numbers

    def __repr__(self) -> str:
        return f"AnswerVocabulary({len(self)} answers, from {self.answers[0]!r} to {self.answers[-1]!r})"


def answer_loss(
    scores: Float[Tensor, "*N A"], answers: Int[Tensor, "*N"] | Float[Tensor, "*N A"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy over the answers in nats, the mean over questions; ln A for a model without an opinion.

    Args:
        answers: the numbers of the answers, questions with UNKNOWN left out; or `soft_targets`, each row divided by
            its sum, rows of zeros left out.
        smoothing: share of the target spread evenly over all answers (Szegedy et al., CVPR 2016, section 7).
    """
    scores = scores.flatten(0, -2)
    if answers.is_floating_point():
        answers = answers.flatten(0, -2)
        known = answers.sum(dim=-1) > 0
        scores, answers = scores[known], answers[known] / answers[known].sum(dim=-1, keepdim=True)
    else:
        answers = answers.flatten()
        known = answers != UNKNOWN
        scores, answers = scores[known], answers[known]
    if not len(scores):
        return scores.sum()  # nothing to learn here: zero, with a gradient of zero
    return F.cross_entropy(scores, answers, label_smoothing=smoothing)


class AnswerPrior(nn.Module):
    """Blind counting: the answer most often given in training to questions that begin with the same words.

    n_words = 0 gives the commonest answer of all, the "prior" of Antol et al. 2015, table 2; n_words = 2 or so their
    prior by question type ("how many", "what colour"). A beginning never seen falls back on fewer words.
    Nothing is learned: `count` makes the table.
    """

    def __init__(self, n_answers: int, n_words: int = 0):
        super().__init__()
        self.n_answers, self.n_words = n_answers, n_words
        self.table: dict[tuple[int, ...], Tensor] = {(): torch.ones(n_answers)}

    def count(self, tokens: Int[Tensor, "N T"], answers: Int[Tensor, " N"]) -> "AnswerPrior":
        """Count the training questions, each `<start> … <end>`; answers UNKNOWN are passed over. Returns itself."""
        for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
            if answer != UNKNOWN:
                for n in range(self.n_words + 1):
                    key = tuple(row[1 : 1 + n])
                    self.table.setdefault(key, torch.zeros(self.n_answers))[answer] += 1
        return self

    def forward(
        self, images: Tensor | None, tokens: Int[Tensor, "... T"], mask: Bool[Tensor, "... T"] | None = None
    ) -> Float[Tensor, "... A"]:
        """The logarithm of each answer's share among the counted ones; minus infinity where it never was given."""
        rows = [self._counts(row) for row in tokens.flatten(0, -2).tolist()]
        counts = torch.stack(rows).to(tokens.device)
        return (counts / counts.sum(dim=-1, keepdim=True)).log().unflatten(0, tokens.shape[:-1])

    def _counts(self, row: list[int]) -> Tensor:
        for n in range(self.n_words, 0, -1):
            if tuple(row[1 : 1 + n]) in self.table:
                return self.table[tuple(row[1 : 1 + n])]
        return self.table[()]


class PhraseModel(nn.Module):
    """Blind and without a network: every word, pair and triple of neighbouring words has votes for all answers.

    The scores are the sum of the votes: a linear model on a bag of phrases, "BoW Q" of Antol et al. 2015 with phrases
    of up to `n_words` words. A phrase's row in the table comes from a hash (Weinberger et al., ICML 2009), so that no
    list of phrases is needed; two of them may share a row. All votes start at zero.
    """

    def __init__(self, n_answers: int, n_words: int = 3, n_rows: int = 1 << 14):
        super().__init__()
        self.n_words, self.n_rows = n_words, n_rows
        self.votes = nn.EmbeddingBag(n_rows + 1, n_answers, mode="sum", padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(n_answers))
        nn.init.zeros_(self.votes.weight)

    def forward(
        self, images: Tensor | None, tokens: Int[Tensor, "... T"], mask: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "... A"]:
        rows = self.rows(tokens.flatten(0, -2), mask.flatten(0, -2))
        return self.votes(rows).unflatten(0, tokens.shape[:-1]) + self.bias

    def rows(self, tokens: Int[Tensor, "N T"], mask: Shaped[Tensor, "N T"]) -> Int[Tensor, "N R"]:
        """The rows of all phrases of each question, 0 where a phrase would reach into the padding."""
        found = []
        for n in range(1, min(self.n_words, tokens.shape[1]) + 1):
            number = torch.zeros_like(tokens[:, n - 1 :])
            for k in range(n):
                number = (number * 1_000_003 + tokens[:, k : tokens.shape[1] - n + 1 + k] + 7919 * n) % (2**31 - 1)
            found.append((1 + number * 40_503 % self.n_rows) * mask[:, n - 1 :])
        return torch.cat(found, dim=1)


class Together(nn.Module):
    """Several models that are called alike; their scores are added, so each can veto what the others like.

    Added scores are multiplied probabilities, up to a constant: a product of experts (Hinton, ICANN 1999).
    """

    def __init__(self, *models: nn.Module):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return sum(model(images, tokens, mask) for model in self.models)


# ------------------------------------------------------------------------------------------------------------- models
@dataclass(frozen=True)
class VQAConfig:
    """Sizes of a model that answers questions; one configuration serves all four, so that they can be compared.

    d_word: of a word's vector. d_question: of the question's. d_model: of the space in which picture and question
    meet. d_attention: inside an attention layer. d_hidden: of the layer before the scores; 0 leaves it out.
    reader: "lstm" or "gru". bag: add the words' vectors, weighted by their position, to the reader's last state.
    n_hops: attention layers one after the other, "looks". places: tell the picture's features where they stand.
    glance: before the first look, add the mean of all places to the question.
    product: multiply what the looks have found with the question once more before the scores.
    """

    vocab_size: int
    n_answers: int
    d_word: int = 64
    d_question: int = 128
    d_model: int = 128
    d_attention: int = 64
    d_hidden: int = 256
    reader: str = "lstm"
    bag: bool = True
    n_hops: int = 2
    places: bool = True
    glance: bool = True
    product: bool = True
    dropout: float = 0.0


class QuestionReader(nn.Module):
    """A question to one vector: an LSTM's state after the last word, plus a linear map of the words' weighted mean.

    The mean brings every word near to the answer, where the LSTM would have to carry it; its weights say first from
    last (`word_weights`). Padding changes nothing.
    """

    def __init__(self, config: VQAConfig):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.d_word)
        self.recurrent = Recurrent(config.reader, config.d_word, config.d_question, forget_bias=1.0)
        self.bag = nn.Linear(config.d_word, config.d_question) if config.bag else None
        self.dropout = nn.Dropout(config.dropout)

    def use_vectors(self, matrix: Float[Tensor, "V D"], found: Bool[Tensor, " V"] | None = None) -> None:
        """Start from given word vectors, such as `WordVectors.matrix_for(tokenizer)`; rows not found stay as drawn."""
        if matrix.shape != self.words.weight.shape:
            raise ShapeError(
                f"the word vectors are {tuple(matrix.shape)}, expected {tuple(self.words.weight.shape)}: "
                "set d_word to the vectors' width and use the model's tokenizer"
            )
        rows = torch.ones(len(matrix), dtype=torch.bool) if found is None else found
        with torch.no_grad():
            self.words.weight[rows] = matrix[rows].to(self.words.weight)

    def forward(self, tokens: Int[Tensor, "N T"], mask: Shaped[Tensor, "..."]) -> Float[Tensor, "N H"]:
        """Raises ShapeError for a token out of range, a mask that does not fit, or a padding before a word."""
        self._check(tokens, mask)
        words = self.dropout(self.words(tokens))
        states = self.recurrent(words)[0]  # what follows the last word changes no state before it
        last = mask.sum(dim=1).clamp(min=1) - 1
        vector = states[torch.arange(len(states), device=states.device), last]
        if self.bag is not None:
            vector = vector + self.bag((words * word_weights(mask, words.shape[-1])).sum(dim=1))
        return vector

    def _check(self, tokens: Tensor, mask: Tensor) -> None:
        if tokens.ndim != 2 or mask.shape != tokens.shape or mask.dtype != torch.bool:
            raise ShapeError(
                f"tokens {tuple(tokens.shape)} and {mask.dtype} mask {tuple(mask.shape)}: expected (questions, length) "
                "twice, the mask torch.bool with True = a word"
            )
        if not padded_at_the_end(mask):
            raise ShapeError("a question has padding before its words: padding must stand at the end")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.config.vocab_size:
            raise ShapeError(
                f"the tokens go from {int(tokens.min())} to {int(tokens.max())}, the model knows 0 to "
                f"{self.config.vocab_size - 1}: use the tokenizer it was made for"
            )


def word_weights(mask: Shaped[Tensor, "N T"], width: int) -> Float[Tensor, "N T D"]:
    """For each word of a sentence and each feature a weight, 0 at padding: the first features hear the first words.

    The position encoding of Sukhbaatar et al., "End-To-End Memory Networks", NIPS 2015, section 4.1: from 2 at the
    first word to 0 at the last for the first feature, the other way round for the last feature; divided by the number
    of words.
    """
    length = mask.sum(dim=1).clamp(min=1)[:, None, None]
    word = torch.arange(mask.shape[1], device=mask.device)[:, None] / (length - 1).clamp(min=1)  # 0 to 1
    feature = torch.linspace(0, 1, width, device=mask.device)
    return 2 * (1 - word - feature * (1 - 2 * word)) * mask[..., None] / length


class StoredGrid(nn.Module):
    """In place of a picture encoder where its grids were computed once and kept: `images` are then grids (B, D, P, Q).

    Saves most of the time where the encoder stays as it is, as in both papers.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model

    def grid(self, images: Float[Tensor, "B D P Q"]) -> Float[Tensor, "B D P Q"]:
        return images

    def forward(self, images: Float[Tensor, "B D P Q"]) -> Float[Tensor, "B D"]:
        return images.mean(dim=(2, 3))


class VQAModel(nn.Module):
    """What the four models share: how they are called, how they read the question, how they score the answers.

    Args:
        pictures: the picture encoder, anything with `d_model` and `grid(images)`; the course's small ConvNet if None.
            `image_encoder("resnet50", frozen=True)` starts from ImageNet, as both papers do.
        vectors: word vectors to start from, (V, d_word) or `WordVectors.matrix_for(tokenizer)`.
    """

    reads, sees = True, True

    def __init__(
        self,
        config: VQAConfig,
        pictures: nn.Module | None = None,
        *,
        vectors: Tensor | tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.config = config
        if self.sees:
            self.pictures = image_encoder("convnet", depths=(1, 2, 2)) if pictures is None else pictures
        if self.reads:
            self.question = QuestionReader(config)
            if vectors is not None:
                self.question.use_vectors(*(vectors if isinstance(vectors, tuple) else (vectors,)))

    def forward(
        self, images: Float[Tensor, "B C H W"], tokens: Int[Tensor, "N *K T"], mask: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B *K A"]:
        """A score (logit) for every answer.

        images: as `data.normalise` gives them (with `StoredGrid`: grids). tokens, mask: one question a picture, (B, T),
        or K questions about each, (B, K, T): the picture is then seen once for all of them. mask: True = a word,
        padding at the end.
        Raises ShapeError where something does not fit.
        """
        if tokens.ndim == 2:
            return self(images, tokens[:, None], mask[:, None])[:, 0]
        self._check(images, tokens, mask)
        return self.score(images, tokens, mask)

    def score(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "B K A"]:
        """The scores of K questions about each picture; each model has its own way."""
        raise NotImplementedError

    def read(self, tokens: Int[Tensor, "B K T"], mask: Shaped[Tensor, "..."]) -> Float[Tensor, "B K H"]:
        """The questions as vectors."""
        return self.question(tokens.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, tokens.shape[:2])

    def head_from(self, width: int) -> nn.Sequential:
        """Layers from a vector of this width to a score for every answer."""
        config, layers = self.config, []
        if config.d_hidden:
            layers = [nn.Dropout(config.dropout), nn.Linear(width, config.d_hidden), nn.ReLU()]
            width = config.d_hidden
        return nn.Sequential(*layers, nn.Dropout(config.dropout), nn.Linear(width, config.n_answers))

    def _check(self, images: Tensor, tokens: Tensor, mask: Tensor) -> None:
        if tokens.ndim != 3 or mask.shape != tokens.shape or len(images) != len(tokens):
            raise ShapeError(
                f"{len(images)} pictures with tokens {tuple(tokens.shape)} and mask {tuple(mask.shape)}: expected "
                "(pictures, length) for one question a picture, (pictures, questions, length) for several"
            )


class QuestionOnly(VQAModel):
    """Answers without looking: the blind baseline that every other model has to beat ("LSTM Q" of Antol et al.)."""

    sees = False

    def __init__(self, config: VQAConfig, **options):
        super().__init__(config, **options)
        self.head = self.head_from(config.d_question)

    def score(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "B K A"]:
        return self.head(self.read(tokens, mask))


class PictureOnly(VQAModel):
    """Answers without knowing the question ("I" of Antol et al.): the same answer to every question."""

    reads = False

    def __init__(self, config: VQAConfig, pictures: nn.Module | None = None):
        super().__init__(config, pictures)
        self.head = self.head_from(self.pictures.d_model)

    def score(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "B K A"]:
        return self.head(self.pictures(images))[:, None].expand(-1, tokens.shape[1], -1)


class ProductVQA(VQAModel):
    """One vector for the picture, one for the question, multiplied number by number.

    "deeper LSTM Q + norm I" of Antol et al., ICCV 2015, section 4: the picture's features at equal length, a linear
    map and tanh for each half, the product, and a small network. (Here features have the root mean square 1, theirs
    the length 1: the same but for a constant.)
    """

    def __init__(self, config: VQAConfig, pictures: nn.Module | None = None, **options):
        super().__init__(config, pictures, **options)
        self.from_picture = nn.Linear(self.pictures.d_model, config.d_model)
        self.from_question = nn.Linear(config.d_question, config.d_model)
        self.head = self.head_from(config.d_model)

    def score(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "B K A"]:
        features = self.pictures(images)  # (B, D): the mean over places forgets where things stand
        features = F.normalize(features, dim=-1) * features.shape[-1] ** 0.5
        picture = self.from_picture(features).tanh()[:, None]
        return self.head(picture * self.from_question(self.read(tokens, mask)).tanh())


class AttentionHop(nn.Module):
    """One look at the picture: which places match the question, and what is there (Yang et al. 2016, eq. 15 to 18).

    h = tanh(W_I v + (W_Q u + b)), p = softmax(w h) over the places, and the next question is u + Σ p v.
    """

    def __init__(self, d_model: int, d_attention: int):
        super().__init__()
        self.from_place = nn.Linear(d_model, d_attention, bias=False)
        self.from_question = nn.Linear(d_model, d_attention)
        self.rate = nn.Linear(d_attention, 1, bias=False)  # a bias would add the same to every place

    def forward(
        self, question: Float[Tensor, "B K D"], places: Float[Tensor, "B S D"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K S"]]:
        """The question with what was seen added, and the weight of each place; each row of weights sums to 1."""
        hidden = (self.from_place(places)[:, None] + self.from_question(question)[:, :, None]).tanh()  # (B, K, S, D)
        weights = self.rate(hidden)[..., 0].softmax(dim=-1)
        return question + weights @ places, weights


class StackedAttention(VQAModel):
    """Looks at the picture several times; each look changes the question for the next (Yang et al., CVPR 2016).

    What differs from the paper, where a frozen VGG network gave 14 × 14 places: the features are told where they stand
    (`places`), the question begins with the mean of all places (`glance`), and before the scores stand the product with
    the question (`product`, after Antol et al.) and a layer (`d_hidden`). Without these four it is the paper's network,
    equations 1 and 15 to 20.
    """

    def __init__(self, config: VQAConfig, pictures: nn.Module | None = None, **options):
        super().__init__(config, pictures, **options)
        if config.d_question != config.d_model or config.n_hops < 1:
            raise ShapeError(
                f"d_question={config.d_question}, d_model={config.d_model}, n_hops={config.n_hops}: question and "
                "picture are added, so both need the same width, and there is at least one look"
            )
        width = self.pictures.d_model + N_PLACES * config.places
        self.values = nn.Linear(width, config.d_model)
        self.hops = nn.ModuleList(AttentionHop(config.d_model, config.d_attention) for _ in range(config.n_hops))
        self.from_question = nn.Linear(config.d_model, config.d_model) if config.product else None
        self.head = self.head_from(config.d_model)

    def score(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "B K A"]:
        return self._look(images, tokens, mask)[0]

    def maps(
        self, images: Float[Tensor, "B C H W"], tokens: Int[Tensor, "N *K T"], mask: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B *K L P Q"]:
        """Where each look went: weights over the P × Q places, each map with the sum 1. Arguments as for `forward`."""
        if tokens.ndim == 2:
            return self.maps(images, tokens[:, None], mask[:, None])[:, 0]
        self._check(images, tokens, mask)
        return self._look(images, tokens, mask)[1]

    def _look(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, K, A) and maps (B, K, L, P, Q)."""
        grid = self.pictures.grid(images)
        features = with_places(grid) if self.config.places else grid
        values = self.values(features.flatten(2).transpose(1, 2)).tanh()  # (B, P·Q, D): a row for each place
        question, maps = self.read(tokens, mask), []
        found = question + values.mean(dim=1)[:, None] if self.config.glance else question
        for hop in self.hops:
            found, weights = hop(found, values)
            maps.append(weights)
        if self.from_question is not None:
            found = found * self.from_question(question).tanh()
        return self.head(found), torch.stack(maps, dim=2).unflatten(-1, grid.shape[2:])


N_PLACES = 4


def with_places(grid: Float[Tensor, "B D P Q"]) -> Float[Tensor, "B E P Q"]:
    """The grid with four more features that say where each place is: 2x, 2y, 2 cos πx and 2 cos πy, E = D + 4.

    x and y go from -1 to 1; the cosines tell the middle from both ends, which no linear map of x and y can. The
    factor makes them as large as a feature. After Liu et al., "CoordConv", NeurIPS 2018.
    """
    y, x = (torch.linspace(-1, 1, size, device=grid.device, dtype=grid.dtype) for size in grid.shape[2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    where = 2 * torch.stack([x, y, torch.cos(math.pi * x), torch.cos(math.pi * y)])
    return torch.cat([grid, where.expand(len(grid), -1, -1, -1)], dim=1)
