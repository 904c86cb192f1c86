"""Exercises of chapter 05, recurrent networks."""

import math

import torch
from torch import Tensor

from mmlearn.exercises import Exercise, Misconception


# ------------------------------------------------------------------------------------------------------ 05.1 latch
def _latch_state(weights, inputs: list[int]) -> float:
    """The state of one neuron, h' = tanh(w x + u h + b), after reading the inputs from h = 0."""
    w, u, b = weights
    h = 0.0
    for x in inputs:
        h = math.tanh(w * x + u * h + b)
    return h


def _never_forgets(u: float, b: float) -> bool:
    """Whether tanh(u h + b) and the line h meet above zero, for b < 0: a state that stays."""
    if u <= 1:
        return False
    slope_one = math.sqrt(1 - 1 / u)  # the state where the curve, with slope 1, is farthest above the line
    return u * slope_one - math.atanh(slope_one) + b > 0


def _check_latch(fn, generator: torch.Generator) -> str | None:
    weights = fn()
    weights = weights.tolist() if isinstance(weights, Tensor) else weights
    if not isinstance(weights, tuple | list) or len(weights) != 3:
        return f"expected three numbers (w, u, b), got {weights!r}"
    weights = tuple(float(value) for value in weights)
    if not all(map(math.isfinite, weights)):
        return f"expected three finite numbers (w, u, b), got {weights}"
    waiting = next((n for n in (1, 2, 5, 300) if _latch_state(weights, [0] * n) >= 0), None)
    if waiting:
        return (
            f"after {waiting} zero{'s' * (waiting > 1)} and no 1 the state is not negative, but "
            f"{_latch_state(weights, [0] * waiting):.3f}: with x = 0 and h = 0 only b speaks, and with x = 0 and "
            "h < 0 it has to stay negative"
        )
    for before in (0, 1, 4, 50):
        if _latch_state(weights, [0] * before + [1]) <= 0:
            return (
                f"after {before} zero{'s' * (before != 1)} a 1 came in, and the state is not positive: w has to win "
                "against b and against u times a state of nearly −1"
            )
    for after in (1, 3, 20, 300):
        if _latch_state(weights, [0, 0, 1] + [0] * after) <= 0:
            return (
                f"the 1 is forgotten after {after} zero{'s' * (after > 1)}: u is too weak, at most 1 or not enough to "
                "stand against b. Draw tanh(u h + b) and the line h: for memory they must cross three times"
            )
    if not _never_forgets(*weights[1:]):
        return (
            "the 1 outlives the test, but not for ever: the positive state shrinks a little at every 0. Draw "
            "tanh(u h + b) and the line h: for memory they must cross three times"
        )
    many = torch.randint(2, (40, 100), generator=generator).tolist()
    wrong = next((row for row in many if (_latch_state(weights, row) > 0) != (1 in row)), None)
    return None if wrong is None else "a second 1 undoes the first: is w positive, and u too?"


LATCH = Exercise(
    id="05.1",
    title="One neuron that never forgets",
    verify=_check_latch,
    hints=[
        "Take the three jobs one by one: start negative (only b acts), stay where you are (u), be switched on (w).",
        "To stay: with x = 0 the state −1 must lead to something negative, and the state +1 to something positive. "
        "So u must be clearly larger than 1, and larger than 1 + |b| to be safe.",
        "To be switched on from −1: w − u + b must be clearly positive. Try u = 3, b = −1 and choose w.",
    ],
)


# ------------------------------------------------------------------------------------------------ 05.3 forget bias
def _spans(generator):
    drawn = [
        (int(torch.randint(5, 200, (), generator=generator)), 0.05 + 0.9 * torch.rand((), generator=generator).item())
        for _ in range(4)
    ]
    return [(1, 0.9), (10, 0.5), (100, 0.5), (1000, 0.9), *drawn]


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


FORGET_BIAS = Exercise(
    id="05.3",
    title="How large a forget bias?",
    inputs=_spans,
    solution=lambda n_steps, share: _logit(share ** (1 / n_steps)),
    misconceptions=[
        Misconception(
            "that is the value of the gate, share^(1/n). The gate is the sigmoid of its bias: one step is missing",
            lambda n_steps, share: share ** (1 / n_steps),
        ),
        Misconception(
            "your gate lets `share` through in one step; after n steps share^n would be left",
            lambda n_steps, share: _logit(share),
        ),
        Misconception(
            "you took the sigmoid where its inverse is needed: σ(bias) = gate, so bias = ln(gate / (1 − gate))",
            lambda n_steps, share: 1 / (1 + math.exp(-(share ** (1 / n_steps)))),
        ),
        Misconception(
            "the sign is turned round: a gate near 1 needs a *positive* bias",
            lambda n_steps, share: -_logit(share ** (1 / n_steps)),
        ),
        Misconception(
            "you divided the loss among the steps, 1 − (1 − share)/n: losses do not add up, the gates multiply",
            lambda n_steps, share: _logit(1 - (1 - share) / n_steps),
        ),
        Misconception(
            "you used exp as if it were the gate: a gate is a sigmoid, so the inverse is not ln(gate)",
            lambda n_steps, share: math.log(share) / n_steps,
        ),
        Misconception(
            "you divided the bias among the steps: what multiplies is the gate, not what stands inside the sigmoid",
            lambda n_steps, share: _logit(share) / n_steps,
        ),
        Misconception(
            "with a gate of share^n less and less would be left the more steps there are, and after n of them "
            "share^(n·n): the gate must be nearer to 1, not to 0",
            lambda n_steps, share: _logit(share**n_steps),
        ),
        Misconception(
            "one step too many: n steps multiply by the gate n times",
            lambda n_steps, share: _logit(share ** (1 / (n_steps + 1))),
        ),
        Misconception(
            "one step too few: n steps multiply by the gate n times",
            lambda n_steps, share: _logit(share ** (1 / (n_steps - 1))) if n_steps > 1 else math.inf,
        ),
    ],
    hints=[
        "If nothing else happens, one step multiplies the cell, and the gradient, by the gate f. What do n steps do?",
        "f^n = share, so f = share^(1/n). Now the gate is f = σ(bias).",
        "The inverse of the sigmoid is ln(f / (1 − f)).",
    ],
    atol=1e-4,
)


# ------------------------------------------------------------------------------------------- 05.2 other convention
def _gru_weights(generator):
    sizes = [(2, 3), (1, 1), (4, 2), (3, 5)]
    return [(torch.randn(3 * h, d, generator=generator),) for h, d in sizes] + [(torch.randn(6, generator=generator),)]


def _blocks(weight: Tensor, signs: tuple[int, int, int], order: tuple[int, int, int] = (0, 1, 2)) -> Tensor:
    reset, mix, new = weight.chunk(3)
    parts = (reset, mix, new)
    return torch.cat([sign * parts[i] for sign, i in zip(signs, order, strict=True)])


def _by_columns(weight: Tensor) -> Tensor:
    """The mistake of taking D for H."""
    out, width = weight.clone(), weight.shape[-1]
    out[width : 2 * width] *= -1
    return out


CONVENTION = Exercise(
    id="05.2",
    title="The gate that opens the other way",
    inputs=_gru_weights,
    solution=lambda weight: _blocks(weight, (1, -1, 1)),
    misconceptions=[
        Misconception(
            "you took 1 − weight: not the weight is turned round but the gate, 1 − σ(a). Which b has σ(b) = 1 − σ(a)?",
            lambda weight: torch.cat([weight.chunk(3)[0], 1 - weight.chunk(3)[1], weight.chunk(3)[2]]),
        ),
        Misconception(
            "you changed the sign of all three blocks: reset gate and candidate mean the same in both",
            lambda weight: -weight,
        ),
        Misconception(
            "you changed the first block, the reset gate; the one that mixes old and new is the second",
            lambda weight: _blocks(weight, (-1, 1, 1)),
        ),
        Misconception(
            "you changed the candidate's sign: that turns the new state round, not the gate",
            lambda weight: _blocks(weight, (1, 1, -1)),
        ),
        Misconception(
            "you exchanged the first two blocks: the order of the gates is the same, only the meaning of the second "
            "differs",
            lambda weight: _blocks(weight, (1, 1, 1), (1, 0, 2)),
        ),
        Misconception(
            "you returned the weights unchanged: then the network keeps where it should renew",
            lambda weight: weight,
        ),
        Misconception(
            "the matrix is right and the bias unchanged: the gate is σ(W x + U h + b), and b belongs to it too",
            lambda weight: _blocks(weight, (1, -1, 1)) if weight.ndim == 2 else weight,
        ),
        Misconception(
            "you cut along the columns, which belong to the inputs: the three blocks are stacked, H rows each",
            lambda weight: _blocks(weight.transpose(0, -1), (1, -1, 1)).transpose(0, -1),
        ),
        Misconception(
            "you took the number of columns for the height of a block: that holds for square blocks only. A block has "
            "a third of the rows",
            _by_columns,
        ),
    ],
    hints=[
        "Write both formulas one below the other: which factor stands before the old state h in each?",
        "The network's z in one convention must equal 1 − z in the other. And 1 − σ(a) = σ(?).",
        "1 − σ(a) = σ(−a), and a = W x + U h + b. So every weight that makes a changes its sign: those of block two.",
    ],
)


# --------------------------------------------------------------------------------------------- 05.4 both directions
def _last_states(generator):
    sizes = [(2, 2, 3), (1, 1, 2), (1, 4, 3), (3, 2, 2), (2, 5, 1)]  # layers, batch, hidden
    return [(torch.randn(2 * layers, batch, hidden, generator=generator),) for layers, batch, hidden in sizes]


def _check_gradient(fn, generator: torch.Generator) -> str | None:
    h = torch.randn(4, 3, 2, generator=generator, requires_grad=True)
    answer = fn(h)
    if answer.requires_grad:
        answer.sum().backward()
    if h.grad is None or not h.grad[-2:].bool().all():
        return (
            "the numbers are right, but no gradient comes back through them: a classifier that reads them could never "
            "train the layer. Something on the way cuts them off from the states"
        )
    return None


BOTH_DIRECTIONS = Exercise(
    id="05.4",
    title="Forward and backward, side by side",
    inputs=_last_states,
    solution=lambda h: torch.cat([h[-2], h[-1]], dim=-1),
    verify=_check_gradient,
    misconceptions=[
        Misconception(
            "view (or reshape) reads the numbers in the order in which they lie in memory, so the states of *different "
            "sequences* end up in one row: bring the batch to the front first, or join two matrices",
            lambda h: h[-2:].reshape(h.shape[1], -1),
        ),
        Misconception(
            "view (or reshape) reads the numbers in the order in which they lie in memory, so the states of *different "
            "sequences* end up in one row: bring the batch to the front first, or join two matrices",
            lambda h: h.reshape(h.shape[1], -1),
        ),
        Misconception(
            "these are the states of all layers: what is read off is the last layer only, the last two entries",
            lambda h: h.transpose(0, 1).flatten(1),
        ),
        Misconception(
            "these are the states of the *first* layer; the layers stand in order, the last one at the end",
            lambda h: torch.cat([h[0], h[1]], dim=-1),
        ),
        Misconception(
            "backward and forward are exchanged: in each layer the forward direction comes first",
            lambda h: torch.cat([h[-1], h[-2]], dim=-1),
        ),
        Misconception(
            "that is the forward direction of one layer beside that of another: the order is layer 0 forward, layer 0 "
            "backward, layer 1 forward, …",
            lambda h: torch.cat([h[h.shape[0] // 2 - 1], h[-1]], dim=-1),
        ),
        Misconception(
            "you stacked the two directions below each other: the sequences stay in the first dimension, the features "
            "stand side by side (dim=-1)",
            lambda h: torch.cat([h[-2], h[-1]], dim=0),
        ),
        Misconception(
            "you added the two directions; each is to keep its own half of the features",
            lambda h: h[-2] + h[-1],
        ),
        Misconception(
            "that is one direction only, the backward one of the last layer: the forward state is the entry before it",
            lambda h: h[-1],
        ),
        Misconception(
            "both halves are the backward state: the forward state is the entry before it",
            lambda h: torch.cat([h[-1], h[-1]], dim=-1),
        ),
    ],
    hints=[
        "The order for two layers: layer 0 forward, layer 0 backward, layer 1 forward, layer 1 backward.",
        "Take the last two matrices, each (B, H), apart: h[-2] and h[-1].",
        "Join them along the features: torch.cat([…, …], dim=-1).",
    ],
)


# --------------------------------------------------------------------------------------------------- 05.5 perplexity
def _losses(generator):
    cases = []
    for batch, length in ((2, 3), (3, 6), (4, 5), (2, 8)):
        lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        lengths[0] = length
        lengths[-1] = 1
        loss = 4 * torch.rand(batch, length, generator=generator)
        cases.append((loss, torch.arange(length) < lengths[:, None]))
    return cases


def _masked_sum(loss, mask):
    return (loss * mask).sum(dim=1)


PERPLEXITY = Exercise(
    id="05.5",
    title="Perplexity with padding",
    inputs=_losses,
    solution=lambda loss, mask: loss[mask].mean().exp(),
    misconceptions=[
        Misconception(
            "the padding is counted too: what the model says after the end means nothing",
            lambda loss, mask: loss.mean().exp(),
        ),
        Misconception(
            "the padding's loss is set to zero, but it still counts in the mean: divide by the number of real tokens",
            lambda loss, mask: (loss * mask).mean().exp(),
        ),
        Misconception(
            "you took the mean of each sequence first: then a word in a short caption weighs more than one in a long "
            "caption, and the number depends on how the text is cut up",
            lambda loss, mask: (_masked_sum(loss, mask) / mask.sum(dim=1)).mean().exp(),
        ),
        Misconception(
            "you took exp first and the mean afterwards: a few hard words then rule the number (the mean belongs to "
            "the logarithms)",
            lambda loss, mask: loss[mask].exp().mean(),
        ),
        Misconception(
            "that is e to the loss of a whole *sequence*: perplexity is counted for each token",
            lambda loss, mask: _masked_sum(loss, mask).mean().exp(),
        ),
        Misconception(
            "that is the mean loss in nats; perplexity is e to that power",
            lambda loss, mask: loss[mask].mean(),
        ),
        Misconception(
            "you raised 2 to the loss, but the loss is in nats (natural logarithms): the base is e",
            lambda loss, mask: 2 ** loss[mask].mean(),
        ),
        Misconception(
            "you took the perplexity of each sequence and averaged those: one hard short caption rules the number. "
            "There is one mean, over all tokens of the batch",
            lambda loss, mask: (_masked_sum(loss, mask) / mask.sum(dim=1)).exp().mean(),
        ),
        Misconception(
            "you divide by the number of real tokens, but the padding's loss is still in the sum",
            lambda loss, mask: (loss.sum() / mask.sum()).exp(),
        ),
        Misconception(
            "that is e to the sum of all losses: perplexity is counted for each token",
            lambda loss, mask: _masked_sum(loss, mask).sum().exp(),
        ),
        Misconception(
            "the sign is turned round: the loss is −ln p already, and a perplexity is at least 1",
            lambda loss, mask: loss[mask].mean().neg().exp(),
        ),
        Misconception(
            "you left out the first token of each sequence: each entry of loss belongs to a token, the first too",
            lambda loss, mask: loss[:, 1:][mask[:, 1:]].mean().exp(),
        ),
    ],
    hints=[
        "Perplexity is e to the mean loss of a token. Which tokens count?",
        "One mean over all real tokens of the batch, whatever sequence they stand in.",
        "loss[mask] is a vector with the loss of every real token.",
    ],
)

EXERCISES = [LATCH, CONVENTION, FORGET_BIAS, BOTH_DIRECTIONS, PERPLEXITY]
