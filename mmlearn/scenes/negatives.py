"""Hard negatives: captions that are almost right. A model that reads a caption as a bag of words cannot tell a swap."""

import random
from collections import Counter
from collections.abc import Iterator

from mmlearn.errors import DataError
from mmlearn.scenes import sampling
from mmlearn.scenes.language import (
    ATTRIBUTES,
    N_TEMPLATES,
    Facts,
    Grammar,
    Pattern,
    captions,
    facts_of_each,
    said_by,
    score,
    slot_probability,
)
from mmlearn.scenes.sampling import Scenes

Values = dict[str, int]


def _replaced(pattern: Pattern, values: Values) -> Iterator[Values]:
    """One slot says something else."""
    for slot in pattern.slots:
        for value in range(len(slot.choices)):
            if value != values[slot.name]:
                yield values | {slot.name: value}


def _swapped(pattern: Pattern, values: Values) -> Iterator[Values]:
    """Two mentions exchange one attribute, or all but their places."""
    groups = [(kind,) for kind in ATTRIBUTES] + [ATTRIBUTES[:4]]
    for a in range(pattern.mentions):
        for b in range(a + 1, pattern.mentions):
            for group in groups:
                pairs = [(f"{kind}{a}", f"{kind}{b}") for kind in group if f"{kind}{a}" in values]
                if all(there in values for _, there in pairs):
                    new = {x: values[y] for here, there in pairs for x, y in ((here, there), (there, here))}
                    yield values | new


def _bag(sentence: str) -> Counter:
    return Counter(sentence.replace(",", " ").split())


def _negative(pattern: Pattern, values: Values, truth: Facts, kind: str, chance: random.Random) -> str | None:
    """A caption of the same pattern that is false, or None if there is none of this kind."""
    candidates = list((_swapped if kind == "swap" else _replaced)(pattern, values))
    chance.shuffle(candidates)
    before, said = slot_probability(pattern, values), _write(pattern, values)
    for new in candidates:
        after = slot_probability(pattern, new)
        likely = after == before if kind == "swap" else after > 0 or before == 0
        if not likely or score(said_by(pattern, new), truth).correct:
            continue
        written = _write(pattern, new)
        if kind == "replace" or _bag(written) == _bag(said):
            return written
    return None


def _write(pattern: Pattern, values: Values) -> str:
    return pattern.write(*[[values[e.name]] for e in pattern.slots])[0]


def negatives(grammar: Grammar, scenes: Scenes, kind: str) -> list[tuple[str, str] | None]:
    """A true caption and a false one for each scene; see `World.negatives`."""
    if kind not in ("replace", "swap"):
        raise DataError(f"negatives of kind {kind!r} do not exist: choose 'replace' or 'swap'")
    seeds = sampling.uniform(scenes.key, sampling.NEGATIVE + (kind == "swap"))[:, 0].tolist()
    out: list[tuple[str, str] | None] = []
    for seed, truth, sentences in zip(seeds, facts_of_each(scenes), captions(grammar, scenes), strict=True):
        chance = random.Random(seed)
        found = None
        for template in chance.sample(range(N_TEMPLATES), N_TEMPLATES):
            pattern, values = grammar.read(sentences[template])[0]
            if wrong := _negative(pattern, values, truth, kind, chance):
                found = (sentences[template], wrong)
                break
        out.append(found)
    return out
