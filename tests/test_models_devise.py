"""DeViSE: the rank loss against PyTorch's and a loop, its sampled variant, nearest labels, learning."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

from mmlearn import data
from mmlearn.errors import ShapeError
from mmlearn.models import DeViSE, SoftmaxClassifier, hinge_rank_loss, image_encoder, nearest_labels


@pytest.fixture
def scores():
    torch.manual_seed(0)
    return torch.randn(6, 9, requires_grad=True), torch.tensor([0, 3, 8, 3, 5, 1])


def gradient(loss, scores):
    return torch.autograd.grad(loss, scores)[0]


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_all_wrong_labels_equal_pytorch(scores, margin):
    scores, labels = scores
    mine = hinge_rank_loss(scores, labels, margin)
    theirs = 9 * F.multi_margin_loss(scores, labels, margin=margin)  # theirs divides by the number of labels
    assert torch.allclose(mine, theirs)
    assert torch.allclose(gradient(mine, scores), gradient(theirs, scores))


def test_all_wrong_labels_equal_a_loop(scores):
    scores, labels = scores
    total = 0.0
    for row, right in zip(scores, labels.tolist(), strict=True):
        for j in range(9):
            if j != right:
                total = total + max(torch.tensor(0.0), 0.3 - row[right] + row[j])
    assert torch.allclose(hinge_rank_loss(scores, labels, 0.3), total / 6)


def test_first_violating_is_what_trying_in_random_order_gives(scores):
    scores, labels = scores
    scores = scores.detach()[:2].repeat(20_000, 1)
    labels = labels[:2].repeat(20_000)
    generator = torch.Generator().manual_seed(0)
    mine = hinge_rank_loss(scores, labels, 0.1, wrong="first", generator=generator)
    violation = (0.1 - scores.gather(1, labels[:, None]) + scores).relu().scatter(1, labels[:, None], 0.0)
    order = torch.rand(scores.shape, generator=generator).argsort(dim=1)
    tried = violation.gather(1, order)
    first = tried.gather(1, (tried > 0).int().argmax(dim=1, keepdim=True))
    assert mine.item() == pytest.approx(first.mean().item(), rel=0.02)
    expected = (violation.sum(dim=1) / (violation > 0).sum(dim=1).clamp(min=1)).mean()
    assert mine.item() == pytest.approx(expected.item(), rel=0.02)


def test_first_takes_one_wrong_label_a_picture(scores):
    scores, labels = scores
    slope = gradient(hinge_rank_loss(scores, labels, wrong="first"), scores)
    assert ((slope > 0).sum(dim=1) <= 1).all()
    assert (slope.gather(1, labels[:, None]) <= 0).all()
    assert slope.abs().sum() > 0


def test_hardest_is_the_wrong_label_of_highest_score(scores):
    scores, labels = scores
    ignore = torch.zeros(6, 9, dtype=torch.bool)
    ignore[0, 4] = ignore[3, 0] = True
    for kept in (None, ignore):
        total = 0.0
        for i, right in enumerate(labels.tolist()):
            rivals = [scores[i, j] for j in range(9) if j != right and (kept is None or not kept[i, j])]
            total = total + max(torch.tensor(0.0), 0.3 - scores[i, right] + max(rivals))
        mine = hinge_rank_loss(scores, labels, 0.3, wrong="hardest", ignore=kept)
        assert torch.allclose(mine, total / 6)
        assert torch.allclose(gradient(mine, scores), gradient(total / 6, scores))


@pytest.mark.parametrize("wrong", ["all", "first", "hardest"])
def test_nothing_to_do_is_no_loss(wrong):
    scores = torch.tensor([[1.0, 0.8, -1.0]], requires_grad=True)
    loss = hinge_rank_loss(scores, torch.tensor([0]), wrong=wrong)
    assert loss.item() == 0, "the right label is never its own rival"
    assert gradient(loss, scores).abs().sum() == 0


@pytest.mark.parametrize("wrong", ["all", "first", "hardest"])
def test_what_is_ignored_is_never_wrong(scores, wrong):
    scores, labels = scores
    ignore = torch.zeros(6, 9, dtype=torch.bool)
    ignore[:, 2] = ignore[:, 7] = True
    slope = gradient(hinge_rank_loss(scores, labels, 2.0, wrong=wrong, ignore=ignore), scores)
    assert (slope[:, [2, 7]] == 0).all()
    rest = [0, 1, 3, 4, 5, 6, 8]
    if wrong == "all":
        small = hinge_rank_loss(scores[:2][:, rest], torch.tensor([0, 2]), 2.0)
        assert torch.allclose(hinge_rank_loss(scores[:2], labels[:2], 2.0, ignore=ignore[:2]), small)


def test_nearest_labels_by_cosine():
    labels = torch.tensor([[10.0, 0.0], [0.0, 0.1], [-1.0, -1.0]])
    numbers, cosines = nearest_labels(torch.tensor([[0.1, 0.2], [5.0, -1.0]]), labels, k=2)
    assert numbers.tolist() == [[1, 0], [0, 1]]
    assert cosines[0].tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DeViSE(image_encoder(widths=(8, 16), depths=(1, 1)), d_words=5)


def test_vectors_have_length_one_and_scores_are_cosines(model):
    images, labels = torch.randn(4, 3, 16, 16), 7 * torch.randn(3, 5)
    vectors = model.eval()(images)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4))
    cosines = F.cosine_similarity(vectors[:, None], labels[None], dim=2)
    assert torch.allclose(model.scores(images, labels), cosines, atol=1e-6)


def test_every_weight_is_trained(model):
    softmax = SoftmaxClassifier(image_encoder(widths=(8, 16), depths=(1, 1)), n_classes=3)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    hinge_rank_loss(model.scores(images, torch.randn(3, 5)), labels, 1.0).backward()
    F.cross_entropy(softmax(images), labels).backward()
    for network in (model, softmax):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_it_learns_and_names_what_it_never_saw():
    """Pictures of one colour; words whose vectors are the colours: a colour between two of them has its own word."""
    torch.manual_seed(0)
    words = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]), dim=1)
    model = DeViSE(image_encoder(widths=(8, 8), depths=(1, 1)), d_words=3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def pictures(labels):
        plain = (words[labels] * 255)[:, :, None, None].expand(-1, 3, 8, 8)
        return data.normalise((plain + 8 * torch.rand(plain.shape)).clamp(0, 255).to(torch.uint8))

    for _ in range(60):
        labels = torch.randint(3, (32,))
        loss = hinge_rank_loss(model.scores(pictures(labels), words[:3]), labels)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    model.eval()
    labels = torch.randint(3, (60,))
    with torch.no_grad():
        assert (model.scores(pictures(labels), words[:3]).argmax(dim=1) == labels).float().mean() > 0.95
        unseen = model.scores(pictures(torch.full((20,), 3)), words)
    assert (unseen[:, 2] < unseen[:, [0, 1, 3]].amin(dim=1)).all(), "neither blue nor near it"


@pytest.fixture
def unchecked():
    """As a learner meets the functions: without the import hook that checks shapes in tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_errors(unchecked):
    scores = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match=r"expected \(B, C\) and \(B,\)"):
        hinge_rank_loss(scores, torch.tensor([0]))
    with pytest.raises(ShapeError, match=r"outside 0 … 2: 0 … 3"):
        hinge_rank_loss(scores, torch.tensor([0, 3]))
    with pytest.raises(ShapeError, match="'all', 'first' or 'hardest'"):
        hinge_rank_loss(scores, torch.tensor([0, 1]), wrong="one")
