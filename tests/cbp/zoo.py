"""Small networks of the kinds that people bring, each with what its units are.

``NETWORKS[name] = (make, example, treated)``: ``treated`` has the number of units of each hidden layer that must be found;
everything else must be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, int]]] = {}


def network(example: Callable[[], Any], **treated: int) -> Callable[[Any], Any]:
    """Enters a class or function that makes a network. In the names of layers, ``__`` stands for a point."""

    def enter(make: Any) -> Any:
        names = {name.replace("__", "."): n for name, n in treated.items()}
        NETWORKS[make.__name__] = make, example, names
        return make

    return enter


def sequential(name: str, example: Callable[[], Any], treated: dict[str, int], *modules: Callable[[], nn.Module]) -> None:
    NETWORKS[name] = (lambda: nn.Sequential(*(make() for make in modules))), example, treated


def vectors(width: int = 6, batch: int = 5) -> Callable[[], Any]:
    return lambda: (torch.randn(batch, width, generator=torch.Generator().manual_seed(0)),)


def images(channels: int = 3, size: int = 8, batch: int = 4) -> Callable[[], Any]:
    return lambda: (torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0)),)


def sequences(width: int = 8, length: int = 5, batch: int = 3) -> Callable[[], Any]:
    return lambda: (torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0)),)


def linear(n_in: int, n_out: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(n_in, n_out, **options)


def conv(n_in: int, n_out: int, kernel: int = 3, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(n_in, n_out, kernel, **options)


# Perceptrons

for activation in (nn.ReLU, nn.Tanh, nn.GELU, nn.SELU, nn.Softsign, nn.Hardswish, nn.PReLU):
    sequential(
        f"mlp_{activation.__name__.lower()}",
        vectors(),
        {"0": 8, "2": 7},
        linear(6, 8),
        activation,
        linear(8, 7),
        activation,
        linear(7, 2),
    )
sequential(
    "mlp_batch_norm",
    vectors(),
    {"0": 8, "3": 7},
    linear(6, 8),
    lambda: nn.BatchNorm1d(8),
    nn.ReLU,
    linear(8, 7),
    nn.Tanh,
    linear(7, 2),
)
sequential("mlp_layer_norm", vectors(), {"0": 8}, linear(6, 8), lambda: nn.LayerNorm(8), nn.ReLU, linear(8, 2))
sequential("mlp_rms_norm", vectors(), {"0": 8}, linear(6, 8), nn.ReLU, lambda: nn.RMSNorm(8), linear(8, 2))
sequential("mlp_dropout", vectors(), {"0": 8}, linear(6, 8), nn.ReLU, nn.Dropout, linear(8, 2))
sequential("mlp_prelu_per_unit", vectors(), {"0": 8}, linear(6, 8), lambda: nn.PReLU(8), linear(8, 2))
sequential("mlp_without_bias", vectors(), {"0": 8}, linear(6, 8, bias=False), nn.ReLU, linear(8, 2, bias=False))
sequential("mlp_one_unit", vectors(), {"0": 1, "2": 4}, linear(6, 1), nn.Tanh, linear(1, 4), nn.Tanh, linear(4, 1))
sequential("mlp_glu", vectors(), {"0": 4}, linear(6, 8), nn.GLU, linear(4, 2))
sequential("mlp_softmax", vectors(), {"2": 5}, linear(6, 8), lambda: nn.Softmax(-1), linear(8, 5), nn.ReLU, linear(5, 2))


@network(vectors(), first=8, second=8)
class Functional(nn.Module):
    """Functions, methods and arithmetic between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x)).mul(2).to(torch.float32)
        h = (1.7 * torch.tanh(self.second(h) / 3) + 1).unsqueeze(1).squeeze(1)
        return self.head(F.dropout(h, 0.1))


@network(vectors(), trunk=8, pi__1=5)
class Heads(nn.Module):
    """Heads with activations of their own, one behind a detach."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.pi = nn.Linear(6, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        self.v, self.auxiliary = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.trunk(x)
        return self.pi(h), self.v(torch.relu(h)), self.auxiliary(h.detach())


@network(lambda: (torch.randn(4, 6), torch.randn(4, 2)), encoder=8, q__0=7)
class Critic(nn.Module):
    """Units beside an action."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.q = nn.Linear(6, 8), nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 1))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.q(torch.cat([torch.relu(self.encoder(observation)), action], dim=1))


@network(vectors(), first=8, block=8)
class Concatenation(nn.Module):
    """Dense connections."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head(torch.cat([h, torch.relu(self.block(h))], dim=-1))


@network(lambda: (torch.randn(4, 6), torch.randn(4, 6)), encoder__0=8, encoder__2=5)
class Siamese(nn.Module):
    """An encoder that is called twice, its outputs side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU())
        self.head = nn.Linear(10, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(a), self.encoder(b)], dim=1))


@network(vectors(), a=8)
class Parallel(nn.Module):
    """Two layers that are added before the activation: their rows make one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(x) + self.b(x.square())))


@network(vectors(), inner=7)
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.outer, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head(h + self.outer(torch.relu(self.inner(h))))


@network(vectors(), gate=8)
class Gated(nn.Module):
    """SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


@network(vectors(), both=4)
class GatedInOne(nn.Module):
    """SwiGLU with one weight for both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


@network(vectors(), inner=4)
class Noisy(nn.Module):
    """A layer with a forward pass of its own beside plain ones."""

    class NoisyLinear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight + 0.1 * torch.ones_like(self.weight) * self.bias[:, None], self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = self.NoisyLinear(6, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(torch.relu(self.first(x)))))


@network(vectors(), first=8, down=3)
class Lora(nn.Module):
    """A layer with a low-rank one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up, self.head = (
            nn.Linear(6, 8),
            nn.Linear(6, 3, bias=False),
            nn.Linear(3, 8, bias=False),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x) + 0.5 * self.up(self.down(x))))


@network(vectors(), last=8)
class LoraInTheWeight(nn.Module):
    """Weights that are computed from three."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.a, self.b = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(F.linear(h, self.middle.weight + self.b @ self.a, self.middle.bias))
        return self.head(torch.relu(self.last(h)))


@network(vectors(), first=8, second=8)
class Scaled(nn.Module):
    """Weights times a constant and a mask: zeros stay zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.register_buffer("kept", (torch.rand(8, 8) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.first(x))
        h = self.act2(F.linear(h, self.second.weight * self.kept, self.second.bias))
        return self.head(h)


@network(vectors())
class Looped(nn.Module):
    """A layer that is used twice, the second time on its own units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        for _ in range(2):
            h = torch.relu(self.block(h))
        return self.head(h)


@network(vectors(), second=8)
class TiedTransposed(nn.Module):
    """A decoder with the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(torch.relu(self.first(x)), self.first.weight.t())
        return self.third(torch.relu(self.second(h)))


@network(vectors(), third=5)
class SharedNorm(nn.Module):
    """One norm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.third, self.head = (
            nn.Linear(6, 8),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 5),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(self.third(torch.relu(self.norm(self.b(h))))))


@network(lambda: (torch.randn(3, 4, 6),), **{f"w1[{i}:{i + 1},0:8]": 8 for i in range(3)})
class Ensemble(nn.Module):
    """Three members by batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(3, 6, 8)), nn.Parameter(torch.randn(3, 8, 2))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.act(torch.bmm(x, self.w1)), self.w2)


@network(vectors(), first=8)
class HandMadeNorm(nn.Module):
    """A layer norm of plain operations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.full((8,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = (h - h.mean(-1, keepdim=True)) * torch.rsqrt(h.var(-1, keepdim=True, unbiased=False) + 1e-5)
        return self.head(torch.relu(h * self.scale))


@network(vectors())
class AlsoOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.first(x))
        return self.head(h), h


@network(vectors(), first=8)
class BareHead(nn.Module):
    """A head of bare parameters; what it receives is what another module returns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(6, 8), nn.ReLU()
        self.head = nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.act(self.first(x)), self.head)


# Convolutional networks

sequential(
    "cnn",
    images(),
    {"0": 4, "3": 5, "6": 7},
    conv(3, 4),
    nn.ReLU,
    lambda: nn.MaxPool2d(2),
    conv(4, 5, 2),
    nn.ReLU,
    nn.Flatten,
    linear(20, 7),
    nn.ReLU,
    linear(7, 2),
)
sequential(
    "cnn_batch_norm",
    images(),
    {"0": 4, "3": 5},
    conv(3, 4, bias=False),
    lambda: nn.BatchNorm2d(4),
    nn.ReLU,
    conv(4, 5),
    nn.ReLU,
    lambda: nn.AdaptiveAvgPool2d(1),
    nn.Flatten,
    linear(5, 2),
)
sequential("cnn_group_norm", images(), {"0": 4}, conv(3, 4), lambda: nn.GroupNorm(2, 4), nn.ReLU, conv(4, 2))
sequential("cnn_instance_norm", images(), {"0": 4}, conv(3, 4), lambda: nn.InstanceNorm2d(4, affine=True), nn.ReLU, conv(4, 2))
sequential(
    "cnn_depthwise",
    images(),
    {"0": 4},
    conv(3, 4),
    nn.ReLU,
    conv(4, 4, groups=4),
    lambda: nn.BatchNorm2d(4),
    nn.ReLU,
    conv(4, 2, 1),
)
sequential("cnn_depth_multiplier", images(), {"0": 4}, conv(3, 4), nn.ReLU, conv(4, 8, groups=4), nn.ReLU, conv(8, 2, 1))
sequential(
    "cnn_grouped",
    images(),
    {"0": 4, "2": 6},
    conv(3, 4),
    nn.ReLU,
    conv(4, 6, groups=2),
    nn.ReLU,
    conv(6, 2, 1),
)
sequential(
    "cnn_transposed",
    images(),
    {"0": 4, "2": 5},
    conv(3, 4),
    nn.ReLU,
    lambda: nn.ConvTranspose2d(4, 5, 3),
    nn.ReLU,
    lambda: nn.ConvTranspose2d(5, 2, 3),
)
sequential(
    "cnn_upsampling",
    images(),
    {"0": 4},
    conv(3, 4),
    nn.ReLU,
    lambda: nn.Upsample(scale_factor=2),
    lambda: nn.ReflectionPad2d(1),
    conv(4, 2),
)
sequential(
    "cnn_1d",
    lambda: (torch.randn(3, 2, 12),),
    {"0": 4, "3": 5},
    lambda: nn.Conv1d(2, 4, 3),
    nn.ReLU,
    lambda: nn.MaxPool1d(2),
    lambda: nn.Conv1d(4, 5, 3),
    nn.ReLU,
    nn.Flatten,
    linear(15, 2),
)
sequential(
    "cnn_3d",
    lambda: (torch.randn(2, 1, 5, 5, 5),),
    {"0": 4},
    lambda: nn.Conv3d(1, 4, 3),
    lambda: nn.BatchNorm3d(4),
    nn.ReLU,
    lambda: nn.AvgPool3d(3),
    nn.Flatten,
    linear(4, 2),
)
sequential("cnn_pixel_shuffle", images(), {"0": 4}, conv(3, 4), nn.ReLU, lambda: nn.PixelUnshuffle(2), conv(16, 2, 1))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        h += self.shortcut(x)
        return torch.relu(h)


@network(images(), blocks__0__conv1=4, blocks__1__conv1=6, blocks__1__conv2=6)
class ResNet(nn.Module):
    """The last stage has one block: its convolution and that of the shortcut make one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Sequential(Block(4, 4), Block(4, 6, 2)),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean(dim=(2, 3)))


@network(images(), conv=4, squeeze=2)
class SqueezeExcite(nn.Module):
    """Channels are scaled by what is computed from all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite, self.last = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(2, 4, 1),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        s = self.excite(torch.relu(self.squeeze(h.mean(dim=(2, 3), keepdim=True))))
        return self.last(h * torch.sigmoid(s))


@network(images(4), depthwise=4, pointwise1=16)
class ConvNext(nn.Module):
    """Depthwise convolution, permuted layer norm, Linear layers over channels, a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.pointwise1, self.pointwise2 = nn.Linear(4, 16), nn.Linear(16, 4)
        self.gamma = nn.Parameter(torch.full((4,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.pointwise2(F.gelu(self.pointwise1(h)))).permute(0, 3, 1, 2)


@network(images(), first=4, second=3, third=3)
class DenseNet(nn.Module):
    """Convolutions that each receive all before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.Conv2d(7, 3, 3, padding=1),
        )
        self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.cat([h, torch.relu(self.second(h))], 1)
        h = torch.cat([h, torch.relu(self.third(h))], 1)
        return self.last(torch.relu(self.norm(h)))


@network(images(), down=4, up=3, middle=5)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(5, 3, 2, 2), nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.down(x))
        b = torch.relu(self.middle(F.max_pool2d(a, 2)))
        return self.last(torch.cat([a, torch.relu(self.up(b))], 1))


@network(images(), first=4)
class FunctionalBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.full((4,), 0.5)), nn.Parameter(torch.full((4,), 0.3))
        self.register_buffer("mean", torch.full((4,), 0.1))
        self.register_buffer("var", torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(self.first(x), self.mean, self.var, self.weight, self.bias, self.training)
        return self.last(torch.relu(h))


@network(images(), maps=4)
class PositionsLast(nn.Module):
    """Maps flattened with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.maps(x)).permute(0, 2, 3, 1).flatten(1))


@network(images(), last=4)
class ChannelsAsRows(nn.Module):
    """A reshape to two sizes that is no flattening: positions become samples."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.last, self.head = nn.Conv2d(3, 5, 3), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.maps(x)).contiguous().view(-1, 8)  # of positions, whatever channel they are of
        return self.head(torch.relu(self.last(h)))


@network(images(), last=3)
class WeightStandardised(nn.Module):
    class Conv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5), self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last, self.head = (
            self.Conv(3, 4, 3),
            self.Conv(4, 4, 3),
            nn.Conv2d(4, 3, 1),
            nn.Conv2d(3, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.second(torch.relu(self.first(x)))))))


# Sequences


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.memory = kind(8, 4, **options)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0])


for kind in (nn.RNN, nn.GRU, nn.LSTM):
    NETWORKS[kind.__name__.lower()] = (
        (lambda kind=kind: Recurrent(kind, batch_first=True)),
        sequences(),
        {"memory.weight_ih_l0": 4},
    )
    NETWORKS[f"{kind.__name__.lower()}_two_layers"] = (
        (lambda kind=kind: Recurrent(kind, num_layers=2)),
        sequences(),
        {"memory.weight_ih_l0": 4, "memory.weight_ih_l1": 4},
    )


@network(sequences(), encoder=6, cell__weight_ih=4)
class GruCell(nn.Module):
    """A cell in a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell, self.head = nn.Linear(8, 6), nn.GRUCell(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cell(torch.relu(self.encoder(x[:, t])), h)
        return self.head(h)


@network(sequences(), fc1=16)
class FeedForward(nn.Module):
    """The part of a transformer behind the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Attention(nn.Module):
    def __init__(self, *, separate: bool, scaled: bool) -> None:
        super().__init__()
        self.separate, self.scaled = separate, scaled
        if separate:
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        else:
            self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (self.q(x), self.k(x), self.v(x)) if self.separate else self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.view(n, t, 2, d // 2).transpose(1, 2) for part in (q, k, v))
        by_hand = (q @ k.transpose(-2, -1) / 2).softmax(dim=-1) @ v
        h = F.scaled_dot_product_attention(q, k, v) if self.scaled else by_hand
        return x + self.proj(h.transpose(1, 2).reshape(n, t, d))


NETWORKS["attention"] = (lambda: Attention(separate=True, scaled=False)), sequences(), {"v": 8}
NETWORKS["attention_in_one"] = (lambda: Attention(separate=False, scaled=False)), sequences(), {"qkv": 8}
NETWORKS["attention_scaled"] = (lambda: Attention(separate=False, scaled=True)), sequences(), {"qkv": 8}
NETWORKS["encoder_layer"] = (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)), sequences(), {"linear1": 16}
NETWORKS["encoder_layer_first_norm"] = (
    (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=True)),
    sequences(),
    {"linear1": 16},
)
NETWORKS["decoder_layer"] = (
    (lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)),
    (lambda: (torch.randn(2, 3, 8), torch.randn(2, 4, 8))),
    {"linear1": 16},
)


@network(lambda: (torch.tensor([[1, 2, 3], [0, 2, 4]]),), fc1=12)
class Language(nn.Module):
    """An embedding whose weights are the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc1, self.fc2, self.head = (
            nn.Embedding(5, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 5, bias=False),
        )
        self.position = nn.Parameter(torch.randn(1, 3, 8))
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        return self.head(self.fc2(torch.relu(self.fc1(x))))


@network(lambda: (torch.tensor([[1, 2, 3], [0, 2, 4]]),), fc1=12)
class Rope(nn.Module):
    """Rotated queries and keys, grouped queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.q, self.k, self.v = nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.o, self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        n, t, _ = x.shape
        q, k, v = self.q(x).view(n, t, 2, 4), self.k(x).view(n, t, 1, 4), self.v(x).view(n, t, 1, 4)
        angle = torch.arange(t, device=x.device)[:, None, None] * torch.tensor([1.0, 0.1], device=x.device)
        q, k = (
            torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
            for a, b in (q.chunk(2, -1), k.chunk(2, -1))
        )
        k, v = k.expand(n, t, 2, 4), v.expand(n, t, 2, 4)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, 8))
        return self.fc2(F.gelu(self.fc1(x)))


NETWORKS["Rope"][2]["v"] = 4


@network(images(3, 8), fc1=12)
class VisionTransformer(nn.Module):
    """Patches, a token of its own, positions, attention, feed-forward, a head on the token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.attention, self.fc1, self.fc2, self.head = (
            Attention(separate=False, scaled=True),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        x = self.attention(x)
        return self.head(self.norm(x + self.fc2(F.gelu(self.fc1(x))))[:, 0])


NETWORKS["VisionTransformer"][2]["attention.qkv"] = 8


@network(sequences(), tokens1=6, channels1=16)
class Mixer(nn.Module):
    """Layers over positions and layers over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens1, self.tokens2, self.channels1, self.channels2 = (
            nn.Linear(5, 6),
            nn.Linear(6, 5),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens2(F.gelu(self.tokens1(x.transpose(1, 2)))).transpose(1, 2)
        return x + self.channels2(F.gelu(self.channels1(x)))


@network(sequences(), expand=6)
class OverPositions(nn.Module):
    """Units that are carried through a layer over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.over, self.head = nn.Linear(8, 6), nn.Linear(5, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.expand(x)).transpose(1, 2)
        return self.head(torch.tanh(self.over(h)).transpose(1, 2))


# What stands beside, is written in parts, or is chosen


@network(images(), conv=4)
class SpatialGate(nn.Module):
    """One gate for all channels of a position: it is no part of any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        return self.last(h * torch.sigmoid(self.gate(h)))


@network(vectors(), last=5)
class OuterProduct(nn.Module):
    """Every unit of one layer times every unit of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last, self.head = nn.Linear(6, 4), nn.Linear(6, 3), nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)[:, :, None] * self.b(x)[:, None, :]
        return self.head(torch.relu(self.last(h.flatten(1))))


@network(vectors(), last=5)
class SumWithOneUnit(nn.Module):
    """One unit is added to all of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last, self.head = nn.Linear(6, 8), nn.Linear(6, 1), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.a(x) + self.b(x)))))


@network(vectors(), a=8, b=4)
class WrittenInParts(nn.Module):
    """Two layers side by side in memory that was there before them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 12)
        h[:, :8] = torch.relu(self.a(x))
        h[:, 8:] = torch.tanh(self.b(x))
        return self.head(h)


sequential(
    "cnn_padded_otherwise",
    images(),
    {"0": 4, "2": 5},
    conv(3, 4, padding=1, padding_mode="circular"),
    nn.ReLU,
    conv(4, 5, padding=1, padding_mode="circular"),
    nn.ReLU,
    conv(5, 2, padding=1, padding_mode="reflect"),
)


@network(vectors(), last=5)
class ChosenByNumbers(nn.Module):
    """Which units go on is decided by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Linear(6, 8), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[0].argsort()[:4]
        return self.head(torch.relu(self.last(torch.relu(self.first(x)).index_select(1, chosen))))


@network(lambda: (torch.randn(5, 6), torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 4])), message=8, update=7)
class Graph(nn.Module):
    """Messages along edges, summed at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor, source: Tensor, end: Tensor) -> Tensor:
        messages = torch.relu(self.message(x))[source]
        received = x.new_zeros(len(x), 8).index_add(0, end, messages)
        return self.head(torch.relu(self.update(received)))


@network(vectors(), w__1=5)
class OneActivationForAll(nn.Module):
    """Bare weights, and one activation module for all of them: only what passes it last can be watched there."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(8, 6), torch.randn(5, 8), torch.randn(2, 5)])
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x @ self.w[0].t()) @ self.w[1].t()) @ self.w[2].t()


# Constants beside units: tokens, padding


@network(sequences(), first=6)
class TokenBesideUnits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head(torch.cat([self.token.expand(len(x), 1, 6), h], dim=1))


@network(sequences(), first=6, second=5)
class PaddedByHand(nn.Module):
    """Causal convolutions, with zeros put in front of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(8, 6, 2), nn.Conv1d(6, 5, 3), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(F.pad(x.transpose(1, 2), (1, 0))))
        return self.head(torch.relu(self.second(torch.cat([x.new_zeros(len(x), 6, 2), x], dim=2))))


@network(sequences(), memory__weight_ih_l0=4)
class PackedSequences(nn.Module):
    """Sequences of three lengths, packed and padded again."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(8, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 2]), batch_first=True)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.memory(packed)[0], batch_first=True)[0])
