"""The words of the drawn world: what a scene can hold, in the order that the tensors number it."""

LEVELS = ("easy", "medium", "hard")
SPLITS = ("train", "validation", "test", "held_out")

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "moon", "cross", "diamond", "bar")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "grey")
SIZES = ("small", "big")
FILLS = ("solid", "striped", "dotted", "hollow")
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = (1, 0, 3, 2)  # RELATIONS[OPPOSITE[r]] is true of (b, a) where RELATIONS[r] is true of (a, b)
BACKGROUNDS = ("dawn", "mint", "sky", "sand", "dusk", "night")
N_LIGHT = 4  # the first four backgrounds are light; only hard scenes use the dark ones
MAX_OBJECTS = 4

NUMBERS = ("no", "one", "two", "three", "four")


def article(word: str) -> str:
    """ "a" or "an", as English wants it before `word`."""
    return "an" if word[0] in "aeiou" else "a"


def plural(shape: str) -> str:
    """The plural of a shape's name: stars, crosses."""
    return shape + ("es" if shape.endswith("s") else "s")


def place_phrase(place: str) -> str:
    """A place with its preposition: in the top left, at the top, on the right, in the centre."""
    preposition = {"top": "at", "bottom": "at", "left": "on", "right": "on"}.get(place, "in")
    return f"{preposition} the {place}"


def is_held_out(colour: int, shape: int) -> bool:
    """True for the ten colour-shape pairs kept out of training: each colour and each shape loses exactly one."""
    return colour == shape


HELD_OUT = tuple((COLOURS[i], SHAPES[i]) for i in range(10))
