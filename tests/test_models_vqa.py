"""Models that answer questions: shapes, what must change nothing, equal to the equations by hand and to nn modules."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmlearn as mm
from mmlearn.data.text import START
from mmlearn.errors import DataError, ShapeError
from mmlearn.metrics.vqa import soft_scores
from mmlearn.models import vqa
from mmlearn.models.encoders import image_encoder

CONFIG = vqa.VQAConfig(vocab_size=30, n_answers=7, d_word=8, d_question=16, d_model=16, d_attention=6, d_hidden=12)
MODELS = [vqa.QuestionOnly, vqa.PictureOnly, vqa.ProductVQA, vqa.StackedAttention]


def small_encoder():
    return image_encoder("convnet", depths=(1, 1), widths=(4, 10))


def make(kind, config=CONFIG):
    torch.manual_seed(0)
    return kind(config, **({} if kind is vqa.QuestionOnly else {"pictures": small_encoder()})).eval()


def batch(n=3, length=5, size=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, size, size + 4, generator=generator) * 2 - 1
    tokens = torch.randint(5, 30, (n, length), generator=generator)
    lengths = torch.tensor([length, 2, 3])[:n]
    mask = torch.arange(length) < lengths[:, None]
    return images, tokens * mask, mask


# -------------------------------------------------------------------------------------------------- what all models do
@pytest.mark.parametrize("kind", MODELS)
def test_scores_have_one_row_a_question_and_many_questions_are_one_at_a_time(kind):
    model, (images, tokens, mask) = make(kind), batch()
    scores = model(images, tokens, mask)
    assert scores.shape == (3, 7)
    many = model(images, torch.stack([tokens, tokens.roll(1, 0)], 1), torch.stack([mask, mask.roll(1, 0)], 1))
    assert many.shape == (3, 2, 7)
    torch.testing.assert_close(many[:, 0], scores)
    torch.testing.assert_close(many[:, 1], model(images, tokens.roll(1, 0), mask.roll(1, 0)))


@pytest.mark.parametrize("kind", MODELS)
def test_padding_changes_nothing(kind):
    model, (images, tokens, mask) = make(kind), batch()
    scores = model(images, tokens, mask)
    longer = torch.cat([tokens, torch.full((3, 4), 9)], dim=1)  # whatever stands there
    torch.testing.assert_close(model(images, longer, F.pad(mask, (0, 4))), scores)
    filled = tokens.masked_fill(~mask, 11)
    torch.testing.assert_close(model(images, filled, mask), scores)
    alone = torch.cat([model(images[i : i + 1], tokens[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, scores)


def test_each_model_sees_its_own_half_only():
    images, tokens, mask = batch()
    blind, deaf = make(vqa.QuestionOnly), make(vqa.PictureOnly)
    torch.testing.assert_close(blind(images, tokens, mask), blind(images.flip(0), tokens, mask))
    torch.testing.assert_close(deaf(images, tokens, mask), deaf(images, tokens.flip(0), mask.flip(0)))
    for kind in (vqa.ProductVQA, vqa.StackedAttention):
        both = make(kind)
        scores = both(images, tokens, mask)
        assert (scores - both(images.flip(0), tokens, mask)).abs().max() > 1e-4
        assert (scores - both(images, tokens.flip(0), mask.flip(0))).abs().max() > 1e-4


@pytest.mark.parametrize("kind", MODELS)
def test_one_batch_can_be_learned_by_heart(kind):
    model, (images, tokens, mask) = make(kind).train(), batch()
    answers = torch.tensor([4, 0, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = vqa.answer_loss(model(images, tokens, mask), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert all(p.grad is not None for p in model.parameters())


def test_word_order_matters_to_the_reader():
    reader = make(vqa.QuestionOnly).question
    tokens = torch.tensor([[2, 7, 8, 3], [2, 8, 7, 3]])
    first, second = reader(tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("reader", ["lstm", "gru"])
@pytest.mark.parametrize("bag", [False, True])
def test_reader_equals_torch(reader, bag):
    torch.manual_seed(0)
    mine = vqa.QuestionReader(vqa.VQAConfig(30, 7, 8, 16, reader=reader, bag=bag))
    _, tokens, mask = batch()
    theirs = (nn.LSTM if reader == "lstm" else nn.GRU)(8, 16, batch_first=True)
    theirs.load_state_dict(mm.nn.rnn.to_torch(mine.recurrent.state_dict()) | zeros_for(theirs, mine))
    words = F.embedding(tokens, mine.words.weight)
    packed = nn.utils.rnn.pack_padded_sequence(words, mask.sum(1), batch_first=True, enforce_sorted=False)
    state = theirs(packed)[1]
    wanted = (state[0] if reader == "lstm" else state)[-1]
    if bag:
        rows = []
        for row, keep in zip(words, mask, strict=True):
            n, total = int(keep.sum()), torch.zeros(8)
            for j in range(n):
                t = j / (n - 1)
                total = total + row[j] * torch.tensor([2 * ((1 - t) * (1 - k / 7) + t * k / 7) for k in range(8)])
            rows.append(total / n)
        wanted = wanted + torch.stack(rows) @ mine.bag.weight.T + mine.bag.bias
    torch.testing.assert_close(mine(tokens, mask), wanted)
    direction = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3))
    grads = [torch.autograd.grad((out * direction).sum(), mine.words.weight)[0] for out in (mine(tokens, mask), wanted)]
    torch.testing.assert_close(*grads)


def zeros_for(theirs, mine):
    """PyTorch's recurrences have two biases where one says the same: the weights as ours, what is missing zero."""
    ours = mm.nn.rnn.to_torch(mine.recurrent.state_dict())
    return {name: ours.get(name, torch.zeros_like(value)) for name, value in theirs.state_dict().items()}


def test_word_vectors_from_outside():
    matrix = torch.randn(30, 8)
    found = torch.arange(30) % 2 == 0
    model = vqa.QuestionOnly(CONFIG, vectors=(matrix, found))
    torch.testing.assert_close(model.question.words.weight[found], matrix[found])
    assert not torch.equal(model.question.words.weight[~found], matrix[~found])
    torch.testing.assert_close(vqa.QuestionOnly(CONFIG, vectors=matrix).question.words.weight.data, matrix)
    with pytest.raises(ShapeError, match="set d_word"):
        vqa.QuestionOnly(CONFIG, vectors=torch.randn(30, 9))


def test_frozen_pictures_stay():
    pictures = image_encoder("convnet", depths=(1, 1), widths=(4, 10), frozen=True)
    model = vqa.StackedAttention(CONFIG, pictures).train()
    images, tokens, mask = batch()
    before = {name: value.clone() for name, value in model.pictures.state_dict().items()}
    vqa.answer_loss(model(images, tokens, mask), torch.tensor([1, 2, 3])).backward()
    assert all(p.grad is None for p in model.pictures.parameters())
    assert model.hops[0].rate.weight.grad.abs().sum() > 0
    for name, value in model.pictures.state_dict().items():
        torch.testing.assert_close(value, before[name])


# ---------------------------------------------------------------------------------------------------------- by hand
def test_product_by_hand():
    model, (images, tokens, mask) = make(vqa.ProductVQA), batch()

    class ByHand(nn.Module):
        def forward(self, images):
            grid = model.pictures.grid(images)
            rows = []
            for b in range(len(images)):
                features = torch.stack([grid[b, d].sum() / grid[b, d].numel() for d in range(grid.shape[1])])
                features = features * math.sqrt(len(features)) / (features**2).sum().sqrt()
                picture = torch.tanh(model.from_picture.weight @ features + model.from_picture.bias)
                question = model.question(tokens[b : b + 1], mask[b : b + 1])[0]
                product = picture * torch.tanh(model.from_question.weight @ question + model.from_question.bias)
                rows.append(model.head(product))
            return torch.stack(rows)

    mm.matches(lambda images: model(images, tokens, mask), ByHand(), images, copy=False)


@pytest.mark.parametrize("n_hops", [1, 2, 3])
@pytest.mark.parametrize(
    ("places", "glance", "product"),
    [(False, False, False), (True, False, False), (True, False, True), (True, True, True)],
)
def test_stacked_attention_by_hand(n_hops, places, glance, product):
    """Equations 1 and 15 to 20 of Yang et al., place by place."""
    config = vqa.VQAConfig(
        30, 7, 8, 16, 16, 6, n_hops=n_hops, places=places, glance=glance, product=product, d_hidden=0
    )
    model, (images, tokens, mask) = make(vqa.StackedAttention, config), batch(2)

    def by_hand(images):
        grid, rows, kept = model.pictures.grid(images), [], []
        height, width = grid.shape[2:]
        for b in range(len(images)):
            q = u = model.question(tokens[b : b + 1], mask[b : b + 1])[0]
            values = []
            for i in range(height):
                for j in range(width):
                    f = grid[b, :, i, j]
                    if places:
                        x, y = 2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1
                        where = [2 * x, 2 * y, 2 * math.cos(math.pi * x), 2 * math.cos(math.pi * y)]
                        f = torch.cat([f, torch.tensor(where)])
                    values.append(torch.tanh(model.values.weight @ f + model.values.bias))
            if glance:
                u = u + sum(values) / len(values)
            for hop in model.hops:
                scores = []
                for v in values:
                    h = hop.from_place.weight @ v + (hop.from_question.weight @ u + hop.from_question.bias)
                    scores.append(hop.rate.weight[0] @ torch.tanh(h))
                p = torch.stack([score.exp() for score in scores])
                p = p / p.sum()
                u = u + sum(weight * v for weight, v in zip(p, values, strict=True))
                kept.append(p.view(height, width))
            if product:
                u = u * torch.tanh(model.from_question.weight @ q + model.from_question.bias)
            rows.append(model.head[-1].weight @ u + model.head[-1].bias)
        return torch.stack(rows), torch.stack(kept).view(len(images), n_hops, height, width)

    def mine(images):
        return model(images, tokens, mask), model.maps(images, tokens, mask)

    mm.matches(mine, by_hand, images, copy=False)


def test_one_hop_equals_additive_attention_of_torch_layers():
    mine = vqa.AttentionHop(16, 6)

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Linear(16, 6, bias=False)
            self.question = nn.Linear(16, 6)
            self.score = nn.Linear(6, 1, bias=False)

        def forward(self, question, places):
            pairs = self.place(places).unsqueeze(1) + self.question(question).unsqueeze(2)
            weights = nn.Softmax(dim=2)(self.score(nn.Tanh()(pairs)).squeeze(3))
            return question + torch.einsum("bks,bsd->bkd", weights, places), weights

    mm.matches(mine, Reference(), torch.randn(2, 3, 16), torch.randn(2, 5, 16))


# -------------------------------------------------------------------------------------------------------------- maps
def test_maps_have_the_grid_s_shape_and_sum_to_one():
    model, (images, tokens, mask) = make(vqa.StackedAttention), batch()
    maps = model.maps(images, tokens, mask)
    assert maps.shape == (3, 2, 8, 10)  # batch, looks, and the grid of 16 x 20 pixels halved once
    torch.testing.assert_close(maps.sum(dim=(-2, -1)), torch.ones(3, 2))
    assert (maps > 0).all()
    many = model.maps(images, torch.stack([tokens, tokens], 1), torch.stack([mask, mask], 1))
    assert many.shape == (3, 2, 2, 8, 10)
    torch.testing.assert_close(many[:, 1], maps)


def test_stored_grids_give_the_same_scores():
    images, tokens, mask = batch()
    for kind in (vqa.ProductVQA, vqa.StackedAttention, vqa.PictureOnly):
        model = make(kind)
        wanted, grids = model(images, tokens, mask), model.pictures.grid(images)
        model.pictures = vqa.StoredGrid(model.pictures.d_model)
        torch.testing.assert_close(model(grids, tokens, mask), wanted)


def test_word_weights_tell_first_from_last():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    weights = vqa.word_weights(mask, 5)
    torch.testing.assert_close(weights[0, :, 0] * 3, torch.tensor([2.0, 1, 0, 0]))
    torch.testing.assert_close(weights[0, :, 4] * 3, torch.tensor([0.0, 1, 2, 0]))
    torch.testing.assert_close(weights[0, :3].mean(0) * 3, torch.ones(5))  # each feature hears as much in all
    assert weights[1, 1:].abs().sum() == 0
    assert weights.isfinite().all()


@pytest.mark.parametrize("places", [False, True])
def test_permuting_the_places_permutes_the_map_where_places_do_not_count(places):
    config = vqa.VQAConfig(30, 7, 8, 16, 16, 6, places=places)
    torch.manual_seed(0)
    model = vqa.StackedAttention(config, vqa.StoredGrid(3)).eval()
    _, tokens, mask = batch()
    images, order = torch.randn(3, 3, 4, 5), torch.randperm(20)
    mixed = images.flatten(2)[..., order].view_as(images)
    maps, moved = model.maps(images, tokens, mask), model.maps(mixed, tokens, mask)
    same = torch.allclose(maps.flatten(-2)[..., order], moved.flatten(-2), atol=1e-6)
    assert same == (not places)
    assert torch.allclose(model(images, tokens, mask), model(mixed, tokens, mask), atol=1e-5) == (not places)


def test_places_are_those_of_the_grid():
    grid = torch.zeros(2, 5, 3, 4)
    out = vqa.with_places(grid)
    assert out.shape == (2, 9, 3, 4)
    torch.testing.assert_close(out[0, 5, 0], torch.tensor([-2, -2 / 3, 2 / 3, 2]))  # x, twice
    torch.testing.assert_close(out[1, 6, :, 1], torch.tensor([-2.0, 0, 2]))  # y
    torch.testing.assert_close(out[0, 8, :, 3], torch.tensor([-2.0, 2, -2]))  # the cosine tells the middle
    assert vqa.with_places(torch.zeros(1, 2, 1, 1)).isfinite().all()


# ------------------------------------------------------------------------------------------------- answers and priors
def test_answer_vocabulary_numbers_by_frequency_and_unknown_is_wrong():
    vocabulary = vqa.AnswerVocabulary.train(["2", "red", "2", "blue", "red", "2", "chair"], min_count=2)
    assert vocabulary.answers == ("2", "red")
    assert vqa.AnswerVocabulary.train(["b", "a", "c", "c"], size=2).answers == ("c", "a")
    numbers = vocabulary.encode(["red", "chair", "2"])
    assert numbers.tolist() == [1, vqa.UNKNOWN, 0]
    assert not (torch.arange(len(vocabulary))[:, None] == numbers)[:, 1].any()  # no prediction equals it
    assert vocabulary.decode(torch.tensor([1, 0])) == ["red", "2"]
    with pytest.raises(DataError, match="no answer -1"):
        vocabulary.decode(numbers)
    with pytest.raises(DataError, match="each only once"):
        vqa.AnswerVocabulary(["a", "a"])


def test_answer_vocabulary_comes_back_from_a_file(tmp_path):
    vocabulary = vqa.AnswerVocabulary(["crème brûlée", "2"])
    vocabulary.save(tmp_path / "answers.json")
    assert vqa.AnswerVocabulary.load(tmp_path / "answers.json").answers == vocabulary.answers
    (tmp_path / "answers.json").write_text(json.dumps([]))
    with pytest.raises(DataError):
        vqa.AnswerVocabulary.load(tmp_path / "answers.json")
    with pytest.raises(DataError, match="no answer vocabulary"):
        vqa.AnswerVocabulary.load(tmp_path / "nothing.json")


def test_soft_targets_are_the_official_accuracy_of_each_answer():
    given = [["yes"] * 8 + ["no"] * 2, ["cat"] + ["dog"] * 3 + ["2"] * 6, ["?"] * 10]
    vocabulary = vqa.AnswerVocabulary(["yes", "no", "cat", "dog", "2"])
    targets = vocabulary.soft_targets(given)
    for number, answer in enumerate(vocabulary.answers):
        torch.testing.assert_close(targets[:, number], soft_scores([answer] * 3, given).float())
    assert targets[0].tolist() == pytest.approx([1, 0.6, 0, 0, 0])


def test_answer_loss():
    scores = torch.randn(4, 7)
    answers = torch.tensor([2, vqa.UNKNOWN, 0, 6])
    wanted = F.cross_entropy(scores[[0, 2, 3]], answers[[0, 2, 3]])
    torch.testing.assert_close(vqa.answer_loss(scores, answers), wanted)
    torch.testing.assert_close(vqa.answer_loss(scores.view(2, 2, 7), answers.view(2, 2)), wanted)
    soft = F.one_hot(answers.clamp(min=0), 7).float()
    soft[1] = 0  # nobody's answer is in the vocabulary
    torch.testing.assert_close(vqa.answer_loss(scores, 0.6 * soft), wanted)
    assert vqa.answer_loss(torch.zeros(3, 7), torch.tensor([1, 2, 3])).item() == pytest.approx(math.log(7))
    smooth = vqa.answer_loss(scores, answers, smoothing=0.1)
    even = -scores[[0, 2, 3]].log_softmax(1).mean()
    torch.testing.assert_close(smooth, 0.9 * wanted + 0.1 * even)
    nothing = torch.full((4,), vqa.UNKNOWN)
    leaf = scores.clone().requires_grad_()
    vqa.answer_loss(leaf, nothing).backward()
    assert leaf.grad.abs().sum() == 0


def test_prior_counts_by_the_first_words():
    how_many, colour = [START, 10, 11, 20, 3], [START, 12, 13, 21, 3]
    tokens = torch.tensor([how_many, how_many, how_many, colour, colour])
    answers = torch.tensor([0, 0, 1, 2, vqa.UNKNOWN])
    everywhere = vqa.AnswerPrior(4).count(tokens, answers)
    torch.testing.assert_close(everywhere(None, tokens).exp()[3], torch.tensor([0.5, 0.25, 0.25, 0]), atol=0.2, rtol=0)
    assert everywhere(None, tokens).argmax(-1).tolist() == [0] * 5
    by_type = vqa.AnswerPrior(4, n_words=2).count(tokens, answers)
    new = torch.tensor([[START, 10, 11, 29, 3], [START, 12, 13, 29, 3], [START, 10, 29, 29, 3], [START, 29, 29, 3, 0]])
    torch.testing.assert_close(by_type(None, new).exp()[0], torch.tensor([2 / 3, 1 / 3, 0, 0]))
    assert by_type(None, new).argmax(-1).tolist() == [0, 2, 0, 0]  # one word fits, none fits
    assert by_type(None, new[:, None]).shape == (4, 1, 4)


def test_phrases_vote_and_nothing_else_does():
    model = vqa.PhraseModel(4, n_words=3, n_rows=997)
    tokens = torch.tensor([[2, 7, 8, 3, 0], [2, 7, 9, 8, 3]])
    mask = tokens != 0
    assert model(None, tokens, mask).abs().sum() == 0  # nobody has voted yet
    nn.init.normal_(model.votes.weight)
    wanted = []
    for row, keep in zip(tokens, mask, strict=True):
        words = row[keep].tolist()
        total = model.bias
        for n in (1, 2, 3):
            for i in range(len(words) - n + 1):
                number = 0
                for word in words[i : i + n]:
                    number = (number * 1_000_003 + word + 7919 * n) % (2**31 - 1)
                total = total + model.votes.weight[1 + number * 40_503 % 997]
        wanted.append(total)
    torch.testing.assert_close(model(None, tokens, mask), torch.stack(wanted))
    longer = F.pad(tokens, (0, 3), value=9)
    torch.testing.assert_close(model(None, longer, F.pad(mask, (0, 3))), torch.stack(wanted))
    torch.testing.assert_close(model(None, tokens[:, None], mask[:, None])[:, 0], torch.stack(wanted))
    assert (model(None, tokens.roll(1, 1), mask.roll(1, 1)) - torch.stack(wanted)).abs().max() > 0.1  # order matters
    assert model(None, tokens[:, :1], mask[:, :1]).shape == (2, 4)  # shorter than the longest phrase


def test_together_adds_scores():
    images, tokens, mask = batch()
    one, two = make(vqa.ProductVQA), make(vqa.QuestionOnly)
    both = vqa.Together(one, two)
    torch.testing.assert_close(both(images, tokens, mask), one(images, tokens, mask) + two(images, tokens, mask))
    assert len(list(both.parameters())) == len(list(one.parameters())) + len(list(two.parameters()))


# ------------------------------------------------------------------------------------------------------------- errors
def test_errors():
    model, (images, tokens, mask) = make(vqa.StackedAttention), batch()
    with pytest.raises(ShapeError, match="2 pictures with tokens"):
        model(images[:2], tokens, mask)
    with pytest.raises(ShapeError, match="expected"):
        model(images, tokens, mask[:, :-1])
    with pytest.raises(ShapeError, match="True = a word"):
        model(images, tokens, mask.long())
    with pytest.raises(ShapeError, match="at the end"):
        model(images, tokens, mask.flip(1))
    with pytest.raises(ShapeError, match="use the tokenizer"):
        model(images, tokens + 20, mask)
    with pytest.raises(ShapeError, match="same width"):
        vqa.StackedAttention(vqa.VQAConfig(30, 7, d_question=64, d_model=32))
