"""What is followed through a forward pass, and what is left out with a word."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import still
from torch import Tensor, nn
from torch.nn.utils import prune

import cbp


class Two(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between, units: int = 8) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, units), nn.Linear(units, 5), nn.Linear(5, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(self.between(self.first(x)))))


def left_out(model: nn.Module, *example: Tensor) -> list[str]:
    return cbp.ContinualBackprop(model, still(model), example=example).left_out


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda h: h / h.abs().max().item(), "the units of 'first' are read as a number, whose use is not followed"),
        (
            lambda h: h[:, torch.tensor([1, 0, 2, 3, 4, 5, 7, 6])],
            "the units of 'first' are selected by numbers in 'index', which may be others in the next pass",
        ),
        (
            lambda h: h.gather(1, torch.arange(8).flip(0).expand(len(h), 8)),
            "the units of 'first' are selected by numbers in 'gather', which may be others in the next pass",
        ),
        (
            lambda h: h[:, :, None].mul(h[:, None, :]).sum(-1),
            "the units of 'first' scale several units of others",
        ),
    ],
    ids=["item", "index", "gather", "outer product"],
)
def test_what_cannot_be_followed_is_left_out_with_the_reason(between, reason):
    assert left_out(Two(between), torch.randn(4, 3)) == [reason]


def test_a_number_that_only_decides_a_branch_is_no_obstacle():
    assert left_out(Two(lambda h: torch.relu(h) if h.isfinite().all() else h), torch.randn(4, 3)) == []


def test_positions_that_are_chosen_by_numbers_are_no_obstacle():
    assert left_out(Two(lambda h: h[torch.tensor([1, 0, 3, 2])] + h), torch.randn(4, 3)) == []


def test_every_layer_that_is_not_treated_has_a_reason():
    """Computed weights without a bias, and kernels that meet units along their positions, had none."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 8, bias=False), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.third(torch.relu(self.second(torch.relu(F.linear(x, self.first.weight.exp())))))

    (line,) = left_out(Computed(), torch.randn(4, 3))
    assert line == "the units of 'first' have weights that are computed from 'first.weight' before they are used"
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5), nn.Linear(5, 2)
    )
    assert left_out(model, torch.randn(2, 3, 6, 6)) == ["the units of '0' meet a convolution along its positions"]


def test_writing_in_place_reaches_all_views_of_the_memory():
    """A view that is older than what was written to its memory has the new values, and their activation."""

    def turned(h: Tensor) -> Tensor:
        h = torch.relu(h)
        view = h.view(len(h), 2, 4)
        h.neg_()
        return view.flatten(1)

    model = Two(turned)
    (first, _) = cbp.find_layers(model, (torch.randn(4, 3),))
    assert (first.name, first.activation, first.edges[0].non_negative) == ("first", None, False)


def test_biases_of_an_ensemble_begin_anew_member_by_member():
    class Members(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(2, 3, 4)), nn.Parameter(torch.ones(2, 1, 4))
            self.v, self.act = nn.Parameter(torch.randn(2, 4, 1)), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(self.act(torch.baddbmm(self.b, x.expand(2, -1, -1), self.w)), self.v)

    model, x = Members(), torch.randn(5, 3)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, example=(x,))
    model(x)
    for member, units in enumerate(method.step()):
        assert len(units) == 2
        assert model.b[member, 0].tolist() == [0.0 if i in units.tolist() else 1.0 for i in range(4)]


def test_a_model_with_weights_that_hold_a_graph_is_verified():
    """Pruning leaves the masked weight, which is computed, as an attribute."""
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.random_unstructured(model[0], "weight", 0.3)
    assert cbp.verify(model, (torch.randn(4, 3),)) < 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_part_is_followed_and_a_scripted_model_refused():
    inner = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(8, 5), nn.ReLU()))
    model = nn.Sequential(nn.Linear(3, 8), inner, nn.Linear(5, 2))
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 3),))
    assert [layer.name for layer in method.layers] == ["1.1"]
    assert method.left_out == ["'0': what '1.1.weight' receives from its units is seen by no module"]
    with pytest.raises(cbp.LayerError, match=r"torch\.jit has scripted: give the module it was made from"):
        cbp.ContinualBackprop(inner, still(inner), example=(torch.randn(4, 8),))
