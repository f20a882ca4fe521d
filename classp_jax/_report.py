"""A report per tensor: how much is protected, and how far weights may move."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _diagnostics, _displacement, _paths


class TensorReport(NamedTuple):
    """What :func:`tensor_report` says about one tensor, in plain Python numbers.

    Attributes:
      size: the number of weights.
      grad_sum: the mean gradient sum in the earlier state.
      unassigned: the share of weights whose sum is zero there, between 0 and 1.
      mean_bound: the mean over the weights of :func:`displacement_bound`.
      largest_bound: the largest :func:`displacement_bound` of a weight.
    """

    size: int
    grad_sum: float
    unassigned: float
    mean_bound: float
    largest_bound: float


def tensor_report(
    before: optax.OptState,
    after: optax.OptState,
    learning_rate: float | jax.Array,
    *,
    power: float = 1.0,
    eps: float | jax.Array = 1e-5,
    bounded: bool = False,
    include_current: bool = True,
) -> dict[str, TensorReport]:
    """Reports per tensor how much is protected, and how far its weights can move.

    With the states before and after some training, the report summarises
    :func:`displacement_bound`. It can also forecast a training that is still to come:
    let :func:`collect` make ``after`` from ``before`` and the new task's batches. The
    forecast assumes that gradients stay as large as they are at the present weights.

    Args:
      before: as for :func:`displacement_bound`.
      after: as for :func:`displacement_bound`.
      learning_rate: as for :func:`displacement_bound`.
      power: as for :func:`displacement_bound`.
      eps: as for :func:`displacement_bound`.
      bounded: as for :func:`displacement_bound`.
      include_current: as for :func:`displacement_bound`.

    Returns:
      A dictionary with one :class:`TensorReport` per tensor, keyed by the tensor's path
      in the parameters (``"Dense_0.kernel"``).

    Raises:
      ValueError: as :func:`displacement_bound`.
      TypeError: as :func:`displacement_bound`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp, collect, interop, tensor_report
      >>> params = {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array(0.0)}
      >>> def loss_fn(params, batch):
      ...     return params["kernel"] @ batch + params["bias"]
      >>> optimizer = classp(0.1)
      >>> grad_sum = {"kernel": jnp.array([9.0, 0.0]), "bias": jnp.array(3.0)}
      >>> opt_state = interop.with_grad_sum(optimizer.init(params), grad_sum)
      >>> after = collect(optimizer, loss_fn, opt_state, params, [jnp.ones(2)] * 10)
      >>> for path, row in tensor_report(opt_state, after, learning_rate=0.1).items():
      ...     print(path, row.size, row.grad_sum, row.unassigned,
      ...           f"{row.mean_bound:.2f} {row.largest_bound:.2f}")
      bias 1 3.0 0.0 0.14 0.14
      kernel 2 4.5 0.5 0.41 0.75
    """
    bounds = _displacement.displacement_bound(
        before,
        after,
        learning_rate,
        power=power,
        eps=eps,
        bounded=bounded,
        include_current=include_current,
    )
    means = _diagnostics.average_grad_sum(before, per_tensor=True)
    shares = _diagnostics.unassigned_share(before, per_tensor=True)
    return {
        path: TensorReport(
            bound.size,
            float(means[path]),
            float(shares[path]),
            float(jnp.sum(bound) / max(bound.size, 1)),
            float(jnp.max(bound, initial=0)),
        )
        for path, bound in _paths.by_path(bounds).items()
    }
