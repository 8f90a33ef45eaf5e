"""Measures of plasticity: pure functions of activations, weights, gradients and actions.

Activations ``h`` are those of one hidden layer, ``(samples, units)``, as the layer behind it receives them. Sources:

- *Dohare*: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024).
- *Sokar*: Sokar, Agarwal, Castro, Evci, *The dormant neuron phenomenon in deep reinforcement learning*, ICML 2023.
- *Roy*: Roy, Vetterli, *The effective rank: a measure of effective dimensionality*, EUSIPCO 2007.
- *Lyle*: Lyle, Rowland, Dabney, *Understanding and preventing capacity loss in reinforcement learning*, ICLR 2022.
- *Schaul*: Schaul, Barreto, Quan, Ostrovski, *The phenomenon of policy churn*, NeurIPS 2022.
- *Liu*: Liu, Wu, Obando-Ceron, Castro, Courville, Pan, *Measure gradients, not activations!*, NeurIPS 2025.
- *Jacot*: Jacot, Gabriel, Hongler, *Neural tangent kernel*, NeurIPS 2018.

Where a number is not finite, as in a run that has diverged, nothing is known of its layer: its measures are NaN.

What each is good for, and what it misses, is in ``docs/plasticity.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

DORMANT_FRACTION_ACTIVE = 0.01  # Dohare: a unit active on at most 1 % of the samples is dormant
TAU = 0.1  # the threshold of units to be recycled, as in cbp.ReDo
GRADIENT_TAU = 0.25  # the same: what LucMc/continual-learning found for ReGraMa on a slippery Ant
SATURATED_BEYOND = 0.9  # ours: beyond it a tanh unit's slope is below a fifth
STABLE_RANK_SHARE = 0.99  # Dohare: of the sum of the singular values
FEATURE_RANK_THRESHOLD = 0.01  # Lyle, section 3.2


def dormant_fraction(h: Tensor) -> float:
    """Fraction of ReLU units that are active (> 0) on at most 1 % of the samples (Dohare, methods).

    Args:
        h: Activations, ``(samples, units)``; the paper takes the last 1,000 steps of the current policy.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``h`` is no tensor of real numbers.
        ValueError: ``h`` is no matrix, or has no samples or no units.

    Example:
        >>> dormant_fraction(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        0.5
    """
    _check_activations(h)
    return _fraction_true_at_most(h > 0, DORMANT_FRACTION_ACTIVE) if _is_known(h) else math.nan


def dead_fraction(h: Tensor) -> float:
    """Fraction of ReLU units that are not active (> 0) on any sample (Dohare, who take 2,000 samples of a new task).

    Args:
        h: Activations, ``(samples, units)``. With fewer samples more units look dead.

    Returns:
        A number in [0, 1], never above :func:`dormant_fraction`.

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    _check_activations(h)
    return _fraction_true_at_most(h > 0, 0.0) if _is_known(h) else math.nan


def tau_dormant_fraction(h: Tensor, tau: float = TAU) -> float:
    """Fraction of units whose score, their mean activity in units of their layer's, is at most τ (Sokar, definition 3.1).

        s_i = E|h_i| / mean_k E|h_k|

    Meaningful for any activation. In a layer where nothing is active all units are dormant.

    Args:
        h: Activations, ``(samples, units)``.
        tau: τ ≥ 0. The default is that of ``cbp.ReDo``.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: As :func:`dormant_fraction`; or ``tau`` is negative.
    """
    _check_activations(h)
    if not tau >= 0:
        raise ValueError(f"tau must be >= 0, got {tau!r}")
    return _share_at_most(h.double().abs().mean(dim=0), tau)


def gradient_dormant_fraction(gradient: Tensor, tau: float = GRADIENT_TAU) -> float:
    """Fraction of units whose incoming weights receive hardly any gradient beside those of their layer (Liu: GraMa).

        s_i = mean_j|∂L/∂w_ij| / mean_k mean_j|∂L/∂w_kj| ≤ τ

    Meaningful for any activation. In a layer where no gradient arrives all units are dormant.

    Args:
        gradient: Of a layer's weight: ``(units, …)``.
        tau: τ ≥ 0. The default is what LucMc/continual-learning found for ReGraMa on a slippery Ant.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: ``gradient`` is no tensor of real numbers.
        ValueError: ``gradient`` has fewer than two dimensions or no elements; or ``tau`` is negative.

    Example:
        >>> gradient_dormant_fraction(torch.tensor([[0.1, 0.1], [-2.0, 1.0]]))
        0.5
    """
    _check_real("the gradient", gradient)
    if gradient.ndim < 2 or gradient.numel() == 0:
        raise ValueError(f"the gradient must be (units, …) with at least one unit, got shape {tuple(gradient.shape)}")
    if not tau >= 0:
        raise ValueError(f"tau must be >= 0, got {tau!r}")
    return _share_at_most(gradient.flatten(1).abs().mean(dim=1, dtype=torch.float64), tau)


def saturated_fraction(h: Tensor) -> float:
    """Fraction of tanh units that are saturated (``|h| > 0.9``) on at least 99 % of the samples.

    The counterpart of :func:`dormant_fraction` for bounded units: both hardly change with their input and hardly pass a
    gradient on. The threshold and the share are ours.

    Args:
        h: Activations in [−1, 1], ``(samples, units)``.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    _check_activations(h)
    return _fraction_true_at_most(h.abs() <= SATURATED_BEYOND, DORMANT_FRACTION_ACTIVE) if _is_known(h) else math.nan


def stable_rank(h: Tensor) -> float:
    """The paper's "stable rank": how many singular values make up 99 % of their sum.

    The least k with Σ_{i≤k} σ_i > 0.99 · Σ_i σ_i, the greatest first and none squared (Dohare, methods). Not to be confused
    with :func:`true_stable_rank`, which numerical analysis calls so.

    Args:
        h: Activations, ``(samples, units)``; the paper takes 1,000 samples of the policy's last hidden layer.

    Returns:
        A number from 0 (all activations are zero) to the number of units.

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    return _stable_rank(_singular_values(h))


def true_stable_rank(h: Tensor) -> float:
    """The stable rank of numerical analysis, ‖h‖²_F / ‖h‖²_2 = Σσ² / σ_1² (Rudelson and Vershynin, J. ACM 54, 2007).

    Args:
        h: Activations, ``(samples, units)``.

    Returns:
        A number from 1 to the rank; 0 where all activations are zero.

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    return _true_stable_rank(_singular_values(h))


def effective_rank(h: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values: exp(−Σ p_i ln p_i) with p = σ/Σσ (Roy, equation 4).

    Args:
        h: Activations, ``(samples, units)``.

    Returns:
        A number from 1 to the rank; 0 where all activations are zero.

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    return _effective_rank(_singular_values(h))


def feature_rank(h: Tensor) -> float:
    """How many singular values of h/√samples exceed 0.01 (Lyle, section 3.2).

    Unlike the other ranks it depends on the scale of the activations.

    Args:
        h: Activations, ``(samples, units)``.

    Returns:
        A number from 0 to the number of units.

    Raises:
        ValueError: As :func:`dormant_fraction`.
    """
    return _feature_rank(_singular_values(h), h.shape[0])


def ranks(h: Tensor) -> dict[str, float]:
    """All four ranks of one decomposition, by the names of their functions.

    Example:
        >>> ranks(torch.eye(4))
        {'stable_rank': 4, 'true_stable_rank': 4.0, 'effective_rank': 4.0, 'feature_rank': 4}
    """
    sigma = _singular_values(h)
    return {
        "stable_rank": _stable_rank(sigma),
        "true_stable_rank": _true_stable_rank(sigma),
        "effective_rank": _effective_rank(sigma),
        "feature_rank": _feature_rank(sigma, h.shape[0]),
    }


@torch.inference_mode(mode=False)
@torch.enable_grad()
def neural_tangent_kernel(network: nn.Module, x: Tensor) -> Tensor:
    """The empirical neural tangent kernel of a network on some samples (Jacot), summed over its outputs.

        K_ij = Σ_o ⟨∂f_o(x_i)/∂θ, ∂f_o(x_j)/∂θ⟩

    θ are the weights and biases of the network's Linear layers; others (of norms, convolutions) do not count. The gradients of
    single samples are never made: that of a weight is the outer product of the gradient δ by what its layer gives and of what
    the layer receives, a, so that a layer adds (Σ_o δ_o,i·δ_o,j)·(a_i·a_j + 1), the 1 for its bias. The network is in
    evaluation mode meanwhile, so that samples do not meet in a norm, and is not changed.

    Args:
        network: A module that takes ``x``, treats each sample by itself and calls each of its Linear layers once.
        x: Samples, ``(samples, inputs)``. Memory and time grow with their square.

    Returns:
        ``(samples, samples)``, symmetric and positive semidefinite.

    Raises:
        TypeError: ``x`` is no tensor of real numbers.
        ValueError: The network has no Linear layer, or one that it does not call, calls more than once or with anything but
            ``(samples, inputs)``, one whose ``forward`` or hooks do more than that of torch, or one that shares its weight;
            its output is not a tensor ``(samples, outputs)``.

    Example:
        >>> neural_tangent_kernel(nn.Linear(2, 1), torch.tensor([[1.0, 0.0], [2.0, 3.0]])).tolist()
        [[2.0, 3.0], [3.0, 14.0]]
    """
    _check_real("x", x)
    received: dict[nn.Linear, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Linear)  # noqa: S101
        a = args[0] if args else kwargs["input"]
        if module in received or a.ndim != 2:
            raise ValueError(f"each Linear layer must be called once, on (samples, inputs): {module}")
        plain = nn.functional.linear(a, module.weight, module.bias).detach()
        if bool(((output - plain).abs() > 1e-3 * plain.abs().amax()).any()):  # not where a network has diverged to NaN
            raise ValueError(f"each Linear layer must give its weight times what it receives, plus its bias: {module}")
        if not output.requires_grad:  # of frozen layers
            output.requires_grad_()
        received[module] = a.detach().clone(), output
        return output.clone()  # what follows may change it in place

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with ExitStack() as hooks, _evaluating(network):
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(keep, with_kwargs=True))
        outputs = network(x.detach().clone())
    if not received or not isinstance(outputs, Tensor) or outputs.ndim != 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"the network must have Linear layers and give a tensor (samples, outputs), got {got}")
    if len(received) < len(layers) or len({id(layer.weight) for layer in layers}) < len(layers):
        raise ValueError(
            "each Linear layer must be called, with a weight of its own: attention, for one, calls only a part of its"
        )
    if other := next((layer for layer, (a, _) in received.items() if len(a) != len(x)), None):
        raise ValueError(f"each Linear layer must be called on all {len(x)} samples alike: {other}")
    given = [output for _, output in received.values()]
    columns = outputs.sum(dim=0)
    last = len(columns) - 1
    deltas = [
        torch.autograd.grad(columns[o], given, retain_graph=o < last, materialize_grads=True) for o in range(len(columns))
    ]
    wide = torch.promote_types(outputs.dtype, torch.float32)  # in which products do not overflow
    kernel = torch.zeros(len(x), len(x), dtype=wide, device=outputs.device)
    for (layer, (a, _)), of_outputs in zip(received.items(), zip(*deltas, strict=True), strict=True):
        delta, a = torch.cat(of_outputs, dim=1).to(wide), a.to(wide)
        kernel += ((delta @ delta.T) * (a @ a.T + float(layer.bias is not None))).to(kernel.device)
    return kernel


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """All parts in evaluation mode, and afterwards as they were."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def ntk_effective_rank(network: nn.Module, x: Tensor) -> float:
    """The :func:`effective_rank` of the empirical neural tangent kernel: in how many directions samples can be told apart.

    Args:
        network: As for :func:`neural_tangent_kernel`.
        x: As there.

    Returns:
        A number from 1 to the number of samples; 0 where no weight has an effect.

    Raises:
        ValueError: As there.
    """
    return effective_rank(neural_tangent_kernel(network, x))


def weight_magnitude(weight: Tensor) -> float:
    """Mean of ``|w|`` over all elements (Dohare)."""
    return torch.mean(weight.detach().abs()).item()


def gradient_norm(weights: Iterable[Tensor]) -> float | None:
    """Euclidean norm of the gradients that some weights hold, all together.

    Args:
        weights: Parameters. Those without a gradient do not count.

    Returns:
        The norm; None where none of them has a gradient.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return _norm(gradients) if gradients else None


def weight_distance(weights: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Euclidean distance of some weights from others, such as those at the start, or before the updates of a rollout.

    Args:
        weights: Tensors.
        reference: As many tensors of the same shapes.

    Raises:
        ValueError: There are none, or the numbers or the shapes of tensors differ.
    """
    differences = []
    for weight, other in zip(weights, reference, strict=True):
        if weight.shape != other.shape:
            raise ValueError(f"weights of shape {tuple(weight.shape)} have no distance from {tuple(other.shape)}")
        wide = torch.promote_types(weight.dtype, torch.float64)
        differences.append(weight.detach().to(wide) - other.to(weight.device, wide))
    if not differences:
        raise ValueError("there are no weights whose distance could be measured: an iterator gives its own only once")
    return _norm(differences)


def policy_churn(before: Tensor, after: Tensor) -> float:
    """How much the greedy actions on the same states changed.

    Discrete actions: the fraction of states whose action is another (Schaul, equation 1). Continuous actions, for which there
    is no such fraction: the mean Euclidean distance between the two actions of a state.

    Args:
        before: Actions, ``(states,)`` or ``(states, dimensions)``; those of integer tensors are discrete.
        after: The actions after some updates, in the same order.

    Raises:
        TypeError: They are no tensors of real numbers.
        ValueError: Shapes or kinds differ, or there are no states.

    Example:
        >>> policy_churn(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0]))
        0.25
    """
    _check_real("actions", before)
    _check_real("actions", after)
    if before.shape != after.shape or before.dtype != after.dtype or before.ndim == 0 or len(before) == 0:
        received = f"{tuple(before.shape)} {before.dtype} and {tuple(after.shape)} {after.dtype}"
        raise ValueError(f"actions must be of the same states, at least one, and of one kind, got {received}")
    before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
    if before.is_floating_point():
        distances: Tensor = torch.linalg.vector_norm(after.double() - before.double(), dim=1)
        return distances.mean().item()
    return (before != after).any(dim=1).double().mean().item()


def _fraction_true_at_most(on_samples: Tensor, share: float) -> float:
    """Fraction of columns that are true in at most this share of the rows."""
    return (on_samples.count_nonzero(dim=0).double() / len(on_samples) <= share).double().mean().item()


def _share_at_most(scores: Tensor, tau: float) -> float:
    """Fraction of units whose score is at most τ of the mean."""
    return (scores <= tau * scores.mean()).double().mean().item() if _is_known(scores) else math.nan


def _is_known(numbers: Tensor) -> bool:
    """Whether all are finite."""
    return bool(numbers.sum(dtype=torch.float64).isfinite()) or bool(numbers.isfinite().all())


_LARGE = 1e4  # beyond it the error of small singular values, 1e-8 of the greatest, comes near the threshold of feature_rank


def _singular_values(h: Tensor) -> Tensor:
    """The greatest first; NaN where an activation is not finite."""
    _check_activations(h)
    h = h.double()
    if not _is_known(h):
        return h.new_full((min(h.shape),), math.nan)
    # By a power of two, which rounds nothing, so that squares are neither infinite nor 0.
    scale = h.abs().max().clamp_min(torch.finfo(h.dtype).tiny).log2().floor().exp2()
    h = h / scale
    if scale > _LARGE:
        exact: Tensor = torch.linalg.svdvals(h)
        return exact * scale
    # The eigenvalues of hᵀh are the squared singular values; for 1,000 × 256 in a fifth of the time.
    squares: Tensor = torch.linalg.eigvalsh(h.T @ h if h.shape[0] > h.shape[1] else h @ h.T).clamp_min(0)
    return squares.sqrt().flip(0) * scale


def _stable_rank(sigma: Tensor) -> float:
    if not sigma[0] > 0:
        return math.nan if sigma[0].isnan() else 0
    share = sigma.cumsum(0) / sigma.sum()
    return int((share <= STABLE_RANK_SHARE).sum()) + 1


def _true_stable_rank(sigma: Tensor) -> float:
    return 0.0 if sigma[0] == 0 else (sigma / sigma[0]).square().sum().item()


def _effective_rank(sigma: Tensor) -> float:
    if sigma[0] == 0:
        return 0.0
    entropy: Tensor = torch.special.entr(sigma / sigma.sum()).sum()
    return entropy.exp().item()


def _feature_rank(sigma: Tensor, samples: int) -> float:
    return math.nan if sigma[0].isnan() else int((sigma / samples**0.5 > FEATURE_RANK_THRESHOLD).sum())


def _norm(tensors: list[Tensor]) -> float:
    return torch.stack([tensor.abs().double().square().sum().to(tensors[0].device) for tensor in tensors]).sum().sqrt().item()


def _check_real(what: str, numbers: object) -> None:
    if not isinstance(numbers, Tensor) or numbers.is_complex():
        got = f"one of {numbers.dtype}" if isinstance(numbers, Tensor) else f"a {type(numbers).__name__}"
        raise TypeError(f"{what} must be a tensor of real numbers, got {got}")


def _check_activations(h: Tensor) -> None:
    _check_real("activations", h)
    if h.ndim != 2 or 0 in h.shape:
        raise ValueError(
            f"activations must be (samples, units) with at least one sample and one unit, got shape {tuple(h.shape)}"
        )
