"""Word vectors: look them up, find neighbours, solve analogies, save them, read GloVe and word2vec text files.

Dimensions: V words, D numbers a vector.
"""

import gzip
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmlearn.data.places import written_whole
from mmlearn.data.text import Tokenizer
from mmlearn.errors import DataError

WORDS, MATRIX = "words.json", "vectors.safetensors"


class WordVectors:
    """A vector for each of V words.

    >>> vectors["star"]                              # (D,)
    >>> vectors.nearest("star", k=3)                 # [("ring", 0.71), …]: words and cosines, best first
    >>> vectors.analogy("man", "king", "woman")      # man is to king as woman is to …

    Args:
        words: V different words.
        matrix: their vectors (V, D), in the same order; kept as float32.
    """

    def __init__(self, words: Iterable[str], matrix: Float[Tensor, "V D"]):
        self.words = tuple(words)
        self.matrix = matrix.detach().float().cpu()
        self.ids = {word: number for number, word in enumerate(self.words)}
        if matrix.ndim != 2 or len(self.words) != len(matrix):
            raise DataError(f"{len(self.words)} words need a matrix of as many rows, not {tuple(matrix.shape)}")
        if len(self.ids) < len(self.words):
            twice = next(word for number, word in enumerate(self.words) if self.ids[word] != number)
            raise DataError(f"the word {twice!r} comes twice: give every word one vector")

    @property
    def d_model(self) -> int:
        """D, the numbers of a vector."""
        return self.matrix.shape[1]

    @cached_property
    def unit(self) -> Float[Tensor, "V D"]:
        """All vectors at length 1."""
        return F.normalize(self.matrix, dim=1)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.ids

    def __getitem__(self, word: str) -> Float[Tensor, " D"]:
        """The vector of a word. Raises DataError for a word that has none."""
        return self.matrix[self._number(word)]

    def stack(self, words: Sequence[str]) -> Float[Tensor, "N D"]:
        """The vectors of N words, one a row. Raises DataError for a word that has none."""
        return self.matrix[[self._number(word) for word in words]]

    def nearest(self, word: str | Float[Tensor, " D"], k: int = 5) -> list[tuple[str, float]]:
        """The k words of the highest cosine, best first; a word is not its own neighbour."""
        if isinstance(word, str):
            return self._best(self[word], k, leave_out=[word])
        return self._best(word, k, leave_out=[])

    def analogy(self, a: str, b: str, c: str, k: int = 5) -> list[tuple[str, float]]:
        """a is to b as c is to …: the words nearest to b - a + c (of length 1 each), without a, b and c themselves.

        Source: Mikolov, Yih and Zweig, NAACL 2013. Leaving the three out is the usual rule, and it matters: c or b is
        often the nearest word of all.
        """
        a_, b_, c_ = (self.unit[self._number(word)] for word in (a, b, c))
        return self._best(b_ - a_ + c_, k, leave_out=[a, b, c])

    def matrix_for(self, tokenizer: Tokenizer) -> tuple[Float[Tensor, "vocab_size D"], Bool[Tensor, " vocab_size"]]:
        """The vectors in the order of a tokenizer's vocabulary, zeros where there is none, and which were found."""
        numbers = torch.tensor([self.ids.get(token, -1) for token in tokenizer.vocab])
        found = numbers >= 0
        return self.matrix[numbers.clamp(min=0)] * found[:, None], found

    def save(self, folder: str | Path) -> Path:
        """Write `words.json` and `vectors.safetensors` into a folder and return it."""
        from safetensors.torch import save_file

        folder = Path(folder)
        with written_whole(folder / MATRIX) as partial:
            save_file({"matrix": self.matrix.contiguous()}, partial)
        with written_whole(folder / WORDS) as partial:
            partial.write_text(json.dumps(self.words, ensure_ascii=False, indent=0), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "WordVectors":
        """Read what `save` wrote. Raises DataError where a file is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            words = json.loads((Path(folder) / WORDS).read_text(encoding="utf-8"))
            matrix = load_file(Path(folder) / MATRIX)["matrix"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(f"{folder} holds no readable {WORDS} and {MATRIX}: save vectors there first") from error
        return cls(words, matrix)

    @classmethod
    def from_text(cls, path: str | Path, only: Collection[str] | None = None) -> "WordVectors":
        """Read a text file of GloVe or word2vec (plain or .gz): a word and its D numbers a line.

        Args:
            path: the file; word2vec's first line, which only counts words and numbers, is passed over.
            only: keep these words and no others; saves memory with a file of millions.

        A word that comes twice keeps its first vector. Raises DataError where a line has another number of numbers.
        """
        words, rows, d_model = [], [], None
        wanted, seen = None if only is None else set(only), set()
        for number, parts in enumerate(_lines(Path(path)), start=1):
            if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                continue
            d_model = d_model or len(parts) - 1
            word = " ".join(parts[:-d_model])  # GloVe's largest file holds words with spaces
            if word in seen or (wanted is not None and word not in wanted):
                continue
            try:
                rows.append(torch.tensor([float(part) for part in parts[-d_model:]]))
            except ValueError:
                word = ""
            if not word:
                raise DataError(f"{Path(path).name}, line {number}: expected a word and {d_model} numbers")
            words.append(word)
            seen.add(word)
        if not rows:
            raise DataError(f"{Path(path).name} holds none of the words asked for: is it a file of word vectors?")
        return cls(words, torch.stack(rows))

    def _best(self, vector: Tensor, k: int, leave_out: list[str]) -> list[tuple[str, float]]:
        cosines = self.unit @ F.normalize(vector.float().cpu(), dim=0)
        cosines[[self.ids[word] for word in leave_out]] = -torch.inf
        values, numbers = cosines.topk(min(k, len(self) - len(set(leave_out))))
        return [(self.words[number], value) for number, value in zip(numbers.tolist(), values.tolist(), strict=True)]

    def _number(self, word: str) -> int:
        if word not in self.ids:
            raise DataError(f"there is no vector of {word!r} among {len(self)} words: is it spelt as in the corpus?")
        return self.ids[word]

    def __repr__(self) -> str:
        return f"WordVectors({len(self)} words, {self.d_model} numbers each)"


def _lines(path: Path) -> Iterator[list[str]]:
    """The parts of every line that is not empty; only the space separates (GloVe has words with other blanks)."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip(" \r\n").split(" ")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as a text file of word vectors: {error}") from error
