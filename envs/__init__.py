"""Problems that change: a wrapper for any MuJoCo environment, and environments that keep changing.

A package of continual-backprop. Importing it registers ``ant-nonstationary-v0`` and its like with Gymnasium.
"""

from envs import registered
from envs.attributes import Attribute
from envs.checks import EffectError, ParameterError
from envs.effects import Parameter
from envs.nonstationary import NonStationary
from envs.parameters import PARAMETERS
from envs.published import HealthyRewardOnFall, TerminateAfter, UnclippedActions
from envs.schedules import SCHEDULES, Schedule
from envs.state import load_state, save_state
from envs.tasks import TaskSequence
from envs.verification import Verified, verify

__all__ = [
    "PARAMETERS",
    "SCHEDULES",
    "Attribute",
    "EffectError",
    "HealthyRewardOnFall",
    "NonStationary",
    "Parameter",
    "ParameterError",
    "Schedule",
    "TaskSequence",
    "TerminateAfter",
    "UnclippedActions",
    "Verified",
    "load_state",
    "save_state",
    "verify",
]

registered.register()
