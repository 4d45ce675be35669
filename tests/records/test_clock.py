"""A clock whose time is set by hand."""

import time

import pytest

from metamix_jax.records.clock import Clock


@pytest.fixture
def now(monkeypatch):
  """The time in seconds, a list of one number."""
  value = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: value[0])
  return value


def test_compilation_evaluation_and_saving_are_not_time_of_steps(now):
  clock = Clock()
  began = clock.seconds
  now[0] += 30
  clock.leave_out(began)  # A step that compiled for 30 s.
  start = clock.mark()
  for _ in range(4):
    now[0] += 0.5
    clock.count_step()
  with clock.paused():
    now[0] += 7
  assert clock.seconds == 39.0
  assert clock.seconds_per_step(start) == 0.5
  assert clock.seconds_per_step(clock.mark()) is None


def test_a_pause_that_an_exception_ends_is_left_out(now):
  clock = Clock()
  with pytest.raises(KeyError), clock.paused():
    now[0] += 5
    raise KeyError
  start = clock.mark()
  now[0] += 2
  clock.count_step()
  assert (clock.seconds, clock.seconds_per_step(start)) == (7.0, 2.0)


def test_a_phase_that_is_continued_goes_on_counting(now):
  clock = Clock()
  now[0] += 10
  clock.continue_from(60.0)
  start = clock.mark()
  now[0] += 3
  clock.count_step()
  assert (clock.seconds, clock.seconds_per_step(start)) == (63.0, 3.0)


def test_the_seconds_of_a_part_are_kept(now):
  clock = Clock()

  def compute(number):
    now[0] += 0.25
    return number

  assert clock.measure("targets", compute, 3) == 3
  assert clock.parts == {"targets": 0.25}


def test_waiting_for_a_batch_counts_where_no_step_is_in_flight(now):
  """Batches take 1, 2 and 4 s; a step of 5 s is still running when the second is there."""
  clock = Clock()

  def batches():
    for number, seconds in enumerate((1, 2, 4)):
      now[0] += seconds
      yield number

  start, idle = clock.mark(), [True, False, True]
  numbers = []
  for number in clock.timed_batches(batches(), lambda: idle[len(numbers)]):
    now[0] += 5
    clock.count_step()
    numbers.append(number)
  assert numbers == [0, 1, 2]
  assert clock.share_waited(start) == (1 + 4) / (1 + 2 + 4 + 3 * 5)
  assert clock.share_waited(clock.mark()) == 0
