"""Questions with one right answer, so balanced that the question alone says nothing about it.

Balance comes from symmetry: colours and shapes play equal parts in the world, and where an answer can be chosen ("yes"
or "no", how many) it is chosen first, with equal chances, and then asked for in a way that does not betray it.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from mmlearn.errors import DataError
from mmlearn.scenes import sampling
from mmlearn.scenes.sampling import Scenes, choose, pick, true_relations, uniform
from mmlearn.scenes.vocabulary import COLOURS, OPPOSITE, PLACES, SHAPES, article, place_phrase, plural

QUESTION_TYPES = ("colour", "shape", "count", "position", "existence", "relation", "comparison")
PAIR_TYPES = ("relation", "comparison")  # those that need two objects
ASKED = ("to the left of", "to the right of", "above", "below")


@dataclass(frozen=True)
class Question:
    """A question about one picture: `image_index` is its scene's index in the split, `type` one of QUESTION_TYPES."""

    image_index: int
    question: str
    answer: str
    type: str


def answers(level: str, type: str) -> tuple[str, ...]:
    """The possible answers to a type of question, all equally frequent; none where the level does not ask it."""
    if type not in QUESTION_TYPES:
        raise DataError(f"question type {type!r} does not exist: choose one of {', '.join(QUESTION_TYPES)}")
    if level == "easy" and type in PAIR_TYPES:
        return ()
    counts = ("0", "1") if level == "easy" else ("0", "1", "2")
    return {"colour": COLOURS, "shape": SHAPES, "count": counts, "position": PLACES}.get(type, ("yes", "no"))


def questions(scenes: Scenes, indices: list[int], level: str, type: str | None) -> list[Question]:
    """One question for each scene, in order; see `World.questions`."""
    kinds = QUESTION_TYPES if type is None else (type,)
    if type is None:
        u = uniform(scenes.key, sampling.QUESTION, 2)
        chosen = pick(u[:, 0], torch.where(scenes.n_objects > 1, len(kinds), len(kinds) - len(PAIR_TYPES)))
        again = (chosen == kinds.index("comparison")) & ~_comparable(scenes)
        chosen = torch.where(again, pick(u[:, 1], len(kinds) - len(PAIR_TYPES)), chosen)
    else:
        answers(level, type)
        chosen = torch.zeros(len(scenes), dtype=torch.long)
        if type in PAIR_TYPES:
            possible = scenes.n_objects > 1 if type == "relation" else _comparable(scenes)
            chosen = torch.where(possible, chosen, -1)
    out: list[tuple[int, Question]] = []
    for number, kind in enumerate(kinds):
        rows = (chosen == number).nonzero()[:, 0]
        asked = ASK[kind](scenes[rows], level) if len(rows) else []
        out += [(r, Question(indices[r], q, a, kind)) for r, (q, a) in zip(rows.tolist(), asked, strict=True)]
    return [question for _, question in sorted(out, key=lambda pair: pair[0])]


def _present(scenes: Scenes) -> Tensor:
    return scenes.shape >= 0


def _alone(attribute: Int[Tensor, "B 4"]) -> Tensor:
    """Bool (B, 4): whether no other object shares this attribute."""
    same = (attribute[:, :, None] == attribute[:, None, :]).sum(2) == 1
    return same & (attribute >= 0)


def _at(attribute: Int[Tensor, "B 4"], slot: Int[Tensor, " B"]) -> list[int]:
    return attribute.gather(1, slot[:, None])[:, 0].tolist()


def _attribute(wanted: str, named: str):
    """Asks the colour of the only star (the shape of the only red one), or of what lies at a place if none is alone."""

    def ask(scenes: Scenes, level: str):
        u = uniform(scenes.key, sampling.QUESTION + 2, 2)
        asked, known = getattr(scenes, wanted), getattr(scenes, named)
        alone = _alone(known)
        by_name = alone.any(1)
        slot = choose(torch.where(by_name[:, None], alone, _present(scenes)), u[:, 0])
        for by, a, k, c in zip(by_name.tolist(), *(_at(t, slot) for t in (asked, known, scenes.cell)), strict=True):
            if wanted == "colour":
                thing = f"the {SHAPES[k]}" if by else f"the shape {place_phrase(PLACES[c])}"
                yield f"what colour is {thing}?", COLOURS[a]
            else:
                thing = f"the {COLOURS[k]} one" if by else f"the one {place_phrase(PLACES[c])}"
                yield f"what shape is {thing}?", SHAPES[a]

    return ask


def _position(scenes: Scenes, level: str):
    slot = choose(_present(scenes), uniform(scenes.key, sampling.QUESTION + 4)[:, 0])
    for c, s, p in zip(*(_at(t, slot) for t in (scenes.colour, scenes.shape, scenes.cell)), strict=True):
        yield f"where is the {COLOURS[c]} {SHAPES[s]}?", PLACES[p]


def _existence(scenes: Scenes, level: str):
    """For "no", a pair that the scene lacks, of a colour or a shape that it has where the split allows one."""
    u = uniform(scenes.key, sampling.QUESTION + 5, 4)
    slot = choose(_present(scenes), u[:, 1])
    here = torch.zeros(len(scenes), 11, 11, dtype=torch.bool)  # the last row and column take absent objects
    here[torch.arange(len(scenes))[:, None], scenes.colour, scenes.shape] = True
    here = here[:, :10, :10]
    held_out = scenes.colour[:, :1, None] == scenes.shape[:, :1, None]
    absent = ~here & (torch.eye(10, dtype=torch.bool) == held_out)
    near = absent & (here.any(1, keepdim=True) | here.any(2, keepdim=True))
    wrong = choose(torch.where(near.flatten(1).any(1)[:, None], near.flatten(1), absent.flatten(1)), u[:, 2])
    right = torch.tensor(_at(scenes.colour, slot)) * 10 + torch.tensor(_at(scenes.shape, slot))
    for yes, pair in zip((u[:, 0] < 0.5).tolist(), torch.where(u[:, 0] < 0.5, right, wrong).tolist(), strict=True):
        colour, shape = COLOURS[pair // 10], SHAPES[pair % 10]
        yield f"is there {article(colour)} {colour} {shape}?", "yes" if yes else "no"


def _tally(scenes: Scenes) -> Int[Tensor, "B 20"]:
    """How many objects have each colour, then each shape."""
    counts = torch.zeros(len(scenes), 20, dtype=torch.long)
    there = _present(scenes).long()
    counts.scatter_add_(1, scenes.colour.clamp(min=0), there)
    return counts.scatter_add_(1, scenes.shape.clamp(min=0) + 10, there)


@lru_cache
def _count_chances(level: str) -> tuple[float, float]:
    """With which chance to ask for 2 where a 2 is there, and else for 1, so that 0, 1 and 2 are equally frequent.

    Exact, from the probability of every tuple of objects.
    """
    only_two = two = 0.0
    for m, p_m in enumerate(sampling.count_weights(level), start=1):
        if m > 1 and p_m:
            colour, shape = sampling.all_tuples(m)
            p = 90 * p_m * sampling.tuple_probability(colour, shape)
            tally = torch.zeros(len(p), 20, dtype=torch.int8)
            tally = tally.scatter_add_(
                1, torch.cat([colour, shape + 10], 1), torch.ones(len(p), 2 * m, dtype=torch.int8)
            )
            has_two = (tally == 2).any(1)
            two += float(p[has_two].sum())
            only_two += float(p[has_two & ~(tally == 1).any(1)].sum())
    if two == 0:
        return 0.0, 0.5
    p_two = 1 / 3 / two
    return p_two, 1 / 3 / (2 / 3 - only_two * (1 - p_two))


def _count(scenes: Scenes, level: str):
    u = uniform(scenes.key, sampling.QUESTION + 9, 4)
    tally = _tally(scenes)
    p_two, p_one = _count_chances(level)
    has_one, has_two = (tally == 1).any(1), (tally == 2).any(1)
    p_one = torch.where((scenes.colour == scenes.shape)[:, 0], 0.5, p_one)  # held-out scenes never hold two alike
    number = torch.where(has_two & (u[:, 0] < p_two), 2, (has_one & (u[:, 1] < p_one)).long())
    which = choose(tally == number[:, None], u[:, 2])
    for w, k in zip(which.tolist(), number.tolist(), strict=True):
        things = f"{COLOURS[w]} shapes" if w < 10 else plural(SHAPES[w - 10])
        yield f"how many {things} are there?", str(k)


def _two(scenes: Scenes, u: Tensor) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    order = sampling.distinct(u, scenes.n_objects)
    return order[:, 0], order[:, 1]


def _things(scenes: Scenes, slot: Int[Tensor, " B"]) -> list[str]:
    """ "the star" where there is one star, else "the red star"."""
    alone = _at(_alone(scenes.shape).long(), slot)
    named = zip(alone, _at(scenes.colour, slot), _at(scenes.shape, slot), strict=True)
    return [f"the {SHAPES[s]}" if a else f"the {COLOURS[c]} {SHAPES[s]}" for a, c, s in named]


def _relation(scenes: Scenes, level: str):
    u = uniform(scenes.key, sampling.QUESTION + 13, 4)
    a, b = _two(scenes, u[:, :2])
    cells = (scenes.cell.gather(1, s[:, None])[:, 0] for s in (a, b))
    relation, yes = choose(true_relations(*cells), u[:, 2]), (u[:, 3] < 0.5).tolist()
    for x, y, r, true in zip(_things(scenes, a), _things(scenes, b), relation.tolist(), yes, strict=True):
        yield f"is {x} {ASKED[r if true else OPPOSITE[r]]} {y}?", "yes" if true else "no"


def _compared(scenes: Scenes):
    u = uniform(scenes.key, sampling.QUESTION + 17, 3)
    a, b = _two(scenes, u[:, :2])
    size = scenes.size.gather(1, torch.stack([a, b], 1))
    return a, b, size, u[:, 2] < 1 / 3


def _comparable(scenes: Scenes) -> Tensor:
    """Where the question fits: a third of the pairs of one size is left out; a third of others asks for "bigger"."""
    _, _, size, bigger = _compared(scenes)
    return (scenes.n_objects > 1) & ~(bigger & (size[:, 0] == size[:, 1]))


def _comparison(scenes: Scenes, level: str):
    a, b, size, bigger = _compared(scenes)
    rows = zip(_things(scenes, a), _things(scenes, b), size.tolist(), bigger.tolist(), strict=True)
    for x, y, (size_x, size_y), ask_bigger in rows:
        if ask_bigger:
            yield f"is {x} bigger than {y}?", "yes" if size_x > size_y else "no"
        else:
            yield f"are {x} and {y} the same size?", "yes" if size_x == size_y else "no"


ASK = {
    "colour": _attribute("colour", "shape"),
    "shape": _attribute("shape", "colour"),
    "count": _count,
    "position": _position,
    "existence": _existence,
    "relation": _relation,
    "comparison": _comparison,
}
