"""A drawn world of one level and seed: scenes by split and number, captions, questions, rows and tensors."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from mmlearn.errors import DataError
from mmlearn.scenes import cache, language, negatives, questions, sampling
from mmlearn.scenes.drawing import draw
from mmlearn.scenes.language import Grammar, ObjectFact
from mmlearn.scenes.questions import Question
from mmlearn.scenes.sampling import Scenes
from mmlearn.scenes.vocabulary import BACKGROUNDS, COLOURS, FILLS, LEVELS, MAX_OBJECTS, PLACES, SHAPES, SIZES


@dataclass(frozen=True)
class Samples:
    """The first n samples of a split, in memory: uint8 images (n, 3, H, W), five captions each, and the scenes."""

    images: UInt8[Tensor, "n 3 H W"]
    captions: list[list[str]]
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class World:
    """A world of drawn scenes.

    Args:
        level: "easy" (one solid object on a light background), "medium" (two) or "hard" (one to four, striped, dotted
            and hollow too, dark backgrounds too).
        seed: worlds of other seeds hold other scenes.

    Splits: "train", "validation" and "test" never hold a held-out colour-shape pair (scenes.HELD_OUT); every object of
    "held_out" is one. Sample i of a split never changes, whatever else is asked for.
    """

    level: str = "medium"
    seed: int = 0

    def __post_init__(self):
        if self.level not in LEVELS:
            raise DataError(f"level {self.level!r} does not exist: choose one of {', '.join(LEVELS)}")

    @cached_property
    def grammar(self) -> Grammar:
        """The distribution of captions: `grammar.entropy()`, `grammar.log_prob(caption)`, both in nats."""
        return _grammar(self.level)

    def scenes(self, split: str, indices: Iterable[int] | Tensor) -> Scenes:
        """The scenes of a split with these numbers, in this order.

        Raises DataError on an unknown split or a negative number.
        """
        key = sampling.keys(self.seed, self.level, split, indices)
        return sampling.sample(key, self.level, held_out=split == "held_out")

    def captions(self, scenes: Scenes) -> list[list[str]]:
        """Five differently worded true captions of each scene, always the same."""
        return language.captions(self.grammar, scenes)

    def questions(self, split: str, indices: Iterable[int] | Tensor, type: str | None = None) -> list[Question]:
        """One question for each scene, its type drawn from those that the scene allows.

        Args: type, ask only this type; scenes that cannot be asked (to compare two objects, say, where there is one)
        are left out.
        """
        indices = [int(i) for i in indices]
        return questions.questions(self.scenes(split, indices), indices, self.level, type)

    def answers(self, type: str) -> tuple[str, ...]:
        """The possible answers to a type of question, equally frequent: chance is 1 / their number."""
        return questions.answers(self.level, type)

    @property
    def question_types(self) -> tuple[str, ...]:
        """The types of question asked at this level: all seven; five for `easy`, with no two objects to relate."""
        return tuple(t for t in questions.QUESTION_TYPES if self.answers(t))

    def negatives(self, scenes: Scenes, kind: str = "replace") -> list[tuple[str, str] | None]:
        """A true caption of each scene and a false one that differs little; None where there is none.

        Args: kind, "replace" (one attribute or relation is another) or "swap" (two objects exchange attributes: the
        same words, equally likely under the grammar; None for one object).
        """
        return negatives.negatives(self.grammar, scenes, kind)

    def tensors(self, split: str, n: int, image_size: int = 32) -> Samples:
        """The first n samples as uint8 pictures in memory, with captions and scenes; the pictures are kept on disk."""
        from safetensors.torch import load_file, save_file

        scenes = self.scenes(split, range(n))
        name = f"{self._name(split, n, image_size)}.safetensors"
        path = cache.cached(name, lambda new: save_file({"images": draw(scenes, image_size)}, new))
        images = load_file(path)["images"].clone()  # the file is mapped: a copy no longer depends on it
        return Samples(images, self.captions(scenes), scenes)

    def rows(self, split: str, n: int, image_size: int = 32, kind: str = "captions"):
        """The first n samples as a `datasets.Dataset`, kept on disk.

        Args: kind, "captions" for the columns image_id, image, captions; "questions" for image_id, image, question,
        answer, question_type (one question a picture).
        """
        import pyarrow.parquet
        from datasets import Dataset, DatasetInfo

        features = _features(kind)
        name = f"{self._name(split, n, image_size)}-{kind}.parquet"
        path = cache.cached(name, lambda new: self._write_rows(new, split, n, image_size, kind))
        return Dataset(pyarrow.parquet.read_table(path), info=DatasetInfo(features=features))

    def _name(self, split: str, n: int, image_size: int) -> str:
        return f"scenes-{self.level}-seed{self.seed}-{split}-{n}-{image_size}px-{cache.version()}"

    def _write_rows(self, path: Path, split: str, n: int, image_size: int, kind: str) -> None:
        import pyarrow
        import pyarrow.parquet

        scenes = self.scenes(split, range(n))
        columns = {
            "image_id": [f"{self.level}-{self.seed}-{split}-{i}" for i in range(n)],
            "image": [{"bytes": _png(picture), "path": None} for picture in draw(scenes, image_size)],
        }
        if kind == "captions":
            columns["captions"] = self.captions(scenes)
        else:
            asked = self.questions(split, range(n))
            columns["question"] = [q.question for q in asked]
            columns["answer"] = [q.answer for q in asked]
            columns["question_type"] = [q.type for q in asked]
        table = pyarrow.table(columns, schema=_features(kind).arrow_schema)
        pyarrow.parquet.write_table(table, path)


@lru_cache
def _grammar(level: str) -> Grammar:
    return Grammar(level)


def _features(kind: str):
    from datasets import Features, Image, List, Value

    text = Value("string")
    columns = {
        "captions": {"captions": List(text)},
        "questions": dict.fromkeys(("question", "answer", "question_type"), text),
    }
    if kind not in columns:
        raise DataError(f"rows of kind {kind!r} do not exist: choose 'captions' or 'questions'")
    return Features({"image_id": text, "image": Image(), **columns[kind]})


def _png(picture: UInt8[Tensor, "3 H W"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def compose(*objects: ObjectFact, background: str = "sky") -> Scenes:
    """One scene of your own: compose(ObjectFact("star", "red", "big", "solid", "top left"), …), at most four objects.

    What is None becomes red, big, solid, and the first free place. Raises DataError on an unknown word or two objects
    in one place.
    """
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise DataError(f"a scene holds 1 to {MAX_OBJECTS} objects, not {len(objects)}")
    free = iter(p for p in PLACES if p not in [o.place for o in objects])
    words = [(o.shape, o.colour or "red", o.size or "big", o.fill or "solid", o.place or next(free)) for o in objects]
    if len({w[4] for w in words}) < len(words):
        raise DataError("two objects have the same place: give each its own")
    numbers = torch.full((5, 1, MAX_OBJECTS), -1)
    for slot, word in enumerate(words):
        for row, (value, known) in enumerate(zip(word, (SHAPES, COLOURS, SIZES, FILLS, PLACES), strict=True)):
            numbers[row, 0, slot] = _number(value, known)
    zero = torch.zeros(1, MAX_OBJECTS)
    key = torch.zeros(1, dtype=torch.long)
    for number in numbers.flatten():
        key = sampling.mix(key + number)  # another scene, other chances
    ground = torch.tensor([_number(background, BACKGROUNDS)])
    return Scenes(key, torch.tensor([len(objects)]), *numbers, zero, zero, zero, ground)


def _number(word: str, known: tuple[str, ...]) -> int:
    if word not in known:
        raise DataError(f"{word!r} is not in the drawn world: choose one of {', '.join(known)}")
    return known.index(word)


def gallery(
    rows: int = 4, columns: int = 8, image_size: int = 112, seed: int = 0, gap: int = 6
) -> UInt8[Tensor, "3 H W"]:
    """Crowded hard scenes in a grid on white: one uint8 picture, rows * (image_size + gap) + gap pixels high."""
    scenes = World("hard", seed).scenes("train", range(8 * rows * columns + 64))
    crowded = (scenes.n_objects >= 3).nonzero()[: rows * columns, 0]
    tiles = torch.nn.functional.pad(draw(scenes[crowded], image_size), (gap, 0, gap, 0), value=255)
    grid = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return torch.nn.functional.pad(grid, (0, gap, 0, gap), value=255)
