"""``--preset paper`` beside the published algorithm, written anew from the paper and from what its code does.

The other side is in float64 and knows neither Stable-Baselines3 nor this package: Gymnasium's old Ant, 84 zeros behind each
observation, loops over samples and layers, PyTorch's automatic gradients, Adam written out. It is given the initial weights,
the noise and the order of the samples of a run of ours, and must then come to the same numbers.
"""

from __future__ import annotations

import copy
import functools
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import train
from agents.runs.build import make_model, make_vec_env
from agents.runs.options import make_config
from agents.sb3.arrays import NetworkArrays, Samples, Settings
from agents.sb3.kernels import make_updates
from agents.sb3.networks import networks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Ant-v4 is out of date:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:no unit will be replaced:UserWarning"),
]

STEPS, LIMIT = 2048, 100  # of the rollout; of an episode, so that several end by the limit
OBSERVED, INPUTS = 27, 111
PUBLISHED = {"ppo": ((0.9, 0.999), 0.0), "l2": ((0.99, 0.99), 1e-3), "cbp": ((0.99, 0.99), 1e-4)}  # β, weight decay


# The published algorithm


def forward(weights, x):
    for weight, bias in weights[:-1]:
        x = torch.relu(x @ weight.T + bias)
    return x @ weights[-1][0].T + weights[-1][1]


def log_prob(actions, means, log_std):
    return (-0.5 * ((actions - means) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=1)


@dataclass
class Rollout:
    observations: torch.Tensor
    actions: torch.Tensor  # those that were taken
    drawn: torch.Tensor  # the policy's
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    targets: torch.Tensor
    rewards: torch.Tensor
    dones: list[bool]


def roll_out(policy, value, log_std, noise, actions):
    """2,048 steps of the Ant of old, which clips no action and pays for all of it; a limit ends an episode for good."""
    env = gymnasium.make("Ant-v4", max_episode_steps=LIMIT, disable_env_checker=True)
    observation, _ = env.reset(seed=0)
    seen, rewards, dones = [], [], []
    for action in actions:
        seen.append(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        dones.append(terminated or truncated)
        if dones[-1]:
            observation, _ = env.reset()
    padded = np.concatenate([[*seen, observation], np.zeros((STEPS + 1, INPUTS - OBSERVED))], axis=1)
    observations = torch.tensor(padded.astype(np.float32)).double()
    actions = torch.tensor(actions).double()
    with torch.no_grad():
        values = forward(value, observations).flatten()
        means = forward(policy, observations[:-1])
    advantages = torch.zeros(STEPS + 1, dtype=torch.float64)
    for t in reversed(range(STEPS)):
        go_on = 0.0 if dones[t] else 1.0
        delta = rewards[t] + go_on * 0.99 * values[t + 1] - values[t]
        advantages[t] = delta + go_on * 0.99 * 0.95 * advantages[t + 1]
    advantages, values = advantages[:-1], values[:-1]
    return Rollout(
        observations=observations[:-1],
        actions=actions,
        drawn=means + log_std.detach().exp() * noise,
        log_probs=log_prob(actions, means, log_std.detach()),
        values=values,
        advantages=(advantages - advantages.mean()) / advantages.std(),
        targets=advantages + values,
        rewards=torch.tensor(rewards),
        dones=dones,
    )


def update(policy, value, log_std, rollout, orders, betas, weight_decay, *, most=160, coupled=True):
    """Ten epochs of 16 minibatches. Returns the norms of the gradients of each network, update by update."""
    parameters = [tensor for network in (policy, value) for layer in network for tensor in layer] + [log_std]
    of_policy = [log_std, *(tensor for layer in policy for tensor in layer)]
    first, second = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    norms, t = [], 0
    for order in orders:
        for start in range(0, STEPS, 128):
            t += 1
            if t > most:
                return norms
            ids = torch.tensor(order[start : start + 128])
            observations, actions = rollout.observations[ids], rollout.actions[ids]
            ratio = (log_prob(actions, forward(policy, observations), log_std) - rollout.log_probs[ids]).exp()
            gain = torch.min(ratio * rollout.advantages[ids], ratio.clamp(0.8, 1.2) * rollout.advantages[ids])
            error = (rollout.targets[ids] - forward(value, observations).flatten()) ** 2
            gradients = torch.autograd.grad(error.mean() - gain.mean(), parameters)
            squares = {id(p): float((g**2).sum()) for p, g in zip(parameters, gradients, strict=True)}
            own = sum(squares[id(parameter)] for parameter in of_policy)
            norms.append((math.sqrt(own), math.sqrt(sum(squares.values()) - own)))
            with torch.no_grad():
                for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                    g = gradient + weight_decay * parameter * coupled
                    parameter *= 1.0 if coupled else 1.0 - 1e-4 * weight_decay
                    m.mul_(betas[0]).add_((1 - betas[0]) * g)
                    v.mul_(betas[1]).add_((1 - betas[1]) * g**2)
                    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
                    parameter -= 1e-4 * m_hat / (v_hat.sqrt() + 1e-8)
    return norms


# Ours


class Watch(BaseCallback):
    """Keeps the states of the generators that draw actions and order samples."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.noise = torch.get_rng_state()

    def _on_rollout_end(self):
        self.order = np.random.get_state()  # noqa: NPY002


def make(method, changes=(), env_kwargs=None):
    """The command's own model; the time limit of its environment is shorter."""
    arguments = ["--env", "ant-stationary", "--preset", "paper", "--threads", "1"]
    for change in changes:
        arguments += ["--set", change]
    config = make_config(train._parser().parse_args(arguments), method, seed=0)
    config = replace(config, env_kwargs=env_kwargs or {"terminate_after": LIMIT})
    return make_model(config, make_vec_env(config))


def padded_copy(modules):
    """A network's weights in float64, the first layer with zeros for the inputs that are never anything else."""
    layers = [[m.weight.detach().double(), m.bias.detach().double()] for m in modules if isinstance(m, torch.nn.Linear)]
    layers[0][0] = torch.cat([layers[0][0], torch.zeros(len(layers[0][0]), INPUTS - OBSERVED)], dim=1)
    return [[tensor.clone().requires_grad_() for tensor in layer] for layer in layers]


def flat(policy, value, log_std):
    """All parameters in a row, without the first layers' zeros, which no gradient reaches."""
    tensors = [network[0][0][:, :OBSERVED] for network in (policy, value)] + [policy[0][1], value[0][1]]
    tensors += [tensor for network in (policy, value) for layer in network[1:] for tensor in layer]
    return torch.cat([tensor.detach().double().flatten() for tensor in [*tensors, log_std]])


def parameters_of(model):
    return flat(*(padded_copy(modules) for modules in networks(model.policy).values()), model.policy.log_std)


class Both:
    """A rollout and its updates, at most so many, by both sides."""

    def __init__(self, method, changes=(), env_kwargs=None, most=160):
        self.model, watch = make(method, changes, env_kwargs), Watch()
        self.start = copy.deepcopy(self.model.policy.state_dict())
        fresh = [padded_copy(modules) for modules in networks(self.model.policy).values()]
        self.initial = [*fresh, self.model.policy.log_std.detach().double().clone().requires_grad_()]
        with updates_at_most(max(1, most)):
            self.model.learn(STEPS, callback=watch)
        assert self.model.slow_because is None
        self.after = {most: parameters_of(self.model)}
        self.norms = {}
        self.order = watch.order
        for updates in (1, 10):
            self.after[updates], self.norms[updates] = self.train_anew(updates)
        torch.set_rng_state(watch.noise)
        noise = torch.stack([torch.empty(1, 8).normal_()[0] for _ in range(STEPS)]).double()
        self.buffer = {name: getattr(self.model.rollout_buffer, name) for name in BUFFERED}
        actions = self.buffer["actions"].reshape(STEPS, 8)
        self.rollout = roll_out(*self.initial, noise, actions)

    def train_anew(self, updates):
        """So many first updates of the rollout; the parameters behind them, and the norms of the last gradients."""
        policy = self.model.policy
        policy.load_state_dict(self.start)
        policy.optimizer.state.clear()
        np.random.set_state(self.order)  # noqa: NPY002
        with updates_at_most(updates):
            self.model.train()
        norms = []
        for modules, more in zip(networks(policy).values(), ([policy.log_std], []), strict=True):
            gradients = [parameter.grad for module in modules for parameter in module.parameters()] + [p.grad for p in more]
            norms.append(math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients)))
        return parameters_of(self.model), norms

    def orders(self):
        np.random.set_state(self.order)  # noqa: NPY002
        return [np.random.permutation(STEPS) for _ in range(10)]  # noqa: NPY002

    def deviations(self, betas, weight_decay, most=160):
        """How far apart both sides are after at most so many updates, in units of what rounding may do."""
        found, rollout = {}, self.rollout
        for name, theirs, tolerance in (
            ("observations", rollout.observations[:, :OBSERVED], 1e-5),
            ("actions", rollout.drawn, 1e-5),
            ("rewards", rollout.rewards, 1e-5),
            ("log_probs", rollout.log_probs, 1e-4),
            ("values", rollout.values, 1e-5),
            ("advantages", rollout.advantages, 1e-4),
            ("returns", rollout.targets, 1e-4),
        ):
            own = torch.tensor(self.buffer[name]).double().reshape(theirs.shape)
            found[name] = float((own - theirs).abs().max()) / (tolerance * max(1.0, float(theirs.abs().max())))
        starts = [False, *rollout.dones[:-1]]
        found["episodes"] = float((self.buffer["episode_starts"].flatten()[1:] != np.array(starts)[1:]).sum())
        for updates in (number for number in (1, 10, 160) if number <= most):
            policy, value, log_std = copy.deepcopy(self.initial)
            norms = update(policy, value, log_std, rollout, self.orders(), betas, weight_decay, most=updates)
            theirs, before = flat(policy, value, log_std), flat(*self.initial)
            moved = float((theirs - before).norm())
            # At 160 a few samples have crossed the clip range on one side alone.
            tolerance = 1e-2 if updates == 160 else 1e-3
            found[f"weights after {updates}"] = float((self.after[updates] - theirs).norm()) / (tolerance * moved)
            if updates in self.norms:
                errors = [abs(own / norm - 1) for own, norm in zip(self.norms[updates], norms[-1], strict=True)]
                found[f"gradients of update {updates}"] = max(errors) / 1e-3
        return found


BUFFERED = ("observations", "actions", "rewards", "log_probs", "values", "advantages", "returns", "episode_starts")


@contextmanager
def updates_at_most(most):
    """A rollout is followed by no more of its updates than so many."""
    original = Samples.of

    def cut(*arguments, **options):
        samples = original(*arguments, **options)
        return samples._replace(bounds=samples.bounds[: most + 1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "of", cut)
        yield


@functools.cache
def both_as_published(method):
    """For tests that leave it as it is."""
    return Both(method)


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_rollout_and_its_updates_are_those_of_the_published_algorithm(method):
    both = both_as_published(method)
    found = both.deviations(*PUBLISHED[method])
    assert {name: value for name, value in found.items() if not value <= 1} == {}
    lengths = np.diff([-1, *np.flatnonzero(both.rollout.dones)])
    assert max(lengths) == LIMIT > min(lengths)  # some episodes end by a fall, some by the limit


# Changes of the setting, and where they must show.
SHOWN = [
    (["adam_eps=1e-5"], None, "weights after 1"),
    (["vf_coef=0.5"], None, "gradients of update 1"),
    (["gamma=0.98"], None, "advantages"),
    (["max_grad_norm=0.5"], None, "weights after 160"),
    ([], {"terminate_after": LIMIT, "unclipped_actions": False}, "rewards"),
]
SHOWN_TOO = [
    (["padded_inputs=null"], None, "initial weights"),
    (["normalize_advantage=batch"], None, "gradients of update 1"),
    (["beta2=0.99"], None, "weights after 160"),
    (["clip_range=0.3"], None, "weights after 160"),
    (["gae_lambda=0.9"], None, "advantages"),
    (["weight_decay=1e-3"], None, "weights after 1"),
    (["learning_rate=3e-4"], None, "weights after 1"),
    ([], {"terminate_after": None, "max_episode_steps": LIMIT}, "advantages"),
    ([], {"terminate_after": LIMIT, "healthy_reward_on_fall": False}, "rewards"),
]


@pytest.mark.parametrize(
    ("changes", "env_kwargs", "where"),
    [
        *(pytest.param(*values, marks=pytest.mark.slow) for values in SHOWN),
        *(pytest.param(*values, marks=pytest.mark.soak) for values in SHOWN_TOO),
    ],
    ids=str,
)
def test_every_constant_shows(changes, env_kwargs, where):
    updates = int(where.split()[-1]) if where[-1].isdigit() else 0
    both = Both("ppo", changes, env_kwargs, updates)
    if where == "initial weights":
        # LeCun's bound: 0.164 for 111 inputs, 0.333 for the 27 that are observed.
        assert float(both.initial[0][0][0].detach().abs().max()) > 1.9 * math.sqrt(3 / INPUTS)
    else:
        assert both.deviations(*PUBLISHED["ppo"], most=updates)[where] > 2


def test_the_coupling_of_the_weight_decay_shows():
    both = both_as_published("l2")
    theirs = copy.deepcopy(both.initial)
    update(*theirs, both.rollout, both.orders(), *PUBLISHED["l2"], most=1, coupled=False)
    moved = float((flat(*theirs) - flat(*both.initial)).norm())
    assert float((both.after[1] - flat(*theirs)).norm()) > 3e-3 * moved


@pytest.mark.soak  # float64 is compiled for this test alone
@pytest.mark.parametrize("method", ["ppo", "l2"])
def test_the_compiled_updates_are_those_of_the_published_algorithm_in_float64(method):
    both = Both(method)
    policy, rollout, group = both.model.policy, both.rollout, both.model.policy.optimizer.param_groups[0]
    policy.load_state_dict(both.start)
    policy.double()
    optimizer = torch.optim.Adam(policy.parameters(), **{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
    order = np.concatenate(both.orders())
    columns = [getattr(rollout, name) for name in ("observations", "actions", "values", "log_probs", "advantages", "targets")]
    columns[0] = columns[0][:, :OBSERVED]
    samples = Samples(np.arange(0, 20_481, 128), *(column.numpy()[order] for column in columns))
    settings = Settings(
        0.2, math.inf, ent_coef=0.0, vf_coef=1.0, normalize_advantage=False, max_grad_norm=math.inf, decay_rate=-1.0
    )
    arrays = [
        NetworkArrays(modules, log_std, optimizer, 128, None)
        for modules, log_std in zip(networks(policy).values(), (policy.log_std, None), strict=True)
    ]
    done = 0
    for updates in (1, 10, 160):
        for network in arrays:
            make_updates(done, updates, samples, settings, network.layers, network.adam, np.zeros((160, 4)))
        done = updates
        theirs = copy.deepcopy(both.initial)
        update(*theirs, rollout, both.orders(), *PUBLISHED[method], most=updates)
        assert float((parameters_of(both.model) - flat(*theirs)).abs().max()) < 1e-10
