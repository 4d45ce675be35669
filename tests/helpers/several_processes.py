"""Three steps of each kind on some devices of some processes; tests/test_several_processes.py compares the parameters.

  python -m tests.helpers.several_processes PROCESS NUM_PROCESSES PORT SEED OUTPUT.npz
"""

import sys

from flax import traverse_util
import jax
import numpy as np
import optax

from metamix_jax.method.precision import assigned_precision
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import parallel
from metamix_jax.training.state import Network, create_arch_states, create_meta_state
from tests.helpers.continuous_quantizer import CONTINUOUS
from tests.helpers.own_network import PlainNetwork

SHAPE, BATCH, CLASSES = (8, 8, 1), 16, 4


def main(process, num_processes, port, seed, output):
  """Runs and, on the first process, saves {name: parameters}."""
  if num_processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes, process)
  programs = parallel.make_programs()
  module = PlainNetwork(CLASSES, QuantizationScheme((3, 4, 8), 4, 8, Placement("batch"), CONTINUOUS), (4, 8))
  network = Network(module, trace_layers(module, SHAPE), (0.5,), (0.3,), 1e-6)
  optimizer = optax.sgd(1e-2)
  meta = create_meta_state(network, optimizer, SHAPE, seed=0)
  arch = create_arch_states(
      network, optimizer, seed=0, initial_std=1e-3, targets_gbops=(1e-4, 2e-4), penalty_weights=(1.0, 0.5))
  place = lambda state: parallel.replicate(jax.device_get(state), programs.devices)

  def batches():
    """This process's part of global batches that are the same however many processes there are."""
    rng = np.random.default_rng(seed)
    while True:
      whole = {
          "image": rng.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8),
          "target": rng.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)}
      part = slice(process * BATCH // num_processes, (process + 1) * BATCH // num_processes)
      yield {name: values[part] for name, values in whole.items()}

  placed = parallel.place_batches(batches(), programs.devices)
  local = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)
  meta = place(meta)
  meta = place(local(meta).with_activation_step_sizes(
      local(programs.calibration_step(meta, next(placed)))).with_optimizer(optimizer))
  arch = place(arch)
  for _ in range(3):
    batch = next(placed)
    meta, _ = programs.bit_meta_step(meta, batch)
    arch, _ = programs.bit_search_steps(arch, meta, batch)
  meta = place(local(meta).with_weight_step_sizes().with_optimizer(optimizer))
  precision = assigned_precision(
      network.layers, {layer.name: layer.candidate_bits[1] for layer in network.searched_layers})
  for _ in range(3):
    meta, _ = programs.weight_step(meta, precision, next(placed))
  if process == 0:
    trees = {
        "weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats, "alpha": arch.alpha}
    np.savez(output, **traverse_util.flatten_dict(local(trees), sep=":"))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:5]), sys.argv[5])
