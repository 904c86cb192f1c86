"""Exercises of chapter 06: where the scores end, pairs in a window, the short cut, near by luck, the handicap."""

import math

import torch

from mmlearn.exercises import Exercise, Misconception


# ------------------------------------------------------------------------------------------ 06.1 where the scores end
def _tables(generator):
    cases = []
    for shape, k, power in (
        ((4, 4), 1, 1.0),
        ((3, 5), 5, 0.75),
        ((6, 2), 2, 0.75),
        ((1, 3), 15, 0.5),
        ((5, 5), 3, 0.0),
    ):
        counts = torch.randint(1, 40, shape, generator=generator).float()
        if len(cases) == 1:
            counts[0, 1] = counts[2, 4] = 0.0
        cases.append((counts, k, power))
    return cases


def _optimum(noise=None, shift=lambda k: math.log(k), inside=None):
    def answer(counts, k, power):
        chance = (noise or _noise)(counts, power)
        top = counts if inside is None else inside(counts)
        return (top / (counts.sum(dim=1, keepdim=True) * chance)).log() - shift(k)

    return answer


def _noise(counts, power):
    weights = counts.sum(dim=0) ** power
    return weights / weights.sum()


OPTIMUM = Exercise(
    id="06.1",
    title="Where the scores end",
    inputs=_tables,
    solution=_optimum(),
    misconceptions=[
        Misconception(
            "that is the PMI shifted by log k, the answer for noise that follows the plain counts: "
            "here the counts are raised to a power first",
            _optimum(lambda counts, power: _noise(counts, 1.0)),
        ),
        Misconception("k is missing: with more negatives every score ends lower", _optimum(shift=lambda k: 0.0)),
        Misconception("the sign of log k: do more negatives push a score up?", _optimum(shift=lambda k: -math.log(k))),
        Misconception("k itself was subtracted: look again at what stands inside the logarithm", _optimum(shift=float)),
        Misconception(
            "the powers of the frequencies do not add up to 1: noise is a probability, so divide by their sum",
            _optimum(lambda counts, power: (counts.sum(dim=0) / counts.sum()) ** power),
        ),
        Misconception(
            "noise draws *neighbours*: it follows the sums of the columns, not of the rows",
            lambda counts, k, power: (
                (
                    counts
                    / (counts.sum(dim=0) * (counts.sum(dim=1) ** power / (counts.sum(dim=1) ** power).sum())[:, None])
                ).log()
                - math.log(k)
            ),
        ),
        Misconception(
            "how often the centre comes at all is missing: #(w) stands beside the noise",
            lambda counts, k, power: (counts / counts.sum() / _noise(counts, power)).log() - math.log(k),
        ),
        Misconception(
            "that is the odds, #(w,c) / (k·#(w)·Pₙ(c)): the sigmoid of a score is a probability, so what is the score?",
            lambda counts, k, power: counts / (k * counts.sum(dim=1, keepdim=True) * _noise(counts, power)),
        ),
        Misconception(
            "that is the probability σ(score): the score itself is its log-odds",
            lambda counts, k, power: counts / (counts + k * counts.sum(dim=1, keepdim=True) * _noise(counts, power)),
        ),
        Misconception(
            "you added something inside the logarithm: a pair that never comes has the score -inf, and that is right",
            _optimum(inside=lambda counts: counts + 1),
        ),
        Misconception(
            "you added something inside the logarithm: a pair that never comes has the score -inf, and that is right",
            _optimum(inside=lambda counts: counts.clamp(min=1e-8)),
        ),
    ],
    hints=[
        "One cell of the table has a loss of its own: a·(-log σ(s)) + b·(-log σ(-s)), where a counts how often the "
        "pair came and b how often noise made it. What is b?",
        "b = k·#(w)·Pₙ(c): each of the #(w) appearances of the centre draws k words, c with probability Pₙ(c). "
        "Now set the derivative by s to zero: a·(1 - σ(s)) = b·σ(s).",
        "σ(s) / (1 - σ(s)) = e^s, so s = log(a / b). Sum the counts over dim=1 for #(w), over dim=0 for the noise.",
    ],
    atol=1e-4,
)


# ------------------------------------------------------------------------------------------ 06.2 pairs in a window
def _lengths(generator):
    fixed = [(2, 1), (10, 1), (10, 5), (3, 5), (1, 4), (6, 6), (7, 6), (40, 3)]
    drawn = torch.randint(1, 15, (4, 2), generator=generator).tolist()
    return fixed + [tuple(pair) for pair in drawn]


def _pairs(share=lambda w, d: (w - d + 1) / w, ways=2, left=lambda n, d: max(0, n - d), reach=lambda w: w):
    return lambda n, window: float(sum(ways * left(n, d) * share(window, d) for d in range(1, reach(window) + 1)))


PAIRS = Exercise(
    id="06.2",
    title="How many pairs?",
    inputs=_lengths,
    solution=_pairs(),
    misconceptions=[
        Misconception(
            "that is for a window that always has its full width: r is drawn anew for each centre",
            _pairs(share=lambda w, d: 1),
        ),
        Misconception("each pair comes in both directions: (w, c) and (c, w) are two", _pairs(ways=1)),
        Misconception(
            "words at the ends have fewer neighbours: not every word has one d places to its right",
            _pairs(left=lambda n, d: n),
        ),
        Misconception("a window wider than the sentence: n - d must not fall below 0", _pairs(left=lambda n, d: n - d)),
        Misconception(
            "the chance that r reaches to distance d is (window - d + 1) / window: for d = 1 it is certain",
            _pairs(share=lambda w, d: (w - d) / w),
        ),
        Misconception(
            "you took the mean window, (window + 1) / 2, as if it were the window: near and far are not cut alike",
            lambda n, window: _pairs(share=lambda w, d: max(0.0, min(1.0, (w + 1) / 2 - d + 1)))(n, window),
        ),
        Misconception(
            "half of the full window's pairs: the nearest neighbours are always taken, the far ones seldom",
            _pairs(share=lambda w, d: 0.5),
        ),
    ],
    hints=[
        "Fix a distance d. How many ordered pairs of places in the sentence lie exactly d apart?",
        "2·(n - d) of them, if d < n. With r drawn from 1 … window, how likely is r ≥ d?",
        "The sum over d = 1 … window of 2·max(0, n - d)·(window - d + 1) / window.",
    ],
)


# ------------------------------------------------------------------------------------------ 06.3 the short cut
def _score_rows(generator):
    cases = []
    for n in (5, 8, 2, 12, 6):
        cases.append(
            (torch.rand(n, generator=generator) * 2 - 1, int(torch.randint(n, (1,), generator=generator)), 0.1)
        )
    clear = torch.tensor([-0.5, 0.9, 0.1, 0.0])
    cases.append((clear, 1, 0.1))  # nobody violates the margin
    cases.append((clear, 0, 0.1))  # all do
    cases.append((torch.tensor([0.5, 0.45, 0.35, -0.2, 0.55]), 0, 0.2))  # one above, two within the margin
    cases.append((torch.tensor([0.75, 0.5, 0.25, 0.5]), 0, 0.25))  # exactly at the margin: nothing to correct
    return cases


def _counted(tries, violates=lambda s, right, m: m - right + s > 0, own=False):
    def answer(scores, label, margin):
        rivals = scores if own else torch.cat([scores[:label], scores[label + 1 :]])
        v = int(violates(rivals, scores[label], margin).sum())
        return float(tries(len(rivals), v))

    return answer


def _waiting(n, v):
    return n if v == 0 else (n + 1) / (v + 1)


SHORT_CUT = Exercise(
    id="06.3",
    title="The price of the short cut",
    inputs=_score_rows,
    solution=_counted(_waiting),
    misconceptions=[
        Misconception(
            "n / v is the waiting time if a label may be drawn again and again: here each is tried once",
            _counted(lambda n, v: n if v == 0 else n / v),
        ),
        Misconception(
            "where no label violates the margin, all n are tried and then it is over: not one more",
            _counted(lambda n, v: (n + 1) / (v + 1)),
        ),
        Misconception(
            "the right label is not among the rivals: it would always violate the margin by the margin",
            _counted(_waiting, own=True),
        ),
        Misconception(
            "a rival counts already where it comes closer than the margin, not only where it is ahead",
            _counted(_waiting, violates=lambda s, right, m: s > right),
        ),
        Misconception(
            "a rival exactly at the margin has a loss of 0: it does not violate it",
            _counted(_waiting, violates=lambda s, right, m: m - right + s >= 0),
        ),
        Misconception(
            "that is the number of labels tried *before* the first that violates: it is tried too",
            _counted(lambda n, v: n if v == 0 else (n - v) / (v + 1)),
        ),
        Misconception(
            "you counted the rivals that violate the margin: how long does one wait for the first?",
            _counted(lambda n, v: v),
        ),
        Misconception(
            "where no label violates the margin, one still has to try them all to know it",
            _counted(lambda n, v: 0 if v == 0 else (n + 1) / (v + 1)),
        ),
    ],  # fmt: skip
    hints=[
        "Count the wrong labels n and, among them, the v that violate the margin. Put them in a row at random: "
        "the n - v others fall into the gaps before, between and behind the v. How many gaps are there?",
        "v + 1 gaps, all alike: (n - v) / (v + 1) others stand in the first one, on average, and then comes the one "
        "that is found.",
        "(n - v) / (v + 1) + 1 = (n + 1) / (v + 1), and n where v = 0.",
    ],
)


# ------------------------------------------------------------------------------------------ 06.4 near by luck
def _distance_rows(generator):
    cases = [
        (torch.tensor([0.0, 1, 1, 2, 2, 2, 3, 3]), 1),
        (torch.tensor([0.0, 1, 1, 2, 2, 2, 3, 3]), 2),
        (torch.tensor([2.0, 1, 3, 0, 1, 2, 2, 3]), 4),
        (torch.tensor([0.0, 4, 4, 4]), 2),
        (torch.tensor([5.0, 0, 2, 3, 4, 1]), 3),
        (torch.tensor([5.0, 0, 2, 3, 4, 1]), 6),
    ]
    for _ in range(3):
        n = int(torch.randint(5, 30, (1,), generator=generator))
        row = torch.randint(1, 4, (n,), generator=generator).float()
        row[int(torch.randint(n, (1,), generator=generator))] = 0.0
        cases.append((row, int(torch.randint(2, n, (1,), generator=generator))))
    return cases


def _lucky(expected, near=None):
    def answer(distances, k):
        radius = distances.sort().values[k - 1]
        return float(
            expected(int((distances <= radius).sum()) if near is None else near(distances, k), len(distances), k)
        )

    return answer


def _right_then_random(near, n, k):
    return (1 + (k - 1) * (near - 1) / (n - 1)) / k


LUCK = Exercise(
    id="06.4",
    title="Near by luck",
    inputs=_distance_rows,
    solution=_lucky(_right_then_random),
    misconceptions=[
        Misconception(
            "that is a model without any knowledge: this one always puts the right class first",
            _lucky(lambda near, n, k: near / n),
        ),
        Misconception(
            "the right class is taken: for the other k - 1 places remain near - 1 near classes among n - 1",
            _lucky(lambda near, n, k: (1 + (k - 1) * near / n) / k),
        ),
        Misconception(
            "the right class is taken: of the n - 1 that remain, near - 1 are near, not near",
            _lucky(lambda near, n, k: (1 + (k - 1) * near / (n - 1)) / k),
        ),
        Misconception(
            "you took exactly k classes as near: classes as far as the k-th belong to them as well",
            _lucky(_right_then_random, near=lambda distances, k: k),
        ),
        Misconception(
            "k is how many classes must lie inside, not how far: the radius grows until there are at least k",
            _lucky(_right_then_random, near=lambda distances, k: int((distances <= k).sum())),
        ),
        Misconception(
            "that is the expected number of near classes: a precision divides it by k",
            _lucky(lambda near, n, k: k * _right_then_random(near, n, k)),
        ),
        Misconception(
            "the first place is missing: the right class is there and counts",
            _lucky(lambda near, n, k: (k - 1) * (near - 1) / (n - 1) / k),
        ),
        Misconception(
            "only the first place is counted: by luck, some of the others are near too",
            _lucky(lambda near, n, k: 1 / k),
        ),
    ],  # fmt: skip
    hints=[
        "How many classes are near? Sort the distances; the radius is the k-th smallest, and all up to it count.",
        "One of the k places is certain. Each of the other k - 1 holds one of the n - 1 remaining classes, "
        "all equally likely. How many of these are near?",
        "(1 + (k - 1)·(near - 1) / (n - 1)) / k.",
    ],
)


# ------------------------------------------------------------------------------------------ 06.5 a handicap
def _zero_shot_scores(generator):
    cases = []
    for n, classes, unseen in ((6, 5, 2), (8, 10, 3), (5, 4, 1), (7, 6, 5)):
        scores = torch.rand(n, classes, generator=generator) * 2 - 1
        numbers = torch.randperm(classes, generator=generator)[:unseen]
        seen = torch.ones(classes, dtype=torch.bool)
        seen[numbers] = False
        labels = numbers[torch.randint(unseen, (n,), generator=generator)]
        cases.append((scores, labels, seen))
    scores = torch.tensor([[0.9, 0.5, 0.2, 0.1], [0.1, 0.2, 0.8, 0.3], [0.6, 0.1, 0.3, 0.5]])
    cases.append((scores, torch.tensor([2, 2, 2]), torch.tensor([True, True, False, False])))
    return cases


def _needed(rival=lambda scores, seen: scores[:, seen].amax(dim=1), lowest=0.0, check=True):
    def answer(scores, labels, seen):
        own = scores.gather(1, labels[:, None])[:, 0]
        gap = rival(scores, seen) - own
        gap = gap if lowest is None else gap.clamp(min=lowest)
        beaten = (scores[:, ~seen] > own[:, None]).any(dim=1)
        return gap.masked_fill(beaten, math.inf) if check else gap

    return answer


HANDICAP = Exercise(
    id="06.5",
    title="A handicap",
    inputs=_zero_shot_scores,
    solution=_needed(),
    misconceptions=[
        Misconception(
            "another *unseen* class may score higher: then no handicap of the seen ones helps, and the answer is inf",
            _needed(check=False),
        ),
        Misconception("a picture that is right already needs 0: a negative handicap is a bonus", _needed(lowest=None)),
        Misconception(
            "two things are missing: a picture that is right already needs 0, and where another unseen class is ahead "
            "no handicap helps (inf)",
            _needed(lowest=None, check=False),
        ),
        Misconception(
            "the handicap is taken from seen classes only: compare with the highest *seen* score",
            _needed(rival=lambda scores, seen: scores.amax(dim=1), check=False),
        ),
        Misconception(
            "all seen classes have to be overtaken, so it is the highest of them that counts, not their mean",
            _needed(rival=lambda scores, seen: scores[:, seen].mean(dim=1)),
        ),
        Misconception(
            "you compared with the highest *unseen* score: the handicap is taken from the seen ones",
            _needed(rival=lambda scores, seen: scores[:, ~seen].amax(dim=1), check=False),
        ),
        Misconception(
            "the mask is upside down: True marks a seen class",
            lambda scores, labels, seen: (
                _needed()(scores, labels, ~seen) if bool((~seen).any()) else _needed()(scores, labels, seen)
            ),
        ),
    ],
    hints=[
        "Take one picture. Which scores fall when the handicap grows, and which stay? Whom must its own overtake?",
        "Its own class is unseen and stays. It must reach the highest seen score minus the handicap, and it can never "
        "overtake another unseen class.",
        "(highest seen - own).clamp(min=0), and inf where (scores[:, ~seen] > own[:, None]).any(dim=1).",
    ],
)

EXERCISES = [OPTIMUM, PAIRS, SHORT_CUT, LUCK, HANDICAP]
