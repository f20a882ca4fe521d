"""One language after another, from a checkpoint that AdamW has trained."""
