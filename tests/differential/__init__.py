"""All calculators of lossreg against an independent reference in float64, on random cases.

`python -m tests.differential 100000` runs so many cases, `python -m tests.differential --case 17` one of them.
"""
