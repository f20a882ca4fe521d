import json

import numpy as np
import pytest

from examples.datasets.tfds import DatasetError
from examples.models.transformer import Transformer
from examples.runner import rows
from examples.runner.data import Split, Task
from examples.runner.plan import as_json, make_optimizer
from examples.sentiment import __main__ as sentiment
from examples.sentiment import report
from examples.sentiment.study import STUDY
from tests.examples.helpers import (
    SIGNALS,
    assert_names_what_cannot_be_written,
    assert_names_what_is_wrong,
    assert_prints_what_it_wrote,
    assert_sigterm_saves,
)
from tests.helpers import Network

VOCABULARY = 40


def test_methods():
    assert set(STUDY.published) == set(STUDY.groups["paper"])
    for method in STUDY.methods.values():
        for phase in method.phases:
            assert phase.stop_loss > 0
            if not phase.plugins:
                make_optimizer(phase)
        epochs = [task for phase in method.phases for task in phase.epochs]
        assert set(epochs) == set(STUDY.tasks)
        # What a report reads is measured.
        assert {"train", *STUDY.judged_on.values()} <= set(method.splits)
    for front in STUDY.fronts:
        different = {json.dumps(as_json(m.phases)) for m in front.methods.values()}
        assert len(different) == len(front.methods) >= 5


@pytest.fixture
def tiny(monkeypatch):
    """Texts whose class is one of their words, and a network to match."""
    rng = np.random.default_rng(0)

    def split(n, classes):
        labels = rng.choice(classes, n).astype(np.int32)
        tokens = rng.integers(10, VOCABULARY, (n, 6)).astype(np.int32)
        tokens[:, -1] = labels + 2
        return Split(tokens, labels)

    tasks = {
        "phrase_bank": Task(split(50, [0, 1, 2])),
        "imdb": Task(split(50, [0, 2]), split(50, [0, 2])),
    }
    given = []

    def load(*args, **kwargs):
        given.append((args, kwargs))
        return tasks, VOCABULARY

    def small(rngs, **kwargs):
        return Transformer(rngs, **kwargs, width=12, heads=3, inner_width=8)

    monkeypatch.setattr(sentiment, "load", load)
    monkeypatch.setattr(sentiment, "Transformer", small)
    return given


@pytest.mark.usefixtures("density_is_measured")
@pytest.mark.parametrize("vmap_seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_command_makes_rows_tables_and_figures(tiny, tmp_path, vmap_seeds, capsys):
    out = tmp_path / "new"
    arguments = ["--seeds", "2", "--batch-size", "20", "--out", str(out)]
    arguments += ["--vmap-seeds", str(vmap_seeds), "--label-map", "released"]
    arguments += ["--mask-padding", "--phrasebank", "a.zip", "--methods"]
    sentiment.main([*arguments, "classp_threshold"])
    found = rows.read(out / "rows.jsonl")
    assert [row["seed"] for row in found] == [0, 1]
    ((_, phrasebank), kwargs), *_ = tiny
    assert (phrasebank.name, kwargs["label_map"]) == ("a.zip", "released")
    assert found[0]["settings"] == {
        "experiment": "sentiment",
        "batch_size": 20,
        "examples": {"phrase_bank": {"train": 50}, "imdb": {"train": 50, "test": 50}},
        "tokenizer": "spacy",
        "label_map": "released",
        "positions": False,
        "mask_padding": True,
    }
    first, second = found[0]["results"]
    # Without an update in 20 and 5 epochs of 3 steps, the last of them not full.
    assert first["curve"]["step"][-1] == 60 and second["curve"]["step"][-1] == 15
    assert first["update_density"] == 0
    assert set(second["accuracy"]["phrase_bank"]) == {"train"}
    assert set(second["accuracy"]["imdb"]) == {"train", "test"}
    text = capsys.readouterr().out
    assert_prints_what_it_wrote(text, out, "forgetting.png", "equal_accuracy.png")
    assert "| CLASSP, Algorithm 1, θ 0.99 | " in text
    text = (out / "table.md").read_text()
    assert "CLASSP, Algorithm 1, θ 0.99" in text
    assert "66.04 ± 3.85" in text
    assert "20 (2 never)" in text
    options = "--batch-size 20 --tokenizer spacy --label-map released --mask-padding"
    assert options in text
    # A second call finds all done.
    sentiment.main([*arguments, "classp_threshold"])
    assert len(rows.read(out / "rows.jsonl")) == 2


def row(
    name="sgd",
    of_imdb=(0.5, 0.82, 0.84, 0.9),
    of_phrase_bank=(0.99, 0.8, 0.7, 0.6),
    **changes,
):
    """A row of results, two epochs of PhraseBank and three of IMDB."""
    method = STUDY.methods[name]

    def result(steps, epochs, last_loss, phrase_bank, imdb):
        def pairs(values):
            return [[value, value - 0.1] for value in values]

        return {
            "accuracy": {
                "phrase_bank": {"train": pairs(phrase_bank)[-1]},
                "imdb": {split: pairs(imdb)[-1] for split in ("train", "test")},
            },
            "curve": {
                "step": steps,
                "accuracy": {"phrase_bank": pairs(phrase_bank), "imdb": pairs(imdb)},
            },
            "epochs": epochs,
            "last_loss": last_loss,
            "update_density": 0.5,
            "bytes_per_weight": 4.0,
            "finite": True,
            "device": "2 cores",
            "versions": {"jax": "1.0"},
        }

    first = result([0, 14], 2, 0.004, (0.3, 0.99), (0.5, 0.5))
    second = result([0, 34, 68, 102], 3, 0.3, of_phrase_bank, of_imdb)
    settings = {
        "experiment": "sentiment",
        "batch_size": 750,
        "tokenizer": "spacy",
        "label_map": "sentiment",
        "positions": False,
        "mask_padding": False,
    }
    made = {
        "method": name,
        "seed": 0,
        "settings": settings,
        "phases": as_json(method.phases),
        "results": [first, second][-len(method.phases) :],
    }
    return made | changes


def test_equal_accuracy_is_read_off_where_it_is_first_reached():
    one = row(of_imdb=(0.7, 0.82, 0.84, 0.9))
    reached = [report.at_equal_accuracy(one, level) for level in report.LEVELS]
    np.testing.assert_allclose(reached, [99 - 19 * 10 / 12, 75, 70 - 10 / 6, 65])
    # From the start, not at the second crossing, and not after the last measurement.
    other = row(of_imdb=(0.8, 0.81, 0.79, 0.84))
    reached = [report.at_equal_accuracy(other, level) for level in report.LEVELS]
    np.testing.assert_allclose(reached, [99, 62, np.nan, np.nan])
    table = report.equal_accuracy_table({"sgd": [one, other]})
    assert "| SGD | 91.1 ± 11.2 | 68.5 ± 9.2 | 68.3 (1) | 65.0 (1) | 2 |" in table


def test_epochs_table_says_who_never_got_there():
    other = row(seed=1)
    other["results"][1] |= {"epochs": 100, "last_loss": None}
    table = report.epochs_table({"sgd": [row(), other]})
    assert "| SGD | 2 | 52 ± 69 (1 never) |" in table


def test_report_writes_what_the_rows_allow(tmp_path):
    longer = row(of_imdb=(0.5, 0.7, 0.8, 0.85, 0.86), of_phrase_bank=(0.9,) * 5, seed=1)
    longer["results"][1]["curve"]["step"].append(136)
    found = [row(), longer, row("ewc_100"), row("ewc_1000"), row("joint")]
    lines = [json.dumps(of_row) for of_row in found]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    report.main([str(tmp_path)])
    for name in ("forgetting", "equal_accuracy", "fronts"):
        file = tmp_path / f"{name}.png"
        assert file.read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "table.md").read_text()
    assert "| SGD | 47.24 ± 5.57 | 85.67 ± 1.72 |" in text
    assert "PhraseBank has no test set." in text
    assert "| EWC, λ 100 | 60.0 | 90.0 | **75.0** | 1 |" in text
    assert "| Joint training, Adam | 3 (1 never) | 3 (1 never) |" in text
    assert "--label-map released" in text
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "missing")])
    (tmp_path / "fronts.png").unlink()
    (tmp_path / "rows.jsonl").write_text(lines[0] + "\n" + lines[2] + "\n")
    report.main([str(tmp_path)])
    assert not (tmp_path / "fronts.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods rmsprop", "invalid choice: 'rmsprop'"),
        ("--tokenizer bpe", "invalid choice: 'bpe'"),
        ("--label-map mine", "invalid choice: 'mine'"),
        ("--out pyproject.toml", "File exists"),
        ("--batch-size 64", "at most 50, a task's examples"),
    ],
)
def test_names_what_is_wrong(tiny, arguments, message, capsys, tmp_path):
    assert_names_what_is_wrong(sentiment, arguments, message, capsys, tmp_path)


def test_missing_data_is_one_clear_line(monkeypatch, capsys, tmp_path):
    def missing(*args, **kwargs):
        raise DatasetError("put it there")

    monkeypatch.setattr(sentiment, "load", missing)
    with pytest.raises(SystemExit):
        sentiment.main(["--out", str(tmp_path)])
    assert "put it there" in capsys.readouterr().err


@pytest.mark.parametrize("name", SIGNALS)
def test_sigterm_saves_and_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(sentiment, "Transformer", lambda rngs, **kwargs: Network(rngs))
    assert_sigterm_saves(sentiment, tmp_path, capsys, monkeypatch, name)


def test_what_cannot_be_written_is_one_clear_line(tiny, tmp_path, capsys):
    assert_names_what_cannot_be_written(sentiment, tmp_path, capsys)
