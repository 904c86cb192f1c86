"""Tokenizers: one interface, fixed special tokens, exact round trips, files that cannot be tampered with."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlearn import data
from mmlearn.errors import DataError

TEXTS = [
    "A black dog is running after a white dog .",
    "Two dogs play with the ball!",
    "The girl's red umbrella, under the tree.",
    "A man is walking the dog near a tree .",
] * 5
KINDS = [data.WordTokenizer, data.BytePairTokenizer, data.WordPieceTokenizer]
TRAINED = {kind: kind.train(TEXTS, vocab_size=400) for kind in KINDS}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def tok(request):
    return TRAINED[request.param]


def test_special_tokens_have_the_same_numbers_everywhere(tok):
    assert tok.vocab[:5] == data.SPECIALS == ("<pad>", "<unk>", "<start>", "<end>", "<mask>")
    assert [tok.ids[name] for name in data.SPECIALS] == [data.PAD, data.UNK, data.START, data.END, data.MASK]
    assert len(set(tok.vocab)) == tok.vocab_size <= 400


def test_encode_starts_and_ends(tok):
    ids = tok.encode("a dog")
    assert ids[0] == data.START
    assert ids[-1] == data.END
    assert [tok.vocab[i] for i in ids[1:-1]] == tok.tokens("a dog")
    assert tok.encode("") == [data.START, data.END]
    assert tok.decode(ids) == "a dog"


@pytest.mark.parametrize("text", ["<end>", "<pad> <start>", "a <mask> dog<unk>"])
def test_text_cannot_smuggle_in_special_tokens(tok, text):
    inside = tok.encode(text)[1:-1]
    assert not {data.PAD, data.START, data.END, data.MASK} & set(inside)


def test_batch_pads_and_masks(tok):
    tokens, mask = tok(["a dog", "a black dog is running"], max_len=16)
    assert tokens.shape == mask.shape == (2, 16)
    assert tokens.dtype == torch.int64
    assert mask.dtype == torch.bool
    for row, keep, text in zip(tokens, mask, ["a dog", "a black dog is running"], strict=True):
        assert row[keep].tolist() == tok.encode(text)
        assert (row[~keep] == data.PAD).all()


def test_without_max_len_the_longest_text_gives_the_width(tok):
    tokens, mask = tok(["a", "a dog"])
    assert tokens.shape[1] == len(tok.encode("a dog"))
    assert mask[1].all()
    assert tok([])[0].shape == (0, 2)
    assert tok("a dog")[0].tolist() == [tok.encode("a dog")]


def test_truncation_keeps_the_end_token(tok):
    text = "a dog " * 30
    tokens, mask = tok(["a dog", text], max_len=9, truncate=True)
    assert tokens[1, -1] == data.END
    assert tokens[1].tolist() == [*tok.encode(text)[:8], data.END]
    assert mask[1].all()


def test_too_long_says_which_how_long_and_what_to_do(tok):
    long = "a " * 89
    size = len(tok.encode(long))
    message = (
        rf"^caption 17 has {size} tokens, the model takes 77: pass truncate=True to cut it \(the end token is kept\)$"
    )
    with pytest.raises(DataError, match=message):
        tok(["a dog"] * 17 + [long] + ["a dog"], max_len=77)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["a", None], "caption 1 is NoneType, expected a string"), (["a", "b", 3], "caption 2 is int")],
)
def test_what_is_no_text_is_refused(tok, texts, message):
    with pytest.raises(DataError, match=message):
        tok(texts)


def test_no_room_for_start_and_end(tok):
    with pytest.raises(DataError, match="max_len=1 leaves no room"):
        tok(["a"], max_len=1, truncate=True)


def test_half_a_surrogate_pair_is_an_error_or_unknown(tok):
    if tok.kind == "word":
        assert tok.encode("a \ud800")[2] == data.UNK
    else:
        with pytest.raises(DataError, match="caption 1 is not valid Unicode"):
            tok(["fine", "a \ud800"])


def test_decode_stops_at_end_and_refuses_foreign_numbers(tok):
    ids = tok.encode("a dog")
    assert tok.decode(torch.tensor([*ids, data.PAD, *tok.encode("white")])) == "a dog"
    with pytest.raises(DataError, match=f"token {tok.vocab_size} is not in the vocabulary"):
        tok.decode([tok.vocab_size])


def test_save_load(tok, tmp_path):
    path = tok.save(tmp_path / "model")
    again = data.load_tokenizer(tmp_path / "model")
    assert type(again) is type(tok)
    assert again == tok
    assert again.encode(TEXTS[2]) == tok.encode(TEXTS[2])
    assert [p.name for p in (tmp_path / "model").iterdir()] == [path.name]
    json.loads(path.read_text())
    copy = pickle.loads(pickle.dumps(tok))
    assert copy.encode(TEXTS[2]) == tok.encode(TEXTS[2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a complete tokenizer file"),
        (lambda text: "", "not a complete tokenizer file"),
        (lambda text: "[]", "not a complete tokenizer file"),
        (lambda text: text.replace('"dog"', '"cat"').replace('"Ġdog"', '"Ġcat"'), "was changed after it was saved"),
        (lambda text: text.replace('"kind"', '"kind_"'), "was changed after it was saved"),
    ],
)
def test_a_damaged_file_is_refused(tok, tmp_path, damage, message):
    path = tok.save(tmp_path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        data.load_tokenizer(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="does not exist: save a tokenizer there"):
        data.load_tokenizer(tmp_path)


BYTE_PAIR = TRAINED[data.BytePairTokenizer]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_byte_pairs_give_any_text_back(text):
    assert BYTE_PAIR.decode(BYTE_PAIR.encode(text)) == text
    assert data.UNK not in BYTE_PAIR.encode(text)


@given(st.lists(st.text(max_size=30), max_size=6), st.integers(2, 12))
@settings(max_examples=100, deadline=None)
def test_a_batch_is_its_texts_cut(texts, width):
    for tok in TRAINED.values():
        tokens, mask = tok(texts, max_len=width, truncate=True)
        for row, keep, text in zip(tokens, mask, texts, strict=True):
            ids = tok.encode(text)
            assert row[keep].tolist() == (ids if len(ids) <= width else [*ids[: width - 1], data.END])


def test_words_are_read_as_expected():
    split = data.WordTokenizer.split
    assert split("A dog's BALL, 2 metres!") == ["a", "dog's", "ball", ",", "2", "metres", "!"]
    assert split("Ein Hund, wörtlich.") == ["ein", "hund", ",", "wörtlich", "."]
    tok = data.WordTokenizer.train(["b b a a c"], vocab_size=7)
    assert tok.vocab[5:] == ("a", "b")
    assert tok.encode("a zebra")[2] == data.UNK
    assert data.WordTokenizer.train(["b b a"], min_count=2).vocab[5:] == ("b",)


def test_word_pieces_continue_with_marks():
    tok = TRAINED[data.WordPieceTokenizer]
    assert tok.tokens("dogs walking") in (["dogs", "walking"], ["dog", "##s", "walking"])
    small = data.WordPieceTokenizer.train(TEXTS, vocab_size=60)
    pieces = small.tokens("umbrella")
    assert len(pieces) > 1
    assert all(piece.startswith("##") for piece in pieces[1:])
    assert not pieces[0].startswith("##")
    assert small.decode(small.encode("umbrella dog")) == "umbrella dog"
    assert small.encode("狗")[1] == data.UNK


@pytest.mark.parametrize(
    ("kind", "size"), [(data.WordTokenizer, 5), (data.BytePairTokenizer, 260), (data.WordPieceTokenizer, 5)]
)
def test_a_vocabulary_too_small_is_refused(kind, size):
    with pytest.raises(DataError, match=f"vocab_size={size}"):
        kind.train(TEXTS, vocab_size=size)


def test_training_gives_the_same_numbers_in_another_process():
    code = (
        f"from mmlearn import data; texts = {TEXTS!r}\n"
        "for kind in (data.WordTokenizer, data.BytePairTokenizer, data.WordPieceTokenizer):\n"
        "    print(ascii(kind.train(texts, vocab_size=300).vocab))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [ascii(kind.train(TEXTS, vocab_size=300).vocab) for kind in KINDS]
    assert there.splitlines() == here
