"""The part of each thread in one update of SAC: critics one by one, the actor by half a minibatch."""

from __future__ import annotations

from collections.abc import Sequence

from agents.sb3.meeting import Party
from agents.sb3.sac_arrays import Critic, Networks
from agents.sb3.sac_kernels import (
    actor_gradients,
    critic_gradients,
    draw,
    follow,
    judge_drawn,
    look_ahead,
    pass_to_actions,
)


def learn_of_critics(party: Party, networks: Networks, critics: Sequence[Critic], ent_coef: float) -> float:
    """Draws the actions and computes the critics' gradients; returns the losses of this party's critics."""
    batch = networks.batch
    own = party.share(list(enumerate(critics)))
    for drawn, layers in party.share([(batch.now, networks.actor.layers), (batch.later, networks.later)]):
        draw(drawn, layers)
    party.meet()
    for k, critic in own:
        look_ahead(k, batch, critic.layers, critic.target)
    party.meet()
    return sum(critic_gradients(batch, ent_coef, critic.layers) for _, critic in own)


def learn_from_critics(party: Party, networks: Networks, critics: Sequence[Critic], ent_coef: float, tau: float) -> float:
    """Lets the critics judge the actions, targets follow by ``tau``, and computes the actor's gradients; returns its loss."""
    batch, actor = networks.batch, networks.actor
    own = party.share(list(enumerate(critics)))
    for k, critic in own:
        judge_drawn(k, batch, critic.layers)
        if tau > 0:
            follow(critic.adam.parameters, critic.target_parameters, tau)
    party.meet()
    for k, critic in own:
        pass_to_actions(k, batch, critic.layers)
    party.meet()
    of_halves = party.share(list(zip(actor.rows, actor.halves, strict=True)))
    return sum(actor_gradients(rows.start, rows.stop, batch, ent_coef, half) for rows, half in of_halves)
