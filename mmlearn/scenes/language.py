"""The language of the drawn world: captions from a grammar, a parser that reads them back, and exact probabilities.

A level has five templates, a template one or more patterns, a pattern words and slots: `{Acolour1}` is the colour of
the object mentioned first, with its article; `{place2}` the place of the second, with its preposition; `{rel}` a
relation of the first to the second. No sentence comes from two patterns of a level, so its probability is one product.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from mmlearn.errors import DataError
from mmlearn.scenes import sampling
from mmlearn.scenes.sampling import Scenes, uniform
from mmlearn.scenes.vocabulary import (
    COLOURS,
    FILLS,
    LEVELS,
    NUMBERS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    article,
    is_held_out,
    place_phrase,
)


class ParseError(DataError):
    """A text is not a sentence of the drawn world; the message names the word where it stops being one."""


# ---------------------------------------------------------------------------------------------------- the templates
THING = "{Acolour%d} {shape%d}"
LISTS = [" , ".join([THING % (i, i) for i in range(1, n)]) + " and " + THING % (n, n) for n in (2, 3, 4)]
LISTS = [THING % (1, 1), *LISTS]

EASY = (
    ("{Asize1} {colour1} {shape1}",),
    ("there is {Acolour1} {shape1} {place1}", "you can see {Acolour1} {shape1} {place1}"),
    ("{place1} there is {Asize1} {colour1} {shape1}", "{place1} is {Asize1} {colour1} {shape1}"),
    ("the {shape1} {place1} is {size1} and {colour1}", "the {size1} {shape1} {place1} is {colour1}"),
    ("a picture of {Acolour1} {shape1}", "a drawing of {Acolour1} {shape1}"),
)
MEDIUM = (
    (
        "{Acolour1} {shape1} and {Acolour2} {shape2}",
        "a picture of {Acolour1} {shape1} and {Acolour2} {shape2}",
    ),
    (
        "{Asize1} {colour1} {shape1} {rel} {Asize2} {colour2} {shape2}",
        "there is {Asize1} {colour1} {shape1} {rel} {Asize2} {colour2} {shape2}",
    ),
    ("{Asize1} {colour1} {shape1} {place1} and {Asize2} {colour2} {shape2} {place2}",),
    (
        "the {colour1} {shape1} is {longrel} the {colour2} {shape2}",
        "the {size1} {colour1} {shape1} is {longrel} the {size2} {colour2} {shape2}",
    ),
    (
        "{place1} there is {Acolour1} {shape1} and {place2} {Acolour2} {shape2}",
        "{place1} you can see {Acolour1} {shape1} and {place2} {Acolour2} {shape2}",
    ),
)


def _hard(n: int) -> tuple[tuple[str, ...], ...]:
    number = "is one shape" if n == 1 else f"are {NUMBERS[n]} shapes"
    counted = f"there {number} , {{Asize1}} {{colour1}} {{shape1}} {{place1}}"
    if n == 1:
        return (
            (LISTS[0], f"a picture of {LISTS[0]}"),
            ("{Afill1} {colour1} {shape1} {place1}", "there is {Afill1} {colour1} {shape1} {place1}"),
            ("{place1} there is {Asize1} {fill1} {colour1} {shape1}",),
            ("the {colour1} {shape1} is {size1} and {fill1}",),
            (counted,),
        )
    return (
        (LISTS[n - 1], f"a picture of {LISTS[n - 1]}"),
        (
            "{Afill1} {colour1} {shape1} {rel} {Afill2} {colour2} {shape2}",
            "there is {Afill1} {colour1} {shape1} {rel} {Afill2} {colour2} {shape2}",
        ),
        ("{Asize1} {fill1} {colour1} {shape1} {place1} and {Asize2} {fill2} {colour2} {shape2} {place2}",),
        (
            "the {colour1} {shape1} is {longrel} the {colour2} {shape2}",
            "the {size1} {colour1} {shape1} is {longrel} the {size2} {colour2} {shape2}",
        ),
        (counted.replace(" , ", " , one of them "),),
    )


def _readable() -> tuple[str, ...]:
    """More than the templates say, to read what models say: size and fill may be named or not."""

    def things(i):
        forms = [
            [k for k, named in zip(("size", "fill"), choice, strict=True) if named]
            for choice in itertools.product((False, True), repeat=2)
        ]
        return ["".join(f"{{{k}{i}}} " for k in form) + f"{{colour{i}}} {{shape{i}}}" for form in forms]

    a, b = ([thing.replace("{", "{A", 1) for thing in things(i)] for i in (1, 2))
    starts = ("", "there is ", "you can see ", "a picture of ", "a drawing of ")
    return (
        *(f"{start}{x}{end}" for start in starts for x in a for end in ("", " {place1}")),
        *(f"{{place1}} {verb} {x}" for verb in ("is", "there is", "you can see") for x in a),
        *(f"{start}{x} {link} {y}" for start in starts for x in a for y in b for link in ("{rel}", "and")),
        *(f"{x} {{place1}} and {y} {{place2}}" for x in a for y in b),
        *(f"the {x} is {{longrel}} the {y}" for x in things(1) for y in things(2)),
    )


TEMPLATES = {  # TEMPLATES[level][n - 1][template] are the patterns for a scene of n objects, all equally likely
    "easy": (EASY,),
    "medium": ((), MEDIUM),
    "hard": tuple(_hard(n) for n in (1, 2, 3, 4)),
}
N_TEMPLATES = 5


def _with_article(words):
    return tuple(f"{article(word)} {word}" for word in words)


SPOKEN = {  # what each kind of slot can say, in the order of the attribute's numbers
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "fill": FILLS,
    "place": tuple(place_phrase(place) for place in PLACES),
    "Acolour": _with_article(COLOURS),
    "Asize": _with_article(SIZES),
    "Afill": _with_article(FILLS),
    "rel": RELATIONS,
    "longrel": ("to the left of", "to the right of", "above", "below"),
}
ATTRIBUTES = ("size", "fill", "colour", "shape", "place")


@dataclass(frozen=True)
class Element:
    """One step of a pattern: a word, or a slot that says one attribute of one mention."""

    kind: str  # "word", "rel" or an attribute
    mention: int  # 0 for the object mentioned first
    choices: tuple[tuple[str, ...], ...]  # the words of each value

    @property
    def name(self) -> str:
        return f"{self.kind}{self.mention}"


def _element(token: str) -> Element:
    slot = re.fullmatch(r"\{(\w+?)(\d?)\}", token)
    if not slot:
        return Element("word", 0, ((token,),))
    kind = {"longrel": "rel"}.get(slot[1], slot[1].removeprefix("A"))
    return Element(kind, int(slot[2] or 1) - 1, tuple(tuple(words.split()) for words in SPOKEN[slot[1]]))


@dataclass(frozen=True)
class Pattern:
    """A sentence with slots; equal text is the same pattern."""

    text: str

    @cached_property
    def elements(self) -> tuple[Element, ...]:
        return tuple(_element(token) for token in self.text.split())

    @cached_property
    def slots(self) -> tuple[Element, ...]:
        return tuple(e for e in self.elements if e.kind != "word")

    @cached_property
    def kinds(self) -> Counter:
        return Counter(e.kind for e in self.slots)

    @cached_property
    def mentions(self) -> int:
        return 1 + max(e.mention for e in self.slots)

    @cached_property
    def count(self) -> int | None:
        """The number of objects that the sentence states, if it does."""
        said = re.search(r"(\w+) shapes?\b", self.text)
        return NUMBERS.index(said[1]) if said else None

    @cached_property
    def _format(self) -> str:
        return re.sub(r"\{\w+\}", "%s", self.text).replace(" ,", ",")

    def write(self, *columns: list[int]) -> list[str]:
        """Sentences from the values of each slot, a column for each slot in the order of `slots`."""
        said = [[" ".join(words) for words in e.choices] for e in self.slots]
        spoken = [[words[v] for v in column] for words, column in zip(said, columns, strict=True)]
        return [self._format % row for row in zip(*spoken, strict=True)]

    def spell(self, values: dict[str, int]) -> list[str]:
        """The words of the sentence with these values in its slots."""
        return [word for e in self.elements for word in e.choices[values.get(e.name, 0)]]


# --------------------------------------------------------------------------------------------------------- the parser
class _Node:
    """A branch of the tree of all patterns: beginnings that patterns share are read once."""

    def __init__(self):
        self.next: dict[Element, _Node] = {}
        self.patterns: list[Pattern] = []

    def add(self, pattern: Pattern) -> None:
        node = self
        for element in pattern.elements:
            node = node.next.setdefault(element, _Node())
        node.patterns.append(pattern)

    @cached_property
    def by_word(self) -> dict[str, list[tuple]]:
        """What may come next, by its first word: element, value, all its words, and the branch behind it."""
        found = defaultdict(list)
        for element, node in self.next.items():
            for value, words in enumerate(element.choices):
                found[words[0]].append((element, value, words, node))
        return dict(found)

    @cached_property
    def all_ways(self) -> list[tuple]:
        """What may come next, whatever its first word."""
        return [way for ways in self.by_word.values() for way in ways]

    def read(self, words, at, values, reached):
        """All readings of words[at:], as patterns with their slots' values; `reached` keeps the farthest word read.

        A word None may be any word.
        """
        reached[0] = max(reached[0], at)
        if at == len(words):
            yield from ((pattern, values) for pattern in self.patterns)
            return
        ways = self.all_ways if words[at] is None else self.by_word.get(words[at], ())
        for element, value, choice, node in ways:
            pairs = enumerate(zip(choice, words[at:], strict=False))
            same = next((k for k, (a, b) in pairs if b is not None and a != b), None)
            if same is None and at + len(choice) <= len(words):
                new = values if element.kind == "word" else values | {element.name: value}
                yield from node.read(words, at + len(choice), new, reached)
            else:
                reached[0] = max(reached[0], len(words) if same is None else at + same)


def _words(caption: str) -> list[str]:
    return caption.lower().strip().removesuffix(".").replace(",", " , ").split()


def _read(tree: _Node, caption: str) -> list[tuple[Pattern, dict[str, int]]]:
    words, reached = _words(caption), [0]
    readings = list(tree.read(words, 0, {}, reached))
    if readings:
        return readings
    if reached[0] >= len(words):
        raise ParseError(f"the sentence {caption!r} ends too early: a word is missing after the last one")
    raise ParseError(
        f"{caption!r} is not a sentence of the drawn world: it stops being one at "
        f"word {reached[0] + 1}, {words[reached[0]]!r}"
    )


# -------------------------------------------------------------------------------------------------------------- facts
@dataclass(frozen=True)
class ObjectFact:
    """What is known of one object; None where nothing was said."""

    shape: str
    colour: str | None = None
    size: str | None = None
    fill: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a caption says, or what is true of a scene.

    objects: in the order of mention; relations: (i, relation, j), "object i is left of object j"; count: how many
    objects there are.
    """

    objects: tuple[ObjectFact, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    count: int | None = None


@dataclass(frozen=True)
class FactScore:
    """How many facts a caption states truly, states falsely, and leaves out (or gets wrong) of its scene."""

    true: int
    false: int
    missing: int

    @property
    def correct(self) -> bool:
        """True if nothing that the caption says is false."""
        return self.false == 0


NAMES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "fill": FILLS, "place": PLACES}


@lru_cache(maxsize=200_000)
def parse(caption: str) -> Facts:
    """Reads a caption of any level back into facts. Case, spacing and a final full stop do not matter.

    The captions' sentences are read with size and fill named or not, so that what a model says is understood.

    Raises ParseError naming the word where the text stops being a sentence.
    """
    return said_by(*_read(_whole_tree(), caption)[0])


def said_by(pattern: Pattern, values: dict[str, int]) -> Facts:
    """The facts that a pattern states with these values in its slots."""
    objects = tuple(
        ObjectFact(**{kind: NAMES[kind][values[f"{kind}{m}"]] for kind in ATTRIBUTES if f"{kind}{m}" in values})
        for m in range(pattern.mentions)
    )
    relations = ((0, RELATIONS[values["rel0"]], 1),) if "rel0" in values else ()
    return Facts(objects, relations, pattern.count)


@lru_cache
def _whole_tree() -> _Node:
    tree = _Node()
    spoken = [pattern for level in LEVELS for pattern in Grammar(level).weights]
    for pattern in dict.fromkeys([*spoken, *map(Pattern, _readable())]):
        tree.add(pattern)
    return tree


def facts(scene: Scenes) -> Facts:
    """Everything true of one scene: its objects, all relations between them, their count.

    Raises DataError unless `scene` holds exactly one scene.
    """
    if len(scene) != 1:
        raise DataError(f"facts are those of one scene, not of {len(scene)}: pass scenes[i]")
    return facts_of_each(scene)[0]


def facts_of_each(scenes: Scenes) -> list[Facts]:
    """`facts` of every scene of a batch."""
    columns = (scenes.shape, scenes.colour, scenes.size, scenes.fill, scenes.cell)
    rows = zip(scenes.n_objects.tolist(), *[c.tolist() for c in columns], strict=True)
    out = []
    for n, *attributes in rows:
        objects = [
            ObjectFact(*[names[a[k]] for names, a in zip(NAMES.values(), attributes, strict=True)]) for k in range(n)
        ]
        cells = attributes[-1]
        relations = [(i, r, j) for i in range(n) for j in range(n) for r in _relations(cells[i], cells[j])]
        out.append(Facts(tuple(objects), tuple(relations), n))
    return out


@lru_cache
def _relations(a: int, b: int) -> list[str]:
    truth = sampling.true_relations(torch.tensor([a]), torch.tensor([b]))[0].tolist()
    return [r for r, true in zip(RELATIONS, truth, strict=True) if true]


def score(caption: str | Facts, scene: Scenes | Facts) -> FactScore:
    """Compares what a caption says with what is true of a scene.

    Each mention is taken to mean the object that makes most of the caption true (no object twice); then each stated
    attribute, relation and count is true or false. A mention beyond the objects there are is false in every word.
    Missing are the sizes, colours, shapes, places and fills (other than solid) of the scene not truly stated.

    Raises ParseError if the caption is not a sentence.
    """
    said = parse(caption) if isinstance(caption, str) else caption
    truth = facts(scene) if isinstance(scene, Scenes) else scene
    stated = [[(k, v) for k in ATTRIBUTES if (v := getattr(o, k)) is not None] for o in said.objects]
    total = sum(map(len, stated)) + len(said.relations) + (said.count is not None)
    candidates = [*range(len(truth.objects)), *[-1] * max(0, len(said.objects) - len(truth.objects))]
    right = [
        [sum(getattr(truth.objects[i], k) == v for k, v in s) if i >= 0 else 0 for i in candidates] for s in stated
    ]
    known = set(truth.relations)

    def agreeing(order):
        own = sum(right[m][c] for m, c in enumerate(order))
        return own, sum((candidates[order[a]], r, candidates[order[b]]) in known for a, r, b in said.relations)

    orders = itertools.permutations(range(len(candidates)), len(said.objects))
    best = max(orders, key=lambda order: sum(agreeing(order)))
    true = sum(agreeing(best)) + (said.count == truth.count)
    meant = [truth.objects[candidates[c]] if candidates[c] >= 0 else None for c in best]
    told = sum(
        o is not None and getattr(o, k) == v != "solid" for o, s in zip(meant, stated, strict=True) for k, v in s
    )
    to_tell = sum(4 + (o.fill != "solid") for o in truth.objects)
    return FactScore(true, total - true, to_tell - told)


# -------------------------------------------------------------------------------------------------------- the grammar
class Grammar:
    """The distribution of one caption of a level: a scene drawn at random, then one of its five captions."""

    def __init__(self, level: str):
        self.level = level
        self.patterns: dict[tuple[int, int], list[Pattern]] = {}  # (number of objects, template) -> patterns
        self.weights: dict[Pattern, float] = {}  # the probability of each pattern
        for n, (p_n, templates) in enumerate(
            zip(sampling.count_weights(level), TEMPLATES[level], strict=False), start=1
        ):
            for t, texts in enumerate(templates):
                self.patterns[n, t] = [Pattern(text) for text in texts]
                for pattern in self.patterns[n, t]:
                    share = p_n / len(texts) / N_TEMPLATES
                    self.weights[pattern] = self.weights.get(pattern, 0.0) + share

    @cached_property
    def _tree(self) -> _Node:
        tree = _Node()
        for pattern in self.weights:
            tree.add(pattern)
        return tree

    @property
    def patterns_of_template(self) -> list[tuple[str, ...]]:
        """The pattern texts of each of the five templates."""
        texts = [[p.text for (_, t), ps in self.patterns.items() if t == k for p in ps] for k in range(N_TEMPLATES)]
        return [tuple(dict.fromkeys(t)) for t in texts]

    def entropy(self, template: int | None = None) -> float:
        """The exact entropy, in nats, of one caption of a random scene: no model can have a lower mean loss a caption.

        Args: template, 0 to 4 for captions of this template only (default: one of the five at random).
        """
        texts = None if template is None else self.patterns_of_template[template]
        chosen = {p: w for p, w in self.weights.items() if texts is None or p.text in texts}
        total = sum(chosen.values())
        return sum(w / total * (_slot_entropy(p) - math.log(w / total)) for p, w in chosen.items())

    def read(self, caption: str) -> list[tuple[Pattern, dict[str, int]]]:
        """All readings of a caption: its pattern and the slots' values. Raises ParseError if this level has none."""
        return _read(self._tree, caption)

    def log_prob(self, caption: str) -> float:
        """The exact natural log probability that a random caption of this level's training scenes is this one.

        -inf for a sentence that cannot occur: a held-out pair, one object twice, or a sentence of another level.
        Raises ParseError if the text is not a sentence of any level.
        """
        try:
            readings = self.read(caption)
        except ParseError:
            parse(caption)  # raises for what is no sentence of any level
            return -math.inf
        p = sum(self.weights[pattern] * slot_probability(pattern, values) for pattern, values in readings)
        return math.log(p) if p > 0 else -math.inf

    def blanks(self, caption: str, blank: str = "<mask>") -> list[dict[str, float]]:
        """What may stand in each blank of a caption: the exact probability of every word, given all the other words.

        The blanks count as unknown together, as for a model that reads them masked; a comma is a word. The mean of
        the largest probabilities is the best accuracy that any reader of the other words can expect.
        Raises DataError where no sentence of this level has these words.
        """
        words = [None if word == blank else word for word in _words(caption)]
        places = [place for place, word in enumerate(words) if word is None]
        found = [Counter() for _ in places]
        for pattern, values in self._tree.read(words, 0, {}, [0]):
            p = self.weights[pattern] * slot_probability(pattern, values)
            if p > 0:
                said = pattern.spell(values)
                for counter, place in zip(found, places, strict=True):
                    counter[said[place]] += p
        if places and not found[0]:
            raise DataError(f"no sentence of level {self.level!r} fills the blanks of {caption!r}")
        return [{word: p / counter.total() for word, p in counter.most_common()} for counter in found]

    def sentences(self):
        """Every sentence that can occur, one by one: 8,460 for `easy`, too many to list for the others."""
        for pattern in self.weights:
            for values in itertools.product(*[range(len(e.choices)) for e in pattern.slots]):
                if slot_probability(pattern, {e.name: v for e, v in zip(pattern.slots, values, strict=True)}) > 0:
                    yield pattern.write(*[[v] for v in values])[0]


def slot_probability(pattern: Pattern, values: dict[str, int]) -> float:
    """The probability of these values in the slots of a pattern, given the pattern."""
    kinds = pattern.kinds
    colours, shapes = (tuple(values[f"{k}{m}"] for m in range(pattern.mentions)) for k in ("colour", "shape"))
    places = [v for name, v in values.items() if name.startswith("place")]
    if len(set(places)) < len(places):
        return 0.0
    return _pairs_probability(colours, shapes) / (
        2 ** kinds["size"] * 4 ** kinds["fill"] * 4 ** kinds["rel"] * math.perm(9, kinds["place"])
    )


def _pairs_probability(colours: tuple[int, ...], shapes: tuple[int, ...]) -> float:
    pairs = set(zip(colours, shapes, strict=True))
    if len(pairs) < len(colours) or any(is_held_out(*pair) for pair in pairs):
        return 0.0
    return sampling.tuple_chance(len(colours), len(set(colours)), len(set(shapes)))


def _slot_entropy(pattern: Pattern) -> float:
    """All but the pairs are uniform: sizes, fills, places, and by the grid's symmetry the four relations."""
    kinds = pattern.kinds
    assert kinds["colour"] == kinds["shape"] == pattern.mentions  # what the formulas rely on
    assert not (kinds["rel"] and kinds["place"])
    log_uniform = kinds["size"] * math.log(2) + (kinds["fill"] + kinds["rel"]) * math.log(4)
    return _pair_entropy(pattern.mentions) + log_uniform + math.log(math.perm(9, kinds["place"]))


@lru_cache
def _pair_entropy(m: int) -> float:
    p = sampling.tuple_probability(*sampling.all_tuples(m))
    return -90 * float(torch.special.xlogy(p, p).sum())


# -------------------------------------------------------------------------------------------------- writing captions
def slot_values(
    grammar: Grammar, scenes: Scenes, template: int
) -> tuple[Int[Tensor, " B"], dict[str, Int[Tensor, " B"]]]:
    """What chance decides for one caption a scene: which pattern of the template, and the value of every slot."""
    draws = uniform(scenes.key, sampling.CAPTION + 10 * template, 6)
    n_patterns = torch.tensor([0] + [len(grammar.patterns.get((n, template), ())) for n in (1, 2, 3, 4)])
    pattern = sampling.pick(draws[:, 0], n_patterns[scenes.n_objects])
    order = sampling.distinct(draws[:, 1:5], scenes.n_objects).clamp(0, 3)
    columns = {"shape": scenes.shape, "colour": scenes.colour, "size": scenes.size, "fill": scenes.fill}
    columns = {k: v.gather(1, order) for k, v in (columns | {"place": scenes.cell}).items()}
    values = {f"{k}{m}": v[:, m] for k, v in columns.items() for m in range(4)}
    related = sampling.true_relations(values["place0"], values["place1"])
    return pattern, values | {"rel0": sampling.choose(related, draws[:, 5])}


def captions(grammar: Grammar, scenes: Scenes) -> list[list[str]]:
    """Five captions of each scene, one of each template; everything they say is true."""
    if wrong := set(scenes.n_objects.tolist()) - {n for n, _ in grammar.patterns}:
        raise DataError(f"level {grammar.level!r} has no captions for {min(wrong)} objects: use World('hard')")
    out = [[""] * N_TEMPLATES for _ in range(len(scenes))]
    for (n, template), patterns in grammar.patterns.items():
        rows = (scenes.n_objects == n).nonzero()[:, 0]
        which, values = slot_values(grammar, scenes[rows], template)
        for k, pattern in enumerate(patterns):
            chosen = which == k
            sentences = pattern.write(*[values[e.name][chosen].tolist() for e in pattern.slots])
            for row, sentence in zip(rows[chosen].tolist(), sentences, strict=True):
                out[row][template] = sentence
    return out
