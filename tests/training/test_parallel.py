"""The host is two steps ahead of the devices."""

import jax.numpy as jnp
import numpy as np

from metamix_jax.training import parallel


class Output:
  """An array that says when it is waited for or read."""

  def __init__(self, number, events):
    self.number, self.events = number, events

  def block_until_ready(self):
    self.events.append(f"wait {self.number}")
    return self

  def copy_to_host_async(self):
    pass

  def __array__(self, *unused_args, **unused_options):
    self.events.append(f"read {self.number}")
    return np.array(self.number)


def test_steps_in_flight_are_done_when_all_their_outputs_are_there():
  class Slow:
    ready = False

    def is_ready(self):
      return self.ready

    def block_until_ready(self):
      self.ready = True

  in_flight, slow = parallel.StepsInFlight(ahead=2), Slow()
  assert in_flight.done()
  in_flight.add({"loss": jnp.float32(1).block_until_ready()})
  assert in_flight.done()
  in_flight.add({"loss": slow})
  assert not in_flight.done()
  slow.ready = True
  assert in_flight.done()


def test_the_host_is_two_steps_ahead():
  events = []

  def step(number):
    events.append(f"step {number}")
    return {"loss": Output(number, events)}

  in_flight = parallel.StepsInFlight(ahead=2)
  for number in range(4):
    in_flight.add(step(number))
  assert events == ["step 0", "step 1", "step 2", "wait 0", "step 3", "wait 1"]
  in_flight.wait()
  assert events[6:] == ["wait 2", "wait 3"]
  events.clear()
  fetched = list(parallel.fetch((step(number) for number in range(4)), ahead=2))
  assert events == ["step 0", "step 1", "step 2", "read 0", "step 3", "read 1", "read 2", "read 3"]
  assert fetched == [{"loss": number} for number in range(4)]
