"""Words that several commands use."""


def count(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``.

    Args:
      number: of what is counted.
      noun: what it is, in the singular; its plural has an s.
    """
    return f"{number} {noun}" + "s" * (number != 1)
