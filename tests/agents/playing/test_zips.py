"""`python -m agents.trainability MODEL.zip`: networks of models that Stable-Baselines3 saved."""

from __future__ import annotations

import re
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy

import agents
from agents import trainability

QUICK = ["--repetitions", "2", "--updates", "40"]
SHALLOW = {"policy_kwargs": {"net_arch": [32]}}


class Seen(gymnasium.Env):
    """Random observations, images or both; episodes of ten steps."""

    action_space = spaces.Discrete(2)

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, kind, render_mode=None):
        self.render_mode = render_mode
        vector, image = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.observation_space = {"image": image, "both": spaces.Dict(image=image, vector=vector)}[kind]

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), 0.0, self.steps == 10, False, {}


for kind in ("image", "both"):
    gymnasium.register(f"seen-{kind}-v0", Seen, kwargs={"kind": kind})


def scores(capsys):
    lines = [
        re.fullmatch(r"(\S+-(?:targets|fresh-head)) +(\S+) +\[.*\]", line) for line in capsys.readouterr().out.splitlines()
    ]
    return {line[1]: float(line[2]) for line in lines if line}


@pytest.mark.parametrize(
    ("algorithm", "policy", "env", "networks"),
    [
        (PPO, "MlpPolicy", "CartPole-v1", ["policy", "value"]),
        (PPO, "CnnPolicy", "seen-image-v0", ["policy", "value"]),
        (A2C, "MultiInputPolicy", "seen-both-v0", ["policy", "value"]),
        pytest.param(SAC, "CBPMlpPolicy", "Pendulum-v1", ["policy", "value"], marks=pytest.mark.soak),
        pytest.param(TD3, "MlpPolicy", "Pendulum-v1", ["policy", "value"], marks=pytest.mark.soak),
        (DQN, "MlpPolicy", "CartPole-v1", ["policy"]),
        (agents.PPO, "PlasticMlpPolicy", "Pendulum-v1", ["policy", "value"]),
    ],
)
def test_networks_of_a_zip_are_beside_fresh_ones_and_dead_ones_are_told(tmp_path, capsys, algorithm, policy, env, networks):
    settings = {"net_arch": [32, 32], "activation_fn": torch.nn.ReLU}
    if policy.startswith("Plastic"):
        settings["method"] = "l2-init"
    memory = {"buffer_size": 10} if algorithm in (SAC, TD3, DQN) else {}
    model = algorithm(policy, env, policy_kwargs=settings, device="cpu", seed=0, **memory)
    model.save(tmp_path / "new")
    assert trainability.main([str(tmp_path / "new.zip"), "--env", env, *QUICK]) == 0
    found = scores(capsys)
    assert list(found) == [f"{network}-{kind}" for network in networks for kind in ("targets", "fresh-head")]
    assert min(found.values()) > 0.3  # of two repetitions; with other seeds 0.56 to 1.3 so far
    with torch.no_grad():
        for module in model.policy.modules():
            if isinstance(module, torch.nn.Linear) and module.out_features == 32:
                module.bias.fill_(-100)
    model.save(tmp_path / "dead")
    assert trainability.main([str(tmp_path / "dead.zip"), "--env", env, *QUICK]) == 0
    assert all(score < 0.3 for score in scores(capsys).values())


def test_over_many_repetitions_a_new_network_is_as_able_as_fresh_ones(tmp_path, capsys):
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [32, 32]}, device="cpu", seed=0).save(tmp_path / "new")
    assert trainability.main([str(tmp_path / "new.zip"), "--env", "CartPole-v1", "--repetitions", "30", "--updates", "40"]) == 0
    assert list(scores(capsys).values()) == pytest.approx([1.0] * 4, abs=0.4)


@pytest.mark.parametrize(("algorithm", "network"), [(PPO, "policy"), (DQN, "q_net")])
def test_a_head_alone_is_refused(tmp_path, capsys, algorithm, network):
    """As by default with images: all that was learned lies in the extractor, which fresh heads would share."""
    memory = {"buffer_size": 10} if algorithm is DQN else {}
    env = "seen-image-v0" if algorithm is PPO else "CartPole-v1"
    policy = "CnnPolicy" if algorithm is PPO else "MlpPolicy"
    algorithm(policy, env, policy_kwargs={"net_arch": []}, device="cpu", **memory).save(tmp_path / "model")
    assert trainability.main([str(tmp_path / "model.zip"), "--env", env, *QUICK]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the {network} network is a head alone behind its features extractor, without a hidden layer (net_arch)" in line


@pytest.mark.parametrize(
    ("make", "env"),
    [
        (lambda: PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0), "CartPole-v1"),
        (lambda: PPO("MlpPolicy", "Pendulum-v1", device="cpu", seed=0, use_sde=True), "Pendulum-v1"),
        (lambda: SAC("MlpPolicy", "Pendulum-v1", device="cpu", seed=0, use_sde=True, buffer_size=10, **SHALLOW), "Pendulum-v1"),
    ],
    ids=["PPO", "PPO with gSDE", "SAC with gSDE"],
)
def test_the_same_zip_has_the_same_score(tmp_path, capsys, make, env):
    make().save(tmp_path / "model")
    found = []
    for seed in ("0", "0", "1"):
        torch.manual_seed(len(found))  # as a process of its own draws
        assert trainability.main([str(tmp_path / "model.zip"), "--env", env, *QUICK, "--seed", seed]) == 0
        found.append(scores(capsys))
    assert found[0] == found[1] != found[2]


def test_a_zip_may_be_named_without_its_ending_and_its_step_size_may_begin_at_zero(tmp_path, capsys):
    found = []
    for name, schedule in (("warm", lambda left: 1e-3 * min(1.0, 2 * (1 - left))), ("constant", 1e-3)):
        PPO("MlpPolicy", "CartPole-v1", learning_rate=schedule, device="cpu", seed=0).save(tmp_path / name)
        assert trainability.main([str(tmp_path / name), "--env", "CartPole-v1", *QUICK]) == 0
        found.append(scores(capsys))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "policy", "words"),
    [("RecurrentPPO", "MlpLstmPolicy", "is recurrent"), ("ARS", "LinearPolicy", "has no networks to measure")],
)
def test_policies_that_are_no_chains_of_layers_are_refused_in_one_line(tmp_path, capsys, name, policy, words):
    contrib = pytest.importorskip("sb3_contrib")
    getattr(contrib, name)(policy, "CartPole-v1", device="cpu").save(tmp_path / "model")
    assert trainability.main([str(tmp_path / "model.zip"), "--env", "CartPole-v1", *QUICK]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def bad_zips(tmp_path):
    other = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    other.policy_kwargs["unheard_of"] = 1
    other.save(tmp_path / "options")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model")
    PPO("MlpPolicy", "CartPole-v1", learning_rate=0.0, device="cpu").save(tmp_path / "still")
    whole = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "folder").mkdir()


class Broken(Seen):
    def __init__(self, kind, render_mode=None):
        raise RuntimeError("no cable")


gymnasium.register("broken-v0", Broken, kwargs={"kind": "image"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["model.zip"], "--env ID says in which environment"),
        (["model.zip", "--env", "Pendulum-v1"], "is not one for this model: Observation spaces do not match"),
        (["model.zip", "--env", "CartPole-v7"], "CartPole"),
        (["model.zip", "--env", "CartPole-v1", "--steps", "100"], "--steps goes with a run of agents.train"),
        (["model.zip", "--env", "CartPole-v1", "--value", "1"], "--value goes with a run of agents.train"),
        (["model.zip", "--env", "CartPole-v1", "--value", "0"], "--value goes with a run of agents.train"),
        (["model.zip", "--env", "broken-v0"], "'broken-v0' cannot be made: RuntimeError: no cable"),
        (["", "--env", "CartPole-v1"], "must name a file or a folder, got ''"),
        (["model.zip", "--env", "CartPole-v1", "--updates", "3"], "updates must be a whole number >= 20"),
        (["model.zip", "--env", "CartPole-v1", "--repetitions", "1"], "repetitions must be a whole number >= 2"),
        (["options.zip", "--env", "CartPole-v1"], "unexpected keyword argument 'unheard_of'"),
        (["half.zip", "--env", "CartPole-v1"], "is no model of Stable-Baselines3"),
        (["text.zip", "--env", "CartPole-v1"], "is no model of Stable-Baselines3"),
        (["folder", "--env", "CartPole-v1"], "--env goes with a zip of Stable-Baselines3; 'folder' is a folder"),
        (["none.zip", "--env", "CartPole-v1"], "--env goes with a zip of Stable-Baselines3; 'none.zip' does not exist"),
        (["none", "--env", "CartPole-v1"], "'none' does not exist"),
        (["still.zip", "--env", "CartPole-v1"], "'still.zip' has a step size of 0: its networks cannot learn by it"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, capsys, monkeypatch, options, words):
    bad_zips(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert trainability.main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_the_activation_behind_the_head_of_an_actor_bounds_no_target(tmp_path, capsys, monkeypatch, algorithm):
    (tmp_path / "pendulums.py").touch()  # --env takes MODULE:ID
    monkeypatch.syspath_prepend(tmp_path)
    model = algorithm("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]}, device="cpu", seed=0, buffer_size=10)
    model.policy.actor.mu[-2].weight.data *= 30  # saturated
    model.save(tmp_path / "model")
    assert trainability.main([str(tmp_path / "model.zip"), "--env", "pendulums:Pendulum-v1", *QUICK]) == 0
    found = scores(capsys)
    # A large head makes a network faster, where the tanh behind it bounds no target.
    assert found["policy-targets"] > found["policy-fresh-head"]


class Wide(ActorCriticPolicy):
    """A policy of others with an option of its own, which must be given."""

    def __init__(self, observation_space, action_space, lr_schedule, *, width, **kwargs):
        super().__init__(observation_space, action_space, lr_schedule, **kwargs | {"net_arch": [width, width]})


def test_fresh_networks_are_as_wide_as_those_of_a_policy_of_others(tmp_path, capsys):
    model = PPO(Wide, "Pendulum-v1", policy_kwargs={"width": 24}, device="cpu", seed=0)
    model.save(tmp_path / "model")
    assert trainability.main([str(tmp_path / "model.zip"), "--env", "Pendulum-v1", *QUICK]) == 0
    assert set(scores(capsys)) == {"policy-targets", "policy-fresh-head", "value-targets", "value-fresh-head"}


class Failing(Seen):
    def step(self, action):
        raise RuntimeError("the cable broke")


class Unknown(Seen):
    def step(self, action):
        return np.full(3, np.nan, np.float32), 0.0, False, False, {}

    def __init__(self, kind, render_mode=None):
        super().__init__(kind, render_mode)
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)


gymnasium.register("failing-v0", Failing, kwargs={"kind": "image"})
gymnasium.register("unknown-v0", Unknown, kwargs={"kind": "image"}, disable_env_checker=True)


@pytest.mark.parametrize(
    ("env", "words"),
    [("failing-v0", "cannot play in 'failing-v0': RuntimeError: the cable broke"), ("unknown-v0", "no numbers")],
)
def test_an_environment_that_fails_ends_the_command_in_a_line(tmp_path, capsys, env, words):
    model = DQN("CnnPolicy" if env == "failing-v0" else "MlpPolicy", env, device="cpu", seed=0, buffer_size=10)
    model.save(tmp_path / "model")
    assert trainability.main([str(tmp_path / "model.zip"), "--env", env, *QUICK]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_model_that_diverged_and_a_seed_beyond_bounds_end_in_a_line(tmp_path, capsys):
    model = PPO("MlpPolicy", "Pendulum-v1", device="cpu", seed=0)
    model.policy.action_net.weight.data.fill_(float("nan"))
    model.save(tmp_path / "model")
    for more, words in (([], "cannot play in 'Pendulum-v1'"), (["--seed", "9" * 30], "seed must be less than 2^32")):
        assert trainability.main([str(tmp_path / "model.zip"), "--env", "Pendulum-v1", *QUICK, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
