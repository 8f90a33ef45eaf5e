"""Whether two runs are the same."""

from __future__ import annotations

import csv
import json
import time

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def rows(path):
    """A CSV file's rows, without what a clock says."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def newest(folder):
    return max((folder / "checkpoints").glob("*.pt"))


def differences(one, other, place=""):
    """Where two states differ, but for sizes of files and what a clock says."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        clocks = ("t", "t_start", "episode_times", "sizes")
        return [text for key in one if key not in clocks for text in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [text for i, (a, b) in pairs for text in differences(a, b, f"{place}[{i}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
    else:
        same = one == other
    return [] if same else [f"{place}: {one} {other}"]


def assert_same_run(folder, other):
    """To the bit: the last checkpoint with all states and weights, logs, curves, summary."""
    states = [torch.load(newest(path), map_location="cpu", weights_only=True) for path in (folder, other)]
    files = [state.pop("transitions", None) for state in states]
    if any(files):  # which may be others; what is in them must not
        assert transitions(folder) == transitions(other)
    assert differences(*states) == []
    assert newest(folder).name[:12] == newest(other).name[:12]
    assert rows(folder / "progress.csv") == rows(other / "progress.csv")
    assert (folder / "episodes.csv").read_text() == (other / "episodes.csv").read_text()
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, other)]
    assert all(summary.pop("time") for summary in summaries)
    assert summaries[0] == summaries[1]
    assert curves(folder) == curves(other)


def curves(folder):
    """What TensorBoard shows, by name."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    shown = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    for steps in ([step for step, _ in points] for points in shown.values()):
        assert steps == sorted(steps)
    return shown | {name: [event.step for event in events.Histograms(name)] for name in events.Tags()["histograms"]}


def wait_for_next_second(folder):
    """TensorBoard puts files in the order of the seconds in their names."""
    newest_second = max((int(path.name.split(".")[3]) for path in folder.glob("events.*")), default=0)
    while time.time() < newest_second + 1:
        time.sleep(0.01)


def transitions(folder):
    """Every transition of the replay buffer in bytes, row by row: as the newest checkpoint's files have them."""
    config = json.loads((folder / "config.json").read_text())
    found = {}
    for name in torch.load(newest(folder), map_location="cpu", weights_only=True)["transitions"]:
        with np.load(folder / "checkpoints" / "transitions" / name) as file:
            following = list(file["next_observations"])
            for row, others in enumerate(file["other"]):
                for env, other in enumerate(others):
                    after = following.pop(0) if other else file["observations"][row + 1, env]
                    parts = [file[field][row, env] for field in ("observations", "actions", "rewards", "dones", "timeouts")]
                    found[int(name[:12]) + row, env] = [part.tobytes() for part in (*parts, after)]
            assert following == []
    rows = 1 + max(row for row, _ in found)
    kept = config["hyperparameters"]["buffer_size"] // config["n_envs"]
    wanted = [(row, env) for row in range(max(0, rows - kept), rows) for env in range(config["n_envs"])]
    return {key: found[key] for key in wanted}
