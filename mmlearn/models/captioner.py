"""Captions from pictures: Show and Tell (CVPR 2015) and Show, Attend and Tell (ICML 2015).

Both are a picture encoder and a recurrent language model. Show and Tell looks at the picture once, before the first
word; Show, Attend and Tell looks back before every word, at the places of a grid that matter now. Chapter 07 builds
both by hand.

Dimensions: B pictures, N captions a picture, T words, V vocabulary, S places of the grid, D features of a place,
H features of the state, A of a comparison. Captions are rows of tokens, <start> … <end> and then padding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlearn.errors import ShapeError
from mmlearn.nn.generate import select_rows
from mmlearn.nn.rnn import CELLS, Recurrent

State = dict[str, Tensor]  # everything the next word needs, the batch first


@dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of a captioner.

    d_model: width of the word vectors; d_hidden: of the recurrent state; d_attention: in which state and places are
    compared (Show, Attend and Tell only); kind: "lstm", "gru" or "rnn"; dropout: on word vectors and before the logits;
    forget_bias: added at the start to the gates that keep.

    Of Show and Tell only: repeat, the picture's vector is also added to every word that is read.

    Of Show, Attend and Tell only: gate, multiply what is seen by a learned share in (0, 1) (Xu et al. 2015, section
    4.2.1); look, "before" the last word is read, as in the paper, or "after", so that the word can steer the look (Lu
    et al., "Knowing When to Look", CVPR 2017, section 2.2); coordinates, each place also tells its row and column.
    """

    vocab_size: int
    d_model: int = 128
    d_hidden: int = 256
    d_attention: int = 128
    kind: str = "lstm"
    dropout: float = 0.0
    forget_bias: float = 1.0
    repeat: bool = False
    gate: bool = False
    look: str = "before"
    coordinates: bool = False

    def __post_init__(self):
        if self.kind not in CELLS:
            raise ValueError(f"kind {self.kind!r} does not exist: choose one of {', '.join(CELLS)}")
        if self.look not in ("before", "after"):
            raise ValueError(f"look {self.look!r} does not exist: choose before or after")


class Captioner(nn.Module):
    """What both models share: words, the way in for pictures, and decoding one word or a whole caption at a time.

    A model adds `read`, the last linear layer, `begin(grid) -> state`, and `read_words(tokens, state) -> (x, state,
    weights)`; the logits are `read(x)`. `mm.nn.generate(model, starts, state=model.start(images))` writes captions in
    every strategy.

    Args:
        encoder: offers `d_model` and `grid(images) -> (B, d_model, P, Q)`, say `image_encoder("convnet")`.
        words: word vectors (V, d_model) to begin with, say the matrix of `WordVectors.matrix_for(tokenizer)`.
    """

    def __init__(self, config: CaptionerConfig, encoder: nn.Module, words: Float[Tensor, "V D"] | None = None):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        if words is not None:
            self._take(words)
        self.dropout = nn.Dropout(config.dropout)

    def begin(self, grid: Float[Tensor, "B D P Q"]) -> State:
        """The state before the first word, from the encoder's grid."""
        raise NotImplementedError

    def read_words(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Tensor, State, Tensor | None]:
        """What `read` gets after each token (B, T, R), the state after the last, and where was looked (B, T, S)."""
        raise NotImplementedError

    def start(self, images: Float[Tensor, "B 3 H W"]) -> State:
        """The state before the first word, from pictures as `data.normalise` gives them."""
        return self.begin(self.encoder.grid(images))

    def step(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Float[Tensor, "B T V"], State]:
        """Logits of the token after each of these, and the state after the last: what `mm.nn.generate` calls.

        Raises ShapeError for tokens out of range, and without a state: a captioner begins with a picture.
        """
        self._check(tokens, state)
        x, state, _ = self.read_words(tokens, state)
        return self.read(self.dropout(x)), state

    def forward(
        self, images: Float[Tensor, "B 3 H W"], tokens: Int[Tensor, "B *N T"], return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the token that follows each token, all true ones given (teacher forcing).

        Several captions of each picture, tokens (B, N, T), give (B, N, T, V), and the picture is encoded once.
        return_weights: also return where the model looked before each word, (B, [N,] T, S), rows adding up to 1
        (None without attention).
        """
        x, weights = self.hidden(images, tokens)
        logits = self.read(self.dropout(x))
        return (logits, weights) if return_weights else logits

    def hidden(self, images: Float[Tensor, "B 3 H W"], tokens: Int[Tensor, "B *N T"]) -> tuple[Tensor, Tensor | None]:
        """`forward` before the last linear layer: x (B, [N,] T, R), of which a loss may read real words only."""
        state = self.start(images)
        captions = tokens.flatten(0, -2)
        if len(tokens) != len(images):
            raise ShapeError(
                f"{len(tokens)} captions and {len(images)} pictures: give (B, T), or (B, N, T) for several"
            )
        if len(captions) != len(images):
            rows = torch.arange(len(images), device=tokens.device)
            state = select_rows(state, rows.repeat_interleave(len(captions) // len(images)))
        self._check(captions, state)
        x, _, weights = self.read_words(captions, state)
        lead = tokens.shape[:-1]
        return x.unflatten(0, lead), None if weights is None else weights.unflatten(0, lead)

    def _take(self, words: Tensor) -> None:
        if words.shape != self.words.weight.shape:
            wanted = tuple(self.words.weight.shape)
            raise ShapeError(f"the word vectors are {tuple(words.shape)}, expected (vocab_size, d_model) = {wanted}")
        with torch.no_grad():
            self.words.weight.copy_(words)

    def _check(self, tokens: Tensor, state: State | None) -> None:
        if state is None:
            raise ShapeError("a captioner begins with a picture: pass state=model.start(images)")
        if tokens.ndim != 2 or len(tokens) != len(state["h"]):
            raise ShapeError(f"tokens have the shape {tuple(tokens.shape)}, expected ({len(state['h'])}, length)")
        bad = (tokens < 0) | (tokens >= self.config.vocab_size)
        if bad.any():
            raise ShapeError(
                f"token {int(tokens[bad][0])} is out of range: the model knows 0 to {self.config.vocab_size - 1}; "
                "use the tokenizer it was made for"
            )


class ShowAndTell(Captioner):
    """The picture is the first word: one vector of it is read before <start>, and never again (Vinyals et al. 2015).

    Equations (10) to (12): x₋₁ = CNN(picture), x_t = W_e S_t, p_{t+1} = LSTM(x_t). With `repeat` x_t = W_e S_t + x₋₁:
    nothing of the picture need be remembered.
    """

    def __init__(self, config: CaptionerConfig, encoder: nn.Module, words: Float[Tensor, "V D"] | None = None):
        super().__init__(config, encoder, words)
        self.see = nn.Linear(encoder.d_model, config.d_model)
        self.recurrent = Recurrent(config.kind, config.d_model, config.d_hidden, forget_bias=config.forget_bias)
        self.read = nn.Linear(config.d_hidden, config.vocab_size)

    def begin(self, grid: Float[Tensor, "B D P Q"]) -> State:
        picture = self.see(grid.mean(dim=(2, 3)))
        state = _named(self.recurrent(picture[:, None])[1])
        return state | {"picture": picture} if self.config.repeat else state

    def read_words(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Tensor, State, None]:
        words = self.dropout(self.words(tokens))
        if self.config.repeat:
            words = words + state["picture"][:, None]
        x, new = self.recurrent(words, _unnamed(state))
        return x, state | _named(new), None


def _named(state) -> State:
    """A state of `Recurrent` (1, B, H) as a dictionary with the batch first."""
    return {name: s[0] for name, s in zip("hc", state if isinstance(state, tuple) else (state,), strict=False)}


def _unnamed(state: State):
    states = tuple(state[name][None] for name in "hc" if name in state)
    return states if len(states) > 1 else states[0]


class ShowAttendTell(Captioner):
    """Before every word the state asks, and the places of the grid answer (Xu et al. 2015, soft attention).

    Equations: (4, 5) e = v · tanh(W place + U h), a = softmax e; (13) z = Σ a place; the LSTM reads the word and z;
    (7) the logits read word, state and z. The state begins as a function of the mean place.
    """

    def __init__(self, config: CaptionerConfig, encoder: nn.Module, words: Float[Tensor, "V D"] | None = None):
        super().__init__(config, encoder, words)
        d_place = encoder.d_model + 4 * config.coordinates
        self.cell = CELLS[config.kind](config.d_model + d_place, config.d_hidden)
        if config.kind != "rnn":
            self.cell.from_input.bias.data[config.d_hidden : 2 * config.d_hidden] += config.forget_bias
        self.begins = nn.Linear(d_place, self.cell.n_states * config.d_hidden)
        self.key = nn.Linear(d_place, config.d_attention)
        self.query = nn.Linear(config.d_hidden, config.d_attention, bias=False)
        self.score = nn.Linear(config.d_attention, 1, bias=False)
        self.gate = nn.Linear(config.d_hidden, 1) if config.gate else None
        self.show = nn.Linear(config.d_hidden + d_place, config.d_model)
        self.read = nn.Linear(config.d_model, config.vocab_size)

    def begin(self, grid: Float[Tensor, "B D P Q"]) -> State:
        if self.config.coordinates:
            grid = torch.cat([grid, coordinates(grid)], dim=1)
        places = grid.flatten(2).transpose(1, 2).contiguous()  # (B, S, D)
        seen = places.mean(dim=1)
        states = torch.tanh(self.begins(seen)).chunk(self.cell.n_states, dim=1)
        return dict(zip("hc", states, strict=False)) | {"places": places, "keys": self.key(places), "seen": seen}

    def look(self, state: State) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B S"]]:
        """What is seen from this state, and the weights of the places, which add up to 1."""
        asked = torch.tanh(state["keys"] + self.query(state["h"])[:, None])  # (B, S, A)
        weights = self.score(asked).squeeze(2).softmax(dim=1)
        seen = torch.bmm(weights[:, None], state["places"]).squeeze(1)
        if self.gate is not None:
            seen = self.gate(state["h"]).sigmoid() * seen
        return seen, weights

    def read_words(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Tensor, State, Tensor]:
        words = self.dropout(self.words(tokens))
        into = self.cell.from_input.weight.split([self.config.d_model, state["places"].shape[-1]], dim=1)
        read = F.linear(words, into[0], self.cell.from_input.bias)  # the words' share, for all steps at once
        state = dict(state)  # the caller's stays as it was
        names, outputs, looks, maps = "hc"[: self.cell.n_states], [], [], []
        for read_now in read.unbind(dim=1):  # the gradient of read[:, t] would be zeros as large as read, T times
            if self.config.look == "before":
                state["seen"], weights = self.look(state)
            new = self.cell.update(read_now + F.linear(state["seen"], into[1]), tuple(state[n] for n in names))
            state = state | dict(zip(names, new, strict=True))
            if self.config.look == "after":
                state["seen"], weights = self.look(state)
            outputs.append(new[0])
            looks.append(state["seen"])
            maps.append(weights)
        both = torch.cat([torch.stack(outputs, dim=1), torch.stack(looks, dim=1)], dim=2)
        return words + self.show(both), state, torch.stack(maps, dim=1)


def coordinates(grid: Float[Tensor, "B D P Q"]) -> Float[Tensor, "B 4 P Q"]:
    """Row, column and their squares of each place of the grid, from -1 at the top left to 1.

    As in Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution", NeurIPS 2018;
    the squares tell the middle from the border.
    """
    rows, columns = (torch.linspace(-1, 1, n, dtype=grid.dtype, device=grid.device) for n in grid.shape[2:])
    both = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([both, both.square()]).expand(len(grid), -1, -1, -1)


def attention_penalty(weights: Float[Tensor, "*B T S"], mask: Bool[Tensor, "*B T"]) -> Float[Tensor, ""]:
    """How unevenly the places were looked at over a caption: the mean of Σ_s (1 − Σ_t a_ts)², over real words.

    Xu et al. 2015, equation (14), "doubly stochastic attention": each word's weights add up to 1 over the places; this
    asks that each place's weights add up to 1 over the words, too.
    """
    looked = (weights * mask[..., None]).sum(dim=-2)
    return (1 - looked).square().sum(dim=-1).mean()
