"""Financial PhraseBank and IMDB as tokens, prepared and read without TensorFlow."""

import itertools
import pathlib
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from examples.datasets.tfds import (
    DatasetError,
    check_label,
    folder_of_data_sets,
    import_tfds,
    make,
    prepare,
    read,
    record,
)
from examples.models.transformer import PAD
from examples.runner.data import Split, Task

CLASSES = ("negative", "neutral", "positive")
LABEL_MAPS = {
    # IMDB's negative and positive reviews as classes of PhraseBank.
    "sentiment": (CLASSES.index("negative"), CLASSES.index("positive")),
    "released": (CLASSES.index("negative"), CLASSES.index("neutral")),
}
LENGTH = 30  # Tokens of each text.
_UNKNOWN = PAD + 1
_ZIP = "FinancialPhraseBank-v1.0.zip"
_SENTENCES = "FinancialPhraseBank-v1.0/Sentences_50Agree.txt"
_PHRASEBANK = "financial_phrase_bank/1.0.0"
_IMDB = "imdb_reviews/plain_text/1.0.0"
_IMDB_URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
_HOW_TO_GET_IT = (
    f"Download {_ZIP} from https://www.researchgate.net/publication/251231364 (Malo et"
    " al. 2014; free for non-commercial use) and name it with --phrasebank, or put it"
    " into TFDS's folder of manual downloads"
)


def load(
    data_dir: pathlib.Path | None = None,
    phrasebank: pathlib.Path | None = None,
    *,
    tokenizer: str = "spacy",
    label_map: str = "sentiment",
) -> tuple[dict[str, Task], int]:
    """Reads both data sets, in some twenty seconds.

    Args:
      data_dir: TFDS's folder of data sets; None for TFDS's own default,
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. IMDB is downloaded where it's
        missing.
      phrasebank: the zip of Financial PhraseBank, as its authors publish it; None for
        what TFDS has prepared, or for that file in TFDS's ``downloads/manual``.
      tokenizer: a key of :data:`TOKENIZERS`.
      label_map: a key of :data:`LABEL_MAPS`.

    Returns:
      Both tasks by their names, ``phrase_bank`` (4,846 sentences to train on, none held
      out) first, then ``imdb`` (25,000 reviews each): tokens (n, 30), int32, of the
      text's beginning, with 0 behind its end and 1 for a word that no text to train on
      has; labels index :data:`CLASSES`. And the number of different tokens.

    Raises:
      DatasetError: a data set or the tokenizer is missing, or damaged.
    """
    tokenize = TOKENIZERS[tokenizer]()
    with tempfile.TemporaryDirectory() as scratch:
        # A file given is read, whatever was prepared from another before.
        folder = _prepare_phrasebank(scratch if phrasebank else data_dir, phrasebank)
        sentences = _read(folder, "train", len(CLASSES))
    folder = prepare(_IMDB, data_dir, _imdb_builder_class())
    splits = {
        ("phrase_bank", "train"): sentences,
        ("imdb", "train"): _read(folder, "train", 2),
        ("imdb", "test"): _read(folder, "test", 2),
    }
    words = {
        key: [
            tokenize(beginning(text))[:LENGTH]
            for text, _ in tqdm(
                examples, desc=f"Tokenizing {', '.join(key)}", disable=None
            )
        ]
        for key, examples in splits.items()
    }
    known = itertools.chain.from_iterable(
        words["phrase_bank", "train"] + words["imdb", "train"]
    )
    # In order of appearance; blanks, of which spaCy makes tokens, remain unknown, as in
    # the paper's experiment.
    words_known = dict.fromkeys(word for word in known if not word.isspace())
    vocabulary = {word: i for i, word in enumerate(words_known, _UNKNOWN + 1)}
    classes = {"phrase_bank": range(len(CLASSES)), "imdb": LABEL_MAPS[label_map]}
    tasks: dict[str, dict[str, Split]] = {"phrase_bank": {}, "imdb": {}}
    for (name, split), texts in words.items():
        tokens = np.full((len(texts), LENGTH), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = [vocabulary.get(word, _UNKNOWN) for word in text]
        labels = [classes[name][label] for _, label in splits[name, split]]
        tasks[name][split] = Split(tokens, np.array(labels, np.int32))
    return (
        {name: Task(**of_task) for name, of_task in tasks.items()},
        len(vocabulary) + _UNKNOWN + 1,
    )


def _read(folder: pathlib.Path, split: str, classes: int) -> list[tuple[str, int]]:
    """The texts and labels of a split; a text may be empty, and is padding then."""
    examples = []
    for number, example in enumerate(read(folder, split)):
        with record(folder, split, number):
            check_label(example["label"], classes)
            examples.append((example["text"].decode(), example["label"]))
    return examples


def beginning(text: str) -> str:
    """As much of a text as its first tokens need; the rest needn't be looked at.

    No tokenizer here makes less than a token of what stands between two blanks.
    """
    # Any text has one, if only an empty one.
    found = re.match(rf"\s*(?:\S+\s*){{0,{LENGTH}}}", text)
    return found.group() if found else ""


def _spacy() -> Callable[[str], list[str]]:
    """SpaCy's rule-based English tokenizer, as in the paper's experiment."""
    try:
        import spacy
    except ImportError as error:
        raise DatasetError(
            f"{error}; the experiments need pip install '.[experiments]'"
        ) from error
    tokenizer = spacy.blank("en").tokenizer
    return lambda text: [token.text for token in tokenizer(text)]


def _words() -> Callable[[str], list[str]]:
    """Runs of letters and digits, runs of anything else but blanks."""
    return re.compile(r"\w+|[^\w\s]+").findall


TOKENIZERS = {"spacy": _spacy, "words": _words}


def _prepare_phrasebank(
    data_dir: pathlib.Path | str | None, file: pathlib.Path | None
) -> pathlib.Path:
    data_dir = folder_of_data_sets(data_dir)
    folder = data_dir / _PHRASEBANK
    if folder.exists():
        return folder
    manual = data_dir / "downloads" / "manual" / _ZIP
    path = file or manual
    if not path.exists():
        where = "" if file else f", here {manual.parent}"
        raise DatasetError(f"{path} isn't there. {_HOW_TO_GET_IT}{where}.")
    return make(_phrasebank_builder_class(path), data_dir, folder)


def _phrasebank_builder_class(path: pathlib.Path) -> type:
    """A TFDS builder of Financial PhraseBank, of which TFDS has none."""
    tfds = import_tfds()
    base: Any = tfds.core.GeneratorBasedBuilder

    class Builder(base, skip_registration=True):  # type: ignore[call-arg,misc]
        name = _PHRASEBANK.split("/")[0]
        VERSION = tfds.core.Version(_PHRASEBANK.split("/")[1])
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"{_HOW_TO_GET_IT}."

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Sentences of financial news by their sentiment.",
                features=tfds.features.FeaturesDict(
                    {
                        "text": tfds.features.Text(),
                        "label": tfds.features.ClassLabel(names=CLASSES),
                    }
                ),
                supervised_keys=("text", "label"),
                homepage="https://www.researchgate.net/publication/251231364",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            return enumerate(read_phrasebank(path))

    return Builder


def read_phrasebank(path: pathlib.Path) -> Iterator[dict[str, str]]:
    """The sentences on whose label at least half of the annotators agree.

    Args:
      path: of the zip, as its authors publish it.

    Yields:
      Texts and labels, of :data:`CLASSES`.

    Raises:
      ValueError: the file is no zip, damaged, or doesn't hold the sentences; the
        message names the file and, where it can, the line.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(_SENTENCES).splitlines()
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError),
        *(NotImplementedError, RuntimeError),  # Of a password or another packing.
    ) as error:
        raise ValueError(f"{path}: {error}") from error
    if not lines:
        raise ValueError(f"{path}, {_SENTENCES} is empty")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, {_SENTENCES}, line {number}"
        if not line.isascii() and _is_utf_8(line):
            raise ValueError(f"{where} is UTF-8, not ISO-8859-1 as published")
        text, separator, label = line.decode("latin-1").rpartition("@")
        if not separator or label not in CLASSES:
            raise ValueError(
                f"{where} must end in '@' and one of {', '.join(CLASSES)}; got"
                f" {line[-40:].decode('latin-1')!r}"
            )
        yield {"text": text, "label": label}


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _imdb_builder_class() -> type:
    """TFDS's builder of IMDB's labelled splits, less what needs TensorFlow."""
    tfds = import_tfds()
    published: Any = tfds.builder_cls("imdb_reviews")

    class Builder(published, skip_registration=True):  # type: ignore[call-arg,misc]
        name = published.name
        URL = _IMDB_URL

        def _info(self) -> Any:
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "text": tfds.features.Text(),
                        "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                    }
                ),
                supervised_keys=("text", "label"),
                homepage="http://ai.stanford.edu/~amaas/data/sentiment/",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            path = dl_manager.download(self.URL)
            return {s: self._generate_examples(path, s) for s in ("train", "test")}

        def _generate_examples(
            self, path: pathlib.Path, split: str
        ) -> Iterator[tuple[str, dict[str, Any]]]:
            with tarfile.open(path) as archive:
                for member in archive:
                    folder, _, file = member.name.rpartition("/")
                    label = folder.removeprefix(f"aclImdb/{split}/")
                    if not (member.isfile() and file and label in ("neg", "pos")):
                        continue
                    if opened := archive.extractfile(member):
                        text = opened.read().strip()
                        if not _is_utf_8(text):
                            raise ValueError(f"{member.name} isn't UTF-8")
                        # The key decides the order in which TFDS stores them.
                        yield member.name, {"text": text, "label": label}

    return Builder
