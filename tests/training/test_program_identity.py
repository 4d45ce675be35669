"""What tells one program from another: everything that tracing reads, or an error."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.method import losses
from metamix_jax.method.quantizers import fake_quantize
from metamix_jax.models import create_network, mobilenet_v2
from metamix_jax.models.network import Network
from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import optimizers, parallel, program_identity
from metamix_jax.training.program_identity import NotDescribedError, identity
from metamix_jax.training.state import MetaState, create_meta_state

SHAPE = (8, 8, 1)
OPTIONS = {"stem_stride": 1, "stem_channels": 8, "blocks": ((1, 8, 1, 1),), "last_channels": 16}
OPTIMIZER = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "conv_l2": 1e-4, "max_gradient_norm": 10.0}


def own_quantizer(x, step_size, codes, gradient_scale):
  return x


def make_state(optimizer=None, bits=(3, 4, 8), std=0.3, quantizer=LSQ, blocks=OPTIONS["blocks"]):
  scheme = QuantizationScheme(bits, 4, 8, Placement("batch"), quantizer)
  module = create_network("mobilenet_v2", 4, scheme, OPTIONS | {"blocks": blocks})
  network = Network(module, trace_layers(module, SHAPE), (0.5,), (std,), 1e-6)
  return create_meta_state(network, optimizer or make_optimizer(), SHAPE, seed=0)


def make_optimizer(learning_rate=0.1, **fields):
  return optimizers.weight_optimizer(
      optimizers.cosine_schedule(learning_rate, 0.01, 100), **OPTIMIZER | fields)


def describe(state=None, step="weight_step", num_images=4, devices=1, precision="highest", dtype=np.float32):
  programs = parallel.make_programs(jax.devices()[:devices], matmul_precision=precision)
  state = parallel.replicate(state or make_state(), programs.devices)
  batch = {"image": np.zeros((num_images, *SHAPE), np.uint8), "target": np.zeros((num_images, 4), dtype)}
  placed, = parallel.place_batches([batch], programs.devices)
  return identity(getattr(programs, step), (state, {}, placed))


def test_the_same_program_has_the_same_identity():
  assert describe() == describe(make_state(make_optimizer()))
  # Values of arrays are data.
  assert describe() == describe(jax.tree.map(lambda x: x + 1, make_state()))


OTHER_PROGRAMS = {
    "learning rate": lambda: dict(state=make_state(make_optimizer(0.2))),
    "L2": lambda: dict(state=make_state(make_optimizer(conv_l2=1e-3))),
    "optimiser": lambda: dict(state=make_state(optax.adam(0.1))),
    "no optimiser": lambda: dict(state=make_state().without_optimizer()),
    "bits": lambda: dict(state=make_state(bits=(2, 4, 8))), "deviation": lambda: dict(state=make_state(std=0.31)),
    "network": lambda: dict(state=make_state(blocks=((1, 8, 2, 1),))), "step": lambda: dict(step="evaluation_step"),
    "images": lambda: dict(num_images=8), "dtype": lambda: dict(dtype=np.int32), "devices": lambda: dict(devices=4),
    "precision": lambda: dict(precision="default")}


@pytest.mark.parametrize("other", OTHER_PROGRAMS)
def test_another_program_has_another(other):
  assert describe(**OTHER_PROGRAMS[other]()) != describe()


OTHER_SURROUNDINGS = {
    "flags": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    "flags of TPUs": lambda patch: patch.setenv("LIBTPU_INIT_ARGS", "--a=b"),
    "sources": lambda patch: patch.setattr(program_identity, "_sources", str),
    "versions": lambda patch: patch.setattr(program_identity.metadata, "version", lambda name: "0.0"),
    "constant": lambda patch: patch.setattr(mobilenet_v2, "BATCH_NORM_EPSILON", 1e-4),
    "function": lambda patch: patch.setattr(losses, "soft_cross_entropy", losses.cost_penalty),
    "method": lambda patch: patch.setattr(BatchNorm, "__call__", nn.BatchNorm.__call__),
    "property": lambda patch: patch.setattr(Network, "searched_layers", MetaState.trainable),
    "gradient": lambda patch: patch.setattr(fake_quantize, "bwd", fake_quantize.fwd)}


@pytest.mark.parametrize("other", OTHER_SURROUNDINGS)
def test_so_has_one_in_other_surroundings(other, monkeypatch):
  state = make_state()
  before = describe(state)
  OTHER_SURROUNDINGS[other](monkeypatch)
  assert describe(state) != before


def test_jaxs_settings_are_surroundings():
  state = make_state()
  before = describe(state)
  jax.config.update("jax_softmax_custom_jvp", True)
  try:
    assert describe(state) != before
  finally:
    jax.config.update("jax_softmax_custom_jvp", False)


def test_what_is_not_installed_has_none(monkeypatch):
  """A function in a closure, a quantiser, a network, a patched function, and a patched method."""
  own = LSQ._replace(fake_quantize=own_quantizer)
  for state in (make_state(optax.sgd(lambda step: 0.1)), make_state(quantizer=own)):
    with pytest.raises(NotDescribedError, match="a function of tests.training.test_program_identity"):
      describe(state)

  class OwnNetwork(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
      return nn.Dense(4)(images.reshape(len(images), -1))

  network = dataclasses.replace(make_state().network, module=OwnNetwork())
  with pytest.raises(NotDescribedError, match="the class tests.training.test_program_identity.*OwnNetwork"):
    describe(create_meta_state(network, make_optimizer(), SHAPE, seed=0))
  state = make_state()
  for owner, name in ((losses, "soft_cross_entropy"), (BatchNorm, "__call__")):
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, own_quantizer)
      with pytest.raises(NotDescribedError, match="a function or class of tests.training.test_program_identity"):
        describe(state)


def test_values_in_closures_count():
  def scaled(values):
    return make_state(optax.chain(optax.scale(values)))

  one = describe(scaled(np.ones(3, np.float32)))
  assert describe(scaled(jnp.ones(3))) == one
  assert describe(scaled(np.float32([1, 1, 2]))) != one
  assert describe(scaled(np.ones(3, np.float64))) != one
