"""Steps MuJoCo environments in compiled code, with a policy's forward pass or with actions that are given.

:func:`advance` is the loop over the steps of one environment, from one event to the next; :func:`step_some` takes one step of
each of several. Both call :func:`_take_step`, which is physics and then the function of the environment's family
(:mod:`envs.native`). :class:`NativeEnvs` keeps what they work on and, with the interpreter's lock, tells the environments.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gymnasium
import llvmlite.binding
import mujoco
import numpy as np
from gymnasium.spaces import Box
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.sb3.arrays import norms_of
from agents.sb3.kernels import compiled, tanh
from envs import native
from envs.native import NativeEnv, Simulation, Transition

Array = NDArray[np.float32]
_LIBRARIES = (path for name in ("libmujoco.*", "mujoco.dll") for path in sorted(Path(mujoco.__file__).parent.glob(name)))
_LIBRARY = next(_LIBRARIES, None)
"""MuJoCo's library, beside its Python package; None where it was installed elsewhere, as by conda."""


def _from_mujoco(name: str) -> Any:
    """A function of MuJoCo's library that takes a model and a data, for compiled code to call at its address."""
    if _LIBRARY is not None:
        address = ctypes.cast(getattr(ctypes.CDLL(str(_LIBRARY)), name), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, types.void(types.intp, types.intp))


_mj_step = _from_mujoco("mj_step")
_mj_rne_post_constraint = _from_mujoco("mj_rnePostConstraint")
_CLOCK = None if _LIBRARY is None else ctypes.c_void_p.in_dll(ctypes.CDLL(str(_LIBRARY)), "mjcb_time")
"""Where MuJoCo looks for the clock that its Python package gives it."""


@contextmanager
def untimed() -> Iterator[None]:
    """Within it MuJoCo does not time itself for ``mjData.timer``, for which it reads a clock 570 times in a step of the Ant."""
    assert _CLOCK is not None  # noqa: S101
    before, _CLOCK.value = _CLOCK.value, None
    try:
        yield
    finally:
        if before is not None:  # else another thread is within, and will give it back
            _CLOCK.value = before


class Natives(NamedTuple):
    """Environments of one family, as compiled code sees them: a row for each."""

    addresses: NDArray[np.int64]  # of model, data and the arrays of Simulation
    shapes: NDArray[np.int64]  # of these arrays: (15, 2), 1 for a missing axis
    before: NDArray[np.float64]  # these arrays before the last step, one after the other
    constants: NDArray[np.float64]
    observations: NDArray[np.float64]  # after the last step, as the next two
    infos: NDArray[np.float64]
    actions: Array  # as the environments received them
    frame_skip: int
    contact_forces: bool


class Policy(NamedTuple):
    """A Gaussian policy: a chain of Linear layers with ReLU or tanh between, the weights ``(in, out)``.

    Norms stand between a hidden layer's sums and its activation: γ and β, ``(2, units)``, of no elements where there are none.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    norms: tuple[Array, ...]
    eps: float  # of the norms
    std: Array
    low: Array
    high: Array
    tanh: bool

    @classmethod
    def of(cls, modules: Sequence[nn.Module], std: Array, action_space: gymnasium.spaces.Box) -> Policy:
        """A policy whose weights are copied, as they are now.

        Args:
            modules: Of the network, in forward order.
            std: σ of each entry of an action.
            action_space: Actions are clipped to it.
        """
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        norms = norms_of(modules)
        affine = tuple(np.stack([norm.weight.detach().numpy(), norm.bias.detach().numpy()]) for norm in norms)
        return cls(
            weights=tuple(np.array(linear.weight.detach().numpy().T, order="C") for linear in linears),
            biases=tuple(linear.bias.detach().numpy().copy() for linear in linears),
            norms=affine or (np.empty((2, 0), np.float32),) * (len(linears) - 1),
            eps=norms[0].eps if norms else 0.0,
            std=std,
            low=np.ascontiguousarray(action_space.low, np.float32).reshape(-1),
            high=np.ascontiguousarray(action_space.high, np.float32).reshape(-1),
            tanh=isinstance(modules[-2], nn.Tanh),
        )


class Steps(NamedTuple):
    """What a rollout leaves, ``(steps, environments, …)``; ``noise`` is drawn before."""

    observations: NDArray[Any]
    noise: Array
    means: Array
    actions: Array  # as drawn, not clipped
    rewards: NDArray[np.float64]

    @classmethod
    def of(cls, buffer: RolloutBuffer, steps: int) -> Steps:
        """Those of a rollout whose observations are the buffer's."""
        shape = (steps, buffer.n_envs)
        noise, means, actions = (np.empty((*shape, buffer.action_dim), np.float32) for _ in range(3))
        return cls(buffer.observations.reshape(*shape, -1), noise, means, actions, np.zeros(shape))


RAN, TERMINATED, NOT_A_NUMBER = range(3)
"""How a stretch of steps ended."""


@compiled
def advance(first: int, last: int, i: int, natives: Natives, family: Any, policy: Policy, steps: Steps) -> tuple[int, int]:
    """Steps environment ``i`` from step ``first`` to before ``last``, or until its episode terminates.

    Returns:
        The step before which it stands now, and how it came to it.
    """
    now = _simulation(natives.addresses[i], natives.shapes)
    before = _views(natives.before[i], natives.shapes)
    for t in range(first, last):
        steps.observations[t, i] = natives.observations[i]
        if not act(t, i, policy, steps, natives.actions):
            return t, NOT_A_NUMBER
        steps.rewards[t, i], terminated = _take_step(i, natives, family, before, now)
        if terminated:
            return t + 1, TERMINATED
    return last, RAN


@compiled
def step_some(indices: NDArray[np.int64], natives: Natives, family: Any, rewards: Any, terminated: Any) -> None:
    """Takes one step of some environments, with the actions in ``natives``."""
    for i in indices:
        now = _simulation(natives.addresses[i], natives.shapes)
        rewards[i], terminated[i] = _take_step(i, natives, family, _views(natives.before[i], natives.shapes), now)


@compiled
def _take_step(i: int, natives: Natives, family: Any, before: Simulation, now: Simulation) -> tuple[float, bool]:
    _keep(natives.addresses[i], natives.shapes, natives.before[i])
    for j in range(len(now.ctrl)):
        now.ctrl[j] = natives.actions[i, j]
    model, data = natives.addresses[i, 0], natives.addresses[i, 1]
    for _ in range(natives.frame_skip):
        _mj_step(model, data)
    if natives.contact_forces:
        _mj_rne_post_constraint(model, data)
    outcome: tuple[float, bool] = family(
        before, now, natives.actions[i], natives.constants[i], natives.observations[i], natives.infos[i]
    )
    return outcome


@compiled
def act_all(t: int, policy: Policy, steps: Steps, clipped: Array) -> bool:
    """Draws the actions of all environments in step ``t``, whose observations stand in ``steps``."""
    numbers = True
    for i in range(len(clipped)):
        numbers &= act(t, i, policy, steps, clipped)
    return numbers


@compiled
def act(t: int, i: int, policy: Policy, steps: Steps, clipped: Array) -> bool:
    """A = μ(s) + σ·ε, and a clipped to the action space. One row at a time: the result depends on nothing else.

    Sums run over the inputs in their order, so that every processor rounds alike.

    Returns:
        Whether μ(s) are numbers.
    """
    h = steps.observations[t, i].astype(np.float32)
    last = len(policy.weights) - 1
    for k in range(last + 1):
        out = _linear(h, policy.weights[k], policy.biases[k])
        if k < last:
            if policy.norms[k].size:
                _normalise(out, policy.norms[k], policy.eps)
            if policy.tanh:
                tanh(out.reshape(1, -1))
            else:
                for b in range(len(out)):
                    out[b] = max(out[b], np.float32(0))
        h = out
    numbers = True
    for j in range(len(h)):
        numbers &= not math.isnan(h[j])
        steps.means[t, i, j] = h[j]
        action = h[j] + policy.std[j] * steps.noise[t, i, j]
        steps.actions[t, i, j] = action
        clipped[i, j] = min(max(action, policy.low[j]), policy.high[j])
    return numbers


@compiled
def _linear(h: Array, weight: Array, bias: Array) -> Array:
    out = bias.copy()
    whole = len(h) - len(h) % 4
    for a in range(0, whole, 4):  # four inputs at a time, so that sums are loaded and stored a quarter as often
        h0, h1, h2, h3 = h[a], h[a + 1], h[a + 2], h[a + 3]
        for b in range(len(out)):
            some = ((out[b] + h0 * weight[a, b]) + h1 * weight[a + 1, b]) + h2 * weight[a + 2, b]
            out[b] = some + h3 * weight[a + 3, b]
    for a in range(whole, len(h)):
        for b in range(len(out)):
            out[b] += h[a] * weight[a, b]
    return out


@compiled
def _normalise(z: Array, affine: Array, eps: float) -> None:
    """As ``LayerNorm``: z ← γ·(z − mean z) / √(var z + ε) + β; its sums run in their order, too."""
    mean, variance = 0.0, 0.0
    for j in range(len(z)):
        mean += z[j] / len(z)
    for j in range(len(z)):
        variance += (z[j] - mean) ** 2 / len(z)
    scale = math.sqrt(variance + eps)
    for j in range(len(z)):
        z[j] = affine[0, j] * (z[j] - mean) / scale + affine[1, j]


@intrinsic
def _as_pointer(_: Any, address: Any) -> Any:
    """An address as a pointer to float64."""
    signature = types.CPointer(types.float64)(address)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return signature, generate


_pointer: Any = _as_pointer  # which has another signature here than where it is compiled


@compiled
def _simulation(a: NDArray[np.int64], s: NDArray[np.int64]) -> Simulation:
    """The arrays at these addresses."""
    return Simulation(
        carray(_pointer(a[2]), s[0, 0]),
        carray(_pointer(a[3]), s[1, 0]),
        carray(_pointer(a[4]), s[2, 0]),
        carray(_pointer(a[5]), s[3, 0]),
        carray(_pointer(a[6]), s[4, 0]),
        carray(_pointer(a[7]), s[5, 0]),
        carray(_pointer(a[8]), s[6, 0]),
        carray(_pointer(a[9]), (s[7, 0], s[7, 1])),
        carray(_pointer(a[10]), (s[8, 0], s[8, 1])),
        carray(_pointer(a[11]), (s[9, 0], s[9, 1])),
        carray(_pointer(a[12]), (s[10, 0], s[10, 1])),
        carray(_pointer(a[13]), (s[11, 0], s[11, 1])),
        carray(_pointer(a[14]), (s[12, 0], s[12, 1])),
        carray(_pointer(a[15]), (s[13, 0], s[13, 1])),
        carray(_pointer(a[16]), (s[14, 0], s[14, 1])),
    )


@compiled
def _keep(addresses: NDArray[np.int64], shapes: NDArray[np.int64], row: NDArray[np.float64]) -> None:
    """Copies the arrays at these addresses into a row, one after the other."""
    start = 0
    for k in range(len(shapes)):
        size = shapes[k, 0] * shapes[k, 1]
        row[start : start + size] = carray(_pointer(addresses[k + 2]), size)
        start += size


@compiled
def _views(row: NDArray[np.float64], shapes: NDArray[np.int64]) -> Simulation:
    """The arrays that lie in a row one after the other."""
    addresses = np.empty(len(shapes) + 2, np.int64)
    addresses[2] = row.ctypes.data
    for k in range(1, len(shapes)):
        addresses[k + 2] = addresses[k + 1] + 8 * shapes[k - 1, 0] * shapes[k - 1, 1]
    return _simulation(addresses, shapes)


class NativeEnvs:
    """The environments of a vectorised environment, stepped by compiled code.

    Args:
        vec_env: One in which :func:`unsupported` has found nothing. It keeps its environments and buffers; what is done here
            is done to them.
    """

    def __init__(self, vec_env: DummyVecEnv) -> None:
        self._vec_env = vec_env
        self.envs = [NativeEnv(env) for env in vec_env.envs]
        first, n_envs = self.envs[0], len(self.envs)
        self._family = native.compiled(first.family)
        self._constants = [env.constants for env in self.envs]
        self.arrays = Natives(
            addresses=np.array([env.look_up()[0] for env in self.envs]),
            shapes=np.array(first.shapes),
            before=np.zeros((n_envs, first.size)),
            constants=np.array(self._constants, np.float64),
            observations=vec_env.buf_obs[None],  # type: ignore[index]
            infos=np.zeros((n_envs, len(first.family.infos))),
            actions=np.zeros((n_envs, *vec_env.action_space.shape), np.float32),  # type: ignore[misc]
            frame_skip=first.frame_skip,
            contact_forces=first.needs_contact_forces,
        )

    def refresh(self) -> None:
        """Looks up anew what may have been changed in the environments."""
        for i in range(len(self.envs)):
            self._look_up(i)

    def _look_up(self, i: int) -> None:
        self.arrays.addresses[i], self._constants[i] = self.envs[i].look_up()
        self.arrays.constants[i] = self._constants[i]

    def advance(self, i: int, first: int, last: int, policy: Policy, steps: Steps) -> tuple[int, dict[str, Any] | None, bool]:
        """Steps an environment from step ``first`` to before ``last`` or up to an event.

        Returns:
            The step before which it stands now; of an event its ``info``, else None; whether an episode ended with it.

        Raises:
            ValueError: The policy's means are not numbers.
        """
        env, room = self.envs[i], self.envs[i].room()
        if room == 0:
            steps.observations[first, i] = self.arrays.observations[i]
            if not act(first, i, policy, steps, self.arrays.actions):
                self._refuse(steps.means[first, i])
            steps.rewards[first, i], done, info = self._settle(i, env.env.step(self.arrays.actions[i].copy()))
            return first + 1, info, done
        at, how = advance(first, min(last, first + room), i, self.arrays, self._family, policy, steps)
        if how == NOT_A_NUMBER:
            self._refuse(steps.means[at, i])
        if how == RAN and at < first + room:
            env.skip(steps.rewards[first:at, i].tolist())
            return at, None, False
        env.skip(steps.rewards[first : at - 1, i].tolist())
        steps.rewards[at - 1, i], done, info = self._take(i, steps.rewards[at - 1, i], how == TERMINATED)
        return at, info, done

    def step(self, indices: Sequence[int]) -> None:
        """Takes one step of some environments with the actions of their vectorised environment."""
        self.arrays.actions[indices] = self._vec_env.actions[indices]
        rooms = {i: self.envs[i].room() for i in indices}
        some = np.array([i for i in indices if rooms[i]], np.int64)
        for i in some:
            if (constants := self.envs[i].constants) != self._constants[i]:  # set since the last step
                self.arrays.constants[i] = self._constants[i] = constants
        rewards, terminated = np.zeros(len(self.envs)), np.zeros(len(self.envs), bool)
        step_some(some, self.arrays, self._family, rewards, terminated)
        for i in indices:
            try:
                outcome = self._outcome(i, rooms[i], float(rewards[i]), bool(terminated[i]))
            except Exception as error:
                raise RuntimeError(f"environment {i} failed: {type(error).__name__}: {error}") from error
            self._vec_env.buf_rews[i], self._vec_env.buf_dones[i], self._vec_env.buf_infos[i] = outcome

    def _outcome(self, i: int, room: int, reward: float, terminated: bool) -> tuple[float, bool, dict[str, Any]]:
        """Reward, end and ``info`` of a step that compiled code has taken, or of one that is still to be taken."""
        env = self.envs[i]
        if room == 0:
            return self._settle(i, env.env.step(self.arrays.actions[i].copy()))
        if room == 1 or terminated:
            return self._take(i, reward, terminated)
        env.skip([reward])
        return reward, False, env.info(self.arrays.infos[i]) | {"TimeLimit.truncated": False}

    def _take(self, i: int, reward: float, terminated: bool) -> tuple[float, bool, dict[str, Any]]:
        arrays = self.arrays
        action, observation = arrays.actions[i].copy(), arrays.observations[i].copy()
        return self._settle(i, self.envs[i].take(action, arrays.before[i], observation, float(reward), terminated))

    def _settle(self, i: int, transition: Transition) -> tuple[float, bool, dict[str, Any]]:
        """Makes of a transition of Gymnasium's what SB3's vectorised environments make of it; resets where an episode ended."""
        observation, reward, terminated, truncated, info = transition
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, self._vec_env.reset_infos[i] = self.envs[i].env.reset()
        self._look_up(i)  # a reset or a change may have brought another model or other constants
        self.arrays.observations[i] = observation
        return float(reward), terminated or truncated, info

    @staticmethod
    def _refuse(means: Array) -> NoReturn:
        raise ValueError(f"the policy's actions are not numbers, nan in {means}: check observations and weights")


def unsupported(vec_env: DummyVecEnv) -> str | None:
    """Why compiled code cannot step the environments of a vectorised environment, in words; None where it can."""
    if _LIBRARY is None:
        return "MuJoCo's library is not beside its Python package"
    for env in vec_env.envs:
        if reason := native.unsupported(env, monitor=Monitor):
            return reason
    observed, done = vec_env.observation_space, vec_env.action_space
    if not (isinstance(observed, Box) and len(observed.shape) == 1 and observed.dtype == np.float64):
        return f"observations are {observed}, not a vector in float64"
    if not (isinstance(done, Box) and done.shape == (NativeEnv(vec_env.envs[0]).controls,) and done.dtype == np.float32):
        return f"actions are {done}, not the controls in float32"
    kinds = {_kind(NativeEnv(env)) for env in vec_env.envs}
    return "the environments are of several kinds" if len(kinds) > 1 else None


def _kind(env: NativeEnv) -> Any:
    return env.family, tuple(env.shapes), env.frame_skip, env.needs_contact_forces, len(env.look_up()[1])
