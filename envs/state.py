"""Where an environment is: all that its next steps depend on, as plain values, and back."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from envs.checks import ParameterError
from envs.nonstationary import NonStationary

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION


def save_state(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """The state of an environment and of its wrappers, between two steps.

    Of each it takes the attributes that are numbers, arrays, random generators, or lists and dictionaries of such; of a MuJoCo
    environment the simulation too, and of :class:`NonStationary` what its ``state_dict`` holds. That is all there is to
    Gymnasium's own MuJoCo and classic control environments and the wrappers that ``gymnasium.make`` puts around them. An
    environment that keeps its state in objects of its own goes on from another state.

    Args:
        env: Any environment.

    Returns:
        For each wrapper, the outermost first, and then for the environment: its class's name under ``"class"``, and its
        state. Dictionaries, lists, numbers, strings and arrays.
    """
    return [_save_layer(layer) for layer in _layers(env)]


def load_state(env: gymnasium.Env[Any, Any], state: list[dict[str, Any]]) -> None:
    """Puts an environment made in the same way where :func:`save_state` found the other. No ``reset`` is needed.

    Args:
        env: The environment.
        state: What :func:`save_state` returned.

    Raises:
        envs.ParameterError: The state is of an environment of other classes or another size. Nothing is changed then.
    """
    layers = _layers(env)
    names, expected = [saved.get("class") for saved in state], [type(layer).__name__ for layer in layers]
    if names != expected:
        raise ParameterError(f"state must be that of {' around '.join(expected)}, got {' around '.join(map(str, names))}")
    for layer, saved in zip(layers, state, strict=True):
        size = mujoco.mj_stateSize(layer.model, _PHYSICS) if isinstance(layer, MujocoEnv) else None
        if size is not None and np.shape(saved["simulation"]["state"]) != (size,):
            received = np.shape(saved["simulation"]["state"])
            raise ParameterError(f"state must have a simulation of {size} numbers, got {received}")
    for layer, saved in zip(layers, state, strict=True):
        _load_layer(layer, saved)


def _layers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _save_layer(layer: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    saved: dict[str, Any] = {"class": type(layer).__name__}
    if isinstance(layer, NonStationary):
        return saved | {"schedule": layer.state_dict()}
    saved["values"] = {name: _encode(value) for name, value in vars(layer).items() if _is_plain(value)}
    if isinstance(layer, MujocoEnv):
        state = np.empty(mujoco.mj_stateSize(layer.model, _PHYSICS))
        mujoco.mj_getState(layer.model, layer.data, state, _PHYSICS)
        # What the physics computes anew at each step, but an environment may read before the next one, such as positions.
        derived = {name: array.copy() for name, array in _arrays(layer.data).items()}
        saved["simulation"] = {"state": state, "derived": derived}
    return saved


def _load_layer(layer: gymnasium.Env[Any, Any], saved: dict[str, Any]) -> None:
    if isinstance(layer, NonStationary):
        layer.load_state_dict(saved["schedule"])
        return
    for name, value in saved["values"].items():
        now = getattr(layer, name, None)  # some are set by the first reset only
        if isinstance(now, np.random.Generator):
            now.bit_generator.state = value["generator"]
        elif now is None or _is_plain(now):
            setattr(layer, name, _decode(value))
    if isinstance(layer, MujocoEnv):
        mujoco.mj_setState(layer.model, layer.data, saved["simulation"]["state"], _PHYSICS)
        for name, array in _arrays(layer.data).items():
            kept = saved["simulation"]["derived"].get(name)
            if kept is not None and kept.shape == array.shape:
                array[...] = kept


def _arrays(data: mujoco.MjData) -> dict[str, Any]:
    """The arrays of a simulation whose size does not change from step to step."""
    arrays = {name: getattr(data, name) for name in dir(data) if not name.startswith(("_", "efc_", "contact"))}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.dtype.kind in "fiub"}


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    return isinstance(value, bool | int | float | np.number | np.bool_ | np.random.Generator)


def _encode(value: Any) -> Any:
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(item) for item in value]}
    if isinstance(value, np.ndarray):
        return {"array": value.copy()}
    if isinstance(value, np.generic):
        return {"scalar": np.array(value)}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "generator":
        generator = np.random.default_rng()
        generator.bit_generator.state = content
        return generator
    if kind == "dict":
        return {key: _decode(item) for key, item in content.items()}
    if kind in ("list", "tuple"):
        items = [_decode(item) for item in content]
        return items if kind == "list" else tuple(items)
    return content.copy() if kind == "array" else content[()]
