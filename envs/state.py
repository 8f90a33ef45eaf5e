"""Where an environment is: all that its next steps depend on, as plain values, and back."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np

from envs.checks import ParameterError, env_name, shown
from envs.decoding import Decoder
from envs.encoding import Encoder
from envs.models import arrays_of, attributes_of, load_model, save_model, write
from envs.nonstationary import NonStationary
from envs.simulation import check_itself, find_data, look_for_model
from envs.tasks import TaskSequence

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION

_GROWING = ("efc_", "contact")
"""How the names of a simulation's arrays begin whose size differs from step to step."""

_AWAKE = ("ntree_awake", "nbody_awake", "nparent_awake", "nv_awake")
"""How much of a simulation does not sleep, where MuJoCo lets bodies sleep."""


def save_state(env: gymnasium.Env[Any, Any]) -> list[dict[str, Any]]:
    """The state of an environment and of its wrappers, between two steps: exact, or refused.

    It has the attributes of environment and wrappers, and of the objects that these are made of, as far as they are numbers,
    strings, arrays, random generators, or lists and dictionaries of such; the random generators of their classes, and those of
    modules that their methods name; of the MuJoCo simulation its state with contacts and forces, and what an environment may
    have written into this model or another that it keeps; of :class:`NonStationary` what its ``state_dict`` holds, and whether
    it is held; of a :class:`TaskSequence` the same, the state of its task and those of all environments that were given to it.
    Of functions and classes it has the names, of dm_control's ``physics`` the numbers, arrays, generators and containers of
    these that it keeps itself. Networks and renderers are no state, and of spaces only what draws their samples is. An
    ``MjSpec`` can only be compared. What lies outside, such as plain variables of a class, closures and the global generators,
    is not seen.

    Args:
        env: Any environment.

    Returns:
        For each wrapper, the outermost first, and then for the environment: its class's name under ``"class"``, and its
        state. Dictionaries, lists, numbers, strings and arrays.

    Raises:
        envs.ParameterError: A part keeps something that is none of these, such as the world of another simulator. It is named.
            Or the environment hands out copies of its simulation.
    """
    layers, simulation = _layers(env), _Simulation.of(env)
    encoder = Encoder(layers, simulation.objects, functools.cache(simulation.arrays))
    try:
        saved = [_save_layer(layer, encoder) for layer in layers]
    except RecursionError:
        raise ParameterError(f"state cannot be saved of {env_name(env)}, whose objects hold one another too deeply") from None
    saved[-1]["generators"] = encoder.finish()
    if simulation.data is not None:
        saved[-1]["simulation"] = simulation.save()
    return saved


def load_state(env: gymnasium.Env[Any, Any], state: list[dict[str, Any]]) -> None:
    """Puts an environment made in the same way where :func:`save_state` found the other. No ``reset`` is needed.

    Args:
        env: The environment.
        state: What :func:`save_state` returned, in this release or an earlier one.

    Raises:
        envs.ParameterError: The state is of an environment of other classes, another size, or other changes, or has attributes
            of an object that came in mid-episode with parts that are no state. Nothing is changed then, but that an environment
            without such an object was reset, and that where the state of a task is refused, its sequence has gone on to the
            task in force, and what was loaded before it stays.

    Warns:
        UserWarning: The environment has an ``MjSpec`` that is another than it was; or a function or class that is, where the
            one of then is neither in a table of its own nor defined in its modules.
    """
    layers = _layers(env)
    _check_parts(layers, state)
    for layer, saved in zip(layers, state, strict=True):
        if isinstance(layer, NonStationary | TaskSequence):
            layer.check_state_dict(saved["schedule"])
    _Simulation.of(env).check(state[-1])
    decoder, missing = _decoder(env, layers, state)
    if missing or decoder.misses:
        env.reset()  # some parts are made by the first reset only
        decoder, missing = _decoder(env, layers, state)
    if missing:
        raise ParameterError(f"state has attributes of {missing}, an object that the environment lacks after a reset")
    model = _Simulation.of(env).model
    for layer, saved in zip(layers, state, strict=True):
        if isinstance(layer, NonStationary | TaskSequence):
            layer.load_state_dict(saved["schedule"], hold=saved.get("holds", False))
            if isinstance(layer, TaskSequence):
                _load_tasks(layer, saved)
        else:
            decoder.decode(layer, saved["values"])
    decoder.finish(state[-1].get("generators", []))
    _load_simulation(env, layers, state, model)


def _check_parts(layers: list[gymnasium.Env[Any, Any]], state: Any) -> None:
    if not (isinstance(state, list) and all(isinstance(saved, dict) for saved in state)):
        raise ParameterError(f"state must be the list of dictionaries that save_state returned, got {shown(state):.80}")
    names, expected = [saved.get("class") for saved in state], [type(layer).__name__ for layer in layers]
    if names != expected:
        raise ParameterError(f"state must be that of {' around '.join(expected)}, got {' around '.join(map(str, names))}")
    for layer, saved in zip(layers, state, strict=True):
        parts = ["schedule"] if isinstance(layer, NonStationary) else ["values"]
        for part in ["schedule", "of_task"] if isinstance(layer, TaskSequence) else parts:
            if part not in saved:
                raise ParameterError(f"state must be what save_state returned, got one without {part!r} of {saved['class']}")


class _Simulation(NamedTuple):
    """The MuJoCo simulation of an environment, or none."""

    model: mujoco.MjModel | None
    data: mujoco.MjData | None

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> _Simulation:
        changing = NonStationary.of(env)
        source = None if changing is None else changing.source
        check_itself(env, source)
        model, data = look_for_model(env, source), find_data(env, source)
        if model is not None and data is None:
            raise ParameterError(f"state cannot be saved of the simulation of {env_name(env)}, whose MjData is not to be found")
        return cls(model, data)

    @property
    def objects(self) -> list[Any]:
        return [each for each in self if each is not None]

    def arrays(self) -> dict[str, Any]:
        """All arrays into which an environment may look, by name."""
        owners = {"": self.model, "opt.": getattr(self.model, "opt", None), "data.": self.data}
        return {
            prefix + name: array
            for prefix, owner in owners.items()
            if owner is not None
            for name, array in arrays_of(owner).items()
        }

    def named(self, of: str, kind: str, number: int) -> Any:
        """What the model or the data has of a kind, such as a body."""
        return getattr(self._asdict()[of], kind)(number)

    def save(self) -> dict[str, Any]:
        state = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, state, _PHYSICS)
        # What the physics computes anew at each step, but an environment may read before the next one, such as positions.
        derived = {name: array.copy() for name, array in arrays_of(self.data, _GROWING).items()}
        awake = {name: getattr(self.data, name) for name in _AWAKE if hasattr(self.data, name)}
        growing = {name: array.copy() for name, array in self._growing.items()}
        simulation = {"state": state, "derived": derived, "awake": awake, "counts": self._counts, "growing": growing}
        return save_model(self.model) | simulation

    @property
    def _growing(self) -> dict[str, Any]:
        """Contacts, and the constraints and forces that follow from them."""
        contacts = {f"contact.{name}": array for name, array in arrays_of(self.data.contact).items()}  # type: ignore[union-attr]
        return contacts | {name: array for name, array in arrays_of(self.data).items() if name.startswith("efc_")}

    @property
    def _counts(self) -> dict[str, int]:
        """How much there is of what differs from step to step."""
        counts = attributes_of(self.data, _AWAKE)
        return {name: value for name, value in counts if name.startswith("n") and isinstance(value, int)}

    @property
    def _signature(self) -> int:
        """Of the objects that the model consists of; MuJoCo has it since 3.2."""
        return int(self.model.signature)  # type: ignore[union-attr]

    def check(self, saved: dict[str, Any]) -> None:
        if (self.data is None) != ("simulation" not in saved):
            has = "no simulation" if self.data is None else "a simulation"
            raise ParameterError(f"state must be that of an environment with {has}, got another")
        if self.data is not None:
            size, received = mujoco.mj_stateSize(self.model, _PHYSICS), np.shape(saved["simulation"]["state"])
            if received != (size,):
                raise ParameterError(
                    f"state must have a simulation of {size} numbers, got {received}; that of a model of another structure, as "
                    "some environments build in a reset, cannot be loaded"
                )
            if saved["simulation"].get("signature", self._signature) != self._signature:
                raise ParameterError(
                    "state must be that of the same MuJoCo model, got one of other bodies, joints or actuators"
                )

    def load(self, saved: dict[str, Any]) -> None:
        if self.data is None:
            return
        simulation = saved["simulation"]
        load_model(self.model, simulation)
        mujoco.mj_setState(self.model, self.data, simulation["state"], _PHYSICS)
        growing = self._make_room(simulation)
        for name, array in (arrays_of(self.data, _GROWING) | self._growing).items():
            write(simulation["derived"].get(name, growing.get(name)), array)
        for name, number in simulation.get("awake", {}).items():
            setattr(self.data, name, number)

    def _make_room(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Lets MuJoCo find as many contacts and constraints as were saved.

        They are those of the positions now, where a step computes them at its end, as in dm_control; or those of the positions
        before the last step of MuJoCo, which follow from the velocity: but for rounding, and with RK4 for more than that.

        Returns:
            What is to be written there; nothing where there are not as many, but those of the positions now.
        """
        now = self.data.qpos.copy()  # type: ignore[union-attr]
        before = now.copy()
        mujoco.mj_integratePos(self.model, before, self.data.qvel, -self.model.opt.timestep)  # type: ignore[union-attr]
        for positions in (now, before, now):
            self.data.qpos[:] = positions  # type: ignore[union-attr]
            mujoco.mj_fwdPosition(self.model, self.data)
            mujoco.mj_fwdVelocity(self.model, self.data)
            if saved.get("counts", self._counts) == self._counts:
                return saved.get("growing", {})  # type: ignore[no-any-return]
        return {}


def _layers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _decoder(
    env: gymnasium.Env[Any, Any], layers: list[gymnasium.Env[Any, Any]], state: list[dict[str, Any]]
) -> tuple[Decoder, str | None]:
    """What decodes a state for an environment as it is, and what this lacks."""
    arrays = functools.cache(lambda: _Simulation.of(env).arrays())
    decoder = Decoder(layers, arrays, lambda *path: _Simulation.of(env).named(*path), is_whole="generators" in state[-1])
    missing = [decoder.lacks(layer, saved.get("values", {})) for layer, saved in zip(layers, state, strict=True)]
    return decoder, next(filter(None, missing), None)


def _load_simulation(
    env: gymnasium.Env[Any, Any], layers: list[gymnasium.Env[Any, Any]], state: list[dict[str, Any]], before: Any
) -> None:
    """Loads the simulation; a wrapper that changes it follows it to another model than the one before."""
    simulation, changing = _Simulation.of(env), NonStationary.of(env)
    of_it: dict[str, Any] = next((saved for layer, saved in zip(layers, state, strict=True) if layer is changing), {})
    if changing and simulation.model is not before:
        for _ in range(2):  # follows, and learns what the other model has of its own
            changing.load_state_dict(of_it["schedule"], hold=of_it.get("holds", False))
    simulation.load(state[-1])
    if changing:
        changing.take_simulation(of_it["schedule"])


def _load_tasks(sequence: TaskSequence, saved: dict[str, Any]) -> None:
    """Loads the task in force, and what a release before did not save: the environments that were given and wait."""
    waiting, given = sequence.waiting, dict(saved.get("waiting", []))
    if "waiting" in saved and given.keys() != waiting.keys():
        names = " and ".join(sequence.tasks[number] for number in sorted(given.keys() ^ waiting.keys()))
        raise ParameterError(f"state must be that of the same tasks given as environments, got one that differs in {names}")
    for number, state in given.items():
        load_state(waiting[number], state)
    load_state(sequence.env, saved["of_task"])


def _save_layer(layer: gymnasium.Env[Any, Any], encoder: Encoder) -> dict[str, Any]:
    saved: dict[str, Any] = {"class": type(layer).__name__}
    if isinstance(layer, NonStationary | TaskSequence) and layer.holds:
        saved["holds"] = True
    if isinstance(layer, NonStationary):
        return saved | {"schedule": layer.whole_state_dict()}
    if isinstance(layer, TaskSequence):
        waiting = [[number, save_state(env)] for number, env in layer.waiting.items()]
        return saved | {"schedule": layer.state_dict(), "of_task": save_state(layer.env), "waiting": waiting}
    return saved | {"values": encoder.encode(layer)}
