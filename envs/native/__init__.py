"""Environments whose steps compiled code takes: kinds of environment told by functions of arrays, and one environment of such.

Needs numba, which the rest of ``envs`` does not.
"""

from envs.native import families  # makes Gymnasium's walkers known
from envs.native.simulation import Family, Simulation, compiled, family, python_callbacks
from envs.native.stepping import NativeEnv, NativeStepError, Transition, unsupported

__all__ = [
    "Family",
    "NativeEnv",
    "NativeStepError",
    "Simulation",
    "Transition",
    "compiled",
    "families",
    "family",
    "python_callbacks",
    "unsupported",
]
