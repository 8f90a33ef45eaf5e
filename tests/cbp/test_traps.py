"""One test for each mistake that implementations of continual backpropagation have made."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from oracle import generators
from small_networks import UTILITIES, Problem, by_hand, chain, learn, still, update
from torch import nn

import cbp


def test_no_replacement_debt_piles_up_while_no_unit_is_mature():
    model = chain(2, 8, 1)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.05, maturity_threshold=50)
    replaced = []
    for _ in range(60):
        model(torch.ones(1, 2, dtype=torch.float64))
        replaced.append(len(method.step()[0]))
    # Mature from update 51 on (age 51 > 50): c = 0.4, 0.8, 1.2 at update 53. Had c grown from the start, 51 · 0.4 = 20 units
    # would be due at once.
    assert replaced[:52] == [0] * 52
    assert replaced[52] == 1
    assert max(replaced) == 1
    # Then at most 7 are mature, 0.35 a step, falling as they go: c = 0.2, 0.55, 0.9, 1.25; 0.25, 0.55, 0.85, 1.15
    assert [step for step, n in enumerate(replaced, start=1) if n] == [53, 56, 59]


def test_newborn_units_leave_no_debt_after_all_were_replaced_at_once():
    model = chain(2, 4, 1)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=2)
    replaced = []
    for _ in range(9):
        model(torch.ones(1, 2, dtype=torch.float64))
        replaced.append(len(method.step()[0]))
    assert replaced == [0, 0, 4, 0, 0, 4, 0, 0, 4]


def test_optimizer_remembers_nothing_of_a_replaced_unit_and_everything_of_the_others():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 2)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.3, maturity_threshold=10, init="lecun")
    problem = Problem(3, 2)
    units: list[int] = []
    while not units:
        learn(model, optimizer, *problem())
        before = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
        (units,) = (found.tolist() for found in method.step())
    kept = [i for i in range(6) if i not in units]
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        for parameter in (model[0].weight, model[0].bias, model[2].weight, model[2].bias):
            now, then = optimizer.state[parameter][name], before[parameter][name]
            assert then[units].any(), f"{name} was zero before: this would test nothing"
            assert not now[units].any()
            assert torch.equal(now[kept], then[kept])
        now, then = optimizer.state[model[3].weight][name], before[model[3].weight][name]
        assert then[:, units].any()
        assert not now[:, units].any()
        assert torch.equal(now[:, kept], then[:, kept])
        assert torch.equal(optimizer.state[model[3].bias][name], before[model[3].bias][name])
    assert optimizer.state[model[0].weight]["step"] == before[model[0].weight]["step"]


def test_stale_momentum_does_not_move_a_replaced_unit():
    model = chain(3, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=4)
    problem = Problem(3, 2)
    units: list[int] = []
    while not units:
        (units,) = update(model, optimizer, method, *problem())
    kept = [i for i in range(4) if i not in units]
    before = model[0].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # With a zero gradient only momentum moves weights.
    assert torch.equal(model[0].weight[units], before[units])
    assert not model[2].weight[:, units].any()
    assert not torch.equal(model[0].weight[kept], before[kept])


def test_reset_none_leaves_the_optimizer_alone():
    model = chain(3, 4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0, reset_optimizer="none")
    learn(model, optimizer, *Problem(3, 2)())
    before = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
    assert len(method.step()[0]) == 4
    for parameter, state in before.items():
        assert state["exp_avg"].any()
        for name, value in state.items():
            assert torch.equal(optimizer.state[parameter][name], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("utility", UTILITIES)
def test_units_without_weights_give_neither_infinity_nor_nan(utility, dtype):
    model = chain(3, 5, 2).to(dtype)
    method = cbp.ContinualBackprop(
        model, still(model), utility=utility, replacement_rate=0.2, maturity_threshold=3, decay_rate=0.9
    )
    with torch.no_grad():
        model[0].weight[1:3] = 0  # mean|w_in| = 0
        model[2].weight[:, 2:4] = 0  # Σ|w_out| = 0
        model[0].bias.zero_()
    for _ in range(20):
        model(torch.ones(4, 3, dtype=dtype))
        method.step()
        assert method.layers[0].utility.isfinite().all()
        assert method.layers[0].corrected_utility.isfinite().all()
        assert method.layers[0].mean_activation.isfinite().all()
    assert method.layers[0].replaced >= 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_dead_unit_is_worth_nothing_under_the_utilities_that_divide():
    # Unit 0: no incoming weight and no activity, 0 / ε = 0. Unit 1: h = 1 and 3, |h − 2| = 1, Σ|w_out| = 2, mean|w_in| = 1: 2.
    model = by_hand([[1.0], [1.0]], [[1.0, 2.0]])
    method = cbp.ContinualBackprop(model, still(model), utility="adaptable_contribution")
    with torch.no_grad():
        model[0].weight[0] = 0
    model(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    method.step()
    assert method.layers[0].corrected_utility.tolist() == pytest.approx([0.0, 2.0])


def test_width_mismatch_is_refused_and_named():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    with pytest.raises(cbp.LayerError, match=r"Sequential fails.*2x4 and 8x1"):
        cbp.ContinualBackprop(model, still(model), example=(torch.ones(2, 3),))
    with pytest.raises(cbp.LayerError, match=r"'hidden' has 4 units.*8"):
        cbp.HiddenLayer(model[0], [model[3]])


def test_layer_from_trunk_to_heads_is_treated_and_judged_by_all_heads():
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = by_hand([[1.0], [1.0], [1.0]], [[1.0] * 3])
            self.trunk[2] = nn.Identity()
            self.actor = nn.Linear(3, 2, bias=False, dtype=torch.float64)
            self.critic = nn.Linear(3, 1, bias=False, dtype=torch.float64)

        def forward(self, x):
            h = self.trunk(x)
            return self.actor(h), self.critic(h)

    model = Agent()
    with torch.no_grad():
        model.actor.weight.copy_(torch.tensor([[0.1, 1.0, 0.5], [0.1, 1.0, 0.5]]))
        model.critic.weight.copy_(torch.tensor([[3.0, 0.1, 0.5]]))
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.4, maturity_threshold=0)
    assert [layer.name for layer in method.layers] == ["trunk.0"]
    model(torch.ones(1, 1, dtype=torch.float64))
    (units,) = method.step()
    # h = 1. Σ|w_out| over both heads: 0.2 + 3 = 3.2, 2 + 0.1 = 2.1, 1 + 0.5 = 1.5: unit 2 goes, though the actor alone would
    # give up unit 0 and the critic alone unit 1. floor(0.4 · 3) = 1.
    assert units.tolist() == [2]
    assert method.layers[0].corrected_utility[:2].tolist() == pytest.approx([3.2, 2.1])
    assert not model.actor.weight[:, 2].any()
    assert not model.critic.weight[:, 2].any()
    assert model.critic.weight[0, :2].tolist() == pytest.approx([3.0, 0.1])


@pytest.mark.parametrize("utility", ["adaptable_contribution", "random"])
@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
@pytest.mark.parametrize("init", ["lecun", "auto"])
def test_saved_state_goes_on_identically_in_another_model(tmp_path, utility, rounding, init):
    """With `auto`, too: the spread of the first weights, which the new model never had, belongs to the state."""
    options = {"utility": utility, "rounding": rounding, "init": init}
    options |= {"replacement_rate": 0.07, "maturity_threshold": 4, "decay_rate": 0.9}

    def go_on(model, optimizer, method, problem):
        history = [update(model, optimizer, method, *problem()) for _ in range(60)]
        assert sum(len(units) for step in history for units in step) > 10
        known = [t.clone() for layer in method.layers for t in (layer.utility, layer.age, layer.mean_activation)]
        known += [torch.tensor([layer.counter, layer.replaced, layer.eligible]) for layer in method.layers]
        return history, known + list(model.parameters())

    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, seed=3, **options)
    problem = Problem(3, 2)
    for _ in range(37):
        update(model, optimizer, method, *problem())
    assert all(layer.replaced for layer in method.layers)
    torch.save([model.state_dict(), optimizer.state_dict(), method.state_dict()], tmp_path / "saved.pt")
    expected = go_on(model, optimizer, method, problem)

    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    model = chain(3, 6, 5, 2, seed=9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, seed=8, **options)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    method.load_state_dict(saved[2])
    problem = Problem(3, 2)
    for _ in range(37):
        problem()
    history, final = go_on(model, optimizer, method, problem)
    assert history == expected[0]
    for now, then in zip(final, expected[1], strict=True):
        assert torch.equal(now, then)


def test_saved_state_does_not_change_as_training_goes_on():
    model = chain(3, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=1)
    problem = Problem(3, 2)
    update(model, optimizer, method, *problem())
    state = method.state_dict()
    generator, utility = state["layers"][0]["generator"].clone(), state["layers"][0]["utility"].clone()
    for _ in range(5):
        update(model, optimizer, method, *problem())
    assert method.layers[0].replaced > 0
    assert torch.equal(state["layers"][0]["generator"], generator)
    assert torch.equal(state["layers"][0]["utility"], utility)
    assert state["layers"][0]["age"].tolist() == [1] * 6


@pytest.mark.parametrize("widths", [(3, 7, 2), (3, 6, 6, 2)], ids=["other width", "other depth"])
def test_state_of_another_model_is_refused_and_nothing_is_loaded(widths):
    other = chain(*widths)
    theirs = cbp.ContinualBackprop(other, still(other))
    other(torch.ones(1, 3, dtype=torch.float64))
    theirs.step()
    model = chain(3, 6, 2)
    method = cbp.ContinualBackprop(model, still(model))
    with pytest.raises(ValueError, match=r"this model has \["):
        method.load_state_dict(theirs.state_dict())
    assert method.layers[0].age.tolist() == [0] * 6


def test_stale_gradients_do_not_undo_a_replacement():
    model = chain(3, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=2, init="lecun", seed=5)
    problem = Problem(3, 2)
    units: list[int] = []
    while not units:
        (units,) = update(model, optimizer, method, *problem())
    # As drawn: uniform on ±√(3/3) = ±1, the first numbers of the layer's generator.
    drawn = 2 * torch.rand((len(units), 3), generator=generators(5, layers=1)[0], dtype=torch.float64) - 1
    assert model[0].weight.grad[units].any()
    assert torch.equal(model[0].weight[units], drawn)
    assert not model[2].weight[:, units].any()
    # Still so when the next gradient is there, just before the optimizer's next step.
    x, y = problem()
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    assert torch.equal(model[0].weight[units], drawn)
    assert not model[2].weight[:, units].any()


@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
@pytest.mark.parametrize("utility", UTILITIES)
def test_global_random_states_are_left_untouched(utility, rounding):
    torch.manual_seed(0)
    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    problem = Problem(3, 2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    method = cbp.ContinualBackprop(
        model, optimizer, utility=utility, rounding=rounding, replacement_rate=0.2, maturity_threshold=1
    )
    for _ in range(20):
        update(model, optimizer, method, *problem())
    assert min(layer.replaced for layer in method.layers) > 1
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_global_random_state_is_untouched_by_a_model_that_draws_in_its_forward_pass():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x):
            x = x + 0.1 * torch.randn(2)
            return self.second(torch.relu(self.first(x)))

    model = Noisy()
    before = torch.get_rng_state()
    cbp.ContinualBackprop(model, still(model))
    assert torch.equal(torch.get_rng_state(), before)


def test_newborn_is_ranked_by_its_corrected_utility():
    # h = 1, so utilities are |w_out|: unit 0 has 1, unit 1 has 2.
    model = by_hand([[1.0], [1.0]], [[1.0, 2.0]])
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.25, maturity_threshold=2, decay_rate=0.99)
    replaced = []
    for step in range(1, 8):
        model(torch.ones(1, 1, dtype=torch.float64))
        replaced.append(method.step()[0].tolist())
        if step == 4:
            with torch.no_grad():  # the newborn learns fast: h = 1, |w_out| = 3
                model[0].weight[0], model[0].bias[0], model[2].weight[0, 0] = 0, 1, 3
    # Updates 3 and 4: both mature, c = 0.5, 1: unit 0 goes. 5 and 6: only unit 1 is, c = 0.25, 0.5. 7: both, c = 1.
    # Then u₀ = 3 · (1 − 0.99³) = 0.089 is below u₁ = 2 · (1 − 0.99⁷) = 0.136, but 3 is more than 2: unit 1 goes.
    assert replaced == [[], [], [], [0], [], [], [1]]
