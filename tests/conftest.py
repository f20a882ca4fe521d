import gc

import jax
import pytest

# Before JAX starts its backend: tests/test_optax_contract.py shards over 8 devices.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_finish():
    """Spares the garbage collector what the imports made, and most of its runs."""
    gc.freeze()
    gc.set_threshold(100_000)


class Programs:
    """Counts what JAX compiles."""

    count = 0

    def __call__(self, event, *_, **__):
        self.count += event == "/jax/core/compile/backend_compile_duration"


programs = Programs()
jax.monitoring.register_event_duration_secs_listener(programs)


@pytest.fixture(scope="module")
def few_compiled_functions():
    """For what counts a function's programs by ``_cache_size``.

    That stays 0 for all but the first 8,192 functions of a process (JAX 0.10.2), until
    all are cleared; a module has some hundred.
    """
    if programs.count > 2000:
        jax.clear_caches()
        programs.count = 0
