"""What ``method`` and ``method_kwargs`` of a policy may be."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import cbp
from agents.sb3.carrying import options_of

Options = dict[str, Any]


def check_method(name: object) -> None:
    """Refuses what is no method.

    Raises:
        ValueError: It is neither the name of a method nor None.
    """
    if name is not None and name not in cbp.METHODS:
        raise ValueError(f"method must be one of {', '.join(cbp.METHODS)}, or None; got {name!r}{_meant(name, cbp.METHODS)}")


def refuse_misplaced(policy: str, method: str | None, kwargs: Mapping[str, Any]) -> None:
    """Refuses options of the method among those of the policy.

    Raises:
        TypeError: There is one.
    """
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
    named = {name for name, value in given.items() if name in networks or value is None or isinstance(value, Mapping)}
    if not named:
        _check_options(method, given)
        of_all: Options | None = {**defaults, **given}
        return dict.fromkeys(networks, of_all)
    if options := given.keys() - named:
        raise TypeError(
            f"method_kwargs must be options or options by network, not both; got {sorted(options)} beside {sorted(named)}"
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
    known = list(inspect.signature(cbp.METHODS[method]).parameters)[2:]
    for name in options:
        if name not in known:
            raise TypeError(f"the method {method!r} has no option {name!r}{_meant(name, known)}; it has {', '.join(known)}")


def _meant(name: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
