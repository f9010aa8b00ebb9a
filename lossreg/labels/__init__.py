"""Truths of all forms (ids, names, negated names, missing labels, sets) as arrays."""
