"""Data sets of TensorFlow Datasets (TFDS), read without TensorFlow."""

import pathlib
from typing import Any


def open_source(name: str, split: str, data_dir: pathlib.Path | None) -> Any:
    """A split as a sequence of examples, images still encoded.

    Args:
      name: of the data set, its configuration if any, and its version, as in
        ``imdb_reviews/plain_text/1.0.0``.
      split: ``train`` or ``test``.
      data_dir: TFDS's folder of data sets; None for TFDS's own default.
    """
    import tensorflow_datasets as tfds

    data_dir = data_dir or pathlib.Path(tfds.core.constants.DATA_DIR)
    builder = tfds.builder_from_directory(data_dir / name)
    features = builder.info.features
    return builder.as_data_source(
        split,
        decoders={
            key: tfds.decode.SkipDecoding()
            for key, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        },
    )
