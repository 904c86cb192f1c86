"""The Transformer equals PyTorch's and GPT-2, never looks ahead, ignores padding, and its cache changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmlearn.compare import matches
from mmlearn.errors import DataError, ShapeError
from mmlearn.nn import (
    CausalLM,
    Encoder,
    EncoderDecoder,
    FeedForward,
    Transformer,
    TransformerConfig,
    TransformerLayer,
    rotary_turns,
    rotate,
    sinusoidal_positions,
)
from mmlearn.nn.transformer import (
    from_gpt2,
    from_torch_layer,
    from_torch_stack,
    gpt2_config,
    to_gpt2,
)

B, T, S, D, N, V = 3, 6, 5, 16, 2, 11
POSITIONS = ("learned", "sinusoidal", "rotary", "none")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def config(**changes):
    return TransformerConfig(**{"d_model": D, "n_heads": N, "n_layers": 2, "vocab_size": V, "max_len": 12} | changes)


def lively(model):
    """Weights large enough that every part matters: fresh ones are close to the identity."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def padding(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


# ------------------------------------------------------------------------------------------------------ equal to theirs
class TheirEncoderLayer(nn.TransformerEncoderLayer):
    def forward(self, x, *, mask=None, causal=False):
        hide = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if causal else None
        return super().forward(x, src_mask=hide, src_key_padding_mask=None if mask is None else ~mask)


class TheirDecoderLayer(nn.TransformerDecoderLayer):
    def forward(self, x, memory, *, mask=None, causal=False, memory_mask=None):
        hide = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if causal else None
        return super().forward(
            x,
            memory,
            tgt_mask=hide,
            tgt_key_padding_mask=None if mask is None else ~mask,
            memory_key_padding_mask=None if memory_mask is None else ~memory_mask,
        )


def theirs(kind, norm_first, activation="gelu", bias=True, dtype=torch.float64):
    layer = kind(
        D, N, 24, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first, bias=bias, dtype=dtype
    )
    for name, parameter in layer.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.normal_(parameter)
    return layer


MASKS = {
    "none": {},
    "padding": {"mask": padding([T, 4, 1], T)},
    "causal": {"causal": True},
    "both": {"mask": padding([T, 4, 1], T), "causal": True},
}


def layer_like(layer, **changes):
    return TransformerLayer(config(d_ff=24, **changes), cross=isinstance(layer, nn.TransformerDecoderLayer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("case", MASKS)
def test_a_layer_equals_the_encoder_layer_of_pytorch(case, norm_first, dtype):
    reference = theirs(TheirEncoderLayer, norm_first, dtype=dtype)
    mine = layer_like(reference, norm_first=norm_first).to(dtype)
    matches(mine, reference, torch.randn(B, T, D, dtype=dtype), map=from_torch_layer, **MASKS[case])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_activations_and_layers_without_bias_equal_those_of_pytorch(activation, bias):
    reference = theirs(TheirEncoderLayer, True, activation, bias)
    mine = layer_like(reference, activation=activation, bias=bias).double()
    matches(mine, reference, torch.randn(B, T, D).double(), map=from_torch_layer)


@pytest.mark.parametrize("memory_mask", [None, padding([S, 2, 1], S)])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("case", MASKS)
def test_a_layer_with_memory_equals_the_decoder_layer_of_pytorch(case, norm_first, memory_mask):
    reference = theirs(TheirDecoderLayer, norm_first)
    mine = layer_like(reference, norm_first=norm_first).double()
    inputs = torch.randn(B, T, D).double(), torch.randn(B, S, D).double()
    matches(mine, reference, *inputs, map=from_torch_layer, memory_mask=memory_mask, **MASKS[case])


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_stack_equals_the_encoder_of_pytorch(norm_first):
    final = nn.LayerNorm(D, dtype=torch.float64) if norm_first else None
    reference = nn.TransformerEncoder(theirs(TheirEncoderLayer, norm_first), 2, norm=final, enable_nested_tensor=False)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    mine = Transformer(config(d_ff=24, norm_first=norm_first)).double()
    matches(mine, _Stack(reference), torch.randn(B, T, D).double(), map=_unwrapped)


class _Stack(nn.Module):
    """PyTorch's encoder calls its layers with more arguments than our wrapped layer takes."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        for layer in self.encoder.layers:
            x = layer(x)
        return x if self.encoder.norm is None else self.encoder.norm(x)


def _unwrapped(state):
    return from_torch_stack({name.removeprefix("encoder."): value for name, value in state.items()})


def test_encoder_and_decoder_together_equal_the_transformer_of_pytorch():
    reference = nn.Transformer(D, N, 2, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    mine = lively(EncoderDecoder(config(d_ff=24, positions="none")))
    mine.encoder.load_state_dict(from_torch_stack(reference.encoder.state_dict()))
    mine.decoder.load_state_dict(from_torch_stack(reference.decoder.state_dict()))
    source, target = torch.randint(V, (B, S)), torch.randint(V, (B, T))
    source_mask, embed = padding([S, 3, 1], S), mine.embedding.token
    expected = reference(
        embed(source),
        embed(target),
        tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
        src_key_padding_mask=~source_mask,
        memory_key_padding_mask=~source_mask,
    )
    torch.testing.assert_close(mine(source, target, source_mask), expected @ embed.weight.T)


def gpt2(seed=0, **changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "n_positions": 20, "n_embd": D, "n_layer": 2, "n_head": N, "initializer_range": 0.3}
    options = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "attn_implementation": "eager"}
    return GPT2LMHeadModel(GPT2Config(**sizes, **options, **changes)).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "relu", "n_inner": 40},
        {"tie_word_embeddings": False},
        {"layer_norm_epsilon": 0.3},
    ],
)
def test_equals_gpt2_of_transformers(changes):
    reference = gpt2(**changes)
    mine = CausalLM(gpt2_config(reference.config))
    assert (mine.unembed is None) == changes.get("tie_word_embeddings", True)
    tokens = torch.randint(V, (B, T))
    matches(mine, reference, tokens, map=from_gpt2, select=lambda out: out.logits, atol=2e-5)


def test_equals_gpt2_with_prompts_padded_on_the_left():
    reference = gpt2()
    mine = CausalLM(gpt2_config(reference.config)).eval()
    mine.load_state_dict(from_gpt2(reference.state_dict()))
    tokens, mask = torch.randint(V, (B, T)), padding([T, 4, 2], T).flip(1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = reference(tokens, attention_mask=mask.long(), position_ids=positions).logits
    torch.testing.assert_close(mine(tokens, mask)[mask], theirs[mask], rtol=1e-4, atol=1e-4)


def test_dropout_falls_on_the_same_numbers_as_that_of_gpt2():
    reference = gpt2(embd_pdrop=0.3, attn_pdrop=0.3, resid_pdrop=0.3).train()
    mine = CausalLM(gpt2_config(reference.config)).train()
    mine.load_state_dict(from_gpt2(reference.state_dict()))
    for layer in mine.transformer.layers:
        layer.attention.fused = False  # the readable path draws as theirs does
    tokens, outputs = torch.randint(V, (B, T)), []
    for model in (mine, reference):
        torch.manual_seed(3)
        outputs.append(model(tokens))
    torch.testing.assert_close(outputs[0], outputs[1].logits, rtol=1e-4, atol=2e-5)
    with torch.no_grad():
        assert not torch.allclose(mine(tokens), mine.eval()(tokens))


GPT2_SHAPES = [{}, {"n_inner": 40}, {"tie_word_embeddings": False}]


@pytest.mark.parametrize("changes", GPT2_SHAPES)
def test_weights_go_to_gpt2_and_back_unchanged(changes):
    reference = gpt2(seed=1, **changes)
    theirs = reference.state_dict()
    assert to_gpt2(from_gpt2(theirs)).keys() == theirs.keys()
    for name, value in to_gpt2(from_gpt2(theirs)).items():
        assert torch.equal(value, theirs[name]), name
    mine = CausalLM(gpt2_config(reference.config))
    for name, value in from_gpt2(to_gpt2(mine.state_dict())).items():
        assert torch.equal(value, mine.state_dict()[name]), name


@pytest.mark.parametrize("changes", GPT2_SHAPES)
def test_gpt2_with_our_weights_writes_what_we_write(changes):
    reference = gpt2(**changes)
    mine = CausalLM(gpt2_config(reference.config)).eval()
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert reference.load_state_dict(to_gpt2(mine.state_dict()), strict=True)
    tokens = torch.randint(V, (B, T))
    torch.testing.assert_close(mine(tokens), reference(tokens).logits, rtol=1e-4, atol=2e-5)


def test_a_checkpoint_of_the_bare_model_loads_as_well():
    reference = gpt2()
    bare = {name.removeprefix("transformer."): value for name, value in reference.state_dict().items()}
    del bare["lm_head.weight"]
    bare["h.0.attn.bias"] = torch.ones(1, 1, 20, 20).tril()  # the causal mask: old checkpoints hold it
    mine = CausalLM(gpt2_config(reference.config)).eval()
    mine.load_state_dict(from_gpt2(bare))
    tokens = torch.randint(V, (B, T))
    torch.testing.assert_close(mine(tokens), reference(tokens).logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("changes", [{"positions": "rotary"}, {"bias": False}, {"norm_first": False}])
def test_what_gpt2_has_not_is_not_written_as_gpt2(changes):
    with pytest.raises(DataError, match="GPT-2 has learned positions, pre-norm and biases"):
        to_gpt2(CausalLM(config(**changes)).state_dict())


# ---------------------------------------------------------------------------------------------------------- properties
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm_first", [True, False])
def test_the_past_does_not_move_when_the_future_changes(positions, norm_first):
    model = lively(CausalLM(config(positions=positions, norm_first=norm_first)))
    tokens = torch.randint(V, (B, T))
    before = model(tokens)
    for t in range(1, T):
        changed = tokens.clone()
        changed[:, t:] = (tokens[:, t:] + 1) % V
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(after[:, t:], before[:, t:])


def test_a_decoder_does_not_look_ahead_but_at_the_whole_source():
    model = lively(EncoderDecoder(config()))
    source, target = torch.randint(V, (B, S)), torch.randint(V, (B, T))
    before, changed = model(source, target), target.clone()
    changed[:, 3:] = (target[:, 3:] + 1) % V
    torch.testing.assert_close(model(source, changed)[:, :3], before[:, :3])
    source[:, -1] = (source[:, -1] + 1) % V
    assert not torch.allclose(model(source, target)[:, 0], before[:, 0])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [Encoder, CausalLM])
def test_padding_changes_nothing(positions, side, kind):
    model = lively(kind(config(positions=positions)))
    tokens, filling = torch.randint(V, (B, T)), torch.randint(V, (B, 3))
    real, hidden = torch.ones(B, T, dtype=torch.bool), torch.zeros(B, 3, dtype=torch.bool)
    order = (lambda a, b: torch.cat([a, b], 1)) if side == "right" else (lambda a, b: torch.cat([b, a], 1))
    padded, mask = order(tokens, filling), order(real, hidden)
    kept = slice(0, T) if side == "right" else slice(3, None)
    torch.testing.assert_close(model(padded, mask)[:, kept], model(tokens))
    assert not torch.allclose(kind.forward(model, padded)[:, kept], model(tokens)) or (side, kind) == (
        "right",
        CausalLM,
    )


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pieces", [[1] * T, [4, 2], [1, 3, 2], [T]])
def test_the_cache_changes_nothing(positions, pieces):
    model = lively(CausalLM(config(positions=positions)))
    tokens, state, read = torch.randint(V, (B, T)), None, 0
    whole = model(tokens)
    for n in pieces:
        logits, state = model.step(tokens[:, read : read + n], state)
        read += n
        torch.testing.assert_close(logits, whole[:, read - 1])


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_cache_changes_nothing_after_prompts_padded_on_the_left(positions):
    model = lively(CausalLM(config(positions=positions)))
    tokens, mask = torch.randint(V, (B, T)), padding([T, 3, 1], T).flip(1)
    new = torch.randint(V, (B, 2))
    _, state = model.step(tokens, model.start(mask))
    for t in range(2):
        logits, state = model.step(new[:, t : t + 1], state)
    for b, n in enumerate((T, 3, 1)):
        alone = torch.cat([tokens[b, T - n :], new[b]])[None]
        torch.testing.assert_close(logits[b], model(alone)[0, -1])


def test_the_cache_of_an_encoder_decoder_changes_nothing():
    model = lively(EncoderDecoder(config()))
    source, target, mask = torch.randint(V, (B, S)), torch.randint(V, (B, T)), padding([S, 2, 1], S)
    whole, state = model(source, target, mask), model.start(source, mask)
    for t in range(T):
        logits, state = model.step(target[:, t : t + 1], state)
        torch.testing.assert_close(logits, whole[:, t])


def test_a_step_leaves_the_state_that_it_was_given():
    model = lively(CausalLM(config()))
    _, state = model.step(torch.randint(V, (B, 3)))
    first, again = (model.step(torch.full((B, 1), 4), state)[0] for _ in range(2))
    assert torch.equal(first, again)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_rotary_scores_depend_on_the_distance_only(i, j, shift, seed):
    torch.manual_seed(seed)
    q, k = torch.randn(2, 1, 1, 1, 8).double()
    score, moved = ((rotate(q, _turns(i + by)) * rotate(k, _turns(j + by))).sum().item() for by in (0, shift))
    assert math.isclose(score, moved, abs_tol=1e-3)


def _turns(position):
    return tuple(turn.double() for turn in rotary_turns(torch.tensor([position]), 8))


def test_rotary_positions_do_make_a_difference_and_keep_lengths():
    q = torch.randn(1, 2, 5, 8)
    turned = rotate(q, rotary_turns(torch.arange(5), 8))
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], q[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], q[:, :, 1])


def test_rotary_equals_that_of_llama_in_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, positions = torch.randn(2, N, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    turns = rotary_turns(positions, 8)
    expected, _ = apply_rotary_pos_emb(q, q, *turns)
    torch.testing.assert_close(rotate(q, turns), expected)
    angle = 4 * 10_000 ** (-2 * 1 / 8)
    torch.testing.assert_close(turns[0][0, 4, 1].item(), math.cos(angle))
    torch.testing.assert_close(turns[1][0, 4, 5].item(), math.sin(angle))


def test_a_rotary_model_does_not_notice_where_a_sequence_begins():
    model = lively(Transformer(config(positions="rotary"), causal=True))
    x = torch.randn(B, T, D).double()
    torch.testing.assert_close(model(x, positions=torch.arange(T) + 50), model(x), rtol=1e-4, atol=1e-4)


def test_sinusoidal_positions_written_out():
    table = sinusoidal_positions(50, 8)
    for position, i in ((0, 0), (7, 1), (49, 3)):
        angle = position / 10_000 ** (2 * i / 8)
        torch.testing.assert_close(table[position, 2 * i].item(), math.sin(angle), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(table[position, 2 * i + 1].item(), math.cos(angle), rtol=1e-4, atol=1e-5)


def test_without_positions_an_encoder_is_blind_to_order_and_with_them_not():
    tokens, order = torch.tensor([[1, 2, 3, 4]]), torch.tensor([2, 0, 3, 1])
    for positions in POSITIONS:
        model = lively(Encoder(config(positions=positions)))
        same = torch.allclose(model(tokens)[:, order], model(tokens[:, order]))
        assert same == (positions == "none")


def test_the_first_loss_is_that_of_knowing_nothing():
    tokens = torch.randint(V, (50, T))
    for positions in POSITIONS:
        logits = CausalLM(config(positions=positions))(tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(V, (50 * T,)))
        assert abs(loss.item() - math.log(V)) < 0.1


def test_sinusoids_are_added_to_tokens_of_about_their_size():
    model = CausalLM(config(positions="sinusoidal", d_model=64))
    tokens = torch.randint(V, (B, T))
    embedded = model.embedding(tokens, torch.arange(3, 3 + T))
    expected = 8 * model.embedding.token(tokens) + sinusoidal_positions(12, 64)[3 : 3 + T]  # √64, as in §3.4
    torch.testing.assert_close(embedded, expected)


def test_what_writes_into_the_stream_starts_smaller_the_deeper_the_stack():
    stack = Transformer(config(d_model=128, n_layers=8))
    for layer in stack.layers:
        for wide in (layer.attention.q_proj, layer.attention.v_proj, layer.feed_forward.widen):
            assert math.isclose(wide.weight.std().item(), 0.02, rel_tol=0.05)
        for writes in (layer.attention.out_proj, layer.feed_forward.narrow):
            assert math.isclose(writes.weight.std().item(), 0.02 / 4, rel_tol=0.05)  # 4 = √(2 · 8)
            assert not writes.bias.any()


def test_dropout_only_in_training():
    model, tokens = CausalLM(config(dropout=0.5)), torch.randint(V, (B, T))
    assert not torch.allclose(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_feed_forward_is_four_times_as_wide_unless_told():
    assert FeedForward(config()).widen.weight.shape == (4 * D, D)
    assert config(d_model=32).width_ff == 128
    assert config(d_ff=7).width_ff == 7


# ----------------------------------------------------------------------------------------------------------- odd inputs
@pytest.mark.parametrize("positions", POSITIONS)
def test_empty_sequences_and_rows_that_are_all_padding(positions):
    for model in (Encoder(config(positions=positions)), CausalLM(config(positions=positions))):
        width = V if isinstance(model, CausalLM) else D
        assert model(torch.zeros(B, 0, dtype=torch.long)).shape == (B, 0, width)
        assert model(torch.zeros(0, T, dtype=torch.long)).shape == (0, T, width)
        out = model(torch.randint(V, (B, T)), padding([T, 0, 2], T))
        out.sum().backward()
        assert out.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_source_that_is_empty_or_all_padding_is_defined():
    model = lively(EncoderDecoder(config()))
    target, source = torch.randint(V, (B, T)), torch.randint(V, (B, S))
    nothing = model(target=target, source=source[:, :0])
    hidden = model(source, target, padding([S, 0, 2], S))
    hidden.sum().backward()
    assert nothing.isfinite().all()
    torch.testing.assert_close(hidden[1], nothing[1])  # a source of padding is no source
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model(source[:0], target[:0]).shape == (0, T, V)
    assert model(source, target[:, :0]).shape == (B, 0, V)


def test_layers_and_tables_of_length_zero():
    assert sinusoidal_positions(0, 8).shape == (0, 8)
    empty = torch.zeros(2, N, 0, 8)
    assert rotate(empty, rotary_turns(torch.arange(0), 8)).shape == empty.shape
    layer = TransformerLayer(config(), cross=True)
    assert layer(torch.zeros(2, 0, D), torch.zeros(2, 3, D)).shape == (2, 0, D)
    assert layer(torch.ones(2, 3, D), torch.zeros(2, 0, D)).isfinite().all()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert layer(torch.ones(2, 3, D), torch.zeros(2, 3, D), mask=mask, memory_mask=mask).isfinite().all()


def _lm(**changes):
    return CausalLM(config(**changes))


def _crossed():
    return TransformerLayer(config(), cross=True)


def _zeros(*shape):
    return torch.zeros(*shape, dtype=torch.long)


BAD = {
    "token 11 at position 4 of sequence 1 is outside the vocabulary of 11": lambda: _lm()(
        torch.tensor([[0] * 6, [0, 1, 2, 3, 11, -1]])
    ),
    "token -1 at position 0 of sequence 0": lambda: _lm()(torch.tensor([[-1]])),
    "13 tokens, the model takes 12": lambda: _lm()(_zeros(1, 13)),
    "13 tokens, the model takes 12: cut": lambda: _lm().step(_zeros(1, 1), _lm().step(_zeros(1, 12))[1]),
    "at least one token": lambda: _lm().step(_zeros(1, 0)),
    "expected whole numbers": lambda: _lm()(torch.zeros(1, 4)),
    r"tokens are \(4,\)": lambda: _lm().step(_zeros(4)),
    "expected torch.bool of the shape .2, 4.": lambda: _lm()(_zeros(2, 4), torch.ones(2, 5).bool()),
    "expected torch.bool": lambda: _lm()(_zeros(2, 4), torch.ones(2, 4)),
    "padding on the left": lambda: _lm().start(torch.tensor([[True, False]])),
    "say how many tokens": lambda: _lm(vocab_size=0),
    "cannot be cut into n_heads=3": lambda: config(n_heads=3),
    "must be even": lambda: config(d_model=6, positions="rotary"),
    "must be even:?": lambda: config(d_model=7, n_heads=1, positions="sinusoidal"),
    "takes none": lambda: TransformerLayer(config())(torch.randn(1, 2, D), memory=torch.randn(1, 2, D)),
    "needs a memory": lambda: TransformerLayer(config(), cross=True)(torch.randn(1, 2, D)),
    "no cross-attention": lambda: Transformer(config())(torch.randn(1, 2, D), memory=torch.randn(1, 2, D)),
    "pass the memory": lambda: Transformer(config(), cross=True)(torch.randn(1, 2, D)),
    "d_model=0: give 1 or more": lambda: config(d_model=0),
    "n_layers=0: give 1": lambda: config(n_layers=0),
    "d_ff=0: give 1": lambda: config(d_ff=0),
    "max_len=0: give 1": lambda: config(max_len=0),
    "vocab_size=-1: give 0": lambda: config(vocab_size=-1),
    "positions of 7 features": lambda: sinusoidal_positions(4, 7),
    "positions of 5 features": lambda: rotary_turns(torch.arange(4), 5),
    "one position for each of the 6": lambda: rotate(torch.randn(1, N, 6, 8), rotary_turns(torch.arange(1), 8)),
    r"make them with rotary_turns.positions, 8.": lambda: rotate(
        torch.randn(1, N, 6, 8), rotary_turns(torch.arange(6), 4)
    ),
    "x has shape .2, 16.": lambda: TransformerLayer(config())(torch.randn(2, D)),
    r"x has shape .2, 3, 15., expected .batch, length, 16": lambda: TransformerLayer(config())(torch.randn(2, 3, 15)),
    "the memory has shape .2, 5, 15.": lambda: _crossed()(torch.randn(2, 3, D), torch.randn(2, 5, 15)),
    "the memory has shape .3, 5, 16.": lambda: _crossed()(torch.randn(2, 3, D), torch.randn(3, 5, D)),
    "the memory has shape .5, 16.": lambda: Transformer(config(), cross=True)(torch.randn(2, 3, D), torch.randn(5, D)),
    "expected .batch, keys. = .2, 5.": lambda: _crossed()(
        torch.randn(2, 3, D), torch.randn(2, 5, D), memory_mask=torch.ones(2, 3).bool()
    ),
    "the mask is .4,. of torch.bool": lambda: _lm().start(torch.ones(4).bool()),
    "the mask is .2, 4. of torch.float32": lambda: _lm().start(torch.ones(2, 4)),
    "padding on the left$": lambda: _lm().start(torch.zeros(2, 4).bool()),
    "the state is one of 3": lambda: _lm().step(_zeros(2, 1), _lm().step(_zeros(3, 1))[1]),
    "but the state is one of 3": lambda: EncoderDecoder(config()).step(
        _zeros(2, 1), EncoderDecoder(config()).start(_zeros(3, 4))
    ),
    "begin with state=model.start.source.": lambda: EncoderDecoder(config()).step(_zeros(2, 1), None),
    "the shape .2, 5.": lambda: _lm().step(_zeros(2, 5), _lm().start(torch.ones(2, 4).bool())),
    "token 11 at position 0 of sequence 1": lambda: EncoderDecoder(config())(torch.tensor([[1], [11]]), _zeros(2, 1)),
    "token 12 at position 2": lambda: Encoder(config())(torch.tensor([[1, 2, 12]])),
    "expected .batch, length, 16.": lambda: Transformer(config())(torch.randn(2, D)),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told_in_a_sentence(sentence):
    with pytest.raises((ShapeError, DataError), match=sentence):
        BAD[sentence]()


@pytest.mark.parametrize("field", [{"positions": "alibi"}, {"activation": "swish"}])
def test_an_unknown_name_lists_the_known_ones(field):
    with pytest.raises(ValueError, match="use one of"):
        config(**field)
