"""Recurrence: read a sequence one step at a time and carry a state along (Elman 1990; Hochreiter and Schmidhuber 1997).

Dimensions: B batch, T steps, D features of the input, H features of the state. A mask (B, T) is True where a step is
real; a step that is not leaves the state as it was and outputs zeros. Chapter 05 builds everything here by hand.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mmlearn.errors import ShapeError
from mmlearn.nn.transformer import check_tokens, check_whole

State = Tensor | tuple[Tensor, Tensor]  # h, or of an LSTM (h, c)


class Cell(nn.Module):
    """What the three cells share: one matrix reads the input and one the state, each for all gates at once.

    `cell(x, state)` takes x (B, d_in) and the state (B, d_hidden), an LSTM's (h, c), and returns the next state.
    Raises ShapeError for a size below 1.
    """

    n_gates, n_states = 1, 1

    def __init__(self, d_in: int, d_hidden: int):
        super().__init__()
        _check_sizes(d_in=d_in, d_hidden=d_hidden)
        self.d_in, self.d_hidden = d_in, d_hidden
        self.from_input = nn.Linear(d_in, self.n_gates * d_hidden)
        self.from_state = nn.Linear(d_hidden, self.n_gates * d_hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(d_hidden), 1 / math.sqrt(d_hidden))

    def forward(self, x: Float[Tensor, "B D"], state: State) -> State:
        """The state after one step. Raises ShapeError when a size does not fit."""
        states = _as_tuple(state)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ShapeError(f"x has shape {tuple(x.shape)}, expected (batch, {self.d_in})")
        _check_state(states, self.n_states, (x.shape[0], self.d_hidden))
        return _as_state(self.update(self.from_input(x), states))

    def update(self, read: Float[Tensor, "B G"], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The next states, where `read` is what `from_input` made of the input."""
        raise NotImplementedError


class RNNCell(Cell):
    """h' = tanh(W x + U h + b): the plain recurrence (Elman, "Finding Structure in Time", 1990)."""

    def update(self, read: Float[Tensor, "B G"], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(read + self.from_state(states[0])),)


class LSTMCell(Cell):
    """A cell c to which is added, and gates that say what enters, what stays and what is shown.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; with the forget gate of Gers, Schmidhuber and Cummins
    (2000). The gates are stacked in PyTorch's order: input, forget, candidate, output.
    """

    n_gates, n_states = 4, 2

    def update(self, read: Float[Tensor, "B G"], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = states
        enter, keep, new, show = (read + self.from_state(h)).chunk(4, dim=1)
        c = keep.sigmoid() * c + enter.sigmoid() * new.tanh()
        return show.sigmoid() * c.tanh(), c


class GRUCell(Cell):
    """Two gates and no separate cell: the state is a mixture of the old one and a candidate.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, in the form of PyTorch and cuDNN:
    the reset gate multiplies U h after the matrix product, not h before it. Order: reset, keep, candidate.
    """

    n_gates = 3

    def update(self, read: Float[Tensor, "B G"], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = states
        reset_x, keep_x, new_x = read.chunk(3, dim=1)
        reset_h, keep_h, new_h = self.from_state(h).chunk(3, dim=1)
        keep = (keep_x + keep_h).sigmoid()
        new = torch.tanh(new_x + (reset_x + reset_h).sigmoid() * new_h)
        return (keep * h + (1 - keep) * new,)


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}
KERNELS = {"rnn": torch.rnn_tanh, "lstm": torch.lstm, "gru": torch.gru}


class Recurrent(nn.Module):
    """A stack of recurrent layers, in one direction or both; equal to `nn.RNN`, `nn.LSTM` or `nn.GRU`, batch first.

    Args:
        kind: "rnn", "lstm" or "gru".
        n_layers: each layer reads the outputs of the one below; with `bidirectional` a second cell reads from the end,
            and the outputs (B, T, 2 · d_hidden) of both stand side by side.
        dropout: share of a layer's outputs set to zero on the way to the next, in training.
        forget_bias: added at the start to the gates that keep, an LSTM's forget gates or a GRU's; the larger it is, the
            longer the untrained layer remembers (Gers et al. 2000). A plain RNN has no such gate.

    `recurrent.fused = False` takes the readable path, a loop over cells; the outputs are equal. Raises ShapeError for
    a size below 1, ValueError for an unknown kind or a dropout that is no share.
    """

    def __init__(
        self,
        kind: str,
        d_in: int,
        d_hidden: int,
        n_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        forget_bias: float = 0.0,
    ):
        super().__init__()
        if kind not in CELLS:
            raise ValueError(f"kind {kind!r} does not exist: choose one of {', '.join(CELLS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: give a share from 0 to below 1")
        _check_sizes(d_in=d_in, d_hidden=d_hidden, n_layers=n_layers)
        self.kind, self.d_in, self.d_hidden, self.n_layers = kind, d_in, d_hidden, n_layers
        self.bidirectional, self.dropout, self.fused = bidirectional, dropout, True
        directions = 1 + bidirectional
        widths = [d_in] + [directions * d_hidden] * (n_layers - 1)
        make = CELLS[kind]
        self.layers = nn.ModuleList(nn.ModuleList(make(width, d_hidden) for _ in range(directions)) for width in widths)
        if kind != "rnn":
            for cell in self.cells:  # in both kinds the gate that keeps is the second
                cell.from_input.bias.data[d_hidden : 2 * d_hidden] += forget_bias

    @property
    def cells(self) -> list[Cell]:
        """All cells in the order of the states: layer by layer, forward before backward."""
        return [cell for layer in self.layers for cell in layer]

    def initial_state(self, x: Tensor) -> State:
        """Zeros (n_layers · directions, B, d_hidden) for the batch x, for an LSTM (h, c)."""
        cells = self.cells
        zeros = x.new_zeros(len(cells), x.shape[0], self.d_hidden)
        return _as_state((zeros,) * cells[0].n_states)

    def forward(
        self, x: Float[Tensor, "B T D"], state: State | None = None, *, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Outputs of the last layer at each step, and the last states (n_layers · directions, B, d_hidden).

        state: where to go on from; zeros if None. mask: True = a real step. Steps that are not real change nothing:
        the state passes them unchanged (so the last state is the one after the last real step, and a sequence without
        a real step keeps the state it came with), the output there is zero, and no gradient comes from them.
        No steps at all, T = 0, give outputs (B, 0, H) and the state unchanged.
        Raises ShapeError when x, state or mask does not fit.
        """
        states = _as_tuple(self.initial_state(x) if state is None else state)
        self._check_inputs(x, states, mask)
        path = self._fused if self.fused and x.numel() and padded_at_the_end(mask) else self._step_by_step
        output, states = path(x, states, mask)
        return output, _as_state(states)

    def _step_by_step(self, x, states, mask):
        """The readable path: layer by layer, direction by direction, step by step."""
        last = []
        for number, layer in enumerate(self.layers):
            if number and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for backward, cell in enumerate(layer):
                own = tuple(s[len(last)] for s in states)
                output, own = _scan(cell, x, own, mask, backward=bool(backward))
                outputs.append(output)
                last.append(own)
            x = torch.cat(outputs, dim=-1)
        return x, tuple(torch.stack(s) for s in zip(*last, strict=True))

    def _fused(self, x, states, mask):
        """PyTorch's kernel with the same weights; padded sequences go in packed, without their padding."""
        weights = [w for cell in self.cells for w in _flat(cell)]
        options = (weights, True, self.n_layers, self.dropout, self.training, self.bidirectional)
        kernel = KERNELS[self.kind]
        if mask is None:
            output, *new = kernel(x, states if self.kind == "lstm" else states[0], *options, True)
            return output, tuple(new)
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(x, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        first = tuple(s.index_select(1, packed.sorted_indices) for s in states)
        values, *new = kernel(packed.data, packed.batch_sizes, first if self.kind == "lstm" else first[0], *options)
        packed = PackedSequence(values, *packed[1:])
        output, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        empty = ~mask.any(dim=1)[:, None]  # the kernel wants at least one step: undo it where there is none
        new = (s.index_select(1, packed.unsorted_indices) for s in new)
        return output.masked_fill(empty[:, None], 0.0), tuple(
            torch.where(empty, before, after) for before, after in zip(states, new, strict=True)
        )

    def _check_inputs(self, x: Tensor, states: tuple[Tensor, ...], mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.d_in:
            raise ShapeError(
                f"x has shape {tuple(x.shape)}, expected (batch, length, {self.d_in}): the batch comes first"
            )
        _check_state(states, self.cells[0].n_states, (len(self.cells), x.shape[0], self.d_hidden))
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ShapeError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}, expected torch.bool of shape "
                f"(batch, length) = {tuple(x.shape[:2])} with True = a real step"
            )


def _scan(cell: Cell, x, states, mask, backward: bool):
    """One cell over all steps, from the end if `backward`; outputs (B, T, H) and the last states."""
    if mask is not None:
        x = x.masked_fill(~mask[..., None], 0.0)
    # the input's share of all steps at once: only the state's has to wait. unbind: the gradient of read[:, t] would
    # be as large as read, at every step
    read = cell.from_input(x).unbind(dim=1)
    steps = range(len(read))
    outputs = []
    for t in reversed(steps) if backward else steps:
        new = cell.update(read[t], states)
        shown = new[0]
        if mask is not None:
            keep = mask[:, t, None]
            new = tuple(torch.where(keep, after, before) for after, before in zip(new, states, strict=True))
            shown = shown * keep
        states = new
        outputs.append(shown)
    if not outputs:
        return x.new_zeros(x.shape[0], 0, cell.d_hidden), states
    return torch.stack(outputs[::-1] if backward else outputs, dim=1), states


def _flat(cell: Cell) -> tuple[Tensor, ...]:
    """A cell's weights in the order of PyTorch's kernels."""
    return cell.from_input.weight, cell.from_state.weight, cell.from_input.bias, cell.from_state.bias


def padded_at_the_end(mask: Tensor | None) -> bool:
    """Whether no real step follows one that is not: only such padding can be packed."""
    return mask is None or not bool((mask[:, 1:] & ~mask[:, :-1]).any())


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ShapeError(f"{name}={size}: give 1 or more")


def _as_tuple(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def _as_state(states: tuple[Tensor, ...]) -> State:
    return states if len(states) > 1 else states[0]


def _check_state(states: tuple[Tensor, ...], n_states: int, shape: tuple[int, ...]) -> None:
    names = ("h", "c")[:n_states]
    if len(states) != n_states:
        wanted = "(h, c), two tensors" if n_states == 2 else "one tensor h"
        raise ShapeError(f"the state is {len(states)} tensor{'s' * (len(states) > 1)}, expected {wanted}")
    for name, tensor in zip(names, states, strict=True):
        if tensor.shape != shape:
            raise ShapeError(f"the state {name} has shape {tuple(tensor.shape)}, expected {shape}")


def from_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `nn.RNN`, `nn.LSTM`, `nn.GRU` or one of their cells under the names used here.

    Also a map for `mm.matches`. `weight_ih_l1_reverse` becomes `layers.1.1.from_input.weight`. Raises ShapeError for
    a name of anything else.
    """
    return {_own_name(name): value for name, value in state.items()}


def _own_name(name: str) -> str:
    found = re.fullmatch(r"(weight|bias)_(ih|hh)(?:_l(\d+)(_reverse)?)?", name)
    if not found:
        raise ShapeError(f"{name!r} is not a weight of nn.RNN, nn.LSTM or nn.GRU with biases and without projections")
    kind, what, layer, reverse = found.groups()
    own = f"{'from_input' if what == 'ih' else 'from_state'}.{kind}"
    return own if layer is None else f"layers.{layer}.{int(bool(reverse))}.{own}"


def to_torch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back: a state dict of `Recurrent`, or of a cell, under PyTorch's names. Raises ShapeError for others."""
    return {_torch_name(name): value for name, value in state.items()}


def _torch_name(name: str) -> str:
    found = re.fullmatch(r"(?:layers\.(\d+)\.([01])\.)?from_(input|state)\.(weight|bias)", name)
    if not found:
        raise ShapeError(f"{name!r} is not a weight of Recurrent or of a cell: of a larger model pass its part only")
    layer, reverse, what, kind = found.groups()
    ending = "" if layer is None else f"_l{layer}{'_reverse' * int(reverse)}"
    return f"{kind}_{'ih' if what == 'input' else 'hh'}{ending}"


@dataclass(frozen=True)
class RecurrentLMConfig:
    """Sizes of a recurrent language model. `d_model`: width of the word vectors, `d_hidden`: of the state.

    Raises ShapeError for a size below 1.
    """

    vocab_size: int
    d_model: int = 128
    d_hidden: int = 256
    n_layers: int = 1
    kind: str = "lstm"
    dropout: float = 0.0
    forget_bias: float = 1.0

    def __post_init__(self):
        _check_sizes(vocab_size=self.vocab_size, d_model=self.d_model, d_hidden=self.d_hidden, n_layers=self.n_layers)


class RecurrentLM(nn.Module):
    """A language model that reads one token at a time: the logits after each token are those of the next.

    Source: Mikolov et al., "Recurrent neural network based language model", Interspeech 2010.
    """

    def __init__(self, config: RecurrentLMConfig):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        self.recurrent = Recurrent(
            config.kind,
            config.d_model,
            config.d_hidden,
            config.n_layers,
            dropout=config.dropout,
            forget_bias=config.forget_bias,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.read = nn.Linear(config.d_hidden, config.vocab_size)

    def forward(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T V"]:
        """Logits of the token that follows each token. No mask is needed: what comes later changes nothing before."""
        return self.step(tokens, state)[0]

    def step(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> tuple[Float[Tensor, "B T V"], State]:
        """Logits, and the state after the last token: pass it on with the tokens that follow.

        The state's second dimension is the batch, as in `Recurrent`. Raises ShapeError for tokens of another shape
        or kind, DataError for one out of range, as `CausalLM` does.
        """
        check_whole(tokens)
        check_tokens(tokens, self.config.vocab_size)
        x, state = self.recurrent(self.dropout(self.words(tokens)), state)
        return self.read(self.dropout(x)), state

    def select_rows(self, state: State, rows: Int[Tensor, " N"]) -> State:
        """The state of these rows of the batch, as often as they are named: beam search copies and drops sequences.

        Raises ShapeError for rows that the batch does not have.
        """
        states = _as_tuple(state)
        size = states[0].shape[1]
        if rows.numel() and (rows.min() < 0 or rows.max() >= size):
            raise ShapeError(f"rows {rows.tolist()} of a batch of {size}: they are counted from 0 to {size - 1}")
        return _as_state(tuple(s.index_select(1, rows) for s in states))
