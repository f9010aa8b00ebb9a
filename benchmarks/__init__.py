"""Side by side with other libraries, in one process and one run: python -m benchmarks --help."""
