"""Configurations and checkpoints with random changes are loaded right, or refused with one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.callbacks import PhaseCallback, PlasticityCallback
from agents.runs.build import make_model, make_vec_env
from agents.runs.checkpoints import Checkpoints
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder

SMALL = ["--set", "rollout_steps=256", "--set", "batch_size=64", "--set", "n_epochs=2", "--set", "net_arch=[12,10]"]
PLAIN = st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=8) | st.just([]) | st.just({})
RELAXED = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two environments and one checkpoint."""
    from agents import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--env", "ant-nonstationary", "--timesteps", 256, "--period", 600, "--n-envs", 2, *SMALL, "--run-dir", folder]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = warnings.showwarning
        assert train.main([str(argument) for argument in arguments]) == 0
        warnings.showwarning = before
    return folder


def changed(value, draw):
    """The value with one of its parts replaced, removed or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)) > 0:
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return value | {draw(st.text(max_size=5)): draw(PLAIN)}
        return value | {key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        return [changed(item, draw) if i == index else item for i, item in enumerate(value)]
    return draw(PLAIN)


def check_configuration(finished, data):
    text = (finished / "config.json").read_text()
    if data.draw(st.booleans()):
        text = json.dumps(changed(json.loads(text), data.draw))
    else:
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.text(max_size=4)) + text[start + data.draw(st.integers(0, 9)) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = Config.from_json(text)
            assert Config.from_json(config.to_json()) == config
            if (
                config.n_envs <= 4
                and config.hyperparameters.rollout_steps <= 4096
                and max(config.hyperparameters.net_arch) < 999
            ):
                make_model(config, make_vec_env(config))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


def check_checkpoint(finished, tmp_path, data):
    folder, config = RunFolder.open(finished, Config)
    (source,) = list(folder.checkpoints.glob("*256-*.pt"))
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))
    copy = RunFolder(tmp_path)
    copy.checkpoints.mkdir(exist_ok=True)
    for old in copy.checkpoints.iterdir():
        old.unlink()
    # The checksum is right half of the time, as that of a stranger's file would be.
    checksum = hashlib.sha256(content).hexdigest()[:16] if data.draw(st.booleans()) else source.stem[13:]
    (copy.checkpoints / f"000000000256-{checksum}.pt").write_bytes(content)
    for log in (folder.progress, folder.episodes):
        shutil.copy(log, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            recorders = {"phases": PhaseCallback("friction"), "plasticity": PlasticityCallback()}
            model = Checkpoints(copy, recorders).load(config)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert model.num_timesteps >= 0


@settings(max_examples=60, derandomize=True, **RELAXED)
@given(data=st.data())
def test_a_changed_configuration_is_loaded_or_refused_with_one_line(finished, data):
    check_configuration(finished, data)


@settings(max_examples=40, derandomize=True, **RELAXED)
@given(data=st.data())
def test_a_changed_checkpoint_is_loaded_or_refused_with_one_line(finished, tmp_path, data):
    check_checkpoint(finished, tmp_path, data)


@pytest.mark.soak
@settings(max_examples=1000, print_blob=True, **RELAXED)
@given(data=st.data())
def test_a_thousand_changed_configurations(finished, data):
    check_configuration(finished, data)


@pytest.mark.soak
@settings(max_examples=1000, print_blob=True, **RELAXED)
@given(data=st.data())
def test_a_thousand_changed_checkpoints(finished, tmp_path, data):
    check_checkpoint(finished, tmp_path, data)
