from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imsave

_savefig = Figure.savefig


def _save_unrendered(figure, path, **options):
    if Path(path).suffix == ".png":
        imsave(path, np.zeros((1, 1, 4)))
    else:
        _savefig(figure, path, **options)


@pytest.fixture(autouse=True, scope="session")
def unrendered():
    """Figures are drawn but not rendered: a third of a second for each run. Tests that look at one use ``rendered``."""
    Figure.savefig = _save_unrendered
    yield
    Figure.savefig = _savefig


@pytest.fixture
def rendered():
    """Figures are rendered."""
    Figure.savefig = _savefig
    yield
    Figure.savefig = _save_unrendered


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs ``agents.train`` in this process, in a folder of its own; returns the exit code."""
    from agents import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield lambda *arguments: train.main([str(argument) for argument in arguments])
