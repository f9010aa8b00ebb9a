"""Calls that are disturbed at random moments: by signals, threads, forks, and failures of memory, compiler and disk.

`python -m tests.faults --minutes 30` runs every kind of disturbance; `test_faults.py` runs each for a second.
"""
