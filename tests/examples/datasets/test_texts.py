import io
import os
import pathlib
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from examples.datasets import texts as data
from examples.datasets.texts import CLASSES, beginning, load, read_phrasebank
from examples.datasets.tfds import DatasetError, make
from tests.helpers import serving

SENTENCES = [
    ("Profit rose , said the firm .", "positive"),
    ("Sales fell to EUR 5 mn @ year end", "negative"),  # An @ of its own.
    ("\xc5land is an island .", "neutral"),  # Not ASCII.
]
REVIEWS = {
    "train": [("Great fun,  said I", "pos"), ("A bad \u2026 film", "neg")],
    "test": [("unheard of fun", "pos")],
}


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


def phrasebank(
    path, text=None, member=data._SENTENCES, compression=zipfile.ZIP_DEFLATED
):
    if text is None:
        text = "".join(f"{sentence}@{label}\r\n" for sentence, label in SENTENCES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(member, text.encode("latin-1"))
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of data sets in which IMDB was prepared from what a server has."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(folder / "imdb.tar.gz", "w:gz") as archive:
        for split, reviews in REVIEWS.items():
            for i, (text, label) in enumerate([*reviews, ("?", "unsup")]):
                info = tarfile.TarInfo(f"aclImdb/{split}/{label}/{i}_1.txt")
                content = f" {text}\n".encode()
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    data_dir = tmp_path_factory.mktemp("prepared")
    with serving(folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_IMDB_URL", f"{url}/imdb.tar.gz")
        load(data_dir, phrasebank(folder / "any name.zip"))
    return data_dir


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", refuse)


def texts(split, words):
    """Tokens back to words, with the classes, in any order."""
    return sorted(
        (" ".join(words[i] for i in row if i), int(label))
        for row, label in zip(split.inputs, split.labels, strict=True)
    )


@pytest.mark.parametrize("tokenizer", data.TOKENIZERS)
def test_load(prepared, offline, tmp_path, tokenizer):
    file = phrasebank(tmp_path / "a.zip")
    tasks, vocabulary = load(prepared, file, tokenizer=tokenizer)
    phrase_bank, imdb = tasks["phrase_bank"], tasks["imdb"]
    assert phrase_bank.test is None
    assert phrase_bank.train.inputs.shape == (3, 30)
    assert phrase_bank.train.inputs.dtype == phrase_bank.train.labels.dtype == np.int32
    assert [len(split.labels) for split in imdb] == [2, 1]
    # Every word of both training sets has a number, in their order; a blank hasn't.
    seen = np.concatenate([phrase_bank.train.inputs, imdb.train.inputs]).ravel()
    _, first = np.unique(seen[seen > 1], return_index=True)
    np.testing.assert_array_equal(first, sorted(first))
    assert set(seen) - {1} == {0, *range(2, vocabulary)}

    # What each number stands for, from the texts, which differ in their lengths.
    words = {1: "<unk>"}

    def tokenize(text):
        found = data.TOKENIZERS[tokenizer]()(text)
        return ["<unk>" if word.isspace() else word for word in found]

    known = {"phrase_bank": SENTENCES, "imdb": REVIEWS["train"]}
    for name, task in tasks.items():
        of_length = {len(tokenize(text)): tokenize(text) for text, _ in known[name]}
        for row in task.train.inputs:
            for i, word in zip(row, of_length[np.count_nonzero(row)], strict=False):
                assert words.setdefault(int(i), word) == word
    assert texts(phrase_bank.train, words) == sorted(
        (" ".join(tokenize(text)), CLASSES.index(label)) for text, label in SENTENCES
    )
    assert texts(imdb.train, words) == sorted(
        (" ".join(tokenize(text)), {"neg": 0, "pos": 2}[label])
        for text, label in REVIEWS["train"]
    )
    assert texts(imdb.test, words) == [("<unk> <unk> fun", 2)]


def test_label_map_of_the_released_code(prepared, offline, tmp_path):
    file = phrasebank(tmp_path / "a.zip")
    tasks, _ = load(prepared, file, label_map="released")
    assert set(tasks["imdb"].train.labels) == {0, 1}
    assert tasks["imdb"].test.labels == [CLASSES.index("neutral")]
    assert set(tasks["phrase_bank"].train.labels) == {0, 1, 2}


def test_a_file_given_is_read_whatever_was_prepared(prepared, offline, tmp_path):
    load(prepared, phrasebank(tmp_path / "a.zip"))
    one = phrasebank(tmp_path / "b.zip", "Only this .@neutral\r\n")
    tasks, _ = load(prepared, one)
    assert len(tasks["phrase_bank"].train.labels) == 1
    assert not (prepared / "financial_phrase_bank").exists()


def test_without_a_file_given_tfds_finds_it(prepared, offline):
    manual = prepared / "downloads" / "manual"
    with pytest.raises(DatasetError, match="isn't there. Download") as info:
        load(prepared)
    assert str(manual) in str(info.value) and "--phrasebank" in str(info.value)
    manual.mkdir(parents=True)
    file = phrasebank(manual / "FinancialPhraseBank-v1.0.zip")
    tasks, _ = load(prepared)
    file.unlink()  # It's prepared now, for TFDS itself as well.
    again, _ = load(prepared)
    np.testing.assert_array_equal(
        tasks["phrase_bank"].train.inputs, again["phrase_bank"].train.inputs
    )
    folder = prepared / "financial_phrase_bank" / "1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source("train")
    assert {x["text"].decode() for x in source} == {text for text, _ in SENTENCES}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "isn't there. Download"),
        (lambda path: path.write_text("no zip"), "File is not a zip file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: phrasebank(path, member="other.txt"), "There is no item named"),
        (
            lambda path: phrasebank(path, "No label\r\n"),
            "line 1 must end in '@' and",
        ),
        (
            lambda path: phrasebank(path, "Fine .@neutral\r\nUp .@postive\r\n"),
            "line 2 must end in '@' and one of negative, neutral, positive; got 'Up",
        ),
        (
            lambda path: phrasebank(path, "Fine .@neutral\r\n\r\nUp .@positive\r\n"),
            "line 2 must end in '@' and one of negative, neutral, positive; got ''",
        ),
        (
            # As text that was saved as UTF-8 looks.
            lambda path: phrasebank(path, "Fine .@neutral\r\n\xc3\x85land@neutral\r\n"),
            "line 2 is UTF-8, not ISO-8859-1 as published",
        ),
        (lambda path: phrasebank(path, ""), "Sentences_50Agree.txt is empty"),
        (
            lambda path: os.truncate(phrasebank(path), path.stat().st_size - 30),
            "File is not a zip file",
        ),
        (
            lambda path: phrasebank(path, compression=0).write_bytes(
                path.read_bytes().replace(b"Profit", b"Profet")
            ),
            "Bad CRC-32",
        ),
        (
            lambda path: phrasebank(path).write_bytes(
                path.read_bytes()[:90] + b"\xff" * 20 + path.read_bytes()[110:]
            ),
            "Error -3 while decompressing",
        ),
    ],
)
def test_a_missing_or_damaged_phrasebank_is_named(
    prepared, offline, tmp_path, make, message
):
    file = tmp_path / "bank.zip"
    make(file)
    with pytest.raises(DatasetError) as info:
        load(prepared, file)
    assert message in str(info.value) and str(file) in str(info.value)


def test_a_zip_that_leaves_its_folder_writes_nothing(prepared, offline, tmp_path):
    file = phrasebank(tmp_path / "in" / "a.zip")
    with zipfile.ZipFile(file, "a") as archive:
        for name in ("../escaped.txt", "/escaped.txt", str(tmp_path / "escaped.txt")):
            archive.writestr(name, "out")
    before = sorted(tmp_path.rglob("*"))
    tasks, _ = load(prepared, file)
    assert len(tasks["phrase_bank"].train.labels) == len(SENTENCES)
    assert sorted(tmp_path.rglob("*")) == before
    assert not pathlib.Path("/escaped.txt").exists()


def imdb(data_dir, reviews, classes=2):
    """A prepared folder of reviews, bytes with their labels, to train on."""
    published = data._imdb_builder_class()

    class Builder(published, skip_registration=True):
        name = published.name

        def _info(self):
            features = {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(num_classes=classes),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(s) for s in ("train", "test")}

        def _generate_examples(self, split):
            for key, (text, label) in enumerate(reviews):
                yield key, {"text": text, "label": label}

    return make(Builder, data_dir, data_dir / data._IMDB)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((b"caf\xe9", 0), "'utf-8' codec can't decode byte 0xe9"),
        ((b"fine", 2), "label 2 isn't one of 2"),
        ((b"fine", -1), "label -1 isn't one of 2"),
    ],
)
def test_a_bad_review_is_named(offline, tmp_path, bad, message):
    folder = imdb(tmp_path, [(b"one", 0), bad, (b"two", 1)], classes=3)
    with pytest.raises(DatasetError) as info:
        load(tmp_path, phrasebank(tmp_path / "a.zip"))
    assert str(info.value).startswith(f"{folder} can't be read (train, record ")
    assert message in str(info.value)


@pytest.mark.parametrize("tokenizer", data.TOKENIZERS)
def test_empty_and_endless_reviews_are_padded_and_cut(offline, tmp_path, tokenizer):
    words, letters = b"word " * 100_000, b"x" * 100_000
    imdb(tmp_path, [(b"", 0), (b" \n\t ", 1), (words, 1), (letters, 0), (b"end", 0)])
    tasks, _ = load(tmp_path, phrasebank(tmp_path / "a.zip"), tokenizer=tokenizer)
    for split in tasks["imdb"]:
        lengths = np.count_nonzero(split.inputs, axis=1)
        assert sorted(lengths)[:1] == [0] and sorted(lengths)[-1] == 30
        assert np.count_nonzero(lengths == 1) in (
            2,
            3,
        )  # Blanks are a token of spaCy's.


def test_a_published_review_that_is_no_utf_8_is_named(tmp_path):
    archive = tmp_path / "imdb.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        info = tarfile.TarInfo("aclImdb/train/pos/7_8.txt")
        info.size = 1
        file.addfile(info, io.BytesIO(b"\xe9"))
    builder = data._imdb_builder_class()(data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"aclImdb/train/pos/7_8\.txt isn't UTF-8"):
        list(builder._generate_examples(archive, "train"))


def test_offline_says_where_imdb_belongs(offline, tmp_path):
    with pytest.raises(DatasetError) as info:
        load(tmp_path, phrasebank(tmp_path / "a.zip"))
    assert "no network" in str(info.value)
    assert str(tmp_path / "imdb_reviews" / "plain_text" / "1.0.0") in str(info.value)


def test_without_spacy_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DatasetError, match=r"'\.\[experiments\]'"):
        load(tmp_path)


@pytest.mark.parametrize("tokenizer", data.TOKENIZERS)
def test_a_text_is_cut_where_it_changes_nothing(tokenizer):
    tokenize = data.TOKENIZERS[tokenizer]()
    rng = np.random.default_rng(0)
    pieces = ["don't", " ", "  ", "\n", "a", "U.S.", "word,", "(x)", ":-)", "\t", "5%"]
    for _ in range(200):
        text = "".join(rng.choice(pieces, 150))
        assert tokenize(beginning(text))[:30] == tokenize(text)[:30]
    assert len(beginning("word " * 100_000)) == 150
    assert beginning("") == ""


def test_real_data():
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "absent"))
    file = pathlib.Path(os.environ.get("PHRASEBANK", "absent"))
    if not (data_dir / "imdb_reviews").is_dir() or not file.exists():
        pytest.skip("set TFDS_DATA_DIR to a folder with imdb_reviews, and PHRASEBANK")
    assert len(list(read_phrasebank(file))) == 4846
    tasks, vocabulary = load(data_dir, file)
    assert vocabulary == 42_982
    counts = [
        np.bincount(split.labels).tolist()
        for task in tasks.values()
        for split in task
        if split
    ]
    assert counts == [[604, 2879, 1363], [12_500, 0, 12_500], [12_500, 0, 12_500]]
