"""Nested containers of arrays, ragged sequences, and arrays of other libraries."""
