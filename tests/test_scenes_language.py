"""Captions, the parser, exact probabilities, scores, hard negatives."""

import contextlib
import math
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlearn import scenes
from mmlearn.errors import DataError
from mmlearn.scenes import ObjectFact, ParseError, compose, parse, score

WORLDS = {level: scenes.World(level, seed=5) for level in scenes.LEVELS}
SAID = [c for world in WORLDS.values() for five in world.captions(world.scenes("train", range(300))) for c in five]
VOCABULARY = sorted({word for caption in SAID for word in caption.replace(",", " ,").split()})


def states_only_truth(caption, truth):
    """Checked without `score`: every mention is the object of that colour and shape, every relation and count holds."""
    said, found = parse(caption), []
    for mention in said.objects:
        same = [i for i, o in enumerate(truth.objects) if (o.shape, o.colour) == (mention.shape, mention.colour)]
        assert len(same) == 1
        found += same
        for attribute in ("size", "fill", "place"):
            assert getattr(mention, attribute) in (None, getattr(truth.objects[same[0]], attribute))
    assert len(set(found)) == len(found)
    assert all((found[a], r, found[b]) in truth.relations for a, r, b in said.relations)
    assert said.count in (None, len(truth.objects))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(scenes.LEVELS), st.sampled_from(scenes.SPLITS), st.integers(0, 2**40), st.integers(0, 99))
def test_the_parser_reads_back_every_caption_to_the_scenes_facts(level, split, index, seed):
    world = scenes.World(level, seed)
    batch = world.scenes(split, [index])
    for caption in world.captions(batch)[0]:
        states_only_truth(caption, scenes.facts(batch))
        result = score(caption, batch)
        assert result.correct
        assert result.true > 0


@pytest.mark.parametrize("level", scenes.LEVELS)
def test_five_different_short_sentences_of_five_templates(level):
    world = WORLDS[level]
    for five in world.captions(world.scenes("train", range(500))):
        assert len(set(five)) == 5
        assert max(len(c.split()) for c in five) <= 20
        for template, caption in enumerate(five):
            (pattern, _), *others = world.grammar.read(caption)
            assert not others  # no sentence has two readings
            assert pattern.text in world.grammar.patterns_of_template[template]


@pytest.mark.parametrize("level", scenes.LEVELS)
def test_whole_objects_can_be_read_from_some_template(level):
    world = WORLDS[level]
    batch = world.scenes("train", range(100))
    for five, truth in zip(world.captions(batch), scenes.facts_of_each(batch), strict=True):
        whole = [o for c in five for o in parse(c).objects if None not in (o.size, o.colour, o.shape, o.place)]
        assert len(set(whole)) >= min(2, len(truth.objects))


def test_captions_mention_objects_in_either_order():
    world = WORLDS["medium"]
    batch = world.scenes("train", range(400))
    first = [parse(c[0]).objects[0].shape == scenes.facts(batch[i]).objects[0].shape
             for i, c in enumerate(world.captions(batch))]  # fmt: skip
    assert 0.4 < sum(first) / 400 < 0.75


@settings(deadline=None, max_examples=300)
@given(st.text() | st.lists(st.sampled_from(VOCABULARY), max_size=20).map(" ".join))
def test_any_text_is_parsed_or_refused_with_a_sentence(text):
    with contextlib.suppress(ParseError):  # nothing else may be raised
        assert parse(text).objects


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red stone", r"word 3, 'stone'"),
        ("an red star", r"word 2, 'red'"),
        ("a red star above blue ring", r"word 5, 'blue'"),
        ("a red star in the top middle", r"word 7, 'middle'"),
        ("a red star and a blue ring and", r"word 8, 'and'"),
        ("a red", "ends too early"),
        ("", "ends too early"),
    ],
)
def test_parse_errors_name_the_word(text, message):
    with pytest.raises(ParseError, match=message):
        parse(text)
    with pytest.raises(ParseError):
        WORLDS["hard"].grammar.log_prob(text)
    assert issubclass(ParseError, DataError)


def test_case_spacing_and_full_stop_do_not_matter():
    assert parse("A red star ,  a blue ring and a green heart.") == parse("a red star, a blue ring and a green heart")


@pytest.mark.parametrize("level", scenes.LEVELS)
def test_mean_log_probability_is_the_entropy(level):
    world = WORLDS[level]
    sentences = world.captions(world.scenes("train", range(20_000)))
    grammar = world.grammar
    loss = -sum(grammar.log_prob(five[i % 5]) for i, five in enumerate(sentences)) / len(sentences)
    assert abs(loss - grammar.entropy()) < 0.005 * grammar.entropy()  # the issue asks for 1 %
    parts = [grammar.entropy(template) for template in range(5)]
    assert math.isclose(grammar.entropy(), math.log(5) + sum(parts) / 5, rel_tol=1e-9)
    for template in range(5):
        losses = [-grammar.log_prob(five[template]) - math.log(5) for five in sentences[:1000]]
        error = statistics.stdev(losses) / 1000**0.5
        assert abs(statistics.mean(losses) - parts[template]) < 4 * error + 1e-6


def test_probabilities_of_the_whole_easy_language_sum_to_one():
    grammar = WORLDS["easy"].grammar
    sentences = list(grammar.sentences())
    assert len(set(sentences)) == len(sentences) == 8460
    assert math.isclose(sum(math.exp(grammar.log_prob(s)) for s in sentences), 1, rel_tol=1e-9)
    world = WORLDS["easy"]
    said = {c for five in world.captions(world.scenes("train", range(2000))) for c in five}
    assert said <= set(sentences)


def test_probability_of_frequent_sentences_is_their_frequency():
    """Against counting, which shares no formula with the grammar."""
    world, n = WORLDS["medium"], 20_000
    said = [five[0] for five in world.captions(world.scenes("train", range(n)))]
    for shapes in (("star", "star"), ("star", "ring")):
        colours = [(a, b) for a in scenes.COLOURS for b in scenes.COLOURS]
        things = [[f"{scenes.vocabulary.article(c)} {c} {s}" for c, s in zip(pair, shapes, strict=True)]
                  for pair in colours]  # fmt: skip
        wanted = {f"{start}{one} and {other}" for one, other in things for start in ("", "a picture of ")}
        expected = 5 * sum(math.exp(world.grammar.log_prob(caption)) for caption in wanted)
        assert expected > 0.005
        assert abs(sum(caption in wanted for caption in said) / n - expected) < 4 * (expected / n) ** 0.5


@pytest.mark.parametrize(
    ("caption", "level"),
    [
        ("a red circle and a blue ring", "medium"),  # red circles are held out
        ("a red star and a red star", "medium"),
        ("a red star on the left and a blue ring on the left", "medium"),
        ("a big red star", "medium"),  # a sentence of another level
    ],
)
def test_what_cannot_be_said_has_probability_zero(caption, level):
    assert WORLDS[level].grammar.log_prob(caption) == -math.inf


SCENE = compose(
    ObjectFact("star", "red", "big", "solid", "top left"), ObjectFact("ring", "blue", "small", "striped", "centre")
)


@pytest.mark.parametrize(
    ("caption", "true", "false", "missing"),
    [
        ("a red star and a blue ring", 4, 0, 5),
        ("a blue star and a red ring", 2, 2, 7),
        ("a big red star above a small blue ring", 7, 0, 3),
        ("a big red star below a small blue ring", 6, 1, 3),
        ("a striped blue ring right of a solid red star", 7, 0, 4),
        ("a big solid red star in the top left and a small striped blue ring in the centre", 10, 0, 0),
        ("there are three shapes, one of them a small blue ring in the centre", 4, 1, 5),
        ("a red star, a blue ring and a green heart", 4, 2, 5),
        ("a green heart", 0, 2, 9),
    ],
)
def test_score_counts_true_false_and_missing(caption, true, false, missing):
    result = score(caption, SCENE)
    assert (result.true, result.false, result.missing) == (true, false, missing)


def test_facts_of_a_scene():
    truth = scenes.facts(SCENE)
    assert truth.objects[0] == ObjectFact("star", "red", "big", "solid", "top left")
    assert set(truth.relations) == {(0, "left of", 1), (0, "above", 1), (1, "right of", 0), (1, "below", 0)}
    assert truth.count == 2
    with pytest.raises(DataError, match="one scene, not of 2"):
        scenes.facts(WORLDS["easy"].scenes("train", range(2)))


def bag(text):
    return Counter(text.replace(",", " ").split())


@pytest.mark.parametrize("kind", ["replace", "swap"])
@pytest.mark.parametrize("level", scenes.LEVELS)
def test_negatives_are_false_and_the_originals_true(level, kind):
    world = WORLDS[level]
    batch = world.scenes("train", range(200))
    pairs = world.negatives(batch, kind)
    assert pairs[190:] == [world.negatives(batch[i], kind)[0] for i in range(190, 200)]
    for pair, truth in zip(pairs, scenes.facts_of_each(batch), strict=True):
        if pair is None:
            assert kind == "swap"
            assert len(truth.objects) == 1
            continue
        caption, negative = pair
        assert score(caption, truth).correct
        assert not score(negative, truth).correct
        before, after = (world.grammar.log_prob(c) for c in pair)
        assert after > -math.inf
        if kind == "swap":
            assert bag(caption) == bag(negative)
            assert before == after
        else:
            assert sum(a != b for a, b in zip(caption.split(), negative.split(), strict=False)) >= 1


def test_unknown_kinds_of_negatives_are_refused():
    with pytest.raises(DataError, match="'flip' do not exist"):
        WORLDS["easy"].negatives(SCENE, "flip")


def test_a_level_refuses_scenes_that_it_has_no_captions_for():
    with pytest.raises(DataError, match="no captions for 2 objects"):
        WORLDS["easy"].captions(SCENE)


def test_english():
    assert parse("a picture of an orange star").objects[0].colour == "orange"
    assert [scenes.vocabulary.plural(s) for s in ("star", "cross")] == ["stars", "crosses"]
    assert [scenes.vocabulary.place_phrase(p) for p in ("top", "left", "centre", "bottom right")] == [
        "at the top", "on the left", "in the centre", "in the bottom right"]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ blanks
def test_blanks_are_those_of_all_sentences_counted():
    grammar = WORLDS["easy"].grammar
    every = {tuple(sentence.split()): math.exp(grammar.log_prob(sentence)) for sentence in grammar.sentences()}
    for caption in ["a <mask> red circle", "the <mask> at the <mask> is big and blue", "<mask> <mask> is a red star"]:
        words = caption.split()
        fits = {
            said: p
            for said, p in every.items()
            if len(said) == len(words) and all(w in ("<mask>", s) for w, s in zip(words, said, strict=True))
        }
        places = [i for i, word in enumerate(words) if word == "<mask>"]
        if not fits:
            with pytest.raises(DataError, match="no sentence of level 'easy'"):
                grammar.blanks(caption)
            continue
        for place, found in zip(places, grammar.blanks(caption), strict=True):
            counted = Counter()
            for said, p in fits.items():
                counted[said[place]] += p / sum(fits.values())
            assert found == pytest.approx(counted)


@pytest.mark.parametrize("level", scenes.LEVELS)
def test_one_blank_follows_from_the_probabilities_of_whole_sentences(level):
    world = WORLDS[level]
    for caption, *_ in world.captions(world.scenes("test", range(3))):
        words = caption.replace(",", " ,").split()
        for place in range(len(words)):
            fillings = {w: [*words[:place], w, *words[place + 1 :]] for w in VOCABULARY}
            p = {}
            for word, filling in fillings.items():
                with contextlib.suppress(ParseError):
                    p[word] = math.exp(world.grammar.log_prob(" ".join(filling)))
            wanted = {word: value / sum(p.values()) for word, value in p.items() if value > 0}
            masked = " ".join([*words[:place], "<mask>", *words[place + 1 :]])
            assert world.grammar.blanks(masked)[0] == pytest.approx(wanted)


def test_a_sentence_without_blanks_has_none_and_an_impossible_one_is_refused():
    grammar = WORLDS["easy"].grammar
    assert grammar.blanks("a big red circle") == []
    with pytest.raises(DataError, match="fills the blanks of 'a <mask> cube'"):
        grammar.blanks("a <mask> cube")
