"""Bars on a terminal, plain lines elsewhere; a terminal is a pseudo-terminal whose screen is drawn here."""

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time

import jax.numpy as jnp
import pytest

from metamix_jax.records import progress
from metamix_jax.records.clock import Clock


class Screen:
  """What a terminal of many rows shows after the control characters that tqdm writes."""

  def __init__(self, text):
    self.rows, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[A|[^\r\n\x1b]+", text):
      if part == "\r":
        column = 0
      elif part == "\n":
        row += 1
        self.rows += [""] * (row + 1 - len(self.rows))
      elif part == "\x1b[A":
        row -= 1
      else:
        self.rows[row] = self.rows[row][:column].ljust(column) + part + self.rows[row][column + len(part):]
        column += len(part)
    self.rows = [text.rstrip() for text in self.rows]


@pytest.fixture
def on_terminal(monkeypatch):
  """A function that runs another one with stdout a terminal of 120 columns, and returns what was written."""
  def run(function):
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    written = []

    def read():
      try:
        while chunk := os.read(controller, 4096):
          written.append(chunk)
      except OSError:  # The other end is closed.
        pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(terminal, "w") as stdout, monkeypatch.context() as patch:
      patch.setattr(sys, "stdout", stdout)
      function()
    reader.join()
    os.close(controller)
    return b"".join(written).decode()

  return run


def train():
  """Six steps that wait for their batches; after the third an evaluation of three batches, and lines of the log in
  both loops."""
  logger = logging.getLogger("metamix_jax")
  handler = progress.LineHandler()
  logger.addHandler(handler)
  level, propagate, logger.propagate = logger.level, logger.propagate, False
  logger.setLevel(logging.INFO)
  try:
    clock = Clock()
    bar = progress.Progress("stage_a", 6, batch_size=64, every_seconds=0.03, clock=clock)

    def batches():
      for step in range(1, 7):
        time.sleep(0.12)
        yield step

    for step in clock.timed_batches(batches(), lambda: True):
      if step > 1:
        clock.count_step()
      bar.after_step({"loss": jnp.float32(step)}, compiled=step == 1)
      if step == 3:
        for batch in progress.show_bar(range(3), "evaluation", 3):
          time.sleep(0.12)
          if batch == 1:
            logger.info("a line during the evaluation")
        logger.warning("alarm: a line between two steps")
    bar.close()
    print("The next line.")
  finally:
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_bar_with_the_time_left_and_whole_lines_above_it(on_terminal):
  text = on_terminal(train)
  assert re.search(r"stage_a:  67%\|█+.*\| 4/6 \[00:\d\d<00:0\d", text)  # Done, and time left.
  assert re.search(r"evaluation:  67%\|█+.*\| 2/3 \[00:\d\d<00:0\d", text)
  rows = [row for row in Screen(text).rows if row]
  assert rows[:2] == ["a line during the evaluation", "alarm: a line between two steps"]
  # The bar of the evaluation is gone; the full one stays, with the last values behind it.
  assert re.fullmatch(r"stage_a: 100%\|█+\| 6/6 \[00:\d\d<00:00, .*loss 6\.0000  \d+ images/s\]", rows[2])
  assert rows[3:] == ["The next line."]
  assert "compiled and done" not in text


def test_plain_lines_elsewhere(capfd):
  train()
  lines = capfd.readouterr().out.splitlines()
  assert lines[0] == "stage_a: step 1/6 compiled and done"
  assert re.fullmatch(r"stage_a: step 2/6  loss 2\.0000  \d+ images/s  data [1-9]\d+ %  0:00 left", lines[1])
  assert lines[3:5] == ["a line during the evaluation", "alarm: a line between two steps"]
  assert lines[-1] == "The next line." and len(lines) == 9
  assert not any("\r" in line or "%|" in line for line in lines)  # As bars have.


def test_a_continued_loop_starts_its_bar_where_it_is(on_terminal):
  def steps():
    bar = progress.Progress("stage_b", 1000, batch_size=64, every_seconds=1e6, clock=Clock(), first_step=900)
    bar.after_step({"loss": jnp.float32(1)}, compiled=True)
    bar.close()

  assert re.search(r"stage_b:  90%\|█+.*\| 90[01]/1000 \[", on_terminal(steps))
