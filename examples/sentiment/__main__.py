"""Command line of the text experiment: ``python -m examples.sentiment``."""

import argparse
import functools
import pathlib

from examples.datasets.texts import LABEL_MAPS, TOKENIZERS, load
from examples.datasets.tfds import DatasetError
from examples.models.transformer import Transformer
from examples.runner import arguments, cli
from examples.runner.data import Experiment
from examples.runner.stopping import Sigterm
from examples.sentiment import report
from examples.sentiment.study import STUDY

_CURVE = ("train", 5000)  # All sentences, and a fifth of the reviews.


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the tables and figures of all rows."""
    cli.command(_parser(), argv, _run)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    try:
        mesh = cli.prepared(args)
        tasks, vocabulary = load(
            args.data_dir,
            args.phrasebank,
            tokenizer=args.tokenizer,
            label_map=args.label_map,
        )
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))
    model = dict(positions=args.positions, mask_padding=args.mask_padding)
    experiment = Experiment(
        "sentiment",
        functools.partial(Transformer, vocabulary=vocabulary, **model),
        lambda tokens: tokens,
        tasks,
        args.batch_size,
        _CURVE,
        {"tokenizer": args.tokenizer, "label_map": args.label_map, **model},
        args.dtype,
    )
    chosen = cli.chosen(STUDY, args.methods)
    cli.run(parser, args, experiment, chosen, mesh, sigterm, report.write)


def _parser() -> argparse.ArgumentParser:
    what = (
        "Trains the paper's Transformer on Financial PhraseBank, then on IMDB (Section"
        " 4.2)"
    )
    parser = arguments.of_experiment(STUDY, what, "texts", batch_size=750)
    parser.add_argument(
        "--phrasebank",
        type=pathlib.Path,
        metavar="FILE",
        help="FinancialPhraseBank-v1.0.zip (default: of TFDS)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=TOKENIZERS,
        default="spacy",
        help="spaCy's as in the paper, or words",
    )
    parser.add_argument(
        "--label-map",
        choices=LABEL_MAPS,
        default="sentiment",
        help="IMDB's positive reviews are PhraseBank's positive class (sentiment), or"
        " its neutral one as in the paper's code (released)",
    )
    parser.add_argument(
        "--positions", action="store_true", help="encode the positions of tokens"
    )
    parser.add_argument(
        "--mask-padding",
        action="store_true",
        help="attend to no padding, and read the last real token",
    )
    return parser


if __name__ == "__main__":
    main()
