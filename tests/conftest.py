import collections
import gc

import jax
import pytest

# Before JAX starts its backend: tests/test_optax_contract.py shards over 8 devices.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_finish():
    """Spares the garbage collector what the imports made, and most of its runs."""
    gc.freeze()
    gc.set_threshold(100_000)


_COMPILED = "/jax/core/compile/backend_compile_duration"
events = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: events.update([event])
)


@pytest.fixture(scope="module")
def few_compiled_functions():
    """For what counts a function's programs by ``_cache_size``.

    That stays 0 for all but the first 8,192 functions that a process keeps, until all
    are cleared (JAX 0.10.2); a module has some hundred.
    """
    if events[_COMPILED] > 2000:
        jax.clear_caches()
        events.clear()
