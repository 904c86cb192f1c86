"""Sampling, splits, questions, rows, tensors and the cache of the drawn world."""

import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlearn import scenes
from mmlearn.errors import DataError
from mmlearn.scenes import cache

FIELDS = ("key", "n_objects", "shape", "colour", "size", "fill", "cell", "dx", "dy", "tilt", "background")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLEARN_CACHE", str(tmp_path / "cache"))


def same(a, b):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


# ------------------------------------------------------------------------------------------------------------ sampling
@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(scenes.LEVELS),
    st.sampled_from(scenes.SPLITS),
    st.lists(st.integers(0, 2**50), min_size=1, max_size=12),
    st.integers(-3, 2**31),
)
def test_a_sample_is_the_same_whatever_the_batch_or_order(level, split, indices, seed):
    world = scenes.World(level, seed)
    batch = world.scenes(split, indices)
    alone = [world.scenes(split, [i]) for i in indices]
    assert all(same(batch[k], one) for k, one in enumerate(alone))
    assert same(batch[list(range(len(indices)))[::-1]], world.scenes(split, indices[::-1]))
    assert world.captions(batch) == [world.captions(one)[0] for one in alone]
    assert world.questions(split, indices) == [world.questions(split, [i])[0] for i in indices]


def test_the_first_training_scene_never_changes():
    """Written down once: a change of the world must be on purpose."""
    world = scenes.World("medium", seed=0)
    assert world.captions(world.scenes("train", [0]))[0][2] == (
        "a big grey circle at the top and a big yellow circle in the top left"
    )


def test_seeds_splits_and_levels_differ():
    batches = [scenes.World(level, seed).scenes(split, range(50))
               for level in scenes.LEVELS for seed in (0, 1) for split in scenes.SPLITS]  # fmt: skip
    assert len({tuple(b.key.tolist()) for b in batches}) == len(batches)
    assert len({int(k) for b in batches for k in b.key}) == 50 * len(batches)


def pairs(batch):
    there = batch.shape >= 0
    return set(zip(batch.colour[there].tolist(), batch.shape[there].tolist(), strict=True))


def test_held_out_pairs_are_only_in_held_out():
    held_out = {(scenes.COLOURS.index(c), scenes.SHAPES.index(s)) for c, s in scenes.HELD_OUT}
    assert {c for c, _ in held_out} == {s for _, s in held_out} == set(range(10))  # each colour and shape loses one
    for level in scenes.LEVELS:
        world = scenes.World(level)
        for split in ("train", "validation", "test"):
            seen = pairs(world.scenes(split, range(5000)))
            assert not seen & held_out
            assert len(seen) == 90
        assert pairs(world.scenes("held_out", range(1000))) == held_out


def test_scenes_keep_the_rules():
    for level, counts in (("easy", {1}), ("medium", {2}), ("hard", {1, 2, 3, 4})):
        batch = scenes.World(level).scenes("train", range(4000))
        assert set(batch.n_objects.tolist()) == counts
        there = batch.shape >= 0
        assert torch.equal(there.sum(1), batch.n_objects)
        for attribute in ("colour", "size", "fill", "cell"):
            assert torch.equal(getattr(batch, attribute) >= 0, there)
        for i, j in ((a, b) for b in range(4) for a in range(b)):
            both = there[:, i] & there[:, j]
            assert (batch.cell[both, i] != batch.cell[both, j]).all()
            alike = (batch.shape[both, i] == batch.shape[both, j]) & (batch.colour[both, i] == batch.colour[both, j])
            assert not alike.any()


def test_attributes_are_uniform():
    batch = scenes.World("hard").scenes("train", range(20_000))
    there = batch.shape >= 0
    for attribute, n in (("shape", 10), ("colour", 10), ("size", 2), ("fill", 4), ("cell", 9)):
        share = torch.bincount(getattr(batch, attribute)[there], minlength=n) / there.sum()
        assert (share * n - 1).abs().max() < 0.06


def test_objects_of_a_scene_often_share_one_attribute():
    batch = scenes.World("medium").scenes("train", range(20_000))
    for attribute in (batch.shape, batch.colour):
        assert 0.15 < (attribute[:, 0] == attribute[:, 1]).float().mean() < 0.25


def test_indexing():
    batch = scenes.World("hard").scenes("train", range(10))
    assert len(batch) == 10
    assert len(batch[3]) == 1
    assert same(batch[-1], batch[9])
    assert same(batch[2:5], scenes.World("hard").scenes("train", torch.arange(2, 5)))
    with pytest.raises(IndexError, match="scene 10 of 10"):
        batch[10]


def test_mistakes_get_a_sentence():
    with pytest.raises(DataError, match="level 'medum' does not exist: choose one of easy"):
        scenes.World("medum")
    with pytest.raises(DataError, match="split 'dev' does not exist: choose one of train"):
        scenes.World().scenes("dev", range(3))
    with pytest.raises(DataError, match="index -1 is negative"):
        scenes.World().scenes("train", [-1])
    with pytest.raises(DataError, match="rows of kind 'labels'"):
        scenes.World().rows("train", 2, kind="labels")
    with pytest.raises(DataError, match="question type 'size' does not exist"):
        scenes.World().questions("train", range(2), type="size")


def test_importing_the_scenes_needs_torch_only():
    heavy = ("PIL", "datasets", "matplotlib", "pyarrow")
    code = f"import sys, mmlearn.scenes; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------------------------------- questions
def answer_by_facts(question, truth):
    """Answers a question from the facts of its scene, independently of how it was made; None if it is ambiguous."""

    def find(text):
        words = text.split()
        place = next((p for p in scenes.PLACES if text.endswith((f"in the {p}", f"at the {p}", f"on the {p}"))), None)
        found = [i for i, o in enumerate(truth.objects)
                 if all(w not in scenes.SHAPES or o.shape == w for w in words)
                 and all(w not in scenes.COLOURS or o.colour == w for w in words)
                 and place in (None, o.place)]  # fmt: skip
        return found[0] if len(found) == 1 else None

    def yes(value):
        return "yes" if value else "no"

    if m := re.fullmatch(r"what (colour|shape) is (the .+)\?", question):
        return None if find(m[2]) is None else getattr(truth.objects[find(m[2])], m[1])
    if m := re.fullmatch(r"where is (the \w+ \w+)\?", question):
        return None if find(m[1]) is None else truth.objects[find(m[1])].place
    if m := re.fullmatch(r"is there an? (\w+) (\w+)\?", question):
        return yes(any((o.colour, o.shape) == m.groups() for o in truth.objects))
    if m := re.fullmatch(r"how many (\w+) shapes are there\?", question):
        return str(sum(o.colour == m[1] for o in truth.objects))
    if m := re.fullmatch(r"how many (\w+?)(es|s) are there\?", question):
        name = m[1] if m[1] in scenes.SHAPES else m[1] + m[2][:-1]
        return str(sum(o.shape == name for o in truth.objects))
    if m := re.fullmatch(r"is (the .+?) (?:to the )?(left of|right of|above|below) (the .+)\?", question):
        a, b = find(m[1]), find(m[3])
        return None if None in (a, b) else yes((a, m[2], b) in truth.relations)
    if m := re.fullmatch(r"are (the .+) and (the .+) the same size\?", question):
        a, b = find(m[1]), find(m[2])
        return None if None in (a, b) else yes(truth.objects[a].size == truth.objects[b].size)
    m = re.fullmatch(r"is (the .+) bigger than (the .+)\?", question)
    sizes = [truth.objects[find(t)].size for t in m.groups()]
    return yes(sizes == ["big", "small"])


@pytest.mark.parametrize("level", scenes.LEVELS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_question_has_one_answer_and_it_is_right(level, split):
    world = scenes.World(level, seed=2)
    truths = scenes.facts_of_each(world.scenes(split, range(3000)))
    asked = world.questions(split, range(3000))
    assert [q.image_index for q in asked] == list(range(3000))
    assert {q.type for q in asked} == set(world.question_types)
    for q in asked:
        assert q.answer == answer_by_facts(q.question, truths[q.image_index])
        assert q.answer in world.answers(q.type)


@pytest.mark.parametrize("level", scenes.LEVELS)
def test_a_question_alone_tells_nothing(level):
    """The majority answer to each of 20,000 questions of a type, learned on one half, is at chance on the other."""
    world = scenes.World(level, seed=4)
    assert world.question_types == scenes.QUESTION_TYPES[: 5 if level == "easy" else 7]
    for kind in world.question_types:
        asked = world.questions("train", range(28_000), type=kind)[:20_000]
        chance = 1 / len(world.answers(kind))
        assert len(asked) > 15_000
        seen = defaultdict(Counter)
        for q in asked[::2]:
            seen[q.question][q.answer] += 1
        best = {question: counter.most_common(1)[0][0] for question, counter in seen.items()}
        usual = Counter(q.answer for q in asked[::2]).most_common(1)[0][0]
        right = sum(best.get(q.question, usual) == q.answer for q in asked[1::2]) / len(asked[1::2])
        assert abs(right - chance) < 0.02, (kind, right)
        prior = Counter(q.answer for q in asked)
        assert max(abs(prior[a] / len(asked) - chance) for a in world.answers(kind)) < 0.015, (kind, prior)


def test_mixed_questions_are_balanced_too():
    for level in scenes.LEVELS:
        world = scenes.World(level, seed=6)
        asked = world.questions("train", range(20_000))
        for kind in world.question_types:
            counts = Counter(q.answer for q in asked if q.type == kind)
            total = sum(counts.values())
            assert total > 1500
            assert max(abs(counts[a] / total - 1 / len(world.answers(kind))) for a in world.answers(kind)) < 0.04


# ------------------------------------------------------------------------------------------- rows, tensors, the cache
def test_tensors_are_the_drawn_scenes():
    world = scenes.World("medium", seed=1)
    samples = world.tensors("train", 20)
    batch = world.scenes("train", range(20))
    assert len(samples) == 20
    assert torch.equal(samples.images, scenes.draw(batch, 32))
    assert samples.captions == world.captions(batch)
    assert same(samples.scenes, batch)


def test_rows_have_the_columns_of_the_real_sets():
    world = scenes.World("hard", seed=1)
    rows = world.rows("test", 6, image_size=40)
    assert rows.column_names == ["image_id", "image", "captions"]
    assert len(set(rows["image_id"])) == 6
    pictures = scenes.draw(world.scenes("test", range(6)), 40)
    for i, row in enumerate(rows):
        assert row["image"].size == (40, 40)
        assert row["image"].tobytes() == pictures[i].permute(1, 2, 0).numpy().tobytes()
        assert row["captions"] == world.captions(world.scenes("test", [i]))[0]
    asked = world.rows("test", 6, kind="questions")
    assert asked.column_names == ["image_id", "image", "question", "answer", "question_type"]
    assert asked["question"][:] == [q.question for q in world.questions("test", range(6))]


def the_file(suffix):
    (path,) = cache.folder().glob(f"*{suffix}")
    return path


@pytest.mark.parametrize("damage", ["truncate", "tamper", "no mark", "empty"])
@pytest.mark.parametrize("kind", ["tensors", "rows"])
def test_a_damaged_cache_is_rebuilt(damage, kind):
    world = scenes.World("easy")

    def make():
        return world.tensors("train", 5).images if kind == "tensors" else world.rows("train", 5)[:]["captions"]

    first, path = make(), the_file(".safetensors" if kind == "tensors" else ".parquet")
    good = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(good[:-9])
    elif damage == "tamper":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.with_name(path.name + ".sha256").unlink()
    again = make()
    assert path.read_bytes() == good
    assert torch.equal(first, again) if kind == "tensors" else first == again


def test_the_cache_is_read_and_written_whole(monkeypatch):
    world = scenes.World("easy")
    world.tensors("train", 5)
    module = sys.modules["mmlearn.scenes.world"]

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, "draw", fails)
    assert len(world.tensors("train", 5)) == 5  # from disk: nothing is drawn
    with pytest.raises(OSError, match="disk full"):
        world.tensors("train", 6)
    assert len(list(cache.folder().iterdir())) == 2  # nothing half written stays
    monkeypatch.setattr(cache, "version", lambda: "another")
    with pytest.raises(OSError, match="disk full"):
        world.tensors("train", 5)  # other drawing code, other file
