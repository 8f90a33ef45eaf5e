"""What went wrong with networks that people bring: a test for each, which failed before."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from small_networks import Problem, chain, learn, still, update
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor, nn
from torch.nn.utils import prune

import cbp
from cbp.discovery import recording
from cbp.discovery.fused import WRITTEN_OUT


def all_at_once(model: nn.Module, **options: object) -> cbp.ContinualBackprop:
    """Every unit is due at every update."""
    return cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0, **options)


# Weights that are computed


class NoisyLinear(nn.Linear):
    """The weights are perturbed anew in each pass."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.sigma = nn.Parameter(torch.full_like(self.weight, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.sigma * torch.randn_like(self.weight), self.bias)


def test_units_in_front_of_a_noisy_layer_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), NoisyLinear(8, 2))
    with pytest.raises(cbp.LayerError, match=r"'0' meet weights that are computed from '2.sigma', '2.weight'"):
        cbp.ContinualBackprop(model, still(model))


def test_units_of_a_noisy_layer_are_left_alone_and_those_behind_it_treated():
    model = nn.Sequential(NoisyLinear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    method = all_at_once(model, example=(torch.ones(2, 3),))
    assert [layer.name for layer in method.layers] == ["2"]
    assert "have weights that are computed from" in method.left_out[0]


def test_a_hook_that_changes_what_a_layer_returns_is_seen():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    model[0].register_forward_hook(lambda module, args, output: output.softmax(-1))
    method = cbp.ContinualBackprop(model, still(model))
    assert [layer.name for layer in method.layers] == ["2"]
    assert "softmax" in method.left_out[0]


@pytest.mark.parametrize("parametrisation", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_layers_are_left_out_with_the_reason(parametrisation):
    model = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), parametrisation(nn.Linear(8, 5)), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 1)
    )
    method = cbp.ContinualBackprop(model, still(model), example=(torch.ones(2, 3),))
    assert [layer.name for layer in method.layers] == ["4"]
    assert any("'0'" in line for line in method.left_out)
    assert any("'2." in line for line in method.left_out)


# Weights that are used twice, and reshaping


def test_a_norm_behind_two_layers_is_not_changed_for_one_of_them():
    class SharedNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8)
            self.third, self.head = nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.norm(self.b(torch.relu(self.norm(self.a(x))))))
            return self.head(torch.relu(self.third(h)))

    model = SharedNorm()
    method = all_at_once(model)
    nn.init.constant_(model.norm.weight, 0.3)
    model(torch.randn(4, 3))
    assert [len(units) for units in method.step()] == [5]
    assert model.norm.weight.tolist() == pytest.approx([0.3] * 8)


def test_a_reshape_to_two_sizes_is_no_flattening():
    class PositionsAsSamples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps, self.last, self.head = nn.Conv2d(1, 4, 3), nn.Linear(8, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.maps(x)).contiguous().view(-1, 8)  # eight positions of one channel or two
            return self.head(torch.relu(self.last(h)))

    model = PositionsAsSamples()
    method = all_at_once(model)
    before = model.maps.weight.detach().clone()
    model(torch.randn(2, 1, 8, 8))
    method.step()
    assert [layer.name for layer in method.layers] == ["last"]
    assert torch.equal(model.maps.weight, before)


# Edges


class TwoActivations(nn.Module):
    """Heads that receive different functions of the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.pi, self.v = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.pi(torch.tanh(h)), self.v(torch.relu(h))


def test_each_edge_has_its_own_activation():
    model = TwoActivations()
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = model.trunk(x).detach()
    assert (h.tanh() < 0).any()
    model(x)
    method.step()
    # η = 0: u = mean|tanh h| · Σ|w_pi| + mean relu(h) · Σ|w_v|; without the absolute value of tanh it may be negative.
    expected = h.tanh().abs().mean(0) * model.pi.weight.abs().sum(0) + h.clamp(min=0).mean(0) * model.v.weight.abs().sum(0)
    torch.testing.assert_close(method.layers[0].utility, expected.detach())


def test_self_normalised_resets_look_at_the_activation_of_every_edge():
    model = TwoActivations()
    with pytest.raises(cbp.LayerError, match=r"'trunk' has activation 'tanh'"):
        cbp.SelfNormalizedResets(model, still(model))


def test_self_normalised_resets_leave_out_what_they_do_not_suit():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    method = cbp.SelfNormalizedResets(model, still(model))
    assert [layer.name for layer in method.layers] == ["2"]
    assert "'0' has activation 'tanh'" in method.left_out[0]


# What runs is not always the same


class Skipping(nn.Module):
    """A second way past the middle where it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.head, self.auxiliary = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1), nn.Linear(6, 1)
        self.double()

    def forward(self, x: Tensor, skip: Tensor | None = None, *, auxiliary: bool = False) -> Tensor:
        h = torch.relu(self.first(x))
        out = self.head(torch.relu(self.middle(h)))
        if skip is not None:
            out = out + h.sum(-1, keepdim=True) * skip
        return out + self.auxiliary(h) if auxiliary else out


def test_a_call_with_other_arguments_is_noticed_before_it_runs():
    model = Skipping()
    method = all_at_once(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    model(x)
    assert [layer.name for layer in method.layers] == ["first", "middle"]
    method.step()
    with pytest.warns(UserWarning, match=r"Skipping runs otherwise than before: .* 1 now, of which 1 keep"):
        model(x, x[:, :1])
    assert [layer.name for layer in method.layers] == ["middle"]
    assert [len(units) for units in method.step()] == [6]
    assert "'first'" in method.left_out[0]
    model(x)  # neither way is new: nothing is said or found anew
    method.step()


def test_a_head_that_is_called_for_the_first_time_is_noticed():
    model = Skipping()
    x = torch.randn(4, 3, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=2, example=(x,))
    for _ in range(2):
        model(x)
        assert [len(units) for units in method.step()] == [0, 0]
    utility = method.layers[0].utility.clone()
    with pytest.warns(UserWarning, match="2 keep their ages"):
        model(x, auxiliary=True)
    assert torch.equal(method.layers[0].utility, utility)
    assert method.layers[0].age.tolist() == [2] * 6
    (first, _) = (units.tolist() for units in method.step())
    assert len(first) == 3
    assert not model.auxiliary.weight[:, first].any()


def test_heads_that_take_turns_are_found_once_and_silenced_together():
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = nn.Linear(3, 6), nn.ModuleList(nn.Linear(6, 1) for _ in range(2))

        def forward(self, x: Tensor, task: int) -> Tensor:
            return self.heads[task](torch.relu(self.trunk(x)))

    model, x = Tasks(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=3)
    model(x, 0)
    method.step()
    with pytest.warns(UserWarning, match="found anew"):
        model(x, 1)
    method.step()
    for task in (0, 1):
        model(x, task)
        (units,) = (units.tolist() for units in method.step())
    assert len(units) == 3
    for head in model.heads:
        assert not head.weight[:, units].any()


class TwoHeads(nn.Module):
    """The second head is called by another function than ``forward``."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = nn.Linear(3, 6, bias=bias), nn.Linear(6, 2, bias=bias), nn.Linear(6, 1)
        self.judge, self.table = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), nn.Embedding(3, 3)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(self.features(x))


@pytest.mark.parametrize("first", [True, False], ids=["before the model", "after the model"])
def test_units_that_reach_a_head_outside_of_the_model_are_kept_which_is_said_once(first):
    def passes(model: TwoHeads) -> None:
        if first:
            model.value(input=model.features(x))
        model(x)
        if not first:
            model.value(model.features(x))

    model, x = TwoHeads(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=1)
    before = model.trunk.weight.detach().clone()
    passes(model)
    with pytest.warns(UserWarning, match="'value' was called outside of the recorded pass.*give example="):
        method.step()
    for _ in range(3):
        passes(model)
        assert [len(units) for units in method.step()] == [0]
    assert torch.equal(model.trunk.weight, before)
    with pytest.warns(UserWarning, match="found anew"):
        method.find(passes)
    passes(model)
    (units,) = method.step()
    assert len(units) == 3
    assert not model.value.weight[:, units].any()
    assert not model.policy.weight[:, units].any()


def test_where_parts_alone_are_called_units_that_reach_another_head_are_kept():
    model, x = TwoHeads(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(
        model, still(model), replacement_rate=0.5, maturity_threshold=0, example=lambda model: model.policy(model.features(x))
    )
    model.value(model.features(x))
    model.policy(model.features(x))
    with pytest.warns(UserWarning, match="'value' was called outside"):
        assert [len(units) for units in method.step()] == [0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        lambda model, x: model.judge(model(x)),
        lambda model, x: model.judge(x[:, :2]),
        lambda model, x: model(model.table(torch.tensor([0, 2]))),
        lambda model, x: torch.no_grad()(model.value)(model.features(x)),
        lambda model, x: model.value.eval()(model.features(x)),
    ],
    ids=["a network behind the model", "a network of its own", "a table before the model", "no gradients", "evaluation"],
)
def test_what_no_unit_reaches_in_training_may_be_called_outside_of_the_model(beside, bias):
    model, x = TwoHeads(bias=bias), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0)
    beside(model, x)
    model(x)
    assert [len(units) for units in method.step()] == [3]


@pytest.mark.parametrize("kind", [nn.ParameterList, nn.ParameterDict])
def test_a_head_whose_weights_are_in_a_list_or_dictionary_is_noticed(kind):
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = kind({"0": nn.Parameter(torch.ones(2, 6))} if kind is nn.ParameterDict else [torch.ones(2, 6)])

        def forward(self, h: Tensor) -> Tensor:
            return F.linear(h, self.of["0" if kind is nn.ParameterDict else 0])

    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads, self.task = nn.Linear(3, 6), nn.ModuleList(Head() for _ in range(2)), 0

        def forward(self, x: Tensor) -> Tensor:
            return self.heads[self.task](torch.relu(self.trunk(x)))

    model, x = Tasks(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, example=(x,))
    model.task = 1
    with pytest.warns(UserWarning, match="found anew"):
        model(x)
    method.step()
    model(x)
    (units,) = method.step()
    assert len(units) == 3
    for parameter in (*model.heads[0].parameters(), *model.heads[1].parameters()):
        assert not parameter[:, units].any()


def test_a_head_that_is_exchanged_is_noticed_and_nothing_is_replaced_until_then():
    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=1)
    x = torch.randn(4, 3, dtype=torch.float64)
    model(x)
    method.step()
    model[4] = nn.Linear(5, 7).double()  # five more classes
    optimizer.add_param_group({"params": list(model[4].parameters())})
    model(x)
    assert [len(units) for units in method.step()] == [0, 0]
    with pytest.warns(UserWarning, match="Sequential runs otherwise than before"):
        model(x)
    assert method.layers[1].hidden.outgoing == (model[4],)
    assert method.layers[1].age.tolist() == [1] * 5
    assert [len(units) for units in method.step()] == [6, 5]
    assert not model[4].weight.any()


def test_the_head_of_the_only_hidden_layer_may_be_exchanged():
    model = chain(3, 6, 2)
    optimizer = still(model)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=1)
    x = torch.randn(4, 3, dtype=torch.float64)
    model(x)
    method.step()
    model[2] = nn.Linear(6, 5).double()
    optimizer.add_param_group({"params": list(model[2].parameters())})
    model(x)
    assert [len(units) for units in method.step()] == [0]
    with pytest.warns(UserWarning, match="1 keep their ages"):
        model(x)
    assert [len(units) for units in method.step()] == [6]
    assert not model[2].weight.any()


def test_of_a_model_whose_parts_alone_are_called_an_exchanged_part_is_said_and_found_on_demand():
    model = nn.ModuleDict({"trunk": nn.Linear(3, 6), "head": nn.Linear(6, 1)})

    def act(model: nn.Module) -> Tensor:
        return model["head"](torch.relu(model["trunk"](torch.ones(2, 3))))

    optimizer = still(model)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0, example=act)
    model["head"] = nn.Linear(6, 2)
    optimizer.add_param_group({"params": list(model["head"].parameters())})
    act(model)
    with pytest.warns(UserWarning, match=r"modules of ModuleDict were exchanged, .* until find\(example\) is called"):
        assert [len(units) for units in method.step()] == [0]
    with pytest.warns(UserWarning, match="found anew"):
        method.find(act)
    act(model)
    assert [len(units) for units in method.step()] == [6]
    assert not model["head"].weight.any()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.cat([x, action], dim=-1))))


def test_layers_are_found_at_the_first_pass_where_no_input_can_be_made_up():
    model = TwoInputs()
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, seed=3)
    assert method.layers == []
    assert "at the first forward pass" in str(method)
    with pytest.raises(RuntimeError, match="call the model in training mode"):
        method.step()
    arguments = torch.randn(4, 3), torch.randn(4, 2)
    model(*arguments)
    assert [layer.name for layer in method.layers] == ["first"]
    assert [len(units) for units in method.step()] == [3]

    later = TwoInputs()
    resumed = cbp.ContinualBackprop(later, still(later), replacement_rate=0.5, maturity_threshold=0)
    resumed.load_state_dict(method.state_dict())  # waits
    later(*arguments)
    assert resumed.layers[0].replaced == 3
    assert torch.equal(resumed.layers[0].utility, method.layers[0].utility)
    assert resumed.layers[0].generator.get_state().equal(method.layers[0].generator.get_state())


def test_a_layer_that_is_skipped_is_noticed_and_not_judged_by_what_passes_instead():
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.last, self.head = (nn.Linear(n, 4) for n in (3, 4, 4, 4))
            self.double()
            self.skip = False

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            h = h if self.skip else torch.relu(self.block(h))
            return self.head(torch.relu(self.last(h)))

    model, x = Skipping(), torch.randn(4, 3, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=1, example=(x,))
    model(x)
    assert [layer.name for layer in method.layers] == ["first", "block", "last"]
    method.step()
    model.skip = True
    block = method.layers[1]
    utility = block.utility.clone()
    model(x)
    assert [len(units) for units in method.step()] == [0, 0, 0]
    assert torch.equal(block.utility, utility)
    assert block.age.tolist() == [1] * 4
    with pytest.warns(UserWarning, match="1 now, of which 1 keep"):
        model(x)
    assert [layer.name for layer in method.layers] == ["last"]
    assert "'first', 'block' feed columns of 'last.weight' that something else feeds too" in method.left_out[0]
    assert [len(units) for units in method.step()] == [4]


@pytest.mark.parametrize("units", [9, 4], ids=["more", "fewer"])
def test_weights_that_are_exchanged_within_their_modules_are_noticed(units):
    model = chain(3, 6, 5, 2)
    optimizer = still(model)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0)
    x = torch.randn(4, 3, dtype=torch.float64)
    for module, name, shape in (
        (model[0], "weight", (units, 3)),
        (model[0], "bias", (units,)),
        (model[2], "weight", (5, units)),
    ):
        setattr(module, name, nn.Parameter(torch.randn(shape, dtype=torch.float64)))
        optimizer.add_param_group({"params": [getattr(module, name)]})
    model(x)
    assert [len(units) for units in method.step()] == [0, 0]
    with pytest.warns(UserWarning, match="found anew"):
        model(x)
    assert [len(units) for units in method.step()] == [units, 5]


@pytest.mark.parametrize("change", [prune.identity, nn.utils.spectral_norm])
def test_a_weight_that_is_computed_from_another_of_its_shape_later_is_noticed(change):
    model = chain(3, 6, 5, 4, 2, bias=False)
    optimizer = still(model)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0)
    x = torch.randn(4, 3, dtype=torch.float64)
    change(model[2], "weight")
    optimizer.param_groups[0]["params"] = list(model.parameters())
    model(x)
    assert [len(units) for units in method.step()] == [0, 0, 0]
    with pytest.warns(UserWarning, match="found anew"):
        model(x)
    if change is prune.identity:  # times a mask: the parameter's elements are the units' still
        assert [len(units) for units in method.step()] == [6, 5, 4]
        assert method.layers[0].hidden.edges[0].weights.tensor is model[2].weight_orig
    else:
        assert [layer.name for layer in method.layers] == ["4"]
        assert any("'0'" in line for line in method.left_out)


@pytest.mark.parametrize("name", ["cbp", "redo", "regrama", "snr"])
def test_weights_are_known_again_once_they_are_no_longer_pruned(name):
    model = chain(3, 6, 5, 2)
    prune.random_unstructured(model[2], "weight", 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = cbp.METHODS[name](model, optimizer)
    x = torch.randn(4, 3, dtype=torch.float64)
    for pruned in (True, True, False, False, False):
        if not pruned and prune.is_pruned(model[2]):
            prune.remove(model[2], "weight")
            optimizer.param_groups[0]["params"] = list(model.parameters())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sequential runs otherwise than before")
            model(x).sum().backward()
        method.before_update()
        assert len(method.step()) == 2
    assert [edge.weights.attribute for layer in method.layers for edge in layer.hidden.edges] == ["weight", "weight"]
    assert method.layers[0].hidden.edges[0].weights.tensor is model[2].weight


@pytest.mark.parametrize("name", ["cbp", "c-chain"])
def test_hooks_that_a_tool_moves_to_other_modules_do_no_harm(name):
    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = cbp.METHODS[name](model, optimizer)
    holder = nn.Sequential(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    for number in range(4):
        if number == 2:  # as those for quantisation do, without the keyword arguments
            for modules, key in ((model, "2"), (holder, "0")):
                old, new = modules._modules[key], copy.copy(modules._modules[key])
                new._forward_pre_hooks, new._forward_pre_hooks_with_kwargs = OrderedDict(), OrderedDict()
                for hook in old._forward_pre_hooks.values():
                    new.register_forward_pre_hook(hook)
                modules._modules[key] = new
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sequential runs otherwise than before")
            holder(x).square().sum().backward()
        method.before_update()
        method.step()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_threads_record_one_after_the_other_and_leave_torchs_flags():
    def flags():
        return torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled(), torch.backends.cuda.flash_sdp_enabled()

    def work():
        for _ in range(10):
            layers = cbp.find_layers(chain(3, 6, 2), (torch.ones(2, 3, dtype=torch.float64),))
            found.append([layer.name for layer in layers])

    found, before, interval = [], flags(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == [["0"]] * 40
    assert flags() == before


def test_lower_recurrent_layers_are_judged_by_their_states():
    """An LSTM returns the output of its last layer at every step, of all layers what they had at the last."""

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.LSTM(3, 6, num_layers=2, batch_first=True), nn.Linear(6, 1)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            self.output, (self.state, _) = self.memory(x)
            return self.head(self.output)

    model = Memory()
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0, example=(x,))
    model(x)
    method.step()
    lower, upper = method.layers
    memory = {name: weight.detach().abs().sum(0) for name, weight in model.memory.named_parameters()}
    # η = 0: u = mean|h| · Σ|w_out|, over the columns of the next layer and of the layer's own recurrence
    state = model.state[0].detach().abs().mean(0)
    torch.testing.assert_close(lower.utility, state * (memory["weight_hh_l0"] + memory["weight_ih_l1"]))
    output = model.output.detach().abs().mean((0, 1))
    head = model.head.weight.detach().abs().sum(0)
    torch.testing.assert_close(upper.utility, output * (memory["weight_hh_l1"] + head))


class OnAGpu(nn.Module):
    """What torch computes of a cell's or a recurrent layer's step on a GPU, operation by operation."""

    def __init__(self, kind: type[nn.RNNCellBase], bias: bool) -> None:
        super().__init__()
        self.cell, self.head = kind(3, 5, bias=bias, dtype=torch.float64), nn.Linear(5, 2, dtype=torch.float64)
        self.cell.forward = self.step  # the hooks of the cell see it

    def step(self, x: Tensor, state: Tensor) -> Tensor | tuple[Tensor, ...]:
        cell = self.cell
        if isinstance(cell, nn.RNNCell):  # the state is multiplied first
            of_hidden = F.linear(state, cell.weight_hh, cell.bias_hh)
            return of_hidden.add_(F.linear(x, cell.weight_ih, cell.bias_ih)).tanh()
        gates = F.linear(x, cell.weight_ih), F.linear(state, cell.weight_hh)
        fused = torch.ops.aten._thnn_fused_lstm_cell if isinstance(cell, nn.LSTMCell) else torch.ops.aten._thnn_fused_gru_cell
        found = fused(*gates, state, cell.bias_ih, cell.bias_hh)
        return found[:2] if isinstance(cell, nn.LSTMCell) else found[0]

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x, x.new_zeros(len(x), 5))
        return self.head(state[0] if isinstance(state, tuple) else state)


class OnACpu(OnAGpu):
    """The same cell as torch computes it here."""

    def step(self, x: Tensor, state: Tensor) -> Tensor | tuple[Tensor, ...]:
        cell = self.cell
        return type(cell).forward(cell, x, (state, state) if isinstance(cell, nn.LSTMCell) else state)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("bias", [True, False])
def test_the_units_of_recurrence_on_a_gpu_are_those_on_a_cpu(kind, bias, monkeypatch):
    monkeypatch.setattr(recording, "RECURRENCES", {OnAGpu.step, OnACpu.step})

    def described(model: nn.Module) -> list[object]:
        found = []
        for group in cbp.find_layers(model, (torch.ones(2, 3, dtype=torch.float64),)):
            slices = [*group.fresh, *(part for part, _ in group.fixed), *(edge.weights for edge in group.edges)]
            values = [value for _, value in group.fixed]
            places = [(edge.place.returned, edge.place.key, edge.place.axis, edge.activation) for edge in group.edges]
            each = [(part.attribute, part.dim, part.index.tolist(), part.within) for part in slices]
            found.append((group.name, group.units, each, values, places))
        return found

    there = described(OnAGpu(kind, bias))
    assert there == described(OnACpu(kind, bias))
    assert [name for name, *_ in there] == ["cell.weight_ih"]


@pytest.mark.parametrize("bias", [True, False])
def test_cells_that_a_gpu_has_in_one_are_written_out_as_they_are(bias):
    x, state, cell = torch.randn(4, 3), torch.randn(4, 5), torch.randn(4, 5)
    for kind, fused in ((nn.LSTMCell, "_thnn_fused_lstm_cell"), (nn.GRUCell, "_thnn_fused_gru_cell")):
        module = kind(3, 5, bias=bias)
        written_out = WRITTEN_OUT[getattr(torch.ops.aten, fused).default]
        biases = (module.bias_ih, module.bias_hh) if bias else ()
        before = (cell,) if kind is nn.LSTMCell else (state,)
        found = written_out(x @ module.weight_ih.T, state @ module.weight_hh.T, *before, *biases)
        expected = module(x, (state, cell)) if kind is nn.LSTMCell else (module(x, state),)
        for ours, theirs in zip(found, expected, strict=False):
            torch.testing.assert_close(ours, theirs)


# Parameters that are not trained


def test_a_layer_that_is_frozen_later_is_left_as_it_is_until_then():
    model = chain(3, 6, 5, 2)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0)
    before = model[0].weight.detach().clone()
    model[0].requires_grad_(False)
    model(torch.ones(2, 3, dtype=torch.float64))
    assert [len(units) for units in method.step()] == [0, 5]
    assert torch.equal(model[0].weight, before)
    model[0].requires_grad_(True)
    model(torch.ones(2, 3, dtype=torch.float64))
    assert len(method.step()[0]) == 6


def test_frozen_layers_are_left_out_and_stay_as_they_are():
    model = chain(3, 6, 5, 4, 2)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    method = cbp.ContinualBackprop(
        model,
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0),
        replacement_rate=1.0,
        maturity_threshold=0,
    )
    assert [layer.name for layer in method.layers] == ["2", "4"]
    assert method.left_out == ["'weight' of the Linear around layer '0' is frozen"]
    model(torch.ones(2, 3, dtype=torch.float64))
    assert [len(units) for units in method.step()] == [5, 4]
    assert torch.equal(model[0].weight, before["weight"])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_layer_that_an_optimizer_gets_later_is_treated_from_then_on(frozen):
    model, x = chain(3, 6, 5, 2), torch.ones(2, 3, dtype=torch.float64)
    model[0].requires_grad_(not frozen)
    optimizer = torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.0)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0)
    model[0].requires_grad_(True)
    for _ in range(2):  # found anew, where it was frozen
        model(x)
        method.step()
    assert [layer.name for layer in method.layers] == ["2"]
    optimizer.add_param_group({"params": list(model[0].parameters())})
    model(x)
    assert [len(units) for units in method.step()] == [0]
    with pytest.warns(UserWarning, match="2 now, of which 1 keep"):
        model(x)
    assert [len(units) for units in method.step()] == [6, 5]
    del optimizer.param_groups[1]
    model(x)
    assert [len(units) for units in method.step()] == [0, 0]
    with pytest.warns(UserWarning, match="1 now"):
        model(x)
    assert "the optimizer does not hold" in method.left_out[0]


def test_several_optimizers_each_forget_what_they_hold():
    model = chain(3, 6, 2)
    adam = torch.optim.Adam([model[0].weight, model[2].weight], lr=0.01)
    momentum = torch.optim.SGD([model[0].bias, model[2].bias], lr=0.01, momentum=0.9)
    method = cbp.ContinualBackprop(model, [adam, momentum], replacement_rate=0.5, maturity_threshold=1)
    problem = Problem(3, 2)
    for _ in range(2):
        x, y = problem()
        for optimizer in (adam, momentum):
            optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        for optimizer in (adam, momentum):
            optimizer.step()
        (units,) = (units.tolist() for units in method.step())
    kept = [i for i in range(6) if i not in units]
    assert len(units) == 3
    assert not adam.state[model[0].weight]["exp_avg"][units].any()
    assert adam.state[model[0].weight]["exp_avg"][kept].any()
    assert not adam.state[model[2].weight]["exp_avg_sq"][:, units].any()
    assert not momentum.state[model[0].bias]["momentum_buffer"][units].any()
    assert momentum.state[model[0].bias]["momentum_buffer"][kept].any()


def test_what_begins_at_another_value_than_zero_begins_there_again():
    model = chain(3, 6, 2, activation=nn.Tanh)
    kinds = {
        "Rprop": (torch.optim.Rprop(model.parameters(), lr=0.02), {"step_size": 0.02, "prev": 0.0}),
        "Adagrad": (torch.optim.Adagrad(model.parameters(), lr=0.01, initial_accumulator_value=0.3), {"sum": 0.3}),
        "Adadelta": (torch.optim.Adadelta(model.parameters()), {"square_avg": 0.0, "acc_delta": 0.0}),
        "NAdam": (torch.optim.NAdam(model.parameters()), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
        "Adamax": (torch.optim.Adamax(model.parameters()), {"exp_avg": 0.0, "exp_inf": 0.0}),
        "RMSpropTFLike": (RMSpropTFLike(model.parameters()), {"square_avg": 1.0}),
    }
    problem = Problem(3, 2)
    for optimizer, values in kinds.values():
        method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=2)
        units: list[int] = []
        while not units:
            (units,) = update(model, optimizer, method, *problem())
        kept = [i for i in range(6) if i not in units]
        for name, value in values.items():
            for tensor, along in ((optimizer.state[model[0].weight][name], 0), (optimizer.state[model[2].weight][name], 1)):
                assert (tensor.index_select(along, torch.tensor(units)) == value).all(), (type(optimizer), name)
                assert (tensor.index_select(along, torch.tensor(kept)) != value).any(), (type(optimizer), name)
        method.remove()


def test_the_average_of_weights_begins_with_the_fresh_ones():
    model = chain(3, 6, 2)
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.01, t0=0)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=2)
    problem, units = Problem(3, 2), []
    while not units:
        (units,) = update(model, optimizer, method, *problem())
    assert torch.equal(optimizer.state[model[0].weight]["ax"][units], model[0].weight[units])


def test_rows_and_columns_of_a_factored_average_are_forgotten():
    model = chain(3, 6, 2, activation=nn.Tanh).float()
    optimizer = torch.optim.Adafactor(model.parameters())
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0)
    x, y = (tensor.float() for tensor in Problem(3, 2)())
    learn(model, optimizer, x, y)
    assert optimizer.state[model[0].weight]["row_var"].all()
    (units,) = (units.tolist() for units in method.step())
    kept = [i for i in range(6) if i not in units]
    assert not optimizer.state[model[0].weight]["row_var"][units].any()
    assert optimizer.state[model[0].weight]["row_var"][kept].all()
    assert optimizer.state[model[0].weight]["col_var"].all()
    assert not optimizer.state[model[2].weight]["col_var"][:, units].any()
    assert optimizer.state[model[2].weight]["col_var"][:, kept].all()


def test_an_optimizer_whose_memory_cannot_be_reset_is_refused_by_name():
    model = chain(3, 6, 2)
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(TypeError, match=r"torch\.optim\.lbfgs\.LBFGS remembers cannot be reset.*must be 'none'"):
        cbp.ContinualBackprop(model, optimizer)
    cbp.ContinualBackprop(model, optimizer, reset_optimizer="none")


def test_slopes_of_replaced_units_begin_anew():
    model = nn.Sequential(nn.Linear(3, 6), nn.PReLU(6), nn.Linear(6, 1))
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0)
    with torch.no_grad():
        model[1].weight.fill_(-7.0)
    model(torch.randn(4, 3))
    (units,) = (units.tolist() for units in method.step())
    # The slopes were 0.25 when the method was made.
    assert model[1].weight.tolist() == [0.25 if i in units else -7.0 for i in range(6)]


# Precision


def test_averages_are_at_least_in_single_precision():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    method = cbp.ContinualBackprop(model, still(model))
    for _ in range(700):
        model(torch.ones(1, 1, dtype=torch.bfloat16))
        method.step()
    # A constant 1 averaged from 0 with η = 0.99: 1 − 0.99^700 = 0.9991. In bfloat16 the average stops at 0.8.
    assert method.layers[0].utility.dtype == torch.float32
    assert method.layers[0].utility.tolist() == pytest.approx([1 - 0.99**700] * 2, rel=1e-3)


def test_one_pass_that_overflows_does_not_spoil_the_averages():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).half()
    method = cbp.ContinualBackprop(model, still(model), utility="zero_contribution")
    for value in (1.0, 60_000.0, 1.0):
        with torch.no_grad():
            model[0].weight.fill_(value)
        model(torch.full((1, 1), 2.0, dtype=torch.float16))  # 120,000 is beyond half precision
        method.step()
    assert method.layers[0].utility.isfinite().all()
    assert method.layers[0].mean_activation.isfinite().all()


def test_a_trunk_in_half_precision_with_a_head_in_single_and_the_other_way_round():
    class Mixed(nn.Module):
        def __init__(self, trunk: torch.dtype, head: torch.dtype) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(3, 6).to(trunk), nn.Linear(6, 1).to(head)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.trunk(x.to(self.trunk.weight.dtype))).to(self.head.weight.dtype))

    for dtypes in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        for utility in ("contribution", "adaptable_contribution"):
            model = Mixed(*dtypes)
            method = cbp.ContinualBackprop(model, still(model), utility=utility, replacement_rate=0.5, maturity_threshold=0)
            model(torch.randn(4, 3)).sum().backward()
            assert [len(units) for units in method.step()] == [3]


@pytest.mark.parametrize("utility", ["contribution", "zero_contribution"])
def test_heads_in_different_precisions_are_judged_together(utility):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.single, self.low = nn.Linear(1, 2, bias=False), nn.Linear(2, 1), nn.Linear(2, 1).half()

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.trunk(x))
            return self.single(h) + self.low(h.half()).float()

    model = Heads()
    with torch.no_grad():
        model.trunk.weight.copy_(torch.tensor([[1.0], [0.5]]))
        model.single.weight.fill_(2.0)
        model.low.weight.fill_(1.0)
    method = cbp.ContinualBackprop(model, still(model), utility=utility, decay_rate=0.0, example=(torch.ones(2, 1),))
    model(torch.tensor([[1.0], [3.0]]))
    method.step()
    # h is (1, 3) and (0.5, 1.5): mean|h| is 2 and 1, mean|h − ĥ| is 1 and 0.5, Σ|w_out| is 2 + 1.
    expected = [6.0, 3.0] if utility == "contribution" else [3.0, 1.5]
    assert method.layers[0].utility.tolist() == expected
    model(torch.full((2, 1), 1e5))  # 100,000 is beyond half precision, 50,000 is not
    method.step()
    assert method.layers[0].utility[0].item() == expected[0]
    assert method.layers[0].utility.isfinite().all()


def test_under_autocast_units_are_found_and_judged():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method = cbp.ContinualBackprop(
            model, still(model), replacement_rate=0.5, maturity_threshold=0, example=(torch.ones(2, 3),)
        )
        model(torch.randn(4, 3)).sum().backward()
    assert [len(units) for units in method.step()] == [3]


def test_a_model_that_is_cast_later_takes_its_averages_along():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    method = cbp.ContinualBackprop(model, still(model), utility="zero_contribution", replacement_rate=0.1, maturity_threshold=2)
    model(torch.randn(4, 3))
    method.step()
    before = method.layers[0].utility.double()
    model.double()
    model(torch.randn(4, 3, dtype=torch.float64))
    method.step()
    assert method.layers[0].utility.dtype == method.layers[0].mean_activation.dtype == torch.float64
    assert not torch.equal(method.layers[0].utility, before)
    assert method.layers[0].age.tolist() == [2] * 6


def test_a_gradient_scaler_does_not_make_l2_init_vanish():
    model = nn.Linear(2, 1, bias=False)
    method = cbp.L2Init(model, still(model), strength=0.25)
    with torch.no_grad():
        model.weight.add_(2.0)
    scale = 1024.0
    (scale * 0 * model(torch.ones(1, 2))).sum().backward()
    method.before_update(scale)
    # 2 · 0.25 · 2 = 1, in gradients that are still scaled
    assert (model.weight.grad / scale).tolist() == [pytest.approx([1.0, 1.0])]


def test_an_update_that_a_gradient_scaler_skips_counts_as_one_and_moves_nothing_else():
    model = chain(3, 6, 2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(model.state_dict())
    for step in range(2):
        loss = model(torch.ones(2, 3)).sum() * torch.inf
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        (units,) = (units.tolist() for units in method.step())
        assert len(units) == (0, 3)[step]  # older than one update at the second
    assert not optimizer.state[model[0].weight]  # there was none
    kept = [i for i in range(6) if i not in units]
    assert torch.equal(model[0].weight[kept], before["0.weight"][kept])
    assert not torch.equal(model[0].weight[units], before["0.weight"][units])
    assert method.layers[0].utility.isfinite().all()


# Wrappers, transformations, copies


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")], ids=["parallel", "compiled"]
)
def test_wrappers_are_taken_off(wrap):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    wrapped = wrap(model)
    method = cbp.ContinualBackprop(wrapped, still(model), replacement_rate=0.5, maturity_threshold=0)
    assert [layer.name for layer in method.layers] == ["0"]
    for _ in range(2):
        wrapped(torch.randn(4, 3)).sum().backward()
        assert [len(units) for units in method.step()] == [3]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_the_units_of_compiled_code_are_those_of_plain_code(backend):
    """Over many updates: what is seen of a pass is still there after the backward pass."""
    replaced = []
    for compiled in (False, True):
        model = chain(3, 32, 16, 2)
        call = torch.compile(model, backend=backend) if compiled else model
        problem, optimizer = Problem(3, 2), torch.optim.Adam(model.parameters(), lr=0.01)
        example = (torch.ones(4, 3, dtype=torch.float64),)
        method = cbp.ContinualBackprop(call, optimizer, replacement_rate=0.05, maturity_threshold=3, example=example)
        replaced.append([])
        for _ in range(30):
            learn(call, optimizer, *problem())
            seen = [hook.received for module in model for hook in module._forward_pre_hooks.values()]
            replaced[-1].append([units.tolist() for units in method.step()])
        assert all(bool((h >= 0).all()) for h in seen)  # behind a ReLU
        assert len(seen) == 2
    assert replaced[0] == replaced[1]
    assert sum(len(units) for update in replaced[0] for units in update) > 10


def test_a_method_that_is_made_after_the_first_compiled_call_sees_the_next():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(4, 3)).sum().backward()
    method = cbp.ContinualBackprop(compiled, still(model), replacement_rate=0.5, maturity_threshold=0)
    compiled(torch.randn(4, 3)).sum().backward()
    assert [len(units) for units in method.step()] == [3]


def test_a_pass_under_vmap_is_no_pass_and_does_no_harm():
    model = chain(3, 6, 2)
    method = cbp.ContinualBackprop(model, still(model))
    torch.func.vmap(lambda x: model(x))(torch.ones(4, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="no forward pass"):
        method.step()
    model(torch.ones(4, 3, dtype=torch.float64))
    method.step()


def test_a_first_pass_under_vmap_and_grad_is_not_recorded_and_the_next_is():
    model = TwoInputs()
    method = cbp.ContinualBackprop(model, still(model))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, action: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x, action)).sum()

    arguments = torch.randn(4, 3), torch.randn(4, 2)
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, *arguments)
    assert gradients["first.weight"].shape == (4, 6, 5)
    assert method.layers == []
    model(*arguments)
    assert [len(units) for units in method.step()] == [0]


def test_what_watches_a_model_holds_no_graph_and_can_be_taken_off():
    def graphs() -> dict[int, Tensor]:
        return {id(value): value for value in gc.get_objects() if type(value) is Tensor and value.grad_fn is not None}

    model = chain(3, 6, 5, 2)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0)
    others = graphs()  # of this process, whose earlier tests may have left some
    model(torch.ones(4, 3, dtype=torch.float64))
    assert not graphs().keys() - others.keys()
    method.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert len(method.step()) == 2  # the pass before
    model(torch.ones(4, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="no forward pass"):
        method.step()


def test_a_copy_of_model_and_method_goes_on_by_itself():
    class Pair:
        def __init__(self) -> None:
            self.model = Skipping()
            self.method = all_at_once(self.model)

    x = torch.randn(4, 3, dtype=torch.float64)
    pair = Pair()
    twin = copy.deepcopy(pair)
    twin.model(x)
    assert [len(units) for units in twin.method.step()] == [6, 6]
    with pytest.raises(RuntimeError, match="no forward pass"):
        pair.method.step()
    with pytest.warns(UserWarning, match="found anew"):
        twin.model(x, x[:, :1])
    assert len(pair.method.layers) == 2
    alone = copy.deepcopy(pair.model)
    alone(x, x[:, :1])  # nobody to find anything for


# State


def test_state_is_known_by_the_names_of_layers():
    model = nn.ModuleDict({"a": nn.Linear(3, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 1)})
    layers = [cbp.HiddenLayer(model["a"], [model["b"]], "a"), cbp.HiddenLayer(model["b"], [model["c"]], "b")]
    method = cbp.ContinualBackprop(model, still(model), layers=layers)
    model["c"](torch.relu(model["b"](torch.relu(model["a"](torch.ones(1, 3))))))
    method.step()
    turned = cbp.ContinualBackprop(model, still(model), layers=layers[::-1])
    turned.load_state_dict(method.state_dict())
    for layer in method.layers:
        (same,) = (other for other in turned.layers if other.name == layer.name)
        assert torch.equal(same.utility, layer.utility)
    renamed = cbp.ContinualBackprop(model, still(model), layers=[cbp.HiddenLayer(model["a"], [model["b"]], "x"), layers[1]])
    with pytest.raises(ValueError, match=r"hidden layers \['a', 'b'\], this model has \['x', 'b'\]"):
        renamed.load_state_dict(method.state_dict())


def test_a_state_that_lacks_something_is_refused_whole():
    model = chain(3, 6, 5, 2)
    method = cbp.ContinualBackprop(model, still(model))
    model(torch.ones(1, 3, dtype=torch.float64))
    method.step()
    state = method.state_dict()
    del state["layers"][1]["counter"]
    fresh = cbp.ContinualBackprop(model, still(model))
    with pytest.raises(ValueError, match=r"layer '2' lacks \['counter'\]"):
        fresh.load_state_dict(state)
    assert fresh.layers[0].age.tolist() == [0] * 6


def test_a_state_without_names_is_taken_in_the_order_of_its_layers():
    model = chain(3, 6, 5, 2)
    method = cbp.ContinualBackprop(model, still(model))
    model(torch.ones(1, 3, dtype=torch.float64))
    method.step()
    state = method.state_dict()
    for layer in state["layers"]:  # as they were saved until 0.2
        del layer["name"]
        layer["fresh_bound"] = layer.pop("fresh_bounds")[0]
    fresh = cbp.ContinualBackprop(model, still(model))
    fresh.load_state_dict(state)
    assert torch.equal(fresh.layers[1].utility, method.layers[1].utility)


def test_a_state_from_before_the_layers_were_found_is_a_beginning():
    def made() -> tuple[nn.Module, cbp.ContinualBackprop]:
        model = TwoInputs()
        return model, cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, seed=3)

    arguments = torch.randn(4, 3), torch.randn(4, 2)
    _, waiting = made()
    state = waiting.state_dict()
    model, resumed = made()
    resumed.load_state_dict(state)
    resumed.take_over(waiting)
    for _ in range(2):
        model(*arguments)
        (first,) = resumed.step()
        assert resumed.layers[0].replaced == len(first) == 3
        resumed.load_state_dict(state)  # begins again
        assert resumed.layers[0].replaced == resumed.layers[0].clock == 0
    model(*arguments)
    resumed.step()
    for garbage in ({}, {"layers": None}, {"layers": [{"weights": 1}]}, {"initial": []}, []):
        for method in (waiting, resumed):
            with pytest.raises(ValueError, match=r"has a list of 'layers', got"):
                method.load_state_dict(garbage)
    assert resumed.layers[0].replaced == 3


def test_the_same_layer_given_twice_is_refused():
    model = chain(3, 6, 5, 2)
    layers = cbp.find_layers(model)
    with pytest.raises(cbp.LayerError, match="layers '0' and '0' have the same incoming weights"):
        cbp.ContinualBackprop(model, still(model), layers=[layers[0], layers[0]])


@pytest.mark.parametrize(
    ("example", "message"), [(torch.ones(2, 3), "got a Tensor"), ([torch.ones(2, 3)], "got a list")], ids=["tensor", "list"]
)
def test_an_example_of_another_kind_is_refused(example, message):
    model = chain(3, 6, 2)
    with pytest.raises(TypeError, match=f"example must be a tuple .*{message}"):
        cbp.find_layers(model, example)


def test_the_table_has_a_row_for_each_layer():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    lines = str(cbp.ContinualBackprop(model, still(model))).splitlines()
    assert lines == [
        "ContinualBackprop",
        "layer  units  activation  feeds",
        "0      6      relu        Linear  coupled by a norm",
        "3      5      tanh        Linear",
    ]
