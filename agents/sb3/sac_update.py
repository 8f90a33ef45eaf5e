"""The part of each thread in one update of SAC: critics one by one, the actor by half a minibatch."""

from __future__ import annotations

from collections.abc import Sequence

from agents.sb3.meeting import Party
from agents.sb3.sac_arrays import Networks
from agents.sb3.sac_kernels import (
    actor_gradients,
    critic_gradients,
    draw,
    follow,
    judge_drawn,
    look_ahead,
    pass_to_actions,
)

Losses = list[tuple[int, float]]
"""Of each critic, or half of the minibatch, its number and its loss."""


def find_critics_gradients(party: Party, networks: Networks, ent_coef: float) -> Losses:
    """Draws the actions and computes the critics' gradients."""
    batch = networks.held_batch
    own = party.share(list(enumerate(networks.critics)))
    for drawn, layers in party.share(networks.drawing):
        draw(drawn, layers)
    party.meet()
    for k, critic in own:
        look_ahead(k, batch, critic.held, critic.target)
    party.meet()
    return [(k, critic_gradients(batch, ent_coef, critic.held)) for k, critic in own]


def find_actors_gradients(party: Party, networks: Networks, ent_coef: float, tau: float | None) -> Losses:
    """Lets the trained critics judge the actions and computes the actor's gradients; targets follow by ``tau``, if they do."""
    batch, actor = networks.held_batch, networks.actor
    own = party.share(list(enumerate(networks.critics)))
    for k, critic in own:
        judge_drawn(k, batch, critic.held)
        if tau is not None:
            follow(critic.followed, tau)
    party.meet()
    for k, critic in own:
        pass_to_actions(k, batch, critic.held)
    party.meet()
    of_halves = party.share(list(enumerate(zip(actor.rows, actor.halves, strict=True))))
    return [(k, actor_gradients(rows.start, rows.stop, batch, ent_coef, half)) for k, (rows, half) in of_halves]


def total(losses: Sequence[Losses]) -> float:
    """The sum in the order of the numbers, whoever computed them."""
    return sum(loss for _, loss in sorted(each for of_party in losses for each in of_party))
