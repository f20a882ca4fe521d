"""Examples of earlier tasks in the batches of later ones."""

import pytest

from examples.methods.replay import Replay
from examples.runner.plan import Method
from examples.runner.run import Runner
from tests.examples.helpers import (
    batches_of,
    phase,
    read,
)


def test_a_memory_is_shared_by_all_earlier_tasks(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    replay = Replay(None, in_batch=4, memory=12)
    of_z, of_b, of_c = range(40), range(40, 88), range(88, 128)
    kept = []
    for number, (task, new) in enumerate((("b", of_b), ("c", of_c)), start=1):
        batches = batches_of(
            three_tasks, phase(task, plugins=(replay,)), number, seed=0
        )
        assert set(batches[:, :4].ravel()) == set(new)
        kept.append(set(batches[:, 4:].ravel().tolist()))
    assert len(kept[0]) == len(kept[1]) == 12
    assert kept[0] <= set(of_z)
    # Of the first task none that hadn't been kept before.
    assert len(kept[1] & set(of_b)) == 6 and len(kept[1] & kept[0]) == 6
    method = Method("", (phase("z"), phase("b", plugins=(replay,))))
    runner.run("replay", method, [0])
    weights = 6 * 8 + 8 + 8 * 3 + 3
    actual = read(tmp_path)[0]["results"][-1]["bytes_per_weight"]
    assert actual == pytest.approx(12 * 6 / weights)
    with pytest.raises(ValueError, match="none before it"):
        replay.check(phases_before=0, tasks_before=0, batch_size=8)
