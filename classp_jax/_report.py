"""What sums protect of each tensor, and how far it may move, as plain numbers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _diagnostics, _displacement, _paths


class TensorReport(NamedTuple):
    """What :func:`tensor_report` says of a tensor, in plain Python numbers.

    Attributes:
      size: the number of weights.
      grad_sum: the mean of the sums in the earlier state.
      unassigned: the share of weights whose sum was zero there, between 0 and 1.
      mean_bound: how far a weight can have moved since, on average.
      largest_bound: how far the one can that may have moved the farthest.
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
    """What the sums of a state protect, and how far each tensor's weights can move.

    Of the states before and behind some training it is :func:`displacement_bound`. Of a
    training that is yet to come it is a forecast, with ``after`` the state that
    :func:`collect` makes of ``before`` and the new task's batches: as far as the
    gradients there stay as large as they are at the present weights.

    Args:
      before: as for :func:`displacement_bound`.
      after: likewise.
      learning_rate: likewise.
      power: likewise.
      eps: likewise.
      bounded: likewise.
      include_current: likewise.

    Returns:
      A dictionary of one :class:`TensorReport` a tensor, keyed by the tensor's path in
      the parameters (``"Dense_0.kernel"``).

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
