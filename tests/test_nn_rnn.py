"""Recurrent blocks equal PyTorch's, padding changes nothing, bad input gets an error, nothing in excess is computed."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmlearn.compare import copy_weights, matches
from mmlearn.errors import DataError, ShapeError
from mmlearn.nn import GRUCell, LSTMCell, Recurrent, RecurrentLM, RecurrentLMConfig, RNNCell
from mmlearn.nn.rnn import from_torch, to_torch

B, T, D, H = 4, 6, 3, 5
THEIRS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"rnn": (RNNCell, nn.RNNCell), "lstm": (LSTMCell, nn.LSTMCell), "gru": (GRUCell, nn.GRUCell)}
LENGTHS = torch.tensor([6, 1, 4, 3])
MASK = torch.arange(T) < LENGTHS[:, None]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def state_of(kind, *shape):
    return (random(*shape), random(*shape)) if kind == "lstm" else random(*shape)


def pair(kind, n_layers=1, bidirectional=False, fused=True):
    mine = Recurrent(kind, D, H, n_layers, bidirectional=bidirectional).double()
    mine.fused = fused
    theirs = THEIRS[kind](D, H, n_layers, batch_first=True, bidirectional=bidirectional).double()
    return mine, theirs


class Packed(nn.Module):
    """PyTorch's module on packed sequences, called like ours."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def state_dict(self, *args, **kwargs):
        return self.module.state_dict(*args, **kwargs)

    def named_parameters(self, *args, **kwargs):
        return self.module.named_parameters(*args, **kwargs)

    def forward(self, x, state=None, *, mask):
        packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        output, state = self.module(packed, state)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], state


@pytest.mark.parametrize("kind", CELLS)
def test_cells_equal_those_of_pytorch(kind):
    mine, theirs = (cell(D, H).double() for cell in CELLS[kind])
    matches(mine, theirs, random(B, D), state_of(kind, B, H), map=from_torch)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("kind", THEIRS)
def test_stacks_equal_those_of_pytorch(kind, n_layers, bidirectional, fused):
    mine, theirs = pair(kind, n_layers, bidirectional, fused)
    matches(mine, theirs, random(B, T, D), map=from_torch)
    shape = (n_layers * (1 + bidirectional), B, H)
    matches(mine, theirs, random(B, T, D), state_of(kind, *shape), map=from_torch)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", THEIRS)
def test_masked_equals_packed(kind, bidirectional, fused):
    mine, theirs = pair(kind, 2, bidirectional, fused)
    x = random(B, T, D).masked_fill(~MASK[..., None], 1e3)
    state = state_of(kind, 2 * (1 + bidirectional), B, H)
    matches(mine, Packed(theirs), x, state, map=from_torch, mask=MASK)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", THEIRS)
def test_padding_changes_nothing(kind, fused):
    mine, _ = pair(kind, 2, True, fused)
    x = random(1, 4, D)
    alone, state = mine(x)
    padded = torch.cat([x, torch.full((1, 3, D), torch.nan, dtype=x.dtype)], dim=1).requires_grad_()
    output, end = mine(padded, mask=torch.arange(7)[None] < 4)
    torch.testing.assert_close(output[:, :4], alone)
    torch.testing.assert_close(end, state)
    assert (output[:, 4:] == 0).all()
    output.sum().backward()
    assert (padded.grad[:, 4:] == 0).all()
    assert all(p.grad.isfinite().all() for p in mine.parameters())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_holes_are_stepped_over(bidirectional):
    mine, _ = pair("lstm", 2, bidirectional)
    x, mask = random(1, T, D), torch.tensor([[False, True, False, True, True, False]])
    output, state = mine(x, mask=mask)
    dense, end = mine(x[:, mask[0]])
    torch.testing.assert_close(output[:, mask[0]], dense)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", THEIRS)
def test_a_sequence_without_a_step_keeps_its_state(kind, fused):
    mine, _ = pair(kind, 2, True, fused)
    mask = MASK.clone()
    mask[2] = False
    before = state_of(kind, 4, B, H)
    output, after = mine(random(B, T, D), before, mask=mask)
    assert (output[2] == 0).all()
    assert (output[0] != 0).all()
    for old, new in zip(before if kind == "lstm" else [before], after if kind == "lstm" else [after], strict=True):
        assert torch.equal(old[:, 2], new[:, 2])
        assert not torch.equal(old[:, 0], new[:, 0])


@pytest.mark.parametrize("shape", [(B, 0, D), (0, T, D)])
def test_nothing_to_read_is_defined(shape):
    mine, _ = pair("gru", 2, True)
    state = random(4, shape[0], H)
    output, after = mine(random(*shape), state)
    assert output.shape == (*shape[:2], 2 * H)
    assert torch.equal(after, state)


@pytest.mark.parametrize("kind", THEIRS)
def test_state_goes_on_where_it_was(kind):
    mine, _ = pair(kind, 2)
    x = random(B, T, D)
    whole, end = mine(x)
    first, state = mine(x[:, :2])
    second, state = mine(x[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(state, end)


def test_weights_go_there_and_back():
    for kind in THEIRS:
        mine, theirs = pair(kind, 2, True)
        assert to_torch(mine.state_dict()).keys() == theirs.state_dict().keys()
        theirs.load_state_dict(to_torch(mine.state_dict()))
        matches(theirs, mine, random(B, T, D), copy=False)
        cell, other = CELLS[kind][0](D, H), CELLS[kind][1](D, H)
        other.load_state_dict(to_torch(cell.state_dict()))
        copy_weights(cell, other, from_torch)


def test_dropout_acts_between_layers_in_training_only():
    mine = Recurrent("rnn", D, H, 2, dropout=0.5)
    x = torch.randn(B, T, D)
    for mine.fused in (False, True):
        mine.train()
        assert not torch.equal(mine(x)[0], mine(x)[0])
        mine.eval()
        assert torch.equal(mine(x)[0], mine(x)[0])
    single = Recurrent("rnn", D, H, 1, dropout=0.5)
    for single.fused in (False, True):
        torch.testing.assert_close(single.train()(x)[0], single.eval()(x)[0])


@pytest.mark.parametrize(("kind", "added"), [("rnn", [0]), ("lstm", [0, 2, 0, 0]), ("gru", [0, 2, 0])])
def test_forget_bias_is_added_to_the_gates_that_keep_only(kind, added):
    torch.manual_seed(1)
    plain = Recurrent(kind, D, H)
    torch.manual_seed(1)
    biased = Recurrent(kind, D, H, forget_bias=2.0)
    gap = biased.cells[0].from_input.bias - plain.cells[0].from_input.bias
    torch.testing.assert_close(gap, torch.tensor(added, dtype=torch.float32).repeat_interleave(H))


@pytest.mark.parametrize("kind", THEIRS)
def test_weights_start_as_pytorchs_do(kind):
    for module in (Recurrent(kind, 30, 100), THEIRS[kind](30, 100)):  # uniform up to 1 / sqrt(d_hidden)
        for weight in module.parameters():
            assert 0.09 < weight.abs().max() <= 0.1
            assert 0.04 < weight.abs().mean() < 0.06


def test_each_path_is_taken_where_it_can_be(monkeypatch):
    mine, x = Recurrent("gru", D, H), torch.randn(B, T, D)
    taken = []
    for name in ("_fused", "_step_by_step"):
        path = getattr(Recurrent, name)
        monkeypatch.setattr(
            Recurrent, name, lambda self, *a, path=path, name=name: taken.append(name) or path(self, *a)
        )
    holes = MASK.clone()
    holes[0, 2] = False
    for mask in (None, MASK, ~MASK, holes):
        mine(x, mask=mask)
    mine.fused = False
    mine(x)
    mine(x, mask=MASK)
    assert taken == ["_fused"] * 2 + ["_step_by_step"] * 4


def test_a_large_forget_bias_keeps_the_state():
    before = torch.randn(1, B, H)
    _, after = Recurrent("gru", D, H, forget_bias=30.0)(torch.randn(B, T, D), before)
    torch.testing.assert_close(after, before)


def model_of(kind="lstm", **sizes):
    return RecurrentLM(RecurrentLMConfig(vocab_size=11, d_model=D, d_hidden=H, kind=kind, **sizes)).eval()


@pytest.mark.parametrize("kind", THEIRS)
def test_language_model_step_by_step_equals_all_at_once(kind):
    model = model_of(kind, n_layers=2)
    tokens = torch.randint(11, (B, T))
    logits, state, parts = model(tokens), None, []
    for t in range(T):
        part, state = model.step(tokens[:, t : t + 1], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), logits)
    _, state = model.step(tokens[:, :2])
    torch.testing.assert_close(model(tokens[:, 2:], state), logits[:, 2:])
    assert logits.shape == (B, T, 11)


def test_language_model_drops_word_vectors_and_outputs_in_training():
    model, seen = model_of(n_layers=2, dropout=0.5).train(), []
    model.dropout.register_forward_hook(lambda module, x, y: seen.append((x[0].shape[-1], (y == 0).float().mean())))
    model(torch.randint(11, (100, T)))
    assert [width for width, _ in seen] == [D, H]
    assert all(0.4 < share < 0.6 for _, share in seen)
    assert model.recurrent.dropout == 0.5


def test_language_model_starts_with_open_forget_gates():
    torch.manual_seed(1)
    closed = model_of(forget_bias=0.0)
    torch.manual_seed(1)
    gap = model_of().recurrent.cells[0].from_input.bias - closed.recurrent.cells[0].from_input.bias
    torch.testing.assert_close(gap, torch.tensor([0.0, 1, 0, 0]).repeat_interleave(H))


def test_language_model_does_not_see_the_future():
    model, tokens = model_of(), torch.randint(11, (B, T))
    changed = tokens.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % 11
    assert torch.equal(model(tokens)[:, :3], model(changed)[:, :3])
    assert not torch.equal(model(tokens)[:, 3], model(changed)[:, 3])


def test_language_model_without_a_token_goes_on_from_where_it_was():
    model = model_of()
    _, state = model.step(torch.randint(11, (B, T)))
    logits, after = model.step(torch.zeros(B, 0, dtype=torch.long), state)
    assert logits.shape == (B, 0, 11)
    assert all(torch.equal(old, new) for old, new in zip(state, after, strict=True))


@pytest.mark.parametrize("kind", THEIRS)
def test_language_model_rows_are_selected_from_the_batch(kind):
    model, tokens = model_of(kind, n_layers=2), torch.randint(11, (B, T))
    rows = torch.tensor([2, 0, 2])
    _, state = model.step(tokens[:, :3])
    after, _ = model.step(tokens[rows, 3:], model.select_rows(state, rows))
    torch.testing.assert_close(after, model(tokens)[rows, 3:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m(torch.randn(B, D)), "expected (batch, length, 3)"),
        (lambda m: m(torch.randn(B, T, D + 1)), "expected (batch, length, 3)"),
        (lambda m: m(torch.randn(B, T, D), torch.zeros(1, B, H)), "expected (h, c), two tensors"),
        (lambda m: m(torch.randn(B, T, D), (torch.zeros(B, 1, H),) * 2), "state h has shape (4, 1, 5), expected (1, 4"),
        (lambda m: m(torch.randn(B, T, D), mask=MASK.float()), "torch.float32"),
        (lambda m: m(torch.randn(B, T, D), mask=MASK.T), "expected torch.bool of shape (batch, length) = (4, 6)"),
        (lambda m: m.cells[0](torch.randn(B, T, D), (torch.zeros(B, H),) * 2), "expected (batch, 3)"),
        (lambda m: m.cells[0](torch.randn(B, D), torch.zeros(B, H)), "the state is 1 tensor, expected (h, c)"),
        (lambda m: model_of()(torch.tensor([1, 2])), "of the shape (batch, length)"),
        (lambda m: model_of()(torch.ones(1, 2)), "expected whole numbers"),
        (lambda m: m(torch.randn(B, T, D), (torch.zeros(1, B, H),) * 3), "the state is 3 tensors, expected (h, c)"),
        (
            lambda m: m.cells[0](torch.randn(B, D), (torch.zeros(1, H),) * 2),
            "state h has shape (1, 5), expected (4, 5)",
        ),
        (lambda m: Recurrent("rnn", 0, H), "d_in=0: give 1 or more"),
        (lambda m: Recurrent("rnn", D, H, 0), "n_layers=0: give 1 or more"),
        (lambda m: GRUCell(D, 0), "d_hidden=0: give 1 or more"),
        (lambda m: RecurrentLMConfig(vocab_size=0), "vocab_size=0: give 1 or more"),
        (
            lambda m: model_of().step(torch.ones(2, 1, dtype=torch.long), (torch.zeros(1, B, H),) * 2),
            "expected (1, 2, 5)",
        ),
        (lambda m: model_of().select_rows((torch.zeros(1, 2, H),) * 2, torch.tensor([0, 2])), "counted from 0 to 1"),
        (lambda m: model_of("gru").select_rows(torch.zeros(1, 2, H), torch.tensor([-1])), "rows [-1] of a batch of 2"),
        (lambda m: to_torch(model_of().state_dict()), "'words.weight' is not a weight of Recurrent"),
        (lambda m: from_torch(model_of().state_dict()), "'words.weight' is not a weight of nn.RNN"),
        (lambda m: from_torch(nn.LSTM(D, H, proj_size=2).state_dict()), "'weight_hr_l0' is not a weight"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_says_what_to_do(change, says):
    with pytest.raises(ShapeError) as error:
        change(Recurrent("lstm", D, H))
    assert says in str(error.value)


@pytest.mark.parametrize("token", [11, -1])
def test_a_token_out_of_range_is_named(token):
    with pytest.raises(DataError, match=f"token {token} at position 1 of sequence 0 is outside the vocabulary of 11"):
        model_of()(torch.tensor([[3, token]]))


@pytest.mark.parametrize("token", [10, 0])
def test_the_first_and_the_last_token_are_in_range(token):
    assert model_of()(torch.tensor([[token]])).shape == (1, 1, 11)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind 'lstmm' does not exist: choose one of rnn, lstm, gru"):
        Recurrent("lstmm", D, H)


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_dropout_is_a_share(dropout):
    with pytest.raises(ValueError, match=f"dropout={dropout}: give a share from 0 to below 1"):
        Recurrent("gru", D, H, 2, dropout=dropout)


def test_a_mask_without_any_real_step_keeps_every_state():
    mine, _ = pair("lstm", 2, True)
    before, x = state_of("lstm", 4, B, H), random(B, T, D).requires_grad_()
    for mine.fused in (False, True):
        output, after = mine(x, before, mask=torch.zeros(B, T, dtype=torch.bool))
        assert (output == 0).all()
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
        output.sum().backward()
        assert (x.grad == 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0)])
def test_language_model_without_a_sequence(shape):
    model = model_of()
    logits, state = model.step(torch.zeros(shape, dtype=torch.long))
    assert logits.shape == (*shape, 11)
    assert model.select_rows(state, torch.zeros(0, dtype=torch.long))[0].shape == (1, 0, H)
