"""The verification command, ``python -m classp_jax.verify``; needs PyTorch."""
