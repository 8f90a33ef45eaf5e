"""Learners, plugins and commands."""
