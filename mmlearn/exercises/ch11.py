"""Exercises of chapter 11: who may read whom, one loss of two tasks, a choice between two captions, what learns."""

import torch
import torch.nn.functional as F

from mmlearn.exercises import Exercise, Misconception


# --------------------------------------------------------------------- 11.1 who may read whom
def _texts(generator):
    cases = []
    for lengths, longest, n_patches in (
        ((3, 2), 4, 3),
        ((5, 1, 4), 5, 2),
        ((2, 2), 2, 2),  # no padding, as many words as patches
        ((1, 3), 6, 1),
        ((4, 2, 3, 1), 4, 5),
    ):
        cases.append((torch.arange(longest) < torch.tensor(lengths)[:, None], n_patches))
    return cases


def _maps(keys=lambda mask: mask, words_ask_patches=True, patches_ask_words=False, patches_first=False, turn=False):
    def answer(mask, n_patches):
        B, T = mask.shape
        words, patches = keys(mask)[:, None], mask.new_ones(B, 1, n_patches)
        from_words = torch.cat([words, patches & words_ask_patches], dim=2).expand(B, T, -1)
        from_patches = torch.cat([words & patches_ask_words, patches], dim=2).expand(B, n_patches, -1)
        both = torch.cat([from_words, from_patches], dim=1)
        if patches_first:
            both = both.roll((n_patches, n_patches), dims=(1, 2))
        return both.transpose(1, 2) if turn else both

    return answer


def _one_row(mask, n_patches):
    return F.pad(mask, (0, n_patches), value=True)


def _also_as_readers(mask, n_patches):
    return _maps()(mask, n_patches) & F.pad(mask, (0, n_patches), value=True)[:, :, None]


def _patches_alone(mask, n_patches):
    both = _maps()(mask, n_patches)
    both[:, -n_patches:, -n_patches:] = torch.eye(n_patches, dtype=torch.bool)
    return both


MAPS = Exercise(
    id="11.1",
    title="Who may read whom",
    inputs=_texts,
    solution=_maps(),
    misconceptions=[
        Misconception(
            "padding is read: a patch is never padding, but a word may be",
            _maps(keys=lambda mask: torch.ones_like(mask)),
        ),
        Misconception(
            "the patches read the words: that is merged attention, and here they must stay as they are",
            _maps(patches_ask_words=True),
        ),
        Misconception(
            "exchanged: row i says what position i may *read*, column j who may read position j",
            _maps(turn=True),
        ),
        Misconception("the words read no patch: then the two never meet", _maps(words_ask_patches=False)),
        Misconception(
            "exchanged: here the patches read the words, and not the words the patches",
            _maps(words_ask_patches=False, patches_ask_words=True),
        ),
        Misconception("the order: words stand in front, patches behind", _maps(patches_first=True)),
        Misconception(
            "that says who is padding, (B, T + P); asked is a square for each row, of who may read whom",
            _one_row,
        ),
        Misconception(
            "a padded position may read what it likes, it is only never *read*: a row without anything to read "
            "is a softmax of nothing",
            _also_as_readers,
        ),
        Misconception("a patch may read all patches, not only itself", _patches_alone),
    ],
    hints=[
        "There are four blocks: words reading words, words reading patches, patches reading words, patches reading "
        "patches. Write each as a (B, ·, ·) of True and False.",
        "In two of the blocks the answer depends only on the column: is the one who is *read* a real token?",
        "top = cat([mask[:, None].expand(B, T, T), ones(B, T, P)], 2); below it zeros(B, P, T) beside ones(B, P, P).",
    ],
)


# --------------------------------------------------------------------- 11.2 one loss of two tasks
IGNORE = -100


def _both_tasks(generator):
    cases = []
    for together, n_labels in (
        ((True, False, True), 5),
        ((True, True), 3),
        ((False, False, True, False), 9),
        ((False, False), 4),  # no pair belongs together: nothing to learn about words
        ((True, False), 0),  # nothing was masked
        ((False, True, True, True, False), 14),
    ):
        B, T, V = len(together), 4, 6
        labels = torch.full((B * T,), IGNORE)
        places = torch.randperm(B * T, generator=generator)[:n_labels]
        labels[places] = torch.randint(V, (n_labels,), generator=generator)
        cases.append(
            (
                torch.randn(B, generator=generator) * 2,
                torch.tensor(together),
                torch.randn(B, T, V, generator=generator),
                labels.view(B, T),
            )
        )
    return cases


def _matching(logits, together, reduction="mean"):
    return F.binary_cross_entropy_with_logits(logits, together.float(), reduction=reduction)


def _words(logits, labels, reduction="sum"):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction=reduction)


def _two(words):
    return lambda match, together, logits, labels: _matching(match, together) + words(match, together, logits, labels)


def _only_together(labels, together):
    return labels.masked_fill(~together[:, None], IGNORE)


def _right_words(match, together, logits, labels):
    kept = _only_together(labels, together)
    return _words(logits, kept) / (kept != IGNORE).sum().clamp(min=1)


def _all_pairs(match, together, logits, labels):
    return _words(logits, labels) / (labels != IGNORE).sum().clamp(min=1)


def _divided_by_all(match, together, logits, labels):
    return _words(logits, _only_together(labels, together)) / (labels != IGNORE).sum().clamp(min=1)


def _by_sentence(match, together, logits, labels):
    kept = _only_together(labels, together)
    each = torch.stack([_words(a[None], b[None]) for a, b in zip(logits, kept, strict=True)])
    counts = (kept != IGNORE).sum(dim=1)
    return (each / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def _by_position(match, together, logits, labels):
    return _words(logits, _only_together(labels, together)) / labels.numel()


def _not_a_number(match, together, logits, labels):
    return _words(logits, _only_together(labels, together), "mean")


def _not_a_number_all(match, together, logits, labels):
    return _words(logits, labels, "mean")


def _only_apart(match, together, logits, labels):
    return _right_words(match, ~together, logits, labels)


def _only_together_matching(match, together, logits, labels):
    return _matching(match, together, "none")[together].sum() / len(together) + _right_words(
        match, together, logits, labels
    )


TWO_TASKS = Exercise(
    id="11.2",
    title="One loss of two tasks",
    inputs=_both_tasks,
    solution=_two(_right_words),
    misconceptions=[
        Misconception(
            "the words of pairs that do *not* belong together are asked too: a wrong picture cannot tell them",
            _two(_all_pairs),
        ),
        Misconception(
            "not a number where no word is left to be asked: then that part of the loss is 0", _two(_not_a_number)
        ),
        Misconception(
            "the words of pairs that do *not* belong together are asked too: a wrong picture cannot tell them",
            _two(_not_a_number_all),
        ),
        Misconception(
            "you divided by words that you left out: the mean is over the words that are asked", _two(_divided_by_all)
        ),
        Misconception(
            "you took the mean of each sentence first: every asked *word* has the same weight", _two(_by_sentence)
        ),
        Misconception("you divided by all positions, also those where nothing is asked", _two(_by_position)),
        Misconception("exchanged: words are asked where `together` is False", _two(_only_apart)),
        Misconception("matching is missing: the loss is the sum of two tasks", _right_words),
        Misconception(
            "the masked words are missing: the loss is the sum of two tasks", _two(lambda *inputs: torch.zeros(()))
        ),
        Misconception(
            "matching learned only from pairs that belong together: who never sees another learns to say yes",
            _only_together_matching,
        ),
        Misconception(
            "the matching part is added up over the pairs: take its mean",
            lambda match, together, logits, labels: (
                _matching(match, together, "sum") + _right_words(match, together, logits, labels)
            ),
        ),
    ],
    hints=[
        "Matching is asked of every pair. Which pairs can the *words* be learned from?",
        "Set the labels of all other pairs to -100. Then count the labels that are left, before you divide.",
        "F.cross_entropy(…, ignore_index=-100, reduction='sum') / max(number left, 1), added to "
        "F.binary_cross_entropy_with_logits(match, together.float()).",
    ],
)


# --------------------------------------------------------------------- 11.3 a choice of two
def _scores(generator):
    cases = []
    for n in (6, 9, 1):
        cases.append((torch.randn(n, generator=generator), torch.randn(n, generator=generator)))
    same = torch.randn(5, generator=generator)
    cases.append((same, same.clone()))  # a model that cannot tell the two apart
    cases.append((torch.tensor([2.0, 1.0, 3.0, 0.5]), torch.tensor([1.0, 1.0, 3.0, 0.5])))  # one right, three ties
    cases.append((torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-2.0, -3.0, -1.0])))  # all below zero
    cases.append((torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0])))  # one wrong, one tie
    return cases


def _share(rule):
    return lambda true, false: float(rule(true, false).float().mean())


CHOICE = Exercise(
    id="11.3",
    title="A choice of two",
    inputs=_scores,
    solution=lambda true, false: ((true > false).double() + 0.5 * (true == false).double()).mean().item(),
    misconceptions=[
        Misconception(
            "a tie counts as right here: a model that gives every caption the same score would have 1.0",
            _share(lambda t, f: t >= f),
        ),
        Misconception(
            "a tie counts as wrong here: a model that gives every caption the same score would be worse than guessing",
            _share(lambda t, f: t > f),
        ),
        Misconception(
            "ties are left out here: then the few pairs that differ speak for all",
            lambda t, f: float((t > f).sum() / ((t != f).sum().clamp(min=1))),
        ),
        Misconception(
            "that compares every true caption with every false one: only the two of *one* picture are a choice",
            lambda t, f: ((t[:, None] > f).double() + 0.5 * (t[:, None] == f).double()).mean().item(),
        ),
        Misconception(
            "that asks each caption alone, whether its score is above zero: here the two are compared",
            lambda t, f: float(((t > 0).float().mean() + (f <= 0).float().mean()) / 2),
        ),
        Misconception(
            "that asks each caption alone, whether its score is above zero: here the two are compared",
            lambda t, f: float(((t > 0) & (f <= 0)).float().mean()),
        ),
        Misconception(
            "exchanged: right is where the true caption has the higher score",
            lambda t, f: ((t < f).double() + 0.5 * (t == f).double()).mean().item(),
        ),
        Misconception(
            "that is how far apart the scores are: count the choices", lambda t, f: float((t - f).sigmoid().mean())
        ),
    ],  # fmt: skip
    hints=[
        "Pair by pair: which of the two does the model choose? And what would it do where it has no preference?",
        "Where the two scores are equal, the model tosses a coin. How often is a coin right?",
        "The mean of 1 where true > false, ½ where they are equal, 0 elsewhere.",
    ],
)


# --------------------------------------------------------------------- 11.4 what learns
def _names(n_layers, towers=("vision.vit", "language.bert")):
    names = ["see.weight", "read.bias", "kind.weight", "match_head.weight", "answer_head.bias", "word_head.0.weight"]
    names += [f"join.layers.{i}.norm.weight" for i in range(n_layers)] + ["join.norm.bias"]
    names += ["vision.vit.positions", "vision.vit.stem.weight", "vision.vit.transformer.norm.weight"]
    names += ["language.bert.embedding.token.weight", "language.bert.embedding.norm.bias"]
    for tower in towers:
        for i in range(n_layers):
            names += [f"{tower}.transformer.layers.{i}.{part}" for part in ("attention.q_proj.weight", "norm.bias")]
    return names


def _cases(generator):
    sizes = ((3, 1), (2, 0), (12, 2), (12, 11), (4, 4), (11, 1))  # layers, how many of them learn
    return [(_names(n_layers), n_layers, last) for n_layers, last in sizes]


def _is_encoder(name):
    return name.startswith(("vision.", "language."))


def _number(name):
    return int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else -1


def _learning(rule):
    return lambda names, n_layers, last: [name for name in names if rule(name, n_layers, last)]


def _by_beginning(name, n_layers, last):
    if not _is_encoder(name):
        return True
    return ".layers." in name and not any(f".layers.{i}" in name for i in range(n_layers - last))


def _slice_of_nothing(name, n_layers, last):
    return not _is_encoder(name) or _number(name) in list(range(n_layers))[-last:]


WHAT_LEARNS = Exercise(
    id="11.4",
    title="What learns",
    inputs=_cases,
    solution=_learning(lambda name, n, last: not _is_encoder(name) or _number(name) >= n - last),
    misconceptions=[
        Misconception(
            "whoever freezes layer 1 by searching its text freezes 10 and 11 too: compare numbers, not letters",
            _learning(_by_beginning),
        ),
        Misconception(
            "with last = 0 everything learns: a slice [-0:] of a list is the whole list", _learning(_slice_of_nothing)
        ),
        Misconception(
            "the *first* layers learn here: the last ones are nearest to the task",
            _learning(lambda name, n, last: not _is_encoder(name) or 0 <= _number(name) < last),
        ),
        Misconception(
            "the fusion and the heads are new: they learn whatever becomes of the encoders",
            _learning(lambda name, n, last: _number(name) >= n - last),
        ),
        Misconception(
            "the fusion and the heads are new: they learn whatever becomes of the encoders",
            _learning(lambda name, n, last: _is_encoder(name) and _number(name) >= n - last),
        ),
        Misconception(
            "the fusion's own layers have numbers too: those all learn",
            _learning(lambda name, n, last: _number(name) >= n - last or (_number(name) < 0 and not _is_encoder(name))),
        ),
        Misconception(
            "what an encoder has outside its layers (words, positions, patches, the norm at the end) stays frozen",
            _learning(lambda name, n, last: not _is_encoder(name) or not 0 <= _number(name) < n - last),
        ),
        Misconception(
            "one layer too many or too few: they are numbered from 0",
            _learning(lambda name, n, last: not _is_encoder(name) or _number(name) > n - last),
        ),
        Misconception(
            "one layer too many or too few: they are numbered from 0",
            _learning(lambda name, n, last: not _is_encoder(name) or _number(name) >= n - last - 1),
        ),
        Misconception(
            "the text encoder is an encoder too",
            _learning(lambda name, n, last: not name.startswith("vision.") or _number(name) >= n - last),
        ),
        Misconception(
            "those are the names that are frozen: asked are the ones that learn",
            _learning(lambda name, n, last: _is_encoder(name) and _number(name) < n - last),
        ),
    ],
    hints=[
        "Sort the names into two: those that begin with vision. or language., and the rest. The rest is easy.",
        "Of an encoder's names only those with `.layers.` can learn. Take the number behind it, as an int.",
        "int(name.split('.layers.')[1].split('.')[0]) >= n_layers - last",
    ],
)

EXERCISES = [MAPS, TWO_TASKS, CHOICE, WHAT_LEARNS]
