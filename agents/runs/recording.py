"""What a run says while it trains: progress, and a verdict after each phase."""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.runs.commands import progress_bar
from agents.runs.config import Config
from agents.runs.off_policy import OffPolicyHyperparameters
from agents.runs.run_folder import RunFolder
from agents.runs.verdict import PhaseEnd, and_list, judge, policy_measures
from agents.sb3.dashboard import write_note
from agents.sb3.phases import PhaseCallback
from agents.sb3.plasticity import EVERY, RANKS_EVERY, PlasticityCallback
from agents.sb3.policies import replaced_units

_LOG_EVERY = 2048  # ours: a rollout of the paper's PPO


class VerdictCallback(BaseCallback):
    """Says at the end of each phase of the first environment whether the agent shows signs of loss of plasticity.

    On standard error, and as a note in TensorBoard's Text tab, ``phases``. Keeps in ``phases`` what was measured last in each.

    Args:
        phases: Rewards by phase, with the parameters that change; called before this one.
        plasticity: The measures; called before this one.
        method: The run's method.
    """

    every_step = False

    def __init__(self, phases: PhaseCallback, plasticity: PlasticityCallback, method: str) -> None:
        super().__init__()
        self._phases = phases
        self._plasticity = plasticity
        self._method = method
        self._phase = 0

    def state_dict(self) -> dict[str, int]:
        """The phase that is going on, as far as it was said."""
        return {"phase": self._phase}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        self._phase = state["phase"]

    def _on_training_start(self) -> None:
        if self._phase not in self._phases.phases:  # it was another model's
            self._phase = 0

    def _on_step(self) -> bool:
        before, self._phase = self._phase, self._phases.phase_in(self.locals["infos"][0])
        if self._phase != before and self._phases.parameters:
            self._say(before, self._phase)
        return True

    def _on_rollout_end(self) -> None:
        if self._plasticity.recorded_at == self.num_timesteps:
            self._phases.phases[self._phase].measures |= policy_measures(self._plasticity.latest)

    def _say(self, ended: int, begun: int) -> None:
        phases = self._phases.phases
        ends = [PhaseEnd.of(number, phase) for number, phase in sorted(phases.items()) if number <= ended]
        verdict = judge(ends, and_list(self._phases.parameters), self._method)
        before, after = phases[ended].values, phases[begun].values
        change = ", ".join(f"{name} {value:.3g} → {after[name]:.3g}" for name, value in before.items())
        text = " ".join([f"**Phase {begun}: {change}.**", verdict.words, *verdict.caveats])
        write_note(self.logger, "phases", text, self.num_timesteps)
        tqdm.write(f"Phase {ended} ended at step {self.num_timesteps:,}, {change}. {verdict.words}", file=sys.stderr)


class ProgressCallback(BaseCallback):
    """A progress bar on standard error: steps/s, time left, the parameter's value, mean reward, units replaced.

    Where standard error is no terminal, a line twice a minute.

    Args:
        total_timesteps: Length of the run.
        phases: Knows the parameters.
    """

    every_step = False

    def __init__(self, total_timesteps: int, phases: PhaseCallback) -> None:
        super().__init__()
        self._total = total_timesteps
        self._phases = phases

    def _on_training_start(self) -> None:
        self._bar = progress_bar(self._total, self.num_timesteps, unit=" steps", unit_scale=True)

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        words = []
        info = self.locals["infos"][0]
        values = [f"{name} {info[name]:.3g}" for name in self._phases.parameters if name in info]
        if values:
            words.append(f"{', '.join(values)} (phase {info['phase']})")
        episodes = self.model.ep_info_buffer
        if episodes:
            words.append(f"reward {np.mean([episode['r'] for episode in episodes]):.0f}")
        replaced = replaced_units(self.model.policy)
        if replaced:
            words.append(f"{sum(replaced.values())} units replaced")
        self._bar.set_postfix_str(", ".join(words), refresh=False)

    def close(self) -> None:
        """Leaves the bar on the screen as it is; there is none where training broke off at its start."""
        if hasattr(self, "_bar"):
            self._bar.close()


class LogCallback(BaseCallback):
    """Writes what an off-policy algorithm has logged, a row every 2,048 steps, in short phases more often, and at the end.

    Stable-Baselines3 does so after every so many episodes: rows would be as far apart as episodes are long.

    Args:
        config: The run.
    """

    every_step = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._every = _at_most(_LOG_EVERY, config)

    def _on_rollout_start(self) -> None:
        self._before = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        over = self.num_timesteps >= self.model._total_timesteps
        if over or self._before // self._every < self.num_timesteps // self._every:
            self.model.dump_logs()


def steps_between_rows(config: Config) -> int:
    """The most steps from one row of ``progress.csv`` to the next."""
    values = config.hyperparameters
    if isinstance(values, OffPolicyHyperparameters):
        return _at_most(_LOG_EVERY, config) + values.train_freq * config.n_envs
    return values.rollout_steps


def _at_most(steps: int, config: Config, share: int = 4) -> int:
    """Steps from one record to the next, so that also a short phase has some."""
    return max(1, min(steps, (config.period or config.timesteps) // share))


class Recorders(NamedTuple):
    """What records a run, in the order in which it is called."""

    phases: PhaseCallback
    plasticity: PlasticityCallback
    verdicts: VerdictCallback

    @classmethod
    def of(cls, folder: RunFolder, config: Config) -> Recorders:
        """Those of a run; they write into its folder."""
        every, ranks_every = _at_most(EVERY, config), _at_most(RANKS_EVERY, config, share=2)
        phases = PhaseCallback(config.params, folder.episodes)
        plasticity = PlasticityCallback(every, ranks_every, folder.probe)
        return cls(phases, plasticity, VerdictCallback(phases, plasticity, config.method))
