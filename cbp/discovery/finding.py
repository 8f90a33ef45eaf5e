"""From what was followed to groups of units, and why others are left out."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cbp.discovery.following import Follower, Key, Producer, Seen, Use
from cbp.discovery.labels import CONSTANT, varying, without_constants
from cbp.discovery.memory import Path
from cbp.discovery.recording import Arguments, Example, SecondPassError, record, unwrapped
from cbp.groups import Edge, Group, LayerError, Place, Slices

_SIZES = (32, 8, 16, 28, 64, 84, 96, 224)  # of images that are tried where no example is given, then all others up to 64
_LENGTH = 5  # of sequences
NO_PAST = "are computed from zeros, as of a state that has no past: give an example that has one, such as a longer sequence"


def find_layers(model: nn.Module, example: Example | None = None) -> list[Group]:
    """Finds the hidden layers of a model by what one forward pass of a copy of it does.

    A hidden layer is a group of units that are computed by rows of a weight, and have an effect through columns of others
    alone. What is in between may be anything that acts on each unit by itself: activations, norms, dropout, pooling,
    reshaping, concatenation, gates, depthwise convolutions, attention over positions, recurrence. Units that reach anything
    else are left out; ``left_out`` of a method says why. No random number is drawn, and the model is left as it is.

    Args:
        model: Any module.
        example: Positional arguments of one forward pass as a tuple, or keyword arguments as a dictionary, or a function that
            makes a pass with the module that it is given. Without it, random inputs are tried that suit the model's layers:
            that does for models that take one tensor.

    Returns:
        The hidden layers in the order of the forward pass, named by the path of the layer that computes them.

    Raises:
        LayerError: There is no hidden layer, or no forward pass could be made.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> [(layer.name, layer.units, layer.activation) for layer in find_layers(model, (torch.zeros(1, 3, 4, 4),))]
        [('0', 8, 'relu'), ('3', 16, 'tanh')]
    """
    model = unwrapped(model)
    finder = Finder(model)
    if example is not None:
        finder.follow(example)
    elif not finder.try_inputs():
        raise LayerError(
            f"no forward pass of {type(model).__name__} could be made with inputs that suit its layers "
            f"({finder.failure}): give an example, example=(x,)"
        )
    groups, reasons = finder.groups()
    if not groups:
        raise LayerError(nothing_found(model, reasons))
    return groups


def nothing_found(model: nn.Module, reasons: list[str]) -> str:
    """A line that says that no hidden layer remains."""
    why = "; ".join(reasons) or "it needs a layer with weights that feeds another"
    return f"{type(model).__name__} has no hidden layer that can be treated: {why}"


class Finder:
    """Finds the groups of a model over one or several forward passes.

    Attributes:
        failure: Why the last input that was tried does not suit the model.
        called: The paths of the modules that were called.
    """

    def __init__(self, model: nn.Module) -> None:
        if isinstance(model, torch.jit.ScriptModule):
            raise LayerError("nothing can be watched in a model that torch.jit has scripted: give the module it was made from")
        self._model = model
        self._follower = Follower()
        self._passes: list[Arguments | Callable[[nn.Module], Any]] = []
        self.failure = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Finder:
        twin = memo[id(self)] = Finder.__new__(Finder)
        vars(twin).update(copy.deepcopy({**vars(self), "_passes": []}, memo), _passes=list(self._passes))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without functions that make a pass, which a pickle may not hold."""
        return {**vars(self), "_passes": [each for each in self._passes if isinstance(each, Arguments)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"_passes": []} | state)  # which the first releases did not keep

    @property
    def called(self) -> set[str]:
        """The paths of the modules that were called."""
        return self._follower.called

    def follow(self, example: Example | Arguments) -> None:
        """Follows a forward pass; what was followed before still holds."""
        followed = example if callable(example) or isinstance(example, Arguments) else Arguments.of(example)
        make_pass = followed.call if isinstance(followed, Arguments) else followed
        before = copy.deepcopy(self._follower)
        try:
            record(self._model, make_pass, self._follower)
        except SecondPassError:  # a model for one call
            self._follower = before
            record(self._model, make_pass, self._follower, again=False)
        if not self.called <= before.called:  # else another pass has told of these modules
            kept = followed.sample() if isinstance(followed, Arguments) else followed
            self._passes += [] if kept is None else [kept]

    def renewed(self) -> Finder:
        """One for the model as it is now, that has followed the same passes, as far as they can still be made."""
        found = Finder(self._model)
        for each in self._passes:
            before = copy.deepcopy(found._follower)
            try:
                found.follow(each.like(self._model) if isinstance(each, Arguments) else each)
            except (LayerError, RuntimeError):  # be it of tensors that cannot be moved
                found._follower = before
        found._passes = self._passes
        return found

    def try_inputs(self) -> bool:
        """Tries inputs that suit the model's layers; whether a forward pass could be made."""
        parameters = [
            parameter
            for parameter in inspect.signature(self._model.forward).parameters.values()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        takes_any = any(
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in inspect.signature(self._model.forward).parameters.values()
        )
        if len(parameters) > 1 or (not parameters and not takes_any):
            self.failure = "it does not take one tensor"
            return False
        for shape, integers in _candidates(self._model):
            example = _input(self._model, shape, integers=integers)
            self._follower = Follower()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is said of an input that the model is not made for
                try:
                    self.follow((example,))
                except LayerError as error:
                    self.failure = self.failure or str(error)
                else:
                    return True
        self._follower = Follower()
        return False

    def groups(self) -> tuple[list[Group], list[str]]:
        """The groups in the order of the forward pass, and a line for each layer that is left out."""
        return _Builder(self._model, self._follower).build()


def _candidates(model: nn.Module) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Shapes of inputs that the layers of a model take, and whether they are whole numbers."""
    shapes: dict[tuple[tuple[int, ...], bool], None] = {}
    maps = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shapes[(2, module.in_features), False] = None
            shapes[(2, _LENGTH, module.in_features), False] = None
        elif isinstance(module, nn.RNNBase):
            shapes[(2, _LENGTH, module.input_size), False] = None
        elif isinstance(module, nn.Embedding):
            shapes[(2, _LENGTH), True] = None
        elif isinstance(module, nn.modules.conv._ConvNd):
            maps.append((module.in_channels, len(module.kernel_size)))
    yield from shapes
    for size in dict.fromkeys((*_SIZES, *range(1, 65))):
        for channels, axes in dict.fromkeys(maps[:1]):
            yield (2, channels, *[size] * axes), False


def _input(model: nn.Module, shape: tuple[int, ...], *, integers: bool) -> Tensor:
    first = next(model.parameters())
    if integers:
        return torch.zeros(shape, dtype=torch.int64, device=first.device)
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return numbers.to(first)


class _Builder:
    def __init__(self, model: nn.Module, follower: Follower) -> None:
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters())
        self._follower = follower

    def build(self) -> tuple[list[Group], list[str]]:
        follower = self._follower
        self._leave_out_shared()
        self._leave_out_without_past()
        roots, _ = follower.units.members()
        self._whole: dict[int, list[int]] = {}  # the members of each unit
        for number, root in enumerate(roots.tolist(), start=1):
            self._whole.setdefault(root, []).append(number)
        slices_of = self._slices_by_unit()
        signatures: dict[tuple[object, ...], list[int]] = {}
        for root, of_unit in slices_of.items():
            if follower.units.reason(root) is None:
                signature = tuple((kind, key, len(indices)) for (kind, key), indices in of_unit.items())
                signatures.setdefault(signature, []).append(root)
        groups: list[Group] = []
        unseen: list[str] = []
        for units in signatures.values():
            parts = {what: torch.tensor([slices_of[unit][what] for unit in units]) for what in slices_of[units[0]]}
            if any(kind == "edge" for kind, _ in parts):
                group = self._group(units, parts)
                if isinstance(group, Group):
                    groups.append(group)
                else:
                    unseen.append(group)
        taken: dict[str, int] = {}
        for group in groups:
            taken[group.name] = taken.get(group.name, 0) + 1
        named = [group if taken[group.name] == 1 else _with_range(group) for group in groups]
        return named, [*self._reasons(), *dict.fromkeys(unseen)]

    def _leave_out_shared(self) -> None:
        """Leaves out units whose slices belong to something else too."""
        follower = self._follower
        written: dict[str, list[tuple[str, Key, Tensor]]] = {}
        for producer in follower.producers:
            if producer.reason is None:
                written.setdefault(producer.key[0], []).append(("row", producer.key, producer.rows))
        for key, use in follower.uses.items():
            written.setdefault(key[0], []).append(("column", key, use.columns))
        for key, (owners, _) in follower.own.items():
            written.setdefault(key[0], []).append(("own", key, owners))
        for name, parts in written.items():
            reason = self._why_left_out(name, [(kind, key) for kind, key, _ in parts])
            for _, _, labels in parts if reason else ():
                follower.units.leave_out(labels, reason)

    def _leave_out_without_past(self) -> None:
        """Leaves out units that were computed from as many zeros as they are, which in another pass may be their own past."""
        follower = self._follower
        for key, zeros in follower.met_zeros.items():
            waiting = int(((zeros > 0) & (follower.uses[key].columns == CONSTANT)).sum())
            rows = [producer.rows for producer in follower.producers if _are_beside(producer.key, key)]
            units = torch.unique(follower.units.roots(torch.cat(rows))) if rows else torch.zeros(0)
            if waiting and waiting == int((units > 0).sum()):
                follower.units.leave_out(units, NO_PAST)

    def _why_left_out(self, name: str, parts: list[tuple[str, Key]]) -> str:
        """Why units cannot have slices of a parameter, of these kinds and places; empty where they can."""
        how, other = self._follower.otherwise.get(name), self._follower.shared.get(name)
        keys = {kind: [key for of, key in parts if of == kind] for kind in ("row", "column", "own")}
        dims = {kind: {key.dim for key in of_kind} for kind, of_kind in keys.items()}
        twice = len(dims["row"]) > 1 or len(dims["column"]) > 1 or bool(dims["row"] & dims["column"])
        twice |= bool(dims["own"]) and bool(dims["column"])
        if how or twice or _overlap(keys["row"]) or _overlap(keys["column"]):
            return f"have weights in '{name}', which is used {f'in {how!r} too' if how else 'in two ways'}"
        if other:
            return f"have weights in '{name}', which shares its memory with '{other}'"
        parameter = self._parameters.get(name)
        return f"have complex weights in '{name}'" if parameter is not None and parameter.is_complex() else ""

    def _slices_by_unit(self) -> dict[int, dict[tuple[str, Key], list[int]]]:
        """For each unit, in the order of their first rows, the indices of its slices of every kind."""
        found: dict[int, dict[tuple[str, Key], list[int]]] = {}
        follower = self._follower
        tables = [("fresh", producer.key, producer.rows) for producer in self._producers()]
        tables += [("fixed", key, owners) for key, (owners, _) in follower.own.items()]
        tables += [("edge", key, use.columns) for key, use in follower.uses.items()]
        for kind, key, labels in tables:
            indices = (labels > 0).nonzero().flatten()
            for root, index in zip(follower.units.root_of(labels[indices]).tolist(), indices.tolist(), strict=True):
                if kind == "fresh" or root in found:
                    found.setdefault(root, {}).setdefault((kind, key), []).append(index)
        return found

    def _producers(self) -> list[Producer]:
        """In the order of the forward pass; those of a recurrent module in its own order, as devices compute in others."""
        first: dict[str, int] = {}

        def order(numbered: tuple[int, Producer]) -> tuple[int, int]:
            number, producer = numbered
            path, _, attribute = producer.key[0].rpartition(".")
            module = self._modules.get(path)
            if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
                return number, 0
            return first.setdefault(path, number), list(module._parameters).index(attribute)

        return [producer for _, producer in sorted(enumerate(self._follower.producers), key=order)]

    def _group(self, units: list[int], parts: dict[tuple[str, Key], Tensor]) -> Group | str:
        follower = self._follower
        keys = {producer.key: producer for producer in follower.producers}
        fresh = [(keys[key], self._slices(key, index)) for (kind, key), index in parts.items() if kind == "fresh"]
        name = self._name_of(fresh[0][0].key[0])
        fixed = []
        for (kind, key), index in parts.items():
            if kind == "fixed":
                slices = self._slices(key, index)
                value = follower.own[key][1]
                fixed.append((slices, _mean(slices) if value is None else value))
        edges: list[Edge] = []
        norms: dict[str, None] = {}
        for (kind, key), index in parts.items():
            if kind == "edge":
                edge = self._edge(units, self._slices(key, index), follower.uses[key])
                if edge is None:
                    return f"'{name}': what '{key[0]}' receives from its units is seen by no module"
                edges.append(edge)
                norms |= dict.fromkeys(sorted(self._path(units, follower.uses[key]).norms))
        coupled = any(member in follower.coupled for unit in units for member in self._whole[unit])
        modules = tuple(self._modules[norm] for norm in norms)
        return Group(name, len(units), tuple(slices for _, slices in fresh), tuple(fixed), tuple(edges), modules, coupled)

    def _slices(self, key: Key, index: Tensor) -> Slices:
        name, dim, within, blocks = key
        path, _, attribute = name.rpartition(".")
        return Slices(self._modules[path], attribute, dim, index, within, blocks)

    def _name_of(self, parameter: str) -> str:
        path, _, attribute = parameter.rpartition(".")
        return path if attribute == "weight" and path else parameter

    def _path(self, units: list[int], use: Use) -> Path:
        paths = [use.seen[number][2] for number in self._follower.units.producers_of(torch.tensor(units)) if number in use.seen]
        names = {path.activation for path in paths}
        return Path(paths[0].activation if len(names) == 1 else None, frozenset().union(*(path.norms for path in paths)))

    def _edge(self, units: list[int], weights: Slices, use: Use) -> Edge | None:
        path = self._path(units, use)
        for number in self._follower.units.producers_of(torch.tensor(units)):
            if number not in use.seen:
                continue
            module, (identity, order), _ = use.seen[number]
            seen = self._follower.seen_at.get(identity, [])
            if weights.per_unit > 1:  # each is paired with a value of the unit
                seen = [border for border in seen if border.order == order]
            seen = [border for border in seen if border.module == module and not border.returned] or seen[::-1]
            for border in filter(self._stays, seen):
                place = self._place(units, border, weights)
                if place is not None:
                    return Edge(weights, place, path.activation, bool(path.norms))
        return None

    def _stays(self, border: Seen) -> bool:
        """Whether what passes a border last is the same in every pass: that is what can be watched there."""
        where = border.module, border.returned, border.key
        last = [self._follower.units.roots(of_pass[where].labels) for of_pass in self._follower.last_at if where in of_pass]
        labels = self._follower.units.roots(border.labels)
        return all(torch.equal(other, labels) for other in last)

    def _place(self, units: list[int], border: Seen, weights: Slices) -> Place | None:
        labels = torch.where(border.labels > 0, self._follower.units.root_of(border.labels.clamp_min(0)), border.labels)
        joined = (without_constants(labels, axis) for axis in range(labels.ndim))
        found = (self._place_among(units, of_all, border, weights) for of_all in (labels, *joined))
        return next(filter(None, found), None)

    def _place_among(self, units: list[int], labels: Tensor, border: Seen, weights: Slices) -> Place | None:
        places = torch.isin(labels, torch.tensor(units)).nonzero()
        axes = (
            [axis for axis in varying(labels) if len(units) > 1 and len(torch.unique(places[:, axis])) > 1]
            if len(places)
            else []
        )
        if len(axes) > 1 or not len(places):
            return None
        axis = axes[0] if axes else next(iter(varying(labels)), self._only_axis(labels, weights))
        within = []
        for other in varying(labels):
            if other != axis:
                indices = torch.unique(places[:, other])
                length = int(indices[-1] - indices[0]) + 1
                if length != len(indices):
                    return None
                within.append((other - labels.ndim, int(indices[0]), length))
        along = labels.movedim(axis, -1)[tuple(places[0, [i for i in range(labels.ndim) if i != axis]])]
        along = along.expand(weights.per_unit) if along.numel() == 1 else along
        index = [(along == unit).nonzero().flatten().tolist() for unit in units]
        if not index[0] or any(len(found) != len(index[0]) for found in index):
            return None
        size = labels.shape[axis] if labels.shape[axis] > 1 else None
        where = border.module, border.returned, border.key
        calls = max(of_pass[where].calls for of_pass in self._follower.last_at if where in of_pass)
        module = self._modules[border.module]
        return Place(module, *where[1:], axis - labels.ndim, torch.tensor(index), tuple(within), size, calls)

    def _only_axis(self, labels: Tensor, weights: Slices) -> int:
        """The units' axis of a layer of one unit."""
        dims = weights.tensor.ndim
        return labels.ndim - 1 if dims <= 2 else max(labels.ndim - dims + 1, 0)

    def _reasons(self) -> list[str]:
        follower = self._follower
        reasons: dict[str, list[str]] = {}
        for producer in follower.producers:
            if not producer.consumed:
                continue
            name = self._name_of(producer.key[0])
            if producer.reason:
                reasons.setdefault(producer.reason, []).append(name)
                continue
            for unit in producer.rows[producer.rows > 0].tolist():
                reason = follower.units.reason(unit)
                if reason and name not in reasons.setdefault(reason, []):
                    reasons[reason].append(name)
        quoted = {reason: ", ".join(f"'{name}'" for name in names) for reason, names in reasons.items()}
        return [f"the units of {names} {reason}" for reason, names in quoted.items() if names]


def _mean(slices: Slices) -> float:
    return float(slices.view().detach().float().mean())


def _with_range(group: Group) -> Group:
    """The group with the rows in its name, where its layer has several."""
    slices = group.fresh[0]
    ranges = {dim: (start, length) for dim, start, length in slices.within}
    ranges[slices.dim] = int(slices.index.min()), int(slices.index.max() - slices.index.min()) + 1
    name = ",".join(f"{start}:{start + length}" for _, (start, length) in sorted(ranges.items()))
    return replace(group, name=f"{group.name}[{name}]")


def _are_beside(rows: Key, columns: Key) -> bool:
    """Whether rows and columns are of the same part of a parameter, as of the same member of an ensemble."""
    of_each = [[part for part in key.within if part[0] not in (rows.dim, columns.dim)] for key in (rows, columns)]
    return rows.name == columns.name and of_each[0] == of_each[1]


def _overlap(keys: list[Key]) -> bool:
    """Whether restrictions of the same weight lie over each other without being the same."""

    def box(key: Key) -> dict[int, tuple[int, int]]:
        return {dim: (start, start + length) for dim, start, length in key[2]}

    for i, first in enumerate(keys):
        for second in keys[i + 1 :]:
            a, b = box(first), box(second)
            shared = a.keys() & b.keys()
            if a.keys() != b.keys() or all(a[dim][0] < b[dim][1] and b[dim][0] < a[dim][1] for dim in shared):
                return True
    return False
