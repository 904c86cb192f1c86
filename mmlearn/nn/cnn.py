"""Convolutional networks: convolution, batch normalisation, a plain ConvNet, and ResNet (He et al., CVPR 2016).

Dimensions: B batch, C channels, H × W picture, O output channels, K kernel. Chapter 04 builds everything by hand.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.nn.pretrained import Pretrained, number, substitute


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """How many places a window of `kernel` pixels takes on a side of `size` pixels (Dumoulin and Visin 2016, rel. 6).

    Raises ShapeError where the window does not fit once, or where a number makes no sense.
    """
    if min(kernel, stride) < 1 or padding < 0:
        raise ShapeError(f"kernel {kernel} and stride {stride} must be at least 1, padding {padding} at least 0")
    if size < 1 or size + 2 * padding < kernel:
        raise ShapeError(
            f"a window of {kernel} pixels does not fit on a side of {size} with {padding} of padding at each end: "
            "take a larger picture, a smaller window or more padding"
        )
    return (size + 2 * padding - kernel) // stride + 1


def conv2d(
    images: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "O C K L"],
    bias: Float[Tensor, " O"] | None = None,
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "B O P Q"]:
    """Convolution as one matrix product: every window a column, every filter a row (Chellapilla et al. 2006).

    Zeros are padded. Equal to `F.conv2d` in output and gradients; readable, and slower. Raises ShapeError.
    """
    if weight.ndim != 4 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ShapeError(
            f"weight has shape {tuple(weight.shape)} and bias {None if bias is None else tuple(bias.shape)}, "
            "expected (filters, channels, height, width) and (filters,)"
        )
    check_images(images, weight.shape[1])
    height, width = weight.shape[2:]
    rows = conv_size(images.shape[2], height, stride, padding)
    columns = conv_size(images.shape[3], width, stride, padding)
    padded = F.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, stride).unfold(3, width, stride)  # (B, C, P, Q, K, L): a view, no copy
    windows = windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)  # (B, C·K·L, P·Q)
    output = weight.flatten(1) @ windows  # (O, C·K·L) @ (B, C·K·L, P·Q)
    if bias is not None:
        output = output + bias[:, None]
    return output.unflatten(2, (rows, columns))


def receptive_field(layers: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Side of the input square that one output sees, and the step in input pixels between two outputs.

    layers: (kernel, stride) from the first to the last, pooling included. Each layer adds (kernel - 1) steps of
    the layer before it (Araujo, Norris and Sim 2019, eq. 2). No layer at all sees its own pixel: (1, 1).
    Raises ShapeError where a kernel or a stride is below 1.
    """
    size, step = 1, 1
    for kernel, stride in layers:
        if min(kernel, stride) < 1:
            raise ShapeError(f"kernel {kernel} and stride {stride} must be at least 1")
        size += (kernel - 1) * step
        step *= stride
    return size, step


class BatchNorm2d(nn.Module):
    """Each channel to mean 0 and variance 1, then times `weight` plus `bias` (Ioffe and Szegedy, ICML 2015, alg. 1).

    Training: mean and variance of this batch, over B, H and W; the running statistics move by `momentum` towards
    them (with the variance divided by n - 1). Evaluation: the running statistics, so that pictures do not see
    each other. Weights bear the names of `nn.BatchNorm2d`. `norm.fused = False` takes the readable path; outputs,
    gradients and running statistics are equal.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        if channels < 1:
            raise ValueError(f"a normalisation of {channels} channels: at least 1 is needed")
        self.channels, self.eps, self.momentum, self.fused = channels, eps, momentum, True
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Raises ShapeError for other channels, for whole numbers, and in training for a single number a channel."""
        self._check(x)
        if self.training:
            self.num_batches_tracked += 1
        if self.fused:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)
        mean, var = self._batch_statistics(x) if self.training else (self.running_mean, self.running_var)
        scale = self.weight / (var + self.eps).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        n = x.numel() // self.channels
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
        return mean, var

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(f"x has shape {tuple(x.shape)}, expected (batch, {self.channels}, height, width)")
        if not x.is_floating_point():
            raise ShapeError(f"x is {x.dtype}, expected floating point: pass data.normalise(images)")
        if self.training and x.numel() < 2 * self.channels:
            raise ShapeError(
                f"x has shape {tuple(x.shape)}: training needs at least two numbers in each channel to have a "
                "variance; use a larger batch, or model.eval() if you do not train"
            )


@dataclass(frozen=True)
class ConvNetConfig:
    """A plain convolutional network: `depths` 3 × 3 convolutions of `widths` channels, each stage at half the side.

    n_classes: 0 gives a network without its last linear layer, which returns the pooled features.
    """

    n_classes: int = 10
    depths: tuple[int, ...] = (2, 2, 2)
    widths: tuple[int, ...] = (32, 64, 128)
    in_channels: int = 3
    norm: bool = True

    def __post_init__(self):
        _check_sizes(self)

    @property
    def d_model(self) -> int:
        """Channels of the last feature map."""
        return self.widths[-1]


class ConvNet(nn.Module):
    """Convolution, normalisation, ReLU again and again; halve the side between stages; average; one linear layer.

    The plan is that of VGG (Simonyan and Zisserman, ICLR 2015) with batch normalisation and a mean over places
    (Lin, Chen and Yan, ICLR 2014) in place of its three large linear layers.
    """

    def __init__(self, config: ConvNetConfig | None = None):
        super().__init__()
        self.config = config = config or ConvNetConfig()
        self.stages = nn.ModuleList()
        before = config.in_channels
        for stage_number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            layers = [nn.MaxPool2d(2)] if stage_number else []
            for _ in range(depth):
                layers += _conv_norm_relu(before, width, config.norm)
                before = width
            self.stages.append(nn.Sequential(*layers))
        self.head = nn.Linear(before, config.n_classes) if config.n_classes else nn.Identity()
        _start(self)

    def features(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B D P Q"]]:
        """The feature maps of every stage, the first at the picture's own size.

        Raises ShapeError for other channels, whole numbers, or a picture too small to be halved so often.
        """
        check_images(images, self.config.in_channels, smallest=2 ** (len(self.stages) - 1))
        return _through(self.stages, images)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        """Scores (logits) of each class for normalised pictures, or pooled features where n_classes is 0."""
        return self.head(self.features(images)[-1].mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """x + two 3 × 3 convolutions of x, then ReLU (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1, self.norm1 = _conv(in_channels, width, 3, stride), BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3), BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D P Q"]:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """x + (1 × 1 to `width`, 3 × 3, 1 × 1 to 4 · `width`) of x, then ReLU (He et al. 2016, figure 5 right).

    The stride sits in the 3 × 3 convolution, as in torchvision and transformers, not in the first 1 × 1 of the paper.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1, self.norm1 = _conv(in_channels, width, 1), BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3, stride), BatchNorm2d(width)
        self.conv3, self.norm3 = _conv(width, 4 * width, 1), BatchNorm2d(4 * width)
        self.shortcut = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D P Q"]:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
KNOWN = {18: ("basic", (2, 2, 2, 2)), 34: ("basic", (3, 4, 6, 3)), 50: ("bottleneck", (3, 4, 6, 3))}


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet; `ResNetConfig.of(18)`, 34 and 50 are those of table 1 of the paper.

    n_classes: 0 gives a network without its last linear layer, which returns the pooled features.
    stem: "large" for photographs of 224 pixels (7 × 7 convolution and pooling, a quarter of the side),
    "small" for 32 pixels (one 3 × 3 convolution at full size, as in section 4.2 of the paper).
    """

    block: str = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    n_classes: int = 1000
    stem: str = "large"
    stem_width: int = 64
    in_channels: int = 3

    def __post_init__(self):
        if self.block not in BLOCKS or self.stem not in ("large", "small"):
            raise ValueError(f"block {self.block!r} is basic or bottleneck, stem {self.stem!r} is large or small")
        _check_sizes(self)

    @classmethod
    def of(cls, n_layers: int, **changes) -> "ResNetConfig":
        """The ResNet of 18, 34 or 50 layers, with changes by name: `ResNetConfig.of(18, n_classes=10)`."""
        if n_layers not in KNOWN:
            raise ValueError(f"there is no ResNet of {n_layers} layers here: take {', '.join(map(str, KNOWN))}")
        block, depths = KNOWN[n_layers]
        return replace(cls(block=block, depths=depths), **changes)

    @property
    def d_model(self) -> int:
        """Channels of the last feature map."""
        return self.widths[-1] * BLOCKS[self.block].expansion


class ResNet(Pretrained):
    """A residual network (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016).

    `from_pretrained("microsoft/resnet-50")` and its kind, or a folder, can be read and written as transformers does;
    `from_torchvision_state(model.state_dict())` takes torchvision's.
    """

    model_type = "resnet"
    prefix = "resnet."
    heads = ("head.",)
    to_own = (
        (r"^embedder\.embedder\.convolution", "stem.conv"),
        (r"^embedder\.embedder\.normalization", "stem.norm"),
        (r"^encoder\.stages\.(\d+)\.layers", r"stages.\1"),
        (r"shortcut\.convolution", "shortcut.0"),
        (r"shortcut\.normalization", "shortcut.1"),
        (r"layer\.(\d+)\.(conv|norm)[a-z]+", lambda m: f"{m[2]}{int(m[1]) + 1}"),
        (r"^classifier\.1", "head"),
    )
    to_published = ((r"^.*$", lambda m: transformers_name(m[0])),)

    def __init__(self, config: ResNetConfig | None = None):
        super().__init__()
        self.config = config = config or ResNetConfig()
        block = BLOCKS[config.block]
        self.stem = nn.Module()
        kernel, stride = (7, 2) if config.stem == "large" else (3, 1)
        self.stem.conv = _conv(config.in_channels, config.stem_width, kernel, stride)
        self.stem.norm = BatchNorm2d(config.stem_width)
        self.stages = nn.ModuleList()
        before = config.stem_width
        for stage_number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            stage = nn.Sequential()
            for i in range(depth):
                stage.append(block(before, width, stride=2 if stage_number and i == 0 else 1))
                before = width * block.expansion
            self.stages.append(stage)
        self.head = nn.Linear(before, config.n_classes) if config.n_classes else nn.Identity()
        _start(self)

    def features(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B D P Q"]]:
        """The feature maps of every stage; with the large stem the first has a quarter of the picture's side.

        Raises ShapeError for other channels, whole numbers, or pictures without a pixel.
        """
        check_images(images, self.config.in_channels)
        x = F.relu(self.stem.norm(self.stem.conv(images)), inplace=True)
        if self.config.stem == "large":
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        return _through(self.stages, x)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        """Scores (logits) of each class for normalised pictures, or pooled features where n_classes is 0."""
        return self.head(self.features(images)[-1].mean(dim=(2, 3)))

    @classmethod
    def from_torchvision_state(cls, state: Mapping[str, Tensor]) -> "ResNet":
        """The model of a torchvision state dict (resnet18, 34 or 50, of any number of classes), in evaluation mode.

        Raises CheckpointError for what is no such state dict.
        """
        _check_state(state)
        return cls._from_own(
            {substitute(name, TORCHVISION_TO_OWN): value for name, value in state.items()}, torchvision_name
        )

    @classmethod
    def from_transformers_state(cls, state: Mapping[str, Tensor]) -> "ResNet":
        """The model of a state dict of transformers' ResNetModel (n_classes = 0) or ResNetForImageClassification.

        Raises CheckpointError for what is no such state dict.
        """
        _check_state(state)
        return cls._from_own(cls.own_state(state), transformers_name)

    @classmethod
    def _read_config(cls, described: dict, shapes: dict[str, tuple[int, ...]]) -> ResNetConfig:
        unusual = [k for k in ("downsample_in_first_stage", "downsample_in_bottleneck") if described.get(k)]
        if unusual or described.get("hidden_act", "relu") != "relu":
            what = ", ".join(unusual) or described["hidden_act"]
            raise ValueError(f"it has {what}: only a ResNet with ReLU and its strides in the 3 × 3 can be read")
        block = described["layer_type"]
        if block not in BLOCKS:
            raise ValueError(f"layer_type is {block!r}, expected one of {', '.join(BLOCKS)}")
        depths, widths = described["depths"], described["hidden_sizes"]
        if not all(isinstance(size, int) and 1 <= size <= 10_000 for size in (*depths, *widths)):
            raise ValueError(f"depths {depths} and hidden_sizes {widths} must be whole numbers from 1 to 10,000")
        return ResNetConfig(
            block=block,
            depths=tuple(depths),
            widths=tuple(width // BLOCKS[block].expansion for width in widths),
            n_classes=shapes["head.weight"][0] if "head.weight" in shapes else 0,
            stem_width=number(described, "embedding_size"),
            in_channels=number(described, "num_channels", 3),
        )

    def _published_config(self) -> dict:
        config = self.config
        if config.stem != "large":
            raise CheckpointError("transformers has no ResNet with the small stem: save model.state_dict() instead")
        expansion = BLOCKS[config.block].expansion
        return {
            "architectures": ["ResNetForImageClassification" if config.n_classes else "ResNetModel"],
            "layer_type": config.block,
            "depths": list(config.depths),
            "hidden_sizes": [width * expansion for width in config.widths],
            "embedding_size": config.stem_width,
            "num_channels": config.in_channels,
            "id2label": {i: f"LABEL_{i}" for i in range(config.n_classes)},
        }

    @classmethod
    def _from_own(cls, state: Mapping[str, Tensor], published: Callable[[str], str]) -> "ResNet":
        """The model of a state dict under our names; `published` gives the name that its reader knows."""
        model = cls(_config_of(state, published))
        wanted = model.state_dict().keys()
        missing, unused = len(wanted - state.keys()), len(state.keys() - wanted)
        if missing or unused:
            raise CheckpointError(
                f"the state dict lacks {missing} tensors of this ResNet and holds {unused} unknown ones: "
                "is it a plain ResNet with basic or bottleneck blocks?"
            )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"the tensors of the state dict do not fit: {reason}") from None
        return model.eval()


TORCHVISION_TO_OWN = (
    (r"^conv1", "stem.conv"),
    (r"^bn1", "stem.norm"),
    (r"^layer(\d+)", lambda m: f"stages.{int(m[1]) - 1}"),
    (r"\.bn(\d)", r".norm\1"),
    (r"\.downsample", ".shortcut"),
    (r"^fc", "head"),
)


def torchvision_name(name: str) -> str:
    """The name in torchvision's ResNet of a tensor of ours (also what `mm.matches` needs as a map)."""
    if name.startswith("stages."):
        _, stage, block, rest = name.split(".", 3)
        return f"layer{int(stage) + 1}.{block}.{rest.replace('norm', 'bn').replace('shortcut', 'downsample')}"
    return name.replace("stem.conv", "conv1").replace("stem.norm", "bn1").replace("head", "fc")


def transformers_name(name: str) -> str:
    """The name in transformers' ResNetModel of a tensor of ours (without the prefix of a classifier's body)."""
    if not name.startswith("stages."):
        name = name.replace("stem.conv", "embedder.embedder.convolution")
        return name.replace("stem.norm", "embedder.embedder.normalization").replace("head", "classifier.1")
    _, stage, block, layer, rest = name.split(".", 4)
    start = f"encoder.stages.{stage}.layers.{block}"
    if layer == "shortcut":
        part, rest = rest.split(".", 1)
        return f"{start}.shortcut.{('convolution', 'normalization')[int(part)]}.{rest}"
    kind = "convolution" if layer.startswith("conv") else "normalization"
    return f"{start}.layer.{int(layer[-1]) - 1}.{kind}.{rest}"


def _config_of(state: Mapping[str, Tensor], published: Callable[[str], str]) -> ResNetConfig:
    """Read the sizes off the tensors themselves."""
    if "stem.conv.weight" not in state:
        raise CheckpointError(f"this is no ResNet's state dict: it has no {published('stem.conv.weight')!r}")
    depths, widths = [], []
    while (conv := f"stages.{len(depths)}.0.conv1.weight") in state:
        start = f"stages.{len(depths)}."
        widths.append(state[conv].shape[0])
        depths.append(len({name[len(start) :].split(".")[0] for name in state if name.startswith(start)}))
    stem = state["stem.conv.weight"]
    return ResNetConfig(
        block="bottleneck" if "stages.0.0.conv3.weight" in state else "basic",
        depths=tuple(depths),
        widths=tuple(widths),
        n_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        stem="large" if stem.shape[-1] == 7 else "small",
        stem_width=stem.shape[0],
        in_channels=stem.shape[1],
    )


def _check_state(state: object) -> None:
    if not isinstance(state, Mapping):
        raise CheckpointError(f"a {type(state).__name__} is no state dict: pass model.state_dict()")


def _check_sizes(config: "ConvNetConfig | ResNetConfig") -> None:
    depths, widths = config.depths, config.widths
    if len(depths) != len(widths) or min((*depths, *widths), default=0) < 1:
        raise ValueError(f"depths {depths} and widths {widths} need one number each for every stage, all at least 1")
    if config.in_channels < 1 or getattr(config, "stem_width", 1) < 1 or config.n_classes < 0:
        raise ValueError(f"in_channels and stem_width must be at least 1, n_classes at least 0: {config}")


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the side (at stride 1); no bias, the normalisation after it has one."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a 1 × 1 convolution where channels or side change (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), BatchNorm2d(out_channels))


def _conv_norm_relu(in_channels: int, out_channels: int, norm: bool) -> list[nn.Module]:
    if not norm:
        return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()]
    return [_conv(in_channels, out_channels, 3), BatchNorm2d(out_channels), nn.ReLU()]


def _start(model: nn.Module) -> None:
    """Weights that keep the variance through ReLU (He et al., ICCV 2015); the memory order in which they are fast."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    model.to(memory_format=torch.channels_last)


def _through(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def check_images(images: Tensor, channels: int, smallest: int = 1) -> None:
    """Raises ShapeError unless images are (batch, channels, height, width), floating point and large enough."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise ShapeError(f"images have shape {tuple(images.shape)}, expected (batch, {channels}, height, width)")
    if not images.is_floating_point():
        raise ShapeError(f"images are {images.dtype}, expected floating point: pass data.normalise(images)")
    if min(images.shape[2:]) < smallest:
        raise ShapeError(
            f"images of {images.shape[2]} × {images.shape[3]} pixels are too small: "
            f"this network needs at least {smallest} × {smallest}"
        )
