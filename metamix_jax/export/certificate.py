"""What an export proves about a network on its evaluation split: G1, G2 and G3 of docs/export.md."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import platform
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from metamix_jax.export import evaluator, stablehlo
from metamix_jax.export.evaluator import Program
from metamix_jax.method.precision import assigned_precision
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantLayer

# G2: how far x / s may be from fake quantisation, in steps, and which share of codes may differ.
LARGEST_DISTANCE, LARGEST_SHARE = 2.0**-12, 1e-4
# G3: the least share of equal predictions, and the largest difference of top-1 in percentage points.
LEAST_EQUAL, LARGEST_TOP1_DIFFERENCE = 0.999, 0.1

# Names in G1 what defines a program, and the program that G2 and G3 are measured on.
EVALUATOR, MEASURED = "NumPy evaluator", "program, JAX on CPU"

# (uint8 images) -> logits, {layer: codes}: an exported file as it runs.
Run = Callable[[np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]


class NotCertified(Exception):
  """Reports that an export does not keep what it promises; the message is one sentence."""


@dataclasses.dataclass
class LayerComparison:
  """Holds how the codes of one layer's input compare with fake quantisation, given the same codes before (G2).

  Attributes:
    codes: number of codes that were compared.
    different_codes: number of codes that differ.
    largest_code_difference: between two codes.
    largest_distance: between two values of x / s, in steps.
    farthest_from_tie: largest distance of x / s from the next half, of the codes that differ, in steps.
  """

  codes: int = 0
  different_codes: int = 0
  largest_code_difference: int = 0
  largest_distance: float = 0.0
  farthest_from_tie: float = 0.0

  def add(self, codes, steps, expected_codes, expected_steps) -> None:
    """Adds the codes of one batch; `steps` None: a table gave the codes, so x / s is only known on one side."""
    differences = np.abs(codes.astype(np.int32) - expected_codes)
    different = differences > 0
    self.codes += codes.size
    self.different_codes += int(different.sum())
    self.largest_code_difference = max(self.largest_code_difference, int(differences.max()))
    if steps is not None:
      distance = np.abs(steps - expected_steps).max()
      self.largest_distance = float(np.maximum(self.largest_distance, distance))  # Not a number stays one.
    if different.any():
      away = np.abs(expected_steps[different] - np.floor(expected_steps[different]) - 0.5)
      self.farthest_from_tie = max(self.farthest_from_tie, float(away.max()))

  def broken_promise(self) -> str | None:
    """Returns what does not hold, in words; None if everything does."""
    if not self.largest_distance <= LARGEST_DISTANCE:  # NaN does not hold.
      return f"x / s differs by {self.largest_distance:.3g} steps from fake quantisation; allowed is 2^-12"
    if self.largest_code_difference > 1 or self.farthest_from_tie > LARGEST_DISTANCE:
      return f"a code differs by {self.largest_code_difference} from fake quantisation, away from a tie"
    if self.different_codes > LARGEST_SHARE * self.codes:
      return f"{self.different_codes} of {self.codes} codes differ from fake quantisation; allowed is 1 in 10,000"
    return None


def certify(*arguments: Any, **kwargs: Any) -> dict[str, Any]:
  """Returns the certificate of `measure`.

  Raises:
    NotCertified: a promise does not hold; the sentence names it, and the layer.
  """
  proof = measure(*arguments, **kwargs)
  check(proof)
  return proof


def measure(
    program: Program, network: Network, variables: Mapping[str, Any], bits: Mapping[str, int],
    images: Iterable[tuple[np.ndarray, np.ndarray]], runs: Mapping[str, Run], num_exact: int | None = None,
) -> dict[str, Any]:
  """Compares a program and its files with each other and with fake quantisation.

  Args:
    program: the program.
    network: the static part of the trained network, without an axis over devices.
    variables: its collections.
    bits: activation bits of every quantised layer.
    images: batches of (uint8 images [N, H, W, C], labels [N]): the evaluation split.
    runs: the files by name, each compared with the NumPy evaluator (G1), as is the program in JAX, which G2 and G3
      are measured on.
    num_exact: number of images that G1 compares; None: all.

  Returns:
    The certificate, as in certificate.json.

  Raises:
    NotCertified: G1 does not hold.
  """
  reference = fake_quantized_pass(program, network, variables, bits)
  # One program for the network as it is and layer by layer: compiling takes longer than running.
  run = jax.jit(lambda images, codes, given: stablehlo.interpret(program, images, codes, given))
  layers = {node["layer"]: LayerComparison() for node in program.quantizers}
  exact_images = exact_codes = num_images = equal = correct = expected_correct = 0
  for batch, labels in images:
    expected_logits, expected_codes, expected_steps = reference(batch)
    made, steps = jax.tree.map(np.asarray, run(batch, expected_codes, True)[1:])
    for layer, comparison in layers.items():
      comparison.add(made[layer], steps.get(layer), expected_codes[layer], expected_steps[layer])
    logits, codes = jax.tree.map(np.asarray, run(batch, expected_codes, False)[:2])
    count = len(batch) if num_exact is None else min(len(batch), num_exact - exact_images)
    if count > 0:  # The very numbers that G3 is about: a file may be right where another program is not.
      measured = logits[:count], {layer: values[:count] for layer, values in codes.items()}
      exact_codes += compare_exactly(program, batch[:count], {MEASURED: lambda _, measured=measured: measured, **runs})
      exact_images += count
    predicted, expected = np.argmax(logits, -1), np.argmax(expected_logits, -1)
    num_images += len(batch)
    equal += int(np.sum(predicted == expected))
    correct += int(np.sum(predicted == labels))
    expected_correct += int(np.sum(expected == labels))
  top1, expected_top1 = (100 * count / num_images for count in (correct, expected_correct))
  return {
      "g1": {"compared": [EVALUATOR, MEASURED, *runs], "images": exact_images, "codes": exact_codes,
             "different_codes": 0, "different_logits": 0},
      "g2": {
          "images": num_images, "codes": sum(layer.codes for layer in layers.values()),
          "different_codes": sum(layer.different_codes for layer in layers.values()),
          "largest_code_difference": max(layer.largest_code_difference for layer in layers.values()),
          "largest_distance_in_steps": max(layer.largest_distance for layer in layers.values()),
          "farthest_from_tie_in_steps": max(layer.farthest_from_tie for layer in layers.values()),
          "layers": {name: dataclasses.asdict(layer) for name, layer in layers.items()}},
      "g3": {"images": num_images, "equal_predictions": equal, "top1": top1, "fake_quantized_top1": expected_top1},
      "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__}}


def check(proof: Mapping[str, Any]) -> None:
  """Raises NotCertified if a certificate does not keep G2 or G3; the sentence names the promise and the layer."""
  for layer, values in proof["g2"]["layers"].items():
    if broken := LayerComparison(**values).broken_promise():
      raise NotCertified(f"G2 does not hold: at the input of layer {layer}, {broken}.")
  g3 = proof["g3"]
  if g3["equal_predictions"] < LEAST_EQUAL * g3["images"] or (
      abs(g3["top1"] - g3["fake_quantized_top1"]) > LARGEST_TOP1_DIFFERENCE):
    raise NotCertified(
        f"G3 does not hold: {g3['equal_predictions']} of {g3['images']} predictions equal those of fake quantisation "
        f"(top-1 {g3['top1']:.2f} and {g3['fake_quantized_top1']:.2f} %); allowed are {LEAST_EQUAL:.1%} and "
        f"{LARGEST_TOP1_DIFFERENCE} points.")


def compare_exactly(program: Program, images: np.ndarray, runs: Mapping[str, Run]) -> int:
  """Compares files with the NumPy evaluator, bit for bit (G1); returns the number of codes of each.

  Raises:
    NotCertified: a code or a logit differs; the sentence names the file and the layer.
  """
  expected = evaluator.evaluate(program, images)
  for name, run in runs.items():
    logits, codes = run(images)
    for layer, values in expected.codes.items():
      different = int(np.sum(np.asarray(codes[layer]) != values))
      if different:
        raise NotCertified(
            f"G1 does not hold: {name} has {different} of {values.size} codes at the input of layer {layer} that are "
            "not the NumPy evaluator's.")
    if np.asarray(logits).tobytes() != expected.logits.tobytes():
      different = int(np.sum(np.asarray(logits) != expected.logits))
      raise NotCertified(
          f"G1 does not hold: {name} has {different} of {expected.logits.size} logits that are not the NumPy "
          "evaluator's.")
  return sum(values.size for values in expected.codes.values())


def fake_quantized_pass(program: Program, network: Network, variables: Mapping[str, Any], bits: Mapping[str, int]):
  """Returns a function (uint8 images) -> logits, {layer: codes}, {layer: x / s} of fake quantisation.

  The logits are those of the run's own evaluation, in float32. Codes and x / s are of the same pass in float64, because
  a float32 sum of a thousand products is itself off by more than what is promised of the program's exact sums. Weights
  are arguments, as they are in a run: XLA turns a division of constants into a product, and a code at a tie changes.
  """
  variables = dict(variables) | {"precision": assigned_precision(network.layers, bits)}

  @jax.jit
  def inputs_of_layers(variables, images):
    inputs = {}

    def record(call, args, kwargs, context):
      y = call(*args, **kwargs)
      if isinstance(context.module, QuantLayer) and context.method_name == "quantize_input":
        inputs["/".join(context.module.path)] = (args[0], y)
      return y

    with nn.intercept_methods(record):
      network.apply(variables, images, train=False, dtype="float64")
    return inputs

  logits_of = jax.jit(lambda variables, images: network.apply(variables, images, train=False)[0])

  def codes_and_steps(images):
    with jax.enable_x64():
      inputs = jax.tree.map(np.asarray, inputs_of_layers(variables, images))
    codes, steps = {}, {}
    for node in program.quantizers:
      x, quantized = (values.astype(np.float64) + node["shift"] for values in inputs[node["layer"]])
      codes[node["layer"]] = np.rint(quantized / node["step_size"]).astype(np.int16)
      steps[node["layer"]] = np.clip(x / node["step_size"], node["lowest"], node["highest"])
    return np.asarray(logits_of(variables, images)), codes, steps

  return codes_and_steps
