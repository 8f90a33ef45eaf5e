"""To which value a parameter changes: stateless descriptions that are given where they are and their random generator."""

from envs.schedules.base import SCHEDULES, At, Scale, Schedule, State, drawn, make_schedule
from envs.schedules.composed import Chain, Sum
from envs.schedules.files import read_values
from envs.schedules.jumps import Constant, LogUniform, Uniform, Values
from envs.schedules.regular import Drift, Saw, Sine, Square
from envs.schedules.walks import OrnsteinUhlenbeck, RandomWalk

__all__ = [
    "SCHEDULES",
    "At",
    "Chain",
    "Constant",
    "Drift",
    "LogUniform",
    "OrnsteinUhlenbeck",
    "RandomWalk",
    "Saw",
    "Scale",
    "Schedule",
    "Sine",
    "Square",
    "State",
    "Sum",
    "Uniform",
    "Values",
    "drawn",
    "make_schedule",
    "read_values",
]
