from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest

import envs


def given(*values):
    return {"name": "list", "values": values}


# By default every geom of the Ant has 1.0 and of the HalfCheetah 0.4; Hopper's feet have 2.0 and Walker2d's 1.9.
@pytest.mark.parametrize("env_id", ["Ant-v5", "Hopper-v5", "Walker2d-v5", "HalfCheetah-v5"])
def test_friction_at_the_contacts_follows_info_up_and_down(env_id, contact_frictions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a deprecation in HalfCheetah's model to a file in the working directory
    values = [0.02, 1.5, 0.3, 3.0, 0.05]
    env = envs.NonStationary(gymnasium.make(env_id), schedule=given(*values), period=60, change_at="now")
    env.action_space.seed(0)
    env.reset(seed=0)
    contacts = np.zeros(5, int)
    for step in range(300):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        measured = contact_frictions(env)
        assert info["friction"] == values[step // 60]
        assert (measured == info["friction"]).all()
        contacts[info["phase"]] += len(measured)
        if terminated or truncated:
            env.reset()
    assert (contacts >= 20).all()


def test_friction_of_the_registered_ant_agrees_with_info_over_drawn_phases(contact_frictions):
    env = gymnasium.make("ant-nonstationary-v0", period=100, max_episode_steps=60, seed=4)
    env.action_space.seed(0)
    env.reset(seed=0)
    contacts = {}
    for _ in range(600):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        measured = contact_frictions(env)
        assert (measured == info["friction"]).all()
        contacts[info["phase"]] = contacts.get(info["phase"], 0) + len(measured)
        if terminated or truncated:
            env.reset()
    assert len(contacts) == 5  # episodes of 60 steps: each phase ends with its second episode, at 120 steps
    assert min(contacts.values()) >= 20


def test_the_step_of_a_change_in_mid_episode_already_has_the_new_physics(contact_frictions):
    env = gymnasium.make("ant-nonstationary-v0", period=50, change_at="now", seed=0)
    env.reset(seed=0)
    for step in range(1, 202):
        _, _, terminated, _, info = env.step(np.zeros(8))
        assert not terminated
        if step in (51, 101, 151, 201):
            assert info["changed"]
            measured = contact_frictions(env)
            assert len(measured) > 0
            assert (measured == info["friction"]).all()


def test_an_ant_slides_on_ice_and_holds_on_rough_ground():
    # One environment whose ground turns from rough to ice and back: the order of the values must not matter.
    values = given(2.0, 0.02, 2.0, 0.02)
    env = gymnasium.make("ant-nonstationary-v0", schedule=values, period=1, reset_noise_scale=0.0)
    distances = []
    for _ in range(4):
        env.reset(seed=0 if not distances else None)
        for _ in range(60):
            env.step(np.zeros(8))
        data = env.unwrapped.data
        assert data.ncon >= 4  # it stands on its feet
        start = data.qpos[0]
        data.qvel[:] = 0.0
        data.qvel[0] = 1.0
        for _ in range(40):
            env.step(np.zeros(8))
        distances.append(data.qpos[0] - start)
    rough, ice, rough_again, ice_again = distances
    assert min(ice, ice_again) > 4 * max(rough, rough_again, 0.05)


def test_sliding_friction_alone_changes():
    env = gymnasium.make("ant-nonstationary-v0", seed=0)
    model, reference = env.unwrapped.model, gymnasium.make("Ant-v5").unwrapped.model
    assert (model.geom_friction[:, 0] == env.get_wrapper_attr("value")).all()
    assert (model.geom_friction[:, 1:] == reference.geom_friction[:, 1:]).all()


def test_an_equal_value_gives_the_trajectory_of_the_unwrapped_environment():
    plain = gymnasium.make("Ant-v5")
    wrapped = envs.NonStationary(gymnasium.make("Ant-v5"), low=1.0, high=1.0, period=10, change_at="now")
    np.testing.assert_array_equal(plain.reset(seed=0)[0], wrapped.reset(seed=0)[0])
    plain.action_space.seed(0)
    for _ in range(100):
        action = plain.action_space.sample()
        np.testing.assert_array_equal(plain.step(action)[0], wrapped.step(action)[0])


def box_on_floor(xml_contact="", flag=""):
    """A box that lies on the floor, in a model with contact settings that geoms do not decide."""
    return f"""<mujoco>
      <option o_friction="0.7 0.7 0.005 0.0001 0.0001"><flag {flag}/></option>
      <worldbody>
        <geom name="floor" type="plane" size="5 5 1" {"contype='0' conaffinity='0'" if xml_contact else ""}/>
        <body pos="0 0 0.1"><freejoint/><geom name="box" type="box" size="0.1 0.1 0.1"/></body>
      </worldbody>
      {xml_contact}
    </mujoco>"""


class Box(gymnasium.Env):
    def __init__(self, xml):
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        mujoco.mj_resetData(self.model, self.data)
        return np.zeros(1), {}

    def step(self, _action):
        mujoco.mj_step(self.model, self.data)
        return np.zeros(1), 0.0, False, False, {}


@pytest.mark.parametrize(
    "xml",
    [
        box_on_floor(),
        box_on_floor(xml_contact="<contact><pair geom1='floor' geom2='box' condim='3' friction='0.9 0.9'/></contact>"),
        box_on_floor(flag="override='enable'"),
    ],
    ids=["geoms", "pair", "override"],
)
def test_friction_reaches_contacts_wherever_the_model_takes_it_from(xml, contact_frictions):
    env = envs.NonStationary(Box(xml), schedule=given(0.05, 1.8, 0.1), period=10, change_at="now")
    env.reset()
    for _ in range(30):
        info = env.step(None)[4]
        measured = contact_frictions(env)
        assert len(measured) == 4
        assert (measured == info["friction"]).all()


def test_the_least_friction_allowed_is_the_least_that_mujoco_honours(contact_frictions):
    lowest = envs.PARAMETERS["friction"].lowest
    env = envs.NonStationary(Box(box_on_floor()), low=lowest, high=lowest)
    env.reset()
    env.step(None)
    assert (contact_frictions(env) == lowest).all()
    env.unwrapped.model.geom_friction[:, 0] = lowest / 2
    env.step(None)
    assert (contact_frictions(env) == lowest).all()


@pytest.mark.parametrize("env_id", ["Swimmer-v5", "Reacher-v5", "InvertedPendulum-v5", "Pusher-v5"])
def test_an_environment_in_which_friction_does_nothing_is_refused_by_name(env_id):
    with pytest.raises(envs.ParameterError, match=env_id):
        envs.NonStationary(gymnasium.make(env_id))
