"""Records the plasticity of an agent's networks while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import cbp
from agents.sb3.dashboard import layout, write_layout
from agents.sb3.gradient_hook import GradientHook
from agents.sb3.networks import hidden_layers, inputs, network_names, network_of, owners
from agents.sb3.passes import activations
from agents.sb3.phases import has_phases
from agents.sb3.plastic import methods_of, replaced_units
from agents.sb3.threads import one_thread_each
from cbp import metrics

EVERY = 16_384  # ours: together with the ranks 2 % of the time of agents.train (benchmarks/callbacks.py)
RANKS_EVERY = 32_768  # ours
KERNEL_SAMPLES = 64  # ours: of the probe batch, for the tangent kernel, whose rank then costs a tenth of one of activations
SAMPLES = 1000  # paper: dormant units are counted on the last 1,000 steps
_LONGEST = len("   /gradient_dormant_fraction")  # what is printed around a layer's name
_SILENT = ("csv", "stdout", "log", "json")  # outputs that take no histograms


class PlasticityCallback(BaseCallback):
    """Records how plastic the networks are: units, ranks, weights, and what a method does to them.

    Works on Stable-Baselines3's PPO, A2C, SAC, TD3, DDPG and DQN, and on sb3-contrib's algorithms but RecurrentPPO and ARS,
    with and without a method, on vectors, images and dictionaries of both. A channel of images is a unit: of its activity each
    position of each sample counts, and of ranks the mean over its positions. It draws no random number and changes nothing in
    the training. Each measure is a function of :mod:`cbp.metrics`; for each hidden layer it logs
    ``plasticity/<network>/<layer>/…``:

    - ``dormant_fraction`` and ``dead_fraction`` (ReLU), ``saturated_fraction`` (tanh), ``tau_dormant_fraction``;
    - ``stable_rank``, ``true_stable_rank``, ``effective_rank``, ``feature_rank``: rarer than the rest, because they cost more;
    - ``weight_magnitude``, ``distance_from_init`` (from the first call of ``learn``), and of the updates that follow the record
      ``weight_change``, ``gradient_norm`` and ``gradient_dormant_fraction``: of the layer's incoming weights, the gradient that
      of the last update, as the optimizer received it. The updates are those up to the next rollout; of SAC, TD3 and DQN those
      until every network has been updated, mostly one.

    What depends on states is measured twice: on the last 1,000 steps of the agent, and, with ``probe_`` before its name, on a
    batch of states that is fixed at the first record and stays the same for the whole run. ``plasticity/<network>/probe_churn``
    is how much the same updates changed the greedy actions on the probe batch,
    ``plasticity/<network>/probe_ntk_effective_rank`` the effective rank of the network's tangent kernel on 64 states of it, as
    rare as the other ranks.

    Layers are found anew where modules of the policy were exchanged; the updates between are then not measured.

    Where TensorBoard is written, it lays out a dashboard of these curves there, under *Custom scalars*.

    With a method that replaces units also ``cbp/<network>/<layer>/utility`` and ``…/age`` (histograms, TensorBoard only),
    ``…/mean_utility`` and ``…/mean_age`` (in updates), with continual backpropagation ``…/mature_fraction``; and for each
    network ``cbp/<network>/replaced``, the running total.

    The first record is made at the end of the first rollout with 1,000 steps of the agent before it: fewer samples would make
    ranks smaller and more units look dead. Random actions before ``learning_starts`` do not count.

    Args:
        every: Environment steps, over all environments, from one record to the next. Default ours: together with the ranks less
            than 2 % of the time of ``agents.train``.
        ranks_every: Environment steps from one record of the ranks to the next; they come with the next record.
        probe_path: Write the probe batch to this file (``.npz``) when it is fixed; an existing file is overwritten.

    Attributes:
        latest: What the last record measured, by name: ranks only where it was their turn; without ``weight_change``,
            ``gradient_norm``, ``gradient_dormant_fraction`` and ``probe_churn``, which follow.
        recorded_at: The step of the last record; None before the first.
        probe: The probe batch: ``"observations"``, an array ``(samples, …)`` or a dictionary of such, as the networks receive
            them, and ``"actions"`` for the critics of SAC and TD3, else None. None before the first record.

    Raises:
        ValueError: A number of steps below 1; at the start of training, or once its modules were exchanged, a policy without
            hidden layers.
        NotImplementedError: At the start of training, a recurrent policy, or one without an optimizer.
        cbp.LayerError: At the start of training, networks whose forward pass cannot be followed.

    Example:
        >>> from agents.callbacks import PlasticityCallback
        >>> from stable_baselines3 import PPO
        >>> callback = PlasticityCallback()
        >>> model = PPO("MlpPolicy", "Pendulum-v1", n_steps=1024, device="cpu").learn(1024, callback)
        >>> callback.latest["plasticity/policy/hidden2/stable_rank"] <= 64
        True
    """

    every_step = False

    def __init__(self, every: int = EVERY, ranks_every: int = RANKS_EVERY, probe_path: Path | str | None = None) -> None:
        super().__init__()
        for name, steps in (("every", every), ("ranks_every", ranks_every)):
            if not steps >= 1:
                raise ValueError(f"{name} must be >= 1 steps, got {steps!r}")
        self.latest: dict[str, float] = {}
        self.probe: dict[str, Any] | None = None
        self._every = every
        self._ranks_every = ranks_every
        self._probe_path = None if probe_path is None else Path(probe_path)
        self.recorded_at: int | None = None
        self._ranked_at: int | None = None
        self._policy: BasePolicy | None = None  # that was measured last
        self._seen = 0  # its steps
        self._modules: list[nn.Module] = []  # of the policy, when its layers were found
        self._layers: list[cbp.Group] = []
        self._window: deque[dict[str, Any]] = deque()  # of the last steps of all environments, as the probe
        self._initial: dict[str, Tensor] = {}
        self._before: tuple[list[Tensor], Tensor] | None = None  # weights and probed actions, while updates are watched
        self._gradients: dict[str, dict[str, float]] = {}  # measures of the gradient, by layer
        self._hooks: list[RemovableHandle] = []

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on between two rollouts: numbers and arrays."""
        weights, actions = self._before or ((), None)
        return {
            "recorded_at": self.recorded_at,
            "ranked_at": self._ranked_at,
            "initial": {name: weight.cpu().numpy() for name, weight in self._initial.items()},
            "probe": self.probe,
            "steps": len(self._window),
            "window": _joined(self._window) if self._window else None,
            "weights": [weight.cpu().numpy() for weight in weights],
            "actions": None if actions is None else actions.cpu().numpy(),
            "gradients": self._gradients,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        self._policy = None
        self.recorded_at, self._ranked_at = state["recorded_at"], state["ranked_at"]
        self._initial = {name: torch.from_numpy(weight) for name, weight in state["initial"].items()}
        self.probe = state["probe"]
        self._window = deque(_split(state["window"], state["steps"]))
        if state.get("weights"):  # which earlier states lack
            self._before = [torch.from_numpy(weight) for weight in state["weights"]], torch.from_numpy(state["actions"])
        self._gradients = state.get("gradients", {})

    def _on_training_start(self) -> None:
        model, policy = self.model, self.model.policy
        _check(policy)
        if self._probe_path is not None:
            self._probe_path.parent.mkdir(parents=True, exist_ok=True)
        if self._policy not in (None, policy) and self._seen != self.num_timesteps:  # another model, not one loaded to go on
            self._initial, self.probe, self._before = {}, None, None
            self._window.clear()
            self.recorded_at = self._ranked_at = None
        self._policy = policy
        self._find_layers()
        self._window = deque(self._window, maxlen=-(-SAMPLES // model.n_envs))
        self._judges_actions = "critic" in network_names(policy)
        self._in_buffer = isinstance(model, OnPolicyAlgorithm) and isinstance(model.observation_space, spaces.Box)
        self._stop_watching()  # what an earlier training that broke off left
        if self._before is not None:
            self._watch_gradients()
        names = dict.fromkeys(network_of(layer.name) for layer in self._layers)
        replaces = any(method.layers for method in methods_of(policy))
        write_layout(self.logger, layout(names, changes=has_phases(self.training_env), replaces=replaces))

    def _find_layers(self) -> None:
        """Finds the hidden layers, where modules are others than those that they were found in."""
        policy = self.model.policy
        modules = list(policy.modules())
        if modules != self._modules:
            if self._modules:  # what was kept is of other layers
                self._before = None
                self._stop_watching()
            self._layers, self._modules = hidden_layers(policy), modules
        if not self._layers:
            raise ValueError(f"the networks of this {type(policy).__name__} have no hidden layers to measure")
        for layer in self._layers:
            weight = layer.fresh[0].tensor.detach()
            known = self._initial.get(layer.name)
            if known is None or known.shape != weight.shape:  # of a layer that was exchanged
                self._initial[layer.name] = weight.clone()
        longest = max(len(layer.name) for layer in self._layers) + _LONGEST
        for output in self.logger.output_formats:
            if isinstance(output, HumanOutputFormat):  # which ends a run where two keys begin alike
                output.max_length = max(output.max_length, longest)

    def _watch_gradients(self) -> None:
        """Sees the gradients in the next updates of an off-policy algorithm."""
        # The critics' gradients are added to by the actor's loss; only their optimizer sees them as they were.
        for owner in owners(self.model.policy).values() if isinstance(self.model, OffPolicyAlgorithm) else ():
            held = {id(parameter) for group in owner.optimizer.param_groups for parameter in group["params"]}
            self._hooks.append(owner.optimizer.register_step_pre_hook(GradientHook(partial(self._keep_gradients, held))))

    def _on_training_end(self) -> None:
        self._stop_watching()

    def _stop_watching(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _on_step(self) -> bool:
        model = self.model
        if self._in_buffer:
            return True
        if not isinstance(model, OffPolicyAlgorithm) or model.num_timesteps > model.learning_starts:
            actions = self.locals["buffer_actions"] if self._judges_actions else None
            self._window.append(_map(np.copy, {"observations": model._last_obs, "actions": actions}))
        return True

    def _on_rollout_end(self) -> None:
        self._seen = self.num_timesteps
        if self._in_buffer:
            observations = self.model.rollout_buffer.observations  # type: ignore[attr-defined]
            self._window.extend({"observations": step, "actions": None} for step in observations[-SAMPLES:].copy())
        if len(self._window) * self.model.n_envs >= SAMPLES and self._is_due(self.recorded_at, self._every):
            with_ranks = self._is_due(self._ranked_at, self._ranks_every)
            self._record(with_ranks)
            self.recorded_at = self.num_timesteps
            self._ranked_at = self.num_timesteps if with_ranks else self._ranked_at

    def _is_due(self, last: int | None, every: int) -> bool:
        # A call of learn() may count its steps from 0 again.
        return last is None or not last < self.num_timesteps < last + every

    def _on_rollout_start(self) -> None:
        if self._before is not None:
            self._find_layers()
        if self._before is None:
            return
        if isinstance(self.model, OnPolicyAlgorithm):
            self._keep_gradients(None)
        elif len(self._gradients) < len(self._layers):
            return  # TD3 updates its actor at every other time only
        (weights, actions), self._before = self._before, None
        self._stop_watching()
        self._record_changes(weights, actions)

    @one_thread_each()
    def _record_changes(self, weights: list[Tensor], actions: Tensor) -> None:
        """What the updates since the last record changed, where the weights and the probed actions were these."""
        for layer, before in zip(self._layers, weights, strict=True):
            prefix = f"plasticity/{layer.name}"
            now = layer.fresh[0].tensor
            self.logger.record(f"{prefix}/weight_change", metrics.weight_distance([now], [before.to(now.device)]))
            for name, value in self._gradients.get(layer.name, {}).items():
                self.logger.record(f"{prefix}/{name}", value)
        policy_network = network_names(self.model.policy)[0]
        probed = self._probed_actions()
        churn = metrics.policy_churn(actions.to(probed.device), probed)
        self.logger.record(f"plasticity/{policy_network}/probe_churn", churn)

    def _keep_gradients(self, held: set[int] | None) -> None:
        """Measures the gradients of those layers whose weights an optimizer holds; of all without one."""
        for layer in self._layers:
            weight: Any = layer.fresh[0].tensor
            if held is None or id(weight) in held:
                self._gradients[layer.name] = measured = {}
                if (norm := metrics.gradient_norm([weight])) is not None:
                    measured["gradient_norm"] = norm
                    measured["gradient_dormant_fraction"] = metrics.gradient_dormant_fraction(
                        layer.fresh[0].units_first(weight.grad)
                    )

    def _record(self, with_ranks: bool) -> None:
        self._find_layers()
        self.latest, self._gradients = {}, {}
        if self.probe is None:
            self.probe = self._last_steps()
            if self._probe_path is not None:
                _save(self.probe, self._probe_path)
        with one_thread_each() as threads:
            self._record_units(self.probe, with_ranks, threads)

    def _record_units(self, probe: dict[str, Any], with_ranks: bool, threads: int) -> None:
        activations: dict[str, Tensor] = {}
        for prefix, batch in (("", self._last_steps()), ("probe_", probe)):
            for layer, h in zip(self._layers, self._activations(batch), strict=True):
                activations[f"plasticity/{layer.name}/{prefix}"] = h.mean(dim=1)
                self._record_activations(f"plasticity/{layer.name}/{prefix}", layer.activation, h.flatten(0, 1))
        if with_ranks:
            with ThreadPoolExecutor(min(2, threads), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for prefix, ranks in zip(activations, pool.map(metrics.ranks, activations.values()), strict=True):
                    for name, rank in ranks.items():
                        self._log(f"{prefix}{name}", rank)
            self._record_kernels(probe)
        for layer in self._layers:
            weight, prefix = layer.fresh[0].tensor, f"plasticity/{layer.name}"
            self._log(f"{prefix}/weight_magnitude", metrics.weight_magnitude(weight))
            initial = self._initial[layer.name].to(weight.device)
            self._log(f"{prefix}/distance_from_init", metrics.weight_distance([weight], [initial]))
        self._record_methods()
        self._before = [layer.fresh[0].tensor.detach().clone() for layer in self._layers], self._probed_actions()
        self._watch_gradients()

    def _record_kernels(self, probe: dict[str, Any]) -> None:
        of_kernel = _map(lambda rows: rows[:: len(rows) // KERNEL_SAMPLES][:KERNEL_SAMPLES], probe)
        try:
            found = inputs(self.model.policy, *self._tensors(of_kernel))
        except cbp.LayerError:  # networks that are no chains, as behind a user's own mlp_extractor
            return
        for name, (network, received) in found.items():
            with suppress(ValueError):  # those whose kernel is not known, such as layers that are called on parts of a sample
                self._log(f"plasticity/{name}/probe_ntk_effective_rank", metrics.ntk_effective_rank(network, received))

    def _record_activations(self, prefix: str, activation: str | None, h: Tensor) -> None:
        if activation == "relu" and not (h < 0).any():  # below 0 is what a norm behind it gives
            self._log(f"{prefix}dormant_fraction", metrics.dormant_fraction(h))
            self._log(f"{prefix}dead_fraction", metrics.dead_fraction(h))
        if activation == "tanh":
            self._log(f"{prefix}saturated_fraction", metrics.saturated_fraction(h))
        self._log(f"{prefix}tau_dormant_fraction", metrics.tau_dormant_fraction(h))

    def _record_methods(self) -> None:
        for layer in (layer for method in methods_of(self.model.policy) for layer in method.layers):
            prefix, age = f"cbp/{layer.name}", layer.age.double()
            self.logger.record(f"{prefix}/utility", layer.corrected_utility, exclude=_SILENT)
            self.logger.record(f"{prefix}/age", age, exclude=_SILENT)
            self._log(f"{prefix}/mean_utility", layer.corrected_utility.mean().item())
            self._log(f"{prefix}/mean_age", age.mean().item())
            if isinstance(layer, cbp.MaturingLayer):
                self._log(f"{prefix}/mature_fraction", layer.eligible / layer.hidden.units)
        for network, total in replaced_units(self.model.policy).items():
            self._log(f"cbp/{network}/replaced", total)

    def _log(self, name: str, value: float) -> None:
        self.latest[name] = value
        self.logger.record(name, value)

    def _last_steps(self) -> dict[str, Any]:
        """The last 1,000 steps, the oldest first."""
        last: dict[str, Any] = _map(lambda rows: rows[-SAMPLES:], _joined(self._window))
        return last

    def _activations(self, batch: dict[str, Any]) -> list[Tensor]:
        return activations(self.model.policy, self._layers, *self._tensors(batch))

    def _tensors(self, batch: dict[str, Any]) -> tuple[Any, Tensor | None]:
        """Observations and actions of a batch, as the policy takes them."""
        policy = self.model.policy
        observations, _ = policy.obs_to_tensor(batch["observations"])
        return observations, None if batch["actions"] is None else torch.as_tensor(batch["actions"], device=policy.device)

    @torch.no_grad()
    def _probed_actions(self) -> Tensor:
        assert self.probe is not None  # noqa: S101
        observations, _ = self.model.policy.obs_to_tensor(self.probe["observations"])
        actions = self.model.policy._predict(observations, deterministic=True)
        return actions if isinstance(self.model.action_space, spaces.Box) else actions.long()  # MultiBinary's are floats


def _check(policy: BasePolicy) -> None:
    """Refuses what cannot be measured."""
    name = f"PlasticityCallback cannot measure a {type(policy).__name__}"
    if hasattr(policy, "lstm_actor"):
        raise NotImplementedError(
            f"{name}: what its units do depends on states of before, which are not kept; policy.methods has what a method "
            "knows of them"
        )
    if network_names(policy)[0] == "policy" and not hasattr(policy, "value_net"):
        raise NotImplementedError(f"{name}: it has no value network, and is searched without gradients")


def _map(function: Callable[..., Any], *values: Any) -> Any:
    """A function of arrays, applied where several dictionaries of the same keys hold arrays; None stays None."""
    if isinstance(values[0], dict):
        return {key: _map(function, *(value[key] for value in values)) for key in values[0]}
    return None if values[0] is None else function(*values)


def _joined(steps: Sequence[dict[str, Any]]) -> Any:
    return _map(lambda *arrays: np.concatenate(arrays), *steps)


def _split(window: Any, steps: int) -> list[dict[str, Any]]:
    of_steps = _map(lambda rows: np.split(rows, steps), window)
    return [_map(lambda rows, i=i: rows[i], of_steps) for i in range(steps)]


def _save(probe: dict[str, Any], path: Path) -> None:
    observations = probe["observations"]
    named = {f"observations/{k}": v for k, v in observations.items()} if isinstance(observations, dict) else {}
    arrays = named or {"observations": observations}
    np.savez(path, **arrays, **({} if probe["actions"] is None else {"actions": probe["actions"]}))
