"""The method against the oracle, step by step, and the cases that can be worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from oracle import GAINS, Layer, Oracle
from small_networks import UTILITIES, Problem, begin_alike, by_hand, chain, learn, still, update
from torch import Tensor, nn

import cbp

INITS = ["auto", "lecun", "kaiming", "xavier", "default"]


class Network(nn.Module):
    """3 inputs, two hidden layers of 6 and 5 units, one or more heads of 2 outputs."""

    def __init__(
        self,
        heads: int = 1,
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm_before: bool = False,
        norm_behind: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.between_first = self._between(6, activation, norm_before, norm_behind, dropout)
        self.second = nn.Linear(6, 5)
        self.between_second = self._between(5, activation, norm_before, norm_behind, dropout)
        self.heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(heads))
        self.double()

    @staticmethod
    def _between(
        units: int, activation: Callable[[], nn.Module], norm_before: bool, norm_behind: bool, dropout: float
    ) -> nn.Sequential:
        modules = [activation()]
        if norm_before:
            modules.insert(0, nn.LayerNorm(units))
        if norm_behind:
            modules.append(nn.LayerNorm(units))
        if dropout:
            modules.append(nn.Dropout(dropout))
        return nn.Sequential(*modules)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.between_first(self.first(x))
        h = self.between_second(self.second(h))
        return tuple(head(h) for head in self.heads)

    def oracle_layers(self) -> list[Layer]:
        names = {
            nn.ReLU: "relu", nn.Tanh: "tanh", nn.LeakyReLU: "leaky_relu", nn.SELU: "selu", nn.Sigmoid: "sigmoid",
            nn.ELU: "elu", nn.SiLU: "silu",
        }  # fmt: skip
        layers = []
        for incoming, between, outgoing in (
            (self.first, self.between_first, [self.second]),
            (self.second, self.between_second, list(self.heads)),
        ):
            norms = [module for module in between if isinstance(module, nn.LayerNorm)]
            activation = next(names[type(module)] for module in between if type(module) in names)
            layers.append(Layer(incoming, outgoing, activation, norms))
        return layers


class Watch:
    """Keeps what each outgoing layer of an oracle's layers receives."""

    def __init__(self, layers: list[Layer]) -> None:
        self.last: dict[nn.Module, Tensor] = {}
        for layer in layers:
            for linear in layer.outgoing:
                linear.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.last[module] = args[0].detach()


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
    "torch_adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3),
    "torch_amsgrad": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True),
    "cbp_adam": lambda model: cbp.Adam(model.parameters(), lr=0.01, betas=(0.99, 0.99)),
}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """What float64 leaves between two orders of summation; exact enough that no ranking depends on it."""
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10), f"differs by {(ours - theirs).abs().max().item()}"


def follow(
    steps: int = 100,
    network: dict[str, object] | None = None,
    optimizer: str = "torch_adam",
    at_least: int = 15,
    replacement_rate: float = 0.05,
    maturity_threshold: int = 5,
    **options: object,
) -> None:
    """Trains twins, one with the method and one with the oracle, and compares everything after every step."""
    torch.manual_seed(1)
    model = Network(**(network or {}))
    twin = copy.deepcopy(model)
    model_optimizer, twin_optimizer = OPTIMIZERS[optimizer](model), OPTIMIZERS[optimizer](twin)
    options = {"decay_rate": 0.9, "seed": 7} | options
    options |= {"replacement_rate": replacement_rate, "maturity_threshold": maturity_threshold}
    method = cbp.ContinualBackprop(model, model_optimizer, **options)
    oracle = Oracle(twin.oracle_layers(), twin_optimizer, **options)
    watch = Watch(oracle.layers)
    problem = Problem(3, 2)

    total = [0, 0]
    for step in range(steps):
        x, y = problem()
        torch.default_generator.manual_seed(step)  # dropout
        replaced = update(model, model_optimizer, method, x, y)
        torch.default_generator.manual_seed(step)
        learn(twin, twin_optimizer, x, y)
        expected = oracle.step([[watch.last[linear] for linear in layer.outgoing] for layer in oracle.layers])

        assert replaced == expected, f"units replaced at step {step}"
        assert [layer.age.tolist() for layer in method.layers] == [known.age for known in oracle.layers]
        assert [layer.counter for layer in method.layers] == [known.counter for known in oracle.layers]
        assert_close(torch.cat([p.flatten() for p in model.parameters()]), torch.cat([p.flatten() for p in twin.parameters()]))
        ours = torch.cat([torch.cat([layer.utility, layer.corrected_utility]) for layer in method.layers])
        theirs = []
        for known in oracle.layers:
            theirs += known.utility + [oracle.corrected_utility(known, i) for i in range(known.units)]
        assert_close(ours, torch.tensor(theirs, dtype=torch.float64))
        begin_alike(model, model_optimizer, twin, twin_optimizer)
        total = [n + len(units) for n, units in zip(total, expected, strict=True)]
    assert min(total) >= at_least, f"too few units replaced to have tested much: {total}"
    assert [layer.replaced for layer in method.layers] == total


@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
@pytest.mark.parametrize("utility", UTILITIES)
def test_every_utility_and_rounding_agrees_with_the_oracle(utility, rounding):
    follow(utility=utility, rounding=rounding, network={"heads": 2, "activation": nn.Tanh})


@pytest.mark.parametrize("utility", UTILITIES)
def test_every_utility_agrees_with_the_oracle_on_relu_units_and_one_head(utility):
    follow(utility=utility, at_least=10)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.SELU, nn.Sigmoid, nn.ELU, nn.SiLU])
@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_inits_with_a_gain_agree_with_the_oracle(init, activation):
    follow(init=init, steps=60, at_least=4, network={"activation": activation})


@pytest.mark.parametrize("init", ["auto", "lecun", "default"])
def test_inits_without_a_gain_agree_with_the_oracle(init):
    follow(init=init, at_least=10, network={"activation": nn.Tanh})


@pytest.mark.parametrize(
    ("optimizer", "reset_optimizer"),
    [
        ("sgd", "moments"),
        ("momentum", "none"),
        ("momentum", "moments"),
        ("torch_adam", "none"),
        ("torch_adam", "moments"),
        ("torch_amsgrad", "moments"),
        ("cbp_adam", "none"),
        ("cbp_adam", "moments"),
        ("cbp_adam", "moments_and_step"),
    ],
)
def test_every_optimizer_and_reset_agrees_with_the_oracle(optimizer, reset_optimizer):
    follow(optimizer=optimizer, reset_optimizer=reset_optimizer, network={"heads": 2})


@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
@pytest.mark.parametrize(
    ("replacement_rate", "at_least"),
    # ρ·n for the layers of 6 and 5 units: 0.06 and 0.05; 1.8 and 1.5, falling below 1 after a replacement; all at once.
    [(0.01, 2), (0.3, 40), (1.0, 75)],
)
def test_rates_below_and_above_one_unit_per_step_agree_with_the_oracle(replacement_rate, at_least, rounding):
    follow(replacement_rate=replacement_rate, rounding=rounding, at_least=at_least, network={"activation": nn.Tanh})


def test_five_hundred_updates_agree_with_the_oracle():
    follow(steps=500, utility="adaptable_contribution", network={"norm_behind": True}, at_least=40)


@pytest.mark.parametrize("maturity_threshold", [0, 1, 40])
def test_maturity_thresholds_agree_with_the_oracle(maturity_threshold):
    follow(maturity_threshold=maturity_threshold, steps=3 * maturity_threshold + 80, at_least=10)


@pytest.mark.parametrize("decay_rate", [0.0, 0.99])
def test_decay_rates_agree_with_the_oracle(decay_rate):
    follow(decay_rate=decay_rate, utility="zero_contribution" if decay_rate else "contribution")


@pytest.mark.parametrize(
    "network",
    [
        {"norm_before": True},
        {"norm_behind": True, "activation": nn.Tanh},
        {"norm_before": True, "norm_behind": True, "heads": 3, "dropout": 0.2},
        {"dropout": 0.5, "heads": 2},
    ],
    ids=["norm before", "norm behind", "norms, dropout, heads", "dropout, heads"],
)
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
def test_norms_and_dropout_between_agree_with_the_oracle(utility, network):
    follow(utility=utility, network=network, at_least=10)


def test_units_are_judged_by_every_position_of_a_sequence():
    """Leading dimensions are flattened: (2, 3, units) counts as a batch of 6."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    utilities = []
    for batch in (x, x.reshape(6, 4)):
        model = chain(4, 5, 2)
        method = cbp.ContinualBackprop(model, still(model), utility="zero_contribution")
        update(model, method.optimizer, method, batch, torch.zeros(1, dtype=torch.float64))
        utilities.append(method.layers[0].utility)
    torch.testing.assert_close(*utilities)


def test_a_single_sample_without_batch_dimension_is_a_batch_of_one():
    model = by_hand([[2.0], [3.0]], [[1.0, 1.0]])
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.5)
    model(torch.ones(1, dtype=torch.float64))
    method.step()
    # u = (1 − 0.5) · |h| · |w_out| with h = (2, 3)
    assert method.layers[0].utility.tolist() == pytest.approx([1.0, 1.5])


def test_utility_age_and_corrected_utility_worked_out_by_hand():
    # h = relu(w_in · x): for x = 1 and x = 3 unit 0 has h = 1, 3 and unit 1 has h = 2, 6.
    # Σ|w_out|: unit 0 |1| + |−2| = 3, unit 1 |0.5| + |0.5| = 1.
    model = by_hand([[1.0], [2.0]], [[1.0, 0.5], [-2.0, 0.5]])
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.75, replacement_rate=0.0)
    model(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    method.step()
    # y = mean|h| · Σ|w_out| = (2 · 3, 4 · 1) = (6, 4);  u = 0.25 · y = (1.5, 1);  u / (1 − 0.75) = y
    assert method.layers[0].utility.tolist() == pytest.approx([1.5, 1.0])
    assert method.layers[0].corrected_utility.tolist() == pytest.approx([6.0, 4.0])
    model(torch.tensor([[2.0]], dtype=torch.float64))
    method.step()
    # y = (2 · 3, 4 · 1) = (6, 4) again;  u = 0.75 · (1.5, 1) + 0.25 · (6, 4) = (2.625, 1.75);  1 − 0.75² = 0.4375
    assert method.layers[0].utility.tolist() == pytest.approx([2.625, 1.75])
    assert method.layers[0].corrected_utility.tolist() == pytest.approx([6.0, 4.0])
    assert method.layers[0].age.tolist() == [2, 2]


def test_running_mean_of_zero_contribution_worked_out_by_hand():
    # One unit, h = x, w_out = 2.
    model = by_hand([[1.0]], [[2.0]])
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.5, utility="zero_contribution", replacement_rate=0.0)
    model(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    method.step()
    # f = 0.5 · 0 + 0.5 · 2 = 1;  ĥ = 1 / (1 − 0.5) = 2;  y = mean(|1 − 2|, |3 − 2|) · 2 = 2;  u = 1
    assert method.layers[0].utility.item() == pytest.approx(1.0)
    model(torch.tensor([[5.0]], dtype=torch.float64))
    method.step()
    # f = 0.5 · 1 + 0.5 · 5 = 3;  ĥ = 3 / (1 − 0.25) = 4;  y = |5 − 4| · 2 = 2;  u = 0.5 · 1 + 0.5 · 2 = 1.5
    assert method.layers[0].mean_activation.item() == pytest.approx(3.0)
    assert method.layers[0].utility.item() == pytest.approx(1.5)


def test_counter_adds_up_only_what_mature_units_bring():
    # Two units, ρ = 1/4, m = 3. Constant utilities: unit 0 is the least at first.
    model = by_hand([[1.0], [1.0]], [[1.0, 2.0]])
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.25, maturity_threshold=3)
    history = []
    for _ in range(9):
        model(torch.ones(1, 1, dtype=torch.float64))
        history.append((method.step()[0].tolist(), method.layers[0].counter, method.layers[0].age.tolist()))
    assert history == [
        ([], 0.0, [1, 1]),
        ([], 0.0, [2, 2]),
        ([], 0.0, [3, 3]),  # 3 is not above m
        ([], 0.5, [4, 4]),  # c = 2/4
        ([0], 0.0, [0, 5]),  # c = 1: one unit, c = 0
        ([], 0.25, [1, 6]),  # only unit 1 is mature: c = 1/4
        ([], 0.5, [2, 7]),
        ([], 0.75, [3, 8]),
        ([0], 0.25, [0, 9]),  # both are mature: c = 3/4 + 2/4; unit 0, whose outgoing weights are still zero, goes again
    ]


def test_stochastic_rounding_replaces_at_the_expected_rate():
    # ρ · eligible = 0.02 · 10 = 0.2 while all units are mature (m = 0 and a replaced unit is mature at the next step).
    model = chain(2, 10, 1)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.02, maturity_threshold=0, rounding="stochastic")
    counts = []
    for _ in range(2000):
        model(torch.ones(1, 2, dtype=torch.float64))
        counts.append(len(method.step()[0]))
    assert set(counts) == {0, 1}
    # 2000 · 0.2 = 400 expected, standard deviation √(2000 · 0.2 · 0.8) = 17.9
    assert abs(sum(counts) - 400) < 4 * 17.9


def test_equal_utilities_are_replaced_by_lowest_index():
    model = by_hand([[1.0]] * 6, [[2.0, 1.0, 2.0, 1.0, 1.0, 2.0]])
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.75, maturity_threshold=0)
    model(torch.ones(1, 1, dtype=torch.float64))
    # floor(0.75 · 6) = 4 units: those of utility 1 first, then the first of utility 2
    assert method.step()[0].tolist() == [1, 3, 4, 0]


def test_random_utility_is_drawn_anew_and_not_averaged():
    model = chain(2, 50, 1)
    method = cbp.ContinualBackprop(model, still(model), utility="random", replacement_rate=0.0, decay_rate=0.99)
    draws = []
    for _ in range(20):
        model(torch.ones(1, 2, dtype=torch.float64))
        method.step()
        draws.append(method.layers[0].corrected_utility.clone())
    numbers = torch.stack(draws)
    # 1000 uniform numbers: standard deviation √(1/12) = 0.289; an average over 20 steps would be far narrower.
    assert numbers.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(set(numbers.flatten().tolist())) > 990


def test_activations_are_those_of_the_last_training_pass_with_gradients_on():
    model = by_hand([[1.0]], [[1.0]])
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0)
    model(torch.full((1, 1), 2.0, dtype=torch.float64))
    model(torch.full((1, 1), 3.0, dtype=torch.float64))
    with torch.no_grad():
        model(torch.full((1, 1), 5.0, dtype=torch.float64))
    model.eval()
    model(torch.full((1, 1), 7.0, dtype=torch.float64))
    method.step()
    # η = 0: u = |h| · 1, of the pass with x = 3
    assert method.layers[0].utility.item() == 3.0


def test_outgoing_weights_are_read_after_the_optimizer_step():
    model = by_hand([[1.0]], [[1.0]])
    optimizer = torch.optim.SGD([{"params": [model[2].weight], "lr": 0.5}, {"params": [model[0].weight], "lr": 0.0}])
    method = cbp.ContinualBackprop(model, optimizer, decay_rate=0.0)
    loss = model(torch.ones(1, 1, dtype=torch.float64)).square().sum()
    loss.backward()
    optimizer.step()
    method.step()
    # loss = (w·1)², gradient 2w = 2: w = 1 − 0.5 · 2 = 0, so the utility is 1 · |0|
    assert method.layers[0].utility.item() == 0.0


def test_all_layers_are_judged_before_any_unit_is_replaced():
    """Unit 0 of the first layer is worth least; its replacement must not lower what the second layer's weights say."""
    model = chain(1, 2, 2, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[2].weight.copy_(torch.tensor([[3.0, 0.1], [1.0, 3.0]]))
        model[4].weight.copy_(torch.tensor([[1.0, 1.0]]))
    # Mean|w_in| of the second layer: unit 0 (3 + 0.1) / 2 = 1.55, unit 1 (1 + 3) / 2 = 2, so adaptation = 1/mean|w_in| is
    # least for unit 1. With the first layer's unit 0 already replaced it would be 0.05 and 1.5, and with unit 1 1.5 and 0.5.
    method = cbp.ContinualBackprop(model, still(model), utility="adaptation", replacement_rate=0.5, maturity_threshold=0)
    model(torch.ones(1, 1, dtype=torch.float64))
    first, second = method.step()
    assert first.tolist() == [0]
    assert second.tolist() == [1]
    # 1 / 1.55 is what unit 0 of the second layer was given before the first layer's columns went to zero.
    assert method.layers[1].corrected_utility[0].item() == pytest.approx(1 / 1.55)


def test_layer_that_the_pass_did_not_reach_is_left_as_it_is():
    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = chain(2, 4, 1, seed=1), chain(2, 4, 1, seed=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    model = TwoTowers()
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=1)
    x = torch.ones(1, 2, dtype=torch.float64)
    right = copy.deepcopy(model.right.state_dict())
    model.left(x)
    method.step()
    model.left(x)
    replaced = method.step()
    assert [len(units) for units in replaced] == [4, 0]
    assert method.layers[1].age.tolist() == [0, 0, 0, 0]
    assert method.layers[1].utility.tolist() == [0, 0, 0, 0]
    for name, value in model.right.state_dict().items():
        assert torch.equal(value, right[name])
    model(x)
    method.step()
    assert method.layers[1].age.tolist() == [1, 1, 1, 1]


def test_step_without_a_training_pass_is_refused():
    model = chain(2, 4, 1)
    method = cbp.ContinualBackprop(model, still(model))
    with pytest.raises(RuntimeError, match="training mode"):
        method.step()
    model(torch.ones(1, 2, dtype=torch.float64))
    method.step()
    with pytest.raises(RuntimeError, match="training mode"):
        method.step()
    assert method.layers[0].age.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("utility", ["contribution", "zero_contribution", "adaptable_contribution"])
@pytest.mark.parametrize("called", [0, 1])
def test_head_that_was_not_called_counts_as_having_received_what_the_other_did(called, utility):
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = []
    for both in (True, False):
        torch.manual_seed(0)
        model = Network(heads=2)
        method = cbp.ContinualBackprop(model, still(model), utility=utility)
        if both:
            model(x)
        else:
            model.heads[called](model.between_second(model.second(model.between_first(model.first(x)))))
        method.step()
        values.append(method.layers[1].utility)
    assert values[0].abs().sum() > 0
    assert torch.equal(*values)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("activation", "name"), [(nn.ReLU, "relu"), (nn.Tanh, "tanh"), (nn.GELU, "gelu")])
def test_fresh_incoming_weights_fill_the_range_of_the_init(init, activation, name):
    fan_in, units = 30, 200
    model = chain(fan_in, units, 1, activation=activation)
    weights = model[0].weight.detach().clone()
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0, init=init)
    model(torch.ones(1, fan_in, dtype=torch.float64))
    assert len(method.step()[0]) == units
    gain = GAINS.get(name, 1.0)
    bound = {
        "lecun": math.sqrt(3 / 30),  # √(3/fan_in)
        "kaiming": gain * math.sqrt(3 / 30),  # gain · √(3/fan_in)
        "xavier": gain * math.sqrt(6 / 230),  # gain · √(6/(fan_in + fan_out))
        "default": math.sqrt(1 / 30),  # √(1/fan_in)
        "auto": math.sqrt(3) * weights.square().mean().sqrt().item(),  # √3 · RMS
    }[init]
    fresh = model[0].weight
    # Of 6000 uniform numbers the largest falls short of the bound by more than 0.5 % with probability e^−30.
    assert 0.995 * bound < fresh.max() <= bound
    assert -bound <= fresh.min() < -0.995 * bound
    # Standard error of the mean: bound/√3/√6000 = 0.0075 · bound
    assert abs(fresh.mean()) < 5 * 0.0075 * bound
    assert torch.equal(model[0].bias, torch.zeros(units, dtype=torch.float64))


def test_auto_init_takes_the_spread_of_orthogonal_weights_when_the_method_is_made():
    model = chain(64, 64, 1)
    nn.init.orthogonal_(model[0].weight, gain=math.sqrt(2))
    # Each row of an orthogonal 64 × 64 matrix has norm 1: RMS = √2 · √(1/64)
    rms = math.sqrt(2) / 8
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0)
    with torch.no_grad():
        model[0].weight.mul_(10)  # what training does later does not count
    model(torch.ones(1, 64, dtype=torch.float64))
    method.step()
    assert model[0].weight.square().mean().sqrt().item() == pytest.approx(rms, rel=0.03)


def test_seed_decides_what_is_drawn():
    drawn = []
    for seed in (1, 1, 2):
        model = chain(3, 6, 1)
        method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0, seed=seed)
        model(torch.ones(1, 3, dtype=torch.float64))
        method.step()
        drawn.append(model[0].weight.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_rate_zero_changes_nothing_to_the_bit():
    finals = []
    for with_method in (False, True):
        torch.manual_seed(3)
        model = Network(heads=2, dropout=0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.0, maturity_threshold=0) if with_method else None
        problem = Problem(3, 2)
        for _ in range(50):
            learn(model, optimizer, *problem())
            if method:
                assert [len(units) for units in method.step()] == [0, 0]
        finals.append(model.state_dict())
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name])


def test_layers_without_bias_are_replaced_too():
    model = chain(3, 6, 1, bias=False)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0)
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 3, dtype=torch.float64))
    (units,) = method.step()
    assert len(units) == 3
    assert (model[0].weight[units] != before[units]).all()
    assert not model[2].weight[:, units].any()


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_pass_that_is_not_finite_is_an_update_that_leaves_the_averages(utility, value):
    model = chain(3, 6, 2)
    method = cbp.ContinualBackprop(model, still(model), utility=utility)
    (layer,) = method.layers
    inputs = torch.rand(4, 3, dtype=torch.float64)
    spoiled = inputs.clone()
    spoiled[0] = value
    for k, x in enumerate([inputs, inputs, spoiled, inputs]):
        before = layer.utility.clone(), layer.mean_activation.clone()
        model(x)
        received = layer._taps[0].received.mean(dim=0)
        method.step()
        after = layer.utility, layer.mean_activation
        assert layer.age.tolist() == [k + 1] * 6
        assert all(average.isfinite().all() for average in after)
        if k == 2 and utility not in ("random", "weight", "adaptation"):  # which do not look at the pass
            assert not received.isfinite().all()
            for now, then in zip(after, before, strict=True):
                assert torch.equal(now[..., ~received.isfinite()], then[..., ~received.isfinite()])
        else:
            assert not torch.equal(after[0], before[0])


def test_method_works_under_automatic_mixed_precision():
    """There the outgoing layer receives bfloat16, and weights and averages stay float32."""
    model = chain(3, 6, 5, 1).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(
        model, optimizer, replacement_rate=0.2, maturity_threshold=1, utility="adaptable_contribution"
    )
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step()
        method.step()
    assert [layer.utility.dtype for layer in method.layers] == [torch.float32, torch.float32]
    assert min(layer.replaced for layer in method.layers) >= 1
    assert all(layer.utility.isfinite().all() for layer in method.layers)
