"""Named settings of the supervised problems: networks, optimizers, step sizes and methods.

Each value is marked with its origin. *paper*: Dohare et al., Nature 632 (2024). *published code*: the configurations published
with it, where the paper tries several values or is silent; *grid* is one of several values tried there. *ours*: chosen here.
Of the field's other methods *authors* are a method's own, whose sources ``docs/methods.md`` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agents.runs.presets import MethodPreset

AtTask = Literal["keep", "zero_head", "fresh_head", "fresh_network"]


@dataclass(frozen=True)
class Settings:
    """Network, optimizer and how a task is learned.

    Attributes:
        network: ``"mlp"``, ``"conv"``, ``"resnet"`` or ``"linear"``; see :mod:`agents.supervised.networks`.
        net_arch: Units of the hidden layers of an MLP or a convolutional network; channels of the stages of a ResNet.
        activation: Of the hidden layers.
        layer_norm: Whether each hidden layer of an MLP has a norm in front of its activation.
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
    layer_norm: bool = False
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
    methods: Mapping[str, MethodPreset]
    stream: dict[str, Any] = field(default_factory=dict)


def _cbp(rate: float, maturity: int, utility: str, init: str, rounding: str) -> MethodPreset:
    kwargs = {
        "replacement_rate": rate,
        "maturity_threshold": maturity,
        "decay_rate": 0.99,  # paper
        "utility": utility,
        "rounding": rounding,
        "reset_optimizer": "none",  # published code
        "init": init,
    }
    return MethodPreset("cbp", kwargs)


def _perturb(sigma: float, changes: dict[str, Any]) -> MethodPreset:
    # paper: at every update; the weight decay shrinks
    return MethodPreset("shrink-perturb", {"shrink": 1.0, "perturb": sigma, "period": 1, "noise": "normal"}, changes)


def _redo(period: int) -> MethodPreset:
    # ours: no published setting for these problems; the threshold is that of PPO on Ant in the published code
    return MethodPreset("redo", {"threshold": 0.1, "period": period, "reset_optimizer": "moments", "init": "auto"})


def _l2_init(strength: float, changes: dict[str, Any] | None = None) -> MethodPreset:
    # ours, but for Continual ImageNet: half the weight decay of l2, which pulls as strongly
    return MethodPreset("l2-init", {"strength": strength}, changes or {})


def _soft(period: int) -> MethodPreset:
    # ours: a tenth of the way to a fresh network, once a task, and more often in tasks that have grown
    return MethodPreset("shrink-perturb", {"shrink": 0.9, "perturb": 0.1, "period": period, "noise": "fresh"})


def _snr(max_silence: int) -> MethodPreset:
    kwargs = {
        "rejection": 0.01,  # authors' code
        "max_silence": max_silence,  # ours: the examples of a task
        "min_silence": 100,  # authors' code
        "reset_optimizer": "moments",  # authors' code
        "init": "auto",  # ours: as the first weights
    }
    return MethodPreset("snr", kwargs)


def _regrama(period: int) -> MethodPreset:
    # the threshold of the implementation in LucMc/continual-learning; the period ours, near that of redo
    return MethodPreset("regrama", {"threshold": 0.01, "period": period, "reset_optimizer": "moments", "init": "auto"})


def _upgd(decay_rate: float, sigma: float, weight_decay: float) -> MethodPreset:
    return MethodPreset("upgd", {"decay_rate": decay_rate, "sigma": sigma, "weight_decay": weight_decay})


def _swr(decay_rate: float) -> MethodPreset:
    kwargs = {
        "factor": 1e-5,  # authors' code, for permuted MNIST
        "period": 2048,  # authors' code
        "utility": "gradient",  # authors' code
        "selection": "threshold",  # authors' code
        "decay_rate": decay_rate,
    }
    return MethodPreset("swr", kwargs)


def _hare_tortoise(period: int) -> MethodPreset:
    return MethodPreset("hare-tortoise", {"momentum": 0.999, "period": period})  # authors' code; the period ours


def _hare_tortoise_of_tasks(updates: int) -> MethodPreset:
    # ours: once in five tasks of so many updates, an update later each time, so that no test comes right after it; more
    # often where tasks grow
    return _hare_tortoise(5 * updates + 1)


def _spectral(strength: float) -> MethodPreset:
    # the strength ours: the weight decay of l2, at least 10⁻⁴; the exponent the authors'
    return MethodPreset("spectral", {"strength": strength, "exponent": 2})


_PARSEVAL = MethodPreset("parseval", {"strength": 1e-3, "scale": 2.0})  # authors' code
_FIRE = MethodPreset("fire", {"iterations": 10}, needs_signal=True)  # authors' code
_TRAC = MethodPreset(
    "trac",
    {
        "decay_rates": [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999],  # authors
        "first_scale": 1e-8,  # authors
        "eps": 1e-8,  # authors' code
    },
)
_RESET_ALL = MethodPreset(changes={"at_task": "fresh_network"}, needs_signal=True)  # ours: the control


def _online(
    l2: float, examples: int, shrink_perturb: MethodPreset, cbp: MethodPreset, crelu: dict[str, Any] | None = None
) -> dict[str, MethodPreset]:
    """Methods that learn example by example.

    Args:
        l2: Weight decay of ``l2``.
        examples: Of a task.
        shrink_perturb: ``shrink-perturb``.
        cbp: ``cbp``.
        crelu: What ``crelu`` changes beside the activation.
    """
    return {
        "backprop": MethodPreset(),
        "l2": MethodPreset(changes={"weight_decay": l2}),  # published code, grid
        "layer-norm": MethodPreset(changes={"layer_norm": True}),  # ours
        "shrink-perturb": shrink_perturb,
        "shrink-perturb-soft": _soft(examples),
        "l2-init": _l2_init(l2 / 2),
        "snr": _snr(examples),
        "redo": _redo(1000),  # by the last 1,000 examples, and so is regrama
        "regrama": _regrama(1000),
        "parseval": _PARSEVAL,
        "spectral": _spectral(l2),
        # authors' code, for input-permuted MNIST; without the factor 2 there, so that steps here are twice as large
        "upgd": _upgd(0.9999, 0.1, 0.01),
        "swr": _swr(decay_rate=0.99),  # ours: an average, for one example has no gradient in many weights
        "fire": _FIRE,
        "nap": MethodPreset("nap", changes={"layer_norm": True}),  # authors
        "hare-tortoise": _hare_tortoise(1000),
        "trac": _TRAC,
        "crelu": MethodPreset(changes={"activation": "crelu", **(crelu or {})}),  # authors
        "cbp": cbp,
        "reset-all": _RESET_ALL,
    }


_REGRESSION = Preset(
    tasks=300,  # paper: 3 million examples
    examples=10_000,  # paper
    settings=Settings(net_arch=(5,), learning_rate=0.01),  # paper, grid
    methods=_online(
        1e-3,
        10_000,
        shrink_perturb=_perturb(1e-3, {"weight_decay": 1e-3}),  # published code, grid; the weight decay ours
        crelu={"net_arch": (10,)},  # ours: five units, which give ten values
        cbp=_cbp(1e-4, 100, "adaptable_contribution", "kaiming", "stochastic"),  # published code, grid
    ),
    stream={"change": "flip"},  # paper
)

_MNIST = Preset(
    tasks=800,  # paper
    examples=60_000,  # paper
    settings=Settings(net_arch=(2000, 2000, 2000), learning_rate=0.003),  # paper
    methods=_online(
        1e-4,
        60_000,
        shrink_perturb=_perturb(1e-5, {"weight_decay": 1e-4}),  # published code, grid
        cbp=_cbp(1e-5, 100, "adaptable_contribution", "kaiming", "counter"),  # published code, grid
    ),
)

_PERMUTED_DIGITS = replace(
    _MNIST,
    tasks=200,  # ours
    examples=5_000,  # ours
    settings=Settings(net_arch=(100, 100, 100), learning_rate=0.01),  # ours: a network as small as the images
    methods=_online(
        1e-4,
        5_000,
        shrink_perturb=_MNIST.methods["shrink-perturb"],
        cbp=_cbp(1e-4, 100, "adaptable_contribution", "kaiming", "stochastic"),  # published code, grid; the rounding ours
    ),
)


def _of_minibatches(spectral: float, updates: int, regrama: int) -> dict[str, MethodPreset]:
    """Methods that learn by minibatches in any network.

    Args:
        spectral: Strength of ``spectral``.
        updates: Of a task, of the first one where they grow.
        regrama: Period of ``regrama``: near that of ``redo``, and no divisor of a task's updates, for a test right after units
            were reset would tell of the reset alone.
    """
    return {
        "shrink-perturb-soft": _soft(updates),
        "regrama": _regrama(regrama),
        "parseval": _PARSEVAL,
        "spectral": _spectral(spectral),
        "upgd": _upgd(0.999, 1e-3, 1e-3),  # authors' code
        "swr": _swr(decay_rate=0.0),  # authors' code
        "fire": _FIRE,
        "hare-tortoise": _hare_tortoise_of_tasks(updates),
    }


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
        "backprop": MethodPreset(),
        "l2": MethodPreset(changes={"learning_rate": 0.03, "weight_decay": 3e-6}),  # published code
        "shrink-perturb": _perturb(1e-5, {"weight_decay": 1e-5}),  # published code
        "cbp": _cbp(3e-4, 100, "adaptable_contribution", "default", "counter"),  # published code
        "redo": _redo(100),
        "l2-init": _l2_init(5e-4),  # the authors' code has 10⁻⁵ to 10⁻² here, and for weight decay 10⁻³: all of them our 2λ
        **_of_minibatches(1e-4, updates=3_000, regrama=97),  # 250 epochs of twelve minibatches
        "snr": _snr(20_000),
        "reset-all": _RESET_ALL,
        "linear": MethodPreset(changes={"network": "linear", "net_arch": ()}),  # paper
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
        "shrink-perturb-soft": _soft(200),  # a task's updates
        "hare-tortoise": _hare_tortoise_of_tasks(200),
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
        "backprop": MethodPreset(),  # paper: the base system, which has weight decay
        "shrink-perturb": _perturb(1e-5, {}),  # paper
        "cbp": _cbp(1e-5, 1000, "contribution", "kaiming", "counter"),  # paper
        "redo": _redo(1000),
        "l2-init": _l2_init(2.5e-4, {"weight_decay": 0.0}),
        **_of_minibatches(5e-4, updates=5_000, regrama=997),  # 200 epochs of 25 minibatches while there are five classes
        "upgd": _upgd(0.999, 1e-3, 0.0),  # authors' code; all methods here have weight decay
        "nap": MethodPreset("nap"),  # ours: the norms are those that the network has
        "head-reset": MethodPreset(changes={"at_task": "fresh_head"}, needs_signal=True),  # paper
        "retrained": MethodPreset(changes={"at_task": "fresh_network"}, needs_signal=True),  # paper
        "linear": MethodPreset(changes={"network": "linear", "net_arch": ()}),  # ours: as for Continual ImageNet
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
        **{name: method for name, method in _of_minibatches(5e-4, updates=90, regrama=97).items() if name != "upgd"},
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
