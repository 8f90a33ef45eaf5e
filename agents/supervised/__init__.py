"""Supervised problems that keep changing: their configuration, learners, runs and figure."""
