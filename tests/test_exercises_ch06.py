"""Exercises of chapter 06: students' wrong answers get the message that helps, right ones in other words pass."""

import math
from itertools import permutations

import pytest
import torch

from mmlearn.metrics.classification import hierarchical_precision
from tests.exercise_cases import assert_chapter, assert_wrong


# 06.1 -------------------------------------------------------------------------------------------------
def right_optimum(counts, k, power):
    table = torch.empty_like(counts)
    weights = [column.sum().item() ** power for column in counts.T]
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            real = counts[i, j].item()
            noise = k * counts[i].sum().item() * weights[j] / sum(weights)
            table[i, j] = math.log(real / noise) if real else -math.inf
    return table


def wrong_pmi(counts, k, power):
    n = counts.sum()
    return torch.log(counts * n / torch.outer(counts.sum(1), counts.sum(0))) - math.log(k)


def wrong_without_k(counts, k, power):
    return right_optimum(counts, 1, power)


def wrong_plus_k(counts, k, power):
    return right_optimum(counts, 1, power) + math.log(k)


def wrong_not_normalised(counts, k, power):
    frequency = (counts.sum(0) / counts.sum()) ** power
    return torch.log(counts / (k * counts.sum(1)[:, None] * frequency))


def wrong_without_centre(counts, k, power):
    noise = counts.sum(0) ** power / (counts.sum(0) ** power).sum()
    return torch.log(counts / counts.sum() / (k * noise))


def wrong_odds(counts, k, power):
    return right_optimum(counts, k, power).exp()


def wrong_sigmoid(counts, k, power):
    return right_optimum(counts, k, power).sigmoid()


def wrong_smoothed(counts, k, power):
    noise = counts.sum(0) ** power / (counts.sum(0) ** power).sum()
    return torch.log((counts + 1) / (k * counts.sum(1, keepdim=True) * noise))


def wrong_tiny_added(counts, k, power):
    noise = counts.sum(0) ** power / (counts.sum(0) ** power).sum()
    return torch.log((counts + 1e-8) / (k * counts.sum(1, keepdim=True) * noise))


def wrong_pmi_with_a_power(counts, k, power):
    return torch.log(counts * counts.sum() / torch.outer(counts.sum(1), counts.sum(0) ** power)) - math.log(k)


def wrong_power_everywhere(counts, k, power):
    return right_optimum(counts**power, k, 1.0)


def wrong_no_infinity(counts, k, power):
    return torch.nan_to_num(right_optimum(counts, k, power), neginf=0.0)


def wrong_upside_down(counts, k, power):
    return -right_optimum(counts, k, power)


def wrong_k_subtracted(counts, k, power):
    return right_optimum(counts, 1, power) - k


# 06.2 -------------------------------------------------------------------------------------------------
def right_pairs(n, window):
    total = 0.0
    for r in range(1, window + 1):
        total += sum(min(n - 1, i + r) - max(0, i - r) for i in range(n)) / window
    return total


def wrong_full_window(n, window):
    return sum(min(n - 1, i + window) - max(0, i - window) for i in range(n))


def wrong_one_direction(n, window):
    return right_pairs(n, window) / 2


def wrong_ends(n, window):
    return n * (window + 1)


def wrong_negative(n, window):
    return sum(2 * (n - d) * (window + 1 - d) / window for d in range(1, window + 1))


def wrong_reach(n, window):
    return sum(2 * max(n - d, 0) * (window - d) / window for d in range(1, window + 1))


def wrong_exactly_d(n, window):
    return sum(2 * max(n - d, 0) / window for d in range(1, window + 1))


def wrong_both_reach(n, window):
    return sum(2 * max(n - d, 0) * ((window + 1 - d) / window) ** 2 for d in range(1, window + 1))


def wrong_short_reach(n, window):
    return right_pairs(n, min(window, n - 1)) if n > 1 else 0.0


def wrong_last_distance(n, window):
    return sum(2 * max(n - d, 0) * (window + 1 - d) / window for d in range(1, window))


def wrong_half(n, window):
    return wrong_full_window(n, window) / 2


# 06.3 -------------------------------------------------------------------------------------------------
def right_tries(scores, label, margin):
    rivals = [s for j, s in enumerate(scores.tolist()) if j != label]
    bad = [margin - scores[label].item() + s > 1e-9 for s in rivals]
    if not any(bad):
        return len(bad)
    v = sum(bad)  # P(more than t tries) = C(n - v, t) / C(n, t), summed over t
    return sum(math.comb(len(bad) - v, t) / math.comb(len(bad), t) for t in range(len(bad) - v + 1))


def wrong_with_replacement(scores, label, margin):
    mask = torch.arange(len(scores)) != label
    v = (margin - scores[label] + scores[mask] > 0).sum()
    return int(mask.sum()) if v == 0 else (mask.sum() / v).item()


def wrong_one_too_many(scores, label, margin):
    mask = torch.arange(len(scores)) != label
    v = (margin - scores[label] + scores[mask] > 0).sum().item()
    return len(scores) / (v + 1)


def wrong_own_label(scores, label, margin):
    v = (margin - scores[label] + scores > 0).sum().item()
    return (len(scores) + 1) / (v + 1)


def wrong_only_ahead(scores, label, margin):
    v = (scores > scores[label]).sum().item()
    return len(scores) / (v + 1) if v else len(scores) - 1


def wrong_before(scores, label, margin):
    answer = right_tries(scores, label, margin)
    v = ((margin - scores[label] + scores > 0).sum() - 1).item()
    return answer - 1 if v else answer


def wrong_on_the_margin(scores, label, margin):
    v = (margin - scores[label] + scores >= 0).sum().item() - 1
    return len(scores) / (v + 1) if v else len(scores) - 1


def wrong_in_this_order(scores, label, margin):
    rivals = [s for j, s in enumerate(scores) if j != label]
    return next((i for i, s in enumerate(rivals, 1) if margin - scores[label] + s > 0), len(rivals))


def wrong_no_try_for_the_find(scores, label, margin):
    v = (margin - scores[label] + scores > 0).sum().item() - 1
    return (len(scores) - 1) / (v + 1)


def wrong_fixed_margin(scores, label, margin):
    return right_tries(scores, label, 0.1)


def wrong_all_labels(scores, label, margin):
    v = (margin - scores[label] + scores > 0).sum().item() - 1
    return (len(scores) + 1) / (v + 1) if v else len(scores) - 1


# 06.4 -------------------------------------------------------------------------------------------------
def right_luck(distances, k):
    radius = sorted(distances.tolist())[k - 1]
    near = [d <= radius for d in distances.tolist()]
    others = sum(near) - 1
    return 1 / k + (k - 1) / k * others / (len(near) - 1)


def wrong_knows_nothing(distances, k):
    radius = distances.sort().values[k - 1]
    return (distances <= radius).float().mean().item()


def wrong_counts_itself(distances, k):
    radius = distances.sort().values[k - 1]
    near = (distances <= radius).sum().item()
    return (1 + (k - 1) * near / len(distances)) / k


def wrong_near_is_k(distances, k):
    return (1 + (k - 1) * (k - 1) / (len(distances) - 1)) / k


def wrong_radius_is_k(distances, k):
    near = (distances <= k).sum().item()
    return (1 + (k - 1) * (near - 1) / (len(distances) - 1)) / k


def wrong_not_divided(distances, k):
    return right_luck(distances, k) * k


def wrong_radius_of_the_chapter(distances, k):
    near = (distances <= 1).sum().item()
    return (1 + (k - 1) * (near - 1) / (len(distances) - 1)) / k


def wrong_strictly_inside(distances, k):
    near = (distances < distances.sort().values[k - 1]).sum().item()
    return (1 + (k - 1) * (near - 1) / (len(distances) - 1)) / k


def wrong_others_only(distances, k):
    near = (distances <= distances.sort().values[k - 1]).sum().item()
    return (near - 1) / (len(distances) - 1)


def wrong_left_to_draw(distances, k):
    near = (distances <= distances.sort().values[k - 1]).sum().item()
    return (1 + (k - 1) * (near - 1) / len(distances)) / k


# 06.5 -------------------------------------------------------------------------------------------------
def right_handicap(scores, labels, seen):
    result = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        own = row[label]
        highest = max(s for s, known in zip(row, seen.tolist(), strict=True) if known)
        ahead = any(s > own for s, known in zip(row, seen.tolist(), strict=True) if not known)
        result.append(math.inf if ahead else max(0.0, highest - own))
    return torch.tensor(result)


def wrong_never_inf(scores, labels, seen):
    own = scores[torch.arange(len(scores)), labels]
    return (scores[:, seen].max(1).values - own).relu()


def wrong_bonus(scores, labels, seen):
    own = scores[torch.arange(len(scores)), labels]
    gap = scores[:, seen].max(1).values - own
    return torch.where((scores[:, ~seen] > own[:, None]).any(1), torch.inf, gap)


def wrong_both(scores, labels, seen):
    return scores[:, seen].max(1).values - scores[torch.arange(len(scores)), labels]


def wrong_mean(scores, labels, seen):
    own = scores[torch.arange(len(scores)), labels]
    gap = (scores[:, seen].mean(1) - own).relu()
    return torch.where((scores[:, ~seen] > own[:, None]).any(1), torch.inf, gap)


def wrong_all_classes(scores, labels, seen):
    return scores.max(1).values - scores[torch.arange(len(scores)), labels]


def wrong_hopeless_only_where_answered(scores, labels, seen):
    gap, first = wrong_never_inf(scores, labels, seen), scores.argmax(1)
    return torch.where(~seen[first] & (first != labels), torch.inf, gap)


def wrong_best_unseen(scores, labels, seen):
    return (scores[:, seen].max(1).values - scores[:, ~seen].max(1).values).relu()


def wrong_always_inf(scores, labels, seen):
    own = scores[torch.arange(len(scores)), labels]
    return torch.where((scores[:, ~seen] >= own[:, None]).any(1), torch.inf, wrong_never_inf(scores, labels, seen))


def wrong_large_number(scores, labels, seen):
    return torch.nan_to_num(right_handicap(scores, labels, seen))


WRONG = {
    "06.1": [
        (wrong_pmi, "raised to a power first"),
        (wrong_without_k, "k is missing"),
        (wrong_plus_k, "the sign of log k"),
        (wrong_not_normalised, "add up to 1"),
        (wrong_without_centre, "a frequent centre meets more noise"),
        (wrong_odds, "that is the odds"),
        (wrong_sigmoid, "its log-odds"),
        (wrong_smoothed, "that is right"),
        (wrong_tiny_added, "that is right"),
        (wrong_k_subtracted, "k itself was subtracted"),
        (wrong_pmi_with_a_power, "add up to 1"),
        (wrong_power_everywhere, "only the noise is raised"),
        (wrong_no_infinity, "-inf was replaced"),
        (wrong_upside_down, "the sign is turned round"),
    ],
    "06.2": [
        (wrong_full_window, "r is drawn anew"),
        (wrong_one_direction, "both directions"),
        (wrong_ends, "words at the ends"),
        (wrong_negative, "wider than the sentence"),
        (wrong_reach, "check the ends of your chance"),
        (wrong_exactly_d, "r is exactly d"),
        (wrong_both_reach, "need not reach back"),
        (wrong_short_reach, "in a short sentence too"),
        (wrong_last_distance, "the last distance is missing"),
        (wrong_half, "the nearest neighbours are always taken"),
    ],
    "06.3": [
        (wrong_with_replacement, "each is tried once"),
        (wrong_one_too_many, "not one more"),
        (wrong_own_label, "not among the rivals"),
        (wrong_only_ahead, "closer than the margin"),
        (wrong_before, "it is tried too"),
        (wrong_on_the_margin, "exactly at the margin"),
        (wrong_in_this_order, "mean over all orders"),
        (wrong_no_try_for_the_find, "the first try finds one"),
        (wrong_fixed_margin, "not always 0.1"),
        (wrong_all_labels, "how many *wrong* labels"),
    ],
    "06.4": [
        (wrong_knows_nothing, "always puts the right label first"),
        (wrong_counts_itself, "not among those that are left"),
        (wrong_near_is_k, "as far as the k-th"),
        (wrong_radius_is_k, "not how far"),
        (wrong_not_divided, "a precision divides it"),
        (wrong_radius_of_the_chapter, "in this chapter's table"),
        (wrong_strictly_inside, "at the radius itself is inside"),
        (wrong_others_only, "the first place is certain"),
        (wrong_left_to_draw, "how many labels are left"),
    ],
    "06.5": [
        (wrong_never_inf, "no handicap of the seen ones helps"),
        (wrong_bonus, "a negative handicap"),
        (wrong_both, "two things are missing"),
        (wrong_mean, "not their mean"),
        (wrong_all_classes, "highest *seen* score"),
        (wrong_hopeless_only_where_answered, "that is hopeless too"),
        (wrong_best_unseen, "the one in labels"),
        (wrong_always_inf, "not ahead of itself"),
        (wrong_large_number, "gets inf"),
    ],
}
RIGHT = {
    "06.1": right_optimum,
    "06.2": right_pairs,
    "06.3": right_tries,
    "06.4": right_luck,
    "06.5": right_handicap,
}


def test_chapter():
    assert_chapter("06", WRONG, RIGHT)


def test_tries_are_those_of_all_orders():
    scores, label, margin = torch.tensor([0.3, 0.9, 0.25, -0.5, 0.1]), 0, 0.1
    violates = {1, 2}
    tries = [next(i for i, j in enumerate(order, 1) if j in violates) for order in permutations((1, 2, 3, 4))]
    assert right_tries(scores, label, margin) == pytest.approx(sum(tries) / len(tries))


def test_luck_is_the_mean_of_all_rankings():
    distances = torch.tensor([[0, 1, 1, 2, 3], [1, 0, 2, 2, 3], [1, 2, 0, 2, 3], [2, 2, 2, 0, 3], [3, 3, 3, 3, 0]])
    orders = torch.tensor(list(permutations((1, 2, 3, 4))), dtype=torch.float)
    scores = torch.cat([torch.full((24, 1), 5.0), orders], dim=1)
    measured = hierarchical_precision(scores, torch.zeros(24, dtype=torch.long), distances, k=2)
    assert right_luck(distances[0].float(), 2) == pytest.approx(measured)


def test_a_handicap_is_what_it_takes():
    torch.manual_seed(0)
    scores, seen = torch.randn(50, 6), torch.tensor([True, True, False, True, False, False])
    labels = torch.tensor([2, 4, 5])[torch.randint(3, (50,))]
    needed = right_handicap(scores, labels, seen)
    possible = needed.isfinite()
    assert 0 < possible.sum() < 50
    more, less = (scores - (needed + extra)[:, None] * seen for extra in (1e-4, -1e-4))
    assert (more.argmax(dim=1) == labels)[possible].all()
    assert not (less.argmax(dim=1) == labels)[possible & (needed > 0)].any()


def test_a_missing_return_is_told():
    assert_wrong("06.5", lambda scores, labels, seen: None, "is there a return statement")
