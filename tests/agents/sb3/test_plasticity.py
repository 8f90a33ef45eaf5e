"""What the callback records, against loops over units and samples on networks put together by hand."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from measures_by_hand import measured_by_hand
from recorder import Recorder
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import agents  # noqa: F401  (makes the policies known)
from agents.callbacks import PhaseCallback, PlasticityCallback, VerdictCallback
from agents.runs import checkpoint_files
from agents.sb3 import plasticity
from agents.sb3.networks import hidden_layers

_OFF_POLICY = {"batch_size": 16, "train_freq": 4, "learning_starts": 25}
ALGORITHMS = {
    "PPO": (PPO, "Pendulum-v1", {"n_steps": 64, "batch_size": 16, "n_epochs": 2}),
    "A2C": (A2C, "Pendulum-v1", {}),
    "SAC": (SAC, "Pendulum-v1", _OFF_POLICY),
    "TD3": (TD3, "Pendulum-v1", _OFF_POLICY),
    "DDPG": (DDPG, "Pendulum-v1", _OFF_POLICY),
    "DQN": (DQN, "CartPole-v1", _OFF_POLICY),
}
NETWORKS = {
    "PPO": ["policy/hidden", "value/hidden"],
    "A2C": ["policy/hidden", "value/hidden"],
    "SAC": ["actor/hidden", "critic/qf0_hidden", "critic/qf1_hidden"],
    "TD3": ["actor/hidden", "critic/qf0_hidden", "critic/qf1_hidden"],
    "DDPG": ["actor/hidden", "critic/qf0_hidden"],
    "DQN": ["q_net/hidden"],
}

FEW = 250  # samples of a record, so that tests need a quarter of the steps; what is counted in thousands has tests of its own
few = pytest.mark.usefixtures("few_samples")


@pytest.fixture
def few_samples(monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", FEW)


def make(name, *, env=None, activation=nn.ReLU, **kwargs):
    algorithm, env_id, options = ALGORITHMS[name]
    policy_kwargs = {"net_arch": [9, 7], "activation_fn": activation}
    env = env or make_vec_env(env_id, n_envs=1, seed=0)
    return algorithm("MlpPolicy", env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **{**options, **kwargs})


def learn(model, steps, callbacks):
    """Trains; returns what was logged at each dump."""
    logged = []
    model.set_logger(Recorder(logged))
    model.learn(steps, callbacks, log_interval=1, reset_num_timesteps=False)
    return logged


def hidden_outputs(model, observations, actions):
    """Activations of each hidden layer, by a forward pass written out."""
    policy = model.policy
    if isinstance(model, SAC):
        networks = {"actor/": policy.actor.latent_pi}
    elif isinstance(model, TD3):
        networks = {"actor/": policy.actor.mu}
    elif isinstance(model, DQN):
        networks = {"q_net/": policy.q_net.q_net}
    else:
        networks = {"policy/": policy.mlp_extractor.policy_net, "value/": policy.mlp_extractor.value_net}
    for i, network in enumerate(policy.critic.q_networks if isinstance(model, SAC | TD3) else []):
        networks[f"critic/qf{i}_"] = network
    outputs = {}
    for name, network in networks.items():
        h = torch.as_tensor(np.hstack([observations, actions]) if name.startswith("critic") else observations)
        for k in (0, 1):
            h = network[2 * k + 1](network[2 * k](h))
            outputs[f"{name}hidden{k + 1}"] = h.detach().double().numpy(), network[2 * k].weight.detach().clone()
    return outputs


def kernel_ranks(latest):
    return {key.split("/", 1)[1]: rank for key, rank in latest.items() if key.endswith("/probe_ntk_effective_rank")}


def kernel_ranks_by_hand(model, observations, actions):
    """The effective rank of each network's tangent kernel on 64 of the 250 states, by the gradients of single samples."""
    policy = model.policy
    if isinstance(model, SAC):
        networks = {"actor": nn.Sequential(policy.actor.latent_pi, policy.actor.mu)}
    elif isinstance(model, TD3):
        networks = {"actor": policy.actor.mu}
    elif isinstance(model, DQN):
        networks = {"q_net": policy.q_net.q_net}
    else:
        extractor = policy.mlp_extractor
        networks = {
            "policy": nn.Sequential(extractor.policy_net, policy.action_net),
            "value": nn.Sequential(extractor.value_net, policy.value_net),
        }
    for i, network in enumerate(policy.critic.q_networks if isinstance(model, SAC | TD3) else []):
        networks[f"critic/qf{i}"] = network
    ranks = {}
    for name, network in networks.items():
        h = np.hstack([observations, actions]) if name.startswith("critic") else observations
        rows = []
        for sample in torch.as_tensor(h, dtype=torch.float32)[::3][:64]:
            outputs = network(sample)
            gradients = [torch.autograd.grad(output, list(network.parameters()), retain_graph=True) for output in outputs]
            rows.append(np.concatenate([g.flatten().double() for of_output in gradients for g in of_output]))
        kernel = np.array([[(a * b).sum() for b in rows] for a in rows])
        p = np.linalg.svd(kernel, compute_uv=False) / np.trace(kernel)
        ranks[f"{name}/probe_ntk_effective_rank"] = math.exp(-sum(x * math.log(x) for x in p if x > 0))
    return ranks


class Compare(BaseCallback):
    """At each record: what should have been recorded. Called after the callback that is tested."""

    def __init__(self, tested, activation=nn.ReLU):
        super().__init__()
        self.tested, self.activation = tested, activation
        self.steps, self.initial, self.records = [], None, 0

    def _on_training_start(self):
        self.before = {}

    def _on_step(self):
        off_policy = isinstance(self.model, SAC | TD3 | DQN)
        if not off_policy or self.num_timesteps > self.model.learning_starts:
            observations = self.model._last_obs.copy()
            actions = (
                self.locals["buffer_actions"].copy() if isinstance(self.model, SAC | TD3) else np.zeros((len(observations), 0))
            )
            self.steps += list(zip(observations, actions, strict=True))
        return True

    def _on_rollout_end(self):
        latest = self.tested.latest
        if latest == self.before:
            return
        self.before = dict(latest)
        self.records += 1
        observations, actions = (np.stack(column) for column in zip(*self.steps[-FEW:], strict=True))
        now = hidden_outputs(self.model, observations, actions)
        if self.initial is None:
            self.initial = {layer: weight for layer, (_, weight) in now.items()} if self.num_timesteps < 1 else self.start
            self.probe = observations, actions
        on_probe = hidden_outputs(self.model, *self.probe)
        for layer, (h, weight) in now.items():
            expected = {f"{k}": v for k, v in measured_by_hand(h, self.activation).items()}
            expected |= {f"probe_{k}": v for k, v in measured_by_hand(on_probe[layer][0], self.activation).items()}
            expected["weight_magnitude"] = sum(abs(w) for row in weight.tolist() for w in row) / weight.numel()
            expected["distance_from_init"] = math.sqrt(((weight - self.initial[layer]).double() ** 2).sum())
            got = {
                key.removeprefix(f"plasticity/{layer}/"): v
                for key, v in latest.items()
                if key.startswith(f"plasticity/{layer}/")
            }
            assert got == pytest.approx(expected, rel=1e-4), layer
        assert kernel_ranks(latest) == pytest.approx(kernel_ranks_by_hand(self.model, *self.probe), rel=1e-3)

    def begin(self, model):
        """Keeps the weights before training."""
        observations = np.zeros((1, *model.observation_space.shape), np.float32)
        actions = np.zeros((1, *model.action_space.shape), np.float32)
        self.start = {layer: weight for layer, (_, weight) in hidden_outputs(model, observations, actions).items()}


@few
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_measure_of_every_layer_agrees_with_a_loop(name):
    model = make(name)
    tested = PlasticityCallback(every=75, ranks_every=75)
    compare = Compare(tested)
    compare.begin(model)
    logged = learn(model, 430, [tested, compare])
    assert compare.records >= 2
    layers = {"/".join(key.split("/")[1:-1]) for values in logged for key in values if key.startswith("plasticity/")}
    whole = {layer.split("/")[0] for layer in layers} | {"critic/qf0", "critic/qf1"}  # networks, not layers
    assert layers - whole == {f"{prefix}{i}" for prefix in NETWORKS[name] for i in (1, 2)}


@few
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ELU])
def test_what_has_no_meaning_for_an_activation_is_left_out(activation):
    model = make("PPO", activation=activation)
    tested = PlasticityCallback(every=64, ranks_every=64)
    compare = Compare(tested, activation)
    compare.begin(model)
    learn(model, 384, [tested, compare])  # which compares the names, too
    assert compare.records == 3


@few
def test_observations_are_those_that_the_networks_receive():
    normalized = VecNormalize(make_vec_env("Pendulum-v1", n_envs=3, seed=0))
    model = make("PPO", env=normalized)
    tested = PlasticityCallback(every=192, ranks_every=192)
    compare = Compare(tested)
    compare.begin(model)
    learn(model, 3 * 192, [tested, compare])
    assert compare.records == 2  # the first rollout has fewer than 250 steps
    assert (
        abs(tested.probe["observations"][:, :2]).max() > 1.2
    )  # Pendulum's first two are in [-1, 1] before they are normalized
    # The last 250 of 3 · 84 in the order of time; a rollout has 192, and after its updates one environment after the other.
    batch = tested._last_steps()["observations"]
    assert batch.shape == (250, 3)
    assert np.array_equal(batch[-192:], model.rollout_buffer.observations.reshape(3, 64, 3).swapaxes(0, 1).reshape(-1, 3))


def greedy_actions(model, h):
    """What the head of the policy makes of its last hidden layer's activations."""
    h = torch.as_tensor(h, dtype=torch.float32)
    if isinstance(model, DQN):
        return model.policy.q_net.q_net[4](h).argmax(dim=1, keepdim=True).numpy()
    if isinstance(model, SAC | TD3):
        head = model.actor.mu if isinstance(model, SAC) else model.actor.mu[4]
        return torch.tanh(head(h)).detach().numpy()
    return model.policy.action_net(h).detach().numpy()


class Watch(BaseCallback):
    """Weights and greedy actions on the probe batch before and after the updates between two rollouts."""

    def __init__(self, tested):
        super().__init__()
        self.tested, self.before, self.gradients, self.churns = tested, None, {}, []

    def _on_training_start(self):
        # The networks whose gradients nobody else's loss adds to: those of the policy; and one critic, seen by its optimizer.
        if hasattr(self.model.policy, "critic"):
            weight = self.model.critic.q_networks[0][2].weight
            self.model.critic.optimizer.register_step_pre_hook(
                lambda *_: self.gradients.__setitem__("critic/qf0_hidden2", math.sqrt((weight.grad.double() ** 2).sum()))
            )

    def _on_step(self):
        return True

    def _now(self):
        observations, actions = self.tested.probe["observations"], self.tested.probe["actions"]
        outputs = hidden_outputs(self.model, observations, np.zeros((len(observations), 0)) if actions is None else actions)
        policy = next(layer for layer in outputs if layer.endswith("hidden2"))
        return {layer: weight for layer, (_, weight) in outputs.items()}, greedy_actions(self.model, outputs[policy][0])

    def _on_rollout_end(self):
        if self.tested.recorded_at == self.num_timesteps:
            self.before, self.rollouts = self._now(), 0

    def _on_rollout_start(self):
        if self.before is None:
            return
        self.rollouts += 1
        delay = self.model.policy_delay if isinstance(self.model, TD3) else 1
        if self.rollouts < 2 and self.model._n_updates % delay:
            return  # the actor waits for the next update
        recorded = self.logger.name_to_value
        (weights, actions), (weights_after, actions_after), self.before = self.before, self._now(), None
        for layer, weight in weights.items():
            change = math.sqrt(((weights_after[layer] - weight).double() ** 2).sum())
            assert recorded[f"plasticity/{layer}/weight_change"] == pytest.approx(change, rel=1e-4, abs=1e-9)
        changes = [tuple(before) != tuple(after) for before, after in zip(actions, actions_after, strict=True)]
        if actions.dtype == np.float32:
            changes = np.sqrt(((actions_after - actions) ** 2).sum(axis=1))
        self.churns.append(sum(changes) / len(actions))
        assert all(not torch.equal(weights[layer], weights_after[layer]) for layer in weights)  # every network was updated
        network = next(iter(weights)).split("/")[0]
        assert recorded[f"plasticity/{network}/probe_churn"] == pytest.approx(self.churns[-1], rel=1e-3, abs=1e-6)
        policy = self.model.policy
        chain = {PPO: "mlp_extractor.policy_net.2", SAC: "actor.latent_pi.2", TD3: "actor.mu.2", DQN: "q_net.q_net.2"}
        gradient = policy.get_submodule(chain[type(self.model)]).weight.grad
        of_units = [sum(abs(g) for g in row) for row in gradient.tolist()]
        idle = sum(g <= 0.25 * sum(of_units) / len(of_units) for g in of_units) / len(of_units)
        assert recorded[f"plasticity/{network}/hidden2/gradient_dormant_fraction"] == pytest.approx(idle)
        gradients = {f"{network}/hidden2": math.sqrt((gradient.double() ** 2).sum()), **self.gradients}
        for layer, norm in gradients.items():
            assert recorded[f"plasticity/{layer}/gradient_norm"] == pytest.approx(norm, rel=1e-5)


@few
@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN"])
def test_changes_are_those_of_the_updates_after_the_record(name):
    model = make(name, **({"learning_rate": 0.1} if name == "DQN" else {}))
    tested = PlasticityCallback(every=7, ranks_every=10**9)
    watch = Watch(tested)
    learn(model, 576 if name == "PPO" else 335, [tested, watch])
    assert len(watch.churns) >= 4
    assert max(watch.churns) > 0


@few
@pytest.mark.parametrize(
    ("name", "kwargs", "steps", "light", "ranks"),
    [
        # The end of the first rollout with 250 steps before it, and of the first after 150 more; ranks after 250 more.
        ("PPO", {}, 640, [256, 448, 640], [256, 640]),
        ("A2C", {}, 625, [250, 400, 550], [250, 550]),
        # 26 random steps do not count.
        ("SAC", {"learning_starts": 26}, 450, [276, 428], [276]),  # rollouts of 4 steps
        ("DQN", {"learning_starts": 13}, 425, [264, 416], [264]),
    ],
)
def test_records_come_when_they_are_due(name, kwargs, steps, light, ranks):
    tested = PlasticityCallback(every=150, ranks_every=250)
    seen = {"weight_magnitude": [], "effective_rank": []}

    class Look(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            for measure, at in seen.items():
                key = next((k for k in self.logger.name_to_value if k.endswith(f"hidden1/{measure}")), None)
                if key:
                    at.append(self.num_timesteps)
            self.logger.name_to_value.clear()

    learn(make(name, **kwargs), steps, [tested, Look()])
    assert seen == {"weight_magnitude": light, "effective_rank": ranks}


@few
def test_a_training_that_counts_from_zero_again_is_recorded_again():
    model, tested = make("PPO"), PlasticityCallback(every=10_000, ranks_every=10_000)
    learn(model, 256, tested)
    first = dict(tested.latest)
    model.learn(256, tested, reset_num_timesteps=True)
    assert tested.recorded_at == 64
    name = "plasticity/policy/hidden1/distance_from_init"  # from the weights before the first training
    assert 0 != tested.latest[name] != first[name] != 0


@few
@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_recording_changes_nothing_in_the_training(name):
    results = []
    for callback in (None, PlasticityCallback(every=1, ranks_every=1)):
        model = make(name)
        learn(model, 300, callback)
        weights = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        results.append((weights, torch.get_rng_state(), np.random.get_state()[1]))  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@few
def test_units_are_recorded_as_the_method_knows_them():
    kwargs = {"net_arch": [8, 6], "method_kwargs": {"replacement_rate": 0.2, "maturity_threshold": 3}}
    seen = []

    class Look(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            method = self.model.policy.method
            layers = [
                (layer.name, layer.corrected_utility.clone(), layer.age.tolist(), layer.replaced) for layer in method.layers
            ]
            seen.append((dict(self.logger.name_to_value), layers))

    model = PPO(
        "CBPMlpPolicy", "Pendulum-v1", n_steps=32, batch_size=16, n_epochs=2, policy_kwargs=kwargs, seed=0, device="cpu"
    )
    learn(model, 576, [PlasticityCallback(every=1), Look()])
    seen = seen[7:]  # from 256 steps on
    assert len(seen) == 11
    for values, layers in seen:
        for name, utility, ages, _ in layers:
            assert torch.equal(values[f"cbp/{name}/utility"], utility)
            assert values[f"cbp/{name}/mature_fraction"] == sum(age > 3 for age in ages) / len(ages)
            assert values[f"cbp/{name}/mean_utility"] == pytest.approx(utility.mean().item())
            assert values[f"cbp/{name}/mean_age"] == pytest.approx(sum(ages) / len(ages))
        replaced = [number for *_, number in layers]
        assert (values["cbp/policy/replaced"], values["cbp/value/replaced"]) == (sum(replaced[:2]), sum(replaced[2:]))
    assert min(replaced) > 0


def through_a_file(state, path):
    """What a checkpoint makes of a state."""
    torch.save(checkpoint_files.to_tensors(state), path)
    return checkpoint_files.to_arrays(torch.load(path, weights_only=True))


class StopBetweenRollouts(BaseCallback):
    """As ``agents.train`` stops; called after the callback that is tested."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps >= self.at:
            raise InterruptedError


@few
@pytest.mark.parametrize("stop", [150, 390])  # before the first record, and between two
@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_callback_goes_on_where_another_stopped(n_envs, stop, tmp_path):
    logged = [[], []]
    for stops, rows in zip((False, True), logged, strict=True):
        # Eight rollouts and a third fill the window.
        env, few_updates = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=0), {"batch_size": 15, "n_epochs": 1}
        model = make("PPO", env=env, n_steps=30 // n_envs, **few_updates)
        model.set_logger(Recorder(rows))
        tested = PlasticityCallback(every=60, ranks_every=120)
        if stops:
            with pytest.raises(InterruptedError):
                model.learn(720, [tested, StopBetweenRollouts(stop)])
            state = through_a_file(tested.state_dict(), tmp_path / "state.pt")
            tested = PlasticityCallback(every=60, ranks_every=120)
            tested.load_state_dict(state)
        model.learn(720 - model.num_timesteps, tested, reset_num_timesteps=False)
    measures = [[{k: v for k, v in row.items() if k.startswith("plasticity/")} for row in rows] for rows in logged]
    assert measures[0] == measures[1]
    assert sum(any("distance_from_init" in name for name in row) for row in measures[0]) == 8  # 270, 330, … 690


class Kept(PlasticityCallback):
    def __init__(self, kept):
        super().__init__(every=5, ranks_every=10_000)
        self.kept = kept

    def _record_changes(self, weights, actions):
        super()._record_changes(weights, actions)
        changes = {
            name: value for name, value in self.logger.name_to_value.items() if name.endswith(("change", "norm", "churn"))
        }
        self.kept.append((self.num_timesteps, changes))


def test_a_record_that_waits_for_a_delayed_actor_goes_on_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", 66)
    logged = [[], []]
    for stops, kept in zip(((), (92, 93, 94)), logged, strict=True):
        model = make("TD3", learning_starts=10, train_freq=1, policy_delay=4)
        model.set_logger(Recorder([]))
        tested = Kept(kept)
        for stop in stops:
            with pytest.raises(InterruptedError):
                model.learn(116 - model.num_timesteps, [tested, StopBetweenRollouts(stop)], reset_num_timesteps=False)
            state = through_a_file(tested.state_dict(), tmp_path / "state.pt")
            tested = Kept(kept)
            tested.load_state_dict(state)
        model.learn(116 - model.num_timesteps, tested, reset_num_timesteps=False)
    assert len(logged[0]) == 8
    assert logged[0] == logged[1]


class OfTwoParts(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        {"a": gymnasium.spaces.Box(-1, 1, (2,), np.float32), "b": gymnasium.spaces.Discrete(3)}
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == 9, False, {}


@few
def test_dictionaries_of_observations_are_kept_and_saved_by_key(tmp_path):
    model = PPO("MultiInputPolicy", OfTwoParts(), n_steps=128, device="cpu", seed=0)
    tested = PlasticityCallback(probe_path=tmp_path / "probe.npz")
    learn(model, 256, tested)
    assert 0 <= tested.latest["plasticity/policy/hidden1/probe_effective_rank"] <= 64
    saved = np.load(tmp_path / "probe.npz")
    assert {name: saved[name].shape for name in saved} == {"observations/a": (250, 2), "observations/b": (250,)}
    assert np.array_equal(saved["observations/a"], tested.probe["observations"]["a"])
    restored = PlasticityCallback()
    restored.load_state_dict(through_a_file(tested.state_dict(), tmp_path / "state.pt"))
    for step, own in zip(restored._window, tested._window, strict=True):
        assert all(np.array_equal(step["observations"][key], own["observations"][key]) for key in ("a", "b"))


def test_the_probe_batch_is_the_first_states_and_stays_in_its_file(tmp_path):
    model = make("SAC", learning_starts=100, train_freq=20)
    path = tmp_path / "made at the start" / "probe.npz"
    tested = PlasticityCallback(every=200, probe_path=str(path))
    learn(model, 1300, tested)
    assert tested.recorded_at == 1300  # and before at 1,100
    saved = np.load(path)
    # Steps 101 to 1,100 are the first 1,000 of the agent's own.
    assert np.array_equal(saved["observations"], model.replay_buffer.observations[100:1100, 0])
    assert np.array_equal(saved["actions"], model.replay_buffer.actions[100:1100, 0])


@few
def test_a_training_that_diverges_is_recorded_to_its_end():
    model = make("DQN", learning_rate=1e30)
    tested = PlasticityCallback(every=FEW // 2, ranks_every=FEW // 2)
    learn(model, 2 * FEW, [tested])
    assert not all(parameter.isfinite().all() for parameter in model.policy.parameters())
    found = {name: value for name, value in tested.latest.items() if "rank" in name or "dormant" in name}
    assert len(found) > 4
    assert all(math.isnan(value) for value in found.values())


def test_numbers_of_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="every must be >= 1 steps, got 0"):
        PlasticityCallback(every=0)
    with pytest.raises(ValueError, match="ranks_every must be >= 1 steps, got -5"):
        PlasticityCallback(ranks_every=-5)


def test_networks_without_hidden_layers_are_refused_at_the_start():
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": []}, device="cpu")
    with pytest.raises(ValueError, match="no hidden layers"):
        model.learn(10, PlasticityCallback())


def test_the_callbacks_of_the_command_have_states_that_a_checkpoint_takes(tmp_path):
    phases, plasticity = PhaseCallback("friction"), PlasticityCallback()
    for recorder in (phases, plasticity, VerdictCallback(phases, plasticity, "ppo")):
        state = recorder.state_dict()
        recorder.load_state_dict(through_a_file(state, tmp_path / "state.pt"))
        assert recorder.state_dict() == state


def test_the_window_has_as_many_steps_as_it_takes_for_a_thousand_samples():
    model = make("PPO", env=make_vec_env("Pendulum-v1", n_envs=3, seed=0))
    tested = PlasticityCallback()
    learn(model, 6 * 192, tested)
    assert len(tested._window) == 334  # of 3 samples each


def test_gradients_are_seen_in_the_updates_after_a_record_only(monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", 64)
    model, tested, counts = make("SAC"), PlasticityCallback(), []

    class Hooks(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            counts.append(len(model.actor.optimizer._optimizer_step_pre_hooks))

    learn(model, 300, [tested, Hooks()])
    assert len(counts) > 50
    assert sum(counts) == 1


def test_a_training_that_broke_off_leaves_no_hooks_behind(monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", 64)
    model, tested = make("SAC"), PlasticityCallback(every=1)
    stop = StopBetweenRollouts(0)
    for stop.at in (200, 250):
        with pytest.raises(InterruptedError):
            learn(model, 500, [stop, tested])
        assert len(model.actor.optimizer._optimizer_step_pre_hooks) == 1
    model.learn(10, tested)
    assert len(model.actor.optimizer._optimizer_step_pre_hooks) == 0


@few
def test_churn_belongs_to_the_policys_network_even_where_that_has_no_hidden_layer():
    kwargs = {"net_arch": {"pi": [], "vf": [8]}}
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=256, policy_kwargs=kwargs, device="cpu", seed=0)
    logged = learn(model, 512, PlasticityCallback())
    assert logged[-1]["plasticity/policy/probe_churn"] > 0
    assert "plasticity/value/probe_churn" not in logged[-1]


@few
def test_churn_of_several_binary_actions_is_a_fraction_of_states():
    class Binary(OfTwoParts):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gymnasium.spaces.MultiBinary(4)

        def step(self, action):
            observation, _, *rest = super().step(0)
            return observation, float(action.sum()), *rest

    model = PPO("MlpPolicy", Binary(), n_steps=256, learning_rate=0.01, device="cpu", seed=0)
    churn = learn(model, 512, PlasticityCallback())[-1]["plasticity/policy/probe_churn"]
    assert 0 < churn <= 1
    assert churn * FEW == pytest.approx(round(churn * FEW))


def test_norms_between_layers_are_known():
    model = PPO("PlasticMlpPolicy", "Pendulum-v1", policy_kwargs={"method": None, "layer_norm": True}, device="cpu")
    assert [len(layer.norms) for layer in hidden_layers(model.policy)] == [1, 1, 1, 1]


@few
def test_layers_that_were_exchanged_between_two_trainings_are_found_anew():
    model, callback = make("PPO", n_steps=256), PlasticityCallback(every=1)
    learn(model, 256, callback)
    network = model.policy.mlp_extractor.policy_net
    network[0], network[2] = nn.Linear(3, 5), nn.Linear(5, 7)
    learn(model, 256, callback)
    assert callback.latest["plasticity/policy/hidden1/weight_magnitude"] == network[0].weight.abs().mean().item()
    assert callback.latest["plasticity/policy/hidden1/distance_from_init"] == 0  # the optimizer holds the old ones


def exchange_a_hidden_layer(policy):
    policy.mlp_extractor.policy_net[0] = nn.Linear(3, 9)


def exchange_a_head(policy):
    policy.value_net = nn.Linear(7, 1)


@few
@pytest.mark.parametrize("when", ["_on_rollout_start", "_on_step", "_on_rollout_end"])
@pytest.mark.parametrize("exchange", [exchange_a_hidden_layer, exchange_a_head])
def test_layers_that_were_exchanged_while_training_are_found_anew(exchange, when):
    class Exchange(BaseCallback):
        def _on_step(self):
            return True

    class Look(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            weight = self.model.policy.mlp_extractor.policy_net[0].weight
            seen.append((callback.latest["plasticity/policy/hidden1/weight_magnitude"], weight.abs().mean().item()))

    def act(self):
        if self.num_timesteps >= 512 and not done:
            done.append(exchange(self.model.policy))
            self.model.policy.optimizer = torch.optim.Adam(self.model.policy.parameters(), lr=1e-2)
        return True

    done, seen = [], []
    setattr(Exchange, when, act)
    callback = PlasticityCallback(every=1)
    logged = learn(make("PPO", n_steps=256), 4 * 256, [Exchange(), callback, Look()])
    assert done
    assert [recorded for recorded, _ in seen] == [own for _, own in seen]
    assert logged[-1]["plasticity/policy/hidden1/weight_change"] > 0


@few
@pytest.mark.parametrize("given_state", [False, True])
def test_a_callback_that_is_given_to_another_model_begins_anew(given_state):
    callback = PlasticityCallback(every=256)
    first = make("PPO", n_steps=256)
    learn(first, 512, callback)
    probe, state = callback.probe, callback.state_dict()
    other = make("PPO", n_steps=256)
    with torch.no_grad():
        other.policy.mlp_extractor.policy_net[0].weight.add_(1)
    if given_state:  # as of a run that goes on in another process
        callback.load_state_dict(state)
    learn(other, 256, callback)
    assert (callback.latest["plasticity/policy/hidden1/distance_from_init"] > 0) == given_state
    assert (callback.probe is probe) == given_state


@few
def test_a_model_that_is_loaded_is_measured_on(tmp_path):
    callback, model = PlasticityCallback(every=256), make("PPO", n_steps=256)
    learn(model, 512, callback)
    probe = callback.probe
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    learn(again, 256, callback)
    assert callback.probe is probe
    assert callback.latest["plasticity/policy/hidden1/distance_from_init"] > 0
