import gc

import jax
import pytest

# Before JAX starts its backend: tests/test_optax_contract.py shards over 8 devices.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_finish():
    """Spares the garbage collector what the imports made, and most of its runs."""
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.fixture(scope="module")
def few_compiled_functions():
    """For what counts a function's programs by ``_cache_size``.

    Behind some thousand tests of one process that was 0 for new functions (JAX 0.10.2,
    cause unknown), and right again behind a clearing.
    """
    jax.clear_caches()
