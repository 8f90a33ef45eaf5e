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


ROWS = torch.tensor([1, 0, 3, 2])
CHOSEN = torch.tensor([True, False, True, True])


WRITTEN = {
    "greatest at numbers": lambda h: torch.zeros(5, 8).scatter_reduce(0, ROWS[:, None].expand_as(h), h, "amax"),
    "means at numbers": lambda h: h.new_zeros(5, 8).scatter_reduce(
        -2, ROWS[:, None].expand_as(h), h, "mean", include_self=False
    ),
    "reduced at numbers": lambda h: torch.zeros(4, 8).index_reduce(0, ROWS, h, "mean"),
    "written at numbers": lambda h: torch.zeros(4, 8).scatter(0, ROWS[:, None].expand_as(h), h),
    "copied to numbers": lambda h: torch.zeros_like(h).index_copy(0, ROWS, h),
    "filled at numbers": lambda h: h.index_fill(0, ROWS[:2], 0.0),
    "set at numbers": lambda h: h.scatter(0, ROWS[:1, None].expand(1, 8), 0.0),
    "put where a mask is true": lambda h: torch.zeros(4, 8).index_put((CHOSEN,), h[CHOSEN]),
    "put in place": lambda h: _put(torch.zeros_like(h), ROWS, h),
    "put at a list": lambda h: _put(torch.zeros(6, 8), [1, 2, 3, 5], h),
    "put among maps": lambda h: _put(torch.zeros(4, 8, 3, 3), (..., [0, 2, 1], [1, 1, 0]), h[..., None]).sum((2, 3)),
    "put at two axes": lambda h: _put(torch.zeros(2, 3, 8), ([0, 1, 1, 0], [0, 2, 1, 1]), h).flatten(0, 1),
    "all and none": lambda h: torch.cat([h[:, :8], h[:, 8:]], -1),
}


def _put(into: Tensor, where: object, what: Tensor) -> Tensor:
    into[where] = what
    return into


@pytest.mark.filterwarnings("ignore:index_reduce")  # which is in beta
@pytest.mark.parametrize("name", WRITTEN)
def test_units_that_are_written_into_positions_by_number_are_followed(name):
    model, x = Two(WRITTEN[name]), torch.randn(4, 3)
    layers = cbp.find_layers(model, (x,))
    assert [(layer.name, layer.edges[0].weights.module) for layer in layers] == [
        ("first", model.second),
        ("second", model.third),
    ]
    assert left_out(model, x) == []
    assert cbp.verify(model, (x,)) == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda h, x: torch.zeros(4, 8).scatter_reduce(1, torch.randperm(8).expand_as(h), h, "amax"),
        lambda h, x: _put(torch.zeros(4, 8), (slice(None), [0, 2, 1, 3, 4, 5, 6, 7]), h),
        lambda h, x: _put(torch.zeros(3, 4, 8), ([0, 2, 1], slice(None), 3), h[0, :4]),
        lambda h, x: torch.cat([x, x, x], 1)[:, :8].index_copy(0, ROWS[:2], h[:2]),
        lambda h, x: _put(torch.cat([x, x, x], 1)[:, :8], CHOSEN, h[CHOSEN]),
        lambda h, x: torch.zeros(4, 8).scatter(0, (h > 0).long(), h),
    ],
    ids=["along units", "put along units", "put apart", "among inputs", "put among inputs", "by units"],
)
def test_units_that_are_written_otherwise_are_left_out(write):
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 8), nn.LazyLinear(5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.third(torch.relu(self.second(write(self.first(x), x))))

    model, x = Written(), torch.randn(4, 3)
    model(x)
    (reason,) = left_out(model, x)
    assert reason.startswith("the units of 'first' ")


def test_a_token_in_place_of_what_is_masked_leaves_nothing_out():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.first, self.second = nn.Parameter(torch.randn(8)), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x)).clone()
            h[CHOSEN] = self.token
            return self.second(h)

    model = Masked()
    assert [layer.name for layer in cbp.find_layers(model, (torch.randn(4, 3),))] == ["first"]
    assert left_out(model, torch.randn(4, 3)) == []


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


def test_a_convolution_that_meets_units_along_its_positions_has_units_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert [layer.name for layer in cbp.find_layers(model, (torch.randn(2, 3, 6, 6),))] == ["2"]
    assert cbp.verify(model, (torch.randn(2, 3, 6, 6),)) < 1e-5


def test_convolutions_in_groups_that_are_not_treated_have_a_reason():
    x = torch.randn(2, 3, 4, 4)
    transposed = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), transposed, nn.ReLU(), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1))
    assert left_out(model, x) == [
        "the units of '0' meet a transposed convolution in groups",
        "the units of '1' have the weights of a transposed convolution in groups",
    ]

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)
            self.slim = nn.Parameter(torch.randn(9, 2, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(torch.relu(F.conv2d(self.first(x), self.slim[:6], groups=2))))

    assert left_out(Part(), x) == [
        "the units of 'first' meet a convolution in groups with a part of a parameter",
        "the units of 'slim' have the weights of a convolution in groups with a part of a parameter",
    ]


@pytest.mark.parametrize("put", [torch.cat, torch.stack])
def test_weights_that_are_put_together_before_they_are_used_have_a_reason(put):
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            weights = put([self.query.weight, self.key.weight]).flatten(0, -2)
            return self.head(torch.relu(self.last(torch.relu(F.linear(x, weights)))))

    (line,) = left_out(Packed(), torch.randn(4, 3))
    assert line == "the units of 'key' have weights that are computed from 'key.weight, query.weight' before they are used"


class Standardised(nn.Conv2d):
    """A convolution whose weight goes through a norm, as those of networks without norms do."""

    def __init__(self, inputs: int, outputs: int, how: str) -> None:
        super().__init__(inputs, outputs, 3)
        self.how, self.gain = how, nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.how == "batch norm":
            rows = weight.reshape(1, len(weight), -1)
            weight = F.batch_norm(rows, None, None, weight=self.gain * 0.3, training=True).reshape_as(weight)
        elif self.how == "layer norm":
            weight = F.layer_norm(weight, weight.shape[1:])
        elif self.how == "of what is computed":
            weight = F.layer_norm(weight.exp(), weight.shape[1:])
        else:
            weight = F.group_norm(weight, 1)
        return F.conv2d(x, weight, self.bias)


@pytest.mark.parametrize("how", ["batch norm", "layer norm", "group norm", "of what is computed"])
def test_weights_that_go_through_a_norm_have_a_reason(how):
    behind = [nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 7), nn.ReLU(), nn.Linear(7, 2)]
    model = nn.Sequential(Standardised(3, 4, how), nn.ReLU(), Standardised(4, 5, how), *behind)
    lines = left_out(model, torch.randn(2, 3, 6, 6))
    for k in (0, 2):
        assert any(f"are computed from '{k}." in line and f"{k}.weight'" in line for line in lines)
    with pytest.raises(cbp.LayerError, match="are computed from"):
        cbp.ContinualBackprop(model, torch.optim.SGD(model.parameters()), example=(torch.randn(2, 3, 6, 6),), strict=True)


def test_a_norm_of_a_learned_token_leaves_nothing_out():
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.norm = nn.Parameter(torch.randn(1, 6)), nn.LayerNorm(6)
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.cat([x, self.norm(self.token).expand_as(x)])
            return self.head(torch.relu(self.first(both)))

    assert left_out(Token(), torch.randn(4, 6)) == []


class Experts(nn.Module):
    """Experts whose weights lie in one parameter, before a layer that is treated."""

    def __init__(self, multiply) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(3, 16, 8))
        self.mlp, self.multiply = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)), multiply

    def forward(self, x: Tensor, expert: Tensor) -> Tensor:
        return self.mlp(self.multiply(torch.relu(self.multiply(x, self.up, expert)), self.down, expert))


def chosen(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.bmm(x[:, None], weight[expert])[:, 0]


def distances(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return torch.cdist(x, weight[0].t())


def grouped(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    ends = torch.bincount(expert, minlength=3).cumsum(0).int()
    return torch._grouped_mm(x.bfloat16(), weight.bfloat16(), offs=ends).float()


@pytest.mark.parametrize("multiply", [chosen, distances, grouped])
def test_weights_that_meet_data_in_what_is_not_followed_have_a_reason(multiply):
    model = Experts(multiply)
    lines = left_out(model, torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2]))
    for name in ("up", "down"):
        assert any(f"'{name}'" in line and "which is not followed" in line for line in lines), lines


def test_rows_of_a_table_leave_nothing_out():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.embed = nn.Parameter(torch.randn(5, 6)), nn.Embedding(5, 6)
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, numbers: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(self.table[numbers] + self.embed(numbers))))

    assert left_out(Positions(), torch.tensor([1, 3, 4])) == []


class BareHead(nn.Module):
    """A layer and an activation, whose output meets bare weights in another arrangement."""

    def __init__(self, first: nn.Module, columns: int, arrange) -> None:
        super().__init__()
        self.first, self.act, self.weight, self.arrange = first, nn.ReLU(), nn.Parameter(torch.randn(2, columns)), arrange

    def forward(self, x: Tensor) -> Tensor:
        self.received = self.arrange(self.act(self.first(x)))
        return F.linear(self.received, self.weight)


def maps() -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(1, 4, 1), torch.randn(5, 1, 6, 2)


def rows() -> tuple[nn.Module, Tensor]:
    return nn.Linear(2, 4), torch.randn(5, 6, 2)


def grid() -> tuple[nn.Module, Tensor]:
    return nn.Linear(2, 4), torch.randn(5, 4, 4, 2)


@pytest.mark.parametrize(
    ("make", "columns", "arrange"),
    [
        (maps, 48, lambda h: h.flatten(1)),
        (maps, 48, lambda h: h.permute(0, 2, 3, 1).flatten(1)),
        (maps, 8, lambda h: h.transpose(1, 2).flatten(2)),
        (rows, 8, lambda h: h.view(5, 3, 8)),
        (rows, 4, lambda h: h.transpose(0, 1)),
        (rows, 8, lambda h: h.view(5, 6, 2, 2).transpose(1, 2).transpose(1, 2).reshape(5, 3, 8)),
    ],
    ids=["flat", "channels last", "rows of a map", "pairs of rows", "turned", "heads"],
)
def test_each_column_of_bare_weights_is_judged_by_what_it_receives(make, columns, arrange):
    torch.manual_seed(0)
    first, x = make()
    model = BareHead(first, columns, arrange)
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0, example=(x,))
    model(x)
    method.step()
    # η = 0: u = Σ over the unit's columns of mean|h|·Σ|w|
    of_columns = (model.received.abs().flatten(0, -2).mean(0) * model.weight.abs().sum(0)).detach()
    expected = of_columns[method.layers[0].hidden.edges[0].weights.index].sum(-1)
    torch.testing.assert_close(method.layers[0].utility, expected)


@pytest.mark.parametrize(
    ("make", "columns", "arrange"),
    [
        (maps, 48, lambda h: h.flip(-1).flatten(1)),
        (maps, 48, lambda h: h.roll(1, -1).flatten(1)),
        (maps, 48, lambda h: h.permute(0, 3, 2, 1).flatten(1)),
        (grid, 16, lambda h: h.view(5, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(5, 2, 2, 16)),
        (maps, 4, lambda h: h.tril().permute(0, 2, 3, 1)),
        (rows, 8, lambda h: h.transpose(0, 1).reshape(15, 8)),
        (rows, 8, lambda h: h[torch.tensor([0, 0, 2, 3, 4])].view(5, 3, 8)),
        (rows, 4, lambda h: h.as_strided((5, 6, 4), (4, 4, 1))),
    ],
    ids=["flip", "roll", "turned map", "patches", "tril", "turned rows", "chosen", "overlapping"],
)
def test_units_whose_values_reach_bare_weights_in_another_order_are_left_out(make, columns, arrange):
    first, x = make()
    model = BareHead(first, columns, arrange)
    with pytest.raises(cbp.LayerError, match="'first': what 'weight' receives from its units is seen by no module"):
        cbp.find_layers(model, (x,))


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
