"""Each folder imports only what stands below it; what the first release had elsewhere is still found there."""

from __future__ import annotations

import ast
import importlib
import math
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import stable_baselines3

import agents
from agents._moved import MOVED

ROOT = Path(__file__).parents[2]
# A folder, and those that it may import. "agents" is what users type or import, at the door.
BELOW = {
    "cbp": [],
    "envs": [],
    "agents/sb3": ["cbp", "envs"],
    "agents/runs": ["agents/sb3", "cbp", "envs"],
    "agents/supervised": ["agents/runs", "agents/sb3", "cbp", "envs"],
    "agents/playing": ["agents/supervised", "agents/runs", "agents/sb3", "cbp", "envs"],
    "agents/reporting": ["agents/supervised", "agents/runs", "agents/sb3", "cbp", "envs"],
    "agents/sweeping": ["agents/supervised", "agents/runs", "agents/sb3", "cbp", "envs"],
}
BELOW["agents"] = [*BELOW]


def room_of(module):
    first, *rest = module.split(".")
    room = f"{first}/{rest[0]}" if rest else first
    return room if room in BELOW else first


def imports(path):
    """The rooms that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # "from agents import x" may mean a module x
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room_of(name) for name in found if name.split(".")[0] in ("agents", "cbp", "envs")}


def reaching_up(root=ROOT):
    wrong = []
    for package in ("agents", "cbp", "envs"):
        for path in sorted((root / package).rglob("*.py")):
            room = room_of(".".join(path.relative_to(root).parent.parts))
            wrong += [f"{path.relative_to(root)} → {to}" for to in sorted(imports(path) - {room, *BELOW[room]})]
    return wrong


def test_every_folder_imports_only_what_stands_below_it():
    assert reaching_up() == []


@pytest.mark.parametrize(
    ("file", "line", "to"),
    [
        ("agents/sb3/ppo.py", "from agents.runs.config import Config", "agents/runs"),
        ("agents/runs/plan.py", "import agents.supervised.config", "agents/supervised"),
        ("agents/runs/plan.py", "from agents import train", "agents"),
        ("agents/playing/video.py", "def f():\n    from agents.reporting import results", "agents/reporting"),
        ("cbp/redo.py", "import envs", "envs"),
    ],
)
def test_a_folder_that_reaches_up_is_found(file, line, to, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert reaching_up(tmp_path) == [f"{file} → {to}"]


def test_every_folder_has_its_rule_in_its_docstring_and_in_contributing():
    table = dict(re.findall(r"^\| `([a-z0-9/]+)/` \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    folders = [str(path.parent.relative_to(ROOT)) for path in (ROOT / "agents").rglob("__init__.py")]
    assert sorted(folders) == sorted(room for room in BELOW if room.startswith("agents"))
    for room in {*folders} - {"agents"}:
        assert importlib.import_module(room.replace("/", ".")).__doc__ == f"{table[room]}."


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_module_is_found_where_it_was(old):
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])
    assert importlib.import_module(old).__spec__.name == MOVED[old]


@pytest.mark.parametrize("algorithm", [stable_baselines3.PPO, agents.PPO])
def test_a_model_that_the_first_release_saved_loads_and_trains_on(algorithm):
    # PPO("CBPMlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[4], …)).learn(64).save(…), before the modules moved
    model = algorithm.load(
        Path(__file__).parents[1] / "data" / "first_release.zip", env=gymnasium.make("Pendulum-v1"), device="cpu"
    )
    assert [layer.replaced for layer in model.policy.method.layers] == [2, 2]
    assert type(model.rollout_buffer).__name__ == "NormalizedRolloutBuffer"
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert action.item() == pytest.approx(0.000758941, abs=1e-8)  # what the model that was saved gave
    assert math.isinf(model.max_grad_norm)
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 128
    assert model.policy.method.layers[0].replaced > 2
