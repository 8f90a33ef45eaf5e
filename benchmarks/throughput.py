"""Measures steps/s of training: bare physics, Stable-Baselines3's PPO, ``agents.PPO`` with and without its extras.

``make bench``, or ``python benchmarks/throughput.py [--repeats N] [--no-peers] [--output FILE.json]``. Other fast programs
(``benchmarks/peers.py``) are measured beside them, each in a virtual environment that the first run makes. All contenders are
measured in turn, again and again, and ratios are taken within a turn, so that a machine whose speed drifts favours none.
Medians are printed, with the quartiles of the ratios. Networks and batch sizes are the paper's: 256-256 ReLU, rollouts of
2,048 steps, 10 epochs of 16 minibatches. Every unit is mature from the start, so that units are replaced as in a long run. It
fails if ``agents.PPO`` took Stable-Baselines3's own loop.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import mujoco
import numpy as np
import peers
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import agents
from agents.callbacks import PhaseCallback, PlasticityCallback, ProgressCallback, VerdictCallback
from agents.runs.build import make_model, make_vec_env
from agents.runs.config import Config, with_overrides
from agents.runs.logs import make_logger
from agents.runs.run_folder import RunFolder
from agents.sb3.buffers import NormalizedRolloutBuffer
from agents.sb3.native import untimed
from agents.sb3.plasticity import RANKS_EVERY
from agents.sb3.rollout import CompiledRollout

STEPS = 2048  # of a rollout
ROLLOUTS = 4  # of a measurement
RECORDED = RANKS_EVERY // STEPS  # of one with callbacks: from one record of the ranks to the next
NEVER = 2_000_000


def ours(method: str, n_envs: int) -> agents.PPO:
    """The model of ``agents.train``, warmed up by a rollout."""
    overrides = {"weight_decay": 1e-4, **({"maturity_threshold": 0} if method == "cbp" else {})}
    hyperparameters, method_kwargs = with_overrides(method, overrides.items())
    config = Config(
        env="ant-nonstationary-v0",
        method=method,
        timesteps=NEVER,
        period=NEVER,
        param="friction",
        seed=0,
        n_envs=n_envs,
        normalize=False,
        device="cpu",
        method_kwargs=method_kwargs,
        hyperparameters=hyperparameters,
    )
    model = make_model(config, make_vec_env(config))
    model.set_logger(make_logger(RunFolder.create(Path(tempfile.mkdtemp()) / "run", config)))
    model.learn(STEPS)
    if model.slow_because:
        sys.exit(f"error: agents.PPO took Stable-Baselines3's own loop: {model.slow_because}")
    return model


def theirs(n_envs: int, env: str = "ant-nonstationary-v0", **env_kwargs: float) -> stable_baselines3.PPO:
    """Stable-Baselines3's PPO with the same network, batch sizes and treatment of advantages, warmed up by a rollout."""
    vec_env = DummyVecEnv([lambda: Monitor(gymnasium.make(env, **env_kwargs))] * n_envs)
    policy_kwargs = {"net_arch": [256, 256], "activation_fn": nn.ReLU, "ortho_init": False}
    model = stable_baselines3.PPO(
        "MlpPolicy",
        vec_env,
        learning_rate=1e-4,
        n_steps=STEPS // n_envs,
        batch_size=128,
        max_grad_norm=math.inf,
        normalize_advantage=False,
        rollout_buffer_class=NormalizedRolloutBuffer,
        policy_kwargs=policy_kwargs,
        device="cpu",
        seed=0,
    )
    return model.learn(STEPS)


def learning(
    model: stable_baselines3.PPO, callbacks: list[BaseCallback] | None = None, rollouts: int = ROLLOUTS
) -> Callable[[], float]:
    """Steps/s of some rollouts and their updates."""

    def measure() -> float:
        start = time.perf_counter()
        model.learn(rollouts * STEPS, callback=callbacks, reset_num_timesteps=False)
        return rollouts * STEPS / (time.perf_counter() - start)

    return measure


class Rollout(BaseCallback):
    """Keeps the states of the Ants at the beginning of a rollout."""

    every_step = False
    states: list[Any]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.states = [state_of(env.unwrapped) for env in self.training_env.envs]  # type: ignore[attr-defined]


def state_of(ant: Any) -> Any:
    """All that the simulation of an Ant goes on from."""
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(ant.model, kind))
    mujoco.mj_getState(ant.model, ant.data, state, kind)
    return state


def bare_physics(threads: int, model: agents.PPO, rollout: Rollout) -> Callable[[], float]:
    """Steps/s of ``mj_step`` alone, five of which are one step: the model's last rollout again, as if no Ant ever fell."""
    ants: list[Any] = [gymnasium.make("ant-nonstationary-v0", seed=0).unwrapped for _ in range(model.n_envs)]

    def simulate(some: slice) -> None:
        for t in range(model.n_steps):
            for ant, control in zip(ants[some], controls[some], strict=True):
                ant.data.ctrl[:] = control[t]
                mujoco.mj_step(ant.model, ant.data, nstep=ant.frame_skip)

    def measure() -> float:
        nonlocal controls
        controls = model.rollout_buffer.actions.reshape(model.n_envs, model.n_steps, -1).clip(-1, 1)
        shares = [slice(first, None, threads) for first in range(threads)]
        seconds = 0.0
        for _ in range(ROLLOUTS):
            for ant, state in zip(ants, rollout.states, strict=True):
                mujoco.mj_setState(ant.model, ant.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(simulate, shares))
            seconds += time.perf_counter() - start
        return ROLLOUTS * STEPS / seconds

    controls: Any = None
    return measure


class Processes:
    """Processes that measure steps/s at once, whenever told to.

    Attributes:
        answers: The first line of each, once it was ready.
    """

    def __init__(self, *commands: list[str]) -> None:
        self.workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for command in commands
        ]
        self.answers = [self._answer(worker) for worker in self.workers]

    def measure(self) -> float:
        """Steps/s of all together."""
        for worker in self.workers:
            assert worker.stdin is not None  # noqa: S101
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(float(self._answer(worker)) for worker in self.workers)

    def close(self) -> None:
        """Ends the processes."""
        for worker in self.workers:
            worker.communicate("")

    @staticmethod
    def _answer(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout is not None  # noqa: S101
        answer = worker.stdout.readline().strip()
        if not answer:
            sys.exit(f"error: {' '.join(map(str, worker.args))} ended")  # type: ignore[arg-type]
        return answer


def work(n_envs: int) -> None:
    """One of two runs at once: measures whenever told to."""
    torch.set_num_threads(1)
    measure = learning(ours("cbp", n_envs))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)


def default_callbacks() -> list[BaseCallback]:
    """Those of ``agents.train``."""
    phases = PhaseCallback("friction", Path(tempfile.mkdtemp(), "episodes.csv"))
    plasticity = PlasticityCallback()
    return [phases, plasticity, VerdictCallback(phases, plasticity, "cbp"), ProgressCallback(NEVER, phases)]


@contextmanager
def timed(place: Any, name: str, seconds: dict[str, float], key: str) -> Iterator[None]:
    """Adds up the time spent in a function."""
    function = getattr(place, name)

    def timing(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - start

    with mock.patch.object(place, name, timing):
        yield


def where_the_time_goes(with_cbp: agents.PPO, without: agents.PPO, physics: float) -> dict[str, float]:
    """Milliseconds of a rollout and its updates with continual backpropagation and callbacks, part by part."""
    rollouts = RECORDED
    seconds: dict[str, float] = {}
    plain: dict[str, float] = {}
    with ExitStack() as stack:
        for place, name, key in (
            (CompiledRollout, "run", "rollout"),
            (with_cbp, "train", "update"),
            (CallbackList, "on_step", "callbacks"),
            (CallbackList, "on_rollout_end", "callbacks"),
            (with_cbp.logger, "dump", "logging"),
        ):
            stack.enter_context(timed(place, name, seconds, key))
        start = time.perf_counter()
        with_cbp.learn(rollouts * STEPS, callback=default_callbacks(), reset_num_timesteps=False)
        whole = time.perf_counter() - start
    with timed(without, "train", plain, "update"):
        without.learn(rollouts * STEPS, reset_num_timesteps=False)
    method = seconds["update"] - plain["update"]
    bare = rollouts * STEPS / physics
    parts = {
        "physics": bare,
        "compiled rollout beyond physics": seconds["rollout"] - bare,
        "update": plain["update"],
        "method": method,
        "callbacks": seconds["callbacks"],
        "logging": seconds["logging"],
        "rest": whole - sum(value for key, value in seconds.items()),
        "whole": whole,
    }
    return {part: round(1000 * value / rollouts, 1) for part, value in parts.items()}


def processor() -> str:
    """Its name, and its widest instructions."""
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    except (OSError, ValueError):
        return platform.machine()
    known = {name.strip(): value.split() for name, value in told.items()}
    widest = next((name for name in ("avx512f", "avx2") if name in known.get("flags", [])), "neither AVX2 nor AVX-512")
    return f"{' '.join(known.get('model name', [platform.machine()]))}, {widest}"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="turns (default: 11)")
    parser.add_argument("--n-envs", type=int, default=16, help="environments of agents.PPO (default: 16)")
    parser.add_argument("--no-peers", action="store_true", help="measure no other programs")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return

    settings = {n_envs: theirs(n_envs) for n_envs in (4, 8, 16, 32)}
    tried = {n_envs: statistics.median(learning(model)() for _ in range(3)) for n_envs, model in settings.items()}
    best = max(tried, key=lambda n_envs: tried[n_envs])
    cbp, rollout = ours("cbp", args.n_envs), Rollout()
    cbp.learn(STEPS, callback=rollout, reset_num_timesteps=False)
    plain = ours("ppo-tuned", args.n_envs)
    two_runs = Processes(*[[sys.executable, __file__, "--worker", str(args.n_envs)]] * 2)
    others = {} if args.no_peers else {name: Processes([peers.installed(name), peers.__file__, name]) for name in peers.PEERS}
    gymnasiums = theirs(best, "Ant-v5", include_cfrc_ext_in_observation=False, contact_cost_weight=0.0)
    contenders: dict[str, Callable[[], float]] = {
        "bare physics": bare_physics(torch.get_num_threads(), cbp, rollout),
        f"SB3 PPO, {best} environments": learning(settings[best]),
        f"SB3 PPO, {best} of Gymnasium's Ant-v5": learning(gymnasiums),
        "SB3 PPO, 1 environment": learning(theirs(1)),
        "agents.PPO": learning(plain),
        "agents.PPO + CBP": learning(cbp, [rollout]),
        "agents.PPO + CBP + callbacks": learning(cbp, default_callbacks(), RECORDED),
        "agents.PPO + CBP, 1 environment": learning(ours("cbp", 1)),
        "agents.PPO + CBP, two runs at once": two_runs.measure,
    }
    bare, sb3, sb3_gymnasium, sb3_single, without, with_cbp, with_callbacks, single, two = contenders
    contenders |= {f"{name} {process.answers[0]}": process.measure for name, process in others.items()}
    names = list(contenders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            rates[name].append(contenders[name]())
    for process in (two_runs, *others.values()):
        process.close()

    def ratio(numerator: str, denominator: str) -> dict[str, float]:
        low, median, high = statistics.quantiles(
            [a / b for a, b in zip(rates[numerator], rates[denominator], strict=True)], n=4
        )
        return {"median": round(median, 3), "lower_quartile": round(low, 3), "upper_quartile": round(high, 3)}

    with untimed():  # as in training
        physics = statistics.median(contenders[bare]() for _ in range(args.repeats))
    result = {
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "repeats": args.repeats,
        "sb3_by_environments": {n_envs: round(rate) for n_envs, rate in tried.items()},
        "steps_per_second": {name: round(statistics.median(measured)) for name, measured in rates.items()},
        "ratios": {
            "with CBP / SB3 at its best": ratio(with_cbp, sb3),
            "with CBP / SB3 at its best, on Gymnasium's Ant-v5": ratio(with_cbp, sb3_gymnasium),
            "with CBP / bare physics": ratio(with_cbp, bare),
            "with CBP / without": ratio(with_cbp, without),
            "with callbacks / without": ratio(with_callbacks, with_cbp),
            "1 environment / SB3 with 1 environment": ratio(single, sb3_single),
            "two runs at once / one run": ratio(two, with_cbp),
            "two runs at once / SB3 at its best": ratio(two, sb3),
            **{f"with CBP / {name}": ratio(with_cbp, name) for name in names[9:]},
            **{f"{name} / bare physics": ratio(name, bare) for name in names[9:]},
        },
        "milliseconds_of_a_rollout": where_the_time_goes(cbp, plain, physics),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
