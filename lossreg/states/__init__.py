"""Partial results of batches, which merge to the result of all of them."""
