"""Convolution, batch normalisation and ResNet against PyTorch, torchvision and transformers."""

import copy
import inspect
import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers
from torch import nn

import mmlearn as mm
from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.nn import (
    BatchNorm2d,
    ConvNet,
    ConvNetConfig,
    ResNet,
    ResNetConfig,
    conv2d,
    conv_size,
    receptive_field,
)
from mmlearn.nn.cnn import torchvision_name, transformers_name


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 3, 2), (2, 2, 0)])
def test_convolution_as_a_matrix_product(kernel, stride, padding):
    torch.manual_seed(0)
    images, weight, bias = torch.randn(2, 3, 11, 8), torch.randn(5, 3, kernel, kernel), torch.randn(5)
    mm.matches(conv2d, F.conv2d, images, weight, bias, stride=stride, padding=padding)
    assert conv2d(images, weight, None, stride, padding).shape[2] == conv_size(11, kernel, stride, padding)


def test_a_window_that_is_not_square():
    mm.matches(conv2d, F.conv2d, torch.randn(1, 2, 9, 9), torch.randn(4, 2, 1, 5))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(4, 5, 1, 0), (0, 1, 1, 0), (8, 3, 0, 1), (8, 0, 1, 1)]
)
def test_a_window_that_does_not_fit_is_told(size, kernel, stride, padding):
    with pytest.raises(ShapeError, match="at least 1|does not fit"):
        conv_size(size, kernel, stride, padding)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.zeros(4, 3, 3), None, "expected \\(filters, channels"),
        (torch.zeros(4, 3, 3, 3), torch.zeros(5), "expected \\(filters, channels"),
        (torch.zeros(4, 3, 3, 3), torch.zeros(1), "expected \\(filters, channels"),
        (torch.zeros(4, 2, 3, 3), None, "expected \\(batch, 2"),
        (torch.zeros(4, 3, 9, 3), None, "does not fit"),
        (torch.zeros(4, 3, 3, 9), None, "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_told(weight, bias, message):
    with pytest.raises(ShapeError, match=message):
        inspect.unwrap(conv2d)(torch.zeros(1, 3, 8, 8), weight, bias)


def test_no_pictures_and_no_filters_are_a_defined_result():
    assert conv2d(torch.zeros(0, 3, 8, 8), torch.zeros(4, 3, 3, 3)).shape == (0, 4, 6, 6)
    assert conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(0, 3, 3, 3)).shape == (2, 0, 6, 6)


@pytest.mark.parametrize("layer", [(0, 1), (3, 0), (3, -1)])
def test_a_layer_without_window_or_step_is_told(layer):
    with pytest.raises(ShapeError, match="at least 1"):
        receptive_field([(3, 1), layer])


def test_the_receptive_field_is_what_the_gradient_sees():
    layers = [(3, 1), (2, 2), (3, 1), (3, 2), (3, 1)]
    net = nn.Sequential(*[nn.Conv2d(1, 1, k, s) for k, s in layers])
    for layer in net:
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 64, 64, requires_grad=True)
    y = net(x)
    y[0, 0, 3, 3].backward()
    seen = x.grad[0, 0].nonzero()
    size, step = receptive_field(layers)
    assert (seen[:, 0].max() - seen[:, 0].min() + 1).item() == size == 20
    assert seen[:, 0].min().item() == 3 * step == 12
    assert receptive_field([]) == (1, 1)


def norms(channels: int = 6) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    torch.manual_seed(1)
    mine, reference = BatchNorm2d(channels), nn.BatchNorm2d(channels)
    nn.init.normal_(reference.weight), nn.init.normal_(reference.bias)
    mine.load_state_dict(reference.state_dict())
    return mine, reference


@pytest.mark.parametrize("fused", [True, False])
def test_batch_norm_in_training_and_evaluation(fused):
    mine, reference = norms()
    mine.fused = fused
    for _ in range(5):
        x = 3 * torch.randn(4, 6, 5, 3) + 2
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        wish = torch.randn(x.shape)
        y, z = mine(a), reference(b)
        y.backward(wish), z.backward(wish)
        torch.testing.assert_close(y, z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mine.weight.grad, reference.weight.grad, atol=1e-4, rtol=1e-4)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value)
    mine.eval(), reference.eval()
    mm.matches(mine, reference, torch.randn(2, 6, 4, 4))
    assert mine.running_mean.abs().max() > 0.5  # the statistics did move, and evaluation left them
    torch.testing.assert_close(mine.running_var, reference.running_var)


@pytest.mark.parametrize("fused", [True, False])
def test_a_channel_that_hardly_varies_is_divided_by_the_root_of_variance_plus_eps(fused):
    mine, reference = norms()
    mine.fused = fused
    x = 1e-3 * torch.randn(4, 6, 5, 3)  # a variance of 1e-6 beside an eps of 1e-5
    torch.testing.assert_close(mine(x), reference(x), atol=1e-5, rtol=1e-5)


def test_batch_norm_wants_its_channels_and_two_numbers():
    mine, _ = norms()
    with pytest.raises(ShapeError, match="expected \\(batch, 6"):
        mine(torch.randn(2, 5, 4, 4))
    with pytest.raises(ShapeError, match="at least two numbers"):
        mine(torch.randn(1, 6, 1, 1))
    with pytest.raises(ShapeError, match="at least two numbers"):
        mine(torch.randn(0, 6, 4, 4))
    with pytest.raises(ShapeError, match="expected floating point"):
        inspect.unwrap(BatchNorm2d.forward)(mine, torch.ones(2, 6, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1 is needed"):
        BatchNorm2d(0)
    assert mine.running_mean.eq(0).all()  # what was refused left no trace in the statistics
    assert mine.num_batches_tracked == 0
    assert mine.eval()(torch.randn(1, 6, 1, 1)).shape == (1, 6, 1, 1)
    assert mine(torch.randn(0, 6, 4, 4)).shape == (0, 6, 4, 4)


def scramble(model: nn.Module) -> nn.Module:
    """Random running statistics and gains too: what is all 0 or 1 would hide a mix-up."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.8), nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1), nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def same(mine: nn.Module, reference: nn.Module, rename, **kwargs) -> None:
    """Outputs, gradients of the pictures and of every weight: first in evaluation, then in training mode."""
    torch.manual_seed(4)
    images = torch.randn(2, 3, 40, 40)
    names = {name: rename(name) for name, _ in mine.named_parameters()}
    mm.matches(mine, reference, images, copy=False, atol=1e-4, **kwargs)
    mine, reference = copy.deepcopy(mine).double().train(), copy.deepcopy(reference).double().train()
    mine.zero_grad(), reference.zero_grad()
    output = mine(images.double())
    wish = torch.randn_like(output)
    (output * wish).sum().backward()
    (kwargs.get("select", lambda out: out)(reference(images.double())) * wish).sum().backward()
    theirs, buffers = dict(reference.named_parameters()), dict(reference.named_buffers())
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[names[name]].grad, atol=1e-6, rtol=1e-6)
    for name, buffer in mine.named_buffers():
        torch.testing.assert_close(buffer, buffers[rename(name)], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_checkpoints(name):
    reference = scramble(getattr(torchvision.models, name)(num_classes=7))
    mine = ResNet.from_torchvision_state(reference.state_dict())
    assert mine.config == ResNetConfig.of(int(name[6:]), n_classes=7)
    same(mine, reference, torchvision_name)


def small_transformers(layer_type: str) -> transformers.ResNetConfig:
    return transformers.ResNetConfig(
        layer_type=layer_type, embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1], num_labels=5
    )


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_transformers_checkpoints_from_a_folder_and_back(layer_type, tmp_path):
    reference = scramble(transformers.ResNetForImageClassification(small_transformers(layer_type)))
    reference.save_pretrained(tmp_path / "theirs")
    mine = ResNet.from_pretrained(tmp_path / "theirs")
    assert mine.config.block == layer_type
    assert not mine.training

    def rename(name):
        return transformers_name(name) if name.startswith("head") else "resnet." + transformers_name(name)

    same(mine, reference, rename, select=lambda out: out.logits)
    mine.save_pretrained(tmp_path / "ours")
    back = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "ours").eval()
    images = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(back(images).logits, mine(images), atol=1e-5, rtol=1e-5)
    assert ResNet.from_pretrained(tmp_path / "ours").config == mine.config


def test_transformers_body_gives_maps_and_pooled_features(tmp_path):
    reference = scramble(transformers.ResNetModel(small_transformers("bottleneck")))
    mine = ResNet.from_transformers_state(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    theirs = reference(images)
    torch.testing.assert_close(mine.features(images)[-1], theirs.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine(images), theirs.pooler_output.flatten(1), atol=1e-5, rtol=1e-5)
    mine.save_pretrained(tmp_path)
    back = transformers.ResNetModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(back(images).pooler_output.flatten(1), mine(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_type": "dense"}, "layer_type is 'dense', expected one of basic, bottleneck"),
        ({"depths": [2, 10**9]}, "must be whole numbers from 1 to 10,000"),
        ({"hidden_sizes": [16, 64]}, "has the shape .*, but config.json asks for"),
        ({"depths": [2, 2]}, "lacks stages.1.1.conv1.weight"),
        ({"hidden_act": "gelu"}, "only a ResNet with ReLU"),
        ({"embedding_size": None}, "embedding_size is None"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, change, message):
    mine = ResNet(ResNetConfig("basic", (2, 1), (16, 32), n_classes=3, stem_width=8))
    mine.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(CheckpointError, match=message):
        ResNet.from_pretrained(tmp_path)


def test_other_checkpoints_are_refused_in_words(tmp_path):
    with pytest.raises(CheckpointError, match="save_pretrained wrote"):
        ResNet.from_pretrained(tmp_path)
    config = small_transformers("bottleneck")
    config.downsample_in_bottleneck = True
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="downsample_in_bottleneck"):
        ResNet.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no ResNet's state dict"):
        ResNet.from_torchvision_state({"weight": torch.zeros(1)})
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="a model of type None, expected 'resnet'"):
        ResNet.from_pretrained(tmp_path)
    for read in (ResNet.from_torchvision_state, ResNet.from_transformers_state):
        with pytest.raises(CheckpointError, match="pass model.state_dict"):
            inspect.unwrap(read.__func__)(ResNet, nn.Linear(1, 1))
    state = torchvision.models.resnet18().state_dict()
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        ResNet.from_torchvision_state({k: v for k, v in state.items() if k != "layer3.1.bn2.bias"})
    with pytest.raises(CheckpointError, match="do not fit"):
        ResNet.from_torchvision_state(state | {"layer1.0.conv2.weight": torch.zeros(64, 32, 3, 3)})
    with pytest.raises(CheckpointError, match="small stem"):
        ResNet(ResNetConfig.of(18, stem="small")).save_pretrained(tmp_path)


@pytest.mark.parametrize("norm", [True, False])
def test_convnet_is_its_layers_one_after_the_other(norm):
    torch.manual_seed(5)
    mine = ConvNet(ConvNetConfig(n_classes=4, depths=(1, 2), widths=(6, 8), norm=norm))
    layers, before = [], 3
    for width in (6, 0, 8, 8):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=not norm)] if width else [nn.MaxPool2d(2)]
        layers += ([nn.BatchNorm2d(width)] if norm else []) + [nn.ReLU()] if width else []
        before = width or before
    reference = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    reference.load_state_dict(dict(zip(reference.state_dict(), mine.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 12, 10)
    mm.matches(scramble(mine), scramble(reference), images, copy=False, atol=1e-5)
    assert [tuple(x.shape[1:]) for x in mine.features(images)] == [(6, 12, 10), (8, 6, 5)]


def test_weights_start_so_that_relu_keeps_the_variance():
    torch.manual_seed(6)
    for model in (ConvNet(), ResNet(ResNetConfig.of(18))):
        for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
            fan_out = conv.weight.numel() / conv.in_channels
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
            assert conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("model", [ConvNet(), ResNet(ResNetConfig(widths=(8, 16), depths=(1, 1)))])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 32, 32), "expected \\(batch, 3"),
        (torch.zeros(3, 32, 32), "expected \\(batch, 3"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "data.normalise"),
        (torch.zeros(2, 3, 0, 32), "too small"),
    ],
)
def test_wrong_pictures_are_told(model, images, message):
    features = inspect.unwrap(type(model).features)  # without the shape check of the tests, as a reader runs it
    with pytest.raises(ShapeError, match=message):
        features(model, images)


def test_small_pictures_empty_batches_and_unknown_sizes():
    assert ConvNet().eval()(torch.zeros(1, 3, 4, 4)).shape == (1, 10)
    with pytest.raises(ShapeError, match="at least 4 × 4"):
        ConvNet()(torch.zeros(1, 3, 3, 3))
    assert ResNet(ResNetConfig.of(18, n_classes=4)).eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 4)
    assert ConvNet().eval()(torch.zeros(0, 3, 32, 32)).shape == (0, 10)
    with pytest.raises(ValueError, match="no ResNet of 20"):
        ResNetConfig.of(20)
    with pytest.raises(ValueError, match="large or small"):
        ResNetConfig(stem="tiny")


@pytest.mark.parametrize("config", [ConvNetConfig, ResNetConfig])
def test_sizes_that_make_no_network_are_told(config):
    for changes in (
        {"depths": (1,), "widths": (8, 16)},
        {"depths": (), "widths": ()},
        {"depths": (1, 0), "widths": (8, 16)},
        {"depths": (1, 1), "widths": (8, 0)},
    ):
        with pytest.raises(ValueError, match="one number each"):
            config(**changes)
    for changes in ({"n_classes": -1}, {"in_channels": 0}):
        with pytest.raises(ValueError, match="n_classes at least 0"):
            config(**changes)


def test_without_classes_the_pooled_features_come_out():
    for model in (
        ConvNet(ConvNetConfig(n_classes=0, depths=(1, 1), widths=(8, 16))),
        ResNet(ResNetConfig(n_classes=0, depths=(1, 1), widths=(8, 16))),
        ResNet(ResNetConfig(n_classes=0, depths=(1, 1), widths=(8, 16), block="bottleneck")),
    ):
        images = torch.randn(2, 3, 16, 16)
        features = model.eval()(images)
        assert features.shape == (2, model.config.d_model)
        torch.testing.assert_close(features, model.features(images)[-1].mean(dim=(2, 3)))


def test_small_stem_keeps_the_picture_and_stages_halve_it():
    config = ResNetConfig.of(18, n_classes=10, stem="small", widths=(8, 16, 32, 64), stem_width=8)
    sides = [x.shape[-1] for x in ResNet(config).features(torch.zeros(2, 3, 32, 32))]
    assert sides == [32, 16, 8, 4]
    assert [x.shape[-1] for x in ConvNet(ConvNetConfig(norm=False)).features(torch.zeros(2, 3, 32, 32))] == [32, 16, 8]


def test_evaluation_does_not_look_at_the_other_pictures():
    model = ConvNet().eval()
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(images)[:1], model(images[:1]), atol=1e-5, rtol=1e-5)
