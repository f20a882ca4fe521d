import jax

# Before JAX starts its backend: tests/test_optax_contract.py shards over 8 devices.
jax.config.update("jax_num_cpu_devices", 8)
