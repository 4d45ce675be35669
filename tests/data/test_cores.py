"""The number of cores, where the operating system knows of an affinity and where it does not."""

import os

from metamix_jax.data.cores import available_cores


def test_cores_that_the_process_may_use(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 6} if pid == 0 else set(), raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 8)
  assert available_cores() == 3


def test_cores_without_an_affinity(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 8)
  assert available_cores() == 8
  monkeypatch.setattr(os, "cpu_count", lambda: None)
  assert available_cores() == 1
