"""The streams of tasks; a file here that has ``BENCHMARKS`` is one of them."""
