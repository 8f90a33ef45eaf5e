"""ResNet-18 on CIFAR-100-format data and the paper's network on ImageNet-format data: every method, and exact resume."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from data_files import cifar100, idx, npy

from agents.runs import checkpoint_files
from agents.runs.commands import Parser, add_shared_options
from agents.supervised.build import make_learner
from agents.supervised.config import LearningConfig
from agents.supervised.options import add_learning_options, make_configs
from agents.supervised.presets import PROBLEMS
from envs.streams.augmentation import flip_crop_rotate

# So that each acts within a few updates, and none for long.
OFTEN = {
    "cbp": ["maturity_threshold=1", "replacement_rate=0.05"],
    "redo": ["period=2", "threshold=0.9"],
    "shrink-perturb": ["perturb=1e-3"],
    "l2-init": ["strength=1e-2"],
    "fire": ["iterations=3"],
}


def config(method: str, *options: object) -> LearningConfig:
    parser = Parser()
    add_learning_options(parser)
    add_shared_options(parser)
    arguments = [str(option) for option in options]
    for each in OFTEN.get(method, []):
        arguments += ["--set", each]
    (one,) = make_configs(parser.parse_args(arguments), [method], [0])
    return one


def reloaded(state):
    """A state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(checkpoint_files.to_tensors(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def going_on(one: LearningConfig, state):
    """A new learner with a state that another has saved."""
    learner = make_learner([one])
    learner.load_state_dict(0, reloaded(state))
    return learner


def check_resume(one: LearningConfig, stops: int):
    """Learns without a stop, then again by a new learner from each of the first stops on; returns the rows and the learner."""
    whole = make_learner([one])
    rows = list(whole.advance() or [])
    learner, seen = going_on(one, whole.state_dict(0)), list(rows)
    while whole.done < whole.total:
        rows += whole.advance() or []
    while learner.done < learner.total:
        seen += learner.advance() or []
        if stops > 1:
            learner, stops = going_on(one, learner.state_dict(0)), stops - 1
    assert seen == rows
    for own, other in zip(learner.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    return rows, whole


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    """Four classes, 2 training images and a test image of each."""
    folder = tmp_path_factory.mktemp("cifar")
    cifar100(folder, train=8, test=4, classes=4)
    return folder


@pytest.fixture(scope="module")
def imagenet_folder(tmp_path_factory):
    """Four classes of 30 images."""
    folder = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for label in range(4):
        (folder / f"{label}.npy").write_bytes(npy(rng.bytes(30 * 3072), (30, 3, 32, 32)))
    return folder


def test_images_of_mnist_are_shown_as_they_are(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(bytes(range(16)), 1, 4, 4))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(bytes([7]), 1))
    learner = make_learner([config("backprop", "--problem", "permuted-images", "--data", tmp_path, "--set", "net_arch=[2]")])
    inputs, labels = learner._learner._streams[0].draw(1)
    assert (sorted((255 * inputs[0]).round().tolist()), labels.tolist()) == (list(range(16)), [7])


@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=pytest.mark.slow if method == "cbp" else pytest.mark.soak)
        for method in PROBLEMS["class-incremental-cifar"]["cifar100"].methods
    ],
)
def test_resnet_18_learns_and_goes_on_with_every_method(cifar_folder, method):
    few = ["--set", "epochs=2", "--set", "batch_size=2", "--set", "validation=1", "--set", "classes_per_task=2"]
    one = config(method, "--problem", "class-incremental-cifar", "--data", cifar_folder, "--tasks", 2, *few)
    assert one.dataset == "cifar100"
    assert make_learner([one])._augment is flip_crop_rotate
    # After the first epoch; with these also at the end of its task and in the next task. They have 1 + 1 + 2 + 2 updates.
    rows, learner = check_resume(one, stops=3 if method in ("cbp", "redo") else 1)
    assert [row["task/number"] for row in rows] == [0, 1]
    if method == "linear":
        return
    # ResNet-18 with a stem of 3×3: four stages of two blocks; 4 outputs instead of 100.
    assert sum(p.numel() for p in learner.network.parameters()) == 11_170_884
    # The units within each block; those of all other layers are added to others.
    assert [(layer.name, layer.units) for layer in learner.layers] == [
        (f"stages.{stage}.{block}.conv1", 64 * 2**stage) for stage in range(4) for block in range(2)
    ]
    if method in ("cbp", "redo"):
        assert rows[1]["cbp/network/replaced"] > 0


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[] if method in ("backprop", "cbp", "redo", "fire") else pytest.mark.soak)
        for method in PROBLEMS["continual-imagenet"]["imagenet32"].methods
    ],
)
def test_the_network_for_continual_imagenet_learns_and_goes_on_with_every_method(imagenet_folder, method):
    few = ["--set", "train=22", "--set", "test=8", "--set", "epochs=2", "--set", "batch_size=2"]
    one = config(method, "--problem", "continual-imagenet", "--data", imagenet_folder, "--tasks", 2, *few)
    # After an update; with these also after two and at the next task, of 1 + 1 + 2 + 2.
    rows, learner = check_resume(one, stops=3 if method in ("cbp", "redo") else 1)
    assert [row["task/number"] for row in rows] == [0, 1]
    if method == "linear":
        return
    # 3·32·25 + 32, 32·64·9 + 64, 64·128·9 + 128; 2×2 positions of 128 channels to 128, to 128, to 2.
    sizes = (2_432, 18_496, 73_856, 512 * 128 + 128, 128 * 128 + 128, 2 * 128 + 2)
    assert sum(p.numel() for p in learner.network.parameters()) == sum(sizes)
    assert [layer.units for layer in learner.layers] == [32, 64, 128, 128, 128]
    if method in ("cbp", "redo"):
        assert rows[1]["cbp/network/replaced"] > 0
