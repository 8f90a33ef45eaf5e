"""Streams: supervised problems that keep changing, example by example or task by task.

A stream is given a seed and yields the same examples whenever it is asked, however many at a time. ``state_dict`` says where it
is, ``load_state_dict`` goes on there.
"""

from envs.streams.permuted import PermutedImages
from envs.streams.regression import SlowlyChangingRegression
from envs.streams.tasks import BinaryTasks, ClassIncremental, Task, split

__all__ = ["BinaryTasks", "ClassIncremental", "PermutedImages", "SlowlyChangingRegression", "Task", "split"]
