"""The accumulator's error after many additions, against exact arithmetic.

``python -m benchmarks.accumulation`` adds the same |gradient| again and again, and
gradients that differ, to accumulators of ``classp`` in each dtype. It takes minutes.
"""

import argparse
import functools
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

import classp_jax
from examples.report.table import table
from examples.runner.arguments import positive_int
from tests import helpers

DTYPES = ("bfloat16", "float32", "float64")
ADDITIONS = (10**4, 10**6, 10**7, 10**8)
EQUAL = np.float32(0.1)
_CYCLE = 2**16


def streams() -> np.ndarray:
    """Two streams of gradients, (2, cycle), each repeated: all equal, and normal."""
    normal = np.random.default_rng(0).normal(size=_CYCLE).astype(np.float32)
    return np.stack([np.full(_CYCLE, EQUAL), normal])


def exact_sums(additions: int) -> list[float]:
    """Of both streams' absolute values."""
    cycles, rest = divmod(additions, _CYCLE)
    return [
        float(cycles * sum(values) + sum(values[:rest]))
        for values in ([Fraction(float(abs(g))) for g in of] for of in streams())
    ]


@functools.partial(jax.jit, static_argnames="dtype")
def accumulate(
    state: classp_jax.ScaleByAccumulatedPowerNormState,
    start: int,
    stop: int,
    gradients: jax.Array,
    dtype: str,
) -> classp_jax.ScaleByAccumulatedPowerNormState:
    scale = classp_jax.scale_by_accumulated_power_norm(accumulator_dtype=dtype)
    after: classp_jax.ScaleByAccumulatedPowerNormState = jax.lax.fori_loop(
        start, stop, lambda i, s: scale.update(gradients[:, i % _CYCLE], s)[1], state
    )
    return after


def errors(
    dtype: str, additions: Sequence[int] = ADDITIONS
) -> dict[int, tuple[float, ...]]:
    """Relative errors of the sum, a pair (equal, normal) by the number of additions."""
    with helpers.enable_x64(dtype == "float64"):
        gradients, start = jnp.asarray(streams()), 0
        found: dict[int, tuple[float, ...]] = {}
        scale = classp_jax.scale_by_accumulated_power_norm(accumulator_dtype=dtype)
        state = scale.init(gradients[:, 0])
        for stop in sorted(additions):
            state = accumulate(state, start, stop, gradients, dtype)
            sums = np.asarray(state.grad_sum, np.float64)
            found[stop] = tuple(map(float, sums / exact_sums(stop) - 1))
            start = stop
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accumulation", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--additions",
        nargs="+",
        type=positive_int,
        default=ADDITIONS,
        help="after how many (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    lines = [
        [f"{dtype}, {additions:.0e} additions", *(f"{e:+.1e}" for e in pair)]
        for dtype in DTYPES
        for additions, pair in errors(dtype, args.additions).items()
    ]
    print(table(["accumulator", "equal terms", "normal terms"], lines))


if __name__ == "__main__":
    main()
