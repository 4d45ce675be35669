"""What the layers of a network say of themselves, and what its quantiser does, checked when it is traced.

A run would trip over each of these after pretraining or after the search, or would train on without a word.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.errors import UserError
from metamix_jax.method.bops import FULL_PRECISION_BITS, LayerCost
from metamix_jax.method.quantizers import INPUT_RANGES
from metamix_jax.nn.layers import QuantDense
from metamix_jax.nn.scheme import QuantizationScheme, Quantizer

# At 1 bit the highest signed code is 0 (M3), and the first step size of a kernel infinite (M4). A config has at most 8.
LOWEST_BITS, HIGHEST_BITS = 2, 8
BITS_IN_WORDS = f"different integers from {LOWEST_BITS} to {HIGHEST_BITS} in ascending order"


def check_facts(layer: LayerCost, network: str) -> None:
  """Checks the static facts of a quantised layer.

  Args:
    layer: as its class and its scheme have them.
    network: name of the network's class, for the sentence.

  Raises:
    UserError: its MACs, its input range or one of its bit-widths is not allowed.
  """
  wrong = f"layer {layer.name} of {network} has the"
  if layer.input_range not in INPUT_RANGES:
    raise UserError(f"{wrong} input_range {layer.input_range!r}; allowed are {', '.join(INPUT_RANGES)}.")
  if not isinstance(layer.macs, int) or layer.macs < 1:
    raise UserError(f"{wrong} macs {layer.macs!r}; allowed is that its method macs(...) returns a positive integer.")
  full_precision = layer.candidate_bits == (FULL_PRECISION_BITS,)
  if not full_precision and not _are_bits(layer.candidate_bits, 1):
    raise UserError(
        f"{wrong} candidate_bits {layer.candidate_bits!r}; allowed are {BITS_IN_WORDS}, and ({FULL_PRECISION_BITS},) "
        "for full precision.")
  if full_precision and layer.weight_bits != FULL_PRECISION_BITS:
    raise UserError(
        f"{wrong} weight_bits {layer.weight_bits!r} and the candidate_bits {layer.candidate_bits}; allowed is "
        f"{FULL_PRECISION_BITS} in both, full precision.")
  if not full_precision and not _are_bits((layer.weight_bits,), 1):
    raise UserError(
        f"{wrong} weight_bits {layer.weight_bits!r}; allowed is an integer from {LOWEST_BITS} to {HIGHEST_BITS}.")
  of_kernel = layer.candidate_weight_bits
  if of_kernel != () and not _are_bits(of_kernel, 2):
    raise UserError(f"{wrong} candidate_weight_bits {of_kernel!r}; allowed are () and at least two {BITS_IN_WORDS}.")
  if of_kernel and layer.weight_bits not in of_kernel:
    raise UserError(
        f"{wrong} weight_bits {layer.weight_bits}; allowed is one of its candidate_weight_bits, {of_kernel}, for the "
        "uniform bit-widths.")


def _are_bits(value, least):
  """Tells whether a value is a tuple of at least `least` bit-widths in ascending order."""
  return (isinstance(value, tuple) and len(value) >= least
          and all(isinstance(bits, int) and LOWEST_BITS <= bits <= HIGHEST_BITS for bits in value)
          and list(value) == sorted(set(value)))


def check_quantizer(quantizer: Quantizer, searched_kernels: bool) -> None:
  """Checks that a layer can call the functions of a quantiser and differentiate them, in a pass without numbers.

  Args:
    quantizer: the functions that quantise.
    searched_kernels: whether the bits of kernels are searched as well.

  Raises:
    UserError: a function takes other arguments, has no gradient, or returns anything but an array like its input.
  """
  # No two lengths are equal, so that axes which are mixed up do not fit. The input has four axes, the kernel two.
  x, of_candidates, index = _floats(3, 4, 5, 6), _floats(2), jax.ShapeDtypeStruct((), jnp.int32)
  params, activation = {"kernel": _floats(6, 7), "bias": _floats(7)}, {"activation": of_candidates}
  weight = {"weight": _floats(2, 7) if searched_kernels else _floats(7)}
  for name, step_sizes, precision in (
      ("fake_quantize", activation | weight, {"candidate": index, "kernel_candidate": index}),
      ("mix_bit_widths", activation | (weight if searched_kernels else {}),
       {"probabilities": of_candidates, "kernel_probabilities": of_candidates})):
    checked = quantizer._replace(**{name: _with_checked_result(name, getattr(quantizer, name))})
    layer = QuantDense(
        QuantizationScheme((4, 8), 8, 8, quantizer=checked, candidate_weight_bits=(4, 8) if searched_kernels else ()),
        "unsigned", 7)

    def differentiate(variables, x, apply: Any = layer.apply):
      jax.grad(lambda *operands: jnp.sum(apply(*operands)), (0, 1), allow_int=True)(variables, x)

    try:
      jax.eval_shape(differentiate, {"params": params, "step_sizes": step_sizes, "precision": precision}, x)
    except UserError:
      raise
    except (TypeError, ValueError) as error:
      raise UserError(
          f"the quantizer's {name} cannot be called and differentiated as layers do it: {_first_line(error)}; allowed "
          f"is a function with the arguments of LSQ.{name}.") from error


def _with_checked_result(name: str, function: Callable[..., Array]) -> Callable[..., Array]:
  """Returns the function with a check that its result is like its first argument, which layers cast it to unseen."""
  def checked(x, *others):
    y = function(x, *others)
    found = f"{y.dtype} {list(y.shape)}" if isinstance(y, Array) else f"a {type(y).__name__}"
    needed = f"{x.dtype} {list(x.shape)}"
    if found != needed:
      raise UserError(f"the quantizer's {name} returns {found} for {needed}; it must return an array like its input.")
    return y

  return checked


def _first_line(error):
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _floats(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)
