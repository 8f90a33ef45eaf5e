"""Named settings of the supervised problems: networks, optimizers, step sizes and methods.

Each value is marked with its origin. *paper*: Dohare et al., Nature 632 (2024). *published code*: the configurations published
with it, where the paper tries several values or is silent; *grid* is one of several values tried there. *ours*: chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

AtTask = Literal["keep", "zero_head", "fresh_head", "fresh_network"]


@dataclass(frozen=True)
class Settings:
    """Network, optimizer and how a task is learned.

    Attributes:
        network: ``"mlp"``, ``"conv"``, ``"resnet"`` or ``"linear"``; see :mod:`agents.supervised.networks`.
        net_arch: Units of the hidden layers of an MLP or a convolutional network; channels of the stages of a ResNet.
        activation: Of an MLP's hidden layers.
        learning_rate: Step size of stochastic gradient descent.
        momentum: Of stochastic gradient descent.
        weight_decay: Coupled L2 penalty on every parameter.
        batch_size: Examples per update.
        epochs: Passes over the training examples of a task.
        lr_drops: Shares of a task's epochs after which the step size is multiplied by ``lr_drop_factor``.
        lr_drop_factor: See there.
        at_task: What becomes of the network at each task but the first: nothing (``"keep"``), the head's weights become zero
            (at the first one too), the head is drawn anew, or the whole network and its optimizer are.
        restore_best: Whether a task ends with the weights of the epoch that was best on its validation examples.
        augment: Whether images of a minibatch are augmented.
    """

    network: Literal["mlp", "conv", "resnet", "linear"] = "mlp"
    net_arch: tuple[int, ...] = ()
    activation: str = "relu"
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 1
    epochs: int = 1
    lr_drops: tuple[float, ...] = ()
    lr_drop_factor: float = 0.2
    at_task: AtTask = "keep"
    restore_best: bool = False
    augment: bool = False


@dataclass(frozen=True)
class Method:
    """A name for ``--method``.

    Attributes:
        method: The method that acts around each update, one of :data:`cbp.METHODS`; None for none.
        method_kwargs: Its keyword arguments.
        changes: Values of :class:`Settings` that differ from the problem's.
    """

    method: str | None = None
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A problem with its data.

    Attributes:
        tasks: How many.
        examples: Of a task, where the stream is one of single examples.
        settings: Of every method, where it changes nothing.
        methods: The methods that apply.
        stream: Further keyword arguments of the stream.
    """

    tasks: int
    examples: int | None
    settings: Settings
    methods: Mapping[str, Method]
    stream: dict[str, Any] = field(default_factory=dict)


def _cbp(rate: float, maturity: int, utility: str, init: str, rounding: str) -> Method:
    kwargs = {
        "replacement_rate": rate,
        "maturity_threshold": maturity,
        "decay_rate": 0.99,  # paper
        "utility": utility,
        "rounding": rounding,
        "reset_optimizer": "none",  # published code
        "init": init,
    }
    return Method("cbp", kwargs)


def _perturb(sigma: float, changes: dict[str, Any]) -> Method:
    # paper: at every update; the weight decay shrinks
    return Method("shrink-perturb", {"shrink": 1.0, "perturb": sigma, "period": 1, "noise": "normal"}, changes)


def _redo(period: int, changes: dict[str, Any] | None = None) -> Method:
    # ours: no published setting for these problems; the threshold is that of PPO on Ant in the published code
    return Method("redo", {"threshold": 0.1, "period": period, "reset_optimizer": "moments", "init": "auto"}, changes or {})


def _l2_init(strength: float, changes: dict[str, Any] | None = None) -> Method:
    return Method("l2-init", {"strength": strength}, changes or {})  # ours: half the weight decay of l2, pulls as strongly


_REGRESSION = Preset(
    tasks=300,  # paper: 3 million examples
    examples=10_000,  # paper
    settings=Settings(net_arch=(5,), learning_rate=0.01),  # paper, grid
    methods={
        "backprop": Method(),
        "l2": Method(changes={"weight_decay": 1e-3}),  # published code, grid
        "shrink-perturb": _perturb(1e-3, {"weight_decay": 1e-3}),  # published code, grid; the weight decay ours
        "l2-init": _l2_init(5e-4),
        "cbp": _cbp(1e-4, 100, "adaptable_contribution", "kaiming", "stochastic"),  # published code, grid
    },
    stream={"change": "flip"},  # paper
)

_MNIST = Preset(
    tasks=800,  # paper
    examples=60_000,  # paper
    settings=Settings(net_arch=(2000, 2000, 2000), learning_rate=0.003),  # paper
    methods={
        "backprop": Method(),
        "l2": Method(changes={"weight_decay": 1e-4}),  # published code, grid
        "shrink-perturb": _perturb(1e-5, {"weight_decay": 1e-4}),  # published code, grid
        "l2-init": _l2_init(5e-5),
        "cbp": _cbp(1e-5, 100, "adaptable_contribution", "kaiming", "counter"),  # published code, grid
    },
)

_PERMUTED_DIGITS = replace(
    _MNIST,
    tasks=200,  # ours
    examples=5_000,  # ours
    settings=Settings(net_arch=(100, 100, 100), learning_rate=0.01),  # ours: a network as small as the images
    methods={
        **_MNIST.methods,
        "cbp": _cbp(1e-4, 100, "adaptable_contribution", "kaiming", "stochastic"),  # published code, grid; the rounding ours
    },
)

_IMAGENET = Preset(
    tasks=5_000,  # published code
    examples=None,
    settings=Settings(
        network="conv",
        net_arch=(32, 64, 128, 128, 128),  # paper: three convolutions and two fully connected layers
        learning_rate=0.01,  # published code, grid
        momentum=0.9,  # paper
        batch_size=100,  # paper
        epochs=250,  # paper
        at_task="zero_head",  # paper
    ),
    methods={
        "backprop": Method(),
        "l2": Method(changes={"learning_rate": 0.03, "weight_decay": 3e-6}),  # published code
        "shrink-perturb": _perturb(1e-5, {"weight_decay": 1e-5}),  # published code
        "cbp": _cbp(3e-4, 100, "adaptable_contribution", "default", "counter"),  # published code
        "redo": _redo(100),
        "l2-init": _l2_init(1.5e-6),
        "linear": Method(changes={"network": "linear", "net_arch": ()}),  # paper
    },
    stream={"train": 600, "test": 100},  # paper
)

_BINARY_DIGITS = replace(
    _IMAGENET,
    tasks=500,  # ours
    settings=replace(
        _IMAGENET.settings,
        net_arch=(8, 16, 32, 32),  # ours: convolutions of 3×3, the images are 8×8
        batch_size=20,  # ours: ten updates an epoch
        epochs=20,  # ours
    ),
    methods={
        **_IMAGENET.methods,
        "cbp": _cbp(3e-4, 100, "adaptable_contribution", "default", "stochastic"),  # published code; the rounding ours
    },
    stream={"train": 100, "test": 70},  # ours: of some 178 images of each digit
)

_CIFAR = Preset(
    tasks=20,  # paper
    examples=None,
    settings=Settings(
        network="resnet",
        net_arch=(64, 128, 256, 512),  # paper: ResNet-18
        learning_rate=0.1,  # paper
        momentum=0.9,  # paper
        weight_decay=5e-4,  # paper
        batch_size=90,  # paper
        epochs=200,  # paper
        lr_drops=(0.3, 0.6, 0.8),  # paper: after 60, 120 and 160 epochs
        lr_drop_factor=0.2,  # paper
        restore_best=True,  # paper
        augment=True,  # paper
    ),
    methods={
        "backprop": Method(),  # paper: the base system, which has weight decay
        "shrink-perturb": _perturb(1e-5, {}),  # paper
        "cbp": _cbp(1e-5, 1000, "contribution", "kaiming", "counter"),  # paper
        "redo": _redo(1000),
        "l2-init": _l2_init(2.5e-4, {"weight_decay": 0.0}),
        "head-reset": Method(changes={"at_task": "fresh_head"}),  # paper
        "retrained": Method(changes={"at_task": "fresh_network"}),  # paper
        "linear": Method(changes={"network": "linear", "net_arch": ()}),  # ours: as for Continual ImageNet
    },
    stream={"classes_per_task": 5, "validation": 50},  # paper
)

_CIFAR10 = replace(_CIFAR, tasks=5, stream={"classes_per_task": 2, "validation": 500})  # ours: a tenth for validation, as above

_INCREMENTAL_DIGITS = replace(
    _CIFAR,
    tasks=5,  # ours
    settings=replace(
        _CIFAR.settings,
        net_arch=(16, 32),  # ours: two stages, the images are 8×8
        epochs=30,  # ours
    ),
    methods={
        **_CIFAR.methods,
        # ours: a hundredth of the updates, and a tenth of the channels
        "cbp": _cbp(1e-3, 100, "contribution", "kaiming", "stochastic"),
        "redo": _redo(100),  # ours: likewise
    },
    stream={"classes_per_task": 2, "validation": 20},  # ours
)

PROBLEMS: dict[str, dict[str, Preset]] = {
    "slowly-changing-regression": {"generated": _REGRESSION},
    "permuted-images": {"digits": _PERMUTED_DIGITS, "mnist": _MNIST},
    "continual-imagenet": {"digits": _BINARY_DIGITS, "imagenet32": _IMAGENET},
    "class-incremental-cifar": {"digits": _INCREMENTAL_DIGITS, "cifar100": _CIFAR, "cifar10": _CIFAR10},
}
"""Every problem with its data sets; the first one needs no ``--data``."""
