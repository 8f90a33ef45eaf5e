"""Softness, centres of mass, limits, servos, pushes, lost entries and what is paid: as what MuJoCo compiles, or by hand."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from worlds import World, arm, box

import envs
from envs import native
from envs.published import HealthyRewardOnFall


def held(env, name, value, **kwargs):
    return envs.NonStationary(env, name, {"name": "constant", "value": value}, **kwargs)


def fall(env, steps=150):
    """Positions of what falls and lies, each step."""
    env.reset(seed=0)
    seen = []
    for _ in range(steps):
        env.step(None)
        seen.append(env.unwrapped.data.qpos.copy())
    return np.array(seen)


# Contacts

PAIR = '<contact><pair geom1="floor" geom2="box" {}/></contact>'
SOFT = {
    "contact_time": (0.05, 'solref="0.05 1"'),
    "contact_damping": (0.4, 'solref="0.02 0.4"'),
    "contact_impedance": (0.7, 'solimp="0.7 0.7"'),
}


@pytest.mark.parametrize("where", ["geoms", "pair", "override"])
@pytest.mark.parametrize("name", SOFT)
def test_contacts_are_as_soft_as_the_ones_that_are_made_so(name, where):
    value, written = SOFT[name]
    before = {"geoms": box(), "pair": box(outside=PAIR.format("")), "override": box(flag='<flag override="enable"/>')}[where]
    after = {
        "geoms": before.replace("<geom ", f"<geom {written} "),
        "pair": box(outside=PAIR.format(written)),
        "override": before.replace("<option>", "<option {}>".format(written.replace("sol", "o_sol"))),
    }[where]
    made = fall(World(after))
    np.testing.assert_array_equal(fall(held(World(before), name, value)), made)
    assert np.any(fall(World(before)) != made)


@pytest.mark.parametrize("name", ["friction", "contact_time"])
def test_a_geom_whose_contacts_are_explicit_pairs_is_refused(name):
    env = World(box(outside=PAIR.format("")))
    for part in ("floor", "box", "box+floor"):
        with pytest.raises(envs.ParameterError, match=f"{name}.* needs two geoms that can touch"):
            envs.NonStationary(env, f"{name}:{part}")
    assert envs.NonStationary(env, f"{name}:pair0").phase == 0
    ball = '<body pos="1 0 0.1"><freejoint/><geom name="ball" size="0.1"/></body>'
    beside = World(box(more=ball, outside=PAIR.format("")))  # which touches floor and box by itself
    assert envs.NonStationary(beside, f"{name}:floor", low=0.1, high=3.0).phase == 0


def test_the_softness_of_one_geom_is_the_mean_with_what_it_touches():
    env = held(World(box()), "contact_time:box", 0.06)
    fall(env, 20)
    contact = env.unwrapped.data.contact[0]
    assert contact.solref[0] == pytest.approx((0.06 + 0.02) / 2)
    seen = envs.verify(World(box()), "contact_time:box", low=0.02, high=0.06, steps=20)[0]
    assert seen.measured == pytest.approx((0.02, 0.04))


def test_a_time_constant_that_mujoco_would_raise_is_refused():
    with pytest.raises(envs.ParameterError, match=r"low must be a finite number of at least 0\.004, got 0\.003"):
        envs.NonStationary(World(box()), "contact_time", low=0.003)


def test_a_contact_of_stiffness_and_damping_is_refused_by_its_name():
    words = "contact_time cannot change geom 'box', whose solref is a stiffness and a damping, of World"
    with pytest.raises(envs.ParameterError, match=words):
        envs.NonStationary(World(box(geom='solref="-1000 -50"')), "contact_time")


# Centres of mass

DOLL = """<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body name="doll" pos="0 0 0.4" euler="10 20 30">
      <freejoint/>
      <inertial pos="{} 0 0" mass="2" diaginertia="0.02 0.03 0.04"/>
      <geom type="sphere" size="0.1"/>
      <geom type="box" size="0.05 0.1 0.05" pos="0 0.2 0"/>
      <body name="head" pos="0 0 0.2">
        <joint name="neck" type="hinge" axis="0 1 0" damping="0.1"/>
        <inertial pos="{} 0 0.05" quat="0.9 0.1 0.3 0.1" mass="0.5" diaginertia="0.002 0.003 0.004"/>
        <geom type="sphere" size="0.08"/>
        <geom type="capsule" size="0.02 0.1" pos="0 0 0.1" quat="0.9 0.1 0.3 0.1"/>
      </body>
    </body>
    <body name="ball" pos="1 0 0.3"><freejoint/><geom size="0.1"/></body>
  </worldbody>
</mujoco>"""


@pytest.mark.parametrize(("part", "doll", "head"), [("", 0.3, 0.3), (":head", 0.0, 0.3), (":doll", 0.3, 0.0)])
def test_a_displaced_centre_of_mass_is_the_one_that_is_compiled_there(part, doll, head):
    made = World(DOLL.format(doll, head))
    changed = held(World(DOLL.format(0, 0)), f"centre_of_mass_x{part}", 0.3)
    first, second = fall(made, 400), fall(changed, 400)
    np.testing.assert_allclose(first[:120], second[:120], rtol=1e-9, atol=1e-9)  # free, and the first blows
    assert made.data.ncon == changed.unwrapped.data.ncon > 0
    # MuJoCo looks for contacts in boxes that lie relative to the centres.
    np.testing.assert_allclose(changed.unwrapped.model.bvh_aabb, made.model.bvh_aabb, atol=1e-12)
    np.testing.assert_allclose(first[-1], second[-1], atol=1e-3)  # where it lies
    assert np.abs(second - fall(World(DOLL.format(0, 0)), 400)).max() > 0.01


def test_no_displacement_is_the_same_to_the_bit():
    env = held(World(DOLL.format(0, 0)), "centre_of_mass_x", 0.0)
    np.testing.assert_array_equal(fall(env), fall(World(DOLL.format(0, 0))))


def test_a_body_whose_inertia_mujoco_takes_for_diagonal_has_no_centre_to_displace():
    with pytest.raises(envs.ParameterError, match="part of centre_of_mass_x must be one of 'doll', 'head', got 'ball'"):
        envs.NonStationary(World(DOLL.format(0, 0)), "centre_of_mass_x:ball")
    with pytest.raises(envs.ParameterError, match="centre_of_mass_x needs a body with mass that turns, which World lacks"):
        envs.NonStationary(World(box()), "centre_of_mass_x")


# Limits and servos


def test_limits_move_towards_where_a_joint_is_at_first():
    def limits(joint):
        env = held(World(arm("<actuator><motor joint='elbow'/></actuator>", joint)), "joint_range", 0.5)
        return env.unwrapped.model.jnt_range[0]

    degrees = np.pi / 180
    np.testing.assert_allclose(limits('range="-80 20"'), [-40 * degrees, 10 * degrees])
    np.testing.assert_allclose(limits('range="30 70"'), [30 * degrees, 50 * degrees])  # it begins beyond the lower one
    np.testing.assert_allclose(limits('range="0 60" ref="20"'), [10 * degrees, 40 * degrees])


def test_a_joint_without_limits_has_none_to_move():
    with pytest.raises(envs.ParameterError, match="joint_range needs a joint within the machine that has limits"):
        envs.NonStationary(World(arm("<actuator><motor joint='elbow'/></actuator>")), "joint_range")


SERVOS = {
    "position": '<position joint="elbow" kp="{kp}" kv="{kd}"/>',
    "damped by ratio": '<position joint="elbow" kp="{kp}" dampratio="0.5"/>',
    "intvelocity": '<intvelocity joint="elbow" kp="{kp}" kv="{kd}" actrange="-2 2"/>',
    "velocity": '<velocity joint="elbow" kv="{kd}"/>',
}


def turn(env):
    env.reset(seed=0)
    seen = []
    for step in range(60):
        env.step(np.array([0.5 if step < 30 else -0.3]))
        seen.append(env.unwrapped.data.qpos[0])
    return np.array(seen)


@pytest.mark.parametrize(("name", "servo"), [("kp", "position"), ("kp", "intvelocity"), ("kd", "position"), ("kd", "velocity")])
@pytest.mark.parametrize("factor", [True, False])
def test_the_gain_of_a_servo_is_the_one_that_is_made_so(name, servo, factor):
    def make(**gains):
        return World(arm(f"<actuator>{SERVOS[servo].format(**({'kp': 20, 'kd': 2} | gains))}</actuator>"))

    own = {"kp": 20, "kd": 2}[name]
    changed = held(make(), name, 3.0 if factor else 3.0 * own, factor=factor)
    np.testing.assert_allclose(turn(changed), turn(make(**{name: 3 * own})), rtol=1e-12)
    assert np.abs(turn(make()) - turn(changed)).max() > 0.005


def test_kp_leaves_the_damping_of_a_servo_as_it_is():
    env = held(World(arm(f"<actuator>{SERVOS['damped by ratio'].format(kp=20)}</actuator>")), "kp", 2.0)
    own = World(arm(f"<actuator>{SERVOS['damped by ratio'].format(kp=20)}</actuator>")).model.actuator_biasprm[0]
    np.testing.assert_allclose(env.unwrapped.model.actuator_biasprm[0, :3], [0, 2 * own[1], own[2]])


@pytest.mark.parametrize("name", ["kp", "kd"])
def test_a_motor_has_no_gains_of_a_servo(name):
    with pytest.raises(envs.ParameterError, match=f"{name} needs a servo that is told"):
        envs.NonStationary(World(arm("<actuator><motor joint='elbow'/></actuator>")), name)


# Pushes


def test_a_push_of_one_body_gives_it_what_it_would_take_alone():
    # A bar of 3 kg and one of 1 kg on a common slide: the push of the small one, 1 kg·2 m/s, moves 4 kg by 0.5 m/s.
    xml = """<mujoco><option gravity="0 0 0"/><worldbody>
      <body name="sledge"><joint type="slide" axis="1 0 0"/><geom size="0.1" mass="3"/>
        <body name="load" pos="0 0 0.3"><geom size="0.1" mass="1"/></body></body>
      <body name="post" pos="2 0 0"><joint type="slide" axis="0 1 0"/><geom size="0.1" mass="1"/></body>
    </worldbody></mujoco>"""
    env = held(World(xml), "push_x:sledge", 2.0)
    env.reset(seed=0)
    env.step(None)
    np.testing.assert_allclose(env.unwrapped.data.qvel, [3 * 2 / 4, 0])
    env.step(None)
    np.testing.assert_allclose(env.unwrapped.data.qvel, [3 * 2 / 4, 0])
    env.set_value("push_x:sledge", 0.4)  # another blow
    env.step(None)
    np.testing.assert_allclose(env.unwrapped.data.qvel, [3 * 2.4 / 4, 0])
    with pytest.raises(envs.ParameterError, match="push_z needs a body with mass that can move along z"):
        envs.NonStationary(World(xml), "push_z")


def test_pushes_come_at_the_times_of_their_own_clock_and_in_bursts():
    bursts = {"name": "bursts", "changes": 3, "gap": 2, "calm": 10}
    pushes = {"schedule": {"name": "constant", "value": 1.0}, "period": bursts, "change_at": "now"}
    env = envs.NonStationary(World(box(flag='<flag gravity="disable"/>')), {"push_x": pushes, "mass": {}}, seed=0)
    env.reset(seed=0)
    speeds = [0.0]
    for _ in range(30):
        env.step(None)
        speeds.append(float(env.unwrapped.data.qvel[0]))
    assert np.flatnonzero(np.diff(speeds) > 0.5).tolist() == [0, 10, 12, 14, 24, 26, 28]


def test_a_state_keeps_a_push_that_is_still_to_come():
    def make():
        return envs.NonStationary(gymnasium.make("Hopper-v5"), "push_x", period=20, change_at="now", seed=0)

    env = make()
    env.reset(seed=0)
    for steps in (7, 13):
        for _ in range(steps):
            env.step(np.zeros(3))
        state = envs.save_state(env)
        other = make()
        envs.load_state(other, state)
        saved, again = env.step(np.zeros(3))[0], other.step(np.zeros(3))[0]
        np.testing.assert_array_equal(saved, again)
    json.dumps(env.state_dict())


@pytest.mark.parametrize("name", ["push_x", "goal_direction"])
def test_compiled_code_leaves_to_python_what_acts_in_steps(name):
    env = gymnasium.make("ant-nonstationary-v0", parameter=name)
    assert native.unsupported(env) == "observations, actions, rewards or velocities are changed in steps"


# What is paid


def test_the_reward_on_a_fall_is_the_one_in_force():
    env = held(HealthyRewardOnFall(gymnasium.make("Hopper-v5")), "healthy_reward", 3.0)
    env.reset(seed=0)
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(np.array([1.0, 1.0, 1.0]))
    assert info["reward_survive"] == 3.0


def test_two_directions_a_turn_apart_are_not_taken_for_different_ones():
    seen = envs.verify(gymnasium.make("Swimmer-v5"), "goal_direction", low=-180.0, high=180.0, steps=20)[0]
    assert seen.values == (-180.0, 0.0)
    assert seen.measured[1] == 0.0


# What arrives


@pytest.mark.parametrize("env_id", ["Swimmer-v5", "Hopper-v5", "Ant-v5"])
def test_no_number_but_0_is_that_of_the_own_order(env_id):
    env = held(gymnasium.make(env_id), "action_permutation", 0.0)
    action = np.linspace(-0.3, 0.3, env.action_space.shape[0], dtype=np.float32)
    env.reset(seed=0)
    env.step(action)
    assert env.unwrapped.data.ctrl.tolist() == action.tolist()
    orders = set()
    for number in range(1, 60):
        env.set_value("action_permutation", float(number))
        env.step(action)
        arrived = env.unwrapped.data.ctrl.tolist()
        assert sorted(arrived) == action.tolist() != arrived
        orders.add(tuple(arrived))
    assert len(orders) >= min(59, {2: 1, 3: 5, 8: 59}[len(action)])


def test_one_entry_has_no_other_order():
    with pytest.raises(envs.ParameterError, match="action_permutation needs two entries or more"):
        envs.NonStationary(gymnasium.make("InvertedPendulum-v5"), "action_permutation")


def test_there_are_as_many_dead_entries_to_choose_from_as_entries():
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), "dead_action", seed=0)
    assert {values["dead_action"] for values in env.forecast(60)} == {0, 1, 2, 3}
    with pytest.raises(envs.ParameterError, match="high must be a finite number from 0 to 3, got 4"):
        envs.NonStationary(gymnasium.make("Hopper-v5"), "dead_action", high=4)


def test_what_is_lost_for_certain_is_all_and_for_never_nothing():
    env, plain = held(gymnasium.make("Hopper-v5"), "observation_dropout", 1.0), gymnasium.make("Hopper-v5")
    assert not env.reset(seed=0)[0].any()
    env.set_value("observation_dropout", 0.0)
    plain.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.zeros(3))[0], plain.step(np.zeros(3))[0])
