"""Convolutions, batch norms, pooling, flattening and residual sums, against loops over single numbers."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from oracle import Layer, Oracle
from small_networks import UTILITIES, begin_alike, still
from torch import Tensor, nn

import cbp


def every_index(*sizes):
    return itertools.product(*map(range, sizes))


class MapsLayer(Layer):
    """A convolution whose units are its output channels."""

    def __post_init__(self) -> None:
        self.units, self.fan_in = self.incoming.out_channels, self.incoming.weight[0].numel()
        self.utility, self.age = [0.0] * self.units, [0] * self.units
        self.running_mean = [[0.0] * self.units for _ in self.outgoing]
        self.counter, self.generator = 0.0, torch.Generator()


class ConvolutionalOracle(Oracle):
    """Channels judged and replaced one number at a time; Linear layers as in :class:`Oracle`."""

    @staticmethod
    def bound(layer, init):
        if not isinstance(layer, MapsLayer):
            return Oracle.bound(layer, init)
        numbers = layer.incoming.weight.flatten().tolist()
        return {
            "auto": math.sqrt(3) * math.sqrt(sum(w**2 for w in numbers) / len(numbers)),
            "lecun": math.sqrt(3 / layer.fan_in),
            # The channels of the output times the kernel; the gain of tanh and relu.
            "xavier": {"tanh": 5 / 3, "relu": math.sqrt(2)}[layer.activation]
            * math.sqrt(6 / (layer.fan_in + layer.units * layer.incoming.kernel_size[0] * layer.incoming.kernel_size[1])),
        }[init]

    def utility_now(self, layer, i, inputs):
        if not isinstance(layer, MapsLayer):
            return super().utility_now(layer, i, inputs)
        eta = self.decay_rate
        w_in = layer.incoming.weight[i].flatten().tolist()
        mean_w_in = sum(abs(w) for w in w_in) / len(w_in)
        if self.utility == "adaptation":
            return 1 / mean_w_in
        total = 0.0
        for k, (outgoing, samples) in enumerate(zip(layer.outgoing, inputs, strict=True)):
            if isinstance(outgoing, nn.Conv2d):  # samples[n][channel][y][x]
                maps = [[h for row in sample[i] for h in row] for sample in samples]
                weights = [abs(w) for output in outgoing.weight.tolist() for row in output[i] for w in row]
                per_position = [sum(weights)] * len(maps[0])
                share = 1 / len(maps[0])  # every position is used with the same weights: their mean counts
            else:  # samples[n][column], a unit's columns side by side
                positions = len(samples[0]) // layer.units
                maps = [sample[i * positions : (i + 1) * positions] for sample in samples]
                columns = range(i * positions, (i + 1) * positions)
                per_position = [sum(abs(row[column]) for row in outgoing.weight.tolist()) for column in columns]
                share = 1.0
            everything = [h for sample in maps for h in sample]
            mean_h = sum(everything) / len(everything)
            layer.running_mean[k][i] = eta * layer.running_mean[k][i] + (1 - eta) * mean_h
            h_hat = layer.running_mean[k][i] / (1 - eta ** layer.age[i])  # one for each channel
            for p, weight in enumerate(per_position):
                mean_abs = sum(abs(sample[p]) for sample in maps) / len(maps)
                deviation = sum(abs(sample[p] - h_hat) for sample in maps) / len(maps)
                total += (
                    share
                    * {
                        "contribution": mean_abs * weight,
                        "zero_contribution": deviation * weight,
                        "adaptable_contribution": deviation * weight / mean_w_in,
                        "weight": weight,
                        "feature_by_input": deviation
                        / mean_w_in
                        / (1 if isinstance(outgoing, nn.Conv2d) else len(per_position)),
                    }[self.utility]
                )
        return total / len(layer.outgoing) if self.utility == "feature_by_input" else total

    def replace(self, layer, units, bound):
        if isinstance(layer, MapsLayer):
            self.replace_channels(layer, units, bound)
        else:
            super().replace(layer, units, bound)

    def replace_channels(self, layer, units, bound):
        weight = layer.incoming.weight
        uniform = torch.rand((len(units), *weight.shape[1:]), generator=layer.generator, dtype=weight.dtype)
        for n, i in enumerate(units):
            for c, y, x in every_index(*weight.shape[1:]):
                weight[i, c, y, x] = (2 * uniform[n, c, y, x] - 1) * bound
                self.forget(weight, (i, c, y, x))
            layer.incoming.bias[i] = 0
            self.forget(layer.incoming.bias, (i,))
            for norm in layer.norms:
                norm.weight[i], norm.bias[i] = 1, 0
                self.forget(norm.weight, (i,))
                self.forget(norm.bias, (i,))
                if isinstance(norm, nn.BatchNorm2d):
                    norm.running_mean[i], norm.running_var[i] = 0, 1
            for outgoing in layer.outgoing:
                columns = outgoing.weight.shape[1] // layer.units
                for k, column, *place in every_index(len(outgoing.weight), columns, *outgoing.weight.shape[2:]):
                    element = (k, i * columns + column, *place)
                    outgoing.weight[element] = 0
                    self.forget(outgoing.weight, element)
            layer.utility[i], layer.age[i] = 0.0, 0
            for means in layer.running_mean:
                means[i] = 0.0


class Network(nn.Module):
    """Two convolutions and two Linear layers on images of 2 × 8 × 8: norms, pooling, flattening, and a second head."""

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)  # 6 × 6
        self.norm = nn.BatchNorm2d(4) if norm == "batch" else nn.LayerNorm((4, 6, 6))
        self.second = nn.Conv2d(4, 5, 2)  # of 3 × 3: 2 × 2
        self.third = nn.Linear(20, 6)
        self.beside = nn.Linear(36, 1)
        self.head = nn.Linear(6, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        beside = self.beside(h.view(h.size(0), -1))
        h = torch.tanh(self.second(h))
        return self.head(torch.relu(self.third(torch.flatten(h, 1)))) + beside

    def oracle_layers(self) -> list[Layer]:
        return [
            MapsLayer(self.first, [self.beside, self.second], "relu", [self.norm]),
            MapsLayer(self.second, [self.third], "tanh"),
            Layer(self.third, [self.head], "relu"),
        ]


def follow(norm="batch", optimizer="adam", steps=40, at_least=4, **options):
    """Trains twins, one with the method and one with the oracle, and compares everything after every step."""
    torch.manual_seed(1)
    model = Network(norm)
    twin = copy.deepcopy(model)
    make = {
        "adam": lambda network: torch.optim.Adam(network.parameters(), lr=0.01),
        "cbp_adam": lambda network: cbp.Adam(network.parameters(), lr=0.01),
    }[optimizer]
    optimizers = make(model), make(twin)
    options = {"replacement_rate": 0.1, "maturity_threshold": 3, "decay_rate": 0.9, "seed": 7} | options
    method = cbp.ContinualBackprop(model, optimizers[0], **options)
    oracle = ConvolutionalOracle(twin.oracle_layers(), optimizers[1], **options)
    received = {}
    for layer in oracle.layers:
        for outgoing in layer.outgoing:
            outgoing.register_forward_pre_hook(lambda module, args: received.__setitem__(module, args[0].detach()))
    generator = torch.Generator().manual_seed(0)
    total = [0, 0, 0]
    for step in range(steps):
        x = torch.randn(3, 2, 8, 8, generator=generator, dtype=torch.float64)
        for network, its_optimizer in zip((model, twin), optimizers, strict=True):
            its_optimizer.zero_grad()
            (network(x) - x.mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0]).square().mean().backward()
            its_optimizer.step()
        replaced = [units.tolist() for units in method.step()]
        assert replaced == oracle.step([[received[out] for out in layer.outgoing] for layer in oracle.layers]), step
        for ours, theirs in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
            # The bias in front of a batch norm has no gradient but rounding, and Adam divides that by ε: in a step it may
            # move by 0.01 · 2·10⁻¹⁵ / 10⁻⁸ = 2·10⁻⁹.
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-8)
        for ours, theirs in zip(optimizers[0].state.values(), optimizers[1].state.values(), strict=True):
            assert all(torch.allclose(ours[name], theirs[name], rtol=1e-7, atol=1e-12) for name in ours)
        for layer, known in zip(method.layers, oracle.layers, strict=True):
            assert torch.allclose(layer.utility, torch.tensor(known.utility, dtype=torch.float64), rtol=1e-8)
            assert layer.age.tolist() == known.age
        begin_alike(model, optimizers[0], twin, optimizers[1])
        total = [n + len(units) for n, units in zip(total, replaced, strict=True)]
    assert min(total) >= at_least, total


@pytest.mark.parametrize("utility", UTILITIES)
def test_every_utility_of_channels_agrees_with_the_oracle(utility):
    follow(utility=utility)


@pytest.mark.parametrize("init", ["auto", "lecun", "xavier"])
def test_every_distribution_of_fresh_kernels_agrees_with_the_oracle(init):
    follow(init=init, steps=25, at_least=2)


@pytest.mark.parametrize(("optimizer", "reset"), [("adam", "none"), ("cbp_adam", "moments_and_step")])
def test_the_optimizers_state_of_channels_agrees_with_the_oracle(optimizer, reset):
    follow(optimizer=optimizer, reset_optimizer=reset, steps=25, at_least=2)


def test_layer_norm_of_maps_agrees_with_the_oracle():
    follow(norm="layer", steps=25, at_least=2)


def names_of(model):
    return [layer.name for layer in cbp.find_layers(model)]


class Flattened(nn.Module):
    """A convolution of 4 channels on images of 1 × 5 × 5, made flat in some way, and a Linear layer."""

    def __init__(self, flatten, columns):
        super().__init__()
        self.maps, self.flatten, self.head = nn.Conv2d(1, 4, 2), flatten, nn.Linear(columns, 1)
        nn.init.uniform_(self.maps.weight, 0.1, 1.0)  # active everywhere

    def forward(self, x):
        return self.head(self.flatten(torch.relu(self.maps(x))))


@pytest.mark.parametrize(
    ("flatten", "columns"),
    [
        (lambda h: h.view(h.size(0), -1), 64),
        (lambda h: h.reshape(h.shape[0], -1), 64),
        (lambda h: h.reshape((len(h) if isinstance(h, Tensor) else -1, 64)), 64),
        (lambda h: torch.flatten(h, 1), 64),
        (lambda h: torch.flatten(h, start_dim=1), 64),
        (lambda h: h.flatten(1), 64),
        (nn.Flatten(), 64),
        (lambda h: h.mean(dim=(2, 3)), 4),
        (lambda h: h.mean([-1, -2]), 4),
        (lambda h: F.adaptive_avg_pool2d(h, 1).flatten(1), 4),
        (nn.Sequential(nn.AdaptiveMaxPool2d((2, 2)), nn.Dropout2d(), nn.Flatten()), 16),
        (lambda h: F.avg_pool2d(F.dropout2d(h, 0.5, training=False), kernel_size=2).view(-1, 16), 16),
    ],
)
def test_a_channel_feeds_the_columns_of_its_own_positions_however_maps_are_flattened(flatten, columns):
    model = Flattened(flatten, columns).eval()
    (layer,) = cbp.find_layers(model)
    assert (layer.units, layer.columns(0), layer.activation) == (4, columns // 4, "relu")
    x = torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    before = model(x)
    # What a channel contributes goes with its columns, and nothing else does.
    with torch.no_grad():
        model.maps.weight[2], model.maps.bias[2] = 0, 0
        silent = model(x)
        model.head.weight.index_fill_(1, layer.edges[0].weights.of(torch.tensor([2])), 0)
    assert torch.equal(model(x), silent)
    assert not torch.equal(before, silent)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda h: h.permute(0, 2, 3, 1).flatten(1),
        lambda h: h.transpose(1, 2).reshape(h.size(0), -1),
        lambda h: torch.cat([h.flatten(1)[:, 1:], h.flatten(1)[:, :1]], dim=1),
    ],
)
def test_columns_are_those_of_the_channel_in_whatever_order_maps_are_flattened(flatten):
    model = Flattened(flatten, 64)
    x = torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    (layer,) = cbp.find_layers(model, (x,))
    before = model(x)
    with torch.no_grad():
        model.maps.weight[2], model.maps.bias[2] = 0, 0
        silent = model(x)
        model.head.weight.index_fill_(1, layer.edges[0].weights.of(torch.tensor([2])), 0)
    torch.testing.assert_close(model(x), silent)
    assert not torch.allclose(before, silent)
    assert cbp.verify(model, (x,)) < 1e-5


@pytest.mark.parametrize(
    ("flatten", "columns"),
    [
        (lambda h: torch.flatten(h.mean(dim=1), 1), 16),
        (lambda h: h.softmax(dim=1).flatten(1), 64),
        (lambda h: h.view(h.size(0), 4, -1).sum(dim=1), 16),
        (lambda h: h.view(h.size(0), 4, -1), 16),
    ],
)
def test_channels_that_are_mixed_or_reach_the_output_are_refused(flatten, columns):
    with pytest.raises(cbp.LayerError, match="'maps'"):
        cbp.find_layers(Flattened(flatten, columns), (torch.rand(3, 1, 5, 5),))


class Block(nn.Module):
    """Two convolutions with batch norms, added to what came in; the shortcut has a convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        h += self.shortcut(x)
        return torch.relu(h)


class ResNet18(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks = []
        for k, stride in enumerate((1, 2, 2, 2)):
            blocks += [Block(width * 2 ** max(0, k - 1 if stride > 1 else k), width * 2**k, stride)]
            blocks += [Block(width * 2**k, width * 2**k, 1)]
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(8 * width, 10)

    def forward(self, x):
        h = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(h, 1), 1))


def test_of_a_residual_network_the_layers_within_the_blocks_are_found_and_the_others_named():
    model = ResNet18()
    method = cbp.ContinualBackprop(model, still(model), example=(torch.rand(2, 3, 16, 16),))
    found = [layer.hidden for layer in method.layers]
    assert [layer.name for layer in found] == [f"blocks.{k}.conv1" for k in range(8)]
    assert all(layer.activation == "relu" and len(layer.norms) == 1 and len(layer.outgoing) == 1 for layer in found)
    left_out = ["conv1", *(f"blocks.{k}.conv2" for k in range(8)), *(f"blocks.{k}.shortcut.0" for k in (2, 4, 6))]
    (line,) = method.left_out
    named = line.split("the units of ")[1].split(" are added")[0]
    assert sorted(named.replace("'", "").split(", ")) == sorted(left_out)


def test_replacing_a_channel_changes_a_residual_network_by_that_channels_contribution_alone():
    torch.manual_seed(0)
    model = ResNet18().double()
    x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    for _ in range(3):
        model(x)  # running statistics
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0)
    model(x).sum().backward()
    without = copy.deepcopy(model)
    replaced = method.step()
    assert min(len(units) for units in replaced) > 0
    with torch.no_grad():
        for k, units in enumerate(replaced):
            without.blocks[k].conv2.weight[:, units] = 0
    assert torch.allclose(model.eval()(x), without.eval()(x), atol=1e-12)
    for layer, units in zip(method.layers, replaced, strict=True):
        (norm,) = layer.hidden.norms
        for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
            assert torch.equal(tensor[units], torch.full((len(units),), float(value), dtype=torch.float64))


def two_convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)).double()


def test_redo_scores_a_channel_by_its_mean_over_batch_and_positions():
    model = two_convolutions()
    with torch.no_grad():
        model[0].bias[1] = -100.0  # never active
    method = cbp.ReDo(model, still(model), threshold=0.3, period=1)
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    h = torch.relu(model[0](x)).tolist()
    model(x)
    replaced = method.step()
    activity = [sum(v for sample in h for row in sample[c] for v in row) / (3 * 16) for c in range(6)]
    scores = [a / (sum(activity) / 6) for a in activity]
    kept = [c for c in range(6) if scores[c] > 0.3]
    assert method.layers[0].utility[kept].tolist() == pytest.approx([scores[c] for c in kept])
    assert replaced[0].tolist() == [c for c in range(6) if scores[c] <= 0.3]
    assert 1 in replaced[0].tolist()


def test_self_normalised_resets_take_a_channel_to_fire_on_a_sample_where_any_position_does():
    model = two_convolutions()
    with torch.no_grad():
        model[0].weight.fill_(0)
        model[0].bias.fill_(0)
        model[0].weight[0, 0, 1, 1] = 1.0  # channel 0 copies the image, the others are silent
    method = cbp.SelfNormalizedResets(model, still(model), max_silence=1000)
    x = torch.full((4, 1, 6, 6), -1.0, dtype=torch.float64)
    x[1, 0, 2, 3] = x[3, 0, 1, 1] = x[3, 0, 2, 2] = 1.0
    model(x)
    method.step()
    assert method.layers[0].fired.tolist() == [2.0, 0, 0, 0, 0, 0]  # samples 1 and 3
    assert method.layers[0].silence.tolist() == [0.0, 4, 4, 4, 4, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_channels_are_replaced_on_a_gpu_as_on_a_cpu():
    torch.manual_seed(1)
    model = Network()
    twin = copy.deepcopy(model).cuda()
    methods = [
        cbp.ContinualBackprop(network, still(network), replacement_rate=0.2, maturity_threshold=1) for network in (model, twin)
    ]
    for _ in range(5):
        x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
        for network in (model, twin):
            network(x.to(next(network.parameters()).device)).sum().backward()
        ours, theirs = ([units.tolist() for units in method.step()] for method in methods)
        assert ours == theirs


def test_channels_in_front_of_a_convolution_in_groups_feed_the_rows_of_their_own_group():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0, decay_rate=0.0, example=(x,))
    h = torch.relu(model[0](x)).mean(dim=(0, 2, 3)).detach()
    model(x).sum().backward()
    optimizer.step()
    weight = model[2].weight.detach().clone()
    (units,) = (units.tolist() for units in method.step())
    # Channel c is number c % 2 of group c // 2, which has the rows 3·(c // 2) to 3·(c // 2) + 2; η = 0: u = mean h · Σ|w_out|.
    rows = [slice(3 * (c // 2), 3 * (c // 2) + 3) for c in range(4)]
    expected = [(h[c] * weight[rows[c], c % 2].abs().sum()).item() for c in range(4)]
    assert units == sorted(range(4), key=lambda c: expected[c])[:2]
    for c in range(4):
        assert model[2].weight[rows[c], c % 2].any().item() == (c not in units)
        assert optimizer.state[model[2].weight]["exp_avg"][rows[c], c % 2].any().item() == (c not in units)
        if c not in units:
            assert method.layers[0].utility[c].item() == pytest.approx(expected[c])


def test_crelu_behind_a_convolution_gives_the_channels_and_then_their_other_sides():
    x = torch.tensor([[[[2.0]], [[-3.0]]]])  # a sample of two channels of one position
    assert cbp.CReLU(dim=1)(x).tolist() == [[[[2.0]], [[0.0]], [[0.0]], [[3.0]]]]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), cbp.CReLU(dim=1), nn.Flatten(), nn.Linear(8 * 4, 2)).double()
    example = (torch.randn(2, 3, 4, 4, dtype=torch.float64),)
    (layer,) = cbp.find_layers(model, example)
    assert layer.units == 4
    assert cbp.verify(model, example) < 1e-12


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("options", [{"kernel_size": 2}, {"kernel_size": 4, "dilation": 3}, {"kernel_size": 3}])
def test_convolutions_that_pad_themselves_on_one_side_more_are_seen(kind, options):
    axes = 1 + [nn.Conv1d, nn.Conv2d, nn.Conv3d].index(kind)
    behind = kind(4, 3, padding="same", **options)
    model = nn.Sequential(kind(2, 4, 3), nn.ReLU(), behind, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3**axes, 2))
    example = (torch.randn(2, 2, *[5] * axes),)
    method = cbp.ContinualBackprop(model, still(model), 1.0, 0, example=example)
    assert ([layer.name for layer in method.layers], method.left_out) == (["0", "2"], [])
    assert method.layers[0].hidden.edges[0].place.module is behind
    model(*example)
    assert [len(units) for units in method.step()] == [4, 3]
    assert cbp.verify(model, example) < 1e-5


def test_channels_that_lie_last_in_memory_are_found_behind_pooling_over_all_positions():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    x = torch.randn(2, 2, 8, 8)
    (plain,) = cbp.find_layers(model, (x,))
    (layer,) = cbp.find_layers(model.to(memory_format=torch.channels_last), (x,))
    for k, other in ((layer.incoming_weight, plain.incoming_weight), (layer.outgoing_weight(0), plain.outgoing_weight(0))):
        assert torch.equal(k, other)
    assert cbp.verify(model, (x,)) < 1e-5


class Bare(nn.Module):
    """A head's weight within the model: its units are seen in front of the flattening, where a module returns them."""

    def __init__(self, in_front: nn.Module, columns: int) -> None:
        super().__init__()
        self.in_front, self.weight = in_front, nn.Parameter(torch.randn(2, columns))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.in_front(x).flatten(1), self.weight)


def several_maps(kind: str) -> tuple[nn.Module, list[list[int]]]:
    """A network of three units that multiplies several values of each with weights, and which columns are a unit's."""
    torch.manual_seed(0)
    if kind == "crelu":
        return nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3), cbp.CReLU(1)), nn.Conv2d(6, 2, 2)), [
            [c, c + 3] for c in range(3)
        ]
    if kind == "multiplier":
        of_groups = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 6, 3, groups=3), nn.Tanh())
        return nn.Sequential(of_groups, nn.Conv2d(6, 2, 1)), [[2 * c, 2 * c + 1] for c in range(3)]
    if kind == "unshuffle":
        in_front = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.PixelUnshuffle(2))
        return nn.Sequential(in_front, nn.Conv2d(12, 2, 2)), [list(range(4 * c, 4 * c + 4)) for c in range(3)]
    if kind == "groups":  # of four channels each, which are two units' of the third
        in_front = nn.Sequential(nn.Conv2d(2, 3, 3), cbp.CReLU(1))
        return nn.Sequential(in_front, nn.Conv2d(6, 2, 2, groups=2)), [[c, c + 3] for c in range(3)]
    if kind == "flattened":
        positions = [range(16 * channel, 16 * channel + 16) for channel in range(6)]
        in_front = nn.Sequential(nn.Conv2d(2, 3, 3), cbp.CReLU(1))
        return Bare(in_front, 96), [[*positions[c], *positions[c + 3]] for c in range(3)]
    in_front = nn.Sequential(nn.Flatten(2), nn.Linear(36, 3), nn.Tanh())  # two steps of three units
    return Bare(in_front, 6), [[c, c + 3] for c in range(3)]


@pytest.mark.parametrize("utility", ["contribution", "zero_contribution", "adaptable_contribution"])
@pytest.mark.parametrize("kind", ["crelu", "multiplier", "unshuffle", "groups", "flattened", "sequence"])
@torch.no_grad()
def test_a_unit_is_judged_by_what_each_of_its_maps_contributes(kind, utility):
    model, columns = several_maps(kind)
    model.double()
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, still(model), utility=utility, decay_rate=0.0, example=(x,))
    with torch.enable_grad():
        model(x)
    method.step()
    received = model.in_front(x).flatten(1) if isinstance(model, Bare) else model[0](x)
    weight = model.weight if isinstance(model, Bare) else model[1].weight
    if kind == "groups":  # rows 0 and 1 have channels 0 to 2 and 3 to 5: those of the other group are zero
        weight = torch.zeros(2, 6, 2, 2, dtype=torch.float64)
        weight[0, :3], weight[1, 3:] = model[1].weight
    w_in = method.layers[0].hidden.incoming_weight.abs().mean(dim=1)
    for unit, its_columns in enumerate(columns):
        h = received[:, its_columns].reshape(4, len(its_columns), -1)
        h_hat, total = h.mean(), 0.0  # η = 0: the running mean is that of this batch
        for k, column in enumerate(its_columns):
            w_out = weight[:, column].abs().sum()
            total += {
                "contribution": h[:, k].abs().mean() * w_out,
                "zero_contribution": (h[:, k] - h_hat).abs().mean() * w_out,
                "adaptable_contribution": (h[:, k] - h_hat).abs().mean() * w_out / w_in[unit],
            }[utility]
        assert method.layers[0].utility[unit].item() == pytest.approx(total.item())


def test_a_head_behind_maps_that_was_not_called_counts_as_having_received_their_mean():
    torch.manual_seed(0)
    model = nn.ModuleDict({"maps": nn.Conv2d(1, 2, 2), "a": nn.Linear(8, 3), "b": nn.Linear(8, 1)}).double()
    x = torch.randn(5, 1, 3, 3, dtype=torch.float64)

    def both(model: nn.ModuleDict) -> Tensor:
        h = torch.relu(model["maps"](x)).flatten(1)
        return model["a"](h).sum() + model["b"](h).sum()

    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0, example=both)
    h = torch.relu(model["maps"](x)).flatten(1)
    model["b"](h)
    method.step()
    # Σ_p mean h_p · |w_b,p| + mean h · Σ_p,k |w_a,kp| over the four positions p of a channel
    of_b = (h.mean(0) * model["b"].weight[0].abs()).view(2, 4).sum(1)
    of_a = h.mean(0).view(2, 4).mean(1) * model["a"].weight.abs().sum(0).view(2, 4).sum(1)
    torch.testing.assert_close(method.layers[0].utility, (of_a + of_b).detach())
