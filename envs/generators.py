"""What draws random numbers, as plain values and back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.checks import ParameterError

KINDS = (
    np.random.Generator,
    np.random.BitGenerator,
    np.random.SeedSequence,
    np.random.RandomState,
    random.Random,
    gymnasium.Space,
)


def encode(value: Any, path: str) -> dict[str, Any]:
    """A source of random numbers as plain values; nothing of a space that was neither seeded nor asked for a sample.

    Args:
        value: One of :data:`KINDS`.
        path: What to call it.

    Raises:
        envs.ParameterError: It draws from the operating system.
    """
    if isinstance(value, random.SystemRandom):
        raise ParameterError(f"state cannot be saved of {path}, which draws from the operating system")
    if isinstance(value, np.random.Generator):
        return encode_generator(value)
    if isinstance(value, np.random.BitGenerator):
        return {"bit_generator": value.state} | _encode_seeds(value)
    if isinstance(value, np.random.SeedSequence):
        return {"seed_sequence": _encode_seed_sequence(value)}
    if isinstance(value, np.random.RandomState):
        return {"random_state": value.get_state(legacy=False)}
    if isinstance(value, random.Random):
        _, numbers, spare = value.getstate()
        return {"random": list(numbers), "spare": spare}
    parts = [None if each._np_random is None else encode(each._np_random, path) for each in _parts_of(value)]
    return {"space": parts, "kind": str(value)} if any(parts) else {}


def encode_generator(value: np.random.Generator) -> dict[str, Any]:
    """A generator, as JSON can hold it."""
    return {"generator": value.bit_generator.state} | _encode_seeds(value.bit_generator)


def _encode_seeds(value: np.random.BitGenerator) -> dict[str, Any]:
    """What a generator makes its children from (``spawn``), if that is known."""
    seeds = value.seed_seq
    return {"seeds": _encode_seed_sequence(seeds)} if type(seeds) is np.random.SeedSequence else {}


def _encode_seed_sequence(value: np.random.SeedSequence) -> dict[str, Any]:
    return {
        "entropy": _plain_entropy(value.entropy),
        "spawn_key": _plain_entropy(value.spawn_key),
        "pool_size": value.pool_size,
        "n_children_spawned": value.n_children_spawned,
    }


def _plain_entropy(value: Any) -> Any:
    """A seed: a whole number, a text of one, or several."""
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        return [_plain_entropy(each) for each in value]
    return value if isinstance(value, str) else int(value)


def decode_generator(saved: dict[str, Any], now: Any) -> np.random.Generator:
    """What :func:`encode_generator` made plain: ``now``, if it is of the same kind."""
    before = now.bit_generator if isinstance(now, np.random.Generator) else None
    bits = _bit_generator({**saved, "bit_generator": saved["generator"]}, before)
    return now if bits is before else np.random.Generator(bits)


def _bit_generator(saved: dict[str, Any], now: Any) -> np.random.BitGenerator:
    kind, seeds = saved["bit_generator"]["bit_generator"], saved.get("seeds")  # releases before wrote no seeds
    present = getattr(now, "seed_seq", None)
    fits = type(now).__name__ == kind and (seeds is None or type(present) is np.random.SeedSequence)
    following = None if seeds is None else _seed_sequence({"seed_sequence": seeds}, present if fits else None)
    bits: np.random.BitGenerator = now if fits else getattr(np.random, kind)(following)
    bits.state = saved["bit_generator"]
    return bits


def _seed_sequence(saved: dict[str, Any], now: Any) -> np.random.SeedSequence:
    """Given to the one that is there, which others may hold too."""
    then = np.random.SeedSequence(**saved["seed_sequence"])
    if type(now) is not np.random.SeedSequence:
        return then
    now.__setstate__(then.__reduce__()[2])  # type: ignore[attr-defined]  # as a pickle is
    return now


def _random_state(saved: dict[str, Any], now: Any) -> np.random.RandomState:
    state = now if isinstance(now, np.random.RandomState) else np.random.RandomState()
    state.set_state(saved["random_state"])
    return state


def _random(saved: dict[str, Any], now: Any) -> random.Random:
    source = now if isinstance(now, random.Random) else random.Random()  # noqa: S311
    source.setstate((3, tuple(saved["random"]), saved["spare"]))
    return source


def _space(saved: dict[str, Any], now: Any) -> Any:
    for part, state in zip(_parts_of(now), saved["space"], strict=False):
        if state is not None:
            part._np_random = READERS[next(iter(state))](state, part._np_random)
    return now


def _parts_of(space: gymnasium.Space[Any]) -> Iterator[gymnasium.Space[Any]]:
    """A space, and the spaces that it is made of, each of which draws by itself."""
    yield space
    for part in vars(space).values():
        within = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else (part,)
        for each in within:
            if isinstance(each, gymnasium.Space):
                yield from _parts_of(each)


READERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "generator": decode_generator,
    "bit_generator": _bit_generator,
    "seed_sequence": _seed_sequence,
    "random_state": _random_state,
    "random": _random,
    "space": _space,
}
"""By the first key of what :func:`encode` made: each takes that, and what is there now, which is given it if it can be."""
