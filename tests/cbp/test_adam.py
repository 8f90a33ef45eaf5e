"""`cbp.Adam`: torch's Adam, but with a step count per element."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, learn
from torch import nn

import cbp


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.99, 0.99), "weight_decay": 1e-2},
        {"betas": (0.0, 0.999), "lr": 3e-3},
        {"betas": (0.9, 0.0), "eps": 0.1},  # without a large eps m/|g| amplifies rounding wherever a gradient is near 0
        {"betas": (0.0, 0.0), "lr": 1e-4},
        {"eps": 1e-3, "weight_decay": 1e-3},
        {"amsgrad": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch_adam_as_long_as_nothing_is_reset(options, dtype):
    model = chain(3, 8, 2, activation=nn.Tanh).to(dtype)
    twin = copy.deepcopy(model)
    ours, theirs = cbp.Adam(model.parameters(), **options), torch.optim.Adam(twin.parameters(), **options)
    start = model[0].weight.detach().clone()
    problem = Problem(3, 2)
    for _ in range(150):
        x, y = (batch.to(dtype) for batch in problem())
        learn(model, ours, x, y)
        learn(twin, theirs, x, y)
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            # The count, and so the correction, is float32 in either case; rounding adds up over the steps.
            torch.testing.assert_close(parameter, other, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-6)
    assert (model[0].weight - start).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}])
def test_complex_weights_are_moved_as_by_torch_adam(options):
    torch.manual_seed(0)
    first, moved = torch.randn(4, dtype=torch.cfloat), []
    for kind in (torch.optim.Adam, cbp.Adam):
        weights = nn.Parameter(first.clone())
        optimizer = kind([weights], lr=0.1, **options)
        for _ in range(5):
            optimizer.zero_grad()
            ((weights * (1 + 2j)).imag.sum() + weights.abs().square().sum()).backward()
            optimizer.step()
        moved.append(weights.detach())
    torch.testing.assert_close(*moved)


def test_two_steps_worked_out_by_hand():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = cbp.Adam([weight], lr=0.1, betas=(0.5, 0.75), eps=0.0)
    weight.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    # m = 0.5 · 2 = 1, m̂ = 1 / (1 − 0.5) = 2;  v = 0.25 · 4 = 1, v̂ = 1 / (1 − 0.75) = 4;  θ = 1 − 0.1 · 2 / 2 = 0.9
    assert weight.item() == pytest.approx(0.9, rel=1e-6)
    weight.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    # m = 0.5 · 1 − 0.5 · 1 = 0: no step;  v = 0.75 · 1 + 0.25 · 1 = 1
    assert weight.item() == pytest.approx(0.9, rel=1e-6)
    weight.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    # m = −0.5, m̂ = −0.5 / (1 − 0.125) = −4/7;  v = 1, v̂ = 1 / (1 − 27/64) = 64/37;  θ = 0.9 + 0.1 · 4/7 · √(37/64)
    assert weight.item() == pytest.approx(0.9 + 0.1 * 4 / 7 * math.sqrt(37) / 8, rel=1e-6)


def reset(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, element: int, names: tuple[str, ...]) -> None:
    for name in names:
        optimizer.state[parameter][name][element] = 0


def test_element_whose_state_is_reset_starts_with_a_step_of_lr():
    lr = 0.01
    ours, theirs = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    adam, torch_adam = cbp.Adam([ours], lr=lr), torch.optim.Adam([theirs], lr=lr)
    gradient = torch.full((3,), 0.5, dtype=torch.float64)
    ours.grad, theirs.grad = gradient, gradient
    for _ in range(200):
        adam.step()
        torch_adam.step()
    torch_adam.state[theirs]["step"].fill_(1e6)  # as after a long time: 0.999^1000000 = 0 corrects nothing
    torch_adam.state[theirs]["exp_avg_sq"].fill_(0.25)
    before, before_torch = ours.detach().clone(), theirs.detach().clone()
    reset(adam, ours, 1, ("exp_avg", "exp_avg_sq", "step"))
    reset(torch_adam, theirs, 1, ("exp_avg", "exp_avg_sq"))
    adam.step()
    torch_adam.step()
    # With a constant gradient g: m̂ = g, v̂ = g², every step has size lr, and so has that of the reset element.
    assert (before - ours).tolist() == pytest.approx([lr] * 3, rel=1e-5)
    # torch, moments zeroed under a large count: m = (1 − β₁)·g, v = (1 − β₂)·g², both uncorrected:
    # (1 − β₁) / √(1 − β₂) · lr = 0.1 / √0.001 · lr = 3.16 · lr
    expected = 0.1 / math.sqrt(0.001) * lr
    assert (before_torch - theirs).tolist() == pytest.approx([lr, expected, lr], rel=1e-5)
    assert adam.state[ours]["step"].tolist() == [201.0, 1.0, 201.0]


def test_second_and_third_steps_after_a_reset_have_size_lr_too():
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = cbp.Adam([weight], lr=0.01, betas=(0.9, 0.99))
    weight.grad = torch.tensor([0.3, -0.3], dtype=torch.float64)
    for _ in range(50):
        optimizer.step()
    reset(optimizer, weight, 0, ("exp_avg", "exp_avg_sq", "step"))
    for _ in range(3):
        before = weight.detach().clone()
        optimizer.step()
        assert (before - weight).tolist() == pytest.approx([0.01, -0.01], rel=1e-5)


def test_weight_decay_is_coupled():
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = cbp.Adam([weight], lr=0.1, betas=(0.0, 0.0), eps=1.0, weight_decay=0.5)
    weight.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    # g = 3 + 0.5 · 2 = 4;  θ = 2 − 0.1 · 4 / (4 + 1) = 1.92
    assert weight.item() == pytest.approx(1.92)


def test_state_dict_round_trip_goes_on_identically(tmp_path):
    model = chain(3, 8, 2)
    optimizer = cbp.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    problem = Problem(3, 2)
    for _ in range(20):
        learn(model, optimizer, *problem())
    optimizer.state[model[0].weight]["step"][2] = 0
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "saved.pt")

    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    twin = chain(3, 8, 2, seed=1)
    twin.load_state_dict(saved[0])
    twin_optimizer = cbp.Adam(twin.parameters(), lr=0.5)
    twin_optimizer.load_state_dict(saved[1])
    for _ in range(20):
        x, y = problem()
        learn(model, optimizer, x, y)
        learn(twin, twin_optimizer, x, y)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert twin_optimizer.state[twin[0].weight]["step"].tolist() == [[40.0] * 3] * 2 + [[20.0] * 3] + [[40.0] * 3] * 5


def test_parameter_groups_have_their_own_options():
    fast, slow = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = cbp.Adam([{"params": [fast], "lr": 0.5}, {"params": [slow]}], lr=0.01)
    fast.grad, slow.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    # The first step has size lr.
    assert (fast.item(), slow.item()) == pytest.approx((-0.5, -0.01), rel=1e-5)


def test_parameter_without_gradient_is_left_alone():
    used, unused = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = cbp.Adam([used, unused], lr=0.1, weight_decay=0.1)
    used.grad = torch.ones(1)
    optimizer.step()
    assert unused.item() == 1.0
    assert not optimizer.state[unused]
    assert used.item() == pytest.approx(0.9, rel=1e-5)


def test_closure_is_evaluated_with_gradients_on_and_its_loss_returned():
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = cbp.Adam([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert weight.item() == pytest.approx(2.9, rel=1e-5)


def test_sparse_gradient_is_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = cbp.Adam(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", -1e-3),
        ("lr", math.nan),
        ("lr", math.inf),
        ("eps", -1e-8),
        ("weight_decay", -0.25),
        ("weight_decay", math.nan),
        ("betas", (1.0, 0.999)),
        ("betas", (0.9, 1.5)),
        ("betas", (-0.1, 0.999)),
        ("betas", (0.9, math.nan)),
        ("betas", (0.9,)),
        ("betas", (0.9, 0.99, 0.999)),
    ],
)
def test_bad_option_is_refused_with_its_name_and_value(option, value):
    with pytest.raises(ValueError, match=option) as caught:
        cbp.Adam([nn.Parameter(torch.zeros(1))], **{option: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}], ids=str
)
@pytest.mark.parametrize("rows", [0, 3, 30], ids=["no row", "few rows", "most rows"])
def test_every_way_of_updating_is_that_of_the_equation(options, rows):
    """Some rows begin anew in the middle, and are compared with a parameter of their own under torch's Adam."""
    torch.manual_seed(0)
    start, gradients = torch.randn(40, 8, dtype=torch.float64), torch.randn(30, 40, 8, dtype=torch.float64)
    whole = nn.Parameter(start.clone())
    optimizer = cbp.Adam([whole], lr=0.01, **options)
    others = nn.Parameter(start[rows:].clone())
    theirs = torch.optim.Adam([others], lr=0.01, **options)
    for gradient in gradients[:20]:
        whole.grad, others.grad = gradient.clone(), gradient[rows:].clone()
        optimizer.step()
        theirs.step()
    for value in optimizer.state[whole].values():
        value[:rows] = 0
    young = nn.Parameter(whole.detach()[:rows].clone())
    of_young = torch.optim.Adam([young], lr=0.01, **options)
    for gradient in gradients[20:]:
        whole.grad, others.grad, young.grad = gradient.clone(), gradient[rows:].clone(), gradient[:rows].clone()
        optimizer.step()
        theirs.step()
        of_young.step()
    # The counts, and so the corrections, are float32 in torch's fused kernel.
    torch.testing.assert_close(whole[rows:], others, rtol=0, atol=1e-7)
    torch.testing.assert_close(whole[:rows], young, rtol=0, atol=1e-7)
    assert optimizer.state[whole]["step"][:rows].eq(10).all()
    assert optimizer.state[whole]["step"][rows:].eq(30).all()


@pytest.mark.parametrize("shape", [(12, 10), (12, 5, 2), (12,)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}], ids=str
)
def test_rows_columns_and_single_elements_that_begin_anew_at_different_times_follow_the_equation(shape, options):
    """Compared with a loop over elements in Python numbers."""
    lr, beta1, beta2, eps, generator = 0.01, 0.9, 0.99, 1e-6, torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator))
    optimizer = cbp.Adam([weight], lr=lr, betas=(beta1, beta2), eps=eps, **options)
    decay, decoupled = options.get("weight_decay", 0.0), "decoupled_weight_decay" in options
    elements = [{"w": w, "m": 0.0, "v": 0.0, "top": 0.0, "t": 0} for w in weight.flatten().tolist()]
    number = torch.arange(weight.numel()).view(shape)
    resets = {5: number[3], 8: number[..., 1], 9: number[3], 12: number[7], 15: number.flatten()[17 % weight.numel()]}
    for update in range(20):
        if update in resets:
            for element in resets[update].flatten().tolist():
                elements[element] |= {"m": 0.0, "v": 0.0, "top": 0.0, "t": 0}
                for value in optimizer.state[weight].values():
                    value.view(-1)[element] = 0
        weight.grad = torch.randn(shape, dtype=torch.float64, generator=generator)
        for element, gradient in zip(elements, weight.grad.flatten().tolist(), strict=True):
            gradient += 0 if decoupled else decay * element["w"]
            element["t"] += 1
            element["m"] = beta1 * element["m"] + (1 - beta1) * gradient
            element["v"] = beta2 * element["v"] + (1 - beta2) * gradient**2
            element["top"] = max(element["top"], element["v"]) if "amsgrad" in options else element["v"]
            m, v = element["m"] / (1 - beta1 ** element["t"]), element["top"] / (1 - beta2 ** element["t"])
            element["w"] = element["w"] * (1 - lr * decay if decoupled else 1) - lr * m / (math.sqrt(v) + eps)
        optimizer.step()
    expected = torch.tensor([element["w"] for element in elements], dtype=torch.float64).view(shape)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-7)  # the common count is float32 in the kernel
    assert optimizer.state[weight]["step"].flatten().tolist() == [element["t"] for element in elements]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_gradients_and_states_may_lie_in_memory_otherwise_than_the_weights(amsgrad):
    found = []
    for kind in (torch.optim.Adam, cbp.Adam):
        weight = nn.Parameter(torch.zeros(3, 4, 2, 2, dtype=torch.float64))
        optimizer = kind([weight], lr=0.1, amsgrad=amsgrad)
        gradients = torch.randn(8, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for update, gradient in enumerate(gradients):
            weight.grad = gradient.to(memory_format=torch.channels_last)
            optimizer.step()
            if update in (1, 4):  # as of a model in channels_last, and back
                layout = torch.channels_last if update == 1 else torch.contiguous_format
                for name, value in optimizer.state[weight].items():
                    if name.startswith(("exp", "max")):
                        optimizer.state[weight][name] = value.to(memory_format=layout)
        found.append(weight.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_the_state_of_torchs_adam_is_gone_on_with_and_then_has_a_count_for_each_weight():
    model = chain(3, 8, 6, 2)
    theirs = torch.optim.Adam(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(1000):
        theirs.step()
    ours = cbp.Adam(model.parameters(), lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    method = cbp.ReDo(model, ours, period=1, threshold=1e9, reset_optimizer="moments_and_step")
    ours.step()
    assert (ours.state[model[2].weight]["step"] == 1001).all()
    model(torch.ones(4, 3, dtype=torch.float64))
    assert [len(units) for units in method.step()] == [8, 6]
    before = model[2].weight.detach().clone()
    ours.step()
    # The first step of a weight with a count of its own has the size lr.
    torch.testing.assert_close(before - model[2].weight, torch.full_like(before, 0.1), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": "a"}, "lr must be a finite number >= 0, got 'a'"),
        ({"lr": True}, "lr must be a finite number >= 0, got True"),
        ({"betas": 0.9}, r"betas must be two numbers in \[0, 1\), got 0.9"),
        ({"maximize": True}, "cbp.Adam minimises, got maximize=True"),
        ({"lr": math.nan}, "lr must be a finite number >= 0, got nan"),
    ],
)
def test_options_of_a_group_are_checked_too(options, words):
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=words):
        cbp.Adam([{"params": [weight], **options}])
    optimizer, saved = cbp.Adam([weight]), cbp.Adam([weight]).state_dict()
    saved["param_groups"][0].update(options)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == cbp.Adam([weight]).state_dict()["param_groups"]


def test_counts_that_were_looked_up_are_looked_up_anew_where_betas_change():
    model = chain(3, 8, 2)
    twin = copy.deepcopy(model)
    ours = cbp.Adam(model.parameters(), betas=(0.9, 0.9), lr=0.01)
    theirs = torch.optim.Adam(twin.parameters(), betas=(0.9, 0.9), lr=0.01)
    problem = Problem(3, 2)

    def learn_both(updates):
        for _ in range(updates):
            x, y = problem()
            learn(model, ours, x, y)
            learn(twin, theirs, x, y)

    learn_both(400)  # 1 − 0.9^t is 1 for half of them
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))  # after which counts are looked up
    learn_both(1)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    learn_both(20)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
