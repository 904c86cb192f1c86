"""One way to write text for every decoder: greedy, sampling (top-k, nucleus) and beam search.

A decoder is anything with `step(tokens, state) -> (logits, state)`: tokens (B, T) that are new to it, logits (B, V)
of the token that comes next (or (B, T, V), of which the last count), and a state that it understands (keys and values
of a Transformer, hidden vectors of an LSTM); a state of None is the beginning. For beam search the rows of the state
are copied and reordered: a decoder whose state is not made of tensors with the batch first offers its own
`select_rows(state, rows)`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmlearn.errors import ShapeError

STRATEGIES = ("greedy", "sample", "top-k", "nucleus", "beam")


def top_k_filter(logits: Float[Tensor, "*B V"], k: int) -> Float[Tensor, "*B V"]:
    """Keep the k largest logits of each row, -inf elsewhere (Fan et al., ACL 2018). Ties with the k-th stay."""
    if k < 1:
        raise ValueError(f"top_k={k}: at least one token must stay")
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def nucleus_filter(logits: Float[Tensor, "*B V"], p: float) -> Float[Tensor, "*B V"]:
    """Keep the smallest set of tokens whose probabilities add up to p or more (Holtzman et al., ICLR 2020, eq. 2).

    p: share in (0, 1]; the most probable token always stays.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p}: give a share above 0, up to 1")
    ordered, order = logits.sort(dim=-1)  # the least probable first: small numbers are added up before large ones
    drop = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1:] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -math.inf)


def select_rows(state, rows: Int[Tensor, " R"]):
    """The rows of every tensor (batch first) in nested tuples, lists and dictionaries; None stays None."""
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, dict):
        return {name: select_rows(part, rows) for name, part in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(select_rows(part, rows) for part in state)
    return state


@torch.no_grad()
def generate(
    model,
    tokens: Int[Tensor, "B T"],
    max_new: int,
    strategy: str = "greedy",
    *,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 0.9,
    beams: int = 4,
    length_penalty: float = 1.0,
    end: int | None = None,
    pad: int = 0,
    state=None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B L"]:
    """The tokens given and up to `max_new` more: (B, L), T <= L <= T + max_new.

    strategy: "greedy" takes the most probable token; "sample" draws one, "top-k" among the `top_k` most probable,
    "nucleus" among the smallest set with probability `top_p`; "beam" keeps the `beams` most probable beginnings and
    returns the ending with the highest log probability / length ** `length_penalty` (Wu et al. 2016, simplified).
    temperature: the logits are divided by it before drawing. end: the token after which a sequence is finished; the
    rest of its row is `pad`. state: where the decoder begins, say `model.start(mask)` for prompts padded on the left.
    generator: makes draws repeatable (on the device of the logits).
    The model's mode is left alone: call `model.eval()` first. Raises ShapeError, ValueError, and what the model
    raises: DataError for tokens outside its vocabulary, ShapeError where the text grows longer than it takes.
    """
    _check(tokens, max_new, strategy, temperature, beams)
    if max_new == 0 or tokens.shape[0] == 0:
        return tokens
    if strategy == "beam":
        return _beam_search(model, tokens, max_new, beams, length_penalty, end, pad, state)
    new, finished = tokens, torch.zeros_like(tokens[:, 0], dtype=torch.bool)
    for _ in range(max_new):
        logits, state = _next(model, new, state)  # (B, V)
        if strategy == "greedy":
            chosen = logits.argmax(dim=-1)
        else:
            chosen = _draw(logits / temperature, strategy, top_k, top_p, generator)
        new = torch.where(finished, pad, chosen)[:, None]
        tokens = torch.cat([tokens, new], dim=1)
        if end is not None:
            finished = finished | (chosen == end)
            if finished.all():
                break
    return tokens


def _next(model, tokens, state) -> tuple[Float[Tensor, "B V"], object]:
    logits, state = model.step(tokens, state)
    return (logits[:, -1] if logits.ndim == 3 else logits), state


def _check(tokens, max_new, strategy, temperature, beams) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: use one of {', '.join(STRATEGIES)}")
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ShapeError(f"tokens have the shape {tuple(tokens.shape)}, expected (batch, length), one token or more")
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ShapeError(f"tokens are of {tokens.dtype}, expected whole numbers: the numbers of words, not vectors")
    if max_new < 0 or beams < 1:
        raise ValueError(f"max_new={max_new}, beams={beams}: max_new is 0 or more, beams 1 or more")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: it divides the logits, so it must be above 0 (or use 'greedy')")


def _draw(logits, strategy, top_k, top_p, generator) -> Int[Tensor, " B"]:
    if strategy == "top-k":
        logits = top_k_filter(logits, top_k)
    elif strategy == "nucleus":
        logits = nucleus_filter(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


def _beam_search(model, tokens, max_new, beams, length_penalty, end, pad, state) -> Int[Tensor, "B L"]:
    """Beam search as transformers does it: twice as many candidates as beams, so that endings crowd nobody out."""
    batch, prompt = tokens.shape
    reorder = getattr(model, "select_rows", select_rows)
    rows = torch.arange(batch, device=tokens.device)[:, None]  # (B, 1)
    logits, state = _next(model, tokens, state)
    if logits.shape[-1] < 2:
        raise ShapeError("a beam needs a choice: the vocabulary has one token")
    state = reorder(state, rows.expand(batch, beams).flatten())
    logits = logits[:, None].expand(batch, beams, -1)  # (B, K, V)
    running = tokens[:, None].expand(batch, beams, prompt)  # (B, K, L)
    scores = torch.full((batch, beams), -1e9, device=tokens.device)
    scores[:, 0] = 0.0  # all beams are the same at first: only one may have children
    done = _Finished(batch, beams, prompt + max_new, pad, tokens.device)

    for n in range(1, max_new + 1):
        total = scores[..., None] + F.log_softmax(logits.float(), dim=-1)  # (B, K, V)
        best, index = total.flatten(1).topk(2 * beams, dim=-1)  # (B, 2K)
        parent, token = index // total.shape[-1], index % total.shape[-1]
        grown = torch.cat([running[rows, parent], token[..., None]], dim=-1)  # (B, 2K, L + 1)
        ended = torch.full_like(token, n == max_new, dtype=torch.bool)
        ended = ended if end is None else ended | (token == end)
        done.add(grown[:, :beams], (best / n**length_penalty)[:, :beams], ended[:, :beams])
        scores, kept = torch.where(ended, best - 1e9, best).topk(beams, dim=-1)
        running, parent = grown[rows, kept], parent[rows, kept]
        done.close(scores[:, 0] / n**length_penalty)
        if n == max_new or done.closed.all():
            break
        state = reorder(state, (rows * beams + parent).flatten())
        logits, state = _next(model, running[..., -1].reshape(-1, 1), state)
        logits = logits.unflatten(0, (batch, beams))
    return done.best(end)


class _Finished:
    """The best finished sequences of each prompt, and whether a running one could still beat them."""

    def __init__(self, batch: int, beams: int, longest: int, pad: int, device):
        self.sequences = torch.full((batch, beams, longest), pad, device=device)
        self.scores = torch.full((batch, beams), -1e9, device=device)
        self.lengths = torch.zeros(batch, beams, dtype=torch.long, device=device)
        self.closed = torch.zeros(batch, dtype=torch.bool, device=device)
        self.pad = pad

    def add(self, sequences: Tensor, scores: Tensor, ended: Tensor) -> None:
        """Keep the best of those kept and those that ended, unless the prompt is closed."""
        n = sequences.shape[-1]
        padded = F.pad(sequences, (0, self.sequences.shape[-1] - n), value=self.pad)
        scores = scores.masked_fill(~ended | self.closed[:, None], -1e9)
        beams = self.scores.shape[1]
        self.scores, kept = torch.cat([self.scores, scores], dim=1).topk(beams, dim=-1)
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        self.sequences = torch.cat([self.sequences, padded], dim=1)[rows, kept]
        self.lengths = torch.cat([self.lengths, torch.full_like(kept, n)], dim=1)[rows, kept]

    def close(self, best_running: Tensor) -> None:
        """Close the prompts with enough sequences, all at least as good as a running one could become."""
        self.closed = self.closed | (best_running <= self.scores[:, -1])

    def best(self, end: int | None) -> Int[Tensor, "B L"]:
        """The best sequence of each prompt, cut to the longest of them."""
        return self.sequences[:, 0, : int(self.lengths[:, 0].max())]
