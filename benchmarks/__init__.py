"""Side by side with other libraries, in one process and one run: python -m benchmarks --help.

The number of threads is the same for everybody, and most libraries read theirs once, when they load: so it is here.
"""

import os

THREADS = 2

for _variable in ("LOSSREG_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
    os.environ[_variable] = str(THREADS)  # NPROC is what JAX on the CPU reads
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={THREADS}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
