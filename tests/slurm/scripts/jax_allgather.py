"""What all processes have, gathered by JAX, as srun would start it: nothing in it is made for hpc_dl."""

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

jax.distributed.initialize()
mine = jnp.array([float(jax.process_index())])
everyone = multihost_utils.process_allgather(mine)
assert everyone.ravel().tolist() == list(range(jax.process_count()))
print(
    f"process {jax.process_index()} of {jax.process_count()}: mean {everyone.mean():.2f}, {len(jax.devices())} devices"
)
