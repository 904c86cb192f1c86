"""The named data sets: their kind, their splits, and where the Hub has them at a pinned revision.

Licences, sizes and original sources are told in the cards, ``data/<name>.md``.
"""

from dataclasses import dataclass, field
from difflib import get_close_matches

from mmlearn.errors import DataError

COLUMNS = {
    "captions": ("image_id", "image", "captions"),
    "questions": ("image_id", "image", "question", "answer"),
    "labels": ("image_id", "image", "label"),
}
SCENES = ("scenes/easy", "scenes/medium", "scenes/hard")
SCENE_SPLITS = ("train", "validation", "test", "held_out")


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub: parquet files at one revision.

    ``files`` gives for each split the pattern of its files, ``rename`` their columns in our schema
    (several source columns become one list), ``only`` a column and its value that a split's rows must have.
    """

    repo: str
    revision: str
    files: dict[str, str]
    rename: dict[str, str | tuple[str, ...]]
    size: str
    only: dict[str, tuple[str, str]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedSet:
    """A named data set; ``rows`` are the published sizes of its splits (``None`` where they are not fixed)."""

    name: str
    kind: str
    rows: dict[str, int | None]
    original: str
    hub: Hub | None = None
    answers: bool = False
    labels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS[self.kind] + ("answers",) * self.answers


_FLICKR8K = Hub(
    "jxie/flickr8k",
    "56f58c967835f7c508d684f36bd7897cca9d7634",
    {split: f"data/{split}-*.parquet" for split in ("train", "validation", "test")},
    {"image": "image", "captions": tuple(f"caption_{number}" for number in range(5))},
    "1.1 GB",
    sha256={
        "data/validation-00000-of-00001-7025a2b596f14b7b.parquet":
            "2470e49d96fb37e19c8a1d29056623c84ed41c3760a12747e120695aa0c44ad4",
        "data/test-00000-of-00001-42a2661d12c73e48.parquet":
            "f3bc4c3548ec1d9bb3c445c871cfcd3aca6003e3d4786e404fc9356b5215410d",
    },
)  # fmt: skip
_FLICKR30K = Hub(
    "nlphuji/flickr30k",
    "refs/convert/parquet",  # the Hub's own conversion; the repository itself has only a loading script
    {split: "TEST/test/*.parquet" for split in ("train", "validation", "test")},
    {"image_id": "filename", "image": "image", "captions": "caption"},
    "4.3 GB",
    only={"train": ("split", "train"), "validation": ("split", "val"), "test": ("split", "test")},
)
_COCO = Hub(
    "lmms-lab-encoder/COCO-Caption2017",
    "3bdd5827e243cc3084ac69a1111e69c3ab9193ff",
    {"validation": "data/val-*.parquet"},
    {"image_id": "file_name", "image": "image", "captions": "answer"},
    "0.8 GB",
)
_VQA = Hub(
    "lmms-lab-encoder/VQAv2",
    "32665d35052eb4a6d4414851c3c829a72754915a",
    {"validation": "data/validation-*.parquet"},
    {"image_id": "image_id", "image": "image", "question": "question", "answer": "multiple_choice_answer",
     "answers": "answers"},
    "6.9 GB (34 GB unpacked)",
)  # fmt: skip
_CIFAR10 = Hub(
    "uoft-cs/cifar10",
    "0b2714987fa478483af9968de7c934580d0bb9a2",
    {split: f"plain_text/{split}-*.parquet" for split in ("train", "test")},
    {"image": "img", "label": "label"},
    "0.15 GB",
    sha256={
        "plain_text/train-00000-of-00001.parquet":
            "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
        "plain_text/test-00000-of-00001.parquet":
            "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
    },
)  # fmt: skip

SETS = {
    s.name: s
    for s in (
        NamedSet("flickr8k", "captions", {"train": 6000, "validation": 1000, "test": 1000},
                 "Flicker8k_Dataset/ and Flickr8k.token.txt with the three image lists", _FLICKR8K),
        NamedSet("flickr30k", "captions", {"train": 29000, "validation": 1014, "test": 1000},
                 "the pictures with results_20130124.token or dataset_flickr30k.json", _FLICKR30K),
        NamedSet("coco", "captions", {"train": None, "validation": None, "test": None},
                 "train2017/, val2017/ and annotations/captions_*2017.json", _COCO),
        NamedSet("daquar", "questions",
                 {"train": None, "test": None, "official_train": 6795, "official_test": 5673},
                 "the pictures with qa.894.raw.train.txt and qa.894.raw.test.txt"),
        NamedSet("vqa_v2", "questions", {"train": None, "validation": None},
                 "v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json and the pictures", _VQA,
                 answers=True),
        NamedSet("cifar10", "labels", {"train": 50000, "test": 10000},
                 "cifar-10-batches-py/ or cifar-10-batches-bin/", _CIFAR10,
                 labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")),
    )
}  # fmt: skip


def names() -> list[str]:
    """All names that ``load`` knows."""
    return [*SETS, *SCENES]


def named(name: str) -> NamedSet:
    """The data set of that name, or a DataError with the names there are and the closest one."""
    if name in SETS:
        return SETS[name]
    raise DataError(f"there is no data set {name!r}{_guess(name, names())}; there are {', '.join(names())}")


def checked_split(name: str, split: str, splits) -> str:
    """``split`` if the set has it, or a DataError with the splits there are."""
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}{_guess(split, splits)}; it has {', '.join(splits)}")
    return split


def _guess(word, known) -> str:
    other = {"val": "validation", "valid": "validation", "dev": "validation"}
    close = [other[word]] if other.get(word) in known else get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
