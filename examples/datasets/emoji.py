"""The same symbols as four vendors draw them, in colour, from packages of npm."""

import io
import json
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import textwrap
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from examples.datasets.images import first_of_each_class
from examples.datasets.tfds import DatasetError, check_label, folder_of_data_sets
from examples.runner.data import Split, Task


class Vendor(NamedTuple):
    """Who draws emoji.

    Attributes:
      package: the npm package that has the pictures, and its version.
      folder: of the pictures there.
      licence: of the pictures.
    """

    package: str
    folder: str
    licence: str


VENDORS = {
    "EmojiOne": Vendor("emojione@2.2.7", "package/assets/png/", "CC BY 4.0"),
    "Fluent": Vendor("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/", "MIT"),
    "Noto": Vendor(
        "emoji-datasource-google@16.0.0", "package/img/google/64/", "Apache 2.0"
    ),
    "Twemoji": Vendor(
        "emoji-datasource-twitter@16.0.0", "package/img/twitter/64/", "CC BY 4.0"
    ),
}
# Unicode's, but for the flags: Microsoft draws none of countries, so those in the
# package of Fluent are another's.
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
)
_LIST = ("Noto", "package/emoji.json")  # Which symbol is of which group.
SHAPE = (32, 32, 3)
_PARTS = 5  # Of each group a fifth is held out.
_VERSION = "1.0.0"  # Of the file made here.


def load(data_dir: pathlib.Path | None = None) -> Task:
    """Reads the pictures; makes their file where it's missing.

    The first call fetches four packages with ``npm pack``, 246 MB, takes the pictures
    out of them and keeps a file of a few megabytes.

    Args:
      data_dir: TFDS's folder of data sets, where the file is; None for TFDS's own
        default, ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
      1,104 symbols, those that all vendors draw, in random order: inputs (n, 4, 32, 32,
      3), uint8, on white, the vendors in the order of :data:`VENDORS`; labels index
      :data:`GROUPS`. A fifth of the symbols of each group are held out.

    Raises:
      DatasetError: the file is damaged, or missing and can't be made.
    """
    file = folder_of_data_sets(data_dir) / "emoji" / _VERSION / "pictures.npz"
    if not file.exists():
        _make(file)
    try:
        with np.load(file) as arrays:
            pictures, labels = arrays["pictures"], arrays["labels"]
        expected = (len(labels), len(VENDORS), *SHAPE)
        if pictures.shape != expected or pictures.dtype != np.uint8:
            raise ValueError(f"pictures are {pictures.dtype} {pictures.shape}")
        for label in np.unique(labels):
            check_label(label, len(GROUPS))
    except Exception as error:  # NumPy passes on what zipfile raises, too.
        raise DatasetError(
            f"{file} can't be read ({error}). If it is damaged, delete it, and it will"
            " be made again."
        ) from error
    held_out = first_of_each_class(labels, _PARTS)
    return Task(*(Split(pictures[of], labels[of]) for of in (~held_out, held_out)))


def _make(file: pathlib.Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DatasetError(
            f"{file} isn't there, and there is no npm to make it: the pictures are in"
            " packages of npm. Install Node.js, which has it, or copy the file here"
            " from where the same command made it."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            made = pathlib.Path(scratch) / file.name
            with made.open("wb") as opened:
                pictures, labels = _pictures(npm, pathlib.Path(scratch))
                np.savez_compressed(opened, pictures=pictures, labels=labels)
            made.replace(file)
    except Exception as error:  # Of npm, the archives and Pillow.
        raise DatasetError(f"{file} can't be made: {error}") from error


def _pictures(npm: str, scratch: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """All pictures (n, vendors, 32, 32, 3), and the group of each symbol, (n,)."""
    drawn: dict[str, dict[str, bytes]] = {}
    groups: dict[str, str] = {}
    for name, vendor in tqdm(VENDORS.items(), "Fetching emoji", disable=None):
        with tarfile.open(_fetch(npm, vendor.package, scratch / name)) as tar:
            drawn[name] = {}
            for member in tar:
                content = tar.extractfile(member)
                if content and member.name.startswith(vendor.folder):
                    symbol = _symbol(pathlib.PurePosixPath(member.name).stem)
                    drawn[name][symbol] = content.read()
                elif content and (name, member.name) == _LIST:
                    groups |= {
                        _symbol(of["unified"]): of["category"]
                        for of in json.load(content)
                        if of["category"] in GROUPS
                    }
    shared = [symbol for symbol in groups if all(symbol in of for of in drawn.values())]
    order = np.random.default_rng(0).permutation(len(shared))
    symbols = [shared[i] for i in order]
    pictures = [[_picture(of[symbol]) for of in drawn.values()] for symbol in symbols]
    labels = [GROUPS.index(groups[symbol]) for symbol in symbols]
    return np.array(pictures), np.array(labels, np.int32)


def _fetch(npm: str, package: str, folder: pathlib.Path) -> pathlib.Path:
    """The archive of a package, as the registry that npm is set up for has it."""
    folder.mkdir()
    options = [
        f"--pack-destination={folder}",
        "--ignore-scripts",
        "--loglevel=error",
        # By default npm tries for minutes where there is no network.
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    ]
    ended = subprocess.run(
        [npm, "pack", package, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        said = textwrap.shorten(ended.stderr, 300)
        raise ValueError(f"npm pack {package} ended with {ended.returncode}: {said}")
    (archive,) = folder.glob("*.tgz")
    return archive


def _symbol(name: str) -> str:
    """A symbol by its code points; vendors differ in zeros, joiners and selectors."""
    points = (point.lstrip("0") for point in re.split("[-_]", name.lower()))
    return "-".join(point for point in points if point not in ("", "200d", "fe0f"))


def _picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
        drawn = image.convert("RGBA")
    paper = Image.new("RGBA", drawn.size, "white")
    paper.alpha_composite(drawn)
    small = paper.convert("RGB").resize(SHAPE[:2], Image.Resampling.BOX)
    return np.asarray(small)
