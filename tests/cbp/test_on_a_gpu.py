"""On a GPU every method, network and measure is what it is on a CPU."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from small_networks import UTILITIES, chain, still
from test_every_method import SOON, numbers_of
from test_zoo import COUPLED, NOTHING, made
from torch import nn
from torch.utils._pytree import tree_map_only
from zoo import NETWORKS

import cbp
from cbp import metrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# Without the noise that is drawn where the weights are, and without what diverges.
ALIKE = {"shrink-perturb": {"perturb": 0.0}, "upgd": {"sigma": 0.0}, "c-chain": {"first_strength": 0.01}}
CASES = [*cbp.METHODS, "moments_and_step"]


def begun(name, device="cpu"):
    model = chain(3, 8, 6, 2).to(device)
    options = {**SOON.get(name, {}), **ALIKE.get(name, {})}
    if name == "moments_and_step":
        optimizer = cbp.Adam(model.parameters(), lr=0.01)
        return model, optimizer, cbp.ContinualBackprop(model, optimizer, reset_optimizer=name, **SOON["cbp"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, cbp.METHODS[name](model, optimizer, **options)


def learn(model, optimizer, method, updates):
    """Makes updates whose batches follow from their numbers; the units replaced in each."""
    device, replaced = next(model.parameters()).device, []
    for update in updates:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(update), dtype=torch.float64).to(device)
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        method.before_update()
        optimizer.step()
        replaced.append([units.tolist() for units in method.step()])
        if update % 7 == 6:
            method.change()
    return replaced


def assert_alike(model, twin):
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.cpu(), theirs.cpu(), rtol=1e-6, atol=1e-9)


def on(device, state):
    """A state as it is read from a file there."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location=device, weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_every_method_does_on_a_gpu_what_it_does_on_a_cpu(name):
    (model, *ours), (twin, *theirs) = begun(name), begun(name, "cuda")
    assert learn(model, *ours, range(20)) == learn(twin, *theirs, range(20))
    assert_alike(model, twin)
    assert all(parameter.device.type == "cuda" for parameter in twin.parameters())
    found = [numbers_of(method.state_dict()) for _, method in (ours, theirs)]
    for here, there in zip(*found, strict=True):
        if here.dtype == torch.uint8:  # the state of a generator, which no two kinds of device share
            continue
        if name == "spectral":  # of singular vectors the sign is free
            here, there = here.abs(), there.abs()
        assert torch.allclose(here.double(), there.cpu().double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "as saved"])
def test_a_state_goes_on_on_another_device(name, first, then, mapped):
    whole = begun(name, first)
    learn(*whole, range(10))
    states = [part.state_dict() for part in whole]
    twin = begun(name, then)
    for part, state in zip(twin, states, strict=True):
        part.load_state_dict(on(then if mapped else None, state))
    assert learn(*whole, range(10, 25)) == learn(*twin, range(10, 25))
    assert_alike(whole[0], twin[0])


@pytest.mark.parametrize("name", cbp.METHODS)
@pytest.mark.parametrize("after", [0, 9])
def test_a_model_may_be_moved_after_the_method_was_made(name, after):
    pairs = []
    for _ in range(2):
        model = chain(3, 8, 6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        pairs.append((model, optimizer, cbp.METHODS[name](model, optimizer, **SOON.get(name, {}), **ALIKE.get(name, {}))))
    stays, moves = pairs
    replaced = [learn(*each, range(after)) for each in pairs]
    moves[0].cuda()
    for of_each, each in zip(replaced, pairs, strict=True):
        of_each += learn(*each, range(after, 25))
    assert replaced[0] == replaced[1]
    assert_alike(stays[0], moves[0])
    moves[0].cpu()
    assert learn(*stays, range(25, 40)) == learn(*moves, range(25, 40))
    assert_alike(stays[0], moves[0])


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in cbp.METHODS), *(("cbp", {"utility": utility}) for utility in UTILITIES)]
)
def test_a_model_may_lie_on_two_devices(name, options):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = chain(3, 8, 6)[:2].cuda(), chain(8, 6, 2, seed=1)

        def forward(self, x):
            return self.second(self.first(x.cuda()).cpu())

    split, whole = Split(), nn.Sequential(chain(3, 8, 6)[:2], chain(8, 6, 2, seed=1))
    pairs = []
    for model in (split, whole):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = cbp.METHODS[name](model, optimizer, **{**SOON.get(name, {}), **ALIKE.get(name, {}), **options})
        pairs.append((model, optimizer, method))
    replaced = [[], []]
    for update in range(20):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
        for found, (model, optimizer, method) in zip(replaced, pairs, strict=True):
            optimizer.zero_grad()
            (model(x) - x[:, :2]).square().mean().backward()
            method.before_update()
            optimizer.step()
            found.append([units.tolist() for units in method.step()])
    assert replaced[0] == replaced[1]
    assert_alike(split, whole)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_units_of_every_network_are_found_and_replaced_on_a_gpu(name):
    model, example, treated = made(name)
    model, example = model.cuda(), tree_map_only(torch.Tensor, torch.Tensor.cuda, example)
    if name in NOTHING:
        with pytest.raises(cbp.LayerError, match="no hidden layer that can be treated"):
            cbp.find_layers(model, example)
        return
    assert {layer.name: layer.units for layer in cbp.find_layers(model, example)} == treated
    if name not in COUPLED:
        assert cbp.verify(model, example) < 1e-4
        assert cbp.verify(model.eval(), example) < 1e-4
    method = cbp.ContinualBackprop(
        model, still(model), replacement_rate=1.0, maturity_threshold=0, example=example, init="lecun"
    )
    model.train()(*example)
    assert {layer.name: len(units) for layer, units in zip(method.layers, method.step(), strict=True)} == treated


@pytest.mark.parametrize("name", cbp.METHODS)
def test_the_generators_of_the_gpu_are_left_alone(name):
    before = torch.cuda.get_rng_state()
    model, optimizer, method = begun(name, "cuda")
    learn(model, optimizer, method, range(10))
    example = (torch.ones(2, 3, dtype=torch.float64, device="cuda"),)
    cbp.find_layers(model, example)
    cbp.verify(model, example)
    cbp.Trainability(
        lambda: chain(3, 8, 2).cuda(), torch.linspace(-1, 1, 150, dtype=torch.float64, device="cuda").view(50, 3), 2, 20
    )
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize(
    "measure",
    [
        *(metrics.dormant_fraction, metrics.dead_fraction, metrics.tau_dormant_fraction, metrics.saturated_fraction),
        *(metrics.stable_rank, metrics.true_stable_rank, metrics.effective_rank, metrics.feature_rank, metrics.ranks),
        *(metrics.gradient_dormant_fraction, metrics.weight_magnitude),
    ],
)
def test_measures_of_activations_are_the_same(measure):
    h = torch.relu(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) - torch.linspace(0, 4, 40))
    assert measure(h.cuda()) == pytest.approx(measure(h), rel=1e-5)


def test_measures_of_weights_and_networks_are_the_same():
    network, x = chain(4, 16, 3), torch.randn(30, 4, dtype=torch.float64)
    network(x).square().sum().backward()
    twin = copy.deepcopy(network).cuda()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        other.grad = parameter.grad.cuda()
    assert metrics.gradient_norm(twin.parameters()) == pytest.approx(metrics.gradient_norm(network.parameters()))
    other = chain(4, 16, 3, seed=1)
    here = metrics.weight_distance(network.parameters(), other.parameters())
    assert metrics.weight_distance(twin.parameters(), other.cuda().parameters()) == pytest.approx(here)
    assert metrics.ntk_effective_rank(twin, x.cuda()) == pytest.approx(metrics.ntk_effective_rank(network, x), rel=1e-5)


def test_trainability_is_the_same():
    x = torch.randn(100, 4, dtype=torch.float64)
    tired = chain(4, 16, 2)
    tired[0].bias.data -= 2
    ours = cbp.Trainability(lambda: chain(4, 16, 2, seed=int(torch.randint(99, ()))), x, 3, 60)
    theirs = cbp.Trainability(lambda: chain(4, 16, 2, seed=int(torch.randint(99, ()))).cuda(), x.cuda(), 3, 60)
    for head in (None, "2"):
        here, there = ours(tired, head), theirs(copy.deepcopy(tired).cuda(), head)
        assert there.score == pytest.approx(here.score, rel=1e-4)
        assert there.low == pytest.approx(here.low, rel=1e-3)


def test_the_optimizer_of_the_package_is_torch_s_on_a_gpu():
    ours, theirs = chain(3, 8, 2).cuda(), chain(3, 8, 2).cuda()
    pairs = [(ours, cbp.Adam(ours.parameters(), lr=0.01)), (theirs, torch.optim.Adam(theirs.parameters(), lr=0.01))]
    for _ in range(20):
        x = torch.randn(5, 3, dtype=torch.float64, device="cuda")
        for model, optimizer in pairs:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert_alike(ours, theirs)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_nothing_is_read_from_the_gpu_where_nothing_is_replaced():
    """Reading would make the processor wait for the GPU at each update."""
    model = chain(3, 64, 64, 2).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    x = torch.randn(5, 3, dtype=torch.float64, device="cuda")
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1e-4, maturity_threshold=3)
    for update in range(30):
        torch.cuda.set_sync_debug_mode("error" if update > 2 else "default")
        try:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            assert not any(map(len, method.step()))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert method.layers[0].age.tolist() == [30] * 64


@pytest.mark.parametrize("name", cbp.METHODS)
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_mixed_precision_under_a_gradient_scaler(name, precision):
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2)).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    often = {"cbp": {"replacement_rate": 0.01}, "snr": {}, "hare-tortoise": {}}.get(name, SOON.get(name, {}))
    method = cbp.METHODS[name](model, optimizer, **often)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)  # which overflows at first
    losses = []
    for _ in range(200):
        x = torch.randn(64, 3, device="cuda")
        with torch.autocast("cuda", precision):
            loss = (model(x) - x[:, :2]).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        method.before_update()
        scaler.step(optimizer)
        scaler.update()
        method.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_model_is_treated_as_the_plain_one():
    plain = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)).double().cuda()
    compiled = copy.deepcopy(plain)
    replaced = []
    for model, call in ((plain, plain), (compiled, torch.compile(compiled))):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        example = (torch.ones(5, 3, dtype=torch.float64, device="cuda"),)
        method = cbp.ContinualBackprop(call, optimizer, replacement_rate=0.05, maturity_threshold=3, example=example)
        found = []
        for update in range(30):
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(update), dtype=torch.float64).cuda()
            optimizer.zero_grad()
            (call(x) - x[:, :2]).square().mean().backward()
            optimizer.step()
            found.append([units.tolist() for units in method.step()])
        replaced.append(found)
    assert replaced[0] == replaced[1]
    assert any(units for update in replaced[0] for units in update)
    assert_alike(plain, compiled)
