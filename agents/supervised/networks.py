"""Networks of the supervised problems that learn by minibatches."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from agents.runs.errors import UserError
from agents.supervised.presets import Settings


class ResNet(nn.Module):
    """A residual network of basic blocks, two in each stage: with four stages of 64 to 512 channels a ResNet-18.

    The first convolution is 3×3 without pooling behind it, as for images of 32×32; each stage but the first halves height and
    width. Weights are Kaiming-normal, norms begin as the identity (published code).

    Source: He et al., *Deep residual learning for image recognition*, CVPR 2016.

    Args:
        channels: Of the images.
        stages: Channels of each stage.
        outputs: How many.
    """

    def __init__(self, channels: int, stages: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, stages[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(stages[0])
        self.relu = nn.ReLU()
        blocks = [_Block(before, width, 1 if i == 0 else 2) for i, (before, width) in enumerate(pairwise((stages[0], *stages)))]
        self.stages = nn.Sequential(*(nn.Sequential(block, _Block(w, w, 1)) for block, w in zip(blocks, stages, strict=True)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(stages[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        init_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """The outputs for some images: ``(batch, outputs)``."""
        maps = self.stages(self.relu(self.norm(self.conv(images))))
        outputs: Tensor = self.head(self.flatten(self.pool(maps)))
        return outputs


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        same = before == width and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.shortcut(x))
        return out


def make_network(settings: Settings, shape: tuple[int, int, int], outputs: int, seed: int) -> nn.Module:
    """A network for images, with weights drawn from a seed; the global generator is left as it was.

    ``"conv"`` of five widths is the paper's network of Continual ImageNet: convolutions of 5×5, 3×3 and 3×3 with 2×2 max
    pooling behind each, two fully connected layers and the head. Of images under 16×16, which are too small for that,
    convolutions are 3×3 and padded, and only the last width is that of a fully connected layer. Weights are PyTorch's default
    (published code).

    Args:
        settings: Network and widths.
        shape: Of an image: channels, height, width.
        outputs: How many.
        seed: Of the weights.

    Raises:
        UserError: Widths that make no such network, or another activation than ReLU.
    """
    if settings.activation != "relu":
        raise UserError(f"networks that learn by minibatches have ReLU: activation must be relu, got {settings.activation}")
    if settings.layer_norm:
        raise UserError("networks that learn by minibatches have the norms of their kind: layer_norm must be false, got true")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone
        if settings.network == "resnet":
            return ResNet(shape[0], settings.net_arch, outputs)
        if settings.network == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], outputs))
        if settings.network == "conv":
            return _conv(settings.net_arch, shape, outputs)
    raise UserError(f"network '{settings.network}' learns from single examples; for minibatches: conv, resnet, linear")


def _conv(widths: tuple[int, ...], shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    channels, height, width = shape
    small = height < 16
    fully_connected = 1 if small else 2
    if len(widths) <= fully_connected:
        raise UserError(f"net_arch must have {fully_connected + 1} numbers or more for a convolutional network, got {widths}")
    layers: list[nn.Module] = []
    for i, out in enumerate(widths[: len(widths) - fully_connected]):
        kernel = 3 if small or i else 5
        padding = 1 if small else 0
        layers += [nn.Conv2d(channels, out, kernel, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        height, width = ((size + 2 * padding - kernel + 1) // 2 for size in (height, width))
        channels = out
        if not (height and width):
            raise UserError(f"net_arch has more convolutions than images of {shape[1]}×{shape[2]} can be halved: {widths}")
    layers.append(nn.Flatten())
    sizes = (channels * height * width, *widths[len(widths) - fully_connected :])
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def head_of(network: nn.Module) -> nn.Linear:
    """The last layer of a network made by :func:`make_network`."""
    head = network.head if isinstance(network, ResNet) else list(network.children())[-1]
    assert isinstance(head, nn.Linear)  # noqa: S101
    return head


def init_head(head: nn.Linear) -> None:
    """Draws a head anew as the published code does: Kaiming-normal without gain, zero bias."""
    nn.init.kaiming_normal_(head.weight, nonlinearity="linear")
    nn.init.zeros_(head.bias)
