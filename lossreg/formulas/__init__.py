"""Formulas as graphs: a formula runs once on symbols, and every backend runs what they recorded.

Nothing here knows of calculators, arrays in memory or backends.
"""
