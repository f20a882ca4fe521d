import jax
import pytest

# Before JAX starts its backend: tests/test_optax_contract.py shards over 8 devices.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def few_compiled_functions():
    """For what counts a function's programs.

    JAX keeps those of 8,192 functions, and from there on counts none of a new one.
    """
    jax.clear_caches()
