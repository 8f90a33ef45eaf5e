"""The MuJoCo simulation of an environment: the one definition of a MuJoCo environment in this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gymnasium
import mujoco
import numpy as np

from envs.checks import ParameterError, env_name, shown

ModelSource = Callable[[gymnasium.Env[Any, Any]], Any]
"""Returns an environment's ``MjModel``, or a tuple of it and its ``MjData``."""

_OF_MODELS = ("model", "mj_model")

_NOWHERE = object()

_Kind = TypeVar("_Kind", mujoco.MjModel, mujoco.MjData)


def find_model(env: gymnasium.Env[Any, Any], source: ModelSource | None = None) -> mujoco.MjModel:
    """The MuJoCo model that an environment simulates: itself, not a copy.

    Found are: the ``model`` of Gymnasium's environments, gymnasium-robotics, metaworld and classes of one's own; ``mj_model``;
    the ``physics`` of dm_control, also within shimmy's wrapper of it; the ``sim`` of robosuite and MyoSuite.

    Args:
        env: An environment, wrapped or not.
        source: Says where the model is in an environment that keeps it elsewhere.

    Raises:
        ParameterError: No Gymnasium environment, or one without a MuJoCo model.
    """
    check_env(env)
    model = look_for_model(env, source)
    if model is None and any(_lacks_yet(holder, name) for holder in _holders(env.unwrapped) for name in _OF_MODELS):
        raise ParameterError(
            f"env must be a MuJoCo environment, got {env_name(env)}, which has no MjModel now: reset it first, if it makes "
            "one then; otherwise model=, a function of the environment, says where it is"
        )
    if model is None:
        raise ParameterError(
            f"env must be a MuJoCo environment, got {env_name(env)}; model=, a function of the environment, says where its "
            "MjModel is"
        )
    return model


def check_env(env: object) -> None:
    """Refuses what is no environment of Gymnasium, or one that begins episodes of which its wrappers hear nothing.

    Raises:
        ParameterError: Something else.
    """
    if not isinstance(env, gymnasium.Env):
        hint = "; shimmy.DmControlCompatibilityV0 makes one of dm_control's" if hasattr(env, "physics") else ""
        raise ParameterError(f"env must be a Gymnasium environment, got {shown(env)}{hint}")
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if type(layer).__name__ == "Autoreset":  # as old versions of Gymnasium do not have it
            raise ParameterError(
                f"env must not reset itself, got {shown(env)} with an Autoreset inside: put that around this one"
            )
        layer = layer.env


def check_itself(env: gymnasium.Env[Any, Any], source: ModelSource | None = None) -> None:
    """Refuses an environment that hands out copies of its simulation: what is written into one does not reach it.

    Args:
        env: An environment, wrapped or not.
        source: As for :func:`find_model`.

    Raises:
        ParameterError: Its ``MjModel`` or ``MjData`` is another object at each look-up.
    """
    kinds: dict[str, Callable[..., Any]] = {"MjModel": look_for_model, "MjData": find_data}
    for kind, look_up in kinds.items():
        if look_up(env, source) is not look_up(env, source):
            raise ParameterError(
                f"{env_name(env)} must have one {kind}, got another at each look-up, as of copies; model=, a function of the "
                "environment, returns its MjModel itself, or a tuple of it and its MjData"
            )


def look_for_model(env: gymnasium.Env[Any, Any], source: ModelSource | None = None) -> mujoco.MjModel | None:
    """The MuJoCo model that an environment simulates, as :func:`find_model` finds it; None where there is none."""
    if source is not None:
        return _given(env, source)[0]
    return next(_found(env, mujoco.MjModel, _OF_MODELS), None)


def find_data(env: gymnasium.Env[Any, Any], source: ModelSource | None = None) -> mujoco.MjData | None:
    """The state of an environment's simulation; None where it is not to be found.

    Args:
        env: An environment, wrapped or not.
        source: As for :func:`find_model`.
    """
    found = list(_found(env, mujoco.MjData, ("data", "mj_data")))
    if source is None:
        return next(iter(found), None)
    model, data = _given(env, source)
    if data is not None:
        return data
    own = [each for each in found if each.model is model]
    if not own and look_for_model(env) in (None, model):  # not another simulation beside it; copies have a model of their own
        own = [each for each in found if are_alike(each.model, model)]
    return next(iter(own), None)


def are_alike(model: mujoco.MjModel | None, other: mujoco.MjModel | None) -> bool:
    """Whether two models have the same objects, so that a field of one has the shape that it has in the other."""
    if model is None or other is None:
        return False
    return bool(model.signature == other.signature and mujoco.mj_sizeModel(model) == mujoco.mj_sizeModel(other))


def feel_change(model: mujoco.MjModel, data: mujoco.MjData, scratch: mujoco.MjData) -> None:
    """Lets a simulation feel a change of its model from the next step on.

    Bodies that MuJoCo has put to sleep are woken. MuJoCo wakes what has a velocity other than 0, so each sleeping tree is given
    the least there is. What a step begins with (mass matrix, bias, passive forces, contacts) is computed anew where the
    environment has computed it at the end of the last one, as dm_control does: its poses are those of its positions then. Of
    bodies that are placed by hand (mocap), those count that they had then: where the next step is to place them, it still does.
    ``mj_step`` computes all that by itself, and leaves the poses from before it moved; they are left to whoever reads them.

    Args:
        model: What was changed.
        data: The simulation's.
        scratch: Room for poses of the same model.
    """
    asleep = getattr(data, "tree_asleep", None)  # MuJoCo has it since 3.3.7
    if asleep is not None and (asleep >= 0).any():
        data.qvel[model.tree_dofadr[asleep >= 0]] = np.finfo(float).tiny
    if not are_alike(data.model, model):  # in a copy it is one of its own
        return
    by_hand = model.body_mocapid >= 0
    numbers = model.body_mocapid[by_hand]
    scratch.qpos[:] = data.qpos
    scratch.mocap_pos[numbers], scratch.mocap_quat[numbers] = data.xpos[by_hand], data.xquat[by_hand]
    mujoco.mj_kinematics(model, scratch)
    if np.array_equal(scratch.xpos, data.xpos) and np.array_equal(scratch.xquat, data.xquat):
        to_come = data.mocap_pos.copy(), data.mocap_quat.copy()
        data.mocap_pos[:], data.mocap_quat[:] = scratch.mocap_pos, scratch.mocap_quat
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        data.mocap_pos[:], data.mocap_quat[:] = to_come


def _given(env: gymnasium.Env[Any, Any], source: ModelSource) -> tuple[mujoco.MjModel, mujoco.MjData | None]:
    if not callable(source):
        raise ParameterError(
            "model= must be a function of the environment that returns its MjModel, or a tuple of it and its MjData; got "
            f"{shown(source)}"
        )
    given = source(env)
    model, data = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData | None):
        raise ParameterError(f"model= must return an MjModel, or a tuple of it and its MjData; got {shown(given)}")
    if data is not None and not are_alike(data.model, model):
        raise ParameterError("model= must return an MjModel and its own MjData, got the MjData of another model")
    return model, data


def _found(env: gymnasium.Env[Any, Any], kind: type[_Kind], names: tuple[str, str]) -> Iterator[_Kind]:
    """What of a kind the places that are known have."""
    for holder in _holders(env.unwrapped):
        for name in names:
            candidate = _part(holder, name)
            # dm_control, and robosuite, have an object of their own around MuJoCo's.
            for each in (candidate, _part(candidate, "ptr"), _part(candidate, f"_{name}")):
                if isinstance(each, kind):
                    yield each


def _lacks_yet(holder: Any, name: str) -> bool:
    """Whether there is a place for a model, but nothing in it."""
    return inspect.getattr_static(holder, name, _NOWHERE) is not _NOWHERE and _part(holder, name) is None


def _holders(env: Any) -> Iterator[Any]:
    yield env
    for name in ("sim", "physics"):
        if (holder := _part(env, name)) is not None:
            yield holder
    if (holder := _part(_part(env, "_env"), "physics")) is not None:
        yield holder


def _part(owner: Any, name: str) -> Any:
    """An attribute; None where there is none, or none yet: whatever a property of others raises then."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None
