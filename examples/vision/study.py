"""What the experiment compares: the rows of Table 1, fronts and an ablation."""

from examples.methods import classp, ewc, joint, plain
from examples.runner.plan import Method, Phase
from examples.runner.study import ALL_SPLITS, READINGS, Study, of_fronts
from examples.vision.ablation import ABLATION
from examples.vision.checkpoint import CHECKPOINT
from examples.vision.fronts import FRONTS
from examples.vision.phases import COLLECT, FASHION, MNIST, TASKS, classp_on, sgd


def _of_the_paper() -> dict[str, Method]:
    methods = {}
    for reading, name in READINGS.items():
        first = COLLECT
        if reading != "classp_released":
            first = classp_on(MNIST, reading, threshold=0.5, apply_decay=False)
        methods[f"{reading}_threshold"] = Method(
            f"CLASSP, {name}, θ 0.5",
            (first, classp_on(FASHION, reading)),
            ALL_SPLITS,
            classp.FAMILY,
        )
    for reading, name in READINGS.items():
        second = classp_on(FASHION, reading)
        methods[reading] = Method(
            f"CLASSP, {name}, no θ", (COLLECT, second), ALL_SPLITS, classp.FAMILY
        )
    for reading, name in READINGS.items():
        phases = tuple(classp_on(data, reading, power=2) for data in (MNIST, FASHION))
        methods[f"{reading}_adagrad"] = Method(
            f"AdaGrad instance, {name}", phases, ALL_SPLITS, plain.ADAGRAD
        )
    methods["sgd"] = Method("SGD", (COLLECT, sgd()), ALL_SPLITS, plain.SGD)
    # 5000 times the weighted squared distance; explicit, from the second epoch on.
    penalty = ewc.EWC(strength=10_000, fisher="batches", implicit=False)
    rate = dict(learning_rate=0.25)
    methods["ewc_paper"] = Method(
        "EWC, as in the paper",
        (
            Phase({"mnist": 1}, "sgd", rate),
            Phase({"mnist": 3}, "sgd", rate, (penalty,)),
            Phase(FASHION, "sgd", rate, (penalty,)),
        ),
        ALL_SPLITS,
        ewc.FAMILY,
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


JOINT = Method(
    "Joint training",
    (Phase(MNIST | FASHION, "sgd", dict(learning_rate=0.2)),),
    ALL_SPLITS,
    joint.FAMILY,
)


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
        "checkpoint": of_fronts(CHECKPOINT),
    },
    published=PUBLISHED,
    fronts=[*FRONTS, *CHECKPOINT],
)
