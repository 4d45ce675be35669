"""The flags of several processes."""

import pytest

from metamix_jax.records import multihost


@pytest.mark.parametrize("flags, sentence", [
    (("host:1", 2, None),
     "--process_id is missing; --coordinator_address, --num_processes and --process_id come together"),
    (("host:1", 2, 2), "--process_id is 2; allowed are 0 to 1, below --num_processes."),
])
def test_wrong_flags_of_several_processes(flags, sentence):
  with pytest.raises(ValueError, match=f"^{sentence}"):
    multihost.connect(*flags)
