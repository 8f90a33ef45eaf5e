"""What is recorded while an agent trains: rewards by phase, units and plasticity, progress on the screen."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from tqdm import tqdm

import cbp
from agents.policies import hidden_layers, replaced_units
from cbp import metrics

_SAMPLES = 1000  # paper: dormant units are counted on the last 1,000 steps
_FINAL_SHARE = 0.1  # the share of a phase's episodes, the last ones, that its final return is the mean of


@dataclass
class Phase:
    """What happened between two changes, over all environments.

    Attributes:
        value: The parameter's value; None where nothing changes.
        steps: Environment steps.
        returns: Of the episodes that ended in the phase, in the order of their ends.
    """

    value: float | None
    steps: int = 0
    returns: list[float] = field(default_factory=list)

    @property
    def mean_return(self) -> float | None:
        """Mean over the phase's episodes; None without one."""
        return float(np.mean(self.returns)) if self.returns else None

    @property
    def final_return(self) -> float | None:
        """Mean over the last tenth of the phase's episodes, at least one; None without one."""
        last = math.ceil(_FINAL_SHARE * len(self.returns))
        return float(np.mean(self.returns[-last:])) if self.returns else None


class PhaseCallback(BaseCallback):
    """Records rewards, each episode by itself and by phase.

    Reads what :class:`envs.NonStationary` and SB3's ``Monitor`` say in ``info``; works without either. Each environment counts
    its own phases, and an episode belongs to the phase in which it ended. Logs ``env/phase`` and the parameter of the first
    environment (``env/friction``), and to TensorBoard each episode's return at its last step (``rollout/episode_return``).

    Args:
        parameter: The parameter that changes; None for a stationary environment.
        path: A CSV file that gets a row for each finished episode: ``step`` (over all environments), ``env``, ``phase``, the
            parameter's value under its name, ``return``, ``length``. An existing file is continued. None for no file.

    Attributes:
        phases: What happened so far, by the index of the phase.
    """

    def __init__(self, parameter: str | None, path: Path | None = None) -> None:
        super().__init__()
        self.parameter = parameter
        self.phases: dict[int, Phase] = {}
        self._path = path
        self._rows: list[list[Any]] = []

    @property
    def columns(self) -> list[str]:
        """Column names of the file of episodes."""
        return ["step", "env", "phase", *([self.parameter] if self.parameter else []), "return", "length"]

    def state_dict(self) -> list[dict[str, Any]]:
        """The phases so far, as JSON can hold them."""
        return [{"phase": number, **dataclasses.asdict(phase)} for number, phase in sorted(self.phases.items())]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Goes on from phases made by :meth:`state_dict`."""
        self.phases = {saved["phase"]: Phase(saved["value"], saved["steps"], list(saved["returns"])) for saved in state}

    def _on_training_start(self) -> None:
        if self._path is not None and not self._path.exists():
            self._rows.append(self.columns)
            self._write()

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            number = info.get("phase", 0)
            phase = self.phases.get(number)
            if phase is None:
                phase = self.phases[number] = Phase(info.get(self.parameter) if self.parameter else None)
            phase.steps += 1
            if "episode" in info:
                self._record_episode(index, number, phase, info["episode"])
        return True

    def _record_episode(self, env: int, number: int, phase: Phase, episode: dict[str, float]) -> None:
        phase.returns.append(float(episode["r"]))
        value = [phase.value] if self.parameter else []
        self._rows.append([self.num_timesteps, env, number, *value, episode["r"], episode["l"]])
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_scalar("rollout/episode_return", episode["r"], self.num_timesteps)

    def _on_rollout_end(self) -> None:
        self._write()
        info = self.locals["infos"][0]
        if self.parameter in info:
            self.logger.record(f"env/{self.parameter}", info[self.parameter])
            self.logger.record("env/phase", info["phase"])

    def _write(self) -> None:
        if self._path is not None and self._rows:
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerows(self._rows)
        self._rows.clear()


class UnitCallback(BaseCallback):
    """Records the state of the hidden units of the policy and the value network, after the first rollout and every few.

    Works on any PPO or A2C whose networks are made of Linear layers, stock ``MlpPolicy`` included. Draws no random number. Logs
    for each hidden layer:

    - ``plasticity/<network>/<layer>/dormant_fraction`` (ReLU only) on the last 1,000 steps, and ``weight_magnitude``, the mean
      |w| of the incoming weights; ``stable_rank`` for the last hidden layer of each network;
    - with a method that replaces units: ``cbp/<network>/<layer>/utility`` and ``…/age`` (histograms, TensorBoard only),
      ``…/mean_utility`` and ``…/mean_age`` (in updates), with continual backpropagation ``…/mature_fraction``; and for each
      network ``cbp/<network>/replaced``, the running total.

    Args:
        every: Rollouts from one record to the next. Default ours: a record takes 10 ms, 2 % of a rollout and its updates.
    """

    def __init__(self, every: int = 4) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be >= 1 rollouts, got {every!r}")
        self._every = every
        self._rollouts = 0

    def state_dict(self) -> dict[str, int]:
        """How many rollouts it has seen."""
        return {"rollouts": self._rollouts}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        self._rollouts = state["rollouts"]

    def _on_training_start(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy)  # noqa: S101
        self._layers = hidden_layers(policy)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if (self._rollouts - 1) % self._every == 0:
            self._record()

    def _record(self) -> None:
        model, policy = self.model, self.model.policy
        assert isinstance(model, OnPolicyAlgorithm) and isinstance(policy, ActorCriticPolicy)  # noqa: S101, PT018
        observations = model.rollout_buffer.observations
        steps = math.ceil(_SAMPLES / observations.shape[1])
        on_policy = observations[-steps:].reshape(-1, *observations.shape[2:])[-_SAMPLES:]
        received = activations(policy, self._layers, torch.as_tensor(on_policy, device=policy.device))
        for layer, h in zip(self._layers, received, strict=True):
            prefix = f"plasticity/{layer.name}"
            if layer.activation == "relu":
                self.logger.record(f"{prefix}/dormant_fraction", metrics.dormant_fraction(h))
            self.logger.record(f"{prefix}/weight_magnitude", metrics.weight_magnitude(layer.incoming.weight))
            if layer.outgoing[0] in (policy.action_net, policy.value_net):
                self.logger.record(f"{prefix}/stable_rank", metrics.stable_rank(h))
        self._record_method(getattr(policy, "method", None))

    def _record_method(self, method: cbp.Method | None) -> None:
        if method is None:
            return
        for layer in method.layers:
            prefix, age = f"cbp/{layer.name}", layer.age.double()
            self.logger.record(f"{prefix}/utility", layer.corrected_utility, exclude=("csv", "stdout", "log", "json"))
            self.logger.record(f"{prefix}/age", age, exclude=("csv", "stdout", "log", "json"))
            self.logger.record(f"{prefix}/mean_utility", layer.corrected_utility.mean().item())
            self.logger.record(f"{prefix}/mean_age", age.mean().item())
            if isinstance(layer, cbp.MaturingLayer):
                self.logger.record(f"{prefix}/mature_fraction", layer.eligible / layer.hidden.units)
        for network, total in replaced_units(self.model.policy).items():
            self.logger.record(f"cbp/{network}/replaced", total)


@torch.no_grad()
def activations(policy: ActorCriticPolicy, layers: list[cbp.HiddenLayer], observations: Tensor) -> list[Tensor]:
    """What the layers behind each hidden layer receive: a list of ``(samples, units)``.

    Args:
        policy: The policy; nothing is sampled from it.
        layers: Hidden layers of the policy, see :func:`agents.policies.hidden_layers`.
        observations: ``(samples, …)``.
    """
    received: dict[int, Tensor] = {}
    hooks = [
        layer.outgoing[0].register_forward_pre_hook(lambda _, args, i=i: received.__setitem__(i, args[0]))
        for i, layer in enumerate(layers)
    ]
    try:
        policy.get_distribution(observations)
        policy.predict_values(observations)
    finally:
        for hook in hooks:
            hook.remove()
    return [received[i].flatten(1) for i in range(len(layers))]


class FreshNetworkCallback(BaseCallback):
    """Gives the model fresh networks and a fresh optimizer with each phase of the first environment: a control.

    What an agent reaches in a phase with a fresh network tells how hard this phase is by itself; without it, a loss of
    plasticity cannot be told from a harder world. Acts between two rollouts. Fresh weights are drawn from torch's generator.
    """

    def _on_training_start(self) -> None:
        self._phase = self._phase_now()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        before, self._phase = self._phase, self._phase_now()
        if self._phase != before:
            policy = self.model.policy
            fresh = type(policy)(**policy._get_constructor_parameters()).to(policy.device)
            policy.load_state_dict(fresh.state_dict())
            policy.optimizer.state.clear()

    def _phase_now(self) -> int:
        return int(self.training_env.get_attr("phase", 0)[0])


class ProgressCallback(BaseCallback):
    """A progress bar on standard error: steps/s, time left, the parameter's value, mean reward, units replaced.

    Where standard error is no terminal, a line twice a minute.

    Args:
        total_timesteps: Length of the run.
        phases: Knows the parameter.
    """

    def __init__(self, total_timesteps: int, phases: PhaseCallback) -> None:
        super().__init__()
        self._total = total_timesteps
        self._phases = phases

    def _on_training_start(self) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._total,
            initial=self.num_timesteps,
            unit=" steps",
            unit_scale=True,
            mininterval=0.5 if terminal else 30,
            dynamic_ncols=terminal,
        )

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        words = []
        info = self.locals["infos"][0]
        parameter = self._phases.parameter
        if parameter in info:
            words.append(f"{parameter} {info[parameter]:.3g} (phase {info['phase']})")
        episodes = self.model.ep_info_buffer
        if episodes:
            words.append(f"reward {np.mean([episode['r'] for episode in episodes]):.0f}")
        replaced = replaced_units(self.model.policy)
        if replaced:
            words.append(f"{sum(replaced.values())} units replaced")
        self._bar.set_postfix_str(", ".join(words), refresh=False)

    def close(self) -> None:
        """Leaves the bar on the screen as it is."""
        self._bar.close()
