"""Data-parallel training towards low rank: the same weights on any number of processes.

    python examples/ddp.py --out one.pt
    python -m torch.distributed.run --standalone --nproc-per-node 2 examples/ddp.py --out two.pt

Every process has the whole model, a share of each global batch, and takes the same proximal steps: the gradients that
DistributedDataParallel averages are equal on all of them, and a proximal step is a function of weight and step alone.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.distributed.nn  # noqa: F401  before there is a group: its functions' defaults keep it, and gloo's threads, to the end
from torch import nn
from torch.nn.functional import cross_entropy

import taut
from taut.regularizers import L1, Nuclear

BATCH = 32  # over all processes


def build():
    """The same network on every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def global_batch(step):
    """Inputs and labels for all processes together."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 20, generator=generator)
    return x, (x[:, :4] + 0.1 * torch.randn(BATCH, 4, generator=generator)).argmax(1)


def train(rank, world, steps=30, dtype=torch.float32):
    """The weights after training as ``rank`` of ``world`` processes."""
    model = build().to(dtype)
    # regularizers go by the names of the bare model; its weights are those that the wrapped model trains
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    optimizer = taut.ProxOptimizer(optimizer, model, {"*": Nuclear(0.1), "4": L1(0.01)}, every=4)
    parallel = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    torch.manual_seed(rank)  # ranks may draw different numbers (for augmentation, say): proximal steps draw none
    for step in range(steps):
        x, y = global_batch(step)
        mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)  # equal shares, so that a mean of means is the mean
        optimizer.zero_grad()
        cross_entropy(parallel(x[mine].to(dtype)), y[mine]).backward()
        optimizer.step()
    optimizer.flush()
    return model.state_dict()


def check_ranks(state, world):
    """Raise unless all processes hold the same bits."""
    for name, value in state.items():
        everyone = [torch.empty_like(value) for _ in range(world)]
        dist.all_gather(everyone, value)
        if not all(torch.equal(other, value) for other in everyone):
            raise RuntimeError(f"{name} differs between processes")


def main():
    """Train in single and in double precision and save both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True, help="file for the weights in single and in double precision")
    out = parser.parse_args().out
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        dist.init_process_group("gloo")
    states = {str(dtype): train(rank, world, dtype=dtype) for dtype in (torch.float32, torch.float64)}
    if world > 1:
        for state in states.values():
            check_ranks(state, world)
        dist.barrier()  # gloo aborts a process whose peer has left while it still listens
        dist.destroy_process_group()
    if rank == 0:
        torch.save(states, out)


if __name__ == "__main__":
    main()
