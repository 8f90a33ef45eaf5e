"""Tests of the networks and the learner of the problems that learn by minibatches."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cbp
from agents.runs import checkpoint_files
from agents.runs.errors import UserError
from agents.supervised.networks import ResNet, head_of, make_network
from agents.supervised.presets import PROBLEMS, Settings
from agents.supervised.task_learner import TaskLearner
from envs.streams import BinaryTasks, ClassIncremental
from envs.streams.augmentation import flip_crop_rotate
from envs.streams.datasets import ImageClasses, Images

CONV = Settings(
    network="conv", net_arch=(4, 6, 8), learning_rate=0.05, momentum=0.9, batch_size=5, epochs=2, at_task="zero_head"
)
RESNET = Settings(
    network="resnet",
    net_arch=(4, 6),
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    batch_size=6,
    epochs=3,
    lr_drops=(0.3, 0.6),
    restore_best=True,
)


def images(classes: int, number: int, size: int = 8, channels: int = 1) -> Images:
    """Random images, each class around an image of its own."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 200, (classes, channels, size, size))
    labels = np.repeat(np.arange(classes), number)
    noisy = centres[labels] + rng.integers(0, 56, (len(labels), channels, size, size))
    return Images(noisy.astype(np.uint8), labels)


def binary(seed: int = 0) -> BinaryTasks:
    return BinaryTasks(ImageClasses.of(images(4, 20)), seed, train=12, test=8)


def incremental(seed: int = 0) -> ClassIncremental:
    return ClassIncremental(images(4, 12), images(4, 6), seed, classes_per_task=2, validation=3)


def learner(settings: Settings, method: str | None = None, kwargs=None, stream=None, tasks: int = 2) -> TaskLearner:
    outputs = 2 if settings.network != "resnet" else 4
    if stream is None:
        stream = incremental() if settings.network == "resnet" else binary()
    return TaskLearner(stream, tasks, outputs, settings, method, kwargs or {}, 3, "cpu", flip_crop_rotate)


def finish(one: TaskLearner) -> list[dict[str, float]]:
    rows = []
    while one.done < one.total:
        rows += one.advance() or []
    return rows


def test_the_residual_network_is_a_resnet_18():
    # 3x3 first convolution, four stages of two basic blocks: 11,173,962 parameters with ten outputs, as is widely known.
    network = ResNet(3, (64, 128, 256, 512), 10)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_residual_network_written_out():
    network = ResNet(1, (4, 6), 3).eval()
    weights = network.state_dict()

    def conv(x, name, norm, stride=1):
        kernel = weights[f"{name}.weight"]
        mean, var, scale, shift = (weights[f"{norm}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2), mean, var, scale, shift)

    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = conv(images, "conv", "norm").relu()
    for stage, block, stride in ((0, 0, 1), (0, 1, 1), (1, 0, 2), (1, 1, 1)):
        place = f"stages.{stage}.{block}"
        inner = conv(conv(x, f"{place}.conv1", f"{place}.norm1", stride).relu(), f"{place}.conv2", f"{place}.norm2")
        x = (inner + (x if stride == 1 else conv(x, f"{place}.shortcut.0", f"{place}.shortcut.1", 2))).relu()
    assert x.shape == (2, 6, 4, 4)
    expected = x.mean(dim=(2, 3)) @ weights["head.weight"].T + weights["head.bias"]
    assert torch.allclose(network(images), expected, atol=1e-5)


def test_the_convolutional_network_is_that_of_the_paper():
    network = make_network(PROBLEMS["continual-imagenet"]["imagenet32"].settings, (3, 32, 32), 2, 0)
    # 32 -> 28 -> 14 -> 12 -> 6 -> 4 -> 2: 128 channels of 2x2 are 512 inputs.
    sizes = [(3 * 25 + 1) * 32, (32 * 9 + 1) * 64, (64 * 9 + 1) * 128, 513 * 128, 129 * 128, 129 * 2]
    assert sum(p.numel() for p in network.parameters()) == sum(sizes)
    assert len(cbp.find_layers(network)) == 5


def test_weights_come_from_the_seed_and_the_global_generator_stays():
    before = torch.get_rng_state()
    first, again, other = (make_network(CONV, (1, 8, 8), 2, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_widths_that_make_no_network_are_refused():
    with pytest.raises(UserError, match=r"more convolutions than images of 8×8 can be halved"):
        make_network(replace(CONV, net_arch=(4, 4, 4, 4, 4)), (1, 8, 8), 2, 0)
    with pytest.raises(UserError, match="single examples"):
        make_network(Settings(net_arch=(4,)), (1, 8, 8), 2, 0)


METHODS = {
    "backprop": (CONV, None, {}),
    "cbp": (CONV, "cbp", {"replacement_rate": 0.1, "maturity_threshold": 2, "utility": "adaptable_contribution"}),
    "redo": (CONV, "redo", {"period": 3}),
    "shrink-perturb": (CONV, "shrink-perturb", {"perturb": 1e-3}),
    "l2-init": (CONV, "l2-init", {"strength": 1e-2}),
    "fire": (CONV, "fire", {}),
    "regrama": (CONV, "regrama", {"period": 3}),
    "linear": (replace(CONV, network="linear", net_arch=()), None, {}),
    "resnet": (replace(RESNET, augment=True), "cbp", {"replacement_rate": 0.1, "maturity_threshold": 2}),
    "retrained": (replace(RESNET, at_task="fresh_network"), "redo", {"period": 2}),
    "head-reset": (replace(RESNET, at_task="fresh_head"), None, {}),
}


@pytest.mark.parametrize("name", ["backprop", "cbp", "redo", "shrink-perturb", "l2-init", "fire", "regrama"])
def test_learning_is_the_plain_loop(name):
    settings, method, kwargs = METHODS[name]
    one = learner(settings, method, kwargs)
    network = make_network(CONV, (1, 8, 8), 2, seed=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    with torch.no_grad():
        network[-1].weight.zero_()
        network[-1].bias.zero_()
    seed = {} if method in (None, "l2-init", "fire") else {"seed": 3}
    acting = cbp.METHODS[method](network, optimizer, **kwargs, **seed) if method else None
    orders = np.random.default_rng(np.random.SeedSequence(3).spawn(2)[0])
    rows = finish(one)
    for number, task in zip(range(2), binary(), strict=False):
        if acting and number:
            acting.change()
        with torch.no_grad():
            network[-1].weight.zero_()
            network[-1].bias.zero_()
        x, y = torch.from_numpy(task.inputs), torch.from_numpy(task.labels)
        for _ in range(2):
            order = orders.permutation(24)
            right = 0
            for first in (0, 5, 10, 15, 20):  # 24 examples by fives
                chosen = order[first : first + 5]
                outputs = network(x[chosen])
                right += int((outputs.argmax(1) == y[chosen]).sum())
                optimizer.zero_grad()
                F.cross_entropy(outputs, y[chosen]).backward()
                if acting:
                    acting.before_update()
                optimizer.step()
                if acting:
                    acting.step()
        with torch.no_grad():
            tested = network(torch.from_numpy(task.test_inputs)).argmax(1).numpy()
        assert rows[number]["task/number"] == number
        assert rows[number]["task/train_accuracy"] == right / 24
        assert rows[number]["task/accuracy"] == (tested == task.test_labels).mean()
    for own, expected in zip(one.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not(name):
    settings, method, kwargs = METHODS[name]
    whole = learner(settings, method, kwargs)
    expected = finish(whole)
    rows, one = [], learner(settings, method, kwargs)
    stops = 0
    while one.done < one.total:
        rows += one.advance() or []
        stream = io.BytesIO()
        torch.save(checkpoint_files.to_tensors(one.state_dict(0)), stream)
        stream.seek(0)
        one = learner(settings, method, kwargs)
        one.load_state_dict(0, torch.load(stream, weights_only=True))
        stops += 1
    assert stops >= 4
    assert rows == expected
    for own, other in zip(one.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    if method == "cbp":
        assert expected[-1]["cbp/network/replaced"] > 0


def test_outputs_of_classes_that_have_not_come_neither_learn_nor_answer():
    one = learner(replace(RESNET, weight_decay=0.0))
    head = one.network.head
    before = head.weight.detach().clone()
    with torch.no_grad():
        head.bias[2:] = 100.0  # the largest outputs by far
    while one.tasks == 0:
        row = one.advance()
    assert torch.equal(head.weight[2:], before[2:])
    assert (head.bias[2:] == 100).all()
    assert not torch.equal(head.weight[:2], before[:2])
    assert row[0]["task/accuracy"] > 0
    assert row[0]["task/validation_accuracy"] > 0


@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
@pytest.mark.parametrize("at_task", ["fresh_head", "fresh_network"])
def test_the_first_task_is_learned_by_the_network_that_is_there(at_task):
    kept, fresh = (finish(learner(replace(RESNET, at_task=name))) for name in ("keep", at_task))
    assert kept[0] == fresh[0]
    assert kept[1] != fresh[1]


def test_the_step_size_drops_within_each_task():
    one = learner(RESNET)
    seen = []
    one.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append((one.done, optimizer.param_groups[0]["lr"])))
    finish(one)
    # Three epochs: drops after round(0.9) = 1 and round(1.8) = 2 of them, then the next task begins again.
    by_epoch = dict(seen)
    assert [by_epoch[k] for k in range(6)] == pytest.approx([0.05, 0.01, 0.002] * 2)


def test_a_task_ends_with_the_weights_that_were_best_in_validation():
    settings = replace(RESNET, learning_rate=1.5, epochs=6, lr_drops=())
    task = next(incremental())
    accuracies, networks = [], []
    for epochs in range(1, 7):  # the same run, stopped after each epoch
        one = learner(replace(settings, epochs=epochs, restore_best=False), tasks=1)
        finish(one)
        network = copy.deepcopy(one.network).eval()
        with torch.no_grad():
            chosen = network(torch.from_numpy(task.validation_inputs))[:, :2].argmax(1).numpy()
        accuracies.append((chosen == task.validation_labels).mean())
        networks.append(network.state_dict())
    best = int(np.argmax(accuracies))  # the first of the best
    assert best < 5
    one = learner(settings, tasks=1)
    (row,) = finish(one)
    assert row["task/validation_accuracy"] == accuracies[best]
    assert all(torch.equal(value, one.network.state_dict()[name]) for name, value in networks[best].items())


def test_what_becomes_of_the_network_at_a_new_task():
    def at_second_task(settings: Settings) -> tuple[TaskLearner, nn.Module]:
        one = learner(settings)
        while one.tasks == 0:
            one.advance()
        before = copy.deepcopy(one.network)
        one._next_task()
        return one, before

    zero, _ = at_second_task(CONV)
    assert not head_of(zero.network).weight.any()
    assert not head_of(zero.network).bias.any()
    assert zero.network[0].weight.any()

    plain = replace(RESNET, restore_best=False)
    head, before = at_second_task(replace(plain, at_task="fresh_head"))
    assert not torch.equal(head.network.head.weight, before.head.weight)
    assert not head.network.head.bias.any()
    assert torch.equal(head.network.conv.weight, before.conv.weight)
    network, _ = at_second_task(replace(plain, at_task="fresh_network"))
    assert (network.network.norm.weight == 1).all()
    assert not network.optimizer.state
    assert not torch.equal(network.network.conv.weight, learner(plain).network.conv.weight)


def test_dormant_channels_are_counted_over_positions():
    one = learner(CONV)
    with torch.no_grad():
        one.network[0].weight.zero_()
        one.network[0].bias[:] = torch.tensor([-1.0, 1.0, -1.0, -1.0])  # three of four channels are never active
    row = one._measures()
    assert row["plasticity/network/0/dormant_fraction"] == 0.75
    assert row["plasticity/network/weights/weight_magnitude"] == pytest.approx(
        torch.cat([p.abs().flatten() for p in one.network.parameters() if p.ndim > 1]).mean().item()
    )


def test_a_network_that_diverges_goes_on_without_measures_and_without_a_score():
    rows = finish(learner(replace(CONV, learning_rate=1e30)))
    assert [row["task/number"] for row in rows] == [0, 1]
    for name in ("plasticity/network/features/stable_rank", "plasticity/network/0/dormant_fraction"):
        assert math.isnan(rows[-1][name])
    for name in ("task/accuracy", "task/train_accuracy"):
        assert math.isnan(rows[-1][name])


def test_a_task_in_which_the_network_diverges_ends_with_the_weights_of_the_best_epoch_before():
    one = learner(replace(RESNET, lr_drops=()), tasks=1)
    while one.done < 1:
        one.advance()
    with torch.no_grad():
        one.network.head.weight.fill_(math.nan)
    (row,) = finish(one)
    assert math.isnan(row["task/train_accuracy"])
    assert row["task/validation_accuracy"] > 0
    assert row["task/accuracy"] > 0


def test_the_pull_of_l2_init_is_towards_the_zero_that_the_head_begins_with():
    one = learner(CONV, "l2-init", {"strength": 0.1})
    first = one.method.state_dict()["initial"]
    for initial, parameter in zip(first, one.network.parameters(), strict=True):
        assert torch.equal(initial, parameter)
    assert not first[-2].any()
    finish(one)
    assert all(torch.equal(a, b) for a, b in zip(first, one.method.state_dict()["initial"], strict=True))


def test_a_fresh_network_is_not_told_of_the_task_that_it_has_never_not_learned(monkeypatch):
    told = []
    monkeypatch.setattr(cbp.Fire, "change", lambda method: told.append(method))
    finish(learner(replace(RESNET, at_task="fresh_network"), "fire"))
    assert told == []
    kept = learner(RESNET, "fire")
    finish(kept)
    assert told == [kept.method]


def test_the_row_of_a_task_is_told_before_the_next_task_is_drawn(monkeypatch):
    one = learner(CONV)

    def broken(*_):
        raise OSError("no such image")

    monkeypatch.setattr(BinaryTasks, "__next__", broken)
    rows = []
    while one.tasks == 0:
        rows += one.advance() or []
    assert [row["task/number"] for row in rows] == [0]
    with pytest.raises(OSError, match="no such image"):
        one.advance()


def test_a_checkpoint_that_holds_the_next_task_already_goes_on():
    settings, method, kwargs = METHODS["l2-init"]
    expected = finish(learner(settings, method, kwargs))
    first = learner(settings, method, kwargs)
    rows = []
    while first.tasks == 0:
        rows += first.advance() or []
    first._next_task()  # at a task's end, as it was written before tasks were drawn when they begin
    state = first.state_dict()
    second = learner(settings, method, kwargs)
    second.load_state_dict(0, {**state, "right": int(state["right"])})
    assert rows + finish(second) == expected


def test_units_are_measured_on_test_images_of_every_class(monkeypatch):
    one = learner(CONV, stream=BinaryTasks(ImageClasses.of(images(2, 620)), 0, train=12, test=600), tasks=1)
    seen = []
    monkeypatch.setattr(
        one, "_accuracy", lambda images, labels: seen.append((images, labels)) or one.network(torch.tensor(images))
    )
    one._measures()
    ((pictures, labels),) = seen
    assert (len(pictures), np.bincount(labels).tolist()) == (500, [250, 250])
    assert np.array_equal(pictures[:3], one._task.test_inputs[[0, 2, 4]])  # 0, 2.4 and 4.8 of 1,200, rounded down


@pytest.mark.parametrize("problem", ["continual-imagenet", "class-incremental-cifar"])
@pytest.mark.parametrize("method", ["hare-tortoise", "regrama"])
def test_no_preset_sets_weights_back_right_before_a_test(problem, method):
    for preset in PROBLEMS[problem].values():
        settings = preset.settings
        each = preset.stream.get("train", 0) * 2 or 450 * 5
        updates = settings.epochs * math.ceil(each / settings.batch_size)
        assert updates % preset.methods[method].method_kwargs["period"]


def test_the_test_of_hare_and_tortoise_comes_half_a_task_after_the_reset_or_more():
    preset = PROBLEMS["continual-imagenet"]["digits"]
    period = preset.methods["hare-tortoise"].method_kwargs["period"]
    assert min(200 * task % period for task in range(1, preset.tasks + 1)) >= 100  # 200 updates a task


def test_a_minibatch_of_one_image_is_refused_where_norms_see_one_position():
    deep = replace(RESNET, net_arch=(2, 2, 2, 2))  # 8×8, 4×4, 2×2, 1×1
    for batch_size in (1, 17):  # 18 images, and 36
        with pytest.raises(ValueError, match=rf"8×8 images shrink to one .* no minibatch of one, got {batch_size}$"):
            learner(replace(deep, batch_size=batch_size))
    finish(learner(replace(deep, batch_size=8, epochs=1)))
    finish(learner(replace(RESNET, batch_size=1, epochs=1)))
