"""Plastic policies for the algorithms of sb3-contrib. Imported where it is installed."""

from __future__ import annotations

from dataclasses import replace

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable import policies as maskable
from sb3_contrib.common.recurrent import policies as recurrent
from sb3_contrib.common.torch_layers import BatchRenorm
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn import policies as qrdqn
from sb3_contrib.tqc import policies as tqc

import cbp
from agents.sb3.plastic import Plastic
from agents.sb3.policies import (
    ACTOR_CRITIC_OPTIONS,
    KINDS,
    ON_POLICY,
    Q_OPTIONS,
    by_kind,
    name_policies,
    refuse,
)


class TQCPlasticMlpPolicy(Plastic, tqc.TQCPolicy):
    """``MlpPolicy`` of TQC, kept plastic."""

    algorithms = (TQC,)
    default_options = ACTOR_CRITIC_OPTIONS


class TQCPlasticCnnPolicy(Plastic, tqc.CnnPolicy):
    """``CnnPolicy`` of TQC, kept plastic."""

    algorithms = (TQC,)
    default_options = ACTOR_CRITIC_OPTIONS


class TQCPlasticMultiInputPolicy(Plastic, tqc.MultiInputPolicy):
    """``MultiInputPolicy`` of TQC, kept plastic."""

    algorithms = (TQC,)
    default_options = ACTOR_CRITIC_OPTIONS


class CrossQPlasticMlpPolicy(Plastic, CrossQPolicy):
    """``MlpPolicy`` of CrossQ, kept plastic.

    A replaced unit begins anew in its batch renormalisation, too: weights, running mean and variance. The averages of a unit
    that died say that it hardly varies, and what a fresh one gives would be divided by that for a hundred updates.
    """

    algorithms = (CrossQ,)
    default_options = ACTOR_CRITIC_OPTIONS

    def _find(self) -> tuple[list[cbp.Group], list[str]]:
        groups, reasons = super()._find()
        return [_with_averages(group) for group in groups], reasons


def _with_averages(group: cbp.Group) -> cbp.Group:
    """A group that has the running averages of its units' renormalisations among what begins anew with a unit."""
    scales = [slices for slices, _ in group.fixed if isinstance(slices.module, BatchRenorm) and slices.attribute == "scale"]
    means = [(replace(scale, attribute="ra_mean"), 0.0) for scale in scales]
    variances = [(replace(scale, attribute="ra_var"), 1.0) for scale in scales]
    return replace(group, fixed=(*group.fixed, *means, *variances))


class QRDQNPlasticMlpPolicy(Plastic, qrdqn.QRDQNPolicy):
    """``MlpPolicy`` of QR-DQN, kept plastic."""

    algorithms = (QRDQN,)
    default_options = Q_OPTIONS


class QRDQNPlasticCnnPolicy(Plastic, qrdqn.CnnPolicy):
    """``CnnPolicy`` of QR-DQN, kept plastic."""

    algorithms = (QRDQN,)
    default_options = Q_OPTIONS


class QRDQNPlasticMultiInputPolicy(Plastic, qrdqn.MultiInputPolicy):
    """``MultiInputPolicy`` of QR-DQN, kept plastic."""

    algorithms = (QRDQN,)
    default_options = Q_OPTIONS


class MaskablePlasticMlpPolicy(Plastic, maskable.MaskableActorCriticPolicy):
    """``MlpPolicy`` of MaskablePPO, kept plastic."""

    algorithms = (MaskablePPO,)


class MaskablePlasticCnnPolicy(Plastic, maskable.MaskableActorCriticCnnPolicy):
    """``CnnPolicy`` of MaskablePPO, kept plastic."""

    algorithms = (MaskablePPO,)


class MaskablePlasticMultiInputPolicy(Plastic, maskable.MaskableMultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of MaskablePPO, kept plastic."""

    algorithms = (MaskablePPO,)


class RecurrentPlasticMlpPolicy(Plastic, recurrent.RecurrentActorCriticPolicy):
    """``MlpLstmPolicy`` of RecurrentPPO, kept plastic, the units of its LSTMs too.

    Where an episode begins within a minibatch, an LSTM is called step by step, and its units are judged by the last step.
    """

    algorithms = (RecurrentPPO,)


class RecurrentPlasticCnnPolicy(Plastic, recurrent.RecurrentActorCriticCnnPolicy):
    """``CnnLstmPolicy`` of RecurrentPPO, kept plastic."""

    algorithms = (RecurrentPPO,)


class RecurrentPlasticMultiInputPolicy(Plastic, recurrent.RecurrentMultiInputActorCriticPolicy):
    """``MultiInputLstmPolicy`` of RecurrentPPO, kept plastic."""

    algorithms = (RecurrentPPO,)


def register() -> None:
    """Makes the policies known by name to sb3-contrib's algorithms."""
    name_policies(TRPO, ON_POLICY)
    for policy in set(ON_POLICY.values()):
        policy.algorithms = (*policy.algorithms, *({TRPO} - {*policy.algorithms}))
    name_policies(TQC, by_kind(TQCPlasticMlpPolicy, TQCPlasticCnnPolicy, TQCPlasticMultiInputPolicy))
    name_policies(CrossQ, by_kind(CrossQPlasticMlpPolicy))
    name_policies(QRDQN, by_kind(QRDQNPlasticMlpPolicy, QRDQNPlasticCnnPolicy, QRDQNPlasticMultiInputPolicy))
    name_policies(MaskablePPO, by_kind(MaskablePlasticMlpPolicy, MaskablePlasticCnnPolicy, MaskablePlasticMultiInputPolicy))
    of_recurrent = by_kind(RecurrentPlasticMlpPolicy, RecurrentPlasticCnnPolicy, RecurrentPlasticMultiInputPolicy)
    as_there = {name.replace("Policy", "LstmPolicy"): policy for name, policy in of_recurrent.items()}
    name_policies(RecurrentPPO, {**of_recurrent, **as_there})
    refuse(CrossQ, KINDS[1:], "sb3-contrib has CrossQ for vectors alone, as PlasticMlpPolicy")
    refuse(ARS, KINDS, "it searches without gradients, so that there are no updates after which a method could act")
