"""Methods that treat weights notice what a model has instead of others: a new head, a tensor, a layer more."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import pytest
import torch
from small_networks import chain
from torch import nn
from torch.utils.checkpoint import checkpoint

import cbp

# Without noise, and so that a few updates tell: what a method does is the same on equal weights.
OPTIONS = {
    "l2-init": {"strength": 0.5},
    "shrink-perturb": {"shrink": 0.9, "perturb": 0.0},
    "swr": {"factor": 0.2, "selection": "threshold", "decay_rate": 0.9, "period": 3},
    "fire": {},
    "nap": {},
    "spectral": {"strength": 0.1},
    "parseval": {"strength": 1e-4},
    "hare-tortoise": {"momentum": 0.5, "period": 2},
    "upgd": {"sigma": 0.0, "decay_rate": 0.5},
    "trac": {"first_scale": 0.1},
}
ALONE = [name for name in OPTIONS if name not in ("upgd", "trac")]  # each weight by itself


class Training:
    """A method on a model whose gradients are drawn: what one part is does not reach the others."""

    def __init__(self, name, model):
        self.model = model
        self.name = name
        self.method = cbp.METHODS[name](model, self.optimizer(), **OPTIONS[name])

    def optimizer(self):
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1)
        return self.sgd

    def held_anew(self):
        """The optimizer holds the model's parameters, as a user sees to after an exchange."""
        self.sgd.param_groups[0]["params"] = list(self.model.parameters())

    def update(self, seed, count=4):
        for k in range(count):
            for i, parameter in enumerate(self.model.parameters()):
                drawn = torch.Generator().manual_seed(1000 * seed + 10 * k + i)
                parameter.grad = torch.randn(parameter.shape, dtype=torch.float64, generator=drawn)
            self.method.before_update()
            self.sgd.step()
            self.method.step()
        self.method.change()


def by_modules(model, other):
    for k, module in enumerate(other):
        model[k] = module


def by_tensors(model, other):
    for mine, theirs in zip(model, other, strict=True):
        for attribute, parameter in list(theirs.named_parameters()):
            setattr(mine, attribute, parameter)


@pytest.mark.parametrize("width", [6, 9])
@pytest.mark.parametrize("exchange", [by_modules, by_tensors])
@pytest.mark.parametrize("name", OPTIONS)
def test_on_what_came_in_another_s_place_a_method_begins_anew(name, exchange, width):
    training = Training(name, chain(3, 6, 2, seed=1))
    training.update(seed=0)
    fresh = Training(name, chain(3, width, 2, seed=2))
    exchange(training.model, copy.deepcopy(fresh.model))
    training.held_anew()
    # A look at the model now: those methods that only act afterwards would look after the next step.
    state, begun = training.method.state_dict(), fresh.method.state_dict()
    # What is not of single weights goes on; UPGD counts the updates of each.
    of_all = {"updates", "generator", "variances", "sums"} & begun.keys() if name != "upgd" else set()
    training.method.load_state_dict({**state, **{key: begun[key] for key in of_all}})
    training.update(seed=1)
    fresh.update(seed=1)
    for ours, theirs in zip(training.model.parameters(), fresh.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def by_data(model, other):
    """As where a layer is grown in place."""
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data, mine.grad = theirs.data, None


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("fire", "parseval", "hare-tortoise")])
def test_of_weights_that_grew_in_place_a_method_begins_anew_and_says_so(name):
    training = Training(name, chain(3, 6, 2, seed=1))
    training.update(seed=0)
    fresh = Training(name, chain(3, 9, 2, seed=2))
    by_data(training.model, copy.deepcopy(fresh.model))
    with pytest.warns(
        UserWarning, match=r"'0\.weight' has the shape \(9, 3\), and had \(6, 3\).*: what is kept of it begins anew"
    ):
        training.method.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (training, fresh):
            each.update(seed=1)
    ours, theirs = (each.model[0].weight for each in (training, fresh))
    if name in ("l2-init", "shrink-perturb", "nap", "spectral"):  # what the others go on with is of all weights
        torch.testing.assert_close(ours, theirs)
    assert ours.isfinite().all()


@pytest.mark.parametrize("name", ["l2-init", "trac", "upgd"])
def test_what_is_kept_of_a_weight_before_it_grew_is_not_taken_over(name):
    training = Training(name, chain(3, 6, 2, seed=1))
    training.update(seed=0)
    by_data(training.model, chain(3, 9, 2, seed=2))
    before, training.method = training.method, cbp.METHODS[name](training.model, training.sgd, **OPTIONS[name])
    training.method.take_over(before)
    training.update(seed=1)
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


@pytest.mark.parametrize("name", ALONE)
def test_what_was_not_exchanged_goes_on(name):
    trainings = [Training(name, chain(3, 6, 2, seed=1)) for _ in range(2)]
    for training in trainings:
        training.update(seed=0)
    exchanged, left = trainings
    exchanged.model[2] = chain(6, 5, seed=3)[0]
    exchanged.held_anew()
    for training in trainings:
        training.update(seed=1)
    for ours, theirs in zip(exchanged.model[0].parameters(), left.model[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_state_is_that_of_the_model_as_it_is_now(name):
    training, other = Training(name, chain(3, 6, 2, seed=1)), Training(name, chain(3, 6, 5, seed=2))
    training.update(seed=0)
    training.model[2] = chain(6, 5, seed=3)[0]
    training.held_anew()
    other.method.load_state_dict(copy.deepcopy(training.method.state_dict()))
    other.model.load_state_dict(training.model.state_dict())
    for each in (training, other):
        each.update(seed=1)
    for ours, theirs in zip(training.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["c-chain", "pfo"])
@pytest.mark.parametrize("saved_at_once", [False, True])
def test_what_is_resumed_after_an_exchange_goes_on_exactly(name, saved_at_once):
    def made(seed):
        model = chain(3, 6, 2, seed=seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = cbp.METHODS[name](model, optimizer)
        return model, optimizer, method

    def update(model, optimizer, method, seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            model(torch.rand(4, 3, dtype=torch.float64))  # acts
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.rand(4, 3, dtype=torch.float64)).square().sum().backward()
            method.before_update()
            optimizer.step()
            method.step()

    def exchange(model, optimizer, seed):
        model[2] = chain(6, 2, seed=seed)[0]
        optimizer.param_groups[0]["params"] = list(model.parameters())

    first = made(1)
    update(*first, seed=0)
    exchange(*first[:2], seed=3)
    if not saved_at_once:
        update(*first, seed=1)
    second = made(2)
    if not saved_at_once:
        exchange(*second[:2], seed=4)
    second[0].load_state_dict(first[0].state_dict())
    second[2].load_state_dict(copy.deepcopy(first[2].state_dict()))
    for each in (first, second):
        update(*each, seed=2)
    for ours, theirs in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


SOON = {
    "cbp": {"replacement_rate": 0.2, "maturity_threshold": 2},
    "redo": {"period": 3},
    "regrama": {"period": 3},
    "c-chain": {"first_strength": 0.1},
    "pfo": {"strength": 0.1},
}


class Resumable:
    """A method on a model that learns, with a pass in which it acts in front of each update."""

    def __init__(self, name, seed):
        self.model = nn.Sequential(*chain(3, 6, 2, seed=seed), nn.BatchNorm1d(2, dtype=torch.float64))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.method = cbp.METHODS[name](self.model, self.optimizer, **OPTIONS.get(name, SOON.get(name, {})))

    def states(self):
        return copy.deepcopy((self.model.state_dict(), self.method.state_dict()))

    def load_by_assigning(self, state):
        self.model.load_state_dict(copy.deepcopy(state), assign=True)
        self.optimizer.param_groups[0]["params"] = list(self.model.parameters())

    def update(self, count=6):
        for k in range(count):
            x = torch.rand(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
            with torch.no_grad():
                self.model.eval()(x)
            self.optimizer.zero_grad()
            (self.model.train()(x) - x[:, :2]).square().mean().backward()
            self.method.before_update()
            self.optimizer.step()
            self.method.step()
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


@pytest.mark.parametrize("order", ["model first", "method first", "method alone in between"])
@pytest.mark.parametrize("name", sorted(cbp.METHODS))
def test_a_resumed_training_whose_model_got_other_tensors_by_its_state_goes_on_exactly(name, order):
    left, resumed = Resumable(name, seed=1), Resumable(name, seed=2)
    left.update()
    of_model, of_method = left.states()
    if order == "model first":
        resumed.load_by_assigning(of_model)
    elif order == "method alone in between":
        resumed.update()
    resumed.method.load_state_dict(of_method)
    if order != "model first":
        resumed.load_by_assigning(of_model)
    weights = left.update()
    assert weights.isfinite().all()
    assert torch.equal(resumed.update(), weights)


def test_what_was_loaded_is_not_taken_for_that_of_other_modules_nor_of_tensors_of_a_later_exchange():
    def method_on(model):
        method = cbp.L2Init(model, torch.optim.SGD(model.parameters(), lr=0.1))
        method.load_state_dict({"initial": [torch.full_like(parameter, 7.0) for parameter in model.parameters()]})
        return method

    def exchange(model):
        for layer in model[::2]:
            layer.weight = nn.Parameter(torch.ones_like(layer.weight))
        model[2] = nn.Linear(6, 2, dtype=torch.float64)

    def initial(model, method):
        return [each.mean().item() == 7.0 for each in method.state_dict()["initial"]]

    model = chain(3, 6, 2)
    method = method_on(model)
    exchange(model)
    assert initial(model, method) == [True, True, False, False]
    model = chain(3, 6, 2)
    method = method_on(model)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    method.before_update()
    exchange(model)
    assert initial(model, method) == [False, True, False, False]


def test_a_spread_is_that_of_the_update_after_the_exchange_whatever_the_period():
    model = chain(3, 6, 2, seed=1)
    method = cbp.ShrinkPerturb(model, torch.optim.SGD(model.parameters(), lr=0.1), period=50, noise="fresh")
    model[2] = chain(6, 2, seed=3)[0]
    first = model[2].weight.detach().square().mean().sqrt().item()
    method.step()
    with torch.no_grad():
        model[2].weight.mul_(100)
    assert method.state_dict()["spreads"][2] == first


def test_an_average_goes_on_under_another_name():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    method = cbp.HareTortoise(model, torch.optim.SGD(model.parameters(), lr=0.1), momentum=0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
        model[1].running_mean.add_(1.0)
    method.step()
    before = dict(method.tortoise)
    model.insert(0, nn.Identity())
    assert torch.equal(method.state_dict()["tortoise"]["1.weight"], before["0.weight"])
    assert torch.equal(method.state_dict()["tortoise"]["2.running_mean"], before["1.running_mean"])
    model[2].register_buffer("running_mean", torch.zeros(5))  # of another size
    method.step()
    assert method.tortoise["2.running_mean"].shape == (5,)


def test_parseval_tells_of_the_layers_that_there_are():
    model = chain(3, 6, 2, seed=1)
    method = cbp.Parseval(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model[0], model[2] = chain(3, 9, 2, seed=2)[0], chain(3, 9, 2, seed=2)[2]
    assert method.state_dict()["weights"] == [["0.weight", 9, 3]]
    method.load_state_dict({"weights": [["0.weight", 9, 3]]})
    model[0].requires_grad_(False)
    model[0] = chain(3, 9, seed=2)[0].requires_grad_(False)
    for _ in range(2):  # not only the first time
        with pytest.raises(cbp.LayerError, match="no hidden layer whose weights are trained"):
            _ = method.touched


@pytest.mark.parametrize("name", [name for name in OPTIONS if hasattr(cbp.METHODS[name], "touched")])
def test_a_layer_that_is_added_is_treated(name):
    model = nn.Sequential(*chain(3, 6, 2))
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1), **OPTIONS[name])
    before = method.touched
    model.append(nn.ReLU())
    model.append(nn.Linear(2, 4, dtype=torch.float64))
    if name == "parseval":  # of hidden layers
        assert method.touched == [*before, "2.weight"]
    else:
        assert set(method.touched) - set(before) == {"4.weight"} | ({"4.bias"} if "2.bias" in before else set())


@pytest.mark.parametrize("name", ["c-chain", "pfo"])
@pytest.mark.parametrize("exchange", [by_modules, by_tensors])
def test_a_network_is_not_compared_with_the_one_that_was_there_before(name, exchange):
    model = chain(3, 6, 2, seed=1)
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.0))
    x = torch.rand(4, 3, dtype=torch.float64)

    def update(*, acts):
        if acts:
            with torch.no_grad():
                model(x)
        model.zero_grad()
        (0 * model(x)).sum().backward()
        method.before_update()
        method.step()
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        return max(parameter.grad.abs().max().item() for parameter in model.parameters())

    assert [update(acts=k == 0) for k in range(4)][-1] > 0
    exchange(model, chain(3, 6, 2, seed=2))
    assert update(acts=False) == 0
    assert [update(acts=k == 0) for k in range(4)][-1] > 0


@pytest.mark.parametrize("name", sorted(cbp.METHODS))
def test_every_method_goes_on_after_a_head_was_exchanged(name):
    """As in learning class by class: a larger head, which the optimizer gets beside what it holds."""
    model = chain(3, 6, 2, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.METHODS[name](model, optimizer)

    def update():
        optimizer.zero_grad()
        model(torch.rand(8, 3, dtype=torch.float64)).square().sum().backward()
        method.before_update()
        optimizer.step()
        method.step()

    for _ in range(3):
        update()
    model[2] = nn.Linear(6, 4, dtype=torch.float64)
    optimizer.add_param_group({"params": model[2].parameters()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs otherwise than before")
        for _ in range(3):
            update()
    method.load_state_dict(copy.deepcopy(method.state_dict()))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


class Tasks(nn.Module):
    """A trunk with a head for each task."""

    def __init__(self, heads=2):
        super().__init__()
        self.stem, self.trunk = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 10), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(10, 3) for _ in range(heads))

    def forward(self, x, task):
        return self.heads[task](self.trunk(self.stem(x)))


def all_heads(model):
    return [model(torch.ones(4, 6), task) for task in range(2)]


def append_a_head(model):
    model.heads.append(nn.Linear(10, 3))


def thaw(model):
    model.stem.requires_grad_(True)


def exchange_a_head(model):
    model.heads[0] = nn.Linear(10, 5)


@pytest.mark.filterwarnings("ignore:Tasks runs otherwise than before")
@pytest.mark.parametrize("change", [append_a_head, thaw, exchange_a_head])
@pytest.mark.parametrize("recorded", ["by an example", "in training"])
@pytest.mark.parametrize("copied", [lambda thing: thing, copy.deepcopy])
def test_heads_that_were_known_are_known_when_layers_are_found_anew(change, recorded, copied):
    torch.manual_seed(0)
    model = Tasks()
    model.stem.requires_grad_(change is not thaw)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    example = all_heads if recorded == "by an example" else None
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.2, maturity_threshold=2, example=example)

    def update(*tasks):
        optimizer.zero_grad()
        sum(model(torch.randn(4, 6), task).square().mean() for task in tasks).backward()
        optimizer.step()
        return method.step()

    update(0)
    update(1)
    model, optimizer, method = copied((model, optimizer, method))
    change(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    with torch.no_grad():
        for head in model.heads:
            head.weight.fill_(1.0)
    replaced = set()
    while len(replaced) < 3:  # by passes that call the first head alone
        replaced |= set(update(0)[-1].tolist())
    columns = model.heads[1].weight.detach()
    expected = torch.ones(3, 10)
    expected[:, sorted(replaced)] = 0
    assert torch.equal(columns, expected)
    hidden = next(layer.hidden for layer in method.layers if layer.name == "trunk.0")
    assert {edge.weights.module for edge in hidden.edges} == {*model.heads[:2]}


def edges_of(method, name):
    hidden = next(layer.hidden for layer in method.layers if layer.name == name)
    return [edge.weights.module for edge in hidden.edges]


def all_heads_stay_known(model, tasks, make_pass):
    """Learns task after task, each with a head of its own; whether the trunk feeds the heads of all at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.2, maturity_threshold=2)
    for number in range(tasks):
        if number:
            model.heads.append(nn.Linear(10, 3))
            optimizer.param_groups[0]["params"] = list(model.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            make_pass(number).square().mean().backward()
            optimizer.step()
            method.step()
    return edges_of(method, "trunk.0") == [*model.heads]


@pytest.mark.filterwarnings("ignore:Tasks runs otherwise than before")
@pytest.mark.parametrize("reuses", [False, True])
def test_heads_of_many_tasks_stay_known_whatever_becomes_of_the_batches(reuses):
    torch.manual_seed(0)
    model, task = Tasks(1), torch.tensor(0)
    named = task.fill_ if reuses else torch.tensor
    assert all_heads_stay_known(model, 12, lambda number: model(torch.randn(4, 6), named(number)))


@pytest.mark.filterwarnings("ignore:Tasks runs otherwise than before")
def test_passes_are_made_again_in_the_precision_that_the_model_has_now():
    model = Tasks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.2, maturity_threshold=2, example=(torch.ones(9, 6), 0))
    append_a_head(model)
    model.double()
    optimizer.param_groups[0]["params"] = list(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(4, 6, dtype=torch.float64), 2).square().mean().backward()
        optimizer.step()
        method.step()
    assert edges_of(method, "trunk.0") == [model.heads[0], model.heads[2]]


class Trainer:
    """Holds what can be neither copied nor pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def make_pass(self, model):
        return model(torch.ones(4, 6), 0)


class Batch:
    def __init__(self, x):
        self.x, self.lock = x, threading.Lock()


class TakesBatches(Tasks):
    def forward(self, batch, task):
        return super().forward(batch.x, task)


@pytest.mark.parametrize("given", ["a method of what cannot be copied", "large data", "an object in training"])
def test_what_passes_were_made_with_is_not_copied_nor_pickled_along(given):
    model = TakesBatches() if "object" in given else Tasks()
    examples = {"a method of what cannot be copied": Trainer().make_pass, "large data": (torch.zeros(100_000, 6), 0)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, example=examples.get(given))
    if "object" in given:
        x = nn.Linear(6, 6)(torch.ones(4, 6))  # with a graph
        model(Batch(x), 0).sum().backward()
        method.step()
    copied = copy.deepcopy((model, method))[1]
    assert [layer.name for layer in copied.layers] == [layer.name for layer in method.layers] == ["stem", "trunk.0"]
    assert len(pickle.dumps((model, method))) < 60_000


class OfDictionaries(nn.Module):
    """Takes what no input can be made up for, so that its layers are found in its first pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.value = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 1)

    def forward(self, batch):
        return self.second(torch.relu(self.first(batch["x"])))

    def judge(self, batch):
        return self.value(torch.relu(self.first(batch["x"])))


def test_nothing_is_said_of_inputs_that_are_tried():
    model = OfDictionaries()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cbp.ContinualBackprop(model, torch.optim.SGD(model.parameters()))
    assert said == []


def test_layers_are_found_within_a_checkpoint_as_without_one():
    trained = []
    for checkpointed in (True, False):
        model = OfDictionaries()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.2, maturity_threshold=2)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        replaced = 0
        for _ in range(8):
            optimizer.zero_grad()
            y = checkpoint(model, {"x": x}, use_reentrant=False) if checkpointed else model({"x": x})
            y.square().mean().backward()
            optimizer.step()
            replaced += sum(map(len, method.step()))
        trained.append([*model.first.parameters(), *model.second.parameters()])
        assert replaced > 2
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    (checkpoint(model, {"x": x}, use_reentrant=False).mean() + model.judge({"x": x}).mean()).backward()
    with pytest.warns(UserWarning, match="'value' was called outside of the recorded pass"):
        method.step()


@pytest.mark.filterwarnings("ignore:OfDictionaries runs otherwise than before")
def test_a_pass_in_which_no_layer_is_found_any_more_is_only_said():
    model, x = OfDictionaries(), torch.randn(8, 3)
    model.scale = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=3)
    model({"x": x}).mean().backward()
    method.step()
    for parameter in model.first.parameters():
        parameter.requires_grad_(False)
    with pytest.warns(UserWarning, match="^nothing is replaced until the hidden layers can be found anew: "):
        model({"x": x, "of another kind": 1}).mean().backward()
    assert [len(units) for units in method.step()] == [0]
    for parameter in model.first.parameters():
        parameter.requires_grad_(True)
    replaced = []
    for _ in range(4):
        model({"x": x}).mean().backward()
        replaced += [len(units) for units in method.step()]
    assert replaced == [0, 6, 0, 0]  # at the fourth update, of which that without layers was none


class Graph(Tasks):
    def forward(self, x, neighbours, task):
        return super().forward(neighbours @ x, task)


@pytest.mark.filterwarnings("ignore:Graph runs otherwise than before")
def test_heads_of_a_network_of_a_sparse_graph_stay_known():
    torch.manual_seed(0)
    model, neighbours = Graph(1), torch.eye(20).to_sparse()
    assert all_heads_stay_known(model, 3, lambda number: model(torch.randn(20, 6), neighbours, number))


@pytest.mark.filterwarnings("ignore:Sequential runs otherwise than before")
def test_what_was_the_output_is_a_hidden_layer_where_the_network_has_grown():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0, example=(torch.ones(2, 3),))
    model.extend([nn.ReLU(), nn.Linear(4, 2)])
    optimizer.add_param_group({"params": list(model[4].parameters())})
    for _ in range(2):  # the first tells that the model is another
        model(torch.ones(2, 3)).sum().backward()
        method.step()
    assert [layer.name for layer in method.layers] == ["0", "2"]
