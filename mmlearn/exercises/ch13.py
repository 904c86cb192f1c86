"""Exercises of chapter 13: a clipped scale, a class from many prompts, yes or no for every pair, no own rivals."""

import torch
import torch.nn.functional as F

from mmlearn.exercises import Exercise, Misconception


# --------------------------------------------------------------------- 13.1 learned, and clipped
def _log_scales(generator):
    values = (2.6593, 0.0, -3.0, 4.6052, 4.7, 30.0)
    cosines = [torch.rand(3, 4, generator=generator) * 2 - 1 for _ in values]
    return [(c, torch.tensor(v)) for c, v in zip(cosines, values, strict=True)]


SCALED = Exercise(
    id="13.1",
    title="Learned and clipped",
    inputs=_log_scales,
    solution=lambda cosines, log_scale: cosines * log_scale.exp().clamp(max=100),
    misconceptions=[
        Misconception(
            "the scale grows past 100: a limit is missing, or is set on its logarithm, where it comes far too late",
            lambda c, s: c * s.exp(),
        ),
        Misconception("what is learned is the *logarithm* of the scale", lambda c, s: c * s.clamp(max=100)),
        Misconception("divided: the scale is one *over* the temperature", lambda c, s: c / s.exp().clamp(max=100)),
        Misconception(
            "the table is limited here and not the scale: the cosines would lose their order",
            lambda c, s: (c * s.exp()).clamp(max=100),
        ),
        Misconception(
            "the table is limited here and not the scale: the cosines would lose their order",
            lambda c, s: (c * s.exp()).clamp(-100, 100),
        ),
        Misconception(
            "a scale below 1 is allowed: only large ones are cut", lambda c, s: c * s.exp().clamp(min=1, max=100)
        ),
        Misconception("a constant scale: it is learned", lambda c, s: c / 0.07),
    ],
    hints=[
        "How does one make a positive number from any number?",
        "First the scale, then its limit, then the product with the table.",
        "cosines * log_scale.exp().clamp(max=100)",
    ],
)


# --------------------------------------------------------------------- 13.2 a class from many prompts
def _prompts(generator):
    cases = []
    for C, P, D in ((3, 4, 5), (2, 1, 3), (4, 3, 6), (5, 2, 2)):
        x = torch.randn(C, P, D, generator=generator)
        cases.append((x / x.norm(dim=-1, keepdim=True),))
    return cases


def _unit(x):
    return F.normalize(x, dim=-1)


ENSEMBLE = Exercise(
    id="13.2",
    title="A class from many prompts",
    inputs=_prompts,
    solution=lambda x: _unit(x.mean(dim=1)),
    misconceptions=[
        Misconception(
            "these vectors are shorter than 1, and the more so the less a class's prompts agree: such a class could "
            "never win",
            lambda x: x.mean(dim=1),
        ),
        Misconception("the vectors are longer than 1: compare their lengths", lambda x: x.sum(dim=1)),
        Misconception("you mixed the classes: each class has its own prompts", lambda x: _unit(x.mean(dim=0))),
        Misconception("only the first prompt is used", lambda x: x[:, 0]),
        Misconception(
            "all classes were divided by one common length: each vector must have length 1",
            lambda x: x.mean(1) / x.mean(1).norm(),
        ),
        Misconception(
            "normalised over the classes and not over the numbers of a vector",
            lambda x: F.normalize(x.mean(dim=1), dim=0),
        ),
        Misconception("that averages the numbers of each prompt: a class needs a vector", lambda x: x.mean(dim=2)),
        Misconception(
            "the largest of each number: that is no direction between the prompts", lambda x: _unit(x.amax(dim=1))
        ),
    ],
    hints=[
        "Which of the three dimensions has to go?",
        "What is the length of the mean of two unit vectors that point in different directions? Does a cosine mind?",
        "F.normalize(vectors.mean(dim=1), dim=-1)",
    ],
)


# --------------------------------------------------------------------- 13.3 yes or no for every pair
def _squares(generator):
    cases = [(torch.randn(n, n, generator=generator) * 3,) for n in (4, 1, 7)]
    return [*cases, (torch.zeros(5, 5),), (torch.randn(3, 3, generator=generator) * 200,)]  # very sure: no overflow


def _signs(n):
    return 2 * torch.eye(n) - 1


def _pairs(scores):
    return -F.logsigmoid(_signs(len(scores)) * scores).sum() / len(scores)


def _overflows(scores):
    return -torch.log(torch.sigmoid(_signs(len(scores)) * scores)).sum() / len(scores)


def _overflows_exp(scores):
    return torch.log(1 + torch.exp(-_signs(len(scores)) * scores)).sum() / len(scores)


def _with_epsilon(scores):
    return -torch.log(torch.sigmoid(_signs(len(scores)) * scores) + 1e-8).sum() / len(scores)


YES_OR_NO = Exercise(
    id="13.3",
    title="Yes or no for every pair",
    inputs=_squares,
    solution=_pairs,
    misconceptions=[
        Misconception(
            "the mean over all cells: SigLIP adds up a picture's row, and takes the mean of the rows",
            lambda s: _pairs(s) / len(s),
        ),
        Misconception("the sum over all cells: take the mean of the rows", lambda s: _pairs(s) * len(s)),
        Misconception(
            "the wrong pairs are missing: a model that always says yes would be perfect",
            lambda s: -F.logsigmoid(s.diagonal()).mean(),
        ),
        Misconception("yes and no are exchanged: the right pairs stand on the diagonal", lambda s: _pairs(-s)),
        Misconception(
            "every pair is called right here, also those off the diagonal", lambda s: -F.logsigmoid(s).sum() / len(s)
        ),
        Misconception("an infinite loss where a score is large: the logarithm of a number that became 0", _overflows),
        Misconception(
            "an infinite loss where a score is large: the exponential leaves the range of floats", _overflows_exp
        ),
        Misconception(
            "a small number added inside the logarithm hides large mistakes: their loss must grow on", _with_epsilon
        ),
        Misconception(
            "that is a softmax: here each pair is asked by itself, without rivals",
            lambda s: (F.cross_entropy(s, torch.arange(len(s))) + F.cross_entropy(s.T, torch.arange(len(s)))) / 2,
        ),
        Misconception(
            "right and wrong pairs get equal weight here: SigLIP counts every pair once, most of them are wrong",
            lambda s: (
                -F.logsigmoid(s.diagonal()).mean()
                - F.logsigmoid(-s)[~torch.eye(len(s), dtype=torch.bool)].sum() / max(len(s) * (len(s) - 1), 1)
            ),
        ),
    ],
    hints=[
        "Each cell is a question of its own: do the two belong together? What is the answer on and off the diagonal?",
        "-log σ(s) for a yes, -log σ(-s) for a no. Look for a function that computes log σ without making σ first.",
        "-F.logsigmoid((2 * torch.eye(B) - 1) * scores).sum() / B",
    ],
)


# --------------------------------------------------------------------- 13.4 captions of one picture are no rivals
def _tables(generator):
    cases = []
    for owners in ([0, 1, 2], [4, 4, 7, 1], [3, 3, 3, 9, 9], [5, 5], [2], [0, 1, 0, 1, 0, 6]):
        scores = torch.randn(len(owners), len(owners), generator=generator) * 2
        cases.append((scores, torch.tensor(owners)))
    return cases


def _masked(scores, owner, rows=True, columns=True):
    rivals = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    scores, right = scores.masked_fill(rivals, -torch.inf), torch.arange(len(owner))
    by_row, by_column = F.cross_entropy(scores, right), F.cross_entropy(scores.T, right)
    return (by_row * rows + by_column * columns) / (rows + columns)


def _plain(scores, owner):
    right = torch.arange(len(owner))
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def _zeroed(scores, owner):
    rivals = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    return _plain(scores.masked_fill(rivals, 0.0), owner)


def _all_gone(scores, owner):
    return _plain(scores.masked_fill(owner[:, None] == owner, -torch.inf), owner)


def _all_right(scores, owner):
    """The multi-positive loss: mean over all right answers."""
    same = (owner[:, None] == owner).float()
    wanted = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2


def _any_right(scores, owner):
    same = owner[:, None] == owner
    share = [s.log_softmax(1).masked_fill(~same, -torch.inf).logsumexp(1) for s in (scores, scores.T)]
    return -(share[0].mean() + share[1].mean()) / 2


def _rows_dropped(scores, owner):
    alone = (owner[:, None] == owner).sum(1) == 1
    if not alone.any():
        return scores.sum() * 0
    right = torch.arange(len(owner))
    losses = F.cross_entropy(scores, right, reduction="none") + F.cross_entropy(scores.T, right, reduction="none")
    return losses[alone].mean() / 2


OWN_RIVALS = Exercise(
    id="13.4",
    title="No rivals of one picture",
    inputs=_tables,
    solution=_masked,
    misconceptions=[
        Misconception("captions of the same picture still count as wrong answers", _plain),
        Misconception("a score of 0 is still a candidate: one that is left out has no share at all", _zeroed),
        Misconception("you left out the right answer as well: a caption is no rival of itself", _all_gone),
        Misconception(
            "that counts the other captions as right answers too; asked is a loss in which they are neither right nor "
            "wrong",
            _all_right,
        ),
        Misconception(
            "that counts the other captions as right answers too; asked is a loss in which they are neither right nor "
            "wrong",
            _any_right,
        ),
        Misconception(
            "you dropped the pairs whose picture comes twice: they have a right answer and honest rivals, keep them",
            _rows_dropped,
        ),
        Misconception(
            "only pictures ask here: captions choose among pictures too", lambda s, o: _masked(s, o, columns=False)
        ),
        Misconception(
            "only captions ask here: pictures choose among captions too", lambda s, o: _masked(s, o, rows=False)
        ),
        Misconception("take the mean of the two directions, not their sum", lambda s, o: 2 * _masked(s, o)),
    ],
    hints=[
        "Which cells of the table are neither right nor wrong? Compare `owner` with itself, as a column with a row.",
        "The diagonal must stay. What score makes a candidate vanish from a softmax?",
        "scores.masked_fill((owner[:, None] == owner) & ~torch.eye(B, dtype=torch.bool), -torch.inf), then as before.",
    ],
)

EXERCISES = [SCALED, ENSEMBLE, YES_OR_NO, OWN_RIVALS]
