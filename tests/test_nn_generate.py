"""Generation equals that of transformers on the same model, for every strategy, and every decoder can use it."""

import math

import jaxtyping
import pytest
import torch
from torch import nn

from mmlearn.errors import DataError, ShapeError
from mmlearn.nn import (
    CausalLM,
    EncoderDecoder,
    RecurrentLM,
    RecurrentLMConfig,
    TransformerConfig,
    generate,
    nucleus_filter,
    top_k_filter,
)
from mmlearn.nn.transformer import from_gpt2, gpt2_config

V, PAD, END = 13, 1, 3  # not 0: in beam search, transformers takes a padding token 0 for "none given"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(seed):
    """A small random GPT-2 of transformers and ours with its weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=2, eos_token_id=END, pad_token_id=PAD)).eval()
    ours = CausalLM(gpt2_config(theirs.config)).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    return ours, theirs


def prompt(batch=3, length=4):
    return torch.randint(4, V, (batch, length))


def same(ours, theirs):
    """Equal up to padding at the end: transformers may return columns of padding only."""
    longest = max(ours.shape[1], theirs.shape[1])
    a, b = (nn.functional.pad(x, (0, longest - x.shape[1]), value=PAD) for x in (ours, theirs))
    assert torch.equal(a, b), f"\n{ours}\n{theirs}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", [END, None])
def test_greedy_equals_transformers(seed, end):
    ours, theirs = pair(seed)
    tokens = prompt()
    expected = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=end
    )
    same(generate(ours, tokens, 12, end=end, pad=PAD), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("ends", [True, False])
def test_beam_search_equals_transformers(seed, beams, length_penalty, ends):
    ours, theirs = pair(seed)
    tokens = prompt()
    end = generate(ours, tokens, 6)[0, -1].item() if ends else None  # a token that this model likes to write
    options = {"length_penalty": length_penalty} if beams > 1 else {}
    expected = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=10,
        num_beams=beams,
        do_sample=False,
        eos_token_id=end,
        **options,
    )
    out = generate(ours, tokens, 10, "beam", beams=beams, length_penalty=length_penalty, end=end, pad=PAD)
    same(out, expected)


def test_some_of_the_beams_above_do_end_early():
    lengths = []
    for seed in range(5):
        model, tokens = pair(seed)[0], prompt()
        end = generate(model, tokens, 6)[0, -1].item()
        out = generate(model, tokens, 10, "beam", beams=5, end=end, pad=PAD)
        lengths += (out[:, 4:] != PAD).sum(dim=1).tolist()
    assert sum(n < 10 for n in lengths) >= 3


def test_prompts_padded_on_the_left_equal_transformers_and_each_prompt_alone():
    ours, theirs = pair(1)
    tokens, mask = prompt(), torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, True]])
    tokens = tokens.where(mask, PAD)
    for strategy, options in (("greedy", {}), ("beam", {"num_beams": 4})):
        expected = theirs.generate(tokens, attention_mask=mask.long(), max_new_tokens=8, do_sample=False, **options)
        out = generate(ours, tokens, 8, strategy, end=END, pad=PAD, state=ours.start(mask))
        same(out, expected)
        alone = generate(ours, tokens[2:, 2:], 8, strategy, end=END, pad=PAD)
        same(out[2:, 2:], alone)


@pytest.mark.parametrize("k", [1, 2, 5, V, 100])
def test_top_k_equals_transformers(k):
    from transformers import TopKLogitsWarper

    logits = torch.randn(50, V).mul(3)
    expected = TopKLogitsWarper(top_k=k)(None, logits)
    assert torch.equal(top_k_filter(logits, k), expected)
    assert ((top_k_filter(logits, k) > -math.inf).sum(-1) == min(k, V)).all()


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999, 1.0])
def test_nucleus_equals_transformers(p):
    from transformers import TopPLogitsWarper

    logits = torch.randn(200, V).mul(3)
    assert torch.equal(nucleus_filter(logits, p), TopPLogitsWarper(top_p=p)(None, logits))


def test_the_nucleus_is_the_smallest_set_that_is_large_enough():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for p, kept in ((0.4, 1), (0.6, 2), (0.79, 2), (0.81, 3), (1.0, 4)):
        assert (nucleus_filter(logits[None], p) > -math.inf).sum() == kept
    least = nucleus_filter(torch.randn(50, V), 1e-9)  # 1 - p is 1 in float32: the most probable still stays
    assert ((least > -math.inf).sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("sample", {"top_k": 0}), ("top-k", {"top_k": 3}), ("nucleus", {"top_k": 0, "top_p": 0.7})],
)
def test_drawing_equals_transformers_with_the_same_random_numbers(strategy, options):
    ours, theirs = pair(2)
    tokens = prompt()
    torch.manual_seed(5)
    expected = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=10, do_sample=True, temperature=0.7, **options
    )
    torch.manual_seed(5)
    options = {name: value for name, value in options.items() if value}
    same(generate(ours, tokens, 10, strategy, temperature=0.7, end=END, pad=PAD, **options), expected)


class Table:
    """The simplest decoder: the next token's probabilities depend on the last token only; it counts its steps."""

    def __init__(self, probabilities):
        self.logits = torch.tensor(probabilities).log()

    def step(self, tokens, state=None):
        steps = torch.zeros(len(tokens), 1) if state is None else state
        return self.logits[tokens[:, -1]], steps + 1


GREEDY_IS_FOOLED = [  # 0 leads to 1 (0.6) or 2 (0.4); after 1 all is uncertain, after 2 all is clear
    [1e-9, 0.6, 0.4, 1e-9],
    [0.25, 0.25, 0.25, 0.25],
    [1e-9, 1e-9, 1e-9, 1.0],
    [1e-9, 1e-9, 1e-9, 1.0],
]


def test_beam_search_finds_what_greedy_misses():
    model, tokens = Table(GREEDY_IS_FOOLED), torch.tensor([[0]])
    assert generate(model, tokens, 2).tolist()[0][:2] == [0, 1]
    assert generate(model, tokens, 2, "beam", beams=2).tolist() == [[0, 2, 3]]


def test_draws_follow_the_probabilities():
    model = Table([[0.5, 0.3, 0.15, 0.05]] * 4)
    generator = torch.Generator().manual_seed(0)
    for strategy, temperature, expected in (
        ("sample", 1.0, [0.5, 0.3, 0.15, 0.05]),
        ("sample", 0.5, [0.6849, 0.2466, 0.0616, 0.0068]),
        ("top-k", 1.0, [0.625, 0.375, 0, 0]),
        ("nucleus", 1.0, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
    ):
        options = {"temperature": temperature, "top_k": 2, "top_p": 0.9, "generator": generator}
        drawn = generate(model, torch.zeros(20_000, 1, dtype=torch.long), 1, strategy, **options)[:, 1]
        share = torch.bincount(drawn, minlength=4) / 20_000
        torch.testing.assert_close(share, torch.tensor(expected), atol=0.015, rtol=0)


def test_the_same_generator_gives_the_same_text():
    model, tokens = pair(0)[0], prompt()
    first, second, other = (
        generate(model, tokens, 8, "sample", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class LSTMDecoder(nn.Module):
    """Another kind of decoder: its state has the batch as second dimension, its logits a length."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.read = nn.Embedding(V, 8), nn.LSTM(8, 16, 2, batch_first=True), nn.Linear(16, V)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def step(self, tokens, state=None):
        x, state = self.lstm(self.embed(tokens), state)
        return self.read(x), state

    def select_rows(self, state, rows):
        return tuple(part.index_select(1, rows) for part in state)


def written_out(n_tokens, max_new, end):
    """Every text of up to max_new tokens: those that end early stop at the end token."""
    texts = [()]
    for _ in range(max_new):
        texts = [
            text + (token,) if not text or text[-1] != end else text for text in texts for token in range(n_tokens)
        ]
    return sorted(set(texts))


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "encoder-decoder"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("end", [None, 3])
def test_beam_search_finds_what_exhaustive_search_finds(kind, length_penalty, end):
    n, max_new = 4, 4
    if kind == "encoder-decoder":
        model = EncoderDecoder(TransformerConfig(d_model=8, n_heads=2, n_layers=2, vocab_size=n, max_len=8)).eval()
    else:
        model = RecurrentLM(RecurrentLMConfig(n, d_model=6, d_hidden=8, n_layers=2, kind=kind)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    source, prompts = torch.randint(n, (2, 3)), torch.tensor([[1, 2], [0, 1]])
    state = model.start(source) if kind == "encoder-decoder" else None
    options = {"length_penalty": length_penalty, "end": end, "pad": 0, "state": state}
    found = generate(model, prompts, max_new, "beam", beams=n**max_new, **options)
    narrow = generate(model, prompts, max_new, "beam", beams=1, **options)
    texts, lengths = written_out(n, max_new, end), set()
    for b, prompt in enumerate(prompts.tolist()):
        scores = {}
        for text in texts:
            whole = torch.tensor([[*prompt, *text]])
            logits = (model(source[b : b + 1], whole) if state else model(whole)).log_softmax(-1)
            likely = sum(logits[0, t - 1, whole[0, t]].item() for t in range(2, whole.shape[1]))
            scores[text] = likely / len(text) ** length_penalty
        best = max(scores, key=scores.get)
        lengths.add(len(best))
        assert found[b].tolist() == [*prompt, *best] + [0] * (found.shape[1] - 2 - len(best))
        one = tuple(narrow[b, 2:].tolist())
        one = one[: one.index(end) + 1] if end in one else one
        assert scores[best] >= scores[one] - 1e-6
    assert found.shape[1] == 2 + max(lengths)


def test_one_beam_is_greedy_with_a_recurrent_model():
    model = RecurrentLM(RecurrentLMConfig(V, d_model=8, d_hidden=16)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    tokens = prompt()
    assert torch.equal(generate(model, tokens, 6, "beam", beams=1), generate(model, tokens, 6))
    slow = tokens
    for _ in range(6):
        slow = torch.cat([slow, model(slow)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, tokens, 6), slow)


def log_prob(logits_of, sequence, start):
    logits = logits_of(sequence[None, :-1])[0].log_softmax(-1)
    return sum(logits[t - 1, sequence[t]].item() for t in range(start, len(sequence)))


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_the_widest_beam_finds_the_most_probable_text(kind):
    model = LSTMDecoder() if kind == "lstm" else pair(3)[0]
    logits_of = (lambda x: model.step(x)[0]) if kind == "lstm" else model
    tokens = prompt(2)
    found = generate(model, tokens, 2, "beam", beams=V, length_penalty=0.0)
    for row, first in zip(found, tokens, strict=True):
        texts = [torch.cat([first, torch.tensor([a, b])]) for a in range(V) for b in range(V)]
        best = max(texts, key=lambda text: log_prob(logits_of, text, 4))
        assert torch.equal(row, best)


def test_an_encoder_decoder_writes_what_its_uncached_self_would():
    config = TransformerConfig(d_model=16, n_heads=2, n_layers=2, vocab_size=V, max_len=20)
    model = EncoderDecoder(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    source, start = prompt(), torch.full((3, 1), 2)
    for strategy in ("greedy", "beam"):
        out = generate(model, start, 6, strategy, state=model.start(source), beams=1)
        slow = start
        for _ in range(6):
            slow = torch.cat([slow, model(source, slow)[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(out, slow)


def test_all_stop_at_the_end_token_and_the_rest_is_padding():
    model = Table([[0.0001, 0.0001, 0.0001, 0.9997]] * 4)
    assert generate(model, torch.tensor([[0], [1]]), 9, end=3, pad=2).tolist() == [[0, 3], [1, 3]]
    mixed = Table([[0.001, 0.997, 0.001, 0.001], [0.001, 0.001, 0.001, 0.997]] + [[0.25] * 4] * 2)
    assert generate(mixed, torch.tensor([[0], [1]]), 9, end=3, pad=2).tolist() == [[0, 1, 3], [1, 3, 2]]


def test_nothing_new_and_no_rows():
    model, tokens = pair(0)[0], prompt()
    assert torch.equal(generate(model, tokens, 0), tokens)
    assert generate(model, tokens[:0], 5).shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strategy": "best"}, "use one of greedy, sample, top-k, nucleus, beam"),
        ({"strategy": "sample", "temperature": 0.0}, "temperature=0.0"),
        ({"strategy": "top-k", "top_k": 0}, "top_k=0"),
        ({"strategy": "nucleus", "top_p": 1.5}, "top_p=1.5"),
        ({"strategy": "beam", "beams": 0}, "beams=0"),
        ({"max_new": -1}, "max_new=-1"),
    ],
)
def test_options_that_make_no_sense_are_told(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(pair(0)[0], prompt(), **{"max_new": 4, **options})


def test_an_empty_prompt_and_one_too_long_are_told():
    model = pair(0)[0]
    with pytest.raises(ShapeError, match="one token or more"):
        generate(model, prompt(length=0), 4)
    with pytest.raises(ShapeError, match="the model takes 32"):
        generate(model, prompt(length=30), 4)


@pytest.fixture
def unchecked():
    """As a learner meets the functions: without the import hook that checks shapes in tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_tokens_of_the_wrong_shape_kind_or_number_are_told(strategy):
    model = pair(0)[0]
    with pytest.raises(ShapeError, match=r"have the shape .4,."):
        generate(model, prompt()[0], 4, strategy)
    with pytest.raises(ShapeError, match="expected whole numbers"):
        generate(model, torch.zeros(1, 3), 4, strategy)
    for token in (V, -1):
        for decoder in (model, RecurrentLM(RecurrentLMConfig(V))):
            with pytest.raises(DataError, match=f"token {token} at position 1 of sequence 0"):
                generate(decoder, torch.tensor([[4, token]]), 4, strategy)
    with pytest.raises(ShapeError, match="but the state is one of 3"):
        generate(model, prompt(2), 4, strategy, state=model.step(prompt(3))[1])
    with pytest.raises(ShapeError, match="begin with state=model.start"):
        generate(EncoderDecoder(model.config), prompt(2), 4, strategy)
    with pytest.raises(ShapeError, match="put the padding on the left"):
        generate(model, prompt(2), 4, strategy, state=model.start(torch.zeros(2, 4, dtype=torch.bool)))


def test_a_beam_needs_a_choice():
    with pytest.raises(ShapeError, match="the vocabulary has one token"):
        generate(RecurrentLM(RecurrentLMConfig(1)), torch.zeros(1, 1, dtype=torch.long), 2, "beam")
    assert generate(RecurrentLM(RecurrentLMConfig(1)), torch.zeros(1, 1, dtype=torch.long), 2).tolist() == [[0, 0, 0]]


def test_more_beams_than_texts_and_an_end_that_never_comes():
    model = RecurrentLM(RecurrentLMConfig(3))
    out = generate(model, torch.zeros(2, 1, dtype=torch.long), 2, "beam", beams=50, end=7)
    assert out.shape == (2, 3)
    assert (out < 3).all()
