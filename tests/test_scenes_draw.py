"""Pictures, masks and boxes of the drawn world."""

import dataclasses

import pytest
import torch

from mmlearn import scenes
from mmlearn.errors import DataError
from mmlearn.scenes import ObjectFact, compose, drawing

WORLD = scenes.World("hard", seed=3)


def without(batch, slot):
    """The same scenes with one object taken away (later objects keep their places)."""
    gone = torch.arange(4) == slot
    changed = {name: getattr(batch, name).masked_fill(gone, -1) for name in ("shape", "colour", "size", "fill", "cell")}
    return dataclasses.replace(batch, **changed)


def test_pictures_have_the_promised_shape_and_type():
    images = scenes.draw(WORLD.scenes("train", range(5)), 48)
    assert images.shape == (5, 3, 48, 48)
    assert images.dtype == torch.uint8
    assert scenes.draw(WORLD.scenes("train", []), 32).shape == (0, 3, 32, 32)


def test_a_picture_does_not_depend_on_its_batch():
    batch = WORLD.scenes("train", range(700))  # more than is drawn at once
    whole = scenes.draw(batch, 32)
    for i in (0, 1, 333, 699):
        assert torch.equal(scenes.draw(batch[i], 32)[0], whole[i])
    assert torch.equal(scenes.draw(batch[torch.arange(699, -1, -1)], 32), whole.flip(0))


@pytest.mark.parametrize("image_size", [32, 64])
def test_masks_are_the_pixels_that_an_object_changes(image_size):
    batch = WORLD.scenes("test", range(150))
    full, visible = scenes.masks(batch, image_size, visible=False), scenes.masks(batch, image_size)
    picture = scenes.draw(batch, image_size).int()
    near = torch.nn.functional.max_pool2d(full.float(), 2 * (image_size // 10) + 1, 1, image_size // 10) > 0
    for slot in range(4):
        there = batch.n_objects > slot
        change = (picture - scenes.draw(without(batch, slot), image_size).int()).abs().amax(1)
        assert (change[~there] == 0).all()
        assert (change > 8)[there][visible[there, slot]].float().mean() > 0.97  # each visible pixel shows the object
        strong = change[there] > 75  # stronger than any shadow on a light ground
        assert (strong & ~near[there, slot]).sum() == 0  # shadow and soft edge stay close by
        hidden = full[there, slot] & ~visible[there, slot]
        assert (change[there][hidden] < 75).float().mean() > 0.6 or hidden.sum() == 0


def test_solid_objects_show_their_colour_inside_their_mask():
    for colour in scenes.COLOURS:
        scene = compose(ObjectFact("square", colour, "big", "solid", "centre"))
        inside = scenes.draw(scene, 32)[0][:, scenes.masks(scene, 32)[0, 0]].float().median(1).values / 255
        assert int((drawing.RGB - inside).abs().sum(1).argmin()) == scenes.COLOURS.index(colour)


def test_overlap_belongs_to_the_later_object():
    scene = compose(ObjectFact("square", "red", place="centre"), ObjectFact("square", "blue", place="right"))
    scene = dataclasses.replace(scene, dx=torch.tensor([[0.1, -0.1, 0, 0]]))
    full, visible = scenes.masks(scene, 64, visible=False)[0], scenes.masks(scene, 64)[0]
    overlap = full[0] & full[1]
    assert overlap.sum() > 50
    assert torch.equal(visible[0], full[0] & ~full[1])
    assert torch.equal(visible[1], full[1])
    red, _, blue = scenes.draw(scene, 64)[0][:, overlap].float().mean(1)
    assert blue > 2 * red


def test_boxes_are_tight():
    batch = WORLD.scenes("train", range(200))
    boxes, full = scenes.boxes(batch, 64), scenes.masks(batch, 64, visible=False)
    for b in range(200):
        for slot in range(4):
            if slot >= batch.n_objects[b]:
                assert boxes[b, slot].tolist() == [0, 0, 0, 0]
                continue
            rows, columns = full[b, slot].nonzero().unbind(1)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert boxes[b, slot].tolist() == [float(e) for e in expected]


def test_objects_lie_wholly_in_the_picture_and_near_their_place():
    batch = scenes.World("medium").scenes("train", range(2000))
    boxes = scenes.boxes(batch, 96)[:, :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / 96
    cell = batch.cell[:, :2]
    assert torch.equal((centre[..., 0] * 3).long(), cell % 3)
    assert torch.equal((centre[..., 1] * 3).long(), cell // 3)
    assert boxes.min() >= 0
    assert boxes.max() <= 96
    full = scenes.masks(batch, 96, visible=False)[:, :2]
    edge = full[..., 0, :].any() | full[..., -1, :].any() | full[..., 0].any() | full[..., -1].any()
    assert not edge


def test_the_box_cuts_nothing_off(monkeypatch):
    batch = WORLD.scenes("validation", range(60))
    pictures = scenes.draw(batch, 64)
    monkeypatch.setattr(drawing, "HALF_BOX", 0.45)
    assert torch.equal(scenes.draw(batch, 64), pictures)


def test_edges_are_antialiased_by_the_distance():
    """A picture is close to the mean of one drawn eight times finer, edges included; hard edges would not be."""
    scene = compose(ObjectFact("circle", "red", "big", "solid", "centre"))
    picture, fine = scenes.draw(scene, 60)[0].float(), scenes.draw(scene, 480)[0].float()
    wanted = torch.nn.functional.avg_pool2d(fine, 8)
    assert (picture - wanted).abs().mean() < 1
    assert (picture - wanted).abs().max() < 30
    expected = 3.14159 * (0.93 * float(drawing.RADII[1])) ** 2
    assert abs(scenes.masks(scene, 512)[0, 0].float().mean() - expected) < 0.002 * expected


def test_shapes_sizes_and_colours_stay_distinct_at_32_pixels():
    batch = scenes.World("easy", seed=1).scenes("test", range(60))
    for b in range(60):
        size, cell = scenes.SIZES[batch.size[b, 0]], scenes.PLACES[batch.cell[b, 0]]
        place = {k: getattr(batch, k)[b : b + 1] for k in ("dx", "dy", "tilt")}
        alike = [compose(ObjectFact(s, "red", size, "solid", cell)) for s in scenes.SHAPES]
        green = [scenes.draw(dataclasses.replace(scene, **place), 32)[0, 1].float() for scene in alike]
        covered = (240 - torch.stack(green)) / 190  # roughly: red has no green, the sky has 240
        apart = (covered[:, None] - covered[None]).abs().sum((2, 3)) + 100 * torch.eye(10)
        assert apart.min() > 4.5  # pixels' worth: no two shapes look nearly the same, even small ones
    colours = drawing.RGB
    assert (torch.cdist(colours, colours) + 10 * torch.eye(10)).min() > 0.25


def test_levels_use_their_fills_and_backgrounds():
    for level, fills, backgrounds in (("easy", 1, 4), ("medium", 1, 4), ("hard", 4, 6)):
        batch = scenes.World(level).scenes("train", range(1000))
        assert len(batch.fill[batch.fill >= 0].unique()) == fills
        assert len(batch.background.unique()) == backgrounds
    light = scenes.draw(scenes.World("medium").scenes("train", range(100)), 32).float().mean((1, 2, 3))
    assert light.min() > 170


def test_fills_look_different():
    base = dict(shape="square", colour="blue", size="big", place="centre")
    pictures = [scenes.draw(compose(ObjectFact(fill=f, **base)), 32).float() for f in scenes.FILLS]
    for i in range(4):
        for j in range(i):
            assert (pictures[i] - pictures[j]).abs().sum() > 1000


def test_gallery_is_a_grid():
    assert scenes.gallery(rows=2, columns=3, image_size=32, gap=4).shape == (3, 2 * 36 + 4, 3 * 36 + 4)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ((), "1 to 4 objects, not 0"),
        ((ObjectFact("pentagon"),), "'pentagon' is not in the drawn world"),
        ((ObjectFact("star", place="top"), ObjectFact("ring", place="top")), "same place"),
    ],
)
def test_compose_refuses_what_cannot_be_drawn(objects, message):
    with pytest.raises(DataError, match=message):
        compose(*objects)
