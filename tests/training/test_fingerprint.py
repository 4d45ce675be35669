"""Fingerprints of networks."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.training.fingerprint import digest_of_state, fingerprint
from metamix_jax.training.state import MetaState

ZERO = np.zeros((), np.int32)
STATE = MetaState(
    step=ZERO, bad_step=ZERO, seed=ZERO, phase=ZERO, weights={"a": {"kernel": np.arange(6, dtype=np.float32)}},
    step_sizes={"a": {"activation": np.float32([0.5, 0.25])}}, batch_stats={"n": {"mean": np.float32([0.0])}},
    optimizer_state={}, network=None, optimizer=None)


def test_a_fingerprint_by_hand():
  text = json.dumps([[["a", 3], ["b", 4]], digest_of_state(STATE)])
  assert fingerprint(STATE, {"b": 4, "a": 3}) == hashlib.sha256(text.encode()).hexdigest()


def test_every_bit_and_every_number_counts_and_nothing_else():
  first = fingerprint(STATE, {"a": 3})
  assert fingerprint(jax.tree.map(jnp.asarray, STATE), {"a": 3}) == first
  assert fingerprint(STATE.replace(step=ZERO + 1, optimizer_state={"m": ZERO}), {"a": 3}) == first
  changed = np.arange(6, dtype=np.float32)
  changed[5] = np.nextafter(changed[5], np.float32(9))
  others = [
      fingerprint(STATE, {"a": 4}), fingerprint(STATE, {}),
      fingerprint(STATE.replace(weights={"a": {"kernel": changed}}), {"a": 3}),
      fingerprint(STATE.replace(weights={"b": {"kernel": np.arange(6, dtype=np.float32)}}), {"a": 3}),
      fingerprint(STATE.replace(step_sizes={"a": {"activation": np.float32([0.25, 0.5])}}), {"a": 3}),
      fingerprint(STATE.replace(batch_stats={"n": {"mean": np.float32([-0.0])}}), {"a": 3})]
  assert len({first, *others}) == 7
