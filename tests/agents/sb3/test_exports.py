"""Policies leave Stable-Baselines3 the ways its documentation shows, as stock ones do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from plastic_cases import BUSY, STEPS, make
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")


class Deterministic(nn.Module):
    """A policy, or the actor of one, as a function of observations."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observations):
        return self.policy(observations, deterministic=True)


def exported(name):
    """What is exported of a trained model, and what stands for its observations."""
    policy = make(name, method_kwargs=BUSY).learn(STEPS).policy
    return policy, Deterministic(policy.actor if hasattr(policy, "actor") and name == "SAC" else policy), torch.rand(1, 3)


def of_torch(outputs):
    return [output.detach().numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_gives_what_the_policy_gives(name, training):
    policy, module, observations = exported(name)
    policy.set_training_mode(training)
    traced = torch.jit.trace(module, observations)
    others = torch.rand_like(observations)  # what became a constant would be right for the first
    for ours, traces in zip(of_torch(module(others)), of_torch(traced(others)), strict=True):
        assert np.array_equal(ours, traces)


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_the_documented_export_to_onnx_gives_what_the_policy_gives(name, tmp_path):
    pytest.importorskip("onnx", reason="torch's exporter to ONNX needs the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    _, module, observations = exported(name)
    path = str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        # The other exporter (dynamo=True) refuses stock policies, too: their distributions look at values.
        torch.onnx.export(module, (observations,), path, opset_version=17, input_names=["input"], dynamo=False)
    others = torch.rand_like(observations)
    outputs = runtime.InferenceSession(path).run(None, {"input": others.numpy()})
    for ours, onnxs in zip(of_torch(module(others)), outputs, strict=True):
        assert ours == pytest.approx(onnxs, rel=1e-4, abs=1e-5)
