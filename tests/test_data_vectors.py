"""Word vectors: neighbours, analogies, files."""

import gzip

import pytest
import torch

from mmlearn import data
from mmlearn.errors import DataError

WORDS = ["man", "woman", "king", "queen", "apple"]
MATRIX = torch.tensor([[1.0, 0, 0.2, 0], [0, 1, 0.2, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, -1]])
VECTORS = data.WordVectors(WORDS, MATRIX)


def test_look_up():
    assert torch.equal(VECTORS["king"], MATRIX[2])
    assert torch.equal(VECTORS.stack(["queen", "man"]), MATRIX[[3, 0]])
    assert "apple" in VECTORS
    assert "pear" not in VECTORS
    assert (len(VECTORS), VECTORS.d_model) == (5, 4)


def test_nearest_is_by_cosine_and_leaves_the_word_out():
    neighbours = VECTORS.nearest("king", k=10)
    cosines = torch.nn.functional.cosine_similarity(MATRIX, MATRIX[2:3])
    assert neighbours[0] == ("man", pytest.approx(cosines[0].item()))
    assert len(neighbours) == 4
    assert [value for _, value in neighbours] == sorted((value for _, value in neighbours), reverse=True)
    assert VECTORS.nearest(3 * MATRIX[2], k=1) == [("king", pytest.approx(1.0))]


def test_analogy_leaves_out_the_three():
    assert VECTORS.analogy("man", "king", "woman", k=1)[0][0] == "queen"
    assert VECTORS.analogy("man", "man", "king", k=5)[0][0] != "king"
    assert len(VECTORS.analogy("man", "man", "king", k=5)) == 3


def test_for_a_tokenizer():
    tok = data.WordTokenizer.train(["the king ate an apple"])
    matrix, found = VECTORS.matrix_for(tok)
    assert matrix.shape == (tok.vocab_size, 4)
    assert found.sum() == 2
    assert torch.equal(matrix[tok.ids["king"]], VECTORS["king"])
    assert matrix[~found].abs().sum() == 0


def test_saved_and_loaded(tmp_path):
    VECTORS.save(tmp_path)
    again = data.WordVectors.load(tmp_path)
    assert again.words == VECTORS.words
    assert torch.equal(again.matrix, VECTORS.matrix)
    (tmp_path / "words.json").unlink()
    with pytest.raises(DataError, match="no readable words.json"):
        data.WordVectors.load(tmp_path)


GLOVE = "the 0.1 -0.2 3e-1\n. . 1 2 3\nthe 9 9 9\n\u00a0x 1 1 1\ncaf\u00e9 4 5 6\n"


def test_glove_file(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    vectors = data.WordVectors.from_text(path)
    assert vectors.words == ("the", ". .", "\u00a0x", "café")
    assert vectors["the"].tolist() == pytest.approx([0.1, -0.2, 0.3])
    assert data.WordVectors.from_text(path, only={"café", "pear"}).words == ("café",)


def test_word2vec_file_with_a_header_and_gzip(tmp_path):
    path = tmp_path / "vectors.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("2 3\ncat 1 2 3 \ndog 4 5 6 \n")
    vectors = data.WordVectors.from_text(path)
    assert vectors.words == ("cat", "dog")
    assert vectors["dog"].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 2 3\ndog 4 5\n", "line 2: expected a word and 3 numbers"),
        ("cat 1 2 3\ndog 4 x 6\n", "line 2: expected a word and 3 numbers"),
        ("", "none of the words asked for"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "broken.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        data.WordVectors.from_text(path)
    with pytest.raises(DataError, match="cannot be read"):
        data.WordVectors.from_text(tmp_path / "absent.txt")


def test_errors():
    with pytest.raises(DataError, match="no vector of 'pear' among 5 words"):
        VECTORS["pear"]
    with pytest.raises(DataError, match="the word 'a' comes twice"):
        data.WordVectors(["a", "b", "a"], torch.zeros(3, 2))
    with pytest.raises(DataError, match="2 words need a matrix of as many rows"):
        data.WordVectors(["a", "b"], torch.zeros(3, 2))
