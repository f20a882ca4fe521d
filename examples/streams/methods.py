"""What the streams compare: methods, each with one setting to choose."""

import functools
from collections.abc import Callable
from typing import Any

from examples.datasets.stream import Stream
from examples.methods import EWC, Phase, Replay, SynapticIntelligence
from examples.study import Front, Study, front, of_fronts

# Nine values each: of SGD's rate and what acts like it, then half a decade apart.
_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_ADAPTIVE_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
# Of the SGD that penalties are added to: between the best of SGD alone, whose choice is
# how little it moves, and that of CLASSP (results/permuted_mnist/validation).
_RATE = 0.05
# The best of SGD alone on domain-incremental Split MNIST, and on Rotated MNIST; the
# strengths are scaled, as what a penalty does is of the order of rate times strength.
_SLOW, _FAST = 0.002, 0.2
_FISHER = 1000  # Examples a task.
_ONLINE = 0.9  # What online EWC keeps of its Fisher at each boundary.
_STORAGES = {
    "tensor": "one a tensor",
    "bfloat16": "bfloat16",
    "linear": "8 bits, linear",
    "square": "8 bits, square",
    "logarithmic": "8 bits, logarithmic",
}
_ROUNDINGS = {
    "nearest": "",
    "stochastic": ", rounded by chance",
    "feedback": ", error into the scale",
}
_STORED = {
    "classp_tensor": ("tensor", "nearest"),
    "classp_bfloat16": ("bfloat16", "nearest"),
    "classp_linear": ("linear", "nearest"),
    "classp_square": ("square", "nearest"),
    "classp_logarithmic": ("logarithmic", "nearest"),
    "classp_bfloat16_stochastic": ("bfloat16", "stochastic"),
    "classp_linear_stochastic": ("linear", "stochastic"),
    "classp_square_stochastic": ("square", "stochastic"),
    "classp_logarithmic_stochastic": ("logarithmic", "stochastic"),
    "classp_linear_feedback": ("linear", "feedback"),
}
_MEMORY = 1000  # Images kept of all earlier tasks; of the MLP 2.9 bytes a weight.
_DOZEN = 12  # As much as factored sums: 0.035 bytes.


def study(stream: Stream, epochs: int, batch_size: int) -> Study:
    """What is compared on a stream.

    Args:
      stream: the stream.
      epochs: on each task.
      batch_size: examples a step, of which replay takes half from its memory.

    Returns:
      The study; a group a method, with its values of the setting, ``all``, but for the
      sums in fewer bits, and ``stored``, these.
    """
    tasks = {f"task_{i}": f"Task {i}" for i in range(1, stream.tasks + 1)}
    fronts = _fronts(list(tasks), epochs, batch_size)
    groups = {name: of.methods for name, of in fronts.items()}
    stored = of_fronts([of for name, of in fronts.items() if name in _STORED])
    others = of_fronts([of for name, of in fronts.items() if name not in _STORED])
    chance = 100 * stream.chance
    return Study(
        experiment="streams",
        title=_title(stream),
        table="",
        tasks=tasks,
        judged_on=dict.fromkeys(tasks, "test"),
        nothing=dict.fromkeys(tasks, chance + min(5.0, chance / 2)),
        groups={"all": others, "stored": stored} | groups,
        published={},
        fronts=list(fronts.values()),
    )


def _title(stream: Stream) -> str:
    title = f"{stream.made_of.title}, {stream.tasks} tasks"
    if len(stream.made_of.scenarios) > 1:
        title += f", {stream.scenario}-incremental"
    return title + ", validation" * stream.validation


def _fronts(tasks: list[str], epochs: int, batch_size: int) -> dict[str, Front]:
    def phases(
        optimizer: str,
        first: dict[str, Any] | None = None,
        then: dict[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> tuple[Phase, ...]:
        """A phase a task; ``first`` and ``then`` are what differs between them."""
        return tuple(
            Phase({task: epochs}, optimizer, hyperparameters, **(then if i else first))
            for i, task in enumerate(tasks)
        )

    def plain(optimizer: str) -> Callable[[float], tuple[Phase, ...]]:
        return lambda a: phases(optimizer, {}, {}, learning_rate=a)

    def classp(a: float, optimizer: str = "classp", **kwargs: Any) -> tuple[Phase, ...]:
        kwargs["learning_rate"] = a
        closed, *_ = phases(optimizer, {}, {}, apply_decay=False, **kwargs)
        return closed, *phases(optimizer, {}, {}, **kwargs)[1:]

    def classp_then(a: float) -> tuple[Phase, ...]:
        first, *_ = classp(_RATE)
        return first, *classp(a)[1:]

    def classp_relative(optimizer: str) -> Callable[[float], tuple[Phase, ...]]:
        def above_mean(a: float) -> tuple[Phase, ...]:
            mask = dict(threshold=10, relative=True)
            first, *_ = classp(a)
            return first, *phases(optimizer, {}, {}, learning_rate=a, **mask)[1:]

        return above_mean

    def ewc(
        strength: float, rate: float, decay: float | None = None
    ) -> tuple[Phase, ...]:
        penalty = dict(ewc=EWC(strength, examples=_FISHER, decay=decay))
        return phases("sgd", {}, penalty, learning_rate=rate)

    def si(strength: float, rate: float) -> tuple[Phase, ...]:
        penalty = dict(si=SynapticIntelligence(strength))
        return phases("sgd", penalty, penalty, learning_rate=rate)

    def replay(a: float, memory: int = _MEMORY) -> tuple[Phase, ...]:
        kept = Replay(None, max(1, batch_size // 2), memory)
        return phases("sgd", {}, dict(replay=kept), learning_rate=a)

    def joint(a: float) -> tuple[Phase, ...]:
        return (Phase(dict.fromkeys(tasks, epochs), "sgd", dict(learning_rate=a)),)

    of = {
        "classp": ("CLASSP", "α", classp, _RATES),
        # No step is then longer than one without the decay.
        "classp_bounded": (
            "CLASSP, ε 1",
            "α",
            functools.partial(classp, eps=1.0),
            _RATES,
        ),
        "classp_factored": (
            "CLASSP, factored sum",
            "α",
            lambda a: classp(a, factored=True),
            _RATES,
        ),
        **{
            f"classp_relative{name}": (
                f"CLASSP, g² > 10·mean(g²){sums}",
                "α",
                classp_relative(optimizer),
                _RATES,
            )
            for name, optimizer, sums in (
                ("", "classp", ""),
                ("_all", "collecting_all", ", all collected"),
            )
        },
        "classp_always": (
            "CLASSP, decay always on",
            "α",
            plain("classp"),
            _ADAPTIVE_RATES,
        ),
        # The first task as the penalties' SGD learns it, whatever α is afterwards.
        "classp_then": (
            f"SGD at {_RATE}, then CLASSP",
            "α",
            classp_then,
            _ADAPTIVE_RATES,
        ),
        "classp_self": (
            "CLASSP, gate opens itself",
            "α",
            plain("classp_self_opening"),
            _RATES,
        ),
        "sgd": ("SGD", "α", plain("sgd"), _RATES),
        "adam": (
            "Adam",
            "α",
            plain("adam"),
            (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        ),
        "adagrad": ("AdaGrad", "α", plain("adagrad"), _ADAPTIVE_RATES),
        **{
            f"{name}{speed}": (
                f"{title}{at}",
                "λ",
                functools.partial(penalised, rate=rate),
                tuple(float(f"{scale * value:.1g}") for value in values),
            )
            for name, title, penalised, values in (
                ("ewc", "EWC", ewc, (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)),
                (
                    "ewc_online",
                    "EWC, online",
                    functools.partial(ewc, decay=_ONLINE),
                    (1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
                ),
                ("si", "SI", si, (0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)),
            )
            for speed, at, rate, scale in (
                ("", "", _RATE, 1),
                ("_slow", f", SGD at {_SLOW}", _SLOW, 100),
                ("_fast", f", SGD at {_FAST}", _FAST, 0.1),
            )
        },
        "replay": ("Replay", "α", replay, _RATES),
        "replay_dozen": (
            f"Replay, {_DOZEN} images",
            "α",
            functools.partial(replay, memory=_DOZEN),
            _RATES,
        ),
        "joint": ("Joint training", "α", joint, _RATES),
        **{
            name: (
                f"CLASSP, sum: {_STORAGES[storage]}{_ROUNDINGS[rounding]}",
                "α",
                functools.partial(
                    classp,
                    optimizer="classp_stored",
                    storage=storage,
                    rounding=rounding,
                ),
                (0.01, 0.05, 0.1, 0.2, 0.4),
            )
            for name, (storage, rounding) in _STORED.items()
        },
    }
    return {
        name: front(name, title, knob, {value: make(value) for value in values})
        for name, (title, knob, make, values) in of.items()
    }
