"""What verify sees: wrong groups, in any precision and behind any mask or norm; and that it lets right ones pass."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import cbp

DEVIATES = "layer 'mine': the outputs deviate by"


class TwoHeads(nn.Module):
    """Two layers that receive the units; what they give together may be made something else."""

    def __init__(self, norm=None, then=lambda y: y):
        super().__init__()
        self.trunk, self.norm = nn.Linear(4, 6), norm or nn.Identity()
        self.a, self.b, self.then = nn.Linear(6, 3), nn.Linear(6, 3), then

    def forward(self, x):
        h = torch.relu(self.norm(self.trunk(x)))
        return self.then(self.a(h) + self.b(h))

    def right(self):
        return [cbp.HiddenLayer(self.trunk, [self.a, self.b], "mine")]

    def wrong(self):
        """One of the two is forgotten."""
        return [cbp.HiddenLayer(self.trunk, [self.a], "mine")]


def batch(dtype=torch.float32):
    return torch.randn(16, 4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_forgotten_layer_is_noticed_in_every_precision(dtype):
    model, x = TwoHeads().to(dtype), batch(dtype)
    assert cbp.verify(model, (x,), model.right()) < 1e-2
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, (x,), model.wrong())


def test_a_forgotten_layer_is_noticed_under_autocast():
    model = TwoHeads()
    x = batch()

    def under_autocast(model):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    assert cbp.verify(model, under_autocast, model.right()) < 1e-2
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, under_autocast, model.wrong())


HIDES = {
    "another output in half precision": lambda y: (y, torch.zeros(1, dtype=torch.bfloat16)),
    "another output that is large": lambda y: (y, torch.full((1,), 1e9)),
    "a mask": lambda y: y.masked_fill(torch.tensor([False, False, True]), -1e9),
    "a mask of infinity": lambda y: y.masked_fill(torch.tensor([False, False, True]), float("-inf")),
    "numbers that are none": lambda y: torch.where(torch.tensor([False, False, True]), torch.nan, y),
    "an offset": lambda y: y.double() + 1e9,
    "complex numbers": lambda y: torch.complex(torch.ones_like(y), y),
}


@pytest.mark.parametrize("then", HIDES.values(), ids=HIDES)
def test_nothing_beside_what_changes_hides_a_forgotten_layer(then):
    model, x = TwoHeads(then=then), batch()
    assert cbp.verify(model, (x,), model.right()) < 1e-5
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, (x,), model.wrong())


def test_a_number_that_becomes_infinite_is_a_deviation():
    model = TwoHeads(then=lambda y: torch.where(y > 0, y, -torch.inf))
    with pytest.raises(cbp.VerifyError, match=f"{DEVIATES} inf"):
        cbp.verify(model, (batch(),), model.wrong())


def test_a_pass_without_gradients_is_checked_by_its_outputs_with_a_warning():
    model, x = TwoHeads(), batch()

    def act(model):
        with torch.no_grad():
            return model(x)

    with pytest.warns(UserWarning, match="the pass has no gradients"):
        assert cbp.verify(model, act, model.right()) < 1e-5
    with pytest.warns(UserWarning, match="no gradients"), pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, act, model.wrong())


def test_an_example_that_calls_another_model_than_the_copy_is_refused():
    model, x = TwoHeads(), batch()
    with pytest.raises(cbp.LayerError, match="the example calls no module of the TwoHeads that it is given"):
        cbp.verify(model, lambda _: model(x), model.wrong())


def test_outputs_that_cannot_be_compared_are_refused():
    model = TwoHeads(then=lambda y: y.argmax(-1))
    with pytest.raises(cbp.LayerError, match="returns no floating-point numbers"):
        cbp.verify(model, (batch(),), model.right())


def test_layers_that_are_none_of_the_models_are_refused():
    model = TwoHeads()
    with pytest.raises(TypeError, match="layers must be a list of"):
        cbp.verify(model, (batch(),), model.right()[0])
    with pytest.raises(cbp.LayerError, match="layer 'mine' has a Linear that is not in this TwoHeads"):
        cbp.verify(TwoHeads(), (batch(),), model.right())
    with pytest.raises(TypeError, match="model must be"):
        cbp.verify(model.parameters(), (batch(),))


def test_what_two_equal_passes_differ_by_is_no_deviation():
    """As on a device that adds up in any order; here each pass is a thousandth above the one before."""
    passes = itertools.count()
    model, x = TwoHeads(then=lambda y: y + 1e-3 * next(passes)), batch()
    assert cbp.verify(model, (x,), model.right()) == 0
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, (x,), model.wrong())
    wild = TwoHeads(then=lambda y: y + next(passes))
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(wild, (x,), wild.right())


def test_a_gradient_at_fresh_weights_is_noticed_in_half_precision_and_beside_large_ones():
    class Straight(nn.Module):
        """The units reach the output beside the layer behind them, by its gradient alone."""

        def __init__(self):
            super().__init__()
            self.trunk, self.head, self.large = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(4, 1)

        def forward(self, x):
            h = self.trunk(x)
            return self.head(torch.relu(h)) + (h - h.detach()).sum(-1, keepdim=True), 1e9 * self.large(x)

    for dtype in torch.bfloat16, torch.float32:
        model = Straight().to(dtype)
        with pytest.raises(cbp.VerifyError, match="layer 'mine': outputs depend on fresh weights, the gradient by 'weight' is"):
            cbp.verify(model, (batch(dtype),), [cbp.HiddenLayer(model.trunk, [model.head], "mine")])


# Norms over units


class ByHand(nn.Module):
    """An RMS norm of plain operations in a module of its own, the units by keyword and another tensor before them."""

    def forward(self, scale, *, h):
        return scale * h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


class Leaky(nn.Module):
    """Layers behind which units may reach the output in a way that is not seen."""

    def __init__(self, norm, leaks=False):
        super().__init__()
        self.trunk, self.norm, self.head, self.leaks = nn.Linear(4, 6), norm, nn.Linear(6, 3), leaks

    def forward(self, x):
        h = self.trunk(x)
        h = self.norm(torch.tensor(0.7), h=h) if isinstance(self.norm, ByHand) else self.norm(h)
        h = torch.relu(h)
        y = self.head(h)
        return y + torch.tensor(h.tolist()).sum(-1, keepdim=True) if self.leaks else y


NORMS = {"layer": lambda: nn.LayerNorm(6), "group": lambda: nn.GroupNorm(2, 6), "rms": lambda: nn.RMSNorm(6), "by hand": ByHand}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_units_that_a_norm_couples_are_checked_behind_it_and_by_how_much_it_does_is_returned(make):
    x = batch()
    assert 1e-3 < cbp.verify(Leaky(make()), (x,)) < 2
    with pytest.raises(cbp.VerifyError, match="layer 'trunk': the outputs deviate by"):
        cbp.verify(Leaky(make(), leaks=True), (x,))


def test_a_forgotten_layer_behind_a_norm_is_noticed():
    model, x = TwoHeads(nn.LayerNorm(6)), batch()
    assert cbp.verify(model, (x,)) > 1e-3
    with pytest.raises(cbp.VerifyError, match=DEVIATES):
        cbp.verify(model, (x,), [cbp.HiddenLayer(model.trunk, [model.a], "mine", norms=[model.norm])])


def test_two_norms_one_behind_the_other_and_one_that_is_called_twice_are_no_obstacle():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 3)
            self.batch_norm = nn.BatchNorm1d(6)

        def forward(self, x):
            return self.head(self.norm(torch.relu(self.batch_norm(self.norm(self.first(x))))))

    assert cbp.verify(Deep(), (batch(),)) > 1e-3


def test_a_norm_within_a_module_that_computes_more_is_said_to_hide_what_is_behind_it():
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.first(x)
            return self.head(h / h.square().mean(-1, keepdim=True).sqrt())

    with pytest.warns(UserWarning, match="layer 'first': outputs were not compared, for a norm over its units"):
        assert cbp.verify(Within(), (batch(),)) > 1e-3
