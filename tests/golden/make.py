"""Makes the golden files of the metrics with the field's own tools. Not run in CI; run it by hand when a case is added.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install pycocoevalcap rouge-score scikit-learn netcal torchmetrics jaxtyping
    /tmp/golden/bin/pip download --no-deps salesforce-lavis -d /tmp/golden
    PYTHONPATH=. /tmp/golden/bin/python tests/golden/make.py /tmp/golden/salesforce_lavis-*.whl

Needs Java too, for COCO's tokenizer. LAVIS holds the official evaluation code of visualqa.org; it does not install
beside today's versions, so that one file is read out of its wheel. All sentences are ours: drawn scenes, and invented.
"""

import importlib.metadata
import json
import random
import re
import sys
import types
import zipfile
from pathlib import Path

import netcal.metrics
import numpy as np
import sklearn.metrics
import torch
import torchmetrics.functional
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from rouge_score.rouge_scorer import RougeScorer

from mmlearn import scenes

HERE = Path(__file__).parent
INVENTED = [  # (what a model might say, what people might have written)
    ("A brown dog runs over the grass.", ["A brown dog is running through the grass.", "The dog's running outside!"]),
    ("two men play a game", ["Two men are playing football", "A game of football", "Men in red shirts, playing"]),
    ("a woman in a T-shirt a woman in a T-shirt", ["A woman wearing a T-shirt walks her two-year-old son."]),
    ("the the the the the the", ["The cat sat on the mat.", "There is a cat; it's on the mat."]),
    ("", ["Nobody's here.", "An empty street at night"]),
    ("boat", ["A boat", "A small boat on a lake", "Boat"]),
    ("a man don't swim in the sea", ["A man doesn't swim: he's standing in the sea up to his knees, smiling."]),
    ("a cake with 3.5 candles on it", ["A cake with 12 candles", "birthday cake, candles lit"]),
    ("children jump on a trampoline", ["Children jump on a trampoline", "children jump on a trampoline"]),
    ("a bird sits on a branch of a tree near a house with a red roof", ["a bird on a branch", "A bird"]),
    (
        "a man and a woman sit on a bench",
        ["A couple sits on a bench - in front of the sea.", "They rest (side by side)"],
    ),
    ("five o'clock tea", ["It's five o'clock", "Tea time for the 'ladies'"]),
]


def drawn_pairs(level: str, n: int) -> list[tuple[str, list[str]]]:
    """One caption of each drawn scene, of the next scene for every third, against the scene's other four."""
    world = scenes.World(level, seed=3)
    captions = world.captions(world.scenes("test", range(n + 1)))
    return [(captions[i + (i % 3 == 0)][i % 5], captions[i][: i % 5] + captions[i][i % 5 + 1 :]) for i in range(n)]


def cut(sentences: list[str]) -> list[str]:
    """Sentences as COCO's tokenizer cuts them, punctuation dropped."""
    pieces = PTBTokenizer().tokenize({i: [{"caption": sentence}] for i, sentence in enumerate(sentences)})
    dropped = {"-lrb-", "-rrb-"}  # COCO means to drop brackets too, but looks for them in capitals
    return [" ".join(w for w in pieces[i][0].split() if w not in dropped) for i in range(len(sentences))]


def captions() -> dict:
    out = []
    for name, pairs in (("invented", INVENTED), ("easy", drawn_pairs("easy", 12)), ("hard", drawn_pairs("hard", 24))):
        pieces = iter(cut([text for candidate, references in pairs for text in (candidate, *references)]))
        said, true = {}, {}
        for i, (_, references) in enumerate(pairs):
            said[i], true[i] = [next(pieces)], [next(pieces) for _ in references]
        bleus, _ = Bleu(4).compute_score(true, said, verbose=0)
        rouge, each_rouge = Rouge().compute_score(true, said)
        cider, _ = Cider().compute_score(true, said)
        f1 = RougeScorer(["rougeL"], tokenizer=types.SimpleNamespace(tokenize=str.split))
        first = [f1.score(true[i][0], said[i][0])["rougeL"].fmeasure for i in said]
        out.append(
            {"name": name, "candidates": [c for c, _ in pairs], "references": [r for _, r in pairs]}
            | {"cut": [said[i][0] for i in said], "cut_references": [true[i] for i in true]}
            | {"bleu": bleus, "rouge_l": rouge, "each_rouge_l": list(each_rouge), "first_reference_f1": first}
            | {"cider_d": cider}
        )
    return {"made_with": tools("pycocoevalcap", "rouge-score"), "corpora": out}


def official_vqa(wheel: str):
    """The class VQAEval of the official evaluation, out of the wheel of LAVIS."""
    source = zipfile.ZipFile(wheel).read("lavis/common/vqa_tools/vqa_eval.py").decode()
    module = types.ModuleType("vqa_eval")
    exec(source, module.__dict__)
    return module.VQAEval


def answers(wheel: str) -> dict:
    judge, chance = official_vqa(wheel), random.Random(0)
    rules = judge()
    parts = ["two", "the", "a", "dogs", "Red", "dont", "youll've", "1,000", "3.5", "7:30", "p.m.", "t-shirt", "yes!"]
    parts += ["none", "TEN", "cat/dog", "(left)", "it's", "o'clock", "?", "-", " , ", "\t", "\n", "white,black", "..."]
    parts += ["an", "St.", "a.b", "$5", "50%", "_x_", '"big"', "somebody'd", "shes", "Im", "hed've", "ow's'at", "é"]
    texts = parts + [chance.choice([" ", ""]).join(chance.sample(parts, chance.randint(2, 4))) for _ in range(150)]
    cleaned = []
    for text in texts:
        text = text.replace("\n", " ").replace("\t", " ").strip()
        cleaned.append(rules.processDigitArticle(rules.processPunctuation(text)))
    pool = ["yes", "no", "2", "two", "t-shirt", "t shirt", "a dog", "dog", "it's 7:30", "red, blue", "red blue", "dont"]
    asked = [(chance.choice(pool), chance.choices(chance.sample(pool, chance.randint(1, 4)), k=10)) for _ in range(80)]
    scores = []
    for said, ten in asked:
        entry = {"answers": [{"answer": a, "id": i} for i, a in enumerate(ten)], "question_type": "", "answer_type": ""}
        run = judge(
            types.SimpleNamespace(getQuesIds=lambda: [0], qa={0: entry}),
            types.SimpleNamespace(qa={0: {"answer": said}}),
        )
        run.n = 10  # digits
        run.evaluate()
        scores.append(run.accuracy["overall"] / 100)
    true = [chance.choice(["lamp", "chair", "chair, table", "2", "white", "book"]) for _ in range(60)]
    said = [t if chance.random() < 0.4 else chance.choice(["chair", "lamp", "2", "sofa"]) for t in true]
    f1 = {kind: sklearn.metrics.f1_score(true, said, average=kind, zero_division=0) for kind in ("macro", "micro")}
    return {
        "made_with": tools("scikit-learn") | {"salesforce-lavis": re.search(r"lavis-([\d.]+)-", wheel)[1]},
        "normalised": list(zip(texts, cleaned, strict=True)),
        "soft": [{"said": s, "ten": t, "score": score} for (s, t), score in zip(asked, scores, strict=True)],
        "f1": {"said": said, "true": true, **f1, "accuracy": sklearn.metrics.accuracy_score(true, said)},
    }


def classes() -> dict:
    chance = np.random.default_rng(0)
    logits = 3 * chance.normal(size=(200, 6))
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).round(6)
    y = np.where(chance.random(200) < 0.5, p.argmax(1), chance.integers(0, 6, 200))
    ece = {str(bins): float(netcal.metrics.ECE(bins).measure(p, y)) for bins in (1, 5, 10, 15)}
    tensors = torch.tensor(p), torch.tensor(y)
    again = torchmetrics.functional.calibration_error(*tensors, task="multiclass", num_classes=6, n_bins=15)
    assert abs(again.item() - ece["15"]) < 1e-6
    top = {str(k): sklearn.metrics.top_k_accuracy_score(y, p, k=k) for k in (1, 2, 5)}
    versions = tools("scikit-learn", "netcal", "torchmetrics")
    return {"made_with": versions, "probabilities": p.tolist(), "labels": y.tolist(), "ece": ece, "top_k": top}


def tools(*names: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    for name, content in (("captions", captions()), ("answers", answers(sys.argv[1])), ("classes", classes())):
        text = json.dumps(content, ensure_ascii=False, indent=1, default=float)
        flat = re.sub(r"\[\n[^\[\]{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)  # one list, one line
        (HERE / f"{name}.json").write_text(flat + "\n", encoding="utf-8")
