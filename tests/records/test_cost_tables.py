"""Cost tables in CSV files."""

import dataclasses
import json

import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, gbops
from metamix_jax.records.cost_tables import check_costs, with_costs

LAYERS = (
    LayerCost("stem", 10, 10, (8,), 8, "conv", "signed"), LayerCost("a/b", 10, 10, (3, 4), 4, "conv", "unsigned"))
ROWS = (
    "layer,activation_bits,weight_bits,latency on a phone [ms]\n"
    "stem,8,8,0.5\na/b,3,4,1\n\na/b, 4 ,4, 2.5e0\na/b,3,8,9\n")


def write(folder, text):
  (folder / "table.csv").write_text(text)
  return str(folder / "table.csv")


def test_a_table_with_and_without_weight_bits(tmp_path):
  layers = with_costs(write(tmp_path, ROWS), LAYERS)
  assert [(layer.cost.name, layer.cost.unit, layer.cost.values) for layer in layers] == [
      ("latency on a phone", "ms", (0.5,)), ("latency on a phone", "ms", (1.0, 2.5))]
  layers = with_costs(write(tmp_path, "\ufefflayer,activation_bits,E[mJ]\na/b,3,1\na/b,4,2\n"), LAYERS)
  assert gbops(layers, {"stem": 8, "a/b": 4}) == 2.0 and layers[0].cost.unit == "mJ"


def test_computed_costs():
  assert with_costs("bops", LAYERS) == LAYERS and all(layer.cost is None for layer in with_costs("bops", LAYERS))
  assert [layer.cost.values for layer in with_costs("activation_bytes", LAYERS)] == [(10.0,), (3.75, 5.0)]


@pytest.mark.parametrize("text, sentence", [
    ("", r"begins with ''; it must begin with 'layer,activation_bits,NAME \[UNIT\]'"),
    ("layer,activation_bits,latency\n", "begins with 'layer,activation_bits,latency'"),
    ("layer,bits,latency [ms]\n", "begins with 'layer,bits,latency "),
    ("activation_bits,layer,latency [ms]\n", "begins with 'activation_bits,layer"),
    (ROWS.replace("1\n", "fast\n", 1), "line 3, is 'a/b,3,4,fast'; it must have a layer, whole numbers of bits"),
    (ROWS.replace("a/b,3,4,1", "a/b,3.0,4,1"), "line 3, is 'a/b,3.0,4,1'"),
    (ROWS.replace("a/b,3,4,1", "a/b,3,1"), "line 3, is 'a/b,3,1'"),
    (ROWS.replace("a/b,3,4,1", "a/b,3,4,1,1"), "line 3, is 'a/b,3,4,1,1'"),
    (ROWS + "a/b,3,4,1\n", "line 7, has layer a/b at 3 activation bits once more"),
    (ROWS.replace("1\n", "nan\n", 1), "has the value nan for layer a/b"),
    (ROWS.replace("a/b,3,4,1\n", ""), "has no value for layer a/b at 3 activation bits and 4 weight bits")])
def test_a_wrong_table_is_one_sentence(tmp_path, text, sentence):
  with pytest.raises(UserError, match=sentence) as caught:
    with_costs(write(tmp_path, text), LAYERS)
  assert "config.arch.cost=" in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"config.arch.cost=bop cannot be read \(No such file .* allowed are bops, act"):
    with_costs("bop", LAYERS)
  (tmp_path / "table.csv").write_bytes(b"layer\xff")
  with pytest.raises(UserError, match="cannot be read"):
    with_costs(str(tmp_path / "table.csv"), LAYERS)


def test_rows_of_a_layer_that_is_not_searched_must_fit_it(tmp_path):
  """Left out, the stem costs nothing; with rows of other weight bits alone it would, unsaid."""
  rows = "layer,activation_bits,weight_bits,latency [ms]\na/b,3,4,1.0\na/b,4,4,2.0\n"
  assert with_costs(write(tmp_path, rows), LAYERS)[0].cost.values == (0.0,)
  with pytest.raises(UserError, match="has no value for layer stem at 8 activation bits and 8 weight bits"):
    with_costs(write(tmp_path, rows + "stem,8,4,5.0\n"), LAYERS)


def test_a_run_does_not_go_on_with_another_table(tmp_path):
  def start(layers):
    entries = [{name: value for name, value in dataclasses.asdict(layer).items() if name != "cost" or value}
               for layer in layers]
    (tmp_path / "network.json").write_text(json.dumps({"layers": entries}))

  timed, other = (with_costs(write(tmp_path, text), LAYERS) for text in (ROWS, ROWS.replace("2.5e0", "2.6")))
  check_costs(tmp_path, timed, ())  # No network.json yet.
  start(timed)
  check_costs(tmp_path, timed, ())
  for layers in (other, LAYERS):
    with pytest.raises(UserError, match="holds a run with other costs: those of layer (a/b|stem) were .* bring the"):
      check_costs(tmp_path, layers, ())
  start(LAYERS)
  check_costs(tmp_path, LAYERS, ())
  with pytest.raises(UserError, match="those of layer stem were None and are"):
    check_costs(tmp_path, timed, ())
