"""One verification: its optimizers, its hyperparameters, its problem, its runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from classp_jax.verify import _problems, _schedule
from classp_jax.verify import _torch_optimizer as torch_optimizer
from classp_jax.verify._compare import Comparison, compare
from classp_jax.verify._load import load_class
from classp_jax.verify._problems import Problem
from classp_jax.verify._readings import READINGS, Reading
from classp_jax.verify._schedule import Schedule
from classp_jax.verify._torch_optimizer import InputError


class Target(NamedTuple):
    """The PyTorch optimizer to compare with.

    Attributes:
      optimizer_class: its class.
      arguments: what that is called with.
      static: the arguments of JAX's reading that aren't hyperparameters.
      reading: that reading.
    """

    optimizer_class: Any
    arguments: torch_optimizer.Arguments
    static: dict[str, Any]
    reading: Reading

    @property
    def finite(self) -> bool:
        """Whether it is compared on finite gradients only.

        Without a threshold there is no mask that would leave out the others.
        """
        return "threshold" not in self.arguments.named


class Result(NamedTuple):
    """What came of it.

    Attributes:
      comparison: the distances.
      schedule: the hyperparameters that JAX had, of each group.
      uses_first_group: whether the PyTorch optimizer has the first group's for all.
    """

    comparison: Comparison
    schedule: Schedule
    uses_first_group: bool


def target(args: argparse.Namespace) -> Target:
    """The optimizer that the options name; raises an :class:`InputError`."""
    reading = READINGS[args.reading]
    for name in ("eps", "damping", "power", "exponent", "refresh_every"):
        if getattr(args, name) and name not in (*reading.varied, *reading.of_group):
            option = name.replace("_", "-")
            raise InputError(f"--reading {args.reading} has no --{option}")
    named = ("relative", "factored", "memory")
    static = {name: getattr(args, name) for name in named if getattr(args, name)}
    if static and args.reading == "released":
        raise InputError(
            "the released reading compares a bool with the threshold, and keeps its sum"
            " in full and for ever: no --relative, no --factored, no --memory"
        )
    if args.reading == "gram":
        if args.factored:
            raise InputError(
                "sums of directions have no rows and columns: no --factored"
            )
        if _is_model_on_its_own(args):
            raise InputError(
                "--reading gram on a model takes bare parameters: --mode lockstep"
            )
    if args.dtype in ("float16", "bfloat16") and _is_model_on_its_own(args):
        raise InputError(
            f"a model's own gradients in {args.dtype} say nothing: --mode lockstep"
        )
    constructor = torch_optimizer.parse_arguments("--torch-args", args.torch_args)
    step = torch_optimizer.parse_arguments("--torch-step-args", args.torch_step_args)
    optimizer_class = reading.reference
    if args.torch_optimizer:
        optimizer_class = load_class(args.torch_optimizer)
    else:
        of_reference = {**reading.arguments, **static}
        constructor = {k: (v, v) for k, v in of_reference.items()} | constructor
    known = ("apply_decay", *reading.varied, *reading.of_group)
    arguments = torch_optimizer.arguments_of(optimizer_class, constructor, step, known)
    return Target(optimizer_class, arguments, static, reading)


def schedule_of(args: argparse.Namespace, target: Target) -> Schedule:
    """The hyperparameters of every step; raises an :class:`InputError`."""
    arguments, reading = target.arguments, target.reading
    groups = len(_schedule.POWERS) if args.problem == "random" else 1
    of_group = {
        name: _of_group(args, arguments, name, groups) for name in reading.of_group
    }
    decay_from = args.decay_from
    if decay_from is None and _is_model_on_its_own(args):
        decay_from = args.steps // 2 + 1
    gates = _schedule.gates(args.steps, decay_from, groups)
    _check_gate(args, target, gates[0])
    return _schedule.schedule(
        {name: _values(args, arguments, name) for name in reading.varied},
        of_group,
        gates,
        varied={n for n in reading.varied if getattr(args, n) is None},
        shared={*torch_optimizer.NAMES} - arguments.own,
        seed=args.seed,
    )


def _of_group(
    args: argparse.Namespace,
    arguments: torch_optimizer.Arguments,
    name: str,
    groups: int,
) -> Sequence[Sequence[float]]:
    """What each of so many groups has for itself, one after the other."""
    given = getattr(args, name)
    if name == "refresh_every" and name in arguments.named:
        kind = "random" if args.problem == "random" else "model"
        given = given or _schedule.REFRESHES[kind]
    elif name == "refresh_every":
        given = given or 1
    if given is None and groups > 1 and name in arguments.own:
        return {"power": _schedule.POWERS, "exponent": _schedule.EXPONENTS}[name]
    return [[given or 1.0]] * groups


def _values(
    args: argparse.Namespace, arguments: torch_optimizer.Arguments, name: str
) -> list[float]:
    given: list[float] | None = getattr(args, name)
    if given is not None:
        return given
    values = _schedule.VALUES["random" if args.problem == "random" else "model"][name]
    if name == "threshold" and args.reading == "released" and len(values) > 1:
        values = _schedule.RELEASED_THRESHOLDS
    if name == "threshold" and name not in arguments.named:
        return [0.0]
    return (
        values[:1]
        if _is_model_on_its_own(args) or name not in arguments.taken
        else values
    )


def _is_model_on_its_own(args: argparse.Namespace) -> bool:
    """Whether larger steps would let two correct runs jump apart."""
    return bool(args.mode == "free-running" and args.problem != "random")


def _check_gate(
    args: argparse.Namespace, target: Target, is_open: Sequence[bool]
) -> None:
    if "apply_decay" in target.arguments.named:
        if args.decay_from is not None and args.decay_from > args.steps:
            raise InputError(
                f"--decay-from {args.decay_from} is behind the last of {args.steps}"
                " steps: the decay would never open"
            )
    elif args.decay_from is None or len({*is_open}) > 1:
        names = " or ".join(torch_optimizer.NAMES["apply_decay"])
        raise InputError(
            f"{target.optimizer_class.__name__} has no argument {names} to open the"
            " decay with; --decay-from 1 leaves it open from the start"
        )


def run(
    args: argparse.Namespace, target: Target, schedule: Schedule, problem: Problem
) -> Result:
    """Compares both optimizers.

    Where the tensors of the first parameter group agree and others don't, JAX runs once
    more with the first group's values for all groups, as the released class has it.
    """
    groups = problem.groups

    def compared(of_jax: Schedule) -> Comparison:
        return _compared(args, target, schedule, of_jax, groups, problem)

    try:
        comparison = compared(schedule)
    except InputError:
        if len(groups) == 1:
            raise
        # A class may refuse parameter groups.
        groups = [[name for group in groups for name in group]]
        schedule = schedule[:1]
        comparison = compared(schedule)
    if comparison.over_tolerance and not comparison.over_tolerance & {*groups[0]}:
        firsts = [schedule[0]] * len(groups)
        with_firsts = compared(firsts)
        if not with_firsts.differs:
            return Result(with_firsts, firsts, True)
    return Result(comparison, schedule, False)


def _compared(
    args: argparse.Namespace,
    target: Target,
    schedule: Schedule,
    of_jax: Schedule,
    groups: list[list[str]],
    problem: Problem,
) -> Comparison:
    lockstep = args.mode == "lockstep"
    twin = problem.twin()
    if lockstep:
        outputs_first = target.reading.outputs_first
        twin = _problems.plain_twin(problem.params, outputs_first=outputs_first)
    parameters = [[*twin.parameters.values()]]
    if len(groups) > 1:
        parameters = [[twin.parameters[name] for name in group] for group in groups]
    optimizer = torch_optimizer.ScheduledOptimizer(
        target.optimizer_class, parameters, schedule, target.arguments
    )
    tolerances = {
        name: tolerances_of(args, {*values.get("power", [])})
        for group, values in zip(groups, of_jax, strict=True)
        for name in group
    }
    if lockstep and problem.stream is not None and args.tolerance is None:
        # Without a gradient nothing is rounded: a weight keeps its bits.
        tolerances["idle"] = (0.0, tolerances["idle"][1])
    return compare(
        problem,
        twin,
        optimizer,
        reading=args.reading,
        static=target.static,
        schedule=of_jax,
        groups=groups,
        lockstep=lockstep,
        steps=tqdm(range(args.steps), unit="step", leave=False, disable=None),
        accumulators=accumulators_of(args),
        tolerances=tolerances,
    )


def accumulators_of(args: argparse.Namespace) -> list[str]:
    """The keys that the PyTorch optimizer's accumulator may have."""
    given = args.torch_accumulator
    return [given] if given else ["grad_sum", "sum", "gram"]


def tolerances_of(args: argparse.Namespace, powers: set[float]) -> tuple[float, float]:
    """The largest relative differences allowed, of weight and of accumulator."""
    if args.tolerance is not None:
        return args.tolerance, args.tolerance
    if args.mode == "free-running":
        usual = {"float64": 1e-10, "float32": 1e-3}.get(args.dtype, 0.1)
        return usual, usual
    if args.dtype == "float64":
        return 1e-12, 1e-12
    of_sum = of_weight = 1e-6 if powers in ({1}, {2}) else 1e-5
    if not powers and args.problem == "random":  # Few products, and then an inverse.
        of_sum = 1e-6
    return {"bfloat16": 6e-2, "float16": 6e-3}.get(args.dtype, of_weight), of_sum
