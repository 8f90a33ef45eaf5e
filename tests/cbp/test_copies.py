"""Deep copies and pickles of a model, alone and together with its method."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import Problem, chain, update
from torch import Tensor

import cbp

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),  # noqa: S301
}


def make(seed: int = 0):
    model = chain(3, 6, 5, 2, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.1, maturity_threshold=4, utility="zero_contribution")
    return model, optimizer, method


@pytest.fixture(params=COPIES.values(), ids=COPIES.keys())
def copied(request):
    return request.param


def test_model_optimizer_and_method_copied_together_go_on_identically(copied):
    model, optimizer, method = make()
    problem, problem_again = Problem(3, 2), Problem(3, 2)
    for _ in range(20):
        update(model, optimizer, method, *problem())
        problem_again()
    model_2, optimizer_2, method_2 = copied((model, optimizer, method))
    weights = [parameter.clone() for parameter in model_2.parameters()]

    history = [update(model, optimizer, method, *problem()) for _ in range(60)]
    assert sum(len(units) for step in history for units in step) > 20
    # The original's training left the copy alone.
    for parameter, before in zip(model_2.parameters(), weights, strict=True):
        assert torch.equal(parameter, before)
    assert [update(model_2, optimizer_2, method_2, *problem_again()) for _ in range(60)] == history
    for parameter, other in zip(model.parameters(), model_2.parameters(), strict=True):
        assert torch.equal(parameter, other)
    for layer, other in zip(method.layers, method_2.layers, strict=True):
        assert torch.equal(layer.utility, other.utility)
        assert torch.equal(layer.age, other.age)
        assert (layer.counter, layer.replaced, layer.eligible) == (other.counter, other.replaced, other.eligible)


def test_copy_of_the_model_alone_is_free_of_the_method(copied):
    model, optimizer, method = make()
    update(model, optimizer, method, *Problem(3, 2)())
    target = copied(model)
    # What the copy's training passes see does not reach the method …
    target(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    with pytest.raises(RuntimeError, match="training mode"):
        method.step()
    # … and the method does not reach the copy's weights.
    before = copy.deepcopy(target.state_dict())
    for _ in range(40):
        update(model, optimizer, method, *Problem(3, 2)())
    assert min(layer.replaced for layer in method.layers) > 2
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])


def test_method_goes_on_after_the_model_alone_was_copied(copied):
    histories = []
    for with_copies in (False, True):
        model, optimizer, method = make()
        problem = Problem(3, 2)
        history = []
        for _ in range(60):
            if with_copies:
                target = copied(model)
                target(torch.ones(1, 3, dtype=torch.float64))
            history.append(update(model, optimizer, method, *problem()))
        histories.append((history, list(model.parameters())))
    assert histories[0][0] == histories[1][0]
    assert any(any(step) for step in histories[0][0])
    for parameter, other in zip(histories[0][1], histories[1][1], strict=True):
        assert torch.equal(parameter, other)


def test_pickle_of_the_model_alone_carries_neither_method_nor_activations():
    model, _, method = make()
    plain = len(pickle.dumps(chain(3, 6, 5, 2)))
    model(torch.ones(10_000, 3, dtype=torch.float64))  # 10 000 · 11 activations of 8 bytes
    pickled = pickle.dumps(model)
    assert method.layers
    for name in (b"ContinualBackprop", b"TrackedLayer", b"HiddenLayer", b"Generator"):
        assert name not in pickled
    assert len(pickled) < plain + 2000


def test_a_pickle_of_a_model_with_a_method_is_treated_whatever_hooks_it_brings(monkeypatch):
    pickled = pickle.dumps(make()[0])
    brought = pickle.loads(pickled)[2]._forward_pre_hooks_with_kwargs  # noqa: S301
    assert brought
    for number in range(min(brought) - 12, max(brought) + 1):  # another process counts its hooks anew
        monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", number)
        model = pickle.loads(pickled)  # noqa: S301
        assert len(cbp.find_layers(model, (torch.ones(2, 3, dtype=torch.float64),))) == 2


def test_state_dict_of_the_model_is_that_of_a_model_without_the_method():
    model, _, _ = make()
    assert list(model.state_dict()) == list(chain(3, 6, 5, 2).state_dict())


def test_copy_made_between_forward_pass_and_step_does_not_disturb_the_step(copied):
    model, optimizer, method = make()
    x, _ = Problem(3, 2)()
    model(x).sum().backward()
    copied(model)
    optimizer.step()
    method.step()
    assert method.layers[0].age.tolist() == [1] * 6
    assert method.layers[0].utility.any()


def test_new_method_can_be_made_on_a_copied_model(copied):
    model, _, method = make()
    target = copied(model)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.01)
    theirs = cbp.ContinualBackprop(target, optimizer, replacement_rate=0.5, maturity_threshold=0)
    problem = Problem(3, 2)
    assert [len(units) for units in update(target, optimizer, theirs, *problem())] == [3, 2]
    assert method.layers[0].age.tolist() == [0] * 6


class OwnWeights(torch.nn.Module):
    """A slope and a gain for each unit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.slope, self.second = torch.nn.Linear(3, 6), torch.nn.PReLU(6), torch.nn.Linear(6, 2)
        self.gain = torch.nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.slope(self.first(x)) * self.gain)


def with_own_weights():
    model = OwnWeights().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    method = cbp.ContinualBackprop(
        model,
        optimizer,
        replacement_rate=0.1,
        maturity_threshold=2,
        utility="zero_contribution",
        example=(torch.ones(2, 3, dtype=torch.float64),),
    )
    return model, optimizer, method


@pytest.mark.parametrize("how", ["copied", "resumed", "resumed with the weights first"])
def test_a_new_units_own_weights_are_those_of_before(how):
    model, optimizer, method = with_own_weights()
    problem = Problem(3, 2, batch=16)
    for _ in range(10):
        update(model, optimizer, method, *problem())
    if how == "copied":
        others = copy.deepcopy((model, optimizer, method))
    else:
        states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), method.state_dict()))
        other = OwnWeights().double()
        if how != "resumed":
            other.load_state_dict(states[0])
        of_other = torch.optim.Adam(other.parameters(), lr=0.05)
        options = {"replacement_rate": 0.1, "maturity_threshold": 2, "utility": "zero_contribution"}
        others = (
            other,
            of_other,
            cbp.ContinualBackprop(other, of_other, example=(torch.ones(2, 3, dtype=torch.float64),), **options),
        )
        for each, state in zip(others, states, strict=True):
            each.load_state_dict(state)
    for _ in range(10):
        inputs, targets = problem()
        for trained in ((model, optimizer, method), others):
            update(*trained, inputs, targets)
    assert method.layers[0].replaced > 6
    for own, of_copy in zip(model.parameters(), others[0].parameters(), strict=True):
        assert torch.equal(own, of_copy)


class Agent(torch.nn.Module):
    """Holds what trains it, so that a copy of the model is one of its method, too."""

    def __init__(self, takes: str, *, holds: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.takes, self.first, self.head = takes, torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)
        self.heads = torch.nn.ModuleList([torch.nn.Linear(6, 2)])
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        method = cbp.ContinualBackprop(self, optimizer, replacement_rate=0.1, maturity_threshold=2)
        self.trained_by = (optimizer, method) if holds else None
        self.trainer = (lambda: self.trained_by) if holds else (lambda: (optimizer, method))

    def forward(self, inputs: Any, scale: float | None = None) -> Tensor:
        hidden = torch.relu(self.first(inputs["x"] if self.takes == "a dictionary" else inputs))
        return self.head(hidden) if scale is None else self.heads[-1](hidden * scale)


@pytest.mark.filterwarnings("ignore:Agent runs otherwise than before")
@pytest.mark.parametrize("takes", ["a tensor", "a dictionary"])
def test_a_model_that_holds_its_method_trains_as_one_that_does_not(takes):
    agents = Agent(takes, holds=True), Agent(takes, holds=False)
    replaced = []
    for agent in agents:
        optimizer, method = agent.trainer()
        problem = Problem(3, 2, batch=16)
        replaced.append([])
        for number in range(12):
            inputs, targets = (tensor.float() for tensor in problem())
            scale = () if number < 4 else (2.0,)  # of which the layers are found anew, by another head
            if number == 8:
                agent.heads.append(torch.nn.Linear(6, 2))
                optimizer.add_param_group({"params": agent.heads[-1].parameters()})
                torch.nn.init.ones_(agent.heads[-1].weight)
                torch.nn.init.zeros_(agent.heads[-1].bias)
            optimizer.zero_grad()
            loss = (agent({"x": inputs} if takes == "a dictionary" else inputs, *scale) - targets).square().mean()
            loss.backward()
            optimizer.step()
            replaced[-1].append([units.tolist() for units in method.step()])
        cbp.verify(agent, ({"x": inputs} if takes == "a dictionary" else inputs,))
    assert replaced[0] == replaced[1]
    assert sum(len(units) for step in replaced[0] for units in step) > 3
    assert all(torch.equal(a, b) for a, b in zip(*(agent.first.parameters() for agent in agents), strict=True))


def test_a_state_from_before_new_units_own_weights_were_kept_is_taken():
    _, _, method = with_own_weights()
    state = method.state_dict()
    assert state["layers"][0].pop("fixed") == [0.0, 0.25, 1.0]
    method.load_state_dict(state)
    assert method.layers[0].fixed == [0.0, 0.25, 1.0]
