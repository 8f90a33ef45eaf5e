"""What a wrapper has put into force in the simulation that its environment has now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco

from envs import checks
from envs.checks import EffectError, ParameterError
from envs.held import Held, displace, hold, release, suspend
from envs.places import Subject
from envs.sequence import Sequence
from envs.simulation import ModelSource, are_alike, check_itself, feel_change, look_for_model

_REBUILT = "has another simulation now, without what changed in the last one"


class InForce:
    """The simulation that is changed, and what is held there.

    Args:
        env: The environment.
        source: Says where its MuJoCo model is, as for :func:`envs.simulation.find_model`.

    Raises:
        envs.ParameterError: The environment hands out copies of its simulation.

    Attributes:
        subject: The simulation, as the environment had it when it was last looked up.
        has_other_own: Whether it was found to have something else of its own than when it was made.
        first: What it had itself when it was made, as JSON can hold it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], source: ModelSource | None) -> None:
        check_itself(env, source)
        self._env, self._source = env, source
        self.subject = self._look_up()
        self.has_other_own = False
        self.first: list[list[float]] = []
        self._scratch: mujoco.MjData | None = None
        self._others = suspend(self.subject)

    def hold(self, sequence: Sequence, holder: Any) -> None:
        """Begins to hold the effects of a sequence in the simulation, which has what it has itself."""
        held = Held([change.effect for change in sequence.changes], self.subject)
        others, self._others = self._others, []
        displace(self.subject, held, others)
        self._hold(held, holder)
        if not self.first:
            self.first = self._held.own_values()

    def leave(self) -> None:
        """Leaves the simulation to those who held something there."""
        for other in self._others:
            other.take_up()

    def hold_again(self, sequence: Sequence, holder: Any) -> None:
        """Holds the same in the simulation of a copy, which has been built anew, and may have other objects."""
        self.subject = self._look_up()
        if self._size == _size(self.subject.model):
            self._hold(self._held, holder)
        else:
            self._bind(sequence, holder, _REBUILT)

    def write(self, sequence: Sequence, holder: Any) -> None:
        """Puts the values of a sequence into force."""
        self._follow(sequence, holder)
        self._write(sequence)

    def write_again(self, sequence: Sequence, holder: Any, *, always: bool = False) -> None:
        """Writes again where the environment has rewritten or rebuilt its simulation, or what constants follow from.

        With ``always`` in any case.
        """
        if self._follow(sequence, holder) or self._took_back(sequence, holder):
            self.has_other_own = True
        elif not always and self._held.follows(self.subject):
            return
        self._write(sequence)

    def make_way(self) -> bool:
        """Gives an environment that writes to its simulation, or rebuilds it, what it has itself, for a reset to begin from.

        Returns:
            Whether it has: the values are to be written afterwards.
        """
        if self._look_up().model is not self.subject.model:
            return True
        if not self._held.holds(self.subject):
            self._held.give_back(self.subject)
            return True
        if self.has_other_own:
            self._held.restore(self.subject)
            self._held.take(self.subject)
        return self.has_other_own

    def was_rewritten(self) -> bool:
        """Whether the environment has another simulation, or in its own other numbers, to the bit, than were written last.

        One that has none at the moment, as between two episodes, has written nothing.
        """
        model = self._look_up().model
        return not self._held.holds(self.subject) if model is self.subject.model else model is not None

    def since(self) -> dict[str, Any]:
        """What the environment has written since the values were put into force, as JSON can hold it.

        ``"written"``: what was written last, where it has written over it; ``"follows"``: False where constants no longer
        follow from what it has.
        """
        if self._look_up().model is not self.subject.model:
            return {}
        found: dict[str, Any] = {} if self._held.holds(self.subject) else {"written": self._held.written_values()}
        return found if self._held.follows(self.subject) else found | {"follows": False}

    def take_simulation(self, since: Mapping[str, Any]) -> None:
        """Takes what the simulation has now for what was put into force, but for what :meth:`since` has said."""
        self._held.take(self.subject)
        if "written" in since and self._held.fits(since["written"]):
            self._held.set_written_values(since["written"])
        if since.get("follows", True):
            self._held.take_given(self.subject)
        else:
            self._held.forget_given()

    def own_values(self) -> list[list[float]]:
        """What the simulation had itself, as JSON can hold it."""
        return self._held.own_values()

    def fits(self, values: list[list[float]]) -> bool:
        """Whether :meth:`own_values` can have returned this."""
        return self._held.fits(values)

    def set_own_values(self, values: list[list[float]] | None) -> None:
        """Takes what :meth:`own_values` returned for what the simulation had itself; with None what it had at first."""
        self.has_other_own = values is not None
        if values is not None or self._held.fits(self.first):
            self._held.set_own_values(self.first if values is None else values)

    def _look_up(self) -> Subject:
        return Subject(self._env, look_for_model(self._env, self._source), self._source)

    def _write(self, sequence: Sequence) -> None:
        self._held.write(self.subject, list(sequence.values.values()))
        model, data = self.subject.model, self.subject.data
        if model is not None and data is not None:
            if self._scratch is None or self._scratch.model is not model:
                self._scratch = mujoco.MjData(model)
            feel_change(model, data, self._scratch)

    def _follow(self, sequence: Sequence, holder: Any) -> bool:
        """Takes the simulation that the environment has now for the one that is changed. Returns whether it is another one."""
        found, left = self._look_up(), self.subject
        if found.model is left.model:
            return False
        release(left, holder)  # it may be a template of the next ones; and attributes of the environment stay its own
        displace(found, self._held, suspend(found))
        if are_alike(left.model, found.model) and self._held.is_mostly_in(found):
            self._held.give_back(found)  # a copy has what was written into the one that is left
        self.subject = found
        self._bind(sequence, holder, _REBUILT)
        return True

    def _took_back(self, sequence: Sequence, holder: Any) -> bool:
        """Whether the environment has written to what the parameters act on; that is its own from now on."""
        if self._held.holds(self.subject):
            return False
        self._held.give_back(self.subject)
        self._bind(sequence, holder, "has written to its simulation what leaves no effect to a change")
        return True

    def _bind(self, sequence: Sequence, holder: Any, what: str) -> None:
        """Looks up what the parameters act on in a simulation that has what it has itself."""
        try:
            for change in sequence.changes:
                change.bind(self.subject)
            sequence.check(self.subject)
        except ParameterError as error:
            name = checks.env_name(self._env)
            raise EffectError(f"{name} {what}: {error}") from error
        self.hold(sequence, holder)

    def _hold(self, held: Held, holder: Any) -> None:
        self._held, self._size = held, _size(self.subject.model)
        hold(self.subject, held, holder)

    def __getstate__(self) -> dict[str, Any]:
        """All but the simulation, which belongs to the environment."""
        return {name: value for name, value in self.__dict__.items() if name != "subject"}


def _size(model: mujoco.MjModel | None) -> int:
    """The bytes of a model, by which it is told from one with other objects: a copy by pickle has no signature."""
    return 0 if model is None else mujoco.mj_sizeModel(model)
