"""What compiled code sees of a MuJoCo simulation, and what a kind of environment tells it about a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numba import cfunc, types
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Simulation(NamedTuple):
    """Arrays of ``mujoco.MjData``, by their names and with their shapes there."""

    qpos: Array
    qvel: Array
    ctrl: Array
    qfrc_actuator: Array
    ten_length: Array
    ten_velocity: Array
    sensordata: Array
    xpos: Array
    xquat: Array
    xipos: Array
    site_xpos: Array
    subtree_com: Array
    cinert: Array
    cvel: Array
    cfrc_ext: Array


_VECTORS = 7  # the first fields have one axis, the others two

_SIMULATION = types.NamedTuple(  # type: ignore[no-untyped-call]
    [types.float64[::1] if k < _VECTORS else types.float64[:, ::1] for k in range(len(Simulation._fields))], Simulation
)
STEP = types.Tuple((types.float64, types.boolean))(  # type: ignore[no-untyped-call]
    _SIMULATION, _SIMULATION, types.float32[::1], types.float64[::1], types.float64[::1], types.float64[::1]
)
"""The compiled type of :meth:`Family.step`."""


class Family(ABC):
    """Environments whose step is a function of arrays: what an agent observes and is paid, and when an episode ends.

    A subclass, with the decorator :func:`family`, lets compiled code step environments of its class. The environment itself
    still does what is rare: resets, changes, and the last step of each episode, in which :meth:`step` is checked against it.

    Attributes:
        infos: Keys of the environment's ``info`` that :meth:`step` fills in, numbers all.

    Example:
        >>> import numpy as np
        >>> from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
        >>> from envs import native
        >>> class Pendulum(InvertedPendulumEnv):
        ...     pass
        >>> @native.family(Pendulum)
        ... class InvertedPendulum(native.Family):
        ...     infos = ("reward_survive",)
        ...
        ...     @staticmethod
        ...     def step(before, after, action, constants, observation, info):
        ...         observation[:2] = after.qpos
        ...         observation[2:] = after.qvel
        ...         fallen = not np.isfinite(observation).all() or abs(observation[1]) > 0.2
        ...         info[0] = 0.0 if fallen else 1.0
        ...         return info[0], fallen
        >>> native.unsupported(Pendulum()) is None
        True
    """

    infos: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def unsupported(env: Any) -> str | None:  # noqa: ARG004
        """Why an environment of the class cannot be stepped by :meth:`step`, in words; None where it can."""
        return None

    @staticmethod
    def constants(env: Any) -> list[float]:  # noqa: ARG004
        """The numbers of an environment that :meth:`step` needs. Asked for anew after each reset."""
        return []

    @staticmethod
    def needs_contact_forces(env: Any) -> bool:  # noqa: ARG004
        """Whether ``cfrc_ext`` is to be computed after each step (``mj_rnePostConstraint``)."""
        return False

    @staticmethod
    def more_info(env: Any) -> dict[str, Any]:  # noqa: ARG004
        """What else is in ``info`` after a step."""
        return {}

    @staticmethod
    @abstractmethod
    def step(
        before: Simulation, after: Simulation, action: NDArray[np.float32], constants: Array, observation: Array, info: Array
    ) -> tuple[float, bool]:
        """The outcome of a step, in the part of Python that numba compiles.

        What it calls must stand in the same file: numba keeps compiled code until that file changes.

        Args:
            before: The simulation before the step.
            after: The simulation after it.
            action: As the environment received it: ``(actions,)``.
            constants: What :meth:`constants` returned.
            observation: To be filled in: ``(observations,)``.
            info: To be filled in, in the order of ``infos``.

        Returns:
            The reward, and whether the episode has terminated.
        """


class _Pointer(types.WrapperAddressProtocol):
    """A compiled function that other compiled code calls by its address, so that neither knows the other's source."""

    _numba_type_ = types.FunctionType(STEP)  # which numba would work out at every call

    def __init__(self, function: Any) -> None:
        self._function = function  # its code lives as long

    def __wrapper_address__(self) -> int:
        return int(self._function.address)

    def signature(self) -> Any:
        return STEP


_FAMILIES: dict[type[gymnasium.Env[Any, Any]], type[Family]] = {}
_COMPILED: dict[type[Family], _Pointer] = {}

_Kind = TypeVar("_Kind", bound=type[Family])


def family(*classes: type[MujocoEnv]) -> Callable[[_Kind], _Kind]:
    """Says of which environments a :class:`Family` is: those of exactly these classes.

    Args:
        *classes: Gymnasium's MuJoCo environments or subclasses of ``MujocoEnv`` with its ``do_simulation``.
    """

    def register(kind: _Kind) -> _Kind:
        _FAMILIES.update(dict.fromkeys(classes, kind))
        return kind

    return register


def family_of(env: gymnasium.Env[Any, Any]) -> type[Family] | None:
    """The family of an environment without its wrappers; None where it has none."""
    return _FAMILIES.get(type(env))


def compiled(kind: type[Family]) -> _Pointer:
    """The step of a family, compiled at the first call and kept on disk beside the file that it stands in."""
    if kind not in _COMPILED:
        try:
            function = cfunc(STEP, cache=True, error_model="numpy")(kind.step)
        except RuntimeError:  # typed in by hand: there is no file
            function = cfunc(STEP, error_model="numpy")(kind.step)
        _COMPILED[kind] = _Pointer(function)
    return _COMPILED[kind]


_CALLBACKS = ("act_bias", "act_dyn", "act_gain", "contactfilter", "control", "passive", "sensor", "time")


def python_callbacks() -> list[str]:
    """MuJoCo's global callbacks that are Python functions; compiled code would call them without the interpreter's lock."""
    return [f"mjcb_{name}" for name in _CALLBACKS if getattr(mujoco, f"get_mjcb_{name}")() is not None]
