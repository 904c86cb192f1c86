"""Text to numbers and back: words, byte pairs, WordPiece, behind one interface.

Five numbers mean the same in every tokenizer: ``<pad>`` 0, ``<unk>`` 1, ``<start>`` 2, ``<end>`` 3, ``<mask>`` 4.
Every encoded text is ``<start> … <end>``, and cutting a long one keeps ``<end>``.
Text that spells "<end>" is read as plain characters: no caption can smuggle in a special token.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmlearn.data.places import written_whole
from mmlearn.errors import DataError

SPECIALS = ("<pad>", "<unk>", "<start>", "<end>", "<mask>")
PAD, UNK, START, END, MASK = range(5)
FILE = "mmlearn-tokenizer.json"


class Tokenizer:
    """What the three tokenizers share. A kind adds ``train``, ``_pieces`` and ``_join``."""

    kind = ""

    def __init__(self, vocab: Sequence[str]):
        self.vocab = tuple(vocab)
        self.ids = {token: number for number, token in enumerate(self.vocab)}

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def tokens(self, text: str) -> list[str]:
        """The pieces of ``text``, without ``<start>`` and ``<end>``; to look at."""
        return [self.vocab[number] for number in self.encode(text)[1:-1]]

    def encode(self, text: str) -> list[int]:
        """The numbers of ``text``: ``<start>``, its pieces, ``<end>``."""
        return [START, *self._pieces([text])[0], END]

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of ``ids`` up to the first ``<end>``, without ``<start>`` and ``<pad>``."""
        kept = []
        for number in ids.tolist() if isinstance(ids, Tensor) else ids:
            if number == END:
                break
            if not 0 <= number < self.vocab_size:
                raise DataError(
                    f"token {number} is not in the vocabulary of {self.vocab_size} tokens: "
                    "decode with the tokenizer that encoded it"
                )
            if number not in (PAD, START):
                kept.append(number)
        return self._join(kept)

    def __call__(
        self, texts: Sequence | str, max_len: int | None = None, truncate: bool = False
    ) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Encode many texts at once.

        Args:
            texts: B strings (one string counts as B = 1).
            max_len: T, the number of tokens a text may have, ``<start>`` and ``<end>`` included.
                Shorter texts are filled up with ``<pad>``. ``None``: T is the longest text's length.
            truncate: cut texts that are too long; the last token stays ``<end>``.

        Returns:
            tokens (B, T), int64; mask (B, T), True = a token to keep, False = padding.

        Raises:
            DataError: a text is too long and ``truncate`` is False, or is not a string.
        """
        pieces = self._pieces([texts] if isinstance(texts, str) else texts)
        longest = max((len(row) + 2 for row in pieces), default=2)
        width = longest if max_len is None else max_len
        if width < 2:
            raise DataError(f"max_len={width} leaves no room for <start> and <end>: use 2 or more")
        if longest > width:
            if not truncate:
                number, size = next((i, len(row) + 2) for i, row in enumerate(pieces) if len(row) + 2 > width)
                raise DataError(
                    f"caption {number} has {size} tokens, the model takes {width}: "
                    "pass truncate=True to cut it (the end token is kept)"
                )
            pieces = [row[: width - 2] for row in pieces]
        return _pack(pieces, width)

    def save(self, folder: str | Path) -> Path:
        """Write the tokenizer as one JSON file into ``folder``; ``load_tokenizer`` reads it."""
        content = self._content()
        path = Path(folder) / FILE
        with written_whole(path) as partial:
            text = json.dumps({"sha256": _digest(content), **content}, ensure_ascii=False, indent=0)
            partial.write_text(text, encoding="utf-8")
        return path

    def _content(self) -> dict:
        return {"kind": self.kind, "vocab": list(self.vocab)}

    def __eq__(self, other) -> bool:
        return isinstance(other, Tokenizer) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash((self.kind, self.vocab))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


class WordTokenizer(Tokenizer):
    """One token a word or punctuation mark, lower-cased; rare words become ``<unk>``."""

    kind = "word"
    _word = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2000, min_count: int = 1) -> "WordTokenizer":
        """Keep the most frequent words, at most ``vocab_size`` tokens with the five special ones."""
        counts = Counter(chain.from_iterable(cls.split(text) for text in _checked(texts)))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        frequent = [word for word in ordered if counts[word] >= min_count]
        return cls([*SPECIALS, *frequent[: _room(vocab_size)]])

    @classmethod
    def split(cls, text: str) -> list[str]:
        """Lower-cased words and punctuation marks: "A dog's ball." → a, dog's, ball, ."""
        return cls._word.findall(text.lower())

    def _pieces(self, texts):
        number = self.ids.get
        return [[number(word, UNK) for word in self.split(text)] for text in _checked(texts)]

    def _join(self, ids):
        return re.sub(r" ([.,!?;:)\]])", r"\1", " ".join(self.vocab[number] for number in ids))


class _Trained(Tokenizer):
    """A tokenizer whose splitting is done by the ``tokenizers`` library."""

    def __init__(self, vocab: Sequence[str]):
        super().__init__(vocab)
        self._library = self._build()

    def _pieces(self, texts):
        texts = _checked(texts)
        try:
            return [encoding.ids for encoding in self._library.encode_batch_fast(texts)]
        except (TypeError, UnicodeEncodeError):
            number = next((i for i, text in enumerate(texts) if not _is_unicode(text)), 0)
            raise DataError(
                f"caption {number} is not valid Unicode text: read its file with the right encoding"
            ) from None

    def _join(self, ids):
        return self._library.decode(ids, skip_special_tokens=False)

    def __reduce__(self):
        return _from_content, (self._content(),)


class BytePairTokenizer(_Trained):
    """Byte-pair encoding over UTF-8 bytes (Sennrich et al. 2016; bytes as in GPT-2): any text decodes back exactly.

    In ``tokens(text)`` the letter Ġ stands for a space before the piece.
    """

    kind = "byte_pair"

    def __init__(self, vocab: Sequence[str], merges: Sequence[Sequence[str]]):
        self.merges = tuple(tuple(pair) for pair in merges)
        super().__init__(vocab)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2000, min_count: int = 1) -> "BytePairTokenizer":
        """Join the most frequent neighbouring pieces until there are ``vocab_size`` tokens (261 or more)."""
        from tokenizers import models, pre_tokenizers, trainers

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size < len(SPECIALS) + len(alphabet):
            raise DataError(
                f"vocab_size={vocab_size} is too small for byte pairs: the 256 bytes and 5 special tokens need 261"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=min_count, special_tokens=list(SPECIALS),
            initial_alphabet=alphabet, show_progress=False,
        )  # fmt: skip
        model = _train(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer, texts)
        return cls(_ordered(model["vocab"]), model["merges"])

    def _build(self):
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        library = Library(models.BPE(vocab=self.ids, merges=list(self.merges)))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        return library

    def _content(self):
        return super()._content() | {"merges": [list(pair) for pair in self.merges]}


class WordPieceTokenizer(_Trained):
    """WordPiece as in BERT (Devlin et al. 2019): lower-cased words, cut into the longest known pieces.

    A piece that continues a word starts with ``##``; a word with an unknown character becomes ``<unk>``.
    """

    kind = "word_piece"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2000, min_count: int = 1) -> "WordPieceTokenizer":
        """Join the most frequent neighbouring pieces of words until there are ``vocab_size`` tokens."""
        from tokenizers import models, normalizers, pre_tokenizers, trainers

        _room(vocab_size)
        normalise, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        counts = Counter(word for text in _checked(texts)
                         for word, _ in split.pre_tokenize_str(normalise.normalize_str(text)))  # fmt: skip
        # The library numbers "##" pieces in an order that changes from run to run. Written as one private
        # character for each starting letter and each continuing one, words train the same way every time.
        letters = sorted({piece for word in counts for piece in _letters(word)})
        private = {piece: chr(0xF0000 + number) for number, piece in enumerate(letters)}
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_count,
                                      special_tokens=list(SPECIALS), show_progress=False)  # fmt: skip
        words = (" ".join(["".join(private[piece] for piece in _letters(word))] * counts[word])
                 for word in counts)  # fmt: skip
        model = _train(models.BPE(), pre_tokenizers.WhitespaceSplit(), trainer, words)
        pieces = [[letters[ord(sign) - 0xF0000] for sign in token] for token in _ordered(model["vocab"])[5:]]
        return cls([*SPECIALS, *(first + "".join(piece[2:] for piece in rest) for first, *rest in pieces)])

    def _build(self):
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, normalizers, pre_tokenizers

        library = Library(models.WordPiece(vocab=self.ids, unk_token=SPECIALS[UNK]))
        library.normalizer = normalizers.BertNormalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece(prefix="##")
        return library


KINDS = {kind.kind: kind for kind in (WordTokenizer, BytePairTokenizer, WordPieceTokenizer)}


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer that ``save`` wrote; a damaged or altered file raises DataError."""
    path = Path(folder) / FILE
    again = "save the tokenizer again, or fetch the folder again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: save a tokenizer there with tok.save(folder)") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path} is not a complete tokenizer file: {again}") from None
    if digest != _digest(content):
        raise DataError(f"{path} was changed after it was saved (its checksum differs): {again}")
    return _from_content(content)


def _from_content(content: dict) -> Tokenizer:
    arguments = {key: value for key, value in content.items() if key != "kind"}
    return KINDS[content["kind"]](**arguments)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _room(vocab_size: int) -> int:
    if vocab_size <= len(SPECIALS):
        raise DataError(f"vocab_size={vocab_size} leaves no room beside the {len(SPECIALS)} special tokens")
    return vocab_size - len(SPECIALS)


def _checked(texts: Iterable) -> list[str]:
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"caption {number} is {type(text).__name__}, expected a string")
    return texts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _letters(word: str) -> list[str]:
    """The first letter as it is, each later one marked as continuing: dog → d, ##o, ##g."""
    return [word[0], *("##" + letter for letter in word[1:])]


def _train(model, pre_tokenizer, trainer, texts) -> dict:
    """Train with the ``tokenizers`` library and return its model as plain JSON."""
    from tokenizers import Tokenizer as Library

    library = Library(model)
    library.pre_tokenizer = pre_tokenizer
    library.train_from_iterator(_checked(texts), trainer)
    return json.loads(library.to_str())["model"]


def _ordered(vocab: dict[str, int]) -> list[str]:
    return sorted(vocab, key=vocab.get)


def _pack(pieces: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Lists of numbers → tokens and mask of shape (B, width), each row ``<start> … <end> <pad> …``."""
    lengths = torch.tensor([len(row) for row in pieces], dtype=torch.long)[:, None]  # (B, 1)
    place = torch.arange(width)  # (T,)
    tokens = torch.full((len(pieces), width), PAD)
    tokens[(place >= 1) & (place <= lengths)] = torch.tensor(list(chain.from_iterable(pieces)), dtype=torch.long)
    tokens[:, 0] = START
    tokens[place == lengths + 1] = END
    return tokens, place <= lengths + 1
