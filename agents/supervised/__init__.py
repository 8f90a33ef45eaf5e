"""Learners of the supervised problems of :mod:`envs.streams`; the command is :mod:`agents.learn`."""
