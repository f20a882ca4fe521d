"""Who is ahead, over the seeds that two methods share."""

import numpy as np
import pytest
import scipy.stats

from examples.report import index, verdicts
from examples.report.paired import paired

COMMITTED = index.ROOT / "results" / "verdicts" / "verdicts.md"


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    one, other = rng.normal(80, 3, 5), rng.normal(79, 3, 5)
    compared = paired(dict(enumerate(one)), dict(enumerate(other)))
    expected = scipy.stats.ttest_rel(one, other).confidence_interval(0.95)
    assert compared[:3] == pytest.approx((np.mean(one - other), *expected))
    assert compared.seeds == 5


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9], "ahead"),
        ([-1.0, -1.1, -0.9], "behind"),
        ([1.0, -1.1, 0.9], "tied"),
        ([5.0], "tied"),  # One seed says nothing.
    ],
)
def test_a_verdict_is_what_the_interval_says(differences, verdict):
    ahead = {seed: 50 + d for seed, d in enumerate(differences)}
    compared = paired(ahead, dict.fromkeys(range(9), 50.0))
    assert (compared.verdict, compared.seeds) == (verdict, len(differences))


def test_only_seeds_that_both_have_are_compared():
    compared = paired({1: 10.0, 2: 20.0, 3: 90.0}, {0: 0.0, 2: 18.0, 1: 9.0})
    assert (compared.difference, compared.seeds) == (1.5, 2)
    assert paired({1: 10.0}, {2: 10.0}) is None
    assert str(paired({1: 10.0}, {1: 9.0})) == "+1.0"
    assert str(compared) == "+1.5 (-4.9 to +7.9)"  # 0.5 times 12.706.


def test_the_committed_verdicts_are_what_the_command_makes(tmp_path, capsys):
    for part in ("paper", "streams"):
        (tmp_path / part).symlink_to(index.ROOT / "results" / part)
    verdicts.main([str(tmp_path)])
    made = tmp_path / "verdicts" / "verdicts.md"
    assert made.read_text() == COMMITTED.read_text()
    assert "| stream | ours |" in capsys.readouterr().out


def test_every_stream_with_rows_of_others_is_there():
    text = COMMITTED.read_text()
    for benchmark in ("Permuted MNIST", "Rotated MNIST"):
        assert f"\n| {benchmark}, 10 tasks | CLASSP, 64 directions" in text
    for benchmark in ("Split MNIST", "Split Fashion-MNIST"):
        for scenario in ("class", "domain", "task"):
            stream = f"{benchmark}, 5 tasks, {scenario}-incremental"
            assert f"\n| {stream} | CLASSP, 64 directions" in text


def test_a_folder_without_results_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        verdicts.main([str(tmp_path)])
    assert "no rows" in capsys.readouterr().err
