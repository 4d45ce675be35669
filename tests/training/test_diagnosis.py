"""A step whose loss is not finite: where it went wrong first."""

import pytest

from metamix_jax import experiment
from metamix_jax.training.context import prepare
from tests.helpers.configs import tiny_config


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.pretraining.learning_rate = 1e38
  with pytest.raises(ValueError, match=r"pretraining, step 2: the training loss or its gradient is not finite, first "
                     r"in the .*; nothing after step 1 was kept") as caught:
    experiment.run(prepare(config), tmp_path)
  assert "\n" not in str(caught.value)
