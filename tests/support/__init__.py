"""What tests share: a row for each calculator, comparisons, other libraries, and CUDA on the CPU."""
