"""Eight bits lose nothing: with step sizes started on real images, predictions stay those of full precision."""

import jax
import numpy as np
import pytest

from metamix_jax.method.precision import FULL_PRECISION, precision_at_width
from metamix_jax.training import context, phases
from metamix_jax.training.steps import AXIS
from tests.helpers.configs import digits_config

NETWORKS = {
    "mobilenet_v2": {},
    # MobileNetV3's parts at a size for digits: squeeze and excitation, ReLU and h-swish.
    "mobilenet_v3_large": dict(
        stem_stride=1, last_channels=128,
        blocks=((3, 16, 16, False, "relu", 1), (3, 64, 24, True, "relu", 2), (5, 72, 32, True, "hard_swish", 1),
                (3, 96, 40, False, "hard_swish", 2))),
    "resnet18": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_eight_bits_keep_97_percent_of_predictions(network, data_dir):
  """Trained for a few epochs on the 1,347 training digits, compared on the 450 test digits."""
  config = digits_config()
  config.data.data_dir = str(data_dir)
  config.pretraining.epochs, config.evaluation_batch_size = 6, 152
  config.network.name = network
  if network != "mobilenet_v2":
    with config.network.unlocked():
      config.network.options = NETWORKS[network]
  config.arch.target_gbops = sum(context.attainable_range(context.networks_without_data(config)[0].layers)) / 2
  work = context.prepare(config)
  meta = phases.start_step_sizes(work, phases.pretrain(work, phases.create_student(work))[0])
  meta = jax.device_get(meta.without_optimizer())

  def predictions(precision):
    def predict(images):
      variables = {"params": meta.weights, "batch_stats": meta.batch_stats, "step_sizes": meta.step_sizes,
                   "precision": precision}
      return work.network.module.apply(variables, work.network.normalize(images), train=False)
    batched = jax.jit(jax.vmap(predict, axis_name=AXIS))
    return np.concatenate([
        np.argmax(batched(batch["image"][None])[0], -1)[batch["mask"] > 0] for batch in work.data.evaluation_batches()])

  exact = predictions(FULL_PRECISION)
  eight = predictions(precision_at_width(work.network.layers, np.int32(2)))
  agreement = np.mean(exact == eight)
  print(f"{network}: {agreement:.4f} of {len(exact)} predictions kept")
  assert len(exact) == 450 and agreement >= 0.97
