"""What makes a policy of Stable-Baselines3 plastic: it carries a method for each optimizer that trains it.

No algorithm needs to know. A method acts in hooks that torch calls around each step of its optimizer, its state travels in
that optimizer's ``state_dict``, and it is made together with the networks.
"""

from __future__ import annotations

import copy
import inspect
import sys
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import get_device
from torch.optim import Optimizer

import cbp
from agents.sb3.carrying import Carried
from agents.sb3.following import Following
from agents.sb3.method_options import by_network, check_kwargs, check_method, refuse_misplaced
from agents.sb3.networks import chain_of, find, modules_of, network_names, network_of, owners, targets
from agents.sb3.updates import too_short
from cbp.method import check_whole
from cbp.optimizers import untrained
from cbp.weighted import known_weights


class Plastic(Following):
    """Makes a policy plastic: the first of the bases of a new class, before the policy's own.

    Each optimizer of the policy has a method, which acts after each of its steps: PPO and DQN have one, SAC and TD3 those of
    actor and critic. Units are judged by the last forward pass before the step, so that a critic's pass in the actor's loss
    does not count. A features extractor that actor and critic share is treated once, after the actor's steps. The entropy
    coefficient and target networks are not treated; what becomes of targets, ``target_units`` says.

    Args:
        observation_space: Observation space.
        action_space: Action space.
        lr_schedule: Learning rate schedule.
        method: Name of the method, one of :data:`cbp.METHODS`, or None for none.
        method_kwargs: Keyword arguments of the method, for ``"cbp"`` those of :class:`cbp.ContinualBackprop`; or such a
            dictionary for each network, ``dict(actor=dict(...), critic=None)``: None leaves a network alone, and one that is
            not named has the defaults. A network with a dictionary of its own has a method of its own. Without a ``seed`` the
            generators follow the algorithm's ``seed``; a second method counts on from it.
        target_units: What target networks do when a unit is replaced: ``"drift"``, they follow as at any other update, by
            averaging or at their next copy; ``"copy"``, they receive the fresh unit at once. Default: as in the authors' code
            of ReDo.
        **kwargs: Those of the policy.

    Attributes:
        methods: The methods by the networks that they treat: ``policy`` and ``value`` (the same method, for one optimizer
            trains both), ``actor`` and ``critic``, ``q_net``. Empty without a method.
        method: The only method, or None; where there are several, an ``AttributeError`` says so.
        left_out: A line for each reason why units are left out.

    Raises:
        NotImplementedError: An algorithm that the policy, or the method, is not for.
        TypeError: An option that the method does not have.
        ValueError: An unknown method or network, or a value that the method refuses.
        cbp.LayerError: No network has a hidden layer that can be treated.
    """

    algorithms: ClassVar[tuple[type[BaseAlgorithm], ...]] = ()
    """What it is for."""
    default_options: ClassVar[dict[str, dict[str, Any]]] = {}
    """Options of methods where they differ from the methods' own defaults, by the methods' names."""

    doubles: ClassVar[bool] = False
    """Whether it makes room for activations that give two values for each unit."""

    if TYPE_CHECKING:
        method: cbp.Method | None

    def __new__(cls, *_: Any, **kwargs: Any) -> Self:
        """Refuses an algorithm that the policy is not for."""
        frame = sys._getframe(1)
        algorithm = frame.f_locals.get("self")
        if frame.f_code.co_name == "_setup_model" and isinstance(algorithm, BaseAlgorithm):
            cls._check_algorithm(algorithm, kwargs.get("method"))
        made: Self = super().__new__(cls)
        return made

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        method: str | None = "cbp",
        method_kwargs: dict[str, Any] | None = None,
        target_units: Literal["drift", "copy"] = "drift",
        **kwargs: Any,
    ) -> None:
        check_method(method)
        if target_units not in ("drift", "copy"):
            raise ValueError(f"target_units must be 'drift' or 'copy'; got {target_units!r}")
        refuse_misplaced(type(self).__name__, method, kwargs)
        if kwargs.get("activation_fn") is cbp.CReLU and not self.doubles:
            raise NotImplementedError(
                f"activation_fn=cbp.CReLU, which gives two values for each unit, for {type(self).__name__} is not supported; "
                "it is for PlasticMlpPolicy of PPO, A2C and TRPO"
            )
        self._method_name = method
        self._method_kwargs = check_kwargs(method_kwargs)
        self._target_units = target_units
        self._policy_kwargs = dict(kwargs)
        self._seed = _seed()
        self._carried: list[Carried] = []
        self._checked_timesteps: int | None = None
        self._has_warned = False
        self.is_told_of_changes = False  # by ChangeCallback
        self.methods = {}
        self.left_out = []
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        if isinstance(observation_space, spaces.Dict) and self.features_extractor_class is FlattenExtractor:
            raise TypeError(f"{type(self).__name__} takes no dictionaries of observations: PlasticMultiInputPolicy does")
        self._carry()

    def __getattr__(self, name: str) -> Any:
        """Finds ``method``; what else a torch module has is found as ever."""
        if name != "method":
            return super().__getattr__(name)
        methods = list(dict.fromkeys(self.methods.values()))
        if len(methods) > 1:
            each = ", ".join(f"policy.methods[{network!r}]" for network in self.methods)
            raise AttributeError(f"this {type(self).__name__} has several methods, not one: {each}")
        return methods[0] if methods else None

    # At work

    def _carry(self) -> None:
        """Makes the methods and puts them to work."""
        self.methods, self._carried, self.left_out = {}, [], []
        if self._method_name is None:
            return
        kind = cbp.METHODS[self._method_name]
        defaults = self.default_options.get(self._method_name, {})
        options = by_network(self._method_kwargs, network_names(self), self._method_name, defaults)
        self._each_its_own = len({id(of_network) for of_network in options.values()}) > 1
        groups: list[cbp.Group] = []
        if "layers" in inspect.signature(kind).parameters and not issubclass(kind, cbp.Replaying):
            groups, self.left_out = self._find()
        copies = targets(self) if self._target_units == "copy" else {}
        number = 0
        for owner, module in owners(self).items():
            networks = [owner] if owner in ("actor", "critic") else network_names(self)
            if issubclass(kind, cbp.Replaying) and not self._each_its_own:
                networks = networks[:1]  # what acts; the value network has it where it is given its own
            for part in [[network] for network in networks] if self._each_its_own else [networks]:
                of_part = options[part[0]]
                method = None if of_part is None else self._make(kind, part, module.optimizer, groups, of_part, number)
                if method is not None:
                    in_turns = len(part) < len(networks)
                    self._carried.append(Carried(part[0], method, module.optimizer, in_turns=in_turns, targets=copies))
                    self.methods |= dict.fromkeys(part, method)
                number += 1
        if not self._carried and any(of_network is not None for of_network in options.values()):
            why = "; ".join(self.left_out) or f"net_arch={self._policy_kwargs.get('net_arch')!r}"
            raise cbp.LayerError(f"{type(self).__name__} has no hidden layer that can be treated ({why}); take method=None")
        self._begin_to_follow()

    def _make(
        self,
        kind: type[cbp.Method],
        networks: list[str],
        optimizer: Optimizer,
        groups: list[cbp.Group],
        options: dict[str, Any],
        number: int,
    ) -> cbp.Method | None:
        """A method for some networks, the policy's ``number``-th; None where they have no units."""
        make: Any = kind
        takes = inspect.signature(kind).parameters
        if "seed" in takes:
            seed = options.get("seed", self._seed)
            counts_on = not (self._each_its_own and "seed" in options)
            options = {**options, "seed": (check_whole("seed", seed) + number * counts_on) % 2**64}
        if issubclass(kind, cbp.Replaying):
            found = chain_of(self, networks[0])
            return None if found is None else make(found[0], optimizer, receives=found[1], **options)
        if "layers" not in takes:
            module = modules_of(self, networks)
            weights = known_weights(module)
            if weights and not any(weight.requires_grad for weight in weights):
                self.left_out.append(f"the weights of {' and '.join(networks)} are frozen")
                return None
            return make(module, optimizer, **options)  # type: ignore[no-any-return]
        others = [module.optimizer for module in owners(self).values() if module.optimizer is not optimizer]
        layers = []
        for group in groups:
            if network_of(group.name) in networks:
                why = untrained([optimizer, *others], group)
                self.left_out += [why] if why else []
                layers += [] if why else [group]
        made: cbp.Method | None = (
            make(self, [optimizer, *others] if others else optimizer, **{"layers": layers, **options}) if layers else None
        )
        return made

    def _find(self) -> tuple[list[cbp.Group], list[str]]:
        """The hidden layers to treat, and a line for each reason why others are left out."""
        return find(self)

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3; at the start of training also refuses unsupported algorithms and warns of a run too short."""
        # SB3 gives a policy no reference to its algorithm, but collect_rollouts() and train() call this first.
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, BaseAlgorithm) and self._checked_timesteps != caller._total_timesteps:
            self._checked_timesteps = caller._total_timesteps
            if self._carried:
                self._check_algorithm(caller, self._method_name)
                self._warn_if_short(caller)
        super().set_training_mode(mode)

    @classmethod
    def _check_algorithm(cls, algorithm: BaseAlgorithm, method: str | None) -> None:
        if method == "pfo" and not hasattr(algorithm, "n_epochs"):
            raise NotImplementedError(
                f"the method 'pfo' for {type(algorithm).__name__} is not supported: it compares with the network that "
                "collected the rollout, and is for algorithms that make several updates of a policy from one, as PPO"
            )
        if isinstance(algorithm, cls.algorithms):
            return
        name = type(algorithm).__name__
        served = ", ".join(kind.__name__ for kind in cls.algorithms)
        by_name = [alias for alias, kind in algorithm.policy_aliases.items() if issubclass(kind, Plastic)]
        instead = f"; give {name} the name of one of its own: {', '.join(by_name)}" if by_name else ""
        raise NotImplementedError(f"{cls.__name__} for {name} is not supported; it is for {served}{instead}")

    def _warn_if_short(self, algorithm: BaseAlgorithm) -> None:
        if self._has_warned:
            return
        lines = too_short(algorithm, self.methods)
        if not self.is_told_of_changes and any(isinstance(method, cbp.Fire) for method in self.methods.values()):
            lines.append(
                "fire acts where the task changes, and nothing says where: give learn() the callback "
                "agents.callbacks.ChangeCallback(), or call change() of policy.methods there"
            )
        for line in lines:
            warnings.warn(line, stacklevel=4)
        self._has_warned = bool(lines)

    # Saved, loaded, copied

    def save(self, path: Any) -> None:
        """As in SB3, with the methods' states."""
        saved = {
            "state_dict": self.state_dict(),
            "data": self._get_constructor_parameters(),
            "methods": {carried.name: carried.state_dict() for carried in self._carried},
        }
        torch.save(saved, path)

    @classmethod
    def load(cls, path: Any, device: torch.device | str = "auto") -> Self:
        """As in SB3, with the methods' states."""
        device = get_device(device)
        saved = torch.load(path, map_location=device, weights_only=False)  # spaces and classes of the user are among it
        policy = cls(**saved["data"])
        policy.load_state_dict(saved["state_dict"])
        policy.to(device)
        for carried in policy._carried:
            if carried.name in saved.get("methods", {}):
                carried.load_state_dict(saved["methods"][carried.name])
        return policy

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The first releases had the method's state there.
        state = state_dict.pop(f"{prefix}_extra_state", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if state and self._carried:
            self._carried[0].load_first_release(state)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "action_dist" in state:
            # SB3 leaves the distribution of the last forward pass, with its graph, there; it cannot be copied.
            state["action_dist"] = copy.copy(state["action_dist"])
            state["action_dist"].distribution = None
        return state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **self._policy_kwargs,
            "method": self._method_name,
            "method_kwargs": self._method_kwargs,
            "target_units": self._target_units,
        }


def _seed() -> int:
    """A seed for the methods of a policy that is about to be made. Nothing is drawn.

    It is what torch was last seeded with, by SB3 with the algorithm's seed, if nothing was drawn since; else, for an algorithm
    without a seed, a number that follows from where torch's generator stands.
    """
    here = torch.get_rng_state()
    seeded = torch.Generator().manual_seed(torch.initial_seed())
    if torch.equal(here, seeded.get_state()):
        return torch.initial_seed()
    seeded.set_state(here)
    return int(torch.randint(2**63 - 1, (), generator=seeded))


def methods_of(policy: BasePolicy) -> list[cbp.Method]:
    """The methods that a policy carries, each once; none for a stock policy."""
    return list(dict.fromkeys(getattr(policy, "methods", {}).values()))


def carried_by(policy: BasePolicy, optimizer: Optimizer) -> list[Carried]:
    """What acts around the steps of one of a policy's optimizers; nothing for a stock policy."""
    return [carried for carried in getattr(policy, "_carried", []) if carried.optimizer is optimizer]


def replaced_units(policy: BasePolicy) -> dict[str, int]:
    """Units replaced so far in each network, ``policy`` and ``value``; empty where no method replaces units."""
    replaced: dict[str, int] = {}
    for method in methods_of(policy):
        for layer in method.layers:
            network = network_of(layer.name)
            replaced[network] = replaced.get(network, 0) + layer.replaced
    return replaced
