"""The phases between two changes of the environment: rewards recorded by phase, and a fresh network in each as a control."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from agents.sb3.networks import owners, target_pairs
from agents.sb3.plastic import Plastic, methods_of

_FINAL_SHARE = 0.1  # the share of a phase's episodes, the last ones, that its final return is the mean of
_FEWEST_EPISODES = 3  # that tell a standard error


@dataclass
class Phase:
    """What happened between two changes, over all environments.

    Attributes:
        values: Of the parameters that change, by name, in the environment that was first in it; empty where none does.
        steps: Environment steps.
        returns: Of the episodes that ended in the phase, in the order of their ends.
        measures: Those of the policy that were recorded last in the phase of the first environment, by name.
    """

    values: dict[str, float]
    steps: int = 0
    returns: list[float] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def mean_return(self) -> float | None:
        """Mean over the phase's episodes; None without one."""
        return float(np.mean(self.returns)) if self.returns else None

    @property
    def final_return(self) -> float | None:
        """Mean over the last tenth of the phase's episodes, at least one; None without one."""
        return float(np.mean(self._last_returns)) if self.returns else None

    @property
    def final_return_error(self) -> float | None:
        """The standard error of the final return; None with fewer than three episodes in it."""
        last = self._last_returns
        return float(np.std(last, ddof=1) / math.sqrt(len(last))) if len(last) >= _FEWEST_EPISODES else None

    @property
    def _last_returns(self) -> list[float]:
        return self.returns[len(self.returns) - math.ceil(_FINAL_SHARE * len(self.returns)) :]


class PhaseCallback(BaseCallback):
    """Records rewards, each episode by itself and by phase.

    Reads what :class:`envs.NonStationary` and SB3's ``Monitor`` say in ``info``; works without either. Each environment counts
    its own phases, and an episode belongs to the phase in which it ended. Logs ``env/phase`` and the parameters of the first
    environment (``env/friction``), and to TensorBoard each episode's return at its last step (``rollout/episode_return``).

    Args:
        parameters: The parameter that changes, or several; None for a stationary environment.
        path: A CSV file that gets a row for each finished episode: ``step`` (over all environments), ``env``, ``phase``, the
            parameters' values under their names, ``return``, ``length``. An existing file is continued. None for no file.

    Attributes:
        phases: What happened so far, by the index of the phase.

    Warns:
        UserWarning: Once, where environments have different values in the same phase, as without a seed of their own.

    Raises:
        ValueError: At the start of training, where the file has other columns.
    """

    every_step = False

    def __init__(self, parameters: str | Sequence[str] | None, path: str | Path | None = None) -> None:
        super().__init__()
        self.parameters = (parameters,) if isinstance(parameters, str) else tuple(parameters or ())
        self.phases: dict[int, Phase] = {}
        self._path = None if path is None else Path(path)
        self._rows: list[list[Any]] = []
        self._counts_of: BaseAlgorithm | None = None
        self._counted = 0  # its steps
        self._worlds_differ = False

    @property
    def columns(self) -> list[str]:
        """Column names of the file of episodes."""
        return ["step", "env", "phase", *self.parameters, "return", "length"]

    def state_dict(self) -> list[dict[str, Any]]:
        """The phases so far, as JSON can hold them."""
        return [{"phase": number, **dataclasses.asdict(phase)} for number, phase in sorted(self.phases.items())]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Goes on from phases made by :meth:`state_dict`."""
        self._counts_of = None
        self.phases = {
            saved["phase"]: Phase(dict(saved["values"]), saved["steps"], list(saved["returns"]), dict(saved["measures"]))
            for saved in state
        }

    def _on_training_start(self) -> None:
        if self._counts_of not in (None, self.model) and self._counted != self.num_timesteps:
            self.phases = {}  # they were another model's, and not of one that was loaded to go on
        self._counts_of = self.model
        self._counted = self.num_timesteps
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists() or not self._path.stat().st_size:
            self._rows.append(self.columns)
            self._write()
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            if (there := next(csv.reader(file), [])) != self.columns:
                raise ValueError(f"'{self._path}' cannot be continued: its columns are {there}, not {self.columns}")

    def _on_step(self) -> bool:
        # Of a rollout in compiled code only the steps in which something happens come here. Between two of them every
        # environment is in the phase of the second.
        steps = (self.num_timesteps - self._counted) // self.training_env.num_envs
        self._counted = self.num_timesteps
        for index, info in enumerate(self.locals["infos"]):
            number = self.phase_in(info)
            phase = self.phases.get(number)
            if phase is None:
                values = {name: info[name] for name in self.parameters if name in info}
                phase = self.phases[number] = Phase(values)
            elif not self._worlds_differ:
                self._compare(index, number, info)
            phase.steps += steps
            if "episode" in info:
                self._record_episode(index, number, info)
        return True

    def phase_in(self, info: dict[str, Any]) -> int:
        """The phase that an environment is in; 0 where no parameter changes, whatever it calls a phase of its own."""
        return int(info.get("phase", 0)) if self.parameters else 0

    def _compare(self, env: int, number: int, info: dict[str, Any]) -> None:
        """Warns, once, where an environment has another value than the phase."""
        for name, value in self.phases[number].values.items():
            if name in info and info[name] != value:
                self._worlds_differ = True
                warnings.warn(
                    f"environments differ within a phase: in phase {number} environment {env} has {name} {info[name]:.4g}, "
                    f"another {value:.4g}, and a phase is over all of them; give each the same seed: env_kwargs=dict(seed=0)",
                    stacklevel=2,
                )
                return

    def _record_episode(self, env: int, number: int, info: dict[str, Any]) -> None:
        episode = info["episode"]
        self.phases[number].returns.append(float(episode["r"]))
        values = [info.get(name) for name in self.parameters]
        self._rows.append([self.num_timesteps, env, number, *values, episode["r"], episode["l"]])
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_scalar("rollout/episode_return", episode["r"], self.num_timesteps)

    def _on_rollout_end(self) -> None:
        self._write()
        info = self.locals["infos"][0]
        for name in self.parameters:
            if name in info:
                self.logger.record(f"env/{name}", info[name])
                self.logger.record("env/phase", self.phase_in(info))

    def _write(self) -> None:
        if self._path is not None and self._rows:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self._rows)
        self._rows.clear()


def has_phases(vec_env: VecEnv) -> bool:
    """Whether environments change by ``envs.NonStationary`` or ``envs.TaskSequence``, whatever else they call their phase."""
    return vec_env.has_attr("steps_in_phase")


def _first_phase(vec_env: VecEnv) -> int:
    phase = vec_env.get_attr("phase", 0)[0] if vec_env.has_attr("phase") else 0
    return int(phase) if isinstance(phase, Integral) else 0  # that of a gait, say, is another thing


class ChangeCallback(BaseCallback):
    """Tells the policy's methods with each phase of the first environment that the task has changed (``cbp.Method.change``).

    An environment's phase is its whole number ``phase``, as ``envs.NonStationary`` and ``envs.TaskSequence`` have it; one that
    changes by itself may have it, too.

    For methods that need such a signal, such as ``cbp.Fire``. Acts between two rollouts: a change in the last one of a call of
    ``learn`` is told at the beginning of the next call with the same callback. Target networks become the networks that have
    changed.
    """

    every_step = False
    _at_work: tuple[BaseAlgorithm, VecEnv] | None = None

    def _on_training_start(self) -> None:
        if self._at_work != (self.model, self.training_env):
            self._at_work = self.model, self.training_env
            self._phase = _first_phase(self.training_env)
        if isinstance(self.model.policy, Plastic):
            self.model.policy.is_told_of_changes = True

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        before, self._phase = self._phase, _first_phase(self.training_env)
        if self._phase != before:
            self._change()

    def _change(self) -> None:
        policy = self.model.policy
        pairs = target_pairs(policy)
        before = [copy.deepcopy(network.state_dict()) for network, _ in pairs]
        for method in methods_of(policy):
            method.change()
        for (network, target), state in zip(pairs, before, strict=True):
            now = network.state_dict()
            if not all(torch.equal(now[name], tensor) for name, tensor in state.items()):
                target.load_state_dict(now)


class FreshNetworkCallback(ChangeCallback):
    """Gives the model fresh networks and a fresh optimizer with each phase of the first environment: a control.

    What an agent reaches in a phase with a fresh network tells how hard this phase is by itself; without it, a loss of
    plasticity cannot be told from a harder world. Acts between two rollouts. Fresh weights are drawn from torch's generator.
    Frozen ones stay as they are, and so does SAC's entropy coefficient.
    """

    def _on_training_start(self) -> None:
        super()._on_training_start()
        with torch.random.fork_rng(devices=[]):
            made = {name: tensor.shape for name, tensor in self._made_anew().state_dict().items()}
        own = {name: tensor.shape for name, tensor in self.model.policy.state_dict().items()}
        if others := sorted(name for name in own.keys() | made.keys() if own.get(name) != made.get(name)):
            raise ValueError(
                "FreshNetworkCallback makes networks as the model made its own, and this policy has others since: "
                f"{', '.join(others)}"
            )

    def _change(self) -> None:
        policy = self.model.policy
        fresh = self._made_anew().to(policy.device)
        frozen = {name: weight for name, weight in policy.named_parameters() if not weight.requires_grad}
        policy.load_state_dict({**fresh.state_dict(), **frozen})
        for owner in owners(policy).values():
            owner.optimizer.state.clear()
        if not (isinstance(policy, Plastic) and isinstance(fresh, Plastic)):
            return
        networks = {method: network for network, method in policy.methods.items()}
        for method, network in networks.items():
            state = fresh.methods[network].state_dict()
            if method.layers:  # some may be left out, such as frozen ones
                known = {layer.name for layer in method.layers}
                state["layers"] = [layer for layer in state["layers"] if layer["name"] in known]
            method.load_state_dict(state)

    def _made_anew(self) -> BasePolicy:
        """Another policy as the model made its own; what a policy says of its construction leaves out options."""
        model = self.model
        options = dict(model.policy_kwargs)
        if isinstance(model, OnPolicyAlgorithm) and hasattr(model.policy, "use_sde"):  # which that of MaskablePPO lacks
            options["use_sde"] = model.use_sde
        made: BasePolicy = type(model.policy)(model.observation_space, model.action_space, model.lr_schedule, **options)
        return made
