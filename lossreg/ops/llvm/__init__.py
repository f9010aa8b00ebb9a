"""Formulas compiled for the CPU: traced to a graph, written as LLVM text, compiled by llvmlite."""
