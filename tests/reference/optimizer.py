"""CLASSP in PyTorch; it ships with the verification command, which needs it too."""

from classp_jax.verify.reference import Classp, ClasspGram

__all__ = ["Classp", "ClasspGram"]
