"""Data-parallel training with PyTorch, as torchrun would start it: nothing in it is made for hpc_dl."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, local = dist.get_rank(), int(os.environ["LOCAL_RANK"])
device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1).to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
generator = torch.Generator().manual_seed(rank)
for _ in range(50):
    x = torch.randn(32, 8, generator=generator)
    loss = (model(x.to(device)) - x.sum(1, keepdim=True).to(device)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
weights = [torch.zeros(8, device=device) for _ in range(dist.get_world_size())]
dist.all_gather(weights, model.module.weight.detach()[0])
assert all(torch.equal(one, weights[0]) for one in weights)
print(f"rank {rank} of {dist.get_world_size()}: loss {loss.item():.4f}")
dist.destroy_process_group()
