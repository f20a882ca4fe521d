"""The ablation: CLASSP with a threshold on one task or both, of one unit or another."""

from typing import NamedTuple

from examples.methods.classp import FAMILY, collecting_all
from examples.runner.optimizers import Maker
from examples.runner.plan import Method
from examples.vision.phases import COLLECT, FASHION, MNIST, classp_on


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
        optimizer: str | Maker = collecting_all if self.collecting_all else "classp"
        mask = dict(threshold=self.threshold, relative=self.relative)
        first, second = COLLECT, classp_on(FASHION)
        # Without a threshold all of them are the same.
        if self.threshold and self.where in ("first", "both"):
            first = classp_on(MNIST, optimizer, apply_decay=False, **mask)
        if self.threshold and self.where in ("second", "both"):
            second = classp_on(FASHION, optimizer, **mask)
        kind = "θ·mean(g²)" if self.relative else "θ"
        sums = "all" if self.collecting_all else "masked"
        title = f"{kind} {self.threshold:g} on {self.where}, {sums} collected"
        return Method(title, (first, second), family=FAMILY)


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
