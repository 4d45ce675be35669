"""What tells one program from another: everything that tracing reads, or an error."""

import functools
import json
import os
import types

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metamix_jax
from metamix_jax.models import create_network
from metamix_jax.models.network import Network
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import optimizers, parallel, program_identity
from metamix_jax.training.program_identity import NotDescribedError, _static, describe_configs, identity
from metamix_jax.training.state import create_meta_state
from tests.helpers.files import ROOT

SHAPE = (8, 8, 1)
OPTIONS = {"stem_stride": 1, "stem_channels": 8, "blocks": ((1, 8, 1, 1),), "last_channels": 16}
OPTIMIZER = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "conv_l2": 1e-4, "max_gradient_norm": 10.0}


def own_quantizer(x, step_size, codes, gradient_scale):
  return x


@pytest.fixture(autouse=True)
def tests_count_as_installed(monkeypatch):
  """Tests are loaded modules of another project, with which nothing has an identity."""
  monkeypatch.setattr(program_identity, "describe_configs", lambda: [])


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
  return identity(step, getattr(programs, step), (state, {}, placed))


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
    "quantiser": lambda: dict(state=make_state(quantizer=LSQ._replace(fake_quantize=own_quantizer))),
    "images": lambda: dict(num_images=8), "dtype": lambda: dict(dtype=np.int32), "devices": lambda: dict(devices=4),
    "precision": lambda: dict(precision="default")}


@pytest.mark.parametrize("other", OTHER_PROGRAMS)
def test_another_program_has_another(other):
  assert describe(**OTHER_PROGRAMS[other]()) != describe()


OTHER_SURROUNDINGS = {
    "flags": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    "flags of TPUs": lambda patch: patch.setenv("LIBTPU_INIT_ARGS", "--a=b"),
    "sources": lambda patch: patch.setattr(program_identity, "_OWN_SOURCES", "another hash"),
    "versions": lambda patch: patch.setattr(program_identity, "_versions", lambda: ["jax 0.0"]),
    "Python": lambda patch: patch.setattr(program_identity.platform, "python_version", lambda: "3.0"),
    "processor": lambda patch: patch.setattr(program_identity, "available_cores", lambda: 1000)}


@pytest.mark.parametrize("other", OTHER_SURROUNDINGS)
def test_so_has_one_in_other_surroundings(other, monkeypatch):
  state = make_state()
  before = describe(state)
  OTHER_SURROUNDINGS[other](monkeypatch)
  assert describe(state) != before


@pytest.mark.parametrize("settings, name", [
    (jax.config, "jax_softmax_custom_jvp"), (flax.config, "flax_fix_rng_separator")])
def test_settings_are_surroundings(settings, name):
  state = make_state()
  before = describe(state)
  settings.update(name, True)
  try:
    assert describe(state) != before
  finally:
    settings.update(name, False)


def test_every_source_counts(monkeypatch, tmp_path):
  (tmp_path / "part").mkdir()
  for name in ("a.py", "part/b.py"):
    (tmp_path / name).write_text("x = 1\n")
  monkeypatch.setattr(program_identity, "_OWN_FOLDERS", (tmp_path,))
  hashes = {program_identity._own_sources()}
  for name in ("a.py", "part/b.py"):
    (tmp_path / name).write_text("x = 2\n")
    hashes.add(program_identity._own_sources())
  (tmp_path / "a.py").rename(tmp_path / "c.py")
  hashes.add(program_identity._own_sources())
  assert len(hashes) == 4
  assert "jax " in " ".join(program_identity._versions()) and "optax " in " ".join(program_identity._versions())


def test_the_field_and_the_order_of_devices_count():
  state, devices = make_state(), jax.devices()
  programs = parallel.make_programs()
  placed = [parallel.replicate(state, order) for order in (devices, devices[::-1])]
  texts = {identity(name, programs.evaluation_step, (state,))
           for name in ("evaluation_step", "image_scores_step") for state in placed}
  assert len(texts) == 4


def test_nothing_has_an_identity_where_other_code_is_loaded(monkeypatch):
  """It may have replaced any function of this package."""
  monkeypatch.undo()
  with pytest.raises(NotDescribedError, match="the module (tests|conftest|_pytest|__main__)"):
    describe()


@pytest.mark.parametrize("path, name, known", [
    (metamix_jax.__file__, "a_module", True), (jax.__file__, "a_module", True), (os.__file__, "a_module", True),
    ("scripts/benchmarks/bench.py", "__main__", True), (None, "a_module", True),
    ("/tmp/__autograph_generated_file1.py", "__autograph_generated_file1", True),
    ("/somewhere/else.py", "a_module", False), ("tests/conftest.py", "a_module", False)])
def test_other_code_is_what_is_not_installed(path, name, known, monkeypatch):
  module = types.SimpleNamespace(__file__=path and os.path.join(ROOT, path))
  monkeypatch.undo()
  monkeypatch.setattr(program_identity.sys, "modules", {name: module})
  if known:
    describe_configs()
  else:
    with pytest.raises(NotDescribedError, match=f"the module {name}, whose code is not installed"):
      describe_configs()


def test_config_files_count(monkeypatch, tmp_path):
  monkeypatch.undo()
  module = types.SimpleNamespace(__file__=str(tmp_path / "mine.py"))
  (tmp_path / "mine.py").write_text("x = 1\n")
  monkeypatch.setattr(program_identity.sys, "argv", ["main.py", "--config=mine.py:small", "--workdir=a"])
  found = []
  for name, content in (("config_config", "x = 1\n"), ("config_file_mine", "x = 1\n"), ("config_config", "x = 2\n")):
    monkeypatch.setattr(program_identity.sys, "modules", {name: module})
    (tmp_path / "mine.py").write_text(content)
    found.append(describe_configs())
  monkeypatch.setattr(program_identity.sys, "argv", ["main.py", "--config=mine.py:large", "--workdir=b"])
  assert found[0] == found[1] != found[2] != describe_configs()


def test_code_from_a_prompt_is_not_installed(monkeypatch):
  monkeypatch.undo()
  monkeypatch.setattr(program_identity.sys, "modules", {"__main__": types.SimpleNamespace()})
  with pytest.raises(NotDescribedError, match="the module __main__"):
    describe_configs()


def test_functions_are_told_apart_by_what_they_hold():
  """Closures, defaults, bound objects, hand-written gradients, and what jax.jit wraps."""
  class Own:
    def __init__(self, value):
      self.value = value

    def method(self):
      return self.value

  scaled = lambda factor: lambda x: factor * x
  with_default = [jax.jit(function) for function in (lambda x, y=1: x, lambda x, y=2: x)]
  shifted = types.FunctionType(own_quantizer.__code__, globals(), closure=())
  wrapped = [jax.jit(functools.wraps(own_quantizer)(scaled(factor))) for factor in (2, 3)]
  gradients = [jax.custom_vjp(own_quantizer) for _ in range(2)]
  gradients[0].defvjp(own_quantizer, scaled)
  gradients[1].defvjp(own_quantizer, own_quantizer)
  described = [json.dumps(_static(value)) for value in (
      scaled(2), scaled(3), *with_default, functools.partial(own_quantizer, 1), functools.partial(own_quantizer, 2),
      *wrapped, *gradients, nn.Dense(3).apply, nn.Dense(5).apply)]
  assert len(set(described)) == len(described)
  assert json.dumps(_static(scaled(2))) == described[0]
  assert _static(shifted) == _static(own_quantizer)
  for value in (Own(1).method, jax.custom_jvp(own_quantizer), object(), jax.random.key(0), {1, 2}):
    with pytest.raises(NotDescribedError):
      _static(value)


def test_values_in_closures_count():
  def scaled(values):
    return make_state(optax.chain(optax.scale(values)))

  one = describe(scaled(np.ones(3, np.float32)))
  assert describe(scaled(jnp.ones(3))) == one
  assert describe(scaled(np.float32([1, 1, 2]))) != one
  assert describe(scaled(np.ones(3, np.float64))) != one
  assert _static(jnp.asarray(0.5)) != _static(jnp.float32(0.5))  # The first is weakly typed.
