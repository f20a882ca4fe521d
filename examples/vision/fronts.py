"""The methods along the one setting that trades stability for plasticity."""

from examples.methods import classp, ewc, gram, plain, replay
from examples.methods.classp import collecting_all, masked_sgd
from examples.methods.stored_sums import classp_stored
from examples.runner.plan import Phase
from examples.runner.study import ALL_SPLITS, make_front
from examples.vision.phases import (
    ADAGRAD,
    ADAM,
    COLLECT,
    FASHION,
    MNIST,
    classp_on,
    sgd,
)

FRONTS = [
    make_front(
        "classp_rate",
        "CLASSP",
        "α",
        classp.FAMILY,
        {
            a: (COLLECT, classp_on(FASHION, learning_rate=a))
            for a in (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
        },
    ),
    make_front(
        "classp_eps",
        "CLASSP, ε on Fashion-MNIST",
        "ε",
        classp.FAMILY,
        {e: (COLLECT, classp_on(FASHION, eps=e)) for e in (1e-3, 0.01, 0.1, 1, 10)},
    ),
    make_front(
        "classp_square_rate",
        "CLASSP, p = 2",
        "α",
        classp.FAMILY,
        {
            a: (
                classp_on(MNIST, power=2, apply_decay=False),
                classp_on(FASHION, learning_rate=a, power=2),
            )
            for a in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
        },
    ),
    make_front(
        "classp_relative_rate",
        "CLASSP, g² > mean(g²)",
        "α",
        classp.FAMILY,
        {
            a: (
                COLLECT,
                classp_on(
                    FASHION,
                    collecting_all,
                    learning_rate=a,
                    threshold=1.0,
                    relative=True,
                ),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
    ),
    *(
        make_front(
            f"classp_second{'_relative' * relative}",
            f"CLASSP, g² > {kind} on Fashion-MNIST",
            "θ",
            classp.FAMILY,
            {
                t: (COLLECT, classp_on(FASHION, threshold=t, relative=relative))
                for t in of
            },
        )
        for relative, kind, of in (
            (False, "θ", (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
            (True, "θ·mean(g²)", (1, 3, 10, 30, 100)),
        )
    ),
    make_front(
        "classp_factored_rate",
        "CLASSP, factored sum",
        "α",
        classp.FAMILY,
        {
            a: (
                classp_on(MNIST, apply_decay=False, factored=True),
                classp_on(FASHION, learning_rate=a, factored=True),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
        ALL_SPLITS,
    ),
    make_front(
        "classp_tensor_rate",
        "CLASSP, one sum a tensor",
        "α",
        classp.FAMILY,
        {
            a: (
                classp_on(MNIST, classp_stored, storage="tensor", apply_decay=False),
                classp_on(FASHION, classp_stored, storage="tensor", learning_rate=a),
            )
            for a in (0.05, 0.1, 0.2, 0.4, 0.8)
        },
    ),
    make_front(
        "classp_factored_second_relative",
        "CLASSP, factored sum, g² > θ·mean(g²) on Fashion-MNIST",
        "θ",
        classp.FAMILY,
        {
            t: (
                classp_on(MNIST, apply_decay=False, factored=True),
                classp_on(FASHION, threshold=t, relative=True, factored=True),
            )
            for t in (1, 3, 10, 30, 100)
        },
    ),
    *(
        make_front(
            f"gram_64{end}",
            f"CLASSP, 64 directions{at}",
            "κ",
            gram.FAMILY,
            {
                k: (
                    classp_on(MNIST, "classp_gram", apply_decay=False),
                    classp_on(FASHION, "classp_gram", learning_rate=rate, damping=k),
                )
                for k in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
            },
        )
        for end, rate, at in (("", 0.2, ""), ("_slower", 0.05, ", α 0.05"))
    ),
    make_front(
        "ewc",
        "EWC",
        "λ",
        ewc.FAMILY,
        {
            s: (COLLECT, sgd(ewc.EWC(strength=s)))
            for s in (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
        },
    ),
    *(
        make_front(
            f"ewc_rate_{rate:g}",
            f"EWC, α {rate:g}",
            "λ",
            ewc.FAMILY,
            {
                s: (COLLECT, sgd(ewc.EWC(strength=s), learning_rate=rate))
                for s in (10, 30, 100, 300, 1000, 3000)
            },
        )
        for rate in (0.1, 0.05)
    ),
    make_front(
        "sgd_rate",
        "SGD",
        "α",
        plain.SGD,
        {
            a: (COLLECT, sgd(learning_rate=a))
            for a in (0.1, 0.02, 0.01, 0.005, 0.002, 0.001)
        },
    ),
    # What the threshold does without the decay.
    make_front(
        "masked_sgd_rate",
        "SGD, g² > 10·mean(g²)",
        "α",
        plain.SGD,
        {
            a: (
                COLLECT,
                classp_on(
                    FASHION, masked_sgd, learning_rate=a, threshold=10, relative=True
                ),
            )
            for a in (0.2, 0.1, 0.05, 0.02, 0.01)
        },
    ),
    make_front(
        "adam_rate",
        "Adam",
        "α",
        plain.ADAM,
        {
            a: (ADAM, Phase(FASHION, "adam", dict(learning_rate=a)))
            for a in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
        },
    ),
    make_front(
        "adagrad_rate",
        "AdaGrad",
        "α",
        plain.ADAGRAD,
        {
            a: (ADAGRAD, Phase(FASHION, "adagrad", dict(learning_rate=a)))
            for a in (0.05, 0.02, 0.01, 0.005, 0.002)
        },
    ),
    make_front(
        "replay",
        "Replay",
        "share",
        replay.FAMILY,
        {
            share: (COLLECT, sgd(replay.Replay(share, in_batch=8)))
            for share in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
        },
    ),
    make_front(
        "replay_slower",
        "Replay, α 0.05",
        "share",
        replay.FAMILY,
        {
            share: (COLLECT, sgd(replay.Replay(share, in_batch=8), learning_rate=0.05))
            for share in (0.0003, 0.001, 0.003, 0.01, 0.03)
        },
    ),
]
