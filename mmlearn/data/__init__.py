"""Named data sets in one schema, pictures to tensors, and three tokenizers.

>>> from mmlearn import data
>>> ds = data.load("flickr8k", "train")            # image_id, image, captions
>>> images = data.to_tensor(ds, image_size=64)     # uint8 (N, 3, 64, 64)
>>> tok = data.WordTokenizer.train([c for row in ds["captions"] for c in row])
>>> tokens, mask = tok([row[0] for row in ds["captions"]], max_len=24, truncate=True)
"""

from mmlearn.data.batching import batches
from mmlearn.data.images import augment, decode, denormalise, normalise, to_rgb, to_tensor
from mmlearn.data.original import add
from mmlearn.data.registry import Check, FileCheck, Found, available, check, how_to_get, listing, load
from mmlearn.data.sets import names
from mmlearn.data.text import (
    END,
    MASK,
    PAD,
    SPECIALS,
    START,
    UNK,
    BytePairTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    load_tokenizer,
)
from mmlearn.data.vectors import WordVectors

__all__ = [
    "END",
    "MASK",
    "PAD",
    "SPECIALS",
    "START",
    "UNK",
    "BytePairTokenizer",
    "Check",
    "FileCheck",
    "Found",
    "Tokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "WordVectors",
    "add",
    "augment",
    "available",
    "batches",
    "check",
    "decode",
    "denormalise",
    "how_to_get",
    "listing",
    "load",
    "load_tokenizer",
    "names",
    "normalise",
    "to_rgb",
    "to_tensor",
]
