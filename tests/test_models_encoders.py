"""Picture encoders: one interface for a network to train, a published one and one from a folder."""

from urllib.error import URLError

import pytest
import torch
import torchvision
import transformers
from torchvision.transforms.functional import normalize

from mmlearn import data
from mmlearn.errors import CheckpointError, DataError, ShapeError
from mmlearn.models import image_encoder

IMAGES = torch.randint(256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def published(monkeypatch):
    """torchvision gives random weights, as if it had fetched them; their statistics are not those of a new network."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    asked = []
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: asked.append((name, weights)) or model)
    return model.eval(), asked


def their_features(model, images):
    """What torchvision's network makes of uint8 pictures, normalised as its weights expect."""
    x = normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def test_the_small_network_gives_a_grid_and_its_mean():
    encoder = image_encoder(widths=(8, 16), depths=(1, 1))
    images = data.normalise(IMAGES)
    assert encoder.d_model == 16
    grid = encoder.grid(images)
    assert grid.shape == (2, 16, 32, 48)
    encoder.eval()
    assert torch.allclose(encoder(images), encoder.grid(images).mean(dim=(2, 3)))


def test_every_weight_is_trained():
    encoder = image_encoder(widths=(8, 16), depths=(1, 1))
    encoder(data.normalise(IMAGES)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_published_network_sees_the_pictures_it_was_trained_on(published):
    model, asked = published
    encoder = image_encoder("resnet18").eval()
    assert asked == [("resnet18", "DEFAULT")]
    assert encoder.d_model == 512
    with torch.no_grad():
        assert torch.allclose(encoder.grid(data.normalise(IMAGES)), their_features(model, IMAGES), atol=1e-4)


def test_a_folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    encoder = image_encoder(tmp_path).eval()
    pictures = normalize(IMAGES.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        assert torch.allclose(encoder.grid(data.normalise(IMAGES)), model.resnet(pictures).last_hidden_state, atol=1e-4)
    assert encoder.d_model == 16


def test_frozen_stays_as_it_is(published):
    encoder = image_encoder("resnet18", frozen=True).train()
    images = data.normalise(IMAGES)
    before = encoder(images)
    assert not before.requires_grad
    assert not [p for p in encoder.parameters() if p.requires_grad]
    assert torch.equal(encoder(images), before), "the statistics of the normalisation moved"
    assert not encoder.network.training
    assert torch.nn.Sequential(encoder).train()[0].network.training is False


def test_not_frozen_trains(published):
    encoder = image_encoder("resnet18")
    assert encoder.network.training
    assert encoder(data.normalise(IMAGES)).requires_grad


def test_without_a_network_it_says_what_to_do(monkeypatch):
    def fail(name, weights):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", fail)
    with pytest.raises(CheckpointError, match=r"resnet50 could not be fetched .*no route.*a machine with a network"):
        image_encoder("resnet50")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vgg16", {}, "no picture encoder 'vgg16': use convnet, resnet18"),
        ("resnet18", {"widths": (8, 16)}, "widths cannot be changed"),
    ],
)
def test_what_there_is_not(name, changes, message):
    with pytest.raises(DataError, match=message):
        image_encoder(name, **changes)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no readable config.json"):
        image_encoder(tmp_path)


def test_pictures_that_are_not_normalised(unchecked, published):
    for name in ("convnet", "resnet18"):
        with pytest.raises(ShapeError, match="pass them through data.normalise"):
            image_encoder(name).grid(IMAGES)
