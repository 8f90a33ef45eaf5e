"""Replicas under DistributedDataParallel: two processes, different data, the same units and the same fresh weights."""

from __future__ import annotations

import copy
import multiprocessing
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed
from small_networks import chain
from torch import nn

import cbp
from cbp.replicas import Replicas

METHODS = {
    "cbp": (cbp.ContinualBackprop, {"replacement_rate": 0.05, "maturity_threshold": 5, "utility": "adaptable_contribution"}),
    "redo": (cbp.ReDo, {"threshold": 0.4, "period": 10}),
    "snr": (cbp.SelfNormalizedResets, {"rejection": 0.2, "max_silence": 40, "min_silence": 0}),
}
REPLAYING = {
    "c-chain": (cbp.CChain, {"measure_every": 1, "warm_up": 5, "window": 10}),
    "pfo": (cbp.ProximalFeatures, {"strength": 1.0}),
}


ON_SHARDED = {
    "fire": {},
    "hare-tortoise": {"momentum": 0.5, "period": 2},
    "l2-init": {"strength": 0.1},
    "nap": {},
    "spectral": {"strength": 0.1},
}
ON_PARTS = ("hare-tortoise", "l2-init")  # of vectors
SHARDED = r"'.*' is sharded over processes, which is not supported"


def updates(model: nn.Module, optimizer: torch.optim.Optimizer, method: cbp.Method, count: int = 4) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.eye(3, dtype=torch.float64)).square().sum().backward()
        method.before_update()
        optimizer.step()
        method.step()
        method.change()


def check_sharded() -> None:
    """What treats sharded parameters as whole ones does so; the other methods refuse them, also those that became such."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # takes a second, in these processes alone

    mesh = torch.distributed.init_device_mesh("cpu", (2,))

    def in_parts(model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    for name, make in cbp.METHODS.items():
        whole, sharded, parted = chain(3, 8, 2), fully_shard(chain(3, 8, 2), mesh=mesh), in_parts(chain(3, 8, 2))
        if name in ON_SHARDED:
            for model in (whole, sharded, *([parted] if name in ON_PARTS else [])):
                optimizer = sgd(model)
                updates(model, optimizer, make(model, optimizer, **ON_SHARDED[name]))
            for ours, theirs in zip(whole.parameters(), sharded.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs.full_tensor())
            with FullyShardedDataParallel.summon_full_params(parted):
                for ours, theirs in zip(whole.parameters(), parted.parameters(), strict=True):
                    assert name not in ON_PARTS or torch.allclose(ours, theirs)
        else:
            with pytest.raises(cbp.LayerError, match=SHARDED):
                make(sharded, sgd(sharded))
        for shard in (lambda model: fully_shard(model, mesh=mesh), in_parts):
            if name in ON_PARTS or (name in ON_SHARDED and shard is not in_parts):
                continue
            model = chain(3, 8, 2)
            optimizer = sgd(model)
            method = make(model, optimizer)
            sharded = shard(model)
            optimizer.param_groups[0]["params"] = list(sharded.parameters())
            with pytest.raises(cbp.LayerError, match=SHARDED):
                updates(sharded, optimizer, method)
            with pytest.raises(cbp.LayerError, match=SHARDED):
                make(sharded, optimizer)


def warned(model: nn.Module, wrapped: nn.Module, names: list[str]) -> list[str]:
    """The warnings of several methods, given one model, while another, which has it, is trained."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for name in names:
            updates(wrapped, optimizer, cbp.METHODS[name](model, optimizer), count=2)
    return [str(warning.message) for warning in caught]


def check_wrapping() -> None:
    """Of a model that is not wrapped a warning tells once, where processes must agree; a compiled wrapper is one, too."""
    judging, others = ["cbp", "redo", "snr", "c-chain", "pfo"], ["l2-init", "upgd", "trac", "shrink-perturb"]
    model = chain(3, 8, 2)
    replica = nn.parallel.DistributedDataParallel(model)
    (message,) = warned(model, replica, judging)
    assert "one of 2 processes of torch.distributed" in message
    assert "give the method the wrapped model" in message
    assert not warned(replica, replica, judging)
    assert not warned(model, replica, others)
    assert not Replicas(torch.compile(replica)).alone
    copied = copy.deepcopy(cbp.ReDo(replica, torch.optim.SGD(model.parameters(), lr=0.1)))
    assert copied._replicas.alone  # with a model of its own


def train(rank: int, folder: Path) -> None:
    """Sixty updates of each method on data of this rank alone; saves weights and numbers of replaced units."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    results = {}
    for name, (make, options) in METHODS.items():
        model = chain(3, 8, 8, 2)
        replica = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = make(replica, optimizer, **options)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(60):
            x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            (replica(x) - x.sum(-1, keepdim=True)).square().mean().backward()
            optimizer.step()
            method.step()
        known = [layer.utility for layer in method.layers]
        results[name] = [parameter.detach() for parameter in model.parameters()], known, [la.replaced for la in method.layers]
    for name, (make, options) in REPLAYING.items():
        model = chain(3, 8, 8, 2)
        replica = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = make(replica, optimizer, **options)
        generator = torch.Generator().manual_seed(rank)
        for update in range(20):
            x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
            if update % 5 == 0 and rank == 0:  # as where one of them validates
                with torch.no_grad():
                    model(x)
            optimizer.zero_grad()
            loss = (replica(x) - x.sum(-1, keepdim=True)).square().mean()
            loss.backward()
            of_loss = [parameter.grad.clone() for parameter in model.parameters()]
            method.before_update(**({"loss": loss} if name == "c-chain" else {}))
            changed = not all(torch.equal(g, p.grad) for g, p in zip(of_loss, model.parameters(), strict=True))
            optimizer.step()
            method.step()
        results[name] = [parameter.detach() for parameter in model.parameters()], [torch.tensor(method.strength)], [changed]
    check_wrapping()
    check_sharded()
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_replicas_stay_equal_and_sharded_parameters_are_refused(tmp_path):
    # Where there is a GPU, PyTorch refuses backward() in a process that was forked after another backward().
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    processes = [context.Process(target=train, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=600)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in (*METHODS, *REPLAYING):
        weights, known, replaced = first[name]
        others, also_known, also_replaced = second[name]
        assert min(replaced) >= 1, name
        assert replaced == also_replaced, name
        for ours, theirs in zip((*weights, *known), (*others, *also_known), strict=True):
            assert torch.equal(ours, theirs), name


def test_replicas_judge_by_the_mean_of_what_each_saw():
    """What a single process computes on both halves of the batch, for a utility that is linear in them."""
    model = chain(3, 8, 2)
    method = cbp.ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.0))
    halves = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model(halves.flatten(0, 1))
    method.step()
    alone = [cbp.ContinualBackprop(model, method.optimizer) for _ in range(2)]
    for other, half in zip(alone, halves, strict=True):
        model(half)
        other.step()
    mean = (alone[0].layers[0].utility + alone[1].layers[0].utility) / 2
    torch.testing.assert_close(mean, method.layers[0].utility)
