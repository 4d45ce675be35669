"""Settings of hypothesis for all property tests: importing this file applies them.

The examples are the same at each start (derandomize), few in the fast tests and many in the slow ones.
"""

import hypothesis

FAST = hypothesis.settings(
    deadline=None, derandomize=True, database=None, max_examples=40, print_blob=False,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture])
hypothesis.settings.register_profile("metamix_jax", FAST)
hypothesis.settings.load_profile("metamix_jax")
# For a fuzzer: 3,000 examples, other ones at each start, and the failing one is printed.
MANY = hypothesis.settings(FAST, derandomize=False, max_examples=3000, print_blob=True)
