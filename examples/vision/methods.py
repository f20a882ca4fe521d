"""What the experiment compares: the rows of Table 1, fronts and an ablation."""

from typing import Any, NamedTuple

from examples.methods import EWC, Method, Phase, Replay
from examples.study import ALL_SPLITS, READINGS, Study, front, of_fronts

TASKS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
MNIST, FASHION = {"mnist": 4}, {"fashion_mnist": 1}


def _sgd(learning_rate: float = 0.2, **kwargs: Any) -> Phase:
    return Phase(FASHION, "sgd", dict(learning_rate=learning_rate), **kwargs)


def _classp(
    data: dict[str, int], optimizer: str = "classp", **hyperparameters: Any
) -> Phase:
    return Phase(data, optimizer, dict(learning_rate=0.2) | hyperparameters)


# Plain SGD that collects the sum: what every reading does without a threshold, and the
# released one with any below 1, but for rounding (tests/examples/test_vision.py).
COLLECT = _classp(MNIST, apply_decay=False)
ADAM = Phase(MNIST, "adam", dict(learning_rate=0.001))
ADAGRAD = Phase(MNIST, "adagrad", dict(learning_rate=0.05))


def _of_the_paper() -> dict[str, Method]:
    methods = {}
    for reading, name in READINGS.items():
        first = COLLECT
        if reading != "classp_released":
            first = _classp(MNIST, reading, threshold=0.5, apply_decay=False)
        methods[f"{reading}_threshold"] = Method(
            f"CLASSP, {name}, θ 0.5", (first, _classp(FASHION, reading)), ALL_SPLITS
        )
    for reading, name in READINGS.items():
        second = _classp(FASHION, reading)
        methods[reading] = Method(
            f"CLASSP, {name}, no θ", (COLLECT, second), ALL_SPLITS
        )
    for reading, name in READINGS.items():
        phases = tuple(_classp(data, reading, power=2) for data in (MNIST, FASHION))
        methods[f"{reading}_adagrad"] = Method(
            f"AdaGrad instance, {name}", phases, ALL_SPLITS
        )
    methods["sgd"] = Method("SGD", (COLLECT, _sgd()), ALL_SPLITS)
    # 5000 times the weighted squared distance; explicit, from the second epoch on.
    penalty = EWC(strength=10_000, fisher="batches", implicit=False)
    rate = dict(learning_rate=0.25)
    methods["ewc_paper"] = Method(
        "EWC, as in the paper",
        (
            Phase({"mnist": 1}, "sgd", rate),
            Phase({"mnist": 3}, "sgd", rate, ewc=penalty),
            Phase(FASHION, "sgd", rate, ewc=penalty),
        ),
        ALL_SPLITS,
    )
    return methods


_ROW_1 = ((91.05, 1.94), (85.53, 0.83))
_ROW_2 = ((80.56, 1.55), (85.76, 2.19))
_ROW_3 = ((66.10, 3.09), (81.69, 0.91))
PUBLISHED = {
    **{f"{reading}_threshold": _ROW_1 for reading in READINGS},
    **dict.fromkeys(READINGS, _ROW_2),
    **{f"{reading}_adagrad": _ROW_3 for reading in READINGS},
    "sgd": ((43.18, 0.90), (85.16, 0.64)),
    "ewc_paper": ((68.52, 5.32), (82.48, 1.19)),
}


FRONTS = [
    front(
        "classp_rate",
        "CLASSP",
        "α",
        {
            a: (COLLECT, _classp(FASHION, learning_rate=a))
            for a in (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
        },
    ),
    front(
        "classp_eps",
        "CLASSP, ε on Fashion-MNIST",
        "ε",
        {e: (COLLECT, _classp(FASHION, eps=e)) for e in (1e-3, 0.01, 0.1, 1, 10)},
    ),
    front(
        "classp_square_rate",
        "CLASSP, p = 2",
        "α",
        {
            a: (
                _classp(MNIST, power=2, apply_decay=False),
                _classp(FASHION, learning_rate=a, power=2),
            )
            for a in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
        },
    ),
    front(
        "classp_relative_rate",
        "CLASSP, g² > mean(g²)",
        "α",
        {
            a: (
                COLLECT,
                _classp(
                    FASHION,
                    "collecting_all",
                    learning_rate=a,
                    threshold=1.0,
                    relative=True,
                ),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
    ),
    *(
        front(
            f"classp_second{'_relative' * relative}",
            f"CLASSP, g² > {kind} on Fashion-MNIST",
            "θ",
            {
                t: (COLLECT, _classp(FASHION, threshold=t, relative=relative))
                for t in of
            },
        )
        for relative, kind, of in (
            (False, "θ", (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
            (True, "θ·mean(g²)", (1, 3, 10, 30, 100)),
        )
    ),
    front(
        "classp_factored_rate",
        "CLASSP, factored sum",
        "α",
        {
            a: (
                _classp(MNIST, apply_decay=False, factored=True),
                _classp(FASHION, learning_rate=a, factored=True),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
        ALL_SPLITS,
    ),
    front(
        "classp_tensor_rate",
        "CLASSP, one sum a tensor",
        "α",
        {
            a: (
                _classp(MNIST, "classp_stored", storage="tensor", apply_decay=False),
                _classp(FASHION, "classp_stored", storage="tensor", learning_rate=a),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
    ),
    front(
        "classp_factored_second_relative",
        "CLASSP, factored sum, g² > θ·mean(g²) on Fashion-MNIST",
        "θ",
        {
            t: (
                _classp(MNIST, apply_decay=False, factored=True),
                _classp(FASHION, threshold=t, relative=True, factored=True),
            )
            for t in (1, 3, 10, 30, 100)
        },
    ),
    front(
        "ewc",
        "EWC",
        "λ",
        {
            s: (COLLECT, _sgd(ewc=EWC(strength=s)))
            for s in (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
        },
    ),
    *(
        front(
            f"ewc_rate_{rate:g}",
            f"EWC, α {rate:g}",
            "λ",
            {
                s: (COLLECT, _sgd(rate, ewc=EWC(strength=s)))
                for s in (10, 30, 100, 300, 1000, 3000)
            },
        )
        for rate in (0.1, 0.05)
    ),
    front(
        "sgd_rate",
        "SGD",
        "α",
        {a: (COLLECT, _sgd(a)) for a in (0.1, 0.02, 0.01, 0.005, 0.002, 0.001)},
    ),
    # What the threshold does without the decay.
    front(
        "masked_sgd_rate",
        "SGD, g² > 10·mean(g²)",
        "α",
        {
            a: (
                COLLECT,
                _classp(
                    FASHION, "masked_sgd", learning_rate=a, threshold=10, relative=True
                ),
            )
            for a in (0.2, 0.1, 0.05, 0.02, 0.01)
        },
    ),
    front(
        "adam_rate",
        "Adam",
        "α",
        {
            a: (ADAM, Phase(FASHION, "adam", dict(learning_rate=a)))
            for a in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
        },
    ),
    front(
        "adagrad_rate",
        "AdaGrad",
        "α",
        {
            a: (ADAGRAD, Phase(FASHION, "adagrad", dict(learning_rate=a)))
            for a in (0.05, 0.02, 0.01, 0.005, 0.002)
        },
    ),
    front(
        "replay",
        "Replay",
        "share",
        {
            share: (COLLECT, _sgd(replay=Replay(share, in_batch=8)))
            for share in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
        },
    ),
    front(
        "replay_slower",
        "Replay, α 0.05",
        "share",
        {
            share: (COLLECT, _sgd(0.05, replay=Replay(share, in_batch=8)))
            for share in (0.0003, 0.001, 0.003, 0.01, 0.03)
        },
    ),
]

JOINT = Method(
    "Joint training",
    (Phase(MNIST | FASHION, "sgd", dict(learning_rate=0.2)),),
    ALL_SPLITS,
)


class Ablation(NamedTuple):
    """CLASSP with a threshold here or there.

    Attributes:
      where: the task it holds on: ``"first"``, ``"second"`` or ``"both"``.
      relative: whether it is relative to the tensor's mean squared gradient.
      collecting_all: whether the sum takes in the gradients below it as well.
      threshold: of that many.
    """

    where: str
    relative: bool
    collecting_all: bool
    threshold: float

    @property
    def method(self) -> Method:
        """What it does."""
        optimizer = "collecting_all" if self.collecting_all else "classp"
        mask = dict(threshold=self.threshold, relative=self.relative)
        first, second = COLLECT, _classp(FASHION)
        # Without a threshold all of them are the same.
        if self.threshold and self.where in ("first", "both"):
            first = _classp(MNIST, optimizer, apply_decay=False, **mask)
        if self.threshold and self.where in ("second", "both"):
            second = _classp(FASHION, optimizer, **mask)
        kind = "θ·mean(g²)" if self.relative else "θ"
        sums = "all" if self.collecting_all else "masked"
        title = f"{kind} {self.threshold:g} on {self.where}, {sums} collected"
        return Method(title, (first, second))


_THRESHOLDS = {
    False: (0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1),
    True: (0, 0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
}
ABLATION = {
    f"threshold_{where}_{'relative' if relative else 'absolute'}"
    f"_{'all' if all_ else 'masked'}_{threshold:g}": Ablation(
        where, relative, all_, threshold
    )
    for where in ("second", "first", "both")
    for relative in (False, True)
    for all_ in (True, False)
    for threshold in _THRESHOLDS[relative]
}

STUDY = Study(
    experiment="vision",
    title="MNIST, then Fashion-MNIST",
    table="Table 1",
    tasks=TASKS,
    judged_on=dict.fromkeys(TASKS, "test"),
    nothing=dict.fromkeys(TASKS, 15.0),  # A tenth is chance.
    groups={
        "paper": _of_the_paper(),
        "fronts": of_fronts(FRONTS),
        "ablation": {k: ablation.method for k, ablation in ABLATION.items()},
        "joint": {"joint": JOINT},
    },
    published=PUBLISHED,
    fronts=FRONTS,
)
