"""Both captioners against equations by hand; one word at a time is the whole; what comes later changes nothing."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmlearn as mm
from mmlearn.data import END, START
from mmlearn.errors import ShapeError
from mmlearn.models import CaptionerConfig, ShowAndTell, ShowAttendTell, attention_penalty, image_encoder

B, N, T, V = 3, 2, 5, 11
KINDS = [(model, kind) for model in (ShowAndTell, ShowAttendTell) for kind in ("lstm", "gru", "rnn")]


class Later(ShowAttendTell):
    """Looks after the word, and knows where the places are."""

    def __init__(self, config, encoder):
        super().__init__(replace(config, look="after", coordinates=True), encoder)


class Again(ShowAndTell):
    """Reads the picture again with every word."""

    def __init__(self, config, encoder):
        super().__init__(replace(config, repeat=True), encoder)


KINDS += [(Later, "lstm"), (Again, "lstm")]


class Grid(nn.Module):
    """An encoder that returns the pictures themselves, as a grid of three features."""

    d_model = 3

    def grid(self, images):
        return images


def make(model, kind="lstm", **changes):
    torch.manual_seed(0)
    config = CaptionerConfig(V, d_model=6, d_hidden=7, d_attention=4, kind=kind, **changes)
    return model(config, Grid()).double().eval()


def some(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images():
    return torch.randn(B, 3, 2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def unchecked():
    """As a learner meets the functions: without the import hook that checks shapes in tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def show_and_tell_by_hand(model, image, row):
    """Equations (10) to (12) of Vinyals et al. with PyTorch's own LSTM cell, for one picture and one caption."""
    cell = nn.LSTMCell(6, 7).double()
    cell.load_state_dict(mm.nn.rnn.to_torch(model.recurrent.cells[0].state_dict()))
    h = c = torch.zeros(1, 7, dtype=torch.float64)
    picture = model.see(image.mean(dim=(1, 2)))
    h, c = cell(picture[None], (h, c))
    logits = []
    for token in row:
        h, c = cell((model.words.weight[token] + picture * model.config.repeat)[None], (h, c))
        logits.append(model.read(h)[0])
    return torch.stack(logits)


def show_attend_tell_by_hand(model, image, row):
    """Equations (4), (5), (13) and (7) of Xu et al., place by place, with PyTorch's own LSTM cell."""
    places = [image[:, p, q] for p in range(2) for q in range(4)]
    if model.config.coordinates:
        where = [torch.tensor([y, x, y * y, x * x]) for y in (-1, 1) for x in (-1, -1 / 3, 1 / 3, 1)]
        places = [torch.cat([x, xy.double()]) for x, xy in zip(places, where, strict=True)]
    cell = nn.LSTMCell(6 + len(places[0]), 7).double()
    cell.load_state_dict(mm.nn.rnn.to_torch(model.cell.state_dict()))
    seen = sum(places) / len(places)
    h, c = torch.tanh(model.begins.weight @ seen + model.begins.bias).split(7)

    def look(h):
        scores = [
            model.score.weight[0] @ torch.tanh(model.key.weight @ x + model.key.bias + model.query.weight @ h)
            for x in places
        ]
        weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        seen = sum(w * x for w, x in zip(weights, places, strict=True))
        share = torch.sigmoid(model.gate.weight[0] @ h + model.gate.bias) if model.gate is not None else 1
        return share * seen, weights

    logits, maps = [], []
    for token in row:
        if model.config.look == "before":
            seen, weights = look(h)
        word = model.words.weight[token]
        h, c = (s[0] for s in cell(torch.cat([word, seen])[None], (h[None], c[None])))
        if model.config.look == "after":
            seen, weights = look(h)
        logits.append(model.read(word + model.show(torch.cat([h, seen]))))
        maps.append(weights)
    return torch.stack(logits), torch.stack(maps)


@pytest.mark.parametrize("repeat", [False, True])
def test_show_and_tell_equals_its_equations(images, repeat):
    model, tokens = make(ShowAndTell, repeat=repeat), some(B, T)
    with torch.no_grad():
        wanted = torch.stack([show_and_tell_by_hand(model, x, row) for x, row in zip(images, tokens, strict=True)])
        assert torch.allclose(model(images, tokens), wanted)


@pytest.mark.parametrize("look", ["before", "after"])
@pytest.mark.parametrize("options", [{}, {"gate": True}, {"coordinates": True}])
def test_show_attend_tell_equals_its_equations(images, look, options):
    model, tokens = make(ShowAttendTell, look=look, **options), some(B, T)
    with torch.no_grad():
        by_hand = [show_attend_tell_by_hand(model, x, row) for x, row in zip(images, tokens, strict=True)]
        logits, weights = model(images, tokens, return_weights=True)
    assert torch.allclose(logits, torch.stack([logits for logits, _ in by_hand]))
    assert torch.allclose(weights, torch.stack([weights for _, weights in by_hand]))


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_word_by_word_is_the_whole(images, model, kind):
    model, tokens = make(model, kind), some(B, T)
    with torch.no_grad():
        whole, state, pieces = model(images, tokens), model.start(images), []
        for word in tokens.split([1, 2, 1, 1], dim=1):
            piece, state = model.step(word, state)
            pieces.append(piece)
    assert whole.shape == (B, T, V)
    assert torch.allclose(torch.cat(pieces, dim=1), whole)


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_later_words_and_padding_change_nothing_before(images, model, kind):
    model, tokens = make(model, kind), some(B, T)
    changed = torch.cat([tokens[:, :3], (tokens[:, 3:] + 1) % V, torch.zeros(B, 2, dtype=torch.long)], dim=1)
    with torch.no_grad():
        assert torch.equal(model(images, changed)[:, :3], model(images, tokens)[:, :3])
        assert not torch.allclose(model(images, changed)[:, 3:5], model(images, tokens)[:, 3:])


@pytest.mark.parametrize("model", [ShowAndTell, ShowAttendTell])
def test_each_caption_hangs_on_its_own_picture(images, model):
    model, tokens = make(model), some(B, T)
    other = images.clone()
    other[1] += 1
    with torch.no_grad():
        moved = (model(other, tokens) - model(images, tokens)).abs().amax(dim=(1, 2)) > 1e-9
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("model", [ShowAndTell, ShowAttendTell])
def test_several_captions_of_a_picture(images, model):
    model, tokens = make(model), some(B, N, T)
    with torch.no_grad():
        logits = model(images, tokens)
        for n in range(N):
            assert torch.allclose(logits[:, n], model(images, tokens[:, n]))
    assert logits.shape == (B, N, T, V)


@pytest.mark.parametrize("model", [ShowAttendTell, Later, Again])
def test_the_state_given_stays_as_it_was(images, model):
    model = make(model)
    state = model.start(images)
    before = {name: value.clone() for name, value in state.items()}
    model.step(some(B, 2), state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_a_word_steers_the_look_that_follows_it_only_if_the_look_comes_after(images):
    tokens = some(B, 2)
    other = tokens.clone()
    other[:, 1] = (other[:, 1] + 1) % V
    for look, moves in (("before", False), ("after", True)):
        model = make(ShowAttendTell, look=look)
        maps = [model(images, x, return_weights=True)[1][:, 1] for x in (tokens, other)]
        assert torch.allclose(*maps) != moves


def test_several_captions_encode_the_picture_once(images):
    model = make(ShowAttendTell)
    seen = []
    model.encoder.grid = lambda x: seen.append(len(x)) or x
    model(images, some(B, N, T))
    assert seen == [B]


def test_weights_are_shares_of_the_places(images):
    model = make(ShowAttendTell)
    _, weights = model(images, some(B, N, T), return_weights=True)
    assert weights.shape == (B, N, T, 8)
    assert (weights > 0).all()
    assert torch.allclose(weights.sum(dim=-1), torch.ones(B, N, T, dtype=torch.float64))


def test_without_attention_there_is_nothing_to_show(images):
    assert make(ShowAndTell)(images, some(B, T), return_weights=True)[1] is None


def test_the_order_of_the_places_does_not_matter(images):
    model, tokens = make(ShowAttendTell), some(B, T)
    turned = images.flip(2, 3)
    with torch.no_grad():
        logits, weights = model(images, tokens, return_weights=True)
        logits_turned, weights_turned = model(turned, tokens, return_weights=True)
    assert torch.allclose(logits, logits_turned)
    assert torch.allclose(weights, weights_turned.flip(-1))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("model", [ShowAndTell, Again, ShowAttendTell])
@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_generate_writes_in_every_strategy(images, model, kind, strategy):
    model = make(model, kind)
    starts = torch.full((B, 1), START)
    options = dict(strategy=strategy, end=END, state=model.start(images))
    drawn = mm.nn.generate(model, starts, 6, generator=torch.Generator().manual_seed(0), **options)
    assert drawn.shape[0] == B
    assert drawn.shape[1] <= 7
    options["state"] = model.start(images[:1])
    alone = mm.nn.generate(model, starts[:1], 6, generator=torch.Generator().manual_seed(0), **options)
    if strategy != "sample":  # what is written of a picture does not depend on its neighbours
        assert model_text(alone[0]) == model_text(drawn[0])


def model_text(row):
    row = row.tolist()
    return row[: row.index(END)] if END in row else row


def test_beam_search_finds_the_best_of_all_captions(images):
    """With as many beams as there are captions, beam search is an exhaustive search."""
    model = make(ShowAttendTell)
    with torch.no_grad():
        model.read.weight.mul_(3)
    found = mm.nn.generate(
        model, torch.full((B, 1), START), 2, "beam", beams=V * V, length_penalty=0.0, state=model.start(images)
    )
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    for i in range(B):
        rows = torch.cat([torch.full((V * V, 1), START), pairs], dim=1)
        with torch.no_grad():
            logp = model(images[i : i + 1], rows[None, :, :-1])[0].log_softmax(dim=-1)
        best = logp.gather(-1, rows[:, 1:, None]).sum(dim=(1, 2)).argmax()
        assert found[i, 1:].tolist() == pairs[best].tolist()


def test_word_vectors_to_begin_with():
    words = torch.randn(V, 6)
    model = ShowAndTell(CaptionerConfig(V, d_model=6), Grid(), words=words)
    assert torch.equal(model.words.weight, words)
    assert model.words.weight.requires_grad
    words.zero_()
    assert model.words.weight.abs().sum() > 0, "the matrix must be copied"


def test_the_forget_bias_stands_where_the_gate_is():
    for model in (make(ShowAttendTell, forget_bias=3.0), make(ShowAndTell, forget_bias=3.0)):
        cell = model.cell if isinstance(model, ShowAttendTell) else model.recurrent.cells[0]
        assert cell.from_input.bias[7:14].mean() > 2.5
        assert cell.from_input.bias[:7].abs().max() < 0.5


def test_dropout_only_in_training(images):
    model, tokens = make(ShowAttendTell, dropout=0.5), some(B, T)
    assert torch.equal(model(images, tokens), model(images, tokens))
    model.train()
    assert not torch.equal(model(images, tokens), model(images, tokens))


@pytest.mark.parametrize("model", [ShowAndTell, ShowAttendTell])
def test_every_weight_is_trained(images, model):
    model = make(model, gate=True)
    model(images, some(B, N, T)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_one_caption_is_learned_by_heart():
    torch.manual_seed(0)
    encoder = image_encoder(widths=(8, 16), depths=(1, 1))
    model = ShowAttendTell(CaptionerConfig(V, 16, 32, 16), encoder)
    pictures, tokens = torch.randn(2, 3, 16, 16), torch.tensor([[2, 5, 6, 3], [2, 7, 5, 3]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(pictures, tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        written = mm.nn.generate(model, tokens[:, :1], 5, end=END, state=model.start(pictures))
    assert written.tolist() == tokens.tolist()


def test_the_penalty_by_hand():
    weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]])  # three words, two places
    both = torch.tensor([[True, True, False]])
    assert attention_penalty(weights, both).item() == pytest.approx((1 - 1.5) ** 2 + (1 - 0.5) ** 2)
    assert attention_penalty(weights, torch.ones(1, 3).bool()).item() == pytest.approx(0.5)
    several = weights.expand(4, 2, 3, 2), both.expand(4, 2, 3)
    assert attention_penalty(*several).item() == pytest.approx(0.5)


@pytest.mark.parametrize("model", [ShowAndTell, ShowAttendTell])
def test_what_does_not_fit_is_told(images, model, unchecked):
    net = make(model)
    with pytest.raises(ShapeError, match=r"begins with a picture: pass state=model.start"):
        net.step(some(B, 1), None)
    with pytest.raises(ShapeError, match="token 11 is out of range: the model knows 0 to 10"):
        net(images, torch.full((B, T), V))
    with pytest.raises(ShapeError, match=r"tokens have the shape .*expected \(3, length\)"):
        net.step(some(B + 1, 1), net.start(images))
    with pytest.raises(ShapeError, match=r"5 captions .* 3 pictures"):
        net(images, some(5, T))
    with pytest.raises(ShapeError, match=r"word vectors are \(5, 6\), expected \(vocab_size, d_model\) = \(11, 6\)"):
        model(CaptionerConfig(V, d_model=6), Grid(), words=torch.zeros(5, 6))
    with pytest.raises(ValueError, match="kind 'cnn' does not exist"):
        CaptionerConfig(V, kind="cnn")
    with pytest.raises(ValueError, match="look 'never' does not exist"):
        CaptionerConfig(V, look="never")
