"""Runs that are killed and started again with the same command end in the same network; nothing saved is lost."""

import json
import random
import re
import signal
import time

import jax
import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.records import interruption
from metamix_jax.records.interruption import EXIT_INTERRUPTED
from metamix_jax.training.context import prepare
from tests.helpers.configs import tiny_config
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import EPOCHS, STEPS_PER_EPOCH, StopAfter, parameters, start


def results(workdir):
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  return {name: value for name, value in summary.items() if name != "seconds"}


def metrics(workdir):
  """The lines of metrics.jsonl without what is a matter of time."""
  lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{name: value for name, value in line.items() if name not in ("wall_seconds", "images_per_second")}
          for line in lines]


# In turns; every fourth attempt is two starts on the folder at once.
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGHUP)
TWO_STARTS_EVERY = 4


def start_two(*arguments):
  """Starts two processes on one folder at once, and returns the one that works; the other must be refused."""
  processes = [start(*arguments), start(*arguments)]
  while all(process.poll() is None for process in processes):
    time.sleep(0.05)
  refused, = (process for process in processes if process.poll() is not None)
  working, = (process for process in processes if process is not refused)
  sentence, _ = refused.communicate()
  assert refused.returncode == 2 and f"in use by process {working.pid}" in sentence, sentence
  return working


@pytest.mark.slow
@pytest.mark.parametrize("num_kills, scale", [(10, 1), (50, 5)])
def test_killed_runs_end_in_the_same_network(num_kills, scale, data_dir, tmp_path):
  """Signals come at random moments after random steps, saves among them: every second step saves."""
  whole = tmp_path / "uninterrupted"
  process = start(whole, data_dir, scale)
  output, _ = process.communicate()
  assert process.returncode == 0, output

  workdir, rng, kills, output = tmp_path / "killed", random.Random(num_kills), 0, []
  # Lines of an attempt before its kill: half of what would end the run in so many attempts, because steps go on until
  # the signal is there.
  most_lines = STEPS_PER_EPOCH * scale * sum(EPOCHS.values()) // num_kills // 2
  while True:
    process = (start if kills % TWO_STARTS_EVERY else start_two)(workdir, data_dir, scale)
    last_line, lines = rng.randint(3, most_lines), 0
    for line in process.stdout:
      output.append(line)
      lines += bool(re.match(r"\w+: step", line))
      if kills < num_kills and lines == last_line:
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(SIGNALS[kills % len(SIGNALS)])
        kills += 1
        break
    output.extend(process.stdout)
    code = process.wait()
    process.stdout.close()
    text = "".join(output)
    assert "Traceback" not in text and code in (0, EXIT_INTERRUPTED, -signal.SIGKILL), text
    if code == 0:
      break
  assert kills == num_kills, f"only {kills} kills before the end"
  assert results(workdir) == results(whole) | {"config": results(workdir)["config"]}
  jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(whole))
  assert metrics(workdir) == metrics(whole)


@pytest.mark.slow
def test_stopped_runs_end_in_the_same_network(data_dir, tmp_path):
  """Stopped in each training phase and between phases, with two targets; the slow test above does it with signals and
  processes."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps, config.metrics.every_steps, config.evaluate_every_epochs = 2, 2, 1
  config.network.name = "tests.helpers.own_network:PlainNetwork"
  with config.network.unlocked():
    config.network.options = {"features": (4, 8)}
  config.arch.target_gbops, config.arch.train_targets = (0.0002, 0.00024), (0.00024,)
  whole = experiment.run(prepare(config), tmp_path / "whole")
  workdir = tmp_path / "stopped"
  for questions, place in (
      (2, "step 3/5 of pretraining"), (10, "step 8/10 of bit_selection"), (4, "meta_evaluation"),
      (5, "step 3/5 of stage_a_0.00024"), (6, "step 1/5 of stage_b_0.00024")):
    with pytest.raises(interruption.Interrupted, match=f"^stopped after {place}$"):
      experiment.run(prepare(config), workdir, StopAfter(questions))
    with (workdir / "metrics.jsonl").open("a") as file:  # As a SIGKILL later on leaves it: ahead of the checkpoint.
      phase = place.split()[-1].replace("meta_evaluation", "stage_a_0.00024")
      file.write(json.dumps({"phase": phase, "step": 9, "loss": 99.0}) + '\n{"phase": "stage_a", "st')
  summary = experiment.run(prepare(config), workdir)
  assert {name: value for name, value in summary.items() if name != "seconds"} == {
      name: value for name, value in whole.items() if name != "seconds"}
  for phase in ("bit_selection", "stage_b_0.00024"):
    jax.tree.map(np.testing.assert_array_equal, parameters(workdir, phase), parameters(tmp_path / "whole", phase))
  for phase in ("bit_selection", "meta_evaluation"):
    files = [folder / "checkpoints" / f"{phase}.json" for folder in (workdir, tmp_path / "whole")]
    one, other = (json.loads(path.read_text()) | {"seconds": None} for path in files)
    assert one == other
  lines = metrics(workdir)
  assert lines == metrics(tmp_path / "whole")
  # Each second step and the last of the phases, and the evaluations after the only epoch of three of them.
  assert [line["step"] for line in lines] == [2, 4, 5, 5] + [2, 4, 6, 8, 10] + 2 * [2, 4, 5, 5]
  # Every name is in the table of docs/metrics.md, and every name there but those of options is in some line.
  table = (ROOT / "docs" / "metrics.md").read_text().partition("## Names")[2].partition("\n## ")[0]
  documented = re.findall(r"^\| `([\w/]+)` \|", table, re.M)
  patterns = {name: re.compile(re.sub("TARGET|LAYER|BITS", ".+", name)) for name in documented}
  written = {name for text in (workdir / "metrics.jsonl").read_text().splitlines() for name in json.loads(text)}
  of_options = {"search/TARGET/multiplier/COST"}  # config.arch.at_most; tests/training/test_search_limits.py has it.
  assert len(documented) == 18 and of_options < set(documented)
  assert {name for name in written if not any(map(lambda p, name=name: p.fullmatch(name), patterns.values()))} == set()
  assert {name for name, pattern in patterns.items() if not any(map(pattern.fullmatch, written))} == of_options
