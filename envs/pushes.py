"""Blows from outside: one in the first step of each phase of its own clock."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import anatomy, probes
from envs.anatomy import Parts
from envs.checks import EffectError, ParameterError, env_name
from envs.effects import Acting, Effect, Parameter
from envs.places import Subject, Things, select


@dataclass(frozen=True)
class Push(Parameter):
    """A blow along an axis of the world against all bodies, or against one.

    Attributes:
        axis: 0, 1 or 2.
    """

    axis: int = 0

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        model = subject.physics
        data = probes.moving(model, velocity=0.0)
        if not _velocities(model, data, self.struck(model, part), self.axis, 1.0).any():
            raise ParameterError(f"{self.name} needs {self.needs}, which {env_name(subject.env)} lacks")
        if subject.data is None:
            raise ParameterError(f"{self.name} needs the MjData of {env_name(subject.env)}, which model= can return beside")
        return _PushEffect(self, part)

    def parts(self, model: mujoco.MjModel) -> Parts:
        """The bodies that can be struck."""
        return anatomy.bodies(model)

    def struck(self, model: mujoco.MjModel, part: str | None) -> Things:
        """The bodies that are struck.

        Raises:
            envs.ParameterError: There is no such body.
        """
        parts = self.parts(model)
        names = list(parts) if part is None else select(f"part of {self.name}", part, parts)
        return tuple(thing for name in names for thing in parts[name])


class _PushEffect(Acting):
    """Strikes in the first step after its value has come."""

    def __init__(self, parameter: Push, part: str | None) -> None:
        super().__init__()
        self._axis, self._part, self._due = parameter.axis, part, False
        self._after = np.empty(0)  # the velocities after a blow whose step has not been taken yet
        self._struck = parameter.struck

    def begin_phase(self) -> None:
        """Strikes in the next step."""
        self._due = True

    def begin_step(self, subject: Subject) -> None:
        """Strikes where a blow is due."""
        if not self._due:
            return
        model, data = subject.physics, subject.data
        if data is None:
            raise EffectError(f"{env_name(subject.env)} has no MjData any more, which a push acts on")
        if self._value and not np.array_equal(data.qvel, self._after):
            now = copy.copy(data)
            mujoco.mj_fwdPosition(model, now)  # an environment need not have computed it after its last step
            data.qvel += _velocities(model, now, self._struck(model, self._part), self._axis, self._value)
            mujoco.mj_fwdVelocity(model, data)  # dm_control computes it at the end of a step for the next one
            self._after = data.qvel.copy()

    def end_step(self) -> None:
        """The blow has been dealt."""
        self._due, self._after = False, np.empty(0)

    def state_dict(self) -> dict[str, Any]:
        """Whether a blow is due."""
        return super().state_dict() | {"due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        super().load_state_dict(state)
        self._due = state["due"]


def _velocities(model: mujoco.MjModel, data: mujoco.MjData, bodies: Things, axis: int, speed: float) -> NDArray[np.float64]:
    """What a blow adds to the generalised velocities: v = M⁻¹·Σ Jᵀ·m·Δv, with the Jacobian J of each centre of mass."""
    impulse, jacobian = np.zeros(model.nv), np.zeros((3, model.nv))
    for thing in bodies:
        mujoco.mj_jacBodyCom(model, data, jacobian, None, thing.number)
        impulse += model.body_mass[thing.number] * speed * jacobian[axis]
    added = np.zeros((1, model.nv))
    mujoco.mj_solveM(model, data, added, impulse[None])
    velocities: NDArray[np.float64] = added[0]
    return velocities
