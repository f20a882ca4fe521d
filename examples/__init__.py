"""Small examples, one folder per experiment, and what the experiments share."""
