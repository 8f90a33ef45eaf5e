"""What ``method`` and ``method_kwargs`` of a policy may be."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import cbp
from cbp.method import options_of

Options = dict[str, Any]


def check_method(name: object) -> None:
    """Refuses what is no method.

    Raises:
        ValueError: It is neither the name of a method nor None.
    """
    if name is not None and (not isinstance(name, str) or name not in cbp.METHODS):
        raise ValueError(f"method must be one of {', '.join(cbp.METHODS)}, or None; got {name!r}{_meant(name, cbp.METHODS)}")


def check_kwargs(given: object) -> Options:
    """The keyword arguments of a method as a dictionary; an empty one for None.

    Raises:
        TypeError: They are no dictionary.
    """
    if not isinstance(given, Mapping | None):
        raise TypeError(f"method_kwargs must be a dictionary of options, or of such by network; got {given!r}")
    return dict(given or {})


def refuse_misplaced(policy: str, method: str | None, kwargs: Mapping[str, Any]) -> None:
    """Refuses options of the method among those of the policy, and slips in the names of a plastic policy's own.

    Raises:
        TypeError: There is one.
    """
    for name in kwargs:
        if close := difflib.get_close_matches(name, ("method", "method_kwargs", "target_units"), n=1, cutoff=0.8):
            raise TypeError(f"{policy} has no option {name!r} (did you mean {close[0]!r}?)")
    for name in kwargs if method else ():
        if name in (*options_of(cbp.METHODS[str(method)]), "seed"):
            raise TypeError(
                f"{name} is an option of the method {method!r}, not of {policy}: "
                f"policy_kwargs=dict(method_kwargs=dict({name}={kwargs[name]!r}))"
            )


def by_network(
    given: Mapping[str, Any], networks: list[str], method: str, defaults: Mapping[str, Any]
) -> dict[str, Options | None]:
    """The method's options for each network: the same object for all, unless each was given its own.

    Args:
        given: Options, or options or None by the names of networks.
        networks: The networks of the policy.
        method: The method's name.
        defaults: Its options where they are not given.

    Raises:
        TypeError: An option that the method does not have, or networks among options.
        ValueError: Another network.
    """
    options = _options(method)
    named = {
        name
        for name, value in given.items()
        if name in networks or (name not in options and (value is None or isinstance(value, Mapping)))
    }
    if not named:
        _check_options(method, given)
        of_all: Options | None = {**defaults, **given}
        return dict.fromkeys(networks, of_all)
    if others := given.keys() - named:
        raise TypeError(
            f"method_kwargs must be options or options by network, not both; got {sorted(others)} beside {sorted(named)}"
        )
    found: dict[str, Options | None] = {}
    for name, options_of_network in given.items():
        if name not in networks:
            raise ValueError(f"method_kwargs: the networks are {', '.join(networks)}; got {name!r}{_meant(name, networks)}")
        if not isinstance(options_of_network, Mapping | None):
            raise TypeError(f"method_kwargs: {name} must be a dictionary of options or None; got {options_of_network!r}")
        if options_of_network is not None:
            _check_options(method, options_of_network)
    for name in networks:
        own = given.get(name, {})
        found[name] = None if own is None else {**defaults, **own}
    return found


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    known = _options(method)
    for name in options:
        if name not in known:
            raise TypeError(f"the method {method!r} has no option {name!r}{_meant(name, known)}; it has {', '.join(known)}")


def _options(method: str) -> list[str]:
    """The names of a method's options, the seed among them; the policy finds the layers."""
    has_seed = "seed" in inspect.signature(cbp.METHODS[method]).parameters
    return [*options_of(cbp.METHODS[method]), *["seed"] * has_seed]


def _meant(name: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
