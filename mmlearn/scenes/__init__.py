"""The drawn world: pictures whose truth is known exactly, with captions, questions, masks and hard negatives.

world = World("medium"); batch = world.scenes("train", range(8)); images = draw(batch); captions = world.captions(batch)
"""

from mmlearn.scenes.drawing import boxes, draw, masks
from mmlearn.scenes.language import (
    Facts,
    FactScore,
    Grammar,
    ObjectFact,
    ParseError,
    facts,
    facts_of_each,
    parse,
    score,
)
from mmlearn.scenes.questions import QUESTION_TYPES, Question
from mmlearn.scenes.sampling import Scenes
from mmlearn.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    HELD_OUT,
    LEVELS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    place_phrase,
)
from mmlearn.scenes.world import Samples, World, compose, gallery

__all__ = [
    "BACKGROUNDS", "COLOURS", "FILLS", "HELD_OUT", "LEVELS", "PLACES", "QUESTION_TYPES", "RELATIONS", "SHAPES", "SIZES",
    "SPLITS", "FactScore", "Facts", "Grammar", "ObjectFact", "ParseError", "Question", "Samples", "Scenes", "World",
    "boxes", "compose", "draw", "facts", "facts_of_each", "gallery", "masks", "parse", "place_phrase", "score",
]  # fmt: skip
