"""One way to make a picture encoder: a small ConvNet to train, a published ResNet by name, or one from a folder.

What every encoder offers: `d_model` features a place, `grid(images)` (B, d_model, P, Q), and their mean over places.
Dimensions: B batch, H × W picture, D = d_model features, P × Q places of the grid.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, DataError, ShapeError
from mmlearn.nn.cnn import ConvNet, ConvNetConfig, ResNet

RESNETS = ("resnet18", "resnet34", "resnet50")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pictures with values in [0, 1]


class ImageEncoder(nn.Module):
    """A convolutional network without its classifier: pictures as `data.normalise` gives them, in [-1, 1], to a grid.

    Args:
        network: a ConvNet or a ResNet; its last feature map is the grid.
        imagenet: the network expects ImageNet's mean and standard deviation; pictures are turned into that here.
        frozen: the network is not trained: always in evaluation mode (so that the statistics of its normalisation
            stay), no gradients, no parameters for an optimizer.
    """

    def __init__(self, network: ConvNet | ResNet, *, imagenet: bool = False, frozen: bool = False):
        super().__init__()
        network.head = nn.Identity()  # the classifier would be a weight that nothing trains
        self.network = network.to(memory_format=torch.channels_last)  # in which convolutions are fastest
        self.d_model = network.config.d_model
        self.imagenet, self.frozen = imagenet, frozen
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        if frozen:
            self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "ImageEncoder":
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def grid(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D P Q"]:
        """Features at each place of a grid over the picture. Raises ShapeError for what is no normalised picture."""
        if not images.is_floating_point():
            raise ShapeError(f"the pictures are {images.dtype}: pass them through data.normalise first")
        if self.imagenet:
            images = ((images + 1) / 2 - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.network.features(images)[-1]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """The mean of the grid over all places."""
        return self.grid(images).mean(dim=(2, 3))


def image_encoder(name: str | Path = "convnet", *, frozen: bool = False, **changes) -> ImageEncoder:
    """A picture encoder.

    Args:
        name: "convnet", this course's small network with random weights, made for 32 to 64 pixels; "resnet18",
            "resnet34" or "resnet50" with the ImageNet weights that torchvision fetches (they are made for 224 pixels);
            or a folder with `config.json` and `model.safetensors` of transformers' ResNet.
        frozen: use it as it is; with random weights that makes little sense.
        changes: fields of ConvNetConfig, such as `widths=(32, 64, 128)`, `depths=(2, 2, 2)`; for "convnet" only.

    Raises CheckpointError where weights cannot be fetched or read, DataError for an unknown name or changes that a
    network with given weights cannot take.
    """
    if name == "convnet":
        return ImageEncoder(ConvNet(ConvNetConfig(**changes)), frozen=frozen)
    if changes:
        raise DataError(f"{name} comes with its weights, so {', '.join(changes)} cannot be changed: leave it out")
    if name in RESNETS:
        return ImageEncoder(ResNet.from_torchvision_state(_published(str(name))), imagenet=True, frozen=frozen)
    if Path(name).is_dir():
        return ImageEncoder(ResNet.from_pretrained(name), imagenet=True, frozen=frozen)
    raise DataError(f"there is no picture encoder {str(name)!r}: use convnet, {', '.join(RESNETS)} or a folder")


def _published(name: str) -> dict[str, Tensor]:
    """torchvision's state dict of a network with its ImageNet weights, from its cache or the network."""
    try:
        from torchvision.models import get_model

        return get_model(name, weights="DEFAULT").state_dict()
    except (ImportError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the ImageNet weights of {name} could not be fetched through torchvision ({error}): "
            "use a machine with a network once, a folder with saved weights, or 'convnet' without weights"
        ) from error
