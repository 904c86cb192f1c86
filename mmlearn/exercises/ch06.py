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
            "noise is a probability: do the chances of all columns add up to 1 after the power is taken?",
            _optimum(lambda counts, power: (counts.sum(dim=0) / counts.sum()) ** power),
        ),
        Misconception(
            "noise is a probability: do the chances of all columns add up to 1 after the power is taken?",
            _optimum(lambda counts, power: counts.sum(dim=0) ** power / counts.sum()),
        ),
        Misconception(
            "noise is a probability: do the chances of all columns add up to 1 after the power is taken?",
            _optimum(lambda counts, power: counts.sum(dim=0) ** power),
        ),
        Misconception(
            "only the noise is raised to a power: real pairs come as often as the table says",
            lambda counts, k, power: _optimum()(counts**power, k, 1.0),
        ),
        Misconception(
            "the noise follows the counts: where are the sums of the columns?",
            _optimum(lambda counts, power: torch.full_like(counts[0], 1 / counts.shape[1])),
        ),
        Misconception(
            "the sign is turned round: which pairs should score high, those of the text or those of the noise?",
            lambda counts, k, power: -_optimum()(counts, k, power),
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
            "a frequent centre meets more noise than a rare one: where is that in your answer?",
            lambda counts, k, power: (counts / counts.sum() / _noise(counts, power)).log() - math.log(k),
        ),
        Misconception(
            "a frequent centre meets more noise than a rare one: where is that in your answer?",
            lambda counts, k, power: (counts / _noise(counts, power)).log() - math.log(k),
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
        Misconception(
            "-inf was replaced: a pair that never comes costs least the lower its score, and there is no lowest",
            lambda counts, k, power: _optimum()(counts, k, power).nan_to_num(),
        ),
        Misconception(
            "-inf was replaced: a pair that never comes costs least the lower its score, and there is no lowest",
            lambda counts, k, power: _optimum()(counts, k, power).nan_to_num(neginf=0.0),
        ),
        Misconception(
            "scores below 0 were cut off: a pair rarer than its noise has a negative score",
            lambda counts, k, power: _optimum()(counts, k, power).clamp(min=0),
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
            "check the ends of your chance that r reaches to distance d: for d = 1 it is certain, for d = window it is "
            "not yet 0",
            _pairs(share=lambda w, d: (w - d) / w),
        ),
        Misconception(
            "that is the chance that r is exactly d: a word looks at all places up to r, not only at the last",
            _pairs(share=lambda w, d: 1 / w),
        ),
        Misconception(
            "r is drawn from 1 … window, so it has window values, not one more",
            _pairs(share=lambda w, d: (w - d + 1) / (w + 1)),
        ),
        Misconception(
            "the last distance is missing: r can be as large as the window",
            _pairs(reach=lambda w: w - 1),
        ),
        Misconception(
            "only the centre has to reach its neighbour; the neighbour need not reach back",
            _pairs(share=lambda w, d: ((w - d + 1) / w) ** 2),
        ),
        Misconception(
            "count places, for example in a sentence of two words: how many pairs lie one place apart?",
            _pairs(left=lambda n, d: max(0, n - d + 1)),
        ),
        Misconception(
            "a word is no neighbour of itself",
            lambda n, window: n + _pairs()(n, window),
        ),
        Misconception(
            "r is drawn from 1 … window in a short sentence too: it may point beyond the end",
            lambda n, window: _pairs()(n, max(1, min(n - 1, window))),
        ),
        Misconception(
            "a mean need not be a whole number: do not round it",
            lambda n, window: int(_pairs()(n, window)),
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
    cases.append((torch.tensor([0.5, 0.6, -0.9, -0.8, -0.7, -0.6]), 0, 0.1))  # the first one violates, by luck
    return cases


def _counted(tries, violates=lambda s, right, m: m - right + s > 0, own=False):
    def answer(scores, label, margin):
        rivals = scores if own else torch.cat([scores[:label], scores[label + 1 :]])
        v = int(violates(rivals, scores[label], margin).sum())
        return float(tries(len(rivals), v))

    return answer


def _waiting(n, v):
    return n if v == 0 else (n + 1) / (v + 1)


def _in_this_order(scores, label, margin):
    rivals = torch.cat([scores[:label], scores[label + 1 :]])
    bad = (margin - scores[label] + rivals > 0).tolist()
    return float(bad.index(True) + 1 if any(bad) else len(bad))


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
            "two things: n / v is the waiting time if a label may be drawn again and again, and v can be 0",
            _counted(lambda n, v: n / v),
        ),
        Misconception(
            "where all n labels violate the margin, the first try finds one: what does yours give there?",
            _counted(lambda n, v: n if v == 0 else n / (v + 1)),
        ),
        Misconception(
            "the right label is never tried: how many *wrong* labels are there?",
            _counted(lambda n, v: n if v == 0 else (n + 2) / (v + 1)),
        ),
        Misconception(
            "the right label is not among the rivals: it would always violate the margin by the margin",
            _counted(lambda n, v: (n + 1) / (v + 2)),
        ),
        Misconception(
            "that is the worst order, with all that violate at the end: what happens on average?",
            _counted(lambda n, v: n if v == 0 else n - v + 1),
        ),
        Misconception(
            "you tried them in the order in which they stand: asked is the mean over all orders",
            _in_this_order,
        ),
        Misconception(
            "the margin is turned round: a wrong label violates it where it is high, not where it is low",
            _counted(_waiting, violates=lambda s, right, m: m + right - s > 0),
        ),
        Misconception(
            "the margin is an argument, and not always 0.1",
            lambda scores, label, margin: _counted(_waiting)(scores, label, 0.1),
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


def _strictly_nearer(distances, k):
    return int((distances < distances.sort().values[k - 1]).sum())


def _radius_without_itself(distances, k):
    others = distances[distances > 0].sort().values
    return 1 + int((others <= others[min(k, len(others)) - 1]).sum())


LUCK = Exercise(
    id="06.4",
    title="Near by luck",
    inputs=_distance_rows,
    solution=_lucky(_right_then_random),
    misconceptions=[
        Misconception(
            "that is a model without any knowledge: this one always puts the right label first",
            _lucky(lambda near, n, k: near / n),
        ),
        Misconception(
            "the right label has its place already: it is not among those that are left to be drawn",
            _lucky(lambda near, n, k: (1 + (k - 1) * near / n) / k),
        ),
        Misconception(
            "the right label has its place already: among those that are left, how many are still near?",
            _lucky(lambda near, n, k: (1 + (k - 1) * near / (n - 1)) / k),
        ),
        Misconception(
            "the right label has its place already: how many labels are left to be drawn?",
            _lucky(lambda near, n, k: (1 + (k - 1) * (near - 1) / n) / k),
        ),
        Misconception(
            "the radius grows until at least k labels are inside, and a label at the radius itself is inside",
            lambda distances, k: _lucky(_right_then_random, near=_strictly_nearer)(distances, k),
        ),
        Misconception(
            "the right label, at distance 0, is one of the k that must lie inside the radius",
            _lucky(_right_then_random, near=_radius_without_itself),
        ),
        Misconception(
            "a radius of 1 is what came out in this chapter's table: here it depends on the distances and on k",
            _lucky(_right_then_random, near=lambda distances, k: int((distances <= 1).sum())),
        ),
        Misconception(
            "that is the share of near labels among the others: the first place is certain and counts too",
            _lucky(lambda near, n, k: (near - 1) / (n - 1)),
        ),
        Misconception(
            "a precision divides by the k places, not by the number of near labels",
            _lucky(lambda near, n, k: (1 + (k - 1) * (near - 1) / (n - 1)) / near),
        ),
        Misconception(
            "the right label is the one at distance 0, and not always the first of the row",
            _lucky(
                _right_then_random,
                near=lambda distances, k: 1 + int((distances[1:] <= distances.sort().values[k - 1]).sum()),
            ),
        ),
        Misconception(
            "you took exactly k labels as near: labels as far as the k-th belong to them as well",
            _lucky(_right_then_random, near=lambda distances, k: k),
        ),
        Misconception(
            "k is how many labels must lie inside, not how far: the radius grows until there are at least k",
            _lucky(_right_then_random, near=lambda distances, k: int((distances <= k).sum())),
        ),
        Misconception(
            "that is the expected number of near labels: a precision divides it by k",
            _lucky(lambda near, n, k: k * _right_then_random(near, n, k)),
        ),
        Misconception(
            "the first place is missing: the right label is there and counts",
            _lucky(lambda near, n, k: (k - 1) * (near - 1) / (n - 1) / k),
        ),
        Misconception(
            "only the first place is counted: by luck, some of the others are near too",
            _lucky(lambda near, n, k: 1 / k),
        ),
    ],  # fmt: skip
    hints=[
        "How many labels are near? Sort the distances; the radius is the k-th smallest, and all up to it count.",
        "One of the k places is certain. Each of the other k - 1 holds one of the n - 1 remaining labels, "
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


def _hopeless_where_answered(scores, labels, seen):
    first = scores.argmax(dim=1)
    return _needed(check=False)(scores, labels, seen).masked_fill(~seen[first] & (first != labels), math.inf)


HANDICAP = Exercise(
    id="06.5",
    title="A handicap",
    inputs=_zero_shot_scores,
    solution=_needed(),
    misconceptions=[
        Misconception(
            "another *unseen* label may score higher: then no handicap of the seen ones helps, and the answer is inf",
            _needed(check=False),
        ),
        Misconception("a picture that is right already needs 0: a negative handicap is a bonus", _needed(lowest=None)),
        Misconception(
            "a picture that is right already needs 0: its lead is no handicap",
            lambda scores, labels, seen: _needed(lowest=None)(scores, labels, seen).abs(),
        ),
        Misconception(
            "everything is inf: its own label is unseen too, and is not ahead of itself",
            lambda scores, labels, seen: torch.full((len(scores),), math.inf),
        ),
        Misconception(
            "where a seen label is first, an unseen one may still be ahead of the right one: that is hopeless too",
            _hopeless_where_answered,
        ),
        Misconception(
            "the right label is the one in labels, and not always the highest of the unseen ones",
            lambda scores, labels, seen: (scores[:, seen].amax(dim=1) - scores[:, ~seen].amax(dim=1)).clamp(min=0),
        ),
        Misconception(
            "the right label has to be first, so it is the highest of the seen ones that counts, not the lowest",
            _needed(rival=lambda scores, seen: scores[:, seen].amin(dim=1)),
        ),
        Misconception(
            "0 says that nothing is needed: a picture that cannot be helped gets inf",
            lambda scores, labels, seen: _needed()(scores, labels, seen).nan_to_num(posinf=0.0),
        ),
        Misconception(
            "a large number is still a handicap: a picture that cannot be helped gets inf",
            lambda scores, labels, seen: _needed()(scores, labels, seen).nan_to_num(),
        ),
        Misconception(
            "nan says that nothing is known: a picture that cannot be helped gets inf",
            lambda scores, labels, seen: _needed()(scores, labels, seen).nan_to_num(posinf=math.nan),
        ),
        Misconception(
            "two things are missing: a picture that is right already needs 0, and where another unseen label is ahead "
            "no handicap helps (inf)",
            _needed(lowest=None, check=False),
        ),
        Misconception(
            "the handicap is taken from seen labels only: compare with the highest *seen* score",
            _needed(rival=lambda scores, seen: scores.amax(dim=1), check=False),
        ),
        Misconception(
            "all seen labels have to be overtaken, so it is the highest of them that counts, not their mean",
            _needed(rival=lambda scores, seen: scores[:, seen].mean(dim=1)),
        ),
        Misconception(
            "you compared with the highest *unseen* score: the handicap is taken from the seen ones",
            _needed(rival=lambda scores, seen: scores[:, ~seen].amax(dim=1), check=False),
        ),
        Misconception(
            "the mask is upside down: True marks a seen label",
            lambda scores, labels, seen: (
                _needed()(scores, labels, ~seen) if bool((~seen).any()) else _needed()(scores, labels, seen)
            ),
        ),
    ],
    hints=[
        "Take one picture. Which scores fall when the handicap grows, and which stay? Whom must its own overtake?",
        "Its own label is unseen and stays. It must reach the highest seen score minus the handicap, and it can never "
        "overtake another unseen label.",
        "(highest seen - own).clamp(min=0), and inf where (scores[:, ~seen] > own[:, None]).any(dim=1).",
    ],
)

EXERCISES = [OPTIMUM, PAIRS, SHORT_CUT, LUCK, HANDICAP]
