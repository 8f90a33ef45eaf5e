from __future__ import annotations

import warnings

import pytest


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs ``agents.train`` in this process, in a folder of its own; returns the exit code."""
    from agents import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield lambda *arguments: train.main([str(argument) for argument in arguments])
