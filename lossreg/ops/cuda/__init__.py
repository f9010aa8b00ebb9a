"""CUDA text of formulas, and the kernels that are written by hand."""
