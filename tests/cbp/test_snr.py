"""Self-normalised resets against their hypothesis test, sample by sample."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracle import Layer, Oracle
from small_networks import Problem, begin_alike, by_hand, chain, learn, still, update
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cbp


class SnrOracle(Oracle):
    """Keeps for each unit every time between two firings, and asks how likely its present silence is."""

    def __init__(
        self,
        layers: list[Layer],
        optimizer: torch.optim.Optimizer,
        rejection: float,
        max_silence: int,
        min_silence: int,
        **options,
    ):
        super().__init__(layers, optimizer, 0, 0, **options)
        self.rejection = rejection
        self.max_silence = max_silence
        self.min_silence = min_silence
        self.fired = [[0] * layer.units for layer in layers]
        self.seen = [[0] * layer.units for layer in layers]
        self.silence = [[0] * layer.units for layer in layers]

    def test(self, layer: Layer, inputs: list[list[list[float]]]) -> list[int]:
        (rows,) = inputs
        n = next(k for k, other in enumerate(self.layers) if other is layer)
        due = []
        for i in range(layer.units):
            layer.age[i] += 1
            firings = sum(1 for row in rows if row[i] > 0)
            self.silence[n][i] += len(rows)
            if firings:
                self.seen[n][i] += self.silence[n][i]
                self.fired[n][i] += firings
                self.silence[n][i] = 0
            rate = self.fired[n][i] / self.seen[n][i] if self.seen[n][i] else 0.0
            likelihood = 1.0  # P(A > a): a samples in a row without a firing
            for _ in range(self.silence[n][i]):
                likelihood *= 1 - rate
            layer.utility[i] = likelihood
            silence = self.silence[n][i]
            if (silence >= self.min_silence and likelihood <= self.rejection) or silence >= self.max_silence:
                due.append(i)
                self.fired[n][i] = self.seen[n][i] = self.silence[n][i] = 0
        return due


@pytest.mark.parametrize(("rejection", "min_silence"), [(1e-4, 0), (0.05, 0), (0.05, 25)])
@pytest.mark.parametrize("reset_optimizer", ["none", "moments"])
def test_resets_agree_with_the_oracle_step_by_step(rejection, min_silence, reset_optimizer):
    model = chain(3, 12, 9, 2, seed=3)
    twin = copy.deepcopy(model)
    model_optimizer, twin_optimizer = (torch.optim.Adam(net.parameters(), lr=0.05) for net in (model, twin))
    options = {"rejection": rejection, "max_silence": 50, "min_silence": min_silence}
    options |= {"reset_optimizer": reset_optimizer, "seed": 11}
    method = cbp.SelfNormalizedResets(model, model_optimizer, **options)
    oracle = SnrOracle([Layer(twin[0], [twin[2]], "relu"), Layer(twin[2], [twin[4]], "relu")], twin_optimizer, **options)
    received: dict[nn.Module, Tensor] = {}
    for linear in (twin[2], twin[4]):
        linear.register_forward_pre_hook(lambda module, args: received.__setitem__(module, args[0].detach()))
    problem, total = Problem(3, 2), 0
    for step in range(120):
        x, y = problem()
        replaced = update(model, model_optimizer, method, x, y)
        learn(twin, twin_optimizer, x, y)
        assert replaced == oracle.step([[received[twin[2]]], [received[twin[4]]]]), f"step {step}"
        total += sum(map(len, replaced))
        for layer, known in zip(method.layers, oracle.layers, strict=True):
            expected = torch.tensor(known.utility, dtype=torch.float64)
            kept = torch.tensor(
                [i not in units for units in [replaced[method.layers.index(layer)]] for i in range(known.units)]
            )
            assert torch.allclose(layer.utility[kept], expected[kept], rtol=1e-9)
            assert layer.age.tolist() == known.age
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)
        begin_alike(model, model_optimizer, twin, twin_optimizer)
    assert total >= 20


def shown(model, method, *batches):
    """The units replaced after each batch of inputs."""
    replaced = []
    for batch in batches:
        model(torch.tensor(batch, dtype=torch.float64).reshape(-1, 1))
        replaced.append(method.step()[0].tolist())
    return replaced


def test_a_unit_is_replaced_once_its_silence_is_unlikely_for_its_own_rate():
    # Unit 0 fires for positive inputs, unit 1 for negative ones, so in the first batch of 4 the former fires on 2 of 4
    # samples and the latter on 2 of 4; p = 1/2 each. Then unit 1 is silent: (1/2)^4 = 0.0625 > 0.05, (1/2)^8 = 0.0039 ≤ 0.05.
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model), rejection=0.05, min_silence=0)
    assert shown(model, method, [1, 1, -1, -1], [1, 1, 1, 1]) == [[], []]
    assert method.layers[0].utility.tolist() == [1.0, 0.0625]
    assert shown(model, method, [1, 1, 1, 1]) == [[1]]
    assert model[2].weight.tolist() == [[1.0, 0.0]]
    # Unit 0 fired on 10 of 12 samples: 2 + 4 + 4.
    assert (method.layers[0].fired[0].item(), method.layers[0].seen[0].item()) == (10, 12)
    assert (method.layers[0].fired[1].item(), method.layers[0].seen[1].item()) == (0, 0)


def test_a_unit_that_fires_rarely_is_given_longer():
    # Fired on 1 of 10 samples: 0.9^20 = 0.1216 > 0.1, 0.9^30 = 0.0424 ≤ 0.1.
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model), rejection=0.1, min_silence=0)
    assert shown(model, method, [-1] + [1] * 9, [1] * 10, [1] * 10, [1] * 10) == [[], [], [], [1]]


def test_no_silence_below_the_shortest_is_judged():
    # Fired on 4 of 4 samples, so p = 1 and any silence has the likelihood 0. The authors' thresholds are 100 samples at least.
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model))
    assert shown(model, method, [-1] * 4, *[[1]] * 99, [1]) == [[]] * 100 + [[1]]


def test_a_unit_that_never_fired_is_replaced_after_the_longest_silence_allowed():
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model), max_silence=9)
    assert shown(model, method, [1] * 4, [1] * 4, [1] * 4) == [[], [], [1]]


def test_the_samples_of_a_silence_that_ends_count_for_the_rate():
    # 1 firing in the first 4 samples, none in 4, 1 in the last 4: p = 2/12.
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model), rejection=0.01)
    shown(model, method, [-1, 1, 1, 1], [1] * 4, [-1, 1, 1, 1])
    assert (method.layers[0].fired[1].item(), method.layers[0].seen[1].item()) == (2, 12)


def test_an_activation_that_is_never_silent_is_refused():
    model = chain(3, 6, 2, activation=nn.Tanh)
    with pytest.raises(cbp.LayerError, match=r"layer '0' has activation 'tanh'.* need ReLU"):
        cbp.SelfNormalizedResets(model, still(model))


def test_a_stopped_run_goes_on_with_what_it_knew():
    def trained(interrupted_after):
        model = chain(3, 12, 9, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        method, problem, history = cbp.SelfNormalizedResets(model, optimizer, seed=11, max_silence=50), Problem(3, 2), []
        for step in range(60):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.SelfNormalizedResets(model, optimizer, seed=1, max_silence=50)
                method.load_state_dict(state)
            history.append(update(model, optimizer, method, *problem()))
        return history

    assert trained(30) == trained(None)
    assert any(units for step in trained(None)[30:] for units in step)


@pytest.mark.parametrize("silences", [1, 2])
def test_at_the_level_or_the_longest_silence_itself_a_unit_is_replaced(silences):
    # Fired on 2 of 4 samples: (1/2)^4 = 0.0625 exactly after one silent minibatch; 8 silent samples after two.
    options = {"rejection": 0.0625, "min_silence": 4} if silences == 1 else {"rejection": 1e-9, "max_silence": 8}
    model = by_hand([[1.0], [-1.0]], [[1.0, 1.0]])
    method = cbp.SelfNormalizedResets(model, still(model), **options)
    history = shown(model, method, [1, 1, -1, -1], *[[1] * 4] * silences)
    assert history == [[]] * silences + [[1]]
    assert method.layers[0].utility.tolist() == [1, 0]  # forgotten


def test_a_layer_with_a_norm_is_refused():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 1))
    with pytest.raises(cbp.LayerError, match="layer '0' has a norm"):
        cbp.SelfNormalizedResets(model, still(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rejection": 1.5}, r"rejection must be a finite number in \[0, 1\], got 1.5"),
        ({"rejection": math.nan}, r"rejection must be a finite number in \[0, 1\], got nan"),
        ({"rejection": 0}, r"rejection must be above 0, got 0"),
        ({"max_silence": 0}, r"max_silence must be a whole number >= 1, got 0"),
        ({"min_silence": -1}, r"min_silence must be a whole number >= 0, got -1"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.SelfNormalizedResets(model, still(model), **options)


def test_all_layers_are_decided_by_one_look_at_the_device():
    class Counting(TorchDispatchMode):
        looks = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.looks += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "item", "is_nonzero")
            return func(*args, **(kwargs or {}))

    model = chain(3, 6, 5, 4, 2)
    method = cbp.SelfNormalizedResets(model, still(model))
    model(torch.ones(2, 3, dtype=torch.float64))
    with Counting() as counting:
        assert [len(units) for units in method.step()] == [0, 0, 0]
    assert counting.looks == 1
