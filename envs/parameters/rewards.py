"""Parameters of what is paid: the weights of Gymnasium's MuJoCo environments, and the direction that they pay for."""

from __future__ import annotations

import math
from functools import partial

from envs.attributes import TriedAttribute
from envs.effects import Parameter
from envs.goals import Direction

_of_weight = partial(TriedAttribute, unit="1", highest=math.inf, schedule="uniform", by_factor=True)

PARAMETERS: tuple[Parameter, ...] = (
    Direction(
        name="goal_direction",
        meaning="angle from the x axis to the direction in which movement is paid for",
        unit="°",
        lowest=-180.0,
        highest=180.0,
        low=-180.0,
        high=180.0,
        schedule="uniform",
        needs="a reward for velocity in the plane (Gymnasium's Ant, Humanoid and Swimmer)",
        where="deviation of rewards",
        turn=360.0,
    ),
    _of_weight(
        name="forward_reward",
        meaning="weight of the reward for moving forwards; below 0 it pays for moving backwards",
        lowest=-math.inf,
        low=-1.0,
        high=1.0,
        needs="a reward that follows a weight for moving forwards (Gymnasium's walkers)",
        attribute="_forward_reward_weight",
    ),
    _of_weight(
        name="control_cost",
        meaning="weight of the cost of control",
        lowest=0.0,
        low=0.0,
        high=2.0,  # ours
        needs="a reward that follows a weight of the cost of control (Gymnasium's walkers)",
        attribute="_ctrl_cost_weight",
    ),
    _of_weight(
        name="healthy_reward",
        meaning="reward of a step in which the machine has not fallen",
        lowest=-math.inf,
        low=0.0,
        high=2.0,  # ours
        needs="a reward for not having fallen (Gymnasium's Ant, Hopper, Humanoid and Walker2d)",
        attribute="_healthy_reward",
    ),
)
"""The parameters of rewards."""
