"""What a state holds of MuJoCo beside its positions: plugins, contacts and their forces, other models, textures."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from worlds import World, arm, box

import envs

PID = """<mujoco>
  <extension>
    <plugin plugin="mujoco.pid">
      <instance name="pid">
        <config key="kp" value="4"/><config key="ki" value="2"/><config key="kd" value="1"/><config key="slewmax" value="3"/>
      </instance>
    </plugin>
  </extension>
  <worldbody>
    <body><joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 .5" size=".02"/></body>
  </worldbody>
  <actuator><plugin joint="hinge" plugin="mujoco.pid" instance="pid" actdim="2"/></actuator>
</mujoco>"""

IN_A_NEW_PROCESS = """
import pickle, sys
from test_state_of_simulations import PID, positions
from worlds import World
import envs
env = World(PID)
envs.load_state(env, pickle.load(open(sys.argv[1], "rb")))
print(positions(env))
"""

DROPPED = box().replace('pos="0 0 0.1"', 'pos="0 0 0.103"')

TEXTURED = box(
    outside='<asset><texture name="grid" type="2d" builtin="checker" rgb1="0 0 0" rgb2="1 1 1" width="8" height="8"/></asset>'
)

PART = '<mujoco><worldbody><body pos="2 0 1"><freejoint/><geom size="0.1"/></body></worldbody></mujoco>'


def positions(env):
    found = []
    for _ in range(20):
        env.step([0.5])
        found.append(env.data.qpos.tolist())
    return found


def with_plugin():
    try:
        env = World(PID)
    except ValueError:
        pytest.skip("this MuJoCo has no plugins")
    env.reset()
    return env


class Counting(World):
    """Sees how many contacts its last step had."""

    def step(self, action):
        contacts = float(self.data.ncon)
        super().step(None)
        return np.array([contacts], np.float32), 0.0, False, False, {}


class Feeling(World):
    """Pushes with the forces that its last step has felt."""

    def step(self, action):
        force, total = np.zeros(6), 0.0
        for number in range(self.data.ncon):
            mujoco.mj_contactForce(self.model, self.data, number, force)
            total += force[0]
        limits = self.data.efc_type == mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT
        total += self.data.efc_force[limits].sum()
        self.data.qfrc_applied[0] = 0.1 * total
        super().step(None)
        return np.array([total, self.data.qpos[0]]), 0.0, False, False, {}


class Alternating(World):
    """Takes another model at each reset."""

    growth = 0

    def __init__(self):
        self.models = [mujoco.MjModel.from_xml_string(box(geom=f'mass="{mass}"')) for mass in (1, 5)]
        self.episodes = 0
        self.take(0)

    def take(self, number):
        self.model = self.models[number]
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        self.take(self.episodes % 2)
        self.episodes += 1
        self.model.body_mass[1] += self.growth
        return super().reset(seed=seed)


class OfAClass(Alternating):
    MODELS = tuple(mujoco.MjModel.from_xml_string(box(geom=f'mass="{mass}"')) for mass in (1, 5))

    def __init__(self):
        self.models = self.MODELS
        self.episodes = 0
        self.take(0)


class OfATemplate(World):
    """Its template grows rougher, and its model is a copy of that; at first it is the same."""

    def __init__(self):
        super().__init__(box())
        self.template = self.model

    def reset(self, *, seed=None, options=None):
        self.template.geom_friction[:, 0] += 0.1
        self.model = copy.copy(self.template)
        self.data = mujoco.MjData(self.model)
        return super().reset(seed=seed)


class OfASpecification(World):
    def __init__(self, factor=1.0):
        self.factor = factor
        self.spec_of_model = mujoco.MjSpec.from_string(box())
        self.build()

    def build(self):
        self.model = self.spec_of_model.compile()
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        self.spec_of_model.geoms[0].friction[0] *= self.factor
        self.build()
        return super().reset(seed=seed)


def test_plugins_stay_those_of_their_own_simulation():
    env, other = with_plugin(), with_plugin()
    for _ in range(20):
        env.step([0.5])
    address = other.data.plugin_data.copy()
    envs.load_state(other, envs.save_state(env))
    assert (other.data.plugin_data == address).all()
    assert positions(other) == positions(env)


def test_a_plugin_goes_on_in_another_process(tmp_path):
    env = with_plugin()
    for _ in range(20):
        env.step([0.5])
    file = tmp_path / "state.pkl"
    file.write_bytes(pickle.dumps(envs.save_state(env)))
    run = [sys.executable, "-c", IN_A_NEW_PROCESS, str(file)]
    there = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert there.stdout.strip() == str(positions(env)), there.stderr


def test_addresses_in_states_of_releases_before_are_left_alone():
    env, other = with_plugin(), with_plugin()
    env.step([0.5])
    state = envs.save_state(env)
    state[-1]["simulation"]["derived"]["plugin_data"] = np.ones(1, np.uint64)
    address = other.data.plugin_data.copy()
    envs.load_state(other, state)
    assert (other.data.plugin_data == address).all()


STOP = arm(joint='range="-3 3" limited="true"', option='<option gravity="-9 0 0"/>').replace("0 0 0 0 0 0.5", "0 0 0 0.1 0 0.5")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Counting(DROPPED),
        lambda: Feeling(DROPPED),
        lambda: Feeling(STOP),
        lambda: envs.NonStationary(Feeling(DROPPED), "friction", seed=0, period=3, change_at="now"),
    ],
)
def test_contacts_and_forces_are_there_before_the_next_step(make):
    env = make()
    env.reset()
    for step in range(60):
        other = make()
        envs.load_state(other, envs.save_state(env))
        assert other.step(None)[0].tolist() == env.step(None)[0].tolist(), step


def test_a_state_with_contacts_is_plain():
    env, other = Feeling(DROPPED), Feeling(DROPPED)
    env.reset()
    for _ in range(30):
        env.step(None)
    state = envs.save_state(env)[-1]["simulation"]
    assert state["counts"]["ncon"]
    file = io.BytesIO()
    arrays = {name: torch.from_numpy(array) for name, array in state["growing"].items()}
    torch.save(arrays, file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == arrays.keys()
    envs.load_state(other, envs.save_state(env))
    assert (other.data.efc_force == env.data.efc_force).all()


def test_a_state_without_contacts_is_that_of_a_release_before():
    env, other = Feeling(DROPPED), Feeling(DROPPED)
    env.reset()
    for _ in range(30):
        env.step(None)
    state = envs.save_state(env)
    for name in ("counts", "growing", "textures"):
        del state[-1]["simulation"][name]
    envs.load_state(other, state)
    env.data.qfrc_applied[:] = other.data.qfrc_applied[:] = 0
    mujoco.mj_step(env.model, env.data)
    mujoco.mj_step(other.model, other.data)
    assert (other.data.qpos == env.data.qpos).all()


class Growing(Alternating):
    """Its models become heavier each time."""

    growth = 1


@pytest.mark.parametrize("resets", [0, 1, 4])
@pytest.mark.parametrize("begun", [0, 1])
@pytest.mark.parametrize("changes", [None, {"mass": 2.0}, {"mass": 2.0, "timestep": 0.5}])
@pytest.mark.parametrize("kind", [Alternating, Growing])
def test_models_that_take_turns_go_on_as_they_are(kind, changes, begun, resets):
    def make():
        constants = {name: {"schedule": {"name": "constant", "value": value}} for name, value in (changes or {}).items()}
        return envs.NonStationary(kind(), constants) if changes else kind()

    def masses(each):
        return [model.body_mass[1] for model in each.unwrapped.models]

    def taken(each):
        return [model is each.unwrapped.model for model in each.unwrapped.models]

    env, other = make(), make()
    for _ in range(resets):
        env.reset()
    for _ in range(begun):
        other.reset()
    envs.load_state(other, envs.save_state(env))
    for _ in range(4):
        assert masses(other) == masses(env)
        assert taken(other) == taken(env)
        for each in (env, other):
            each.step(None)
        assert other.unwrapped.data.qpos.tolist() == env.unwrapped.data.qpos.tolist()
        env.reset()
        other.reset()


def test_models_of_a_class_are_left_alone():
    env, other = OfAClass(), OfAClass()
    env.reset()
    env.reset()
    envs.load_state(other, envs.save_state(env))
    assert other.model is env.model is OfAClass.MODELS[1]
    assert [each.body_mass[1] for each in OfAClass.MODELS] == [1, 5]


@pytest.mark.parametrize("begun", [False, True])
def test_a_template_goes_on_as_it_is(begun):
    env, other = OfATemplate(), OfATemplate()
    for _ in range(3):
        env.reset()
    if begun:
        other.reset()
    env.model.geom_friction[0, 0] = 7
    envs.load_state(other, envs.save_state(env))
    assert other.model.geom_friction[0, 0] == 7
    env.reset()
    other.reset()
    assert (other.model.geom_friction == env.model.geom_friction).all()


def test_a_model_that_the_environment_lacks_is_refused_by_name():
    env, other = World(box()), World(box())
    env.spare = mujoco.MjModel.from_xml_string(box())
    with pytest.raises(envs.ParameterError, match=r"World\.spare"):
        envs.load_state(other, envs.save_state(env))
    other.spare = mujoco.MjModel.from_xml_string(arm())
    with pytest.raises(envs.ParameterError, match=r"World\.spare"):
        envs.load_state(other, envs.save_state(env))


def test_a_specification_that_was_changed_is_missed():
    env, other = OfASpecification(factor=1.1), OfASpecification(factor=1.1)
    for _ in range(3):
        env.reset()
    with pytest.warns(UserWarning, match="MjSpec is another than it was when the state was saved"):
        envs.load_state(other, envs.save_state(env))
    assert other.model.geom_friction.tolist() == env.model.geom_friction.tolist()


def test_a_specification_that_is_the_same_is_no_obstacle():
    env, other = OfASpecification(), OfASpecification()
    env.reset()
    env.model.geom_friction[0, 0] = 7
    envs.load_state(other, envs.save_state(env))
    assert other.model.geom_friction[0, 0] == 7


def test_a_specification_that_is_attached_to_another_is_no_obstacle():
    def make():
        env = OfASpecification()
        env.part = mujoco.MjSpec.from_string(PART)
        env.spec_of_model.attach(env.part, prefix="more_", frame=env.spec_of_model.worldbody.add_frame())
        env.build()
        return env

    env, other = make(), make()
    env.reset()
    env.step(None)
    envs.load_state(other, envs.save_state(env))
    assert (other.data.qpos == env.data.qpos).all()


def test_textures_and_statistics_that_were_written_go_on():
    env, other = World(TEXTURED), World(TEXTURED)
    env.model.tex_data[:5] = 77
    env.model.stat.meaninertia = 3.5
    envs.load_state(other, envs.save_state(env))
    assert (other.model.tex_data == env.model.tex_data).all()
    assert other.model.stat.meaninertia == 3.5


def test_environments_of_gymnasium_are_where_they_were_in_contacts_too():
    env, other = gymnasium.make("HalfCheetah-v5"), gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(40):
        env.step(env.action_space.sample())
        envs.load_state(other, envs.save_state(env))
        there, here = (each.unwrapped.data for each in (other, env))
        assert there.ncon == here.ncon
        assert (there.efc_force == here.efc_force).all()
        assert (there.contact.dist == here.contact.dist).all()
