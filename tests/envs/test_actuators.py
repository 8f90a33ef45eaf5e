"""What is found of actuators that are at their limits, act from elsewhere, or through contacts; and of ropes that are slack."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from worlds import CORD, World, arm

import envs


def driven(env, control):
    """The generalised forces of actuators, from rest."""
    model, data = env.unwrapped.model, mujoco.MjData(env.unwrapped.model)
    data.ctrl[:] = control
    mujoco.mj_forward(model, data)
    return data.qfrc_actuator.copy()


def constant(env, parameter, value):
    return envs.NonStationary(env, parameter, {"name": "constant", "value": value})


LIMITED_SERVO = '<position joint="elbow" kp="4500" kv="450" {}/>'


@pytest.mark.parametrize(
    ("actuator", "joint"),
    [
        (LIMITED_SERVO.format('forcerange="-87 87"'), ""),
        (LIMITED_SERVO.format(""), 'actuatorfrcrange="-87 87"'),
    ],
)
@pytest.mark.parametrize("name", ["kp", "kd"])
def test_gains_of_a_servo_are_found_although_the_probe_drives_it_to_its_limit(actuator, joint, name):
    env = constant(World(arm(f"<actuator>{actuator}</actuator>", joint=joint)), name, 0.5)
    # Within the limit: 4500·0.5·0.01 N·m at a hundredth of a radian for kp, unchanged for kd.
    assert driven(env, 0.01)[0] == pytest.approx(22.5 if name == "kp" else 45.0)


PULLED = {
    "tendon": '<tendon><fixed name="t"><joint joint="elbow" coef="1"/></fixed></tendon>'
    '<actuator><motor name="m" tendon="t" gear="10"/></actuator>',
    "site": '<actuator><motor name="m" site="tip" gear="0 0 0 0 10 0"/></actuator>',
}


@pytest.mark.parametrize("more", PULLED.values(), ids=PULLED)
def test_strength_scales_the_limit_of_a_joint_that_is_pulled_from_elsewhere(more):
    limited = arm(more, joint='actuatorfrcrange="-1 1"')
    assert abs(driven(World(limited), 1.0)[0]) == 1.0
    for value in (0.5, 0.0):
        env = constant(World(limited), "strength", value)
        assert abs(driven(env, 1.0)[0]) == value
        assert "elbow" in env.reach["strength"]["jnt_actfrcrange"]
    with pytest.raises(
        envs.ParameterError, match="joint 'elbow', which limits the force of actuators that act on it from elsew"
    ):
        constant(World(limited), "strength:m", 0.5)
    assert abs(driven(constant(World(arm(more)), "strength:m", 0.5), 1.0)[0]) == pytest.approx(5.0)


def test_an_actuator_that_has_the_name_of_a_joint_elsewhere_is_called_by_its_kind():
    more = (
        '<tendon><fixed name="t"><joint joint="door_hinge" coef="1"/></fixed></tendon>'
        '<actuator><motor name="m" joint="elbow"/><motor name="elbow" tendon="t"/></actuator>'
    )
    env = World(arm(more))
    assert set(envs.PARAMETERS["strength"].parts(env.model)) == {"elbow", "actuator:elbow"}
    assert driven(constant(env, "strength:elbow", 0.5), 1.0).tolist() == [0.5, 1.0]
    assert driven(constant(World(arm(more)), "strength:actuator:elbow", 0.5), 1.0).tolist() == [1.0, 0.5]


def test_a_servo_of_suction_has_strength_before_it_touches_anything():
    more = '<actuator><adhesion name="suck" body="arm" ctrlrange="0 1" gain="3"/></actuator>'
    env = constant(World(arm(more)), "strength:suck", 0.5)
    assert env.unwrapped.model.actuator_gainprm[0, 0] == 1.5


def test_a_rope_that_is_slack_where_it_is_probed_has_stiffness():
    rope = CORD.replace('name="cord"', 'name="rope" springlength="0 1" stiffness="100"')

    def pull(env):
        model, data = env.unwrapped.model, mujoco.MjData(env.unwrapped.model)
        model.tendon_lengthspring[:] = 0.0  # taut
        mujoco.mj_forward(model, data)
        return data.qfrc_spring.copy()

    expected = 3.0 * pull(World(arm(rope)))
    assert expected.any()
    assert np.allclose(pull(constant(World(arm(rope)), "stiffness:rope", 3.0)), expected)


ROUND = """<mujoco><option gravity="0 0 0"/><worldbody>
  <body><joint name="ball" type="ball"/><geom size="0.1" pos="0.1 0 0"/>
    <body pos="0.2 0 0"><joint name="hinge" {joint}/><geom size="0.1" pos="0.1 0 0"/></body>
  </body></worldbody>
  <tendon><fixed name="cord"><joint joint="hinge" coef="1"/></fixed></tendon>
  <actuator>{actuators}</actuator>
</mujoco>"""
"""A servo of an orientation has three forces."""


def has_orientations():
    try:
        mujoco.MjModel.from_xml_string(ROUND.format(joint="", actuators='<orientation joint="ball" kp="2"/>'))
    except ValueError:
        return False
    return True


@pytest.mark.skipif(not has_orientations(), reason="this MuJoCo has no servos of orientations")
@pytest.mark.parametrize("turned", [False, True])
def test_an_actuator_of_several_forces_hides_none_of_the_others(turned):
    actuators = ['<orientation name="servo" joint="ball" kp="2"/>', '<motor name="motor" tendon="cord"/>']
    xml = ROUND.format(joint="", actuators="".join(actuators[::-1] if turned else actuators))
    own, weak = (constant(World(xml), "strength:motor", value) for value in (1.0, 0.5))
    controls = np.ones(own.unwrapped.model.nu)
    np.testing.assert_allclose(driven(weak, controls)[3], driven(own, controls)[3] / 2)
    limited = ROUND.format(joint='actuatorfrcrange="-1 1" actuatorfrclimited="true"', actuators="".join(actuators))
    with pytest.raises(envs.ParameterError, match="strength cannot change joint 'hinge', which limits the force"):
        constant(World(limited), "strength:motor", 0.5)


@pytest.mark.skipif(not hasattr(mujoco.MjModel, "actuator_delay"), reason="this MuJoCo delays no actuators")
def test_an_actuator_that_acts_with_a_delay_has_strength():
    xml = arm(more='<actuator><motor joint="elbow" delay="0.005" nsample="8"/></actuator>')
    assert constant(World(xml), "strength", 0.5).unwrapped.model.actuator_gainprm[0, 0] == 0.5
