"""Alpha in the results of a bit selection."""

import dataclasses
import json

import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.alpha import BIT_SELECTION, read_alpha, with_alpha

LAYERS = (
    LayerCost("stem", 10, 10, (8,), 8, "conv", "signed"), LayerCost("a", 10, 10, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b/c", 10, 10, (4, 8), 4, "dense", "unsigned"))
RNG = np.random.default_rng(0)
ALPHA = {"a": RNG.normal(0, 1e-3, (2, 3)).astype(np.float32), "b/c": RNG.normal(0, 9, (2, 2)).astype(np.float32)}
RESULTS = {"targets": [{"target_gbops": 0.1 + 0.2, "bits": {}}, {"target_gbops": 1.5, "bits": {}}], "seconds": 1.0}


def write(folder, results):
  (folder / BIT_SELECTION).parent.mkdir(exist_ok=True)
  (folder / BIT_SELECTION).write_text(json.dumps(results))
  (folder / "network.json").write_text(json.dumps({"layers": [dataclasses.asdict(layer) for layer in LAYERS]}))


def test_every_bit_of_alpha_survives_the_file(tmp_path):
  results = with_alpha(RESULTS, ALPHA)
  write(tmp_path, results)
  alpha = read_alpha(tmp_path, LAYERS)
  assert list(alpha) == [0.1 + 0.2, 1.5]
  for index, target in enumerate(alpha):
    assert list(alpha[target]) == ["a", "b/c"]
    for name, values in alpha[target].items():
      assert values.dtype == np.float32
      np.testing.assert_array_equal(values, ALPHA[name][index])
  assert results["seconds"] == 1.0 and "alpha" not in RESULTS["targets"][0]


@pytest.mark.parametrize("change, sentence", [
    (lambda target: target.pop("alpha"), "has no alpha; its run took its bits from a file"),
    (lambda target: target["alpha"].pop("a"), "layer 'a' is missing in its alpha"),
    (lambda target: target["alpha"].update(d=[1, 2]), "layer 'd' is unknown in its alpha"),
    (lambda target: target["alpha"].update(a=[1, 2]), r"alpha of layer 'a' is \[1, 2\]; it must be 3 numbers"),
    (lambda target: target["alpha"].update(a=[1, 2, float("nan")]), "it must be 3 numbers"),
    (lambda target: target["alpha"].update(a="abc"), "cannot be read"),
])
def test_a_damaged_alpha_is_refused_in_one_sentence(tmp_path, change, sentence):
  results = with_alpha(RESULTS, ALPHA)
  change(results["targets"][0])
  write(tmp_path, results)
  with pytest.raises(UserError, match=sentence) as caught:
    read_alpha(tmp_path, LAYERS)
  assert str(tmp_path / BIT_SELECTION) in str(caught.value) and "\n" not in str(caught.value)


def test_a_search_that_is_not_finished(tmp_path):
  with pytest.raises(UserError, match="has no checkpoints/bit_selection.json; allowed is the folder of a run whose"):
    read_alpha(tmp_path, LAYERS)
