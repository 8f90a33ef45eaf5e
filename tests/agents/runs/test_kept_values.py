"""Whatever an environment of others keeps is in its checkpoint file, and back, or refused before it is lost."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, namedtuple

import gymnasium
import numpy as np
import pytest
import torch

import envs
from agents.runs import checkpoint_files
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder


class Mode(enum.Enum):
    SLOW, FAST = "slow", ("fast", 2)


class Gear(enum.IntEnum):
    FIRST, SECOND = 1, 2


class Name(enum.StrEnum):
    A, B = "a", "b"


class Access(enum.Flag):
    READ, WRITE = 1, 2


class Metres(float):
    pass


@dataclasses.dataclass(frozen=True)
class Fixed:
    gear: Gear
    length: float


Pair = namedtuple("Pair", "gear length")

KEPT = {
    "an enumeration": (Mode.SLOW, Mode.FAST),
    "an enumeration of numbers": (Gear.FIRST, Gear.SECOND),
    "an enumeration of strings": (Name.A, Name.B),
    "flags together": (Access.READ, Access.READ | Access.WRITE),
    "an enumeration instead of nothing": (None, Gear.SECOND),
    "nothing instead of an enumeration": (Gear.SECOND, None),
    "enumerations as keys": ({Gear.FIRST: 0.0}, {Gear.FIRST: 1.0, Gear.SECOND: 2.0}),
    "strings of an enumeration as keys": ({Name.A: 0.0}, {Name.B: 1.0}),
    "numbers of NumPy as keys": ({np.int64(1): 0.0}, {np.int64(2): 1.0}),
    "a frozen dataclass": (Fixed(Gear.FIRST, 0.5), Fixed(Gear.SECOND, 1.5)),
    "a named tuple": (Pair(Gear.FIRST, 0.5), Pair(Gear.SECOND, 1.5)),
    "a subclass of float": (Metres(0.5), Metres(1.5)),
    "a string of NumPy": (np.str_("a"), np.str_("b")),
    "bytes": (b"a", b"bc"),
    "a complex number": (1j, 2.5 + 1j),
    "an array of strings": (np.array(["a", "b"]), np.array(["left", "right"])),
    "an array of objects": (np.array([None, 1], object), np.array([Gear.SECOND, [1.5]], object)),
    "an array of complex numbers": (np.zeros(2, complex), np.array([1j, 2])),
    "an array without axes": (np.array(0.5), np.array(1.5)),
    "half precision": (np.float16(0.5), np.float16(1.5)),
    "a number without sign": (np.uint64(1), np.uint64(2**63 + 1)),
    "a large number": (0, 2**130),
    "ordered, counted, with defaults": (
        [OrderedDict(), Counter(), defaultdict(list)],
        [OrderedDict(a=1), Counter("aab"), defaultdict(list, a=[1])],
    ),
    "sets": ([set(), frozenset()], [{1, 2}, frozenset({Gear.SECOND})]),
}


class Keeping(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, kept):
        self.kept = kept


def plain(value):
    """A value that can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    return [plain(item) for item in value] if type(value) in (list, tuple) else value


@pytest.mark.parametrize("case", KEPT)
def test_what_an_environment_keeps_goes_through_the_file_of_a_checkpoint(case, tmp_path):
    at_first, later = KEPT[case]
    env, other = Keeping(later), Keeping(at_first)
    path = checkpoint_files.write(RunFolder(tmp_path), 1, {"environments": envs.save_state(env)})
    envs.load_state(other, checkpoint_files.to_arrays(checkpoint_files.read(path).state["environments"]))
    assert plain(other.kept) == plain(later)
    if case != "a subclass of float" and later is not None:  # which becomes a float
        assert type(other.kept) in (type(later), str)
    assert plain(env.kept) == plain(later)


def test_members_of_enumerations_are_not_written_to():
    env, other = Keeping(Mode.FAST), Keeping(Mode.SLOW)
    envs.load_state(other, envs.save_state(env))
    assert (Mode.SLOW.value, Mode.FAST.value) == ("slow", ("fast", 2))
    assert other.kept is Mode.FAST


def test_an_enumeration_that_is_nowhere_to_be_found_leaves_what_is_there():
    class Local(enum.Enum):
        A, B = 1, 2

    env, other, third = Keeping(Local.B), Keeping(Local.A), Keeping(5)
    for each in (other, third):
        envs.load_state(each, envs.save_state(env))
    assert (other.kept, third.kept) == (Local.B, 5)


@pytest.mark.parametrize("value", [np.longdouble(1.5), np.datetime64("2024-01-01"), iter([])])
def test_what_no_file_can_hold_is_refused_by_name_when_it_is_saved(value):
    with pytest.raises(envs.ParameterError, match=r"state cannot be saved of Keeping\.kept\['a'\], which is a "):
        envs.save_state(Keeping({"a": value}))


@pytest.mark.parametrize(
    ("value", "kind"), [({1}, "set"), (np.array(["a"]), "ndarray"), (object(), "object"), (range(2), "range")]
)
def test_a_checkpoint_that_could_not_be_read_is_not_written(value, kind, tmp_path):
    folder = RunFolder(tmp_path)
    first = checkpoint_files.write(folder, 1, {"numbers": 1})
    with pytest.raises(UserError, match=rf"cannot hold its state\['callbacks'\]\[0\]\['a'\], which is a {kind}"):
        checkpoint_files.write(folder, 2, {"callbacks": [{"a": value}]})
    assert checkpoint_files.read_newest(folder).path == first


def test_subclasses_are_written_as_what_they_are(tmp_path):
    state = {"a": [Gear.SECOND, Metres(1.5), np.str_("b"), np.float64(2.5)], Name.B: Pair(True, torch.Size([2]))}
    found = checkpoint_files.read(checkpoint_files.write(RunFolder(tmp_path), 1, state)).state
    assert found["a"] == [2, 1.5, "b", 2.5]
    assert found["b"] == (True, (2,))
    assert [type(item) for item in found["a"]] == [int, float, str, float]
