"""Problems that change: a wrapper for any MuJoCo environment, and an Ant whose friction keeps changing.

Importing the package registers ``ant-nonstationary-v0`` with Gymnasium.
"""

import gymnasium

from envs.checks import ParameterError
from envs.nonstationary import NonStationary
from envs.parameters import PARAMETERS, Parameter
from envs.published import TerminateAfter, UnclippedActions
from envs.schedules import SCHEDULES, Schedule
from envs.state import load_state, save_state

__all__ = [
    "PARAMETERS",
    "SCHEDULES",
    "NonStationary",
    "Parameter",
    "ParameterError",
    "Schedule",
    "TerminateAfter",
    "UnclippedActions",
    "load_state",
    "save_state",
]

# Gymnasium warns when an id is registered twice, which a reload of this module would do.
if "ant-nonstationary-v0" not in gymnasium.registry:
    gymnasium.register("ant-nonstationary-v0", entry_point="envs.ant:make_ant", max_episode_steps=1000)
