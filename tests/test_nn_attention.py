"""Attention equals PyTorch's, sees nothing that a mask hides, and says what is wrong with bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmlearn.compare import matches
from mmlearn.errors import ShapeError
from mmlearn.nn import MultiHeadAttention, causal_mask, scaled_dot_product_attention
from mmlearn.nn.attention import from_torch, to_torch

B, N, T, S, D = 3, 2, 5, 7, 8


def qkv(*before, t=T, s=S, d=D, e=D, dtype=torch.float64):
    sizes = ((t, d), (s, d), (s, e))
    return [torch.randn(*before, *size, dtype=dtype) for size in sizes]


def padding(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


MASKS = {
    "none": {},
    "padding": {"mask": padding([S, 4, 1], S)},
    "causal": {"causal": True},
    "both": {"mask": padding([S, 4, 3], S), "causal": True},
    "any": {"mask": torch.rand(B, N, T, S, generator=torch.Generator().manual_seed(1)) < 0.6},
    "nothing to see": {"mask": padding([S, 0, 2], S)},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", MASKS)
@pytest.mark.parametrize("fused", [False, True])
def test_equals_the_functional_of_pytorch(case, dtype, fused):
    options = MASKS[case]
    keep = options.get("mask", torch.ones(T, S, dtype=torch.bool))
    keep = keep[:, None, None] if keep.shape == (B, S) else keep
    if options.get("causal"):
        keep = keep & torch.ones(T, S, dtype=torch.bool).tril(S - T)
    matches(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, fused=fused, **options),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=keep),
        *qkv(B, N, dtype=dtype),
    )


@pytest.mark.parametrize("fused", [False, True])
def test_causal_equals_is_causal_where_lengths_are_equal(fused):
    matches(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, causal=True, fused=fused),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        *qkv(B, N, t=S),
    )


class Reference(nn.MultiheadAttention):
    """PyTorch's module with our arguments; its masks say True = ignore."""

    def forward(self, x, memory=None, *, mask=None, causal=False):
        memory = x if memory is None else memory
        hide = ~causal_mask(x.shape[1], memory.shape[1]) if causal else None
        padded = None if mask is None else ~mask
        out, _ = super().forward(x, memory, memory, key_padding_mask=padded, attn_mask=hide, need_weights=False)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", ["none", "padding", "causal", "both"])
def test_equals_the_module_of_pytorch_as_self_attention(case, fused, bias, dtype):
    mine = MultiHeadAttention(D, N, bias=bias).to(dtype)
    mine.fused = fused
    reference = Reference(D, N, bias=bias, batch_first=True, dtype=dtype)
    matches(mine, reference, torch.randn(B, S, D, dtype=dtype), map=from_torch, **MASKS[case])


@pytest.mark.parametrize("case", ["none", "padding"])
@pytest.mark.parametrize("d_kv", [D, 6])
def test_equals_the_module_of_pytorch_as_cross_attention(case, d_kv):
    mine = MultiHeadAttention(D, N, d_kv).double()
    reference = Reference(D, N, kdim=d_kv, vdim=d_kv, batch_first=True, dtype=torch.float64)
    inputs = torch.randn(B, T, D).double(), torch.randn(B, S, d_kv).double()
    matches(mine, reference, *inputs, map=from_torch, **MASKS[case])


@pytest.mark.parametrize("d_kv", [D, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_go_to_pytorch_and_back(d_kv, bias):
    mine = MultiHeadAttention(D, N, d_kv, bias=bias)
    theirs = nn.MultiheadAttention(D, N, bias=bias, kdim=d_kv, vdim=d_kv, batch_first=True)
    theirs.load_state_dict(to_torch(mine.state_dict()))
    x, memory = torch.randn(B, T, D), torch.randn(B, S, d_kv)
    torch.testing.assert_close(mine(x, memory), theirs(x, memory, memory)[0])
    back = from_torch(theirs.state_dict())
    assert back.keys() == mine.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in mine.state_dict().items())


def test_weights_of_the_module_are_those_of_pytorch():
    mine, x = MultiHeadAttention(D, N), torch.randn(B, S, D)
    theirs = nn.MultiheadAttention(D, N, batch_first=True)
    theirs.load_state_dict(to_torch(mine.state_dict()))
    _, weights = mine(x, return_weights=True)
    torch.testing.assert_close(weights, theirs(x, x, x, average_attn_weights=False)[1])


def test_the_answer_written_out():
    q, k, v = qkv(t=1, s=2, d=4, e=3)
    a, b = (math.exp(q[0] @ k[i] / 2) for i in range(2))
    expected = (a * v[0] + b * v[1]) / (a + b)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v)[0], expected)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_output_is_a_weighted_mean(t, s, d, seed):
    torch.manual_seed(seed)
    q, k, v = qkv(2, t=t, s=s, d=d)
    keep = torch.rand(2, t, s) < 0.7
    out, weights = scaled_dot_product_attention(q, k, v, keep, return_weights=True)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[~keep] == 0).all()
    torch.testing.assert_close(weights.sum(-1), keep.any(-1).double())
    torch.testing.assert_close(out, weights @ v)


@pytest.mark.parametrize("fused", [False, True])
def test_the_past_does_not_move_when_the_future_changes(fused):
    attention = MultiHeadAttention(D, N).double()
    attention.fused = fused
    x = torch.randn(B, S, D).double()
    before = attention(x, causal=True)
    for t in range(1, S):
        changed = x.clone()
        changed[:, t:] = torch.randn(B, S - t, D).double() * 100
        after = attention(changed, causal=True)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t:], before[:, t:])


@pytest.mark.parametrize("fused", [False, True])
def test_padding_changes_nothing(fused):
    attention = MultiHeadAttention(D, N).double()
    attention.fused = fused
    x = torch.randn(B, T, D).double()
    padded = torch.cat([x, torch.randn(B, 3, D).double() * 100], dim=1)
    out = attention(padded, mask=padding([T] * B, T + 3))
    torch.testing.assert_close(out[:, :T], attention(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(padded)[:, :T], attention(x))


def test_order_of_keys_is_nothing_and_order_of_queries_is_kept():
    q, k, v = qkv(B, N)
    out = scaled_dot_product_attention(q, k, v)
    keys, queries = torch.randperm(S), torch.randperm(T)
    torch.testing.assert_close(scaled_dot_product_attention(q, k[:, :, keys], v[:, :, keys]), out)
    torch.testing.assert_close(scaled_dot_product_attention(q[:, :, queries], k, v), out[:, :, queries])


@pytest.mark.parametrize("fused", [False, True])
def test_a_query_without_keys_gets_zeros_and_no_bad_gradient(fused):
    q, k, v = (x.requires_grad_() for x in qkv(B))
    mask = padding([S, 0, 2], S)
    out = scaled_dot_product_attention(q, k, v, mask, fused=fused)
    out.square().sum().backward()
    assert (out[1] == 0).all()
    assert not out.isnan().any()
    for grad in (q.grad, k.grad, v.grad):
        assert grad.isfinite().all()
        assert (grad[1] == 0).all()


@pytest.mark.parametrize("fused", [False, True])
def test_no_score_is_low_enough_to_look_past_the_mask(fused):
    q, k, v = (torch.tensor([[[x]]]).double() for x in (1e6, -1e6, 1.0))
    k, v = torch.cat([k, torch.zeros(1, 1, 1)], 1).double(), torch.cat([v, torch.zeros(1, 1, 1)], 1).double()
    mask = torch.tensor([[True, False]])  # the hidden key scores 0, the visible one -1e12
    assert scaled_dot_product_attention(q, k, v, mask, fused=fused).item() == 1.0


def test_not_a_number_is_not_hidden():
    q, k, v = qkv(B)
    q[0, 0] = math.nan
    assert scaled_dot_product_attention(q, k, v, torch.ones(B, S, dtype=torch.bool))[0, 0].isnan().all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("t", "s"), [(0, S), (T, 0), (0, 0)])
def test_length_zero(t, s, fused):
    attention = MultiHeadAttention(D, N)
    attention.fused = fused
    x, memory = torch.randn(B, t, D), torch.randn(B, s, D)
    for options in ({}, {"causal": True}, {"mask": torch.ones(B, s, dtype=torch.bool)}):
        out = attention(x, memory, **options)
        assert out.shape == (B, t, D)
        assert out.isfinite().all()


def test_causal_mask_for_the_last_queries():
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert causal_mask(3, 5).tolist() == [[bool(keep) for keep in row] for row in expected]
    assert causal_mask(1, 4).all()
    assert causal_mask(3, 1).tolist() == [[False], [False], [True]]


def test_one_token_at_a_time_equals_all_at_once():
    q, k, v = qkv(B, t=S)
    whole = scaled_dot_product_attention(q, k, v, causal=True)
    last = scaled_dot_product_attention(q[:, -2:], k, v, causal=True)
    torch.testing.assert_close(last, whole[:, -2:])


def test_mask_of_each_shape_means_the_same():
    attention, x = MultiHeadAttention(D, N), torch.randn(B, S, D)
    mask = padding([S, 4, 1], S)
    expected = attention(x, mask=mask)
    for same in (mask[:, None].expand(B, S, S), mask[:, None, None], mask[:, None, None].expand(B, N, S, S)):
        torch.testing.assert_close(attention(x, mask=same), expected)


def test_dropout_only_in_training():
    attention, x = MultiHeadAttention(D, N, dropout=0.5), torch.randn(B, S, D)
    assert not torch.allclose(attention(x), attention(x))
    attention.eval()
    torch.testing.assert_close(attention(x), attention(x))
    q, k, v = qkv(dtype=torch.float32)
    everything = scaled_dot_product_attention(q, k, torch.ones(S, 1), dropout=0.5)
    assert not torch.allclose(everything, torch.ones(T, 1))
    with pytest.raises(ValueError, match="fused=False"):
        scaled_dot_product_attention(q, k, v, fused=True, return_weights=True)


BAD = {
    "queries have 8 features but keys 6": lambda q, k, v: scaled_dot_product_attention(q, k[..., :6], v),
    "7 keys but 4 values": lambda q, k, v: scaled_dot_product_attention(q, k, v[:, :4]),
    "before .length, features. must be equal": lambda q, k, v: scaled_dot_product_attention(q[:1], k, v),
    "at least two dimensions": lambda q, k, v: scaled_dot_product_attention(q[0, 0], k, v),
    "pass mask.bool": lambda q, k, v: scaled_dot_product_attention(q, k, v, torch.ones(B, S)),
    "pass mask.None.": lambda q, k, v: scaled_dot_product_attention(q, k, v, torch.ones(T, S).bool()),
    "does not broadcast": lambda q, k, v: scaled_dot_product_attention(q, k, v, torch.ones(1, T, 2).bool()),
    "choose a number of heads that divides": lambda q, k, v: MultiHeadAttention(8, 3),
    r"cannot be cut into n_heads=0": lambda q, k, v: MultiHeadAttention(8, 0),
    "x has shape .3, 5, 8., expected .batch, length, 6.": lambda q, k, v: MultiHeadAttention(6, 2).double()(q),
    "x has shape .5, 8.": lambda q, k, v: MultiHeadAttention(8, 2).double()(q[0]),
    "needs d_kv=": lambda q, k, v: MultiHeadAttention(8, 2).double()(q, k[..., :4]),
    "a batch of 3 but memory of 2": lambda q, k, v: MultiHeadAttention(8, 2).double()(q, k[:2]),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told_in_a_sentence(sentence):
    with pytest.raises(ShapeError, match=sentence):
        BAD[sentence](*qkv(B))
