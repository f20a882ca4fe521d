"""Financial PhraseBank, then IMDB: the paper's text experiment (Section 4.2)."""
