"""Elastic weight consolidation: a penalty towards the weights of an earlier task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from classp_jax import _hyperparameters, _paths
from classp_jax._transforms import at_least_float32, refuse_complex, wide_zeros


class EwcPenaltyState(NamedTuple):
    """State of :func:`ewc_penalty`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      fisher: the diagonal of the Fisher information, shaped like the parameters; 4
        bytes a weight in float32.
      anchor: the weights that the penalty draws to, shaped like the parameters; 4
        bytes a weight in float32.
    """

    count: jax.Array  # type: ignore[assignment]
    fisher: optax.Params
    anchor: optax.Params


def ewc_penalty(
    fisher: optax.Params,
    anchor: optax.Params,
    strength: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of elastic weight consolidation's penalty, taken implicitly.

    The penalty is :math:`\frac{\lambda}{2} \sum_i F_i (w_i - w^*_i)^2`. It stands
    before the optimizer, ``optax.chain(ewc_penalty(...), optax.sgd(learning_rate))``,
    and its gradient is that at the weights which the step leads to:

    .. math::

      u = \frac{g + \lambda F (w - w^*)}{1 + \alpha \lambda F}

    Before plain SGD of the same rate :math:`\alpha` this is the proximal, or backward
    Euler, step :math:`w' = w - \alpha\,(g + \lambda F (w' - w^*))`. It is stable at any
    strength: a large one pins :math:`w'` to :math:`w^*`. With a learning rate of 0 the
    gradient is the plain one, at :math:`w`, and SGD of rate :math:`\alpha` diverges
    once :math:`\alpha \lambda F > 2`. Before any other optimizer the step is damped
    likewise, but isn't exactly the proximal one.

    ``fisher`` and ``anchor`` are copied into the state, so that the compiled step
    takes them as inputs. To go on to a further task without compiling again, set others
    with :func:`set_penalty`. In float16, :math:`(w - w^*) / \alpha` overflows from
    65,504 on.

    Args:
      fisher: :math:`F \ge 0`, shaped like the parameters; see
        :func:`fisher_diagonal`. Inside :func:`optax.masked` it may have what the mask
        leaves out as well, which isn't read; so may ``anchor``.
      anchor: :math:`w^*`, shaped like the parameters: the weights that the earlier
        task was learned with.
      strength: :math:`\lambda \ge 0`; a number, an injected value or a schedule.
      learning_rate: :math:`\alpha \ge 0`, that of the SGD behind; a number, an
        injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`EwcPenaltyState`: 8 bytes a weight in float32, where :func:`classp` has
      4. Updates keep the gradient's dtype; the arithmetic is in at least float32.
      ``update`` needs ``params``. A gradient that isn't finite stays so, unlike in
      :func:`classp`, and adds nothing to the derivatives by ``strength`` and
      ``learning_rate``. Of abstract parameters (:class:`jax.ShapeDtypeStruct`), what
      ``fisher`` and ``anchor`` have abstract stays so in the state.

    Raises:
      ValueError: if ``strength`` or ``learning_rate`` is negative, not finite or not a
        scalar; in ``init``, if ``fisher`` or ``anchor`` isn't shaped like the
        parameters, ``fisher`` has a value below 0 or one that isn't finite, or a
        parameter is complex; in ``update``, without ``params`` or if a gradient is
        complex.
      TypeError: if ``strength`` or ``learning_rate`` is neither a number nor a
        schedule; in ``update``, if a gradient is an integer. A parameter may be one if
        its gradient is None.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import ewc_penalty
      >>> params = jnp.array([1.0, 1.0, 1.0])
      >>> solver = optax.chain(
      ...     ewc_penalty(
      ...         fisher=jnp.array([0.0, 1.0, 1e9]), anchor=params,
      ...         strength=4.0, learning_rate=0.25,
      ...     ),
      ...     optax.sgd(0.25),
      ... )
      >>> opt_state = solver.init(params)
      >>> for _ in range(3):
      ...     gradient = jnp.ones(3)
      ...     updates, opt_state = solver.update(gradient, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params)
      [0.75  0.875 1.   ]
      [0.5    0.8125 1.    ]
      [0.25    0.78125 1.     ]

    References:
      Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
      <https://arxiv.org/abs/1612.00796>`_, 2017: Equation 3.

    .. seealso:: :func:`fisher_diagonal`, :func:`set_penalty`
    """
    _hyperparameters.check_not_negative("strength", strength)
    _hyperparameters.check_not_negative("learning_rate", learning_rate)

    def init_fn(params: optax.Params) -> EwcPenaltyState:
        refuse_complex(params)
        own_fisher = shaped_like(params, "fisher", fisher)
        own_anchor = shaped_like(params, "anchor", anchor)
        _check_not_negative("fisher", own_fisher)
        return penalty_state(params, own_fisher, own_anchor)

    def update_fn(
        updates: optax.Updates,
        state: EwcPenaltyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, EwcPenaltyState]:
        del extra_args
        if params is None:
            raise ValueError(
                "ewc_penalty requires the current parameters: pass params to update."
            )
        return penalized(updates, state, params, strength, learning_rate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def penalty_state(
    params: optax.Params, fisher: optax.Params, anchor: optax.Params
) -> EwcPenaltyState:
    """The state before the first step, of trees shaped like the parameters."""

    # Copies, as a step that donates the parameters would take the anchor with them.
    def copy(p: Any, x: Any) -> jax.Array | jax.ShapeDtypeStruct:
        return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.array(_beside(p, x))

    count = _hyperparameters.initial_count(params)
    copies = (jax.tree.map(copy, params, x) for x in (fisher, anchor))
    return EwcPenaltyState(count, *copies)


def replaced(
    state: EwcPenaltyState, fisher: optax.Params, anchor: optax.Params
) -> EwcPenaltyState:
    """A state with copies of other trees, in the dtypes and places of its own."""

    def copy(own: Any, x: Any) -> jax.Array:
        placed: jax.Array = _beside(own, jnp.array(x, own.dtype))
        return placed

    own_fisher = shaped_like(state.fisher, "fisher", fisher)
    own_fisher = jax.tree.map(copy, state.fisher, own_fisher)
    _check_not_negative("fisher", own_fisher)
    own_anchor = shaped_like(state.anchor, "anchor", anchor)
    own_anchor = jax.tree.map(copy, state.anchor, own_anchor)
    return state._replace(fisher=own_fisher, anchor=own_anchor)


def _beside(p: Any, x: Any) -> Any:
    """An array on the devices of the parameter that it is shaped like.

    A jitted step would leave it there, and a second call compile again.
    """
    if isinstance(p, jax.core.Tracer):
        x = jnp.asarray(x)
        # The select tells the compiler, as in _factored.
        return jnp.where(False, p.astype(x.dtype), x)
    is_placed = isinstance(p, jax.ShapeDtypeStruct) or getattr(p, "committed", False)
    return jax.device_put(x, p.sharding) if is_placed else x


def penalized(
    updates: optax.Updates,
    state: EwcPenaltyState,
    params: optax.Params,
    strength: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
) -> tuple[optax.Updates, EwcPenaltyState]:
    """The gradients with the penalty's added, and the state after the step."""
    factor = _hyperparameters.at_step("strength", strength, state.count)
    rate = _hyperparameters.at_step("learning_rate", learning_rate, state.count)
    refuse_complex(updates)
    _refuse_integers("gradient", updates)

    def penalize(
        g: jax.typing.ArrayLike | None,
        w: jax.typing.ArrayLike,
        f: jax.Array,
        w_star: jax.Array,
    ) -> jax.Array | None:
        if g is None:
            return None
        # Each by itself, as float8 promotes to no other.
        dtype = jnp.promote_types(
            *(at_least_float32(jnp.result_type(x)) for x in (g, w))
        )
        alpha = jnp.asarray(rate, dtype)
        # Each factor is finite before they meet: infinity times 0 would be NaN. Up to
        # the stiffest, alpha times the stiffness has an inverse.
        limits = np.finfo(dtype)
        lambda_, f = (
            jnp.minimum(jnp.asarray(x, dtype), limits.max) for x in (factor, f)
        )
        stiffest = jax.lax.stop_gradient(1 / limits.tiny / jnp.maximum(alpha, 0.5))
        stiffness = jnp.minimum(lambda_ * f, stiffest)
        distance = jnp.asarray(w, dtype) - jnp.asarray(w_star, dtype)
        u = _implicit(jnp.asarray(g, dtype), distance, stiffness, alpha)
        return u.astype(jnp.result_type(g))

    updates = jax.tree.map(
        penalize,
        updates,
        params,
        state.fisher,
        state.anchor,
        is_leaf=lambda x: x is None,
    )
    return updates, state._replace(count=optax.safe_increment(state.count))


@jax.custom_jvp
def _implicit(
    g: jax.Array, distance: jax.Array, stiffness: jax.Array, alpha: jax.Array
) -> jax.Array:
    """``(g + stiffness distance) / (1 + alpha stiffness)``, whatever the stiffness."""
    # Term by term: as written, the numerator overflows where the fraction doesn't.
    damping = 1 + alpha * stiffness
    pull = jnp.where(stiffness == 0, 0, distance * (stiffness / damping))
    return g / damping + pull


@_implicit.defjvp
def _implicit_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    # The quotient rule takes the difference of two terms that are next to equal where
    # the stiffness is large, and divides infinity by infinity where it is larger.
    g, distance, stiffness, alpha = primals
    dg, d_distance, d_stiffness, d_alpha = tangents
    u = _implicit(*primals)
    share = 1 / (1 + alpha * stiffness)
    # What isn't finite stays so at any stiffness, and must not reach the derivative by
    # a number that all weights share.
    finite = jnp.isfinite(u) & jnp.isfinite(distance)
    g, distance, known = (jnp.where(finite, x, 0) for x in (g, distance, u))
    # Tangents first: a derivative that overflows would make NaN of a tangent of 0.
    return u, (
        share * dg
        + stiffness * share * d_distance
        + share * d_stiffness * (share * distance - share * alpha * g)
        - stiffness * share * d_alpha * known
    )


def fisher_diagonal(
    loss_fn: Callable[..., jax.typing.ArrayLike],
    params: optax.Params,
    *examples: Any,
    batch_size: int = 32,
) -> optax.Params:
    r"""The diagonal of the Fisher information, as a mean over examples.

    .. math::

      F_i = \frac{1}{N} \sum_{n=1}^{N}
        \left( \frac{\partial \ell(w, x_n)}{\partial w_i} \right)^2

    The gradient of each example is squared, not that of a batch. With the labels of
    the data this is the "empirical Fisher"; for the true one, draw the labels from
    the model.

    Each call compiles its program anew, so that it sees the present values of all that
    ``loss_fn`` reads from outside, and keeps none of them. To compile once for many
    tasks, make a program of it, ``jax.jit(functools.partial(fisher_diagonal,
    loss_fn))``, and pass what differs between tasks with the examples: what such a
    program reads from outside stays as it was at the first call.

    Where the examples are cut over devices along their leading axis, each device takes
    the gradients of its own, and all sum up once at the end. Inside a program the cut
    is known only where the mesh has explicit axes. Where it hasn't, let ``batch_size``
    divide the number of examples and be a multiple of the number of devices. Inside
    :func:`jax.shard_map` it is the mean over a device's own examples, of which
    :func:`jax.lax.pmean` makes that over all.

    Args:
      loss_fn: the loss :math:`\ell` of one example, such as its negative log
        likelihood, called as ``loss_fn(params, *example)``; it returns a scalar. It
        may read other values, such as a task's mask, from outside.
      params: the weights at which to take the gradients.
      *examples: arrays, or pytrees of them, whose leading axis is the example.
      batch_size: how many gradients are held in memory at once, on all devices
        together, but at least one per device. It needn't divide the number of examples.

    Returns:
      A pytree like ``params``, in at least float32, on the devices of ``params``.

    Raises:
      ValueError: if ``examples`` disagree in their number or there are none,
        ``batch_size`` is below 1, or a parameter is complex.
      TypeError: if ``loss_fn`` is no function or returns no scalar, a parameter isn't
        floating, or ``batch_size`` is no integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import fisher_diagonal
      >>> def loss_fn(params, x, y): return 0.5 * (params["w"] * x - y) ** 2
      >>> x, y = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])
      >>> fisher = fisher_diagonal(loss_fn, {"w": jnp.array(1.0)}, x, y)
      >>> print(fisher["w"])  # the gradients are 1 and 4
      8.5

    References:
      Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
      <https://arxiv.org/abs/1612.00796>`_, 2017: Section 2.

    .. seealso:: :func:`ewc_penalty`
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function, got {loss_fn!r}.")
    refuse_complex(params)
    _refuse_integers("parameter", params)
    _hyperparameters.check_positive_int("batch_size", batch_size)
    shapes = {jnp.shape(x) for x in jax.tree.leaves(examples)}
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            "examples must be arrays that agree in their leading axis, one entry an"
            f" example; got the shapes {sorted(shapes)}."
        )
    (number,) = {shape[0] for shape in shapes}
    if number == 0:
        raise ValueError("examples must hold at least one example, got none.")

    # Compiled anew at each call: a program that is kept would know what the loss reads
    # from outside as it was, and keep it alive.
    @jax.jit
    @functools.partial(_with_cut_axes_automatic, examples)
    def mean(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
        return _mean_squared_gradient(loss_fn, batch_size, shards, params, examples)

    shards = _parts(examples)
    return jax.tree.map(_beside, params, mean(params, examples))


def _mean_squared_gradient(
    loss_fn: Callable[..., jax.typing.ArrayLike],
    batch_size: int,
    shards: int,
    params: optax.Params,
    examples: tuple[Any, ...],
) -> optax.Params:
    number = len(jax.tree.leaves(examples)[0])
    params = _each_devices_own(params, examples)
    # A device has a share of each batch, out of its own examples, and a sum.
    own = number // shards
    steps = -(-own // max(batch_size // shards, 1))
    share = -(-own // steps)

    def rows(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, own, *x.shape[1:])
        again = x[:, : share * steps - own]  # Filled up by some that aren't counted.
        x = jnp.concatenate([x, again], axis=1)
        return x.reshape(shards * share, steps, *x.shape[2:])

    examples = jax.tree.map(rows, examples)
    row = jnp.arange(shards * share) % share

    def add(total: optax.Params, step: jax.Array) -> tuple[optax.Params, None]:
        batch = jax.tree.map(lambda x: x[:, step], examples)
        grads = jax.vmap(lambda example: jax.grad(loss_fn)(params, *example))(batch)
        counts = row * steps + step < own

        def sum_squares(s: jax.Array, g: jax.Array) -> jax.Array:
            where = counts.reshape(-1, *[1] * (g.ndim - 1))
            squares = jnp.where(where, jnp.square(g.astype(s.dtype)), 0)
            return s + jnp.sum(squares.reshape(shards, share, *g.shape[1:]), axis=1)

        return jax.tree.map(sum_squares, total, grads), None

    zeros = jax.tree.map(
        lambda s: jnp.broadcast_to(s, (shards, *s.shape)), wide_zeros(params)
    )
    total, _ = jax.lax.scan(add, zeros, jnp.arange(steps))
    return jax.tree.map(lambda s: jnp.sum(s, axis=0) / number, total)


def _each_devices_own(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
    """Parameters that differ among devices, to JAX, wherever the examples do.

    Inside :func:`jax.shard_map` a gradient by what all devices share is their sum, and
    would be squared as such.
    """
    types = [x.aval for x in jax.tree.leaves(examples)]
    # JAX calls it so, and called it vma before 0.10.
    types = [getattr(t, "manual_axis_type", None) or t for t in types]
    axes = {
        axis for t in types for axis in getattr(t, "varying", getattr(t, "vma", ()))
    }
    if not axes:
        return params
    differs = jax.lax.axis_index(tuple(axes)) < 0  # Never, which JAX doesn't know.
    return jax.tree.map(lambda p: jnp.where(differs, p, p), params)


def _parts(examples: tuple[Any, ...]) -> int:
    """Into how many parts devices have cut the axis of examples, as far as is known."""
    leaves = jax.tree.leaves(examples)
    return max(
        len(x) // sharding.shard_shape(x.shape)[0]
        for x, sharding in zip(leaves, _shardings(examples), strict=True)
    )


def _shardings(examples: tuple[Any, ...]) -> list[jax.sharding.Sharding]:
    """How arrays lie on devices, as far as is known."""
    somewhere = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Of what is traced the type says it, where the mesh has explicit axes.
    known = (
        x.aval if isinstance(x, jax.core.Tracer) else x
        for x in jax.tree.leaves(examples)
    )
    shardings = (getattr(x, "sharding", None) or somewhere for x in known)
    # Inside jax.shard_map an array is all that there is to see.
    return [
        somewhere if getattr(getattr(s, "mesh", None), "manual_axes", ()) else s
        for s in shardings
    ]


def _with_cut_axes_automatic(
    examples: tuple[Any, ...], mean: Callable[..., optax.Params]
) -> Callable[..., optax.Params]:
    """Leaves to the compiler the explicit axes of a mesh that the examples are cut on.

    JAX refuses to cut an axis of examples into batches otherwise.
    """
    explicit = {
        axis: sharding.mesh
        for sharding in _shardings(examples)
        if isinstance(sharding, NamedSharding)
        for axis in jax.tree.leaves(tuple(sharding.spec))
        if axis in getattr(sharding.mesh, "explicit_axes", ())
    }
    if not explicit:
        return mean
    mesh = next(iter(explicit.values()))

    def automatic(params: optax.Params, examples: tuple[Any, ...]) -> optax.Params:
        like_params = jax.tree.map(
            lambda p: NamedSharding(mesh, jax.typeof(p).sharding.spec), params
        )
        free = jax.sharding.auto_axes(
            mean, axes=tuple(explicit), out_sharding=like_params
        )
        fisher: optax.Params = free(params, examples)
        return fisher

    return automatic


@jax.jit
def _is_valid_fisher(x: jax.Array) -> jax.Array:
    return jnp.all((x >= 0) & jnp.isfinite(x))


def _check_not_negative(name: str, tree: optax.Params) -> None:
    """Raises a ``ValueError`` where a value that is known is negative or not finite."""
    for path, x in _paths.by_path(tree).items():
        if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
            continue
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            continue
        with jax.ensure_compile_time_eval():  # Also while init is traced.
            valid = bool(_is_valid_fisher(x))
        if not valid:
            raise ValueError(
                f"{name} must be finite and at least 0; {path or 'it'} is not."
            )


def _refuse_integers(what: str, tree: Any) -> None:
    """Raises a ``TypeError`` that names a leaf that isn't floating."""
    for path, x in _paths.by_path(tree).items():
        if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
            raise TypeError(
                f"Every {what} must be floating; {path or 'this one'} is"
                f" {jnp.asarray(x).dtype}."
            )


def shaped_like(params: optax.Params, name: str, tree: optax.Params) -> Any:
    """A tree's leaves in the parameters' structure, less what a mask leaves out.

    Raises:
      ValueError: it hasn't what they have, or that in another shape; by name.
    """
    if not jax.tree.leaves(params):  # optax.tree.map_params gives a placeholder.
        return params

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    nodes = _paths.by_path(params, is_leaf=is_masked)
    expected = {path: p for path, p in nodes.items() if not is_masked(p)}
    left_out = nodes.keys() - expected.keys()
    below = tuple(path + step for path in left_out for step in ".[")
    actual = {
        path: x
        for path, x in _paths.by_path(tree).items()
        if path not in left_out and not path.startswith(below)
    }
    _paths.check_names(f"tensor of {name}", expected, actual)
    for path, p in expected.items():
        if jnp.shape(actual[path]) != jnp.shape(p):
            raise ValueError(
                f"{name} must be shaped like the parameters: {path or 'it'} must have"
                f" shape {jnp.shape(p)}, got {jnp.shape(actual[path])}."
            )
    # By path, as the nodes may be others: those of flax.nnx.Optimizer's state are.
    return jax.tree.unflatten(
        jax.tree.structure(params), [actual[path] for path in expected]
    )
