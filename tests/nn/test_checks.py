"""What layers and quantisers must not be: each one sentence when a network is traced, and not after pretraining."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import choices
from metamix_jax.method.pairs import pair_values
from metamix_jax.method.quantizers import code_range, fake_quantize
from metamix_jax.models import create_network
from metamix_jax.nn.layers import QuantDense, weight_step_sizes
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme, Quantizer
from metamix_jax.nn.tracing import check_training, trace_layers, trace_network
from metamix_jax.training.steps import AXIS
from tests.helpers.continuous_quantizer import CONTINUOUS

SCHEME = QuantizationScheme((3, 4, 8), 4, 8, Placement(AXIS))
KERNELS = dataclasses.replace(SCHEME, candidate_weight_bits=(2, 4))
SHAPE = (4, 4, 3)


class Counted(QuantDense):
  """A dense layer that costs what its test says."""

  cost: object = None

  def macs(self, input_shape, output_shape):
    return self.cost


class Net(nn.Module):
  """The layer that a test gives, and a classifier."""

  layer: object
  num_classes: int = 5
  scheme: QuantizationScheme = SCHEME

  @nn.compact
  def __call__(self, images, *, train):
    x = self.layer(jnp.mean(images, axis=(1, 2)))
    return QuantDense(self.scheme.fixed, "signed", self.num_classes, name="classifier")(x)


def dense(input_range="signed", scheme=SCHEME, **fields):
  return lambda x: QuantDense(dataclasses.replace(scheme, **fields), input_range, 6, name="dense")(x)


def counted(cost):
  return lambda x: Counted(SCHEME, "signed", 6, name="dense", cost=cost)(x)


IN_WORDS = "different integers from 2 to 8 in ascending order"


@pytest.mark.parametrize("layer, sentence", [
    (dense("relu"), "input_range 'relu'; allowed are unsigned, signed, hard_swish."),
    *((counted(cost), f"macs {cost!r}; allowed is that its method macs(...) returns a positive integer.")
      for cost in (-5, 0, None, 2.5)),
    *((dense(candidate_bits=bits),
       f"candidate_bits {bits!r}; allowed are {IN_WORDS}, and (32,) for full precision.")
      for bits in ((), 8, (1, 4), (4, 9), (4, 3), (4, 4), (4, 32), (2.0, 4))),
    (dense(scheme=KERNELS, candidate_bits=8),
     f"candidate_bits 8; allowed are {IN_WORDS}, and (32,) for full precision."),
    *((dense(weight_bits=bits), f"weight_bits {bits!r}; allowed is an integer from 2 to 8.")
      for bits in (1, 0, 9, 32, None)),
    (dense(candidate_bits=(32,)), "weight_bits 4 and the candidate_bits (32,); allowed is 32 in both, full precision."),
    *((dense(candidate_weight_bits=bits),
       f"candidate_weight_bits {bits!r}; allowed are () and at least two {IN_WORDS}.")
      for bits in ((4,), (1, 4), (4, 2), None)),
    (dense(scheme=KERNELS, weight_bits=8),
     "weight_bits 8; allowed is one of its candidate_weight_bits, (2, 4), for the uniform bit-widths."),
])
def test_a_fact_that_is_not_allowed_is_one_sentence(layer, sentence):
  with pytest.raises(UserError) as error:
    trace_layers(Net(layer), SHAPE)
  assert str(error.value) == f"layer dense of Net has the {sentence}"


def test_facts_that_are_allowed_and_an_integer_of_numpy():
  layer, _ = trace_layers(Net(counted(np.int64(18))), SHAPE)
  assert layer.macs == 18 and type(layer.macs) is int
  layer, _ = trace_layers(Net(dense(candidate_bits=(32,), weight_bits=32)), SHAPE)
  assert not layer.quantized
  layer, _ = trace_layers(Net(dense(scheme=KERNELS)), SHAPE)
  assert (layer.candidate_bits, layer.weight_bits, layer.candidate_weight_bits) == ((3, 4, 8), 4, (2, 4))


def test_the_kernel_of_a_pinned_layer_is_not_searched():
  """Neither in the facts, from which the search takes its choices, nor in the layer, which has one row of steps."""
  pinned = dataclasses.replace(KERNELS, candidate_bits=(8,), placement=Placement())
  layers = trace_layers(Net(dense(scheme=pinned), scheme=KERNELS), SHAPE)
  assert [layer.candidate_weight_bits for layer in layers] == [(), ()] and choices(layers) == {}
  searched = trace_layers(Net(dense(scheme=KERNELS)), SHAPE)
  alpha = {name: np.zeros(len(bits)) for name, bits in choices(searched + layers).items()}
  assert {name: values.shape for name, values in pair_values(searched, alpha).items()} == {"dense": (6,)}
  kernel = jnp.linspace(-1, 1, 12).reshape(4, 3)
  steps = weight_step_sizes(kernel, 4)
  used = QuantDense(pinned, "signed", 3).apply(
      {"params": {"kernel": kernel, "bias": jnp.zeros(3)}, "step_sizes": {"weight": steps}}, jnp.eye(4))
  np.testing.assert_array_equal(used, fake_quantize(kernel, steps, code_range(4, "signed"), jnp.float32(1)))


def test_a_penultimate_layer_outside_of_the_candidates_is_named():
  module = create_network("mobilenet_v3_small", 5, KERNELS, {"penultimate_weight_bits": 8})
  with pytest.raises(UserError, match="layer penultimate of MobileNetV3 has the weight_bits 8; allowed is one of its "
                     r"candidate_weight_bits, \(2, 4\)"):
    trace_layers(module, (32, 32, 3))


@jax.custom_vjp
def three_gradients(x, step_size, codes, gradient_scale):
  return x


three_gradients.defvjp(lambda *args: (args[0], None), lambda saved, dy: (dy, dy, dy))


def without_scale(x, step_size, codes):
  return x


def check(quantizer, scheme=SCHEME):
  network = Net(dense(scheme=dataclasses.replace(scheme, quantizer=quantizer)))
  check_training(trace_network(network, SHAPE), network, SHAPE, AXIS)


@pytest.mark.parametrize("field", Quantizer._fields)
@pytest.mark.parametrize("function, sentence", [
    (without_scale, "cannot be called and differentiated as layers do it: without_scale() takes 3 positional arguments "
     "but {number} were given; allowed is a function with the arguments of LSQ.{field}."),
    (lambda x, *others: x[:1], "returns float32 [1, {rest}] for float32 [{first}, {rest}]; it must return an array "
     "like its input."),
    (lambda x, *others: jnp.round(x).astype(jnp.int8), "returns int8 [{first}, {rest}] for float32 [{first}, {rest}]; "
     "it must return an array like its input."),
    (lambda x, *others: (x, x), "returns a tuple for float32 [{first}, {rest}]; it must return an array like its "
     "input."),
])
def test_a_function_of_a_quantizer_that_layers_cannot_use_is_named(field, function, sentence):
  """Of the checked layer, the one function sees the kernel first, the other the input alone."""
  number, first, rest = {"fake_quantize": (4, 6, "7"), "mix_bit_widths": (5, 3, "4, 5, 6")}[field]
  with pytest.raises(UserError) as error:
    check(LSQ._replace(**{field: function}))
  sentence = sentence.format(field=field, number=number, first=first, rest=rest)
  assert str(error.value) == f"the quantizer's {field} {sentence}"


def test_a_gradient_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match="the quantizer's fake_quantize cannot be called and differentiated as layers do "
                     "it: .*; allowed is a function with the arguments of LSQ.fake_quantize") as error:
    check(LSQ._replace(fake_quantize=three_gradients))
  assert "\n" not in str(error.value)


def four_axes_alone(x, step_sizes, probabilities, codes, gradient_scales):
  """A mixture that no channel of a kernel can have."""
  _, _, _, channels = x.shape
  return x[..., :channels] * probabilities[0]


def test_searched_kernels_are_mixed_by_the_channel():
  quantizer = LSQ._replace(mix_bit_widths=four_axes_alone)
  check(quantizer)
  with pytest.raises(UserError, match="the quantizer's mix_bit_widths cannot be called .* not enough values to unpack"):
    check(quantizer, KERNELS)


@pytest.mark.parametrize("quantizer", [LSQ, CONTINUOUS])
@pytest.mark.parametrize("scheme", [SCHEME, KERNELS])
def test_quantizers_that_layers_can_use(quantizer, scheme):
  check(quantizer, scheme)
