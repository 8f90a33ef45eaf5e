"""What methods that replace units share: which units there are, and how they are made anew."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp import fresh
from cbp.discovery.finding import Finder, nothing_found
from cbp.discovery.recording import Arguments, Example, is_compiled, unwrapped
from cbp.fresh import Init
from cbp.groups import Group, HiddenLayer, LayerError, computed, given
from cbp.method import Method, check_choice, check_whole
from cbp.optimizers import ResetOptimizer, checked, remembered, untrained
from cbp.replicas import Replicas, refuse_sharded
from cbp.units import TrackedLayer
from cbp.watching import Watch

LayerType = TypeVar("LayerType", bound=TrackedLayer)

_RECORDED = 8  # passes that are recorded to find how else a model runs: of branches taken half of the time one in 256 is missed


class ReplacingMethod(Method, Generic[LayerType]):
    """A method that makes units anew, each with fresh incoming weights, a zero bias and zero outgoing weights.

    A subclass says in :meth:`_judge` which units. Their values are those of the last forward pass in training mode with
    gradients on; a layer that this pass did not reach is left as it is. Each layer has a random generator of its own, so that
    layers may be treated one after the other or side by side; nothing is drawn from the global ones.

    The hidden layers are found by one forward pass of a copy of the model; see :func:`cbp.find_layers`. If no example is given
    and no input can be made up that suits the model, that is the first call of the model in training. When the model later
    runs otherwise (another branch, an exchanged head) they are found anew, which is said in one line; units that are the same
    keep their ages and utilities. What a pass has shown counts for good: the passes that are known are made again where modules
    were exchanged, training calls by their first rows. A new method that takes over from this one forgets them.

    Args:
        model: Any module; its forward pass is not changed. Replicas under ``torch.distributed`` judge by what all of them saw
            together if the model is given as it is wrapped in ``DistributedDataParallel``.
        optimizer: The optimizer of the model's weights, or a list of several.
        reset_optimizer: What becomes of the optimizer's state for the weights of a replaced unit: ``"none"`` leaves it,
            ``"moments"`` begins every per-weight average anew, copies of the weights with the fresh ones, and
            ``"moments_and_step"`` the step counts too, which needs :class:`cbp.Adam`.
        init: Distribution of fresh incoming weights, uniform on ±bound: ``"lecun"`` √(3/fan_in), ``"kaiming"``
            gain·√(3/fan_in), ``"xavier"`` gain·√(6/(fan_in+fan_out)), ``"default"`` √(1/fan_in) (torch's own for Linear), with
            the gain of the layer's activation; ``"auto"`` √3 times the root mean square of the layer's weights now.
        seed: Seed that the layers' generators are seeded from. Two methods with one seed draw the same numbers: give each its
            own.
        layers: The hidden layers in forward order, where they cannot be found or only some shall be treated.
        example: What a forward pass is made with, as for :func:`cbp.find_layers`.
        strict: Whether to raise where units are left out.

    Attributes:
        layers: What is kept of each hidden layer, in forward order; empty until they are found.
        left_out: A line for each reason why units are left out, with the names of their layers.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: No module; no optimizer, or one whose state cannot be reset as asked; ``layers`` is no list of layers.
        LayerError: No hidden layer remains; ``strict``, and one is left out; given layers that are of another model or of
            unequal widths, share their weights or have some that no optimizer holds.
    """

    layers: list[LayerType]
    left_out: list[str]

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        reset_optimizer: ResetOptimizer,
        init: Init,
        seed: int,
        layers: Sequence[HiddenLayer | Group] | None,
        example: Example | None = None,
        strict: bool = False,
    ) -> None:
        check_choice("reset_optimizer", reset_optimizer, ResetOptimizer)
        check_choice("init", init, Init)
        seed = check_whole("seed", seed)
        self.optimizers = checked(optimizer, reset_optimizer)
        self.reset_optimizer = reset_optimizer
        self.init = init
        self.seed = seed
        self.strict = bool(strict)
        self.layers = []
        self.left_out = []
        refuse_sharded(unwrapped(model))
        self._replicas = Replicas(model)
        self._watch: Watch | None = None
        self._found_anew = False
        self._recorded: Counter[tuple[str, ...]] = Counter()
        self._waiting: dict[str, Any] | None = None  # a state for layers that are not found yet
        if is_compiled(model):
            torch.compiler.reset()  # code that was compiled before would not call what watches
        if layers is not None:
            self._track_given(given(layers, model))
            return
        self._model = unwrapped(model)
        self._finder = Finder(self._model)
        if example is not None:
            self._finder.follow(example)
        elif not self._finder.try_inputs():
            self._watch = Watch(self._model, self)
            return
        self._take_groups()
        self._watch = Watch(self._model, self)
        self._watch.recorded(self._model, self.optimizers, self._finder.called)
        if not callable(example) and self._model.training:  # in evaluation some take another way
            arguments = Arguments.of(example) if example is not None else Arguments((torch.empty(0),))
            self._watch.knows(arguments.args, arguments.kwargs)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; the first, where there are several."""
        return self.optimizers[0]

    def _track_given(self, groups: list[Group]) -> None:
        for i, group in enumerate(groups):
            if why := self._why_not(group):
                raise LayerError(why)
            for other in groups[:i]:
                if _share_rows(group, other):
                    raise LayerError(f"layers '{other.name}' and '{group.name}' have the same incoming weights")
        self._begin(groups)

    def _begin(self, groups: list[Group]) -> None:
        bounds = [fresh.bounds(group, self.init) for group in groups]
        seeds = torch.randint(2**63 - 1, (len(groups),), generator=torch.Generator().manual_seed(self.seed)).tolist()
        self.layers = [self._track(*layer) for layer in zip(groups, bounds, seeds, strict=True)]

    def _take_groups(self) -> None:
        """Tracks the groups that were found; those that were tracked before go on."""
        found, reasons = self._finder.groups()
        refused = {id(group): why for group in found if (why := self._why_not(group))}
        groups = [group for group in found if id(group) not in refused]
        self.left_out = [*reasons, *dict.fromkeys(refused.values())]
        if not groups:
            raise LayerError(nothing_found(self._model, self.left_out))
        if self.strict and self.left_out:
            raise LayerError(f"units of {type(self._model).__name__} are left out, and strict=True: {'; '.join(self.left_out)}")
        before = {layer.name: layer for layer in self.layers}
        for layer in self.layers:
            layer.remove()
        self._begin(groups)
        self._take_over_layers(before)

    def find(self, example: Example | Arguments) -> None:
        """Finds the hidden layers, or finds them anew, by a forward pass of a copy of the model.

        Called by itself when the model runs otherwise; for a training loop that never calls the model, only its parts.

        Raises:
            LayerError: As for the class.
        """
        watch = self._watch
        if watch is None:
            raise RuntimeError("the hidden layers of this method were given: they are not found anew")
        refuse_sharded(self._model)
        if self.layers and watch.exchanged(self._model, self.optimizers):
            self._finder = self._finder.renewed()
        before = [layer.hidden for layer in self.layers]
        self._finder.follow(example)
        self._take_groups()
        watch.recorded(self._model, self.optimizers, self._finder.called)
        if before and not _are_alike(before, [layer.hidden for layer in self.layers]):
            self._found_anew = True
            kept = sum(layer.clock > 0 for layer in self.layers)
            warnings.warn(
                f"{type(self._model).__name__} runs otherwise than before: its hidden layers were found anew, "
                f"{len(self.layers)} now, of which {kept} keep their ages and utilities",
                stacklevel=2,
            )
        if self._waiting is not None:
            state, self._waiting = self._waiting, None
            self.load_state_dict(state)

    def _why_not(self, group: Group) -> str | None:
        """Why a group cannot be treated."""
        if why := computed(group):
            return f"{why} (pruned, normalised): let it be found"
        return self._unfit(group) or untrained(self.optimizers, group) or fresh.without_spread(group, self.init)

    def _unfit(self, group: Group) -> str | None:  # noqa: ARG002
        """Why the method does not suit a group; for a subclass that is not for all."""
        return None

    @abstractmethod
    def _track(self, hidden: Group, fresh_bounds: list[float], seed: int) -> LayerType:
        """What is to be kept of a hidden layer, at the beginning."""

    @abstractmethod
    def _judge(self, layer: LayerType, received: list[Tensor]) -> Tensor:
        """Takes note of an update and returns the units to replace.

        Args:
            layer: The layer.
            received: What each of its edges received: ``(batch, units)`` each.

        Returns:
            Indices of units: int64, of shape ``(replaced,)``.
        """

    def _judge_all(self, layers: list[LayerType], received: list[list[Tensor]]) -> list[Tensor]:
        """Judges several layers, one by one unless a subclass decides about all at once."""
        return [self._judge(layer, h) for layer, h in zip(layers, received, strict=True)]

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Judges all units by the last forward pass and replaces those that are due.

        Returns:
            For each hidden layer, in forward order, the indices of the units just replaced: int64, of shape ``(replaced,)``.

        Raises:
            RuntimeError: No forward pass in training mode with gradients on since the last call.
        """
        received = [layer.take_received() for layer in self.layers]
        found_anew, self._found_anew = self._found_anew, False
        if misfits := tuple(layer.name for layer in self.layers if not layer.fits):
            self._record_next(misfits)
            self._say_once_that_nothing_fits(misfits)
        if not any(received):
            if found_anew or misfits or (self.layers and self._is_stale()):  # by a pass of which nothing was seen
                return [layer.nothing for layer in self.layers]
            raise RuntimeError(self._nothing_seen())
        self._say_once_what_is_asleep([layer for layer, h in zip(self.layers, received, strict=True) if h is None])
        reached = [h is not None for h in received]
        if not self._replicas.alone:
            reached = self._replicas.all(reached, self.layers[0].utility.device)
        if not all(all(layer.edges_called) for layer in self.layers):
            passed_by = self._passed_by()
            reached = [seen and not self._is_stale() and not passed for seen, passed in zip(reached, passed_by, strict=True)]
        # Every layer is judged by the weights that made this update, before any unit is replaced.
        judged = [layer for layer, seen in zip(self.layers, reached, strict=True) if seen]
        units = iter(self._judge_all(judged, [h for h, seen in zip(received, reached, strict=True) if seen and h is not None]))
        replaced = [next(units) if seen else layer.nothing for layer, seen in zip(self.layers, reached, strict=True)]
        if self._has_strayed() or (any(map(len, replaced)) and self._is_stale()):
            return [layer.nothing for layer in self.layers]
        for k, (layer, due) in enumerate(zip(self.layers, replaced, strict=True)):
            if len(due) and (_is_frozen(layer.hidden) or self._is_computed(layer)):  # since it was found
                replaced[k] = layer.nothing
            elif len(due):
                self._replace(layer, due)
        return replaced

    def _passed_by(self) -> list[bool]:
        """For each layer whether something else came where its units go, since what computes them was not called."""
        called: dict[Any, bool] = {}
        for layer in self.layers:
            for edge, seen in zip(layer.hidden.edges, layer.edges_called, strict=True):
                if not edge.place.returned:
                    called[edge.place.module] = called.get(edge.place.module, False) or seen
        passed_by = [
            any(layer.edges_called) and not all(called.get(slices.module, True) for slices in layer.hidden.fresh)
            for layer in self.layers
        ]
        of_a_kind = tuple(layer.name for layer, passed in zip(self.layers, passed_by, strict=True) if passed)
        if not of_a_kind or not self._replicas.alone or self._recorded[of_a_kind] == _RECORDED:
            return [False] * len(self.layers)
        self._record_next(of_a_kind)
        return passed_by

    def _record_next(self, of_a_kind: tuple[str, ...]) -> None:
        """The next call of the model is recorded, since this pass was another to these layers than when they were found.

        A few times, for it may be one that is meant.
        """
        watch = self._watch
        if watch is not None and watch.was_called and self._replicas.alone and self._recorded[of_a_kind] < _RECORDED:
            self._recorded[of_a_kind] += not watch.stale
            watch.stale = True

    def _say_once_that_nothing_fits(self, names: tuple[str, ...]) -> None:
        if not self._recorded[names] and not (self._watch is not None and self._watch.stale):
            self._recorded[names] = _RECORDED
            warnings.warn(
                f"units of {', '.join(names)} pass in another form than they were found in: they are not judged by such "
                "passes, and the layers can be found anew by find(example) alone",
                stacklevel=3,
            )

    def _say_once_what_is_asleep(self, unseen: list[LayerType]) -> None:
        asleep = tuple(layer.name for layer in unseen if _feeds_evaluation(layer.hidden))
        if asleep and self._watch is not None and self._model.training and not self._recorded["asleep", *asleep]:
            self._recorded["asleep", *asleep] = _RECORDED
            warnings.warn(
                f"units of {', '.join(asleep)} are not judged: what receives them is in evaluation mode, and the model in "
                "training mode",
                stacklevel=3,
            )

    @property
    def has_seen(self) -> bool:
        """Whether a forward pass was seen since the last :meth:`step`: where one optimizer trains networks in turns."""
        return any(layer.has_received for layer in self.layers)

    def _nothing_seen(self) -> str:
        if not self.layers:
            return (
                "step() found no forward pass that its hidden layers could be found by: call the model in training mode, "
                "gradients on; if it is compiled, or only its parts are called, give an example=(x,) or example=function"
            )
        if self._watch is not None and self._model.training and all(_feeds_evaluation(layer.hidden) for layer in self.layers):
            return "step() found no forward pass since the last one: whatever receives units is in evaluation mode"
        return "step() found no forward pass since the last one: call the model in training mode, gradients on, with a sample"

    def _is_stale(self) -> bool:
        """Whether the model has other modules than when its layers were found, so that nothing may be replaced."""
        if self._watch is not None and not self._watch.stale:
            self._watch.stale = self._watch.exchanged(self._model, self.optimizers)
            if self._watch.stale and not self._watch.was_called:
                warnings.warn(
                    f"modules of {type(self._model).__name__} were exchanged, and it is never called itself: nothing is "
                    "replaced until find(example) is called",
                    stacklevel=3,
                )
        return self._watch is not None and self._watch.stale

    def _has_strayed(self) -> bool:
        """Whether units reach a module that no recorded pass calls, so that nothing may be replaced; which is said once."""
        strayed = self._watch.strayed if self._watch is not None else None
        if strayed is None:
            return False
        if not self._recorded[strayed,]:
            self._recorded[strayed,] = _RECORDED
            warnings.warn(
                f"'{strayed}' was called outside of the recorded pass: nothing is replaced until it is called in one; give "
                "example=function that makes a pass which calls it, or call find(function)",
                stacklevel=3,
            )
        return True

    def _is_computed(self, layer: LayerType) -> bool:
        """Whether what would be written is computed from others, as since it was pruned; which is said once."""
        why = computed(layer.hidden)
        if why is not None and not self._recorded[why,]:
            self._recorded[why,] = _RECORDED
            warnings.warn(f"{why} since it was given: none of its units is replaced; make the method anew", stacklevel=3)
        return why is not None

    def _replace(self, layer: LayerType, units: Tensor) -> None:
        """Gives the units fresh incoming and zero outgoing weights, and forgets what was known about them."""
        hidden = layer.hidden
        memory = [each for slices in hidden.written() for each in remembered(self.optimizers, slices, self.reset_optimizer)]
        for slices, bound in zip(hidden.fresh, layer.fresh_bounds, strict=True):
            fresh.draw(slices, units, bound, layer.generator)
        for (slices, _), value in zip(hidden.fixed, layer.fixed, strict=True):
            slices.fill(units, value)
        for edge in hidden.edges:
            edge.weights.fill(units, 0.0)
        for each in memory:
            each.begin_anew(units)
        layer.forget(units)

    def remove(self) -> None:
        """Takes off everything that watches the model; :meth:`step` has nothing to act on afterwards."""
        for layer in self.layers:
            layer.remove()
        if self._watch is not None:
            self._watch.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._watch is not None:
            self._watch.own(self)

    def __str__(self) -> str:
        """A table of the hidden layers, and why others are left out."""
        rows = [("layer", "units", "activation", "feeds", "")]
        for layer in self.layers:
            hidden = layer.hidden
            feeds = ", ".join(dict.fromkeys(_short(edge.weights) for edge in hidden.edges))
            note = "coupled by a norm" if hidden.coupled else ""
            rows.append((layer.name, str(hidden.units), hidden.activation or "-", feeds, note))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not self.layers:
            lines = ["hidden layers are found at the first forward pass in training"]
        return "\n".join([type(self).__name__, *lines, *(f"left out: {reason}" for reason in self.left_out)])

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`: of the units that both have, known by their incoming weights."""
        if not self.layers and self._watch is not None:  # they are not found yet
            self.load_state_dict(other.state_dict())
        self._take_over_layers({layer.name: layer for layer in other.layers})

    def _take_over_layers(self, before: Mapping[str, TrackedLayer]) -> None:
        for layer in self.layers:
            if layer.name in before and are_same_units(layer.hidden, before[layer.name].hidden):
                layer.take_over(before[layer.name])

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time: what is known of each unit, by the layers' names, counters, generators.

        There are no layers in it as long as they are not found.
        """
        if self._waiting is not None:
            return self._waiting
        return {"layers": [layer.state_dict() for layer in self.layers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Layers are known by their names; the spread of fresh weights is the state's under ``init="auto"``, and otherwise this
        method's own. A state of the first releases has no names, and is taken in the order of its layers. Where
        the layers are not found yet, the state is loaded when they are. A state from before they were found is a beginning.

        Raises:
            ValueError: The state belongs to a model with other hidden layers, or is none of a method that replaces units.
                Nothing is loaded then.
        """
        saved = _layers_in(state)
        if not self.layers and self._watch is not None:
            self._waiting = state if saved else None
            return
        if not saved:
            for layer in self.layers:
                layer.remove()
            self._begin([layer.hidden for layer in self.layers])
            return
        own = [layer.state_dict() for layer in self.layers]
        names = [layer.get("name") for layer in saved]
        if len(saved) == len(own) and sorted(map(str, names)) == sorted(layer.name for layer in self.layers):
            saved = [saved[names.index(layer.name)] for layer in self.layers]
        elif any(names):
            raise ValueError(f"the state is of hidden layers {names}, this model has {[layer.name for layer in self.layers]}")
        theirs, ours = _shapes(saved), _shapes(own)
        if theirs != ours:
            raise ValueError(f"the state is of hidden layers with {theirs}, this model has {ours}")
        for layer, of_layer, mine in zip(self.layers, saved, own, strict=True):
            missing = mine.keys() - of_layer.keys() - {"name", "fixed"}
            if missing or len(of_layer["fresh_bounds"]) != len(mine["fresh_bounds"]):
                raise ValueError(f"the state of layer '{layer.name}' lacks {sorted(missing) or 'a bound of its fresh weights'}")
        for layer, of_layer in zip(self.layers, saved, strict=True):
            own_bounds = {} if self.init == "auto" else {"fresh_bounds": layer.fresh_bounds}
            layer.load_state_dict({**of_layer, **own_bounds})


def _layers_in(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The states of layers, as they are saved now, be they of the first releases."""
    layers = state.get("layers") if isinstance(state, Mapping) else None
    if not isinstance(layers, list) or not all(isinstance(layer, Mapping) and "clock" in layer for layer in layers):
        known = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"the state of a method that replaces units has a list of 'layers', got {known}")
    return [{"fresh_bounds": [layer["fresh_bound"]], **layer} if "fresh_bound" in layer else dict(layer) for layer in layers]


def _shapes(layers: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    return [{name: list(value.shape) for name, value in layer.items() if isinstance(value, Tensor)} for layer in layers]


def _short(slices: Any) -> str:
    kind = type(slices.module).__name__
    return kind if slices.attribute == "weight" else f"{kind}.{slices.attribute}"


def are_same_units(group: Group, other: Group) -> bool:
    """Whether two groups have the same incoming weights."""

    def rows(group: Group) -> list[tuple[object, ...]]:
        return [(id(slices.tensor), slices.dim, slices.index.tolist(), slices.within) for slices in group.fresh]

    return group.units == other.units and rows(group) == rows(other)


def _are_alike(before: list[Group], now: list[Group]) -> bool:
    def outgoing(group: Group) -> list[tuple[Any, ...]]:
        return [(id(edge.weights.module), edge.weights.attribute, edge.weights.dim) for edge in group.edges]

    return len(before) == len(now) and all(
        old.name == new.name and old.units == new.units and outgoing(old) == outgoing(new)
        for old, new in zip(before, now, strict=True)
    )


def _feeds_evaluation(group: Group) -> bool:
    return any(not edge.place.module.training for edge in group.edges)


def _is_frozen(group: Group) -> bool:
    return any(isinstance(slices.tensor, nn.Parameter) and not slices.tensor.requires_grad for slices in group.written())


def _share_rows(group: Group, other: Group) -> bool:
    return any(
        a.module is b.module and a.attribute == b.attribute and bool(torch.isin(a.index, b.index).any())
        for a in group.fresh
        for b in other.fresh
    )
