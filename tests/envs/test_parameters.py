"""Each parameter on each registered environment: the physics changes, as much as the value does, measured where it acts."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from worlds import World, box

import envs
from envs.interface import Interface
from envs.registered import NONSTATIONARY

ENVIRONMENTS = [spec.id for spec in gymnasium.registry.values() if spec.entry_point == NONSTATIONARY]
BASE_DOFS = {"ant": 6, "humanoid": 6, "swimmer": 3, "hopper": 3, "walker2d": 3, "halfcheetah": 3}  # of the machine in the world
PERIOD = 10_000
LACKING = {("friction", "swimmer-nonstationary-v0"), ("gravity", "swimmer-nonstationary-v0")}
LACKING |= {(name, env_id) for name in ("torsional_friction", "rolling_friction") for env_id in ENVIRONMENTS}
PLANAR = ("halfcheetah", "hopper", "walker2d")
ACROSS = ("wind_y", "push_y", "centre_of_mass_y", "goal_direction")
LACKING |= {(name, env_id) for name in ACROSS for env_id in ENVIRONMENTS if env_id.startswith(PLANAR)}
LACKING |= {(name, env_id) for name in ("kp", "kd") for env_id in ENVIRONMENTS}
OF_CONTACTS = ("contact_time", "contact_damping", "contact_impedance")
LACKING |= {(name, "swimmer-nonstationary-v0") for name in (*OF_CONTACTS, "push_z", "centre_of_mass_z", "healthy_reward")}
LACKING |= {("healthy_reward", "halfcheetah-nonstationary-v0")}
OF_MACHINES = [name for name, parameter in envs.PARAMETERS.items() if not getattr(parameter, "of", "")]
"""Those that are not of one environment without MuJoCo, which test_attributes.py has."""
OF_THE_INTERFACE = [name for name, parameter in envs.PARAMETERS.items() if isinstance(parameter, Interface)]
FEW = ("ant", "hopper", "swimmer")
"""Enough for the interface, which is the same everywhere."""
PAIRS = [
    (name, env_id)
    for name in OF_MACHINES
    for env_id in ENVIRONMENTS
    if (name, env_id) not in LACKING and (name not in OF_THE_INTERFACE or env_id.startswith(FEW))
]


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a deprecation in HalfCheetah's model to a file in the working directory


# What a machine does far from everything it could touch, in a copy of the model that is simulated now.


def forward(env, *, velocity=None, torque=None, control=None, weightless=True):
    model = copy.deepcopy(env.unwrapped.model)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    if weightless:
        model.opt.gravity[:] = 0
    data = mujoco.MjData(model)
    for array, given in ((data.qvel, velocity), (data.qfrc_applied, torque), (data.ctrl, control)):
        if given is not None:
            array[:] = given
    mujoco.mj_forward(model, data)
    return model, data


def acceleration_of_the_centre(model, data):
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jacSubtreeCom(model, data, jacobian, 1)
    return jacobian @ data.qacc  # at rest, where the Jacobian does not change


def inner(env):
    """The dofs of the machine's own joints."""
    return slice(BASE_DOFS[env.spec.id.split("-")[0]], env.unwrapped.model.nv)


def unit(size, where):
    array = np.zeros(size)
    array[where] = 1.0
    return array


def of_contacts(read):
    def probe(env):
        """What all contacts have that there are in some steps."""
        found, actions = [], np.random.default_rng(0)
        for step in range(200):
            if step % 40 == 0:
                env.env.reset(seed=step)
            env.env.step(actions.uniform(-0.4, 0.4, env.action_space.shape))
            data = env.unwrapped.data
            found += [tuple(np.ravel(read(data.contact[i]))) for i in range(data.ncon)]
            if len(found) >= 40:
                break
        assert len(found) >= 20
        assert len({number for numbers in found for number in numbers}) == 1
        return found[0][0]

    return probe


def gravity(env):
    return float(np.linalg.norm(acceleration_of_the_centre(*forward(env, weightless=False))))


def gravity_tilt(env):
    x, _, z = acceleration_of_the_centre(*forward(env, weightless=False))
    if env.spec.id.startswith("swimmer"):  # it moves in the plane only, where nothing pulls it on even ground
        return math.degrees(math.asin(-x / 9.81))
    return math.degrees(math.atan2(-x, -z))


def mass(env):
    model, data = forward(env, torque=unit(env.unwrapped.model.nv, 0))  # 1 N along x
    return 1 / acceleration_of_the_centre(model, data)[0]


def damping(env):
    return -forward(env, velocity=unit(env.unwrapped.model.nv, inner(env)))[1].qfrc_damper.sum()


def stiffness(env):
    model = copy.deepcopy(env.unwrapped.model)
    data = mujoco.MjData(model)
    at_rest = forward(env)[1].qfrc_spring.sum()
    data.qpos[-(model.nv - inner(env).start) :] += 0.1
    mujoco.mj_forward(model, data)
    return (at_rest - data.qfrc_spring.sum()) / 0.1


def armature(env):
    size = env.unwrapped.model.nv
    at_rest = forward(env)[1].qacc
    responses = np.array([forward(env, torque=unit(size, i))[1].qacc - at_rest for i in range(size)])
    return np.trace(np.linalg.inv(responses)[inner(env), inner(env)])  # inertia, from accelerations under 1 N·m each


def strength(env):
    control = np.full(env.unwrapped.model.nu, 0.3)
    return np.abs(forward(env, control=control)[1].qfrc_actuator).sum()


def drag(env):
    return -forward(env, velocity=unit(env.unwrapped.model.nv, 0))[1].qfrc_fluid[0]  # 1 m/s along x


def wind(env):
    """The speed at which the machine would have to move in still air to be pushed as it is now, at rest."""
    pushed = forward(env)[1].qfrc_fluid[0]
    still = copy.deepcopy(env.unwrapped.model)
    still.opt.wind[:] = 0
    data = mujoco.MjData(still)
    speeds, forces = np.linspace(-3, 3, 601), []
    for speed in speeds:
        data.qvel[0] = speed
        mujoco.mj_forward(still, data)
        forces.append(data.qfrc_fluid[0])
    return -np.interp(-pushed, -np.array(forces), speeds)


def wind_across(axis):
    def push(env):
        """The force of the wind on a machine at rest, of the medium's pressure alone: it grows with the square of the speed."""
        model = copy.deepcopy(env.unwrapped.model)
        model.opt.viscosity = 0
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        bodies = range(1, model.nbody)
        jacobians = np.zeros((model.nbody, 3, model.nv))
        for body in bodies:
            mujoco.mj_jacBodyCom(model, data, jacobians[body], None, body)
        felt = jacobians[:, axis].sum(0) @ data.qfrc_fluid
        return math.copysign(math.sqrt(abs(felt)), felt)

    return push


def frictionloss(env):
    model = copy.deepcopy(env.unwrapped.model)
    model.opt.gravity[:] = 0
    model.opt.density = model.opt.viscosity = 0
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_LIMIT
    data = mujoco.MjData(model)
    data.qvel[inner(env)] = 50.0  # so fast that it slides
    mujoco.mj_forward(model, data)
    return -data.qfrc_constraint[inner(env)].sum()


def timestep(env):
    before = env.unwrapped.data.time
    env.unwrapped.step(np.zeros(env.action_space.shape))
    return env.unwrapped.data.time - before


def centre_of_mass(axis):
    def displacement(env):
        """From where the centres of bodies are in a plain environment, in the frames of the bodies."""
        places = []
        for each in (env, plain(env)):
            model = each.unwrapped.model
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            frames = data.xmat[1:].reshape(-1, 3, 3)
            places.append(np.einsum("bij,bi->bj", frames, data.xipos[1:] - data.xpos[1:]))
        moved = places[0] - places[1]
        moved = moved[plain(env).unwrapped.model.body_mass[1:] > 0]
        assert np.ptp(moved, axis=0).max() < 1e-9
        return moved[0, axis]

    return displacement


def plain(env):
    """The environment as Gymnasium makes it."""
    return gymnasium.make(gymnasium.registry[env.spec.id].kwargs["base"])


def joint_range(env):
    """How far the last joint can turn before a limit pushes back, both ways together."""
    model = copy.deepcopy(env.unwrapped.model)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    data = mujoco.MjData(model)

    def pushed(angle):
        data.qpos[-1] = angle
        mujoco.mj_fwdPosition(model, data)
        return np.any(data.efc_id[data.efc_type == mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT] == model.njnt - 1)

    free = next(angle for angle in np.linspace(-3, 3, 6001) if not pushed(angle))
    ends = []
    for side in (-4.0, 4.0):
        inside, outside = free, side
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if pushed(middle) else (middle, outside)
        ends.append(inside)
    return ends[1] - ends[0]


def push(axis):
    def speed(env):
        """What the centre of mass moves faster in the first step of a phase than it did before, along an axis."""
        base, given = env.unwrapped, []
        simulate = base._step_mujoco_simulation
        base._step_mujoco_simulation = lambda *arguments: (given.append(base.data.qvel.copy()), simulate(*arguments))
        model = copy.deepcopy(base.model)
        data = mujoco.MjData(model)
        for _ in range(2):
            before = base.data.qpos.copy(), base.data.qvel.copy()
            env.step(np.zeros(env.action_space.shape, np.float32))
            data.qpos[:] = before[0]
            mujoco.mj_forward(model, data)
            jacobian = np.zeros((3, model.nv))
            mujoco.mj_jacSubtreeCom(model, data, jacobian, 0)
            given[-1] = (jacobian @ (given[-1] - before[1]))[axis]
        del base._step_mujoco_simulation
        assert given[1] == 0  # once in a phase
        return given[0]

    return speed


def paid(name):
    def probe(env):
        """A part of the reward, as a multiple of what it is in a plain environment in the same step."""
        parts = []
        for each in (env, plain(env)):
            (each.env if each is env else each).reset(seed=4)
            _, reward, *_, info = each.step(np.full(env.action_space.shape, 0.3, np.float32))
            assert reward == pytest.approx(sum(part for key, part in info.items() if key.startswith("reward_")))
            parts.append(info[name])
        return parts[0] / parts[1]

    return probe


def goal_direction(env):
    """The angle of the direction d for which two velocities v are paid w·v·d."""
    velocities, rewards = [], []
    for number in range(2):
        env.env.reset(seed=number)
        env.step(np.full(env.action_space.shape, 0.3 - 0.5 * number, np.float32))
        *_, info = env.step(np.full(env.action_space.shape, 0.3 - 0.5 * number, np.float32))
        velocities.append((info["x_velocity"], info["y_velocity"]))
        rewards.append(info["reward_forward"])
    x, y = np.linalg.solve(velocities, rewards)
    return math.degrees(math.atan2(y, x))


def observed_deviations(env):
    deviations = []
    for _ in range(60):
        observation = env.step(np.zeros(env.action_space.shape))[0]
        deviations.append(observation - env.unwrapped._get_obs())
        if len(deviations) % 10 == 0:
            observation = env.reset()[0]
            deviations.append(observation - env.unwrapped._get_obs())
    return np.array(deviations)


def observation_noise(env):
    return observed_deviations(env).std()


def observation_bias(env):
    deviations = observed_deviations(env)
    assert np.ptp(deviations) < 1e-6
    return deviations.mean()


def action_noise(env):
    env.unwrapped.frame_skip = 1  # of the physics only what arrives counts
    deviations = []
    for _ in range(2400 // env.action_space.shape[0]):
        _, _, terminated, _, _ = env.step(np.full(env.action_space.shape, 0.01, np.float32))
        deviations.append(env.unwrapped.data.ctrl - 0.01)
        if terminated:
            env.reset()
    return np.array(deviations).std()


def action_delay(env):
    arrived = None
    env.reset()
    for step in range(30):
        env.step(np.full(env.action_space.shape, 0.2 if step == 0 else 0.0, np.float32))
        if np.any(env.unwrapped.data.ctrl):
            assert arrived is None
            assert np.allclose(env.unwrapped.data.ctrl, 0.2)
            arrived = step
    return arrived


def action_dropout(env):
    env.unwrapped.frame_skip = 1
    zeros = []
    while len(zeros) < 1500:
        terminated = env.step(np.full(env.action_space.shape, 0.2, np.float32))[2]
        zeros += (env.unwrapped.data.ctrl == 0).tolist()
        if terminated:
            env.reset()
    return np.mean(zeros)


def observation_dropout(env):
    lost = []
    while len(lost) < 1500:
        observation = env.step(np.full(env.action_space.shape, 0.01, np.float32))[0]
        sent = env.unwrapped._get_obs()
        lost += (observation[sent != 0] == 0).tolist()
        if len(lost) % 7 == 0:
            env.reset()
    return np.mean(lost)


def dead_action(env):
    env.step(np.full(env.action_space.shape, 0.2, np.float32))
    return dead(env.unwrapped.data.ctrl == 0)


def dead_observation(env):
    observation = env.step(np.full(env.action_space.shape, 0.2, np.float32))[0]
    return dead((observation == 0) & (env.unwrapped._get_obs() != 0))


def dead(entries):
    assert entries.sum() <= 1
    return float(np.argmax(entries)) + 1 if entries.any() else 0.0


def action_permutation(env):
    action = np.linspace(0.05, 0.3, env.action_space.shape[0], dtype=np.float32)
    env.step(action)
    return displaced(env.unwrapped.data.ctrl, action)


def observation_permutation(env):
    observation = env.step(np.full(env.action_space.shape, 0.2, np.float32))[0]
    return displaced(observation, env.unwrapped._get_obs())


def displaced(arrived, sent):
    """How many entries are other ones."""
    np.testing.assert_array_equal(np.sort(arrived), np.sort(sent))
    return float((arrived != sent).sum())


# How what is measured follows the value.


def equal(tolerance):
    return lambda values, measured: np.testing.assert_allclose(measured, values, atol=tolerance)


def proportional(values, measured):
    assert min(measured) > 0
    np.testing.assert_allclose(np.array(measured) / measured[0], np.array(values) / values[0], rtol=1e-9)


def affine(values, measured):
    """Rises, and evenly: the same slope from the first to the second as from the second to the third."""
    slopes = np.diff(measured) / np.diff(values)
    assert (slopes > 0).all()
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-3)


def the_same_direction(values, measured):
    np.testing.assert_allclose((np.subtract(measured, values) + 180) % 360 - 180, 0, atol=1e-6)


def moved_but_at_zero(values, measured):
    assert [value != 0 for value in values] == [number > 0 for number in measured]


def increasing(values, measured):
    assert (np.diff(measured) > 0).all()


PROBES = {
    "friction": (of_contacts(lambda contact: contact.friction[:2]), equal(0)),
    "gravity": (gravity, equal(1e-9)),
    "gravity_tilt": (gravity_tilt, equal(0.01)),
    "mass": (mass, affine),
    "damping": (damping, proportional),
    "stiffness": (stiffness, proportional),
    "armature": (armature, affine),
    "strength": (strength, proportional),
    "density": (drag, affine),
    "viscosity": (drag, affine),
    "wind": (wind, equal(0.02)),
    "torsional_friction": (None, None),  # of contacts that no registered environment has: test_any_simulation.py
    "rolling_friction": (None, None),
    "frictionloss": (frictionloss, affine),
    "wind_y": (wind_across(1), increasing),
    "wind_z": (wind_across(2), increasing),
    "timestep": (timestep, proportional),
    "observation_noise": (observation_noise, equal(0.01)),
    "observation_bias": (observation_bias, equal(1e-6)),
    "action_noise": (action_noise, equal(0.01)),
    "action_delay": (action_delay, equal(0)),
    "contact_time": (of_contacts(lambda contact: contact.solref[0]), equal(0)),
    "contact_damping": (of_contacts(lambda contact: contact.solref[1]), equal(1e-12)),
    "contact_impedance": (of_contacts(lambda contact: contact.solimp[:2]), equal(0)),
    **{f"centre_of_mass_{axis}": (centre_of_mass("xyz".index(axis)), equal(1e-9)) for axis in "xyz"},
    "joint_range": (joint_range, proportional),
    "kp": (None, None),  # of servos, which no registered environment has: test_any_simulation.py
    "kd": (None, None),
    **{f"push_{axis}": (push("xyz".index(axis)), equal(1e-3)) for axis in "xyz"},  # rotors resist
    "goal_direction": (goal_direction, the_same_direction),
    "forward_reward": (paid("reward_forward"), equal(1e-9)),
    "control_cost": (paid("reward_ctrl"), equal(1e-6)),
    "healthy_reward": (paid("reward_survive"), equal(1e-9)),
    "observation_dropout": (observation_dropout, equal(0.08)),
    "action_dropout": (action_dropout, equal(0.06)),
    "dead_observation": (dead_observation, equal(0)),
    "dead_action": (dead_action, equal(0)),
    "observation_permutation": (observation_permutation, moved_but_at_zero),
    "action_permutation": (action_permutation, moved_but_at_zero),
}
OF_THEIR_OWN = {"damping": ["swimmer"], "stiffness": ["ant", "hopper", "walker2d", "swimmer"]}  # have none to multiply


def range_of(name):
    """The least value, one between, the greatest."""
    if name.startswith("dead_"):
        return 0.0, 1.0, 2.0
    if name.endswith("_permutation"):
        return 0.0, 0.0, 100.0
    if name == "joint_range":
        return 0.02, 0.04, 1.0  # so that limits are reached in few steps
    low, high = envs.PARAMETERS[name].low, envs.PARAMETERS[name].high
    if name == "action_noise":
        high = 0.1  # more would be clipped where actions end at 0.4
    return low, 2.0 if envs.PARAMETERS[name].whole else 0.7 * low + 0.3 * high, high


def walking_through(values, name, env_id):
    """The registered environment whose parameter takes some values, without the wrappers of ``gymnasium.make``."""
    options = {"schedule": {"name": "list", "values": values}}
    if env_id.split("-")[0] in OF_THEIR_OWN.get(name, []):
        options["factor"] = False
    parameter = {name: options}
    if name.startswith("wind") and not env_id.startswith("swimmer"):
        parameter = {"density": {"schedule": {"name": "constant", "value": 1.2}}, **parameter}
    env = gymnasium.make(env_id, parameter=parameter, period=PERIOD)
    while not isinstance(env, envs.NonStationary):
        env = env.env
    return env


def phases(env, values, name):
    """Brings one value after the other into force; what happens to the clock in between does not count."""
    for phase, value in enumerate(values):
        _, info = env.reset(seed=0 if phase == 0 else None)
        assert (info["phase"], info[name]) == (phase, value)
        state = env.state_dict()
        yield phase
        env.load_state_dict(state | {"steps": PERIOD + 1})


def test_every_parameter_has_a_probe():
    assert PROBES.keys() == set(OF_MACHINES)


@pytest.mark.parametrize(("name", "env_id"), sorted(LACKING))
def test_what_does_nothing_to_an_environment_is_refused(name, env_id):
    base = gymnasium.registry[env_id].kwargs["base"]
    parameter = {name: {}} | ({"density": {}} if name.startswith("wind") else {})
    with pytest.raises(envs.ParameterError, match=f"{name} needs .*, which {base} lacks"):
        envs.NonStationary(gymnasium.make(base), parameter)


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_the_physics_follows_the_value_up_and_down_and_back(name, env_id):
    probe, relation = PROBES[name]
    low, middle, high = range_of(name)
    if (name, env_id) == ("wind_z", "swimmer-nonstationary-v0"):
        pytest.skip("it lies in the plane, where wind from above and from below are alike")
    values = [middle, low, high, middle]
    env = walking_through(values, name, env_id)
    measured = [probe(env) for _ in phases(env, values, name)]
    relation([low, middle, high], [measured[1], measured[0], measured[2]])
    if "noise" not in name and "dropout" not in name:
        # Each push comes at another place.
        assert measured[3] == pytest.approx(measured[0], rel=1e-6 if name.startswith("push") else 1e-12)


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_the_first_value_brings_back_the_first_trajectory_to_the_bit(name, env_id):
    _, middle, high = range_of(name)
    values = [middle, high, middle]
    env = walking_through(values, name, env_id)
    trajectories, generators = [], []
    for phase in phases(env, values, name):
        generators.append(
            [env.unwrapped.np_random.bit_generator.state, *(each["generator"] for each in env.state_dict()["interface"])]
        )
        env.unwrapped.np_random.bit_generator.state = generators[0][0]
        state = env.state_dict()
        env.load_state_dict(state | {"interface": [{**each, "generator": generators[0][1]} for each in state["interface"]]})
        trajectories.append([])
        env.reset()
        actions = np.random.default_rng(0)
        for _ in range(30):
            observation, reward, *_, info = env.step(actions.uniform(-0.4, 0.4, env.action_space.shape).astype(np.float32))
            assert info["phase"] == phase
            trajectories[-1].append((*observation, reward))
    first, other, again = map(np.array, trajectories)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_the_simulation_is_stable_at_both_ends_of_the_default_range(name, env_id):
    low, _, high = range_of(name)
    env = walking_through([low, high], name, env_id)
    actions = np.random.default_rng(0)
    for _ in phases(env, [low, high], name):
        for _ in range(60):
            terminated = env.step(actions.uniform(-0.4, 0.4, env.action_space.shape).astype(np.float32))[2]
            if terminated:
                assert not warnings_of(env)
                env.env.reset()
        assert not warnings_of(env)


def warnings_of(env):
    """How many times MuJoCo warned since the last reset, which alone sets its counts to 0."""
    return sum(warning.number for warning in env.unwrapped.data.warning)


def test_a_body_of_twice_the_mass_is_the_one_that_the_compiler_makes_of_twice_the_density(tmp_path):
    # Constants that follow from masses, such as what softens contacts, are computed anew: else the trajectories would part.
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "ant.xml"
    (tmp_path / "heavy.xml").write_text(source.read_text().replace('density="5.0"', 'density="10.0"'))
    heavy = gymnasium.make("Ant-v5", xml_file=str(tmp_path / "heavy.xml"))
    made_heavy = envs.NonStationary(gymnasium.make("Ant-v5"), "mass", low=2.0, high=2.0)
    assert_like(heavy, made_heavy)


def test_an_armature_of_twice_the_inertia_is_the_one_that_the_compiler_makes(tmp_path):
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "ant.xml"
    (tmp_path / "slow.xml").write_text(source.read_text().replace('armature="1"', 'armature="2"'))
    slow = gymnasium.make("Ant-v5", xml_file=str(tmp_path / "slow.xml"))
    assert_like(slow, envs.NonStationary(gymnasium.make("Ant-v5"), "armature", low=2.0, high=2.0))


def assert_like(first, second):
    first.reset(seed=0)
    second.reset(seed=0)
    actions = np.random.default_rng(0)
    contacts = 0
    for _ in range(100):
        action = actions.uniform(-1, 1, 8)
        np.testing.assert_allclose(first.step(action)[0][:27], second.step(action)[0][:27], rtol=1e-9, atol=1e-9)
        contacts += first.unwrapped.data.ncon
    assert contacts > 20


# Changes that alter nothing

UNFIT = ("stiffness", "wind", "wind_y", "wind_z", "torsional_friction", "rolling_friction", "kp", "kd")
"""What the Ant has no own value of, no medium for, no contacts or no servos of."""


@pytest.mark.parametrize("name", ["mass", "damping", "armature", "strength"])
def test_a_factor_of_one_gives_the_trajectory_of_the_unwrapped_environment_to_the_bit(name):
    plain, changed = gymnasium.make("Ant-v5"), envs.NonStationary(gymnasium.make("Ant-v5"), name, low=1.0, high=1.0)
    plain.reset(seed=0)
    changed.reset(seed=0)
    actions = np.random.default_rng(0)
    for _ in range(50):
        action = actions.uniform(-1, 1, 8)
        np.testing.assert_array_equal(plain.step(action)[0], changed.step(action)[0])


@pytest.mark.parametrize("name", [each for each in OF_MACHINES if each not in UNFIT])
def test_a_change_in_mid_episode_leaves_positions_and_velocities_as_they_are(name):
    low, _, high = range_of(name)
    values = {"name": "list", "values": [low, high]}
    env = envs.NonStationary(gymnasium.make("Ant-v5"), name, values, period=20, change_at="now")
    env.reset(seed=0)
    for _ in range(20):
        env.step(env.action_space.sample())
    data = env.unwrapped.data
    before = data.qpos.copy(), data.qvel.copy(), data.qacc.copy(), data.time
    env.set_value(name, high)
    after = data.qpos, data.qvel, data.qacc, data.time
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


# Parts


def test_the_mass_of_one_body_changes_alone():
    env = walking_through([3.0], "mass:torso", "ant-nonstationary-v0")
    plain = gymnasium.make("Ant-v5")
    torso = plain.unwrapped.model.body("torso").id
    own, total = plain.unwrapped.model.body_mass[torso], plain.unwrapped.model.body_mass.sum()
    assert mass(env) == pytest.approx(total + 2 * own)  # three times the torso's, once the others'
    rotors = forward(env)[0].dof_armature.sum()
    assert rotors == plain.unwrapped.model.dof_armature.sum()


def test_the_strength_of_one_joint_changes_alone_down_to_paralysis():
    env = walking_through([0.0, 0.5], "strength:ankle_3", "ant-nonstationary-v0")
    torques = [
        forward(env, control=np.ones(8))[1].qfrc_actuator[6:].copy() for _ in phases(env, [0.0, 0.5], "strength:ankle_3")
    ]
    joint = 5  # hip_1, ankle_1, hip_2, ankle_2, hip_3, ankle_3
    assert torques[0].tolist() == [150.0] * joint + [0.0] + [150.0] * 2
    assert torques[1].tolist() == [150.0] * joint + [75.0] + [150.0] * 2


def test_strength_also_scales_forces_at_their_limits_and_those_of_tendons(tmp_path):
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "ant.xml"
    motor = '<motor ctrllimited="true" ctrlrange="-1.0 1.0" joint="{}" gear="150"/>'.format
    text = source.read_text().replace('name="ankle_4"', 'name="ankle_4" actuatorfrcrange="-5 5"')
    for joint, other in {
        "hip_4": '<position ctrlrange="-1 1" joint="hip_4" kp="500" dampratio="1" forcerange="-7 7"/>',
        "hip_1": '<motor ctrlrange="-1 1" name="winch" tendon="cord" gear="16"/>',
    }.items():
        assert motor(joint) in text
        text = text.replace(motor(joint), other)
    cord = '<tendon><fixed name="cord" actuatorfrcrange="-0.5 0.5"><joint joint="hip_1" coef="1"/></fixed></tendon>'
    (tmp_path / "limited.xml").write_text(text.replace("</mujoco>", f"{cord}</mujoco>"))
    for value in (1.0, 0.5, 2.0, 0.0):
        base = gymnasium.make("Ant-v5", xml_file=str(tmp_path / "limited.xml"))
        env = envs.NonStationary(base, "strength", {"name": "constant", "value": value})
        torques = forward(env, control=np.ones(8))[1].qfrc_actuator[6:]
        own = [8.0, 150.0, 150.0, 150.0, 150.0, 150.0, 7.0, 5.0]  # hip_1 (16 × 0.5), ankle_1, … hip_4, ankle_4
        np.testing.assert_allclose(torques, value * np.array(own), atol=1e-12)
    assert "winch" in envs.PARAMETERS["strength"].parts(base.unwrapped.model)


@pytest.mark.parametrize("name", ["gravity", "gravity_tilt"])
def test_gravity_is_refused_where_it_is_compensated(name, tmp_path):
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "inverted_pendulum.xml"
    (tmp_path / "floating.xml").write_text(source.read_text().replace("<body ", '<body gravcomp="1" '))
    env = gymnasium.make("InvertedPendulum-v5", xml_file=str(tmp_path / "floating.xml"))
    with pytest.raises(envs.ParameterError, match=f"{name} needs joints that gravity .*moves"):
        envs.NonStationary(env, name)
    assert envs.NonStationary(gymnasium.make("InvertedPendulum-v5"), name).phase == 0


def test_gravity_along_y_has_no_tilt_in_the_x_z_plane():
    env = gymnasium.make("Ant-v5")
    env.unwrapped.model.opt.gravity[:] = (0, -9.81, 0)
    with pytest.raises(envs.ParameterError, match="gravity_tilt needs"):
        envs.NonStationary(env, "gravity_tilt")


def test_the_damping_of_one_joint_in_its_unit():
    env = envs.NonStationary(gymnasium.make("Walker2d-v5"), "damping:leg_joint", low=2.5, high=2.5, factor=False)
    torques = -forward(env, velocity=np.ones(9))[1].qfrc_damper
    np.testing.assert_allclose(torques, [0, 0, 0, 0.1, 2.5, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["damping", "armature", "stiffness"])
def test_what_carries_the_machine_through_the_world_stays_free(name):
    env = envs.NonStationary(gymnasium.make("Walker2d-v5"), name, low=2.5, high=2.5, factor=False)
    model, data = forward(env, velocity=np.ones(9))
    data.qpos[:3] += 0.1
    mujoco.mj_forward(model, data)
    torques = {"damping": -data.qfrc_damper, "armature": model.dof_armature, "stiffness": -data.qfrc_spring}[name]
    np.testing.assert_allclose(torques[:3], 0)
    assert name == "stiffness" or torques[3:].tolist() == [2.5] * 6
    parts = envs.PARAMETERS[name].parts(gymnasium.make("InvertedDoublePendulum-v5").unwrapped.model)
    assert list(parts) == ["slider", "hinge", "hinge2"]  # a cart that is driven, and two free hinges


def test_mass_in_kilograms_is_the_mass_of_all_bodies_together():
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), "mass", low=5.0, high=5.0, factor=False)
    assert mass(env) == pytest.approx(5.0)


def test_a_factor_multiplies_each_geoms_own_friction():
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), low=0.5, high=0.5, factor=True)
    env.reset(seed=0)
    found = set()
    for _ in range(300):
        if env.step(env.action_space.sample())[2]:
            env.reset()
        data = env.unwrapped.data
        found |= {round(data.contact[i].friction[0], 9) for i in range(data.ncon)}
    assert found <= {0.5, 1.0}  # half the greater one: the floor's 1 or the foot's 2
    assert 1.0 in found


# Several at once


def test_gravity_and_its_tilt_act_together_in_either_order():
    vectors = []
    for names in (("gravity", "gravity_tilt"), ("gravity_tilt", "gravity")):
        constant = {"gravity": 5.0, "gravity_tilt": 30.0}
        parameter = {name: {"schedule": {"name": "constant", "value": constant[name]}} for name in names}
        env = envs.NonStationary(gymnasium.make("Ant-v5"), parameter)
        vectors.append(acceleration_of_the_centre(*forward(env, weightless=False)))
    # 5·sin 30° = 2.5 back, 5·cos 30° = 4.33 down
    np.testing.assert_allclose(vectors[0], [-2.5, 0, -5 * math.sqrt(3) / 2], atol=1e-9)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-12)


def test_each_of_several_has_a_sequence_of_its_own_and_the_first_the_one_it_has_alone():
    def shares(*names):
        uniform = {"schedule": "uniform", "low": 1.0, "high": 2.0}
        env = envs.NonStationary(gymnasium.make("Ant-v5"), dict.fromkeys(names, uniform), seed=0)
        return [list(column) for column in zip(*(each.values() for each in env.forecast(6)), strict=True)]

    friction, gravity, strength = shares("friction", "gravity", "strength")
    assert [friction] == shares("friction")
    assert len({*friction, *gravity, *strength}) == 18


@pytest.mark.parametrize("names", [("density", "wind"), ("wind", "density")])
def test_wind_blows_in_a_medium_that_comes_with_it_in_either_order(names):
    constant = {"density": {"schedule": {"name": "constant", "value": 1.2}}, "wind": {"low": 2.0, "high": 2.0}}
    env = envs.NonStationary(gymnasium.make("Ant-v5"), {name: constant[name] for name in names})
    assert wind(env) == pytest.approx(2.0, abs=0.02)


def test_masses_of_a_body_and_of_all_multiply():
    two = {"mass": {"low": 2.0, "high": 2.0}, "mass:torso": {"low": 3.0, "high": 3.0}}
    env = envs.NonStationary(gymnasium.make("Ant-v5"), two)
    model = gymnasium.make("Ant-v5").unwrapped.model
    own = model.body_mass[model.body("torso").id]
    assert mass(env) == pytest.approx(2 * (model.body_mass.sum() + 2 * own))


OVERLAPPING = [
    ({"friction": 0.1, "friction:floor": 0.9}, False),
    ({"friction": 0.5, "friction:floor": 0.5}, False),
    ({"damping": 0.2, "damping:left_leg": 5.0}, False),
    ({"mass": 10.0, "mass:torso": 3.0}, False),
    ({"mass": 10.0, "mass:torso": (3.0, True)}, False),
    ({"mass": (2.0, True), "mass:torso": 3.0}, False),
    ({"strength": (0.0, True), "kp": 50.0}, False),
    ({"strength": (0.5, True), "kp:left_leg": 50.0}, False),
    ({"friction": (0.5, True), "friction:floor": (3.0, True)}, True),
    ({"damping": (0.5, True), "damping:left_leg": (3.0, True)}, True),
    ({"joint_range": (0.5, True), "joint_range:left_leg": (0.6, True)}, True),
    ({"strength": (0.5, True), "strength:right_leg": (0.0, True)}, True),
    ({"strength": (0.5, True), "kp": (3.0, True)}, True),
    ({"centre_of_mass_x": 0.03, "centre_of_mass_y:left_foot": -0.02, "mass": (2.0, True)}, True),
    ({"gravity": 5.0, "gravity_tilt": 90.0}, True),
    ({"friction:floor": 2.0, "friction:box": 3.0, "contact_time": 0.05, "contact_damping": 0.5}, True),
    ({"damping:left_leg": 2.0, "damping:right_leg": 3.0}, True),
]
"""Values, in units or by factor, of parameters that write the same numbers, and whether they can be in force together."""

LEGS = """<mujoco><worldbody>
  <geom name="floor" type="plane" size="5 5 1"/>
  <body name="box" pos="2 0 0.1"><freejoint/><geom name="box" type="box" size="0.1 0.1 0.1"/></body>
  <body name="torso" pos="0 0 1"><freejoint/><geom size="0.1"/>
    <body name="left_foot"><joint name="left_leg" damping="1" range="-50 40"/><geom size="0.1" pos="0.2 0 0"/></body>
    <body name="right_foot"><joint name="right_leg" damping="1"/><geom size="0.1" pos="-0.2 0 0"/></body>
  </body>
</worldbody><actuator><position joint="left_leg" kp="10" kv="1"/><motor joint="right_leg"/></actuator></mujoco>"""


@pytest.mark.parametrize(("values", "together"), OVERLAPPING)
@pytest.mark.parametrize("reverse", [False, True])
def test_parameters_that_write_the_same_are_both_in_force_or_refused_by_their_names(values, together, reverse):
    def made(values):
        given = {name: value if isinstance(value, tuple) else (value, False) for name, value in values.items()}
        constant = {
            name: {"schedule": {"name": "constant", "value": value}, "factor": factor}
            for name, (value, factor) in given.items()
        }
        return envs.NonStationary(World(LEGS.replace("<worldbody>", '<compiler autolimits="true"/><worldbody>')), constant)

    ordered = dict(reversed(values.items()) if reverse else values.items())
    if together:
        model, other = (made(each).unwrapped.model for each in (ordered, dict(reversed(ordered.items()))))
        for name in ("geom_friction", "body_mass", "dof_damping", "actuator_gainprm", "jnt_range", "body_ipos", "bvh_aabb"):
            np.testing.assert_allclose(getattr(model, name), getattr(other, name), rtol=1e-12)
    else:
        with pytest.raises(envs.ParameterError, match=r"{} and {} of World cannot both have their values".format(*ordered)):
            made(ordered)


def test_two_attributes_of_one_number_multiply(monkeypatch):
    for name in ("one", "two"):
        of = {"low": 0.5, "high": 2.0, "schedule": "uniform", "needs": "a pole", "attribute": "length", "by_factor": True}
        parameter = envs.Attribute(name=name, meaning="", unit="m", lowest=0.01, highest=10.0, **of)
        monkeypatch.setitem(envs.PARAMETERS, name, parameter)
    both = {"one": {"low": 2.0, "high": 2.0}, "two": {"low": 3.0, "high": 3.0}}
    assert envs.NonStationary(gymnasium.make("CartPole-v1"), both).unwrapped.length == 3.0  # its own is 0.5
    with pytest.raises(envs.ParameterError, match=r"both write env\.length"):
        envs.NonStationary(gymnasium.make("CartPole-v1"), {"one": {}, "two": {"factor": False, "low": 1.0, "high": 2.0}})


def test_a_refused_second_parameter_leaves_the_model_as_it_was():
    env = gymnasium.make("Ant-v5")
    with pytest.raises(envs.ParameterError, match="fricton"):
        envs.NonStationary(env, {"gravity": {}, "mass": {}, "fricton": {}})
    assert gravity(env) == pytest.approx(9.81)
    assert mass(env) == pytest.approx(gymnasium.make("Ant-v5").unwrapped.model.body_mass.sum())


# The interface


def test_what_noise_there_is_follows_from_the_seed_of_reset_alone():
    def observe(constructor_seed, reset_seed):
        noise = {"name": "constant", "value": 0.1}
        env = envs.NonStationary(gymnasium.make("Hopper-v5"), "observation_noise", noise, seed=constructor_seed)
        first = env.reset(seed=reset_seed)[0]
        return np.concatenate((first, env.step(np.zeros(3))[0]))

    np.testing.assert_array_equal(observe(0, 7), observe(1, 7))
    assert (observe(0, 7) != observe(0, 8)).all()


def test_noise_differs_from_entry_to_entry_and_from_step_to_step():
    env = walking_through([0.05], "observation_noise", "ant-nonstationary-v0")
    env.reset(seed=0)
    deviations = observed_deviations(env)
    assert len(np.unique(deviations)) == deviations.size
    assert abs(np.corrcoef(deviations[:-1].ravel(), deviations[1:].ravel())[0, 1]) < 0.1
    assert abs(deviations.mean()) < 0.01


def test_noisy_actions_stay_within_the_action_space():
    env = walking_through([0.5], "action_noise", "ant-nonstationary-v0")
    env.reset(seed=0)
    arrived = []
    for _ in range(50):
        env.step(np.full(8, 0.9, np.float32))
        arrived.append(env.unwrapped.data.ctrl.copy())
    assert np.max(arrived) == 1.0
    assert np.min(arrived) >= -1.0


def test_a_delay_that_shrinks_lets_the_newest_action_in_and_one_that_grows_repeats():
    delays = {"name": "list", "values": [2, 0, 3]}
    env = envs.NonStationary(gymnasium.make("Ant-v5"), "action_delay", delays, period=4, change_at="now")
    env.reset(seed=0)
    arrived = []
    for step in range(1, 13):
        env.step(np.full(8, step / 20, np.float32))
        arrived.append(round(float(env.unwrapped.data.ctrl[0]) * 20))
    # Delay 2 for steps 1 to 4, none for 5 to 8, 3 for 9 to 12.
    assert arrived == [0, 0, 1, 2, 5, 6, 7, 8, 6, 7, 8, 9]


def test_no_action_of_an_episode_arrives_in_the_next():
    env = walking_through([2.0], "action_delay", "ant-nonstationary-v0")
    for _ in range(2):
        env.reset()
        arrived = []
        for _ in range(4):
            env.step(np.full(8, 0.5, np.float32))
            arrived.append(env.unwrapped.data.ctrl[0])
        assert arrived == [0, 0, 0.5, 0.5]


def test_delays_are_drawn_as_whole_numbers_each_as_often():
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), "action_delay", low=1, high=4, seed=0)
    change = env.changes[0]
    drawn = []
    for phase in range(4000):
        change.begin_phase(phase)
        drawn.append(change.value)
    numbers, counts = np.unique(drawn, return_counts=True)
    assert numbers.tolist() == [1, 2, 3, 4]
    assert (np.abs(counts - 1000) < 110).all()  # four standard deviations of a binomial: 4·sqrt(4000·¼·¾)


def test_a_delay_of_the_schedules_own_may_lie_outside_the_range():
    schedule = {"name": "chain", "schedules": [{"name": "constant", "value": 9}, "uniform"], "lengths": [2]}
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), "action_delay", schedule, low=1, high=2, seed=0)
    delays = [values["action_delay"] for values in env.forecast(50)]
    assert delays[:2] == [9, 9]
    assert set(delays[2:]) == {1, 2}


# Observed parameters


def test_observed_values_are_appended_and_are_those_in_force():
    two = {"friction": {}, "gravity_tilt": {"low": -3, "high": 3}}
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), two, period=5, observe=True, seed=0)
    assert env.observation_space.shape == (13,)
    assert env.observation_space.low[-2:].tolist() == [0.02, -3]
    assert env.observation_space.high[-2:].tolist() == [2, 3]
    observation, info = env.reset(seed=0)
    for _ in range(40):
        assert observation[-2:].tolist() == [info["friction"], info["gravity_tilt"]] == list(env.values.values())
        assert env.observation_space.contains(observation)
        observation, _, terminated, _, info = env.step(env.action_space.sample())
        if terminated or env.steps_in_phase > 5:
            observation, info = env.reset()
    assert env.phase >= 3


def test_observing_needs_a_vector():
    env = gymnasium.wrappers.ReshapeObservation(gymnasium.make("Hopper-v5"), (1, 11))
    with pytest.raises(envs.ParameterError, match="vector of real numbers"):
        envs.NonStationary(env, observe=True)


def test_bodies_that_are_placed_by_hand_have_no_share_in_the_mass():
    more = '<body name="target" mocap="true" pos="1 1 1"><geom size="0.2" contype="0" conaffinity="0"/></body>'
    env = envs.NonStationary(World(box(more=more)), "mass", low=3, high=3, seed=0, factor=False)
    env.reset(seed=0)
    model = env.unwrapped.model
    assert model.body("box").mass.item() == pytest.approx(3)
    assert model.body("target").mass.item() == pytest.approx(1000 * 4 / 3 * np.pi * 0.2**3)  # as it was: water
    with pytest.raises(envs.ParameterError, match="target"):
        envs.NonStationary(World(box(more=more)), "mass:target", seed=0)


def test_a_time_constant_that_the_time_step_beside_it_would_raise_is_refused():
    def make(least):
        beside = {"timestep": {"low": 0.5, "high": 1.25}, "contact_time": {"low": least, "high": 0.1}}
        return envs.NonStationary(gymnasium.make("Ant-v5"), beside)

    make(0.025)  # twice 1.25 times the Ant's 0.01 s
    with pytest.raises(envs.ParameterError, match=r"contact_time must be at least 0\.025 where the other parameters have"):
        make(0.02)


def test_a_factor_of_a_time_constant_that_the_time_step_beside_it_would_raise_is_refused():
    def make(least):
        beside = {"timestep": {"low": 0.5, "high": 1.25}, "contact_time": {"factor": True, "low": least, "high": 2.0}}
        return envs.NonStationary(gymnasium.make("Ant-v5"), beside)

    make(1.25)  # times 0.02 s, which is twice 1.25 times 0.01 s
    with pytest.raises(envs.ParameterError, match=r"contact_time must be at least 1\.25 where the other parameters have"):
        make(1.2)
