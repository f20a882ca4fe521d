"""From a model that Adam has trained on MNIST, without the sums of its training."""

from examples.methods import classp, ewc, gram, plain
from examples.methods.checkpoint import Sums
from examples.runner.plan import Phase
from examples.runner.study import make_front
from examples.vision.phases import ADAM, FASHION, sgd

_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
_RATE = 0.05  # Of the SGD that penalties are added to, and of directions.
_AS_LONG = 240  # Passes over 1,000 images: about the steps that MNIST took.

_SUMS = {
    "nothing": ("no sums", ()),
    "moment": ("sums from Adam's moment", (Sums("moment"),)),
    "data": ("sums from a pass over 1,000 images", (Sums("data"),)),
    "single": (
        "sums from a pass over 1,000 single images",
        (Sums("data", batch_size=1),),
    ),
    "single_unlabelled": (
        "sums from a pass over 1,000 single images without labels",
        (Sums("unlabelled", batch_size=1),),
    ),
    "long": (
        f"sums from {_AS_LONG} passes over 1,000 images",
        (Sums("data", passes=_AS_LONG),),
    ),
    "unlabelled": (
        f"sums from {_AS_LONG} passes without labels",
        (Sums("unlabelled", passes=_AS_LONG),),
    ),
    "other": (
        f"sums from {_AS_LONG} passes over other digits",
        (Sums("other", passes=_AS_LONG),),
    ),
    "noise": (
        f"sums from {_AS_LONG} passes over noise",
        (Sums("noise", passes=_AS_LONG),),
    ),
}

CHECKPOINT = [
    *(
        make_front(
            f"from_adam_{name}",
            f"CLASSP, {title}",
            "α",
            classp.FAMILY,
            {
                a: (ADAM, Phase(FASHION, "classp", dict(learning_rate=a), plugins))
                for a in _RATES
            },
        )
        for name, (title, plugins) in _SUMS.items()
    ),
    *(
        make_front(
            f"from_adam_gram_{name}",
            f"CLASSP, 64 directions, {_SUMS[name][0]}{which}",
            "κ",
            gram.FAMILY,
            {
                k: (
                    ADAM,
                    Phase(
                        FASHION,
                        "classp_gram",
                        dict(damping=k, **hyperparameters),
                        _SUMS[name][1],
                    ),
                )
                for k in (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
            },
        )
        for name, which, hyperparameters in (
            ("data", "", dict(learning_rate=_RATE)),
            # Fashion-MNIST is slowed by what was collected alone.
            ("single", " alone", dict(learning_rate=0.2, refresh_every=None)),
            (
                "single_unlabelled",
                " alone",
                dict(learning_rate=0.2, refresh_every=None),
            ),
        )
    ),
    *(
        make_front(
            f"from_adam_ewc_{fisher}",
            f"EWC, Fisher from {title}",
            "λ",
            ewc.FAMILY,
            {
                s: (
                    ADAM,
                    sgd(
                        ewc.EWC(s, fisher=fisher, examples=1000),
                        learning_rate=_RATE,
                    ),
                )
                for s in (10, 100, 1000, 10_000, 100_000)
            },
        )
        for fisher, title in (
            ("examples", "1,000 images"),
            ("moment", "Adam's moment"),
        )
    ),
    make_front(
        "from_adam_sgd",
        "SGD",
        "α",
        plain.SGD,
        {a: (ADAM, sgd(learning_rate=a)) for a in (0.001, 0.003, 0.01, 0.03, 0.1)},
    ),
]
