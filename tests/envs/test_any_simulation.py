"""Models and environments that people bring: what is said to change does, or it is refused."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref

import gymnasium
import mujoco
import numpy as np
import pytest
from worlds import CORD, World, arm, box

import envs
from envs.held import _HOLDERS


def held(env, name, value, **kwargs):
    return envs.NonStationary(env, name, {"name": "constant", "value": value}, **kwargs)


def at(model, *, qpos=0.0, qvel=0.0, ctrl=0.0, act=0.0):
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:], data.act[:] = qpos, qvel, ctrl, act
    mujoco.mj_forward(model, data)
    return data


# What an environment has set itself at run time


CONNECTED = """<mujoco><worldbody>
  <body name="hand" mocap="true" pos="0 0 1"/>
  <body name="a" pos="0 0 1"><freejoint/><geom size="0.1" contype="0" conaffinity="0"/></body>
  <body name="b" pos="1 0 1"><freejoint/><geom size="0.1" contype="0" conaffinity="0"/></body>
</worldbody><equality>
  <connect body1="a" body2="b" anchor="0.5 0 0"/>
  <weld body1="hand" body2="b"/>
</equality></mujoco>"""


class Held(World):
    """Sets the anchor of a connection and the pose of a weld at run time, as Fetch's mocap is."""

    def __init__(self):
        super().__init__(CONNECTED)
        self.model.eq_data[0, 3:6] = (-0.6, 0.1, 0.2)
        self.model.eq_data[1, :10] = (0, 0, 0, 1, 0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("name", ["mass", "armature", "mass:a"])
@pytest.mark.parametrize("value", [1.0, 2.0])
def test_masses_leave_what_the_environment_has_set_itself(name, value):
    env = held(Held(), "armature:joint0", value, factor=False) if name == "armature" else held(Held(), name, value)
    plain = Held()
    np.testing.assert_array_equal(env.unwrapped.model.eq_data, plain.model.eq_data)
    if value == 1.0 and name != "armature":
        env.reset(seed=0)
        plain.reset(seed=0)
        for _ in range(50):
            env.step(None)
            plain.step(None)
        np.testing.assert_array_equal(env.unwrapped.data.qpos, plain.data.qpos)


def changed_by_set_const(change):
    """The fields of a model in which much is equipped that MuJoCo computes anew after a change."""
    xml = arm(
        '<tendon><fixed name="string"><joint joint="elbow" coef="1"/></fixed></tendon>'
        '<actuator><motor tendon="string"/></actuator>'
        '<equality><weld body1="arm" body2="door"/><connect body1="arm" body2="door" anchor="0 0 0.2"/></equality>'
    )
    model = mujoco.MjModel.from_xml_string(xml)
    change(model)
    after = copy.copy(model)
    mujoco.mj_setConst(after, mujoco.MjData(after))
    names = [name for name in dir(model) if not name.startswith("_") and isinstance(getattr(model, name), np.ndarray)]
    changed = {name for name in names if not np.array_equal(getattr(model, name), getattr(after, name))}
    return changed | {f"stat.{name}" for name in ("meaninertia",) if getattr(model.stat, name) != getattr(after.stat, name)}


def test_what_follows_from_masses_is_what_mujoco_computes_from_them():
    from envs.held import FOLLOWING

    def heavier(model):
        model.body_mass[1:] *= 2
        model.body_inertia[1:] *= 2

    def rotors(model):
        model.dof_armature[:] += 1

    assert {"dof_invweight0", "body_invweight0", "tendon_invweight0", "actuator_acc0"} <= changed_by_set_const(heavier)
    assert changed_by_set_const(heavier) | changed_by_set_const(rotors) <= set(FOLLOWING)


def test_a_model_of_ones_own_is_no_copy_where_a_number_is_the_one_in_force():
    def rough(*frictions):
        geoms = "".join(
            f'<geom type="plane" size="5 5 1" friction="{friction}" pos="0 0 -{friction}"/>' for friction in frictions
        )
        return f'<mujoco><worldbody>{geoms}<body><freejoint/><geom size="0.1" friction="0.3"/></body></worldbody></mujoco>'

    class Turning(World):
        def __init__(self):
            super().__init__(rough(0.5, 0.5))
            self.models = [self.model, mujoco.MjModel.from_xml_string(rough(1.0, 0.7))]

        def reset(self, *, seed=None, options=None):
            self.models.reverse()
            self.model = self.models[0]
            self.data = mujoco.MjData(self.model)
            return super().reset(seed=seed)

    env = held(Turning(), "friction", 1.0)
    for _ in range(3):
        env.reset()
        np.testing.assert_array_equal(env.unwrapped.model.geom_friction[:, 0], 1.0)
    env.close()
    assert [model.geom_friction[:, 0].tolist() for model in env.unwrapped.models] == [[1.0, 0.7, 0.3], [0.5, 0.5, 0.3]]


MADE = """<mujoco><compiler autolimits="true"/><option timestep="0.002" gravity="0 0 -10" density="1" viscosity="0.1"/>
<default><geom density="1000" friction="0.8" solref="0.02 1"/></default>
<worldbody>
  <geom name="floor" type="plane" size="5 5 1"/>
  <body name="box" pos="2 0 0.1"><freejoint/><geom name="box" type="box" size="0.1 0.2 0.1"/></body>
  <body name="torso" pos="0 0 1"><joint name="waist" type="ball"/><geom size="0.1"/><site name="hip" pos="0 0.1 0"/>
    <body name="foot"><joint name="leg" damping="1" stiffness="3" armature="0.02" frictionloss="0.1" range="-1 1"/>
      <geom size="0.05 0.1" type="capsule" pos="0.2 0 0"/><site name="toe" pos="0.3 0 0"/></body>
  </body>
</worldbody>
<tendon><spatial name="cord"><site site="hip"/><site site="toe"/></spatial></tendon>
<equality><connect body1="box" body2="foot" anchor="0 0 0.1"/></equality>
<actuator><position joint="leg" kp="8" kv="2" forcerange="-4 4"/></actuator></mujoco>"""
"""Of much something."""


@pytest.mark.parametrize(
    ("name", "value", "factor", "before", "after"),
    [
        ("mass", 2.0, True, 'density="1000"', 'density="2000"'),
        ("armature", 2.0, True, 'armature="0.02"', 'armature="0.04"'),
        ("damping", 0.25, True, 'damping="1"', 'damping="0.25"'),
        ("stiffness", 5.0, False, 'stiffness="3"', 'stiffness="5"'),
        ("frictionloss", 0.5, False, 'frictionloss="0.1"', 'frictionloss="0.5"'),
        ("joint_range", 0.5, True, 'range="-1 1"', 'range="-0.5 0.5"'),
        ("strength", 0.5, True, 'kp="8" kv="2" forcerange="-4 4"', 'kp="4" kv="1" forcerange="-2 2"'),
        ("kp", 4.0, False, 'kp="8"', 'kp="4"'),
        ("friction", 0.4, False, 'friction="0.8"', 'friction="0.4"'),
        ("contact_time", 0.04, False, 'solref="0.02 1"', 'solref="0.04 1"'),
        ("gravity", 5.0, False, 'gravity="0 0 -10"', 'gravity="0 0 -5"'),
        ("density", 1.5, False, ' density="1"', ' density="1.5"'),
        ("timestep", 2.0, True, 'timestep="0.002"', 'timestep="0.004"'),
    ],
)
def test_a_changed_model_is_in_every_field_the_one_that_is_compiled_so(name, value, factor, before, after):
    assert before in MADE
    compiled = mujoco.MjModel.from_xml_string(MADE.replace(before, after))
    changed = held(World(MADE), name, value, factor=factor).unwrapped.model
    for which in ("", "opt", "stat"):
        mine, theirs = ((getattr(model, which) if which else model) for model in (changed, compiled))
        numbers = {each: getattr(mine, each) for each in dir(mine) if not each.startswith("_")}
        for each, number in numbers.items():
            # What mj_setConst leaves: a scale of the solver's tolerance, and one of pictures.
            if isinstance(number, float | int | np.ndarray) and each not in ("meaninertia", "meanmass"):
                np.testing.assert_allclose(number, getattr(theirs, each), rtol=1e-9, atol=1e-12, err_msg=each)


# Resets that rewrite or rebuild the simulation


class Rewriting(World):
    """Draws the friction of its floor anew in each reset, as domain randomisation does."""

    def reset(self, *, seed=None, options=None):
        self.model.geom_friction[:, 0] = 1.0
        return super().reset(seed=seed)


class Rebuilding(World):
    """Builds its simulation anew in each reset, with another number of bodies each time."""

    def reset(self, *, seed=None, options=None):
        number = getattr(self, "number", 0) + 1
        self.number = number
        more = "".join(f'<body pos="{i} 2 1"><freejoint/><geom size="0.1"/></body>' for i in range(number % 3))
        self.model = mujoco.MjModel.from_xml_string(box(more=more))
        self.data = mujoco.MjData(self.model)
        return super().reset(seed=seed)


class Copying(World):
    """Simulates a copy of its model in each episode, as domain randomisation does; the first episodes' is the model itself."""

    def __init__(self, xml):
        super().__init__(xml)
        self.template = self.model

    def reset(self, *, seed=None, options=None):
        self.model = copy.copy(self.template)
        self.data = mujoco.MjData(self.model)
        return super().reset(seed=seed)


class CopyingTheLast(World):
    """Simulates a copy of the last episode's model."""

    def reset(self, *, seed=None, options=None):
        self.model = copy.copy(self.model)
        self.data = mujoco.MjData(self.model)
        return super().reset(seed=seed)


@pytest.mark.parametrize("kind", [Rewriting, Rebuilding, Copying, CopyingTheLast])
@pytest.mark.parametrize("change_at", ["episode_end", "now"])
def test_a_reset_that_writes_or_rebuilds_the_model_does_not_lose_the_change(kind, change_at, contact_frictions):
    values = {"name": "list", "values": [0.05, 0.5, 1.7]}
    env = envs.NonStationary(kind(box()), "friction", values, period=20, change_at=change_at)
    seen = set()
    for _ in range(9):
        env.reset()
        for _ in range(12):
            info = env.step(None)[4]
            measured = contact_frictions(env)
            assert len(measured) >= 4
            assert (measured == info["friction"]).all()
            seen.add(info["friction"])
    assert seen == {0.05, 0.5, 1.7}


@pytest.mark.parametrize("kind", [Copying, CopyingTheLast])
@pytest.mark.parametrize("parameter", [{"mass": {}}, {"gravity_tilt": {}, "friction": {"factor": True}}])
def test_what_was_written_is_not_taken_for_the_own_of_a_copy(kind, parameter):
    values = {"name": "list", "values": [2.0, 3.0]}
    base, plain = kind(box()), World(box())
    env = envs.NonStationary(base, {name: {"schedule": values, **of_one} for name, of_one in parameter.items()}, period=1)
    seen = set()
    for _ in range(5):
        value = next(iter({key: x for key, x in env.reset()[1].items() if key in parameter}.values()))
        seen.add(value)
        env.step(None)
        env.step(None)
        if "mass" in parameter:
            np.testing.assert_allclose(base.model.body_mass, value * plain.model.body_mass, rtol=1e-15)
            np.testing.assert_allclose(base.model.body_subtreemass, value * plain.model.body_subtreemass, rtol=1e-15)
        else:
            angle = np.radians(value)
            np.testing.assert_allclose(base.model.opt.gravity, [-9.81 * np.sin(angle), 0, -9.81 * np.cos(angle)], rtol=1e-14)
            np.testing.assert_array_equal(base.model.geom_friction[:, 0], value)  # their own is 1
    assert seen == {2.0, 3.0}
    env.close()
    for model in (base.model, getattr(base, "template", base.model)):
        np.testing.assert_array_equal(model.body_mass, plain.model.body_mass)
        np.testing.assert_array_equal(model.opt.gravity, plain.model.opt.gravity)


def test_what_a_reset_writes_into_a_copy_is_its_own():
    class Drawing(Copying):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.model.body_mass[1] = 0.7
            return np.zeros(1, np.float32), {}

    env = held(Drawing(box(more='<body pos="1 0 1"><freejoint/><geom size="0.1" mass="0.3"/></body>')), "mass", 2.0)
    for _ in range(3):
        env.reset()
        np.testing.assert_allclose(env.unwrapped.model.body_mass, [0, 1.4, 0.6])  # twice the drawn and twice the own


def test_simulations_that_take_turns_are_changed_once_and_leave_nothing_behind():
    class Turning(World):
        def reset(self, *, seed=None, options=None):
            self.model, self.other = getattr(self, "other", World(box()).model), self.model
            self.data = mujoco.MjData(self.model)
            return super().reset(seed=seed)

    env, own = held(Turning(box()), "mass", 2.0), World(box()).model.body_mass
    gc.collect()
    before = len(weakref.finalize._registry)
    for _ in range(6):
        env.reset()
        np.testing.assert_array_equal(env.unwrapped.model.body_mass, 2 * own)
        np.testing.assert_array_equal(env.unwrapped.other.body_mass, own)
    assert len(weakref.finalize._registry) <= before


def test_what_a_reset_writes_is_what_a_factor_multiplies_from_then_on(contact_frictions):
    class Drawing(World):
        def reset(self, *, seed=None, options=None):
            self.drawn = 0.3 + self.drawn if hasattr(self, "drawn") else 0.2
            self.model.geom_friction[:, 0] = self.drawn
            return super().reset(seed=seed)

    env = held(Drawing(box()), "friction", 2.0, factor=True)
    for own in (0.2, 0.5, 0.8):
        env.reset()
        env.step(None)
        np.testing.assert_allclose(contact_frictions(env), 2 * own)


def test_mass_in_kilograms_follows_a_model_that_is_rebuilt():
    env = held(Rebuilding(box()), "mass", 3.0, factor=False)
    for _ in range(3):
        env.reset()
        assert env.unwrapped.model.body_mass.sum() == pytest.approx(3.0)
        assert env.unwrapped.model.body_subtreemass[0] == pytest.approx(3.0)


def test_a_part_that_a_rebuilt_model_does_not_have_is_an_error():
    class Losing(Rebuilding):
        def reset(self, *, seed=None, options=None):
            self.model = mujoco.MjModel.from_xml_string(box().replace('body name="box"', 'body name="crate"'))
            self.data = mujoco.MjData(self.model)
            return World.reset(self, seed=seed)

    env = held(Losing(box()), "mass:box", 2.0)
    with pytest.raises(envs.EffectError, match=r"Losing has another simulation now.*'crate', got 'box'"):
        env.reset()


def test_an_environment_that_writes_during_an_episode_is_told_on(contact_frictions):
    class Meddling(World):
        def step(self, action):
            self.model.geom_friction[:, 0] = 1.0
            return super().step(action)

    env = held(Meddling(box()), "friction", 0.1)
    env.reset()
    env.step(None)
    with pytest.warns(UserWarning, match=r"Meddling has written to what friction act on during an episode"):
        env.reset()


def test_an_environment_that_rebuilds_its_simulation_during_an_episode_is_told_on(contact_frictions):
    class Switching(World):
        def step(self, action):
            if self.data.time > 0.005:
                self.model = mujoco.MjModel.from_xml_string(box())
                self.data = mujoco.MjData(self.model)
            return super().step(action)

    env = held(Switching(box()), "friction", 0.1)
    env.reset()
    for _ in range(5):
        env.step(None)
    with pytest.warns(UserWarning, match=r"Switching has written to what friction act on .*, or rebuilt it; info was wrong"):
        env.reset()
    env.step(None)
    assert (contact_frictions(env) == 0.1).all()


@pytest.mark.parametrize("change", [lambda env: env.step(None), lambda env: env.set_value("friction", 0.5)])
def test_a_change_does_not_hide_what_an_environment_has_written_before_it(change):
    class Meddling(World):
        def step(self, action):
            self.model.geom_friction[:, 0] = 0.7
            return super().step(action)

    values = {"name": "list", "values": [2.0, 3.0]}
    base = Meddling(box())
    env = envs.NonStationary(base, "friction", values, factor=True, period=2, change_at="now")
    env.reset()
    env.step(None)
    env.step(None)
    with pytest.warns(UserWarning, match="Meddling has written to what friction act on during an episode"):
        change(env)
    env.close()
    assert (base.model.geom_friction[:, 0] == 0.7).all()


# What an environment has computed before a step


class Ahead(World):
    """Ends each step with what the next one begins with, as dm_control does."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_forward(self.model, self.data)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.data.ctrl[:] = 0 if action is None else action
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)
        return np.zeros(1, np.float32), 0.0, False, False, {}


SWING = arm('<actuator><motor joint="elbow"/></actuator>', joint='damping="0.1" stiffness="0.5" armature="0.01"').replace(
    'gravity="0 0 0"', 'gravity="2 0 -9"'
)


@pytest.mark.parametrize("name", ["gravity_tilt", "mass", "damping", "armature", "stiffness", "centre_of_mass_x", "strength"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_change_acts_in_its_first_step_where_the_last_one_computed_it(name, by_hand):
    low, high = (0.0, 0.1) if name.startswith("centre") else (1.0, 3.0)
    values = {"name": "list", "values": [low, low if by_hand else high]}
    env = envs.NonStationary(Ahead(SWING), name, values, period=4, change_at="now")
    env.reset()
    for _ in range(4):
        env.step([0.5])
    if by_hand:
        env.set_value(name, high)
    data = env.unwrapped.data
    before = copy.copy(data)
    info = env.step([0.5])[4]
    assert (info[name], info["changed"]) == (high, True)
    # The same step, computed whole from the same state under the value that info tells.
    before.ctrl[:] = 0.5
    mujoco.mj_step(env.unwrapped.model, before)
    np.testing.assert_array_equal(data.qvel, before.qvel)
    plain = held(Ahead(SWING), name, low)
    plain.reset()
    for _ in range(5):
        plain.step([0.5])
    assert data.qvel[0] != plain.unwrapped.data.qvel[0]


def test_a_change_leaves_all_that_an_environment_may_read_of_its_last_step():
    env = envs.NonStationary(World(SWING), "mass", period=100, change_at="now", seed=0)
    env.reset()
    for _ in range(3):
        env.step([0.5])
    data = env.unwrapped.data
    names = "qpos qvel qacc qacc_warmstart xpos xquat xipos geom_xpos cvel cinert crb qfrc_bias qfrc_passive qfrc_actuator"
    before = {name: getattr(data, name).copy() for name in names.split()}
    env.set_value("mass", 2.0)
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(data, name), array, err_msg=name)


# Actuators


PID = (
    '<extension><plugin plugin="mujoco.pid"><instance name="pid"><config key="kp" value="10"/></instance></plugin></extension>'
)
ACTUATORS = {
    "motor": '<motor joint="elbow" gear="3"/>',
    "position": '<position joint="elbow" kp="5" kv="0.3"/>',
    "velocity": '<velocity joint="elbow" kv="2"/>',
    "intvelocity": '<intvelocity joint="elbow" kp="2" actrange="-1 1"/>',
    "damper": '<damper joint="elbow" kv="2" ctrlrange="0 1"/>',
    "cylinder": '<cylinder joint="elbow" area="2"/>',
    "muscle": '<muscle tendon="cord" lengthrange="0.05 0.6"/>',
    "muscle with its own scale": '<muscle tendon="cord" lengthrange="0.05 0.6" force="30"/>',
    "tendon": '<motor tendon="cord" gear="5" forcelimited="true" forcerange="-2 2"/>',
    "site": '<motor site="tip" gear="1 0 0 0 0 0"/>',
    "general": '<general joint="elbow" gaintype="affine" biastype="affine" gainprm="1 2 3" biasprm="4 5 6"/>',
}
if hasattr(mujoco.mjtGain, "mjGAIN_PID"):
    ACTUATORS["pid"] = '<pid joint="elbow" kp="3" kv="0.5" ki="2"/>'


@pytest.mark.parametrize("kind", ACTUATORS)
def test_strength_scales_the_force_of_every_kind_of_actuator(kind):
    xml = arm(f"{CORD}<actuator>{ACTUATORS[kind]}</actuator>")

    def torque(value):
        env = held(World(xml), "strength", value)
        return at(env.unwrapped.model, qpos=0.2, qvel=0.3, ctrl=0.4, act=0.5).qfrc_actuator[0]

    own = at(mujoco.MjModel.from_xml_string(xml), qpos=0.2, qvel=0.3, ctrl=0.4, act=0.5).qfrc_actuator[0]
    assert abs(own) > 0.01
    for value in (0.0, 0.5, 1.0, 2.0):
        assert torque(value) == pytest.approx(value * own, rel=1e-12)
    assert torque(1.0) == own


@pytest.mark.parametrize(
    ("actuator", "before", "why"),
    [
        ('<plugin joint="elbow" plugin="mujoco.pid" instance="pid" name="servo"/>', PID, "comes from a plugin"),
        ('<general joint="elbow" gaintype="user" name="servo"/>', "", "comes from a gain of the user's own"),
        ('<general joint="elbow" biastype="user" name="servo"/>', "", "comes from a bias of the user's own"),
    ],
)
def test_strength_that_cannot_reach_an_actuator_is_refused_by_its_name(actuator, before, why):
    xml = arm(f'<actuator>{actuator}<motor joint="elbow"/><motor joint="door_hinge" name="opener"/></actuator>', option=before)
    for name in ("strength", "strength:elbow"):
        with pytest.raises(envs.ParameterError, match=f"cannot change actuator 'servo', whose force {why}"):
            envs.NonStationary(World(xml), name)
    env = held(World(xml), "strength:door_hinge", 0.5)
    assert at(env.unwrapped.model, ctrl=1.0).qfrc_actuator[1] == 0.5


@pytest.mark.parametrize("actuator", ['<motor joint="elbow"/>', '<motor site="tip" gear="1 0 0 0 0 0"/>'])
def test_strength_is_refused_where_actuators_bear_the_compensation_of_gravity(actuator):
    others = '<motor joint="door_hinge"/>'
    xml = arm(f"<actuator>{actuator}{others}</actuator>", joint='actuatorgravcomp="true"')
    hand = '<body name="hand" pos="0.1 0 0.5" gravcomp="1"><geom size="0.1"/></body></body>\n    <body name="door"'
    bearing = xml.replace('</body>\n    <body name="door"', hand)
    assert bearing != xml
    at_rest = at(World(bearing.replace('gravity="0 0 0"', 'gravity="0 0 -9.81"')).model)
    assert at_rest.qfrc_actuator[0] != 0  # without any control
    with pytest.raises(
        envs.ParameterError, match="strength cannot change joint 'elbow', whose actuators bear the compensation"
    ):
        envs.NonStationary(World(bearing), "strength")
    held(World(bearing), "strength:door_hinge", 0.5)
    held(World(xml), "strength", 0.5)  # has nothing to compensate
    held(World(bearing.replace('actuatorgravcomp="true"', "")), "strength", 0.5)


def test_a_dc_motor_is_refused():
    if not hasattr(mujoco.mjtGain, "mjGAIN_DCMOTOR"):
        pytest.skip("this MuJoCo has none")
    xml = arm('<actuator><dcmotor joint="elbow" motorconst="0.1" resistance="1" name="motor"/></actuator>')
    with pytest.raises(envs.ParameterError, match="'motor', whose force comes from an electric circuit"):
        envs.NonStationary(World(xml), "strength")


# Joints


@pytest.mark.parametrize("actuator", ['<muscle tendon="cord" lengthrange="0 1"/>', '<motor site="tip" gear="1 0 0 0 0 0"/>'])
@pytest.mark.parametrize("name", ["damping", "stiffness", "armature"])
def test_joints_that_tendons_or_sites_move_are_joints_of_the_machine(name, actuator):
    env = held(World(arm(f"{CORD}<actuator>{actuator}</actuator>")), name, 2.0, factor=False)
    fields = {"damping": "dof_damping", "stiffness": "jnt_stiffness", "armature": "dof_armature"}
    assert env.reach[name][fields[name]] == ["elbow"]
    assert getattr(env.unwrapped.model, fields[name])[0] == 2.0


def test_any_joint_can_be_named_and_several_by_a_pattern():
    xml = arm('<actuator><motor joint="elbow"/></actuator>', joint='damping="0.5"')
    door = held(World(xml), "damping:door_hinge", 3.0)
    assert door.unwrapped.model.dof_damping.tolist() == [0.5, 3.0]
    assert held(World(xml), "damping", 3.0).unwrapped.model.dof_damping.tolist() == [1.5, 1.0]
    for names in ("damping:*", "damping:elbow+door_hinge", "damping:*l*+door*"):
        assert held(World(xml), names, 2.0).unwrapped.model.dof_damping.tolist() == [1.0, 2.0]
    with pytest.raises(envs.ParameterError, match=r"part of damping must be one of 'elbow', 'door_hinge', got 'window\*'"):
        held(World(xml), "damping:window*", 2.0)


POLYNOMIAL = pytest.mark.skipif(
    not hasattr(mujoco.MjModel.from_xml_string("<mujoco/>"), "dof_dampingpoly"), reason="this MuJoCo has no polynomials"
)


@POLYNOMIAL
@pytest.mark.parametrize("value", [0.5, 2.0])
def test_a_factor_multiplies_polynomials_and_what_the_actuators_have_of_their_own(value):
    joint = 'damping="1 2 3" stiffness="4 5 6" armature="0.1"'
    xml = arm('<actuator><motor joint="elbow" damping="1.5" armature="0.7"/></actuator>', joint=joint)
    own = at(mujoco.MjModel.from_xml_string(xml), qpos=0.5, qvel=2.0)
    assert own.qfrc_damper[0] == -(2 * 1 + 2 * 4 + 3 * 8) - 1.5 * 2  # of the joint, and of its actuator
    for name, force in (("damping", "qfrc_damper"), ("stiffness", "qfrc_spring")):
        env = held(World(xml), name, value)
        changed = at(env.unwrapped.model, qpos=0.5, qvel=2.0)
        assert getattr(changed, force)[0] == pytest.approx(value * getattr(own, force)[0], rel=1e-12)
    env = held(World(xml), "armature", value)
    inertia = at(env.unwrapped.model, qpos=0.5).M[0] - own.M[0]
    assert inertia == pytest.approx((value - 1) * 0.8, rel=1e-9)


@POLYNOMIAL
def test_a_value_in_its_unit_is_all_there_is():
    joint = 'damping="1 2 3" stiffness="4 5 6" armature="0.1"'
    xml = arm('<actuator><motor joint="elbow" damping="1.5" armature="0.7"/></actuator>', joint=joint)
    data = at(held(World(xml), "damping", 5.0, factor=False).unwrapped.model, qvel=2.0)
    assert data.qfrc_damper[0] == -10.0
    data = at(held(World(xml), "stiffness", 5.0, factor=False).unwrapped.model, qpos=0.5)
    assert data.qfrc_spring[0] == -2.5
    without = at(mujoco.MjModel.from_xml_string(arm()))
    data = at(held(World(xml), "armature", 0.5, factor=False).unwrapped.model)
    assert data.M[0] - without.M[0] == pytest.approx(0.5, rel=1e-9)


# Friction


def test_friction_reaches_flexes(contact_frictions):
    cloth = """<body name="cloth" pos="0 0 0.3"><flexcomp type="grid" count="4 4 1" spacing="0.1 0.1 0.1" mass="0.5" dim="2"
      radius="0.02" name="cloth"><contact condim="3" selfcollide="none" friction="0.8 0.01 0.001"/></flexcomp></body>"""
    xml = f'<mujoco><worldbody><geom type="plane" size="5 5 1" friction="0.3"/>{cloth}</worldbody></mujoco>'
    for value in (0.05, 1.5):
        env = held(World(xml), "friction", value)
        env.reset()
        found = 0
        for _ in range(200):
            env.step(None)
            measured = contact_frictions(env)
            found += len(measured)
            assert (measured == value).all()
        assert found > 20


@pytest.mark.parametrize(("name", "column", "condim"), [("torsional_friction", 2, 4), ("rolling_friction", 3, 6)])
@pytest.mark.parametrize("where", ["geoms", "pair", "override"])
def test_friction_against_turning_and_rolling_reaches_contacts(name, column, condim, where):
    pair = f"<contact><pair geom1='floor' geom2='box' condim='{condim}'/></contact>" if where == "pair" else ""
    flag = '<flag override="enable"/>' if where == "override" else ""
    xml = box(geom=f'condim="{condim}"', outside=pair, flag=flag)
    values = {"name": "list", "values": [0.001, 0.5, 0.03]}
    env = envs.NonStationary(World(xml), name, values, period=10, change_at="now")
    env.reset()
    for _ in range(30):
        info = env.step(None)[4]
        data = env.unwrapped.data
        assert data.ncon == 4
        assert {data.contact[i].friction[column] for i in range(4)} == {info[name]}
    with pytest.raises(envs.ParameterError, match=f"{name} needs two geoms that can touch"):
        envs.NonStationary(World(box()), name)


EXCLUDED = '<contact><exclude body1="world" body2="box"/></contact>'


@pytest.mark.parametrize(
    "xml",
    [
        box(flag='<flag contact="disable"/>'),
        box(flag='<flag constraint="disable"/>'),
        box(outside=EXCLUDED),
        box(geom='condim="1"').replace('size="5 5 1"', 'size="5 5 1" condim="1"'),
        box(geom='condim="1" priority="1"'),
        box().replace("<freejoint/>", ""),
    ],
    ids=["no contacts", "no constraints", "excluded", "condim", "condim by priority", "nothing moves"],
)
def test_friction_is_refused_where_no_contact_can_have_any(xml):
    with pytest.raises(envs.ParameterError, match="friction needs two geoms that can touch with friction"):
        envs.NonStationary(World(xml), "friction")


def test_the_friction_of_one_geom_is_refused_where_the_other_one_decides(contact_frictions):
    rough = box(geom='friction="2"')
    with pytest.raises(envs.ParameterError, match="friction:floor needs two geoms"):
        envs.NonStationary(World(rough), "friction:floor", low=0.1, high=1.9)
    env = held(World(rough), "friction:floor", 2.5)
    env.reset()
    env.step(None)
    assert (contact_frictions(env) == 2.5).all()


# Flags that switch off what a parameter acts through


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("damping", "damper" if hasattr(mujoco.mjtDisableBit, "mjDSBL_DAMPER") else "passive"),
        ("stiffness", "spring" if hasattr(mujoco.mjtDisableBit, "mjDSBL_SPRING") else "passive"),
        ("strength", "actuation"),
        ("gravity", "gravity"),
    ],
)
def test_what_a_flag_has_switched_off_is_refused(name, flag):
    joint = 'damping="1" stiffness="1"'
    option = f'<option gravity="0 0 -9.81"><flag {flag}="disable"/></option>'
    xml = arm('<actuator><motor joint="elbow"/></actuator>', joint=joint, option=option)
    with pytest.raises(envs.ParameterError, match=f"{name} needs"):
        envs.NonStationary(World(xml), name)
    envs.NonStationary(World(xml.replace("disable", "enable")), name)


# Sleep


ROPE = """<worldbody><site name="wall" pos="0 0 2"/>
  <body pos="0 1 0"><freejoint name="free"/><geom size="0.1"/><site name="hook"/></body>"""


@pytest.mark.parametrize(
    ("name", "own", "sleeps"),
    [("armature", "", False), ("armature", 'stiffness="1"', False), ("stiffness", "", True), ("damping", 'armature="1"', True)],
)
def test_a_tendon_is_given_nothing_for_which_mujoco_would_have_compiled_its_bodies_otherwise(name, own, sleeps):
    def make(own, *, sleeps):
        tendon = f'<spatial name="rope" {own}><site site="wall"/><site site="hook"/></spatial>'
        option = '<option><flag sleep="enable"/></option>' if sleeps else ""
        joint = '<body><joint name="hinge"/><geom size="0.1" pos="1 0 0"/></body>'
        return World(f"<mujoco>{option}{ROPE}{joint}</worldbody><tendon>{tendon}</tendon></mujoco>")

    if sleeps and not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"):
        pytest.skip("this MuJoCo does not let bodies sleep")
    with pytest.raises(envs.ParameterError, match=f"part of {name} must be one of 'free', 'hinge', got 'rope'"):
        held(make(own, sleeps=sleeps), f"{name}:rope", 3.0, factor=False)
    for other in (make(f'{name}="0.1"', sleeps=sleeps), *([make(own, sleeps=False)] if sleeps else [])):
        changed = held(other, f"{name}:rope", 3.0, factor=False).unwrapped.model
        assert getattr(changed, f"tendon_{name}") == 3.0


@pytest.mark.skipif(not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"), reason="this MuJoCo does not let bodies sleep")
@pytest.mark.parametrize(("name", "value"), [("gravity_tilt", 60.0), ("gravity", 30.0), ("friction", 0.01)])
def test_what_sleeps_feels_a_change_in_mid_episode(name, value):
    slope = '<option gravity="4 0 -9.81" sleep_tolerance="0.05"/>' if name == "friction" else ""
    xml = box(flag='<flag sleep="enable"/>').replace("<worldbody>", f"{slope}<worldbody>")
    first = envs.PARAMETERS[name].low if name == "gravity_tilt" else 9.81 if name == "gravity" else 1.0
    values = {"name": "list", "values": [first, value]}
    env = envs.NonStationary(World(xml), name, values, period=3000, change_at="now")
    env.reset()
    for _ in range(3000):
        env.step(None)
    data = env.unwrapped.data
    assert data.tree_asleep[0] >= 0
    before = data.qpos.copy()
    assert env.step(None)[4][name] == value
    assert data.tree_asleep[0] < 0
    for _ in range(99):
        env.step(None)
    moved = np.abs(data.qpos - before).max()
    assert moved > (0.01 if name != "gravity" else 1e-7)  # heavier, it sinks in a little


# Wrappers


def test_a_second_wrapper_begins_from_the_environments_own_values_and_the_first_says_so():
    base = World(box())
    own = base.model.body_mass.sum()
    first = held(base, "mass", 3.0)
    assert base.model.body_mass.sum() == pytest.approx(3 * own)
    second = held(base, "mass", 2.0)
    assert base.model.body_mass.sum() == pytest.approx(2 * own)
    for use in (lambda: first.step(None), first.reset, lambda: first.set_value("mass", 1.0)):
        with pytest.raises(envs.EffectError, match=r"World is changed by another NonStationary.*mass of this one"):
            use()
    second.reset()
    assert second.step(None)[4]["mass"] == 2.0


def test_environments_that_share_a_model_cannot_both_change_it():
    first, other = World(box()), World(box())
    other.model = first.model
    wrapped = held(first, "mass", 3.0)
    again = held(other, "mass", 2.0)
    again.reset()
    with pytest.raises(envs.EffectError, match="one that shares its model"):
        wrapped.reset()


def test_closing_gives_the_environment_back_what_it_had():
    base = World(box())
    before = {name: getattr(base.model, name).copy() for name in ("body_mass", "body_inertia", "body_invweight0", "dof_M0")}
    env = held(base, "mass", 3.0)
    assert not np.array_equal(base.model.body_mass, before["body_mass"])
    env.close()
    for name, own in before.items():
        np.testing.assert_array_equal(getattr(base.model, name), own)
    assert held(base, "mass", 2.0).unwrapped.model.body_mass.sum() == pytest.approx(2 * before["body_mass"].sum())


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "1", None])
def test_a_value_that_a_schedule_must_not_return_is_not_written(bad):
    class Bad(envs.Schedule, name="bad"):
        def draw(self, at):
            return (bad if at.phase else 0.5), None

    try:
        env = envs.NonStationary(World(box()), "friction", "bad", period=2, change_at="now")
        env.reset()
        for _ in range(2):
            env.step(None)
        with pytest.raises(envs.ParameterError, match=r"friction of schedule 'bad' in phase 1 must be a finite"):
            env.step(None)
        assert (env.unwrapped.model.geom_friction[:, 0] == 0.5).all()
    finally:
        del envs.SCHEDULES["bad"]


def test_seeds_at_every_reset_never_change_the_world_and_that_is_said_once():
    env = envs.NonStationary(World(box()), "friction", period=20)

    def episodes():
        for seed in range(40):
            env.reset(seed=seed)
            for _ in range(10):
                env.step(None)

    with pytest.warns(UserWarning, match=r"the world never changes \(friction\): each reset\(seed=…\) restarts") as said:
        episodes()
    assert len(said) == 1
    assert env.phase == 0


def test_seeds_are_not_held_against_a_value_that_is_constant():
    env = held(World(box()), "friction", 0.5, period=2)
    for seed in range(30):
        env.reset(seed=seed)
        env.step(None)


SPACES = {
    "dict": gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1, 1, (2,))}),
    "tuple": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2),)),
    "discrete": gymnasium.spaces.Discrete(3),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ["observation_noise", "observation_bias", "action_noise", "action_delay"])
def test_noise_and_delay_of_what_is_no_box_are_refused_in_words(space, name):
    env = World(box())
    env.observation_space = env.action_space = space
    with pytest.raises(envs.ParameterError, match=f"{name} needs .* Box of real numbers, got .* of World"):
        envs.NonStationary(env, name)
    assert envs.NonStationary(env, "friction").phase == 0


def test_what_the_environment_says_under_a_key_of_ours_is_kept():
    class Talking(World):
        def step(self, action):
            return *super().step(action)[:4], {"phase": "stance", "friction": "high"}

    env = envs.NonStationary(Talking(box()), "friction", seed=0)
    env.reset()
    for _ in range(3):
        info = env.step(None)[4]
        assert (info["phase"], info["env_phase"], info["env_friction"]) == (0, "stance", "high")
        assert info["friction"] == env.value


def test_bodies_with_each_others_names_are_all_there():
    ball = '<body {} pos="{} 0 1"><freejoint/><geom size="0.1"/></body>'.format
    more = ball("", 1) + ball('name="body2"', 2)
    parts = envs.PARAMETERS["mass"].parts(World(box(more=more)).model)
    assert sorted(each.number for of_part in parts.values() for each in of_part) == [1, 2, 3]
    assert parts["body2"][0].number == 3  # its name
    assert parts["body:2"][0].number == 2  # the unnamed one


def test_a_simulation_can_be_kept_anywhere():
    class Engine:
        def __init__(self, world):
            self.model, self.data = world.model, world.data

    class Hidden(World):
        def __init__(self):
            super().__init__(box())
            self.engine = Engine(self)
            del self.model, self.data

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            mujoco.mj_step(self.engine.model, self.engine.data)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    with pytest.raises(envs.ParameterError, match=r"must be a MuJoCo environment, got Hidden; model=, a function"):
        envs.NonStationary(Hidden(), "friction")
    for where in (lambda env: env.unwrapped.engine.model, lambda env: (env.unwrapped.engine.model, env.unwrapped.engine.data)):
        env = held(Hidden(), "friction", 0.3, model=where)
        env.reset()
        env.step(None)
        assert env.unwrapped.engine.data.contact[0].friction[0] == 0.3
    with pytest.raises(envs.ParameterError, match=r"model= must return an MjModel, or a tuple of it and its MjData; got 3"):
        envs.NonStationary(Hidden(), "friction", model=lambda env: 3)


@dataclasses.dataclass
class Line(gymnasium.Env):
    """A dataclass: equal to each of its kind with the same numbers, and without a hash."""

    length: float = 1.0

    def __post_init__(self):
        self.observation_space, self.action_space = (gymnasium.spaces.Box(-9, 9, (size,)) for size in (3, 1))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([1.0, 2.0, 3.0]), {}

    def step(self, action):
        return np.array([1.0, 2.0, 3.0]), 0.0, False, False, {}


def test_environments_that_are_equal_and_not_the_same_are_changed_each_by_itself():
    def permuted(index):
        return envs.NonStationary(Line(), "observation_permutation", {"name": "constant", "value": index})

    first, second = permuted(1), permuted(0)
    assert first.reset()[0].tolist() == [3, 1, 2]  # the order of that number
    assert second.reset()[0].tolist() == [1, 2, 3]
    again = envs.NonStationary(first.env, "observation_permutation", {"name": "constant", "value": 0})
    assert again.reset()[0].tolist() == [1, 2, 3]
    with pytest.raises(envs.EffectError, match="made later around the same environment"):
        first.reset()
    assert second.step([0.0])[0].tolist() == [1, 2, 3]


class Unlike(Line):
    """Observations whose entries have bounds of their own."""

    def __post_init__(self):
        super().__post_init__()
        self.observation_space = gymnasium.spaces.Box(np.float32([-1, -2, -8]), np.float32([1, 2, 8]))

    def step(self, action):
        return np.array([-0.5, 1.5, 8.0]), 0.0, False, False, {}


@pytest.mark.parametrize("names", [("observation_permutation",), ("observation_permutation", "observation_bias")])
def test_entries_in_another_order_keep_their_numbers(names):
    constant = {name: {"schedule": {"name": "constant", "value": 1.0 if "perm" in name else 0.0}} for name in names}
    env = envs.NonStationary(Unlike(), constant, observe=True)
    env.reset()
    observation = env.step([0.0])[0]
    assert observation[:3].tolist() == [8.0, -0.5, 1.5]
    assert observation in env.observation_space
    assert (env.observation_space.low[:3] == -8.0).all()


def test_an_environment_that_is_gone_leaves_nothing_behind():
    gc.collect()
    before = len(_HOLDERS)
    for _ in range(3):
        env = envs.NonStationary(Line(), "observation_permutation")
    del env
    gc.collect()
    assert len(_HOLDERS) <= before  # those of earlier tests may go as well
