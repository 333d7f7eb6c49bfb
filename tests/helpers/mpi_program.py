"""A search and a scan on the ranks of MPI, started by mpiexec: mpi_program.py FOLDER

Printed: whether tasks run elsewhere, the number of trials and of those that failed, whether the best file keeps the
limit, and whether a scan on ranks returns what one in this process does.
"""

import os
import sys

from mpi4py.futures import MPIPoolExecutor
from small_search import made, search

import tfprune


def main() -> None:
    model, _, validation, _ = made()
    with MPIPoolExecutor() as executor:
        there = executor.submit(os.getpid).result() != os.getpid()
        scan = tfprune.sensitivity(model, validation, (0.5, 0.9), jobs=2, executor=executor, verbose=0)
        report = search(sys.argv[1], trials=2, jobs=2, executor=executor)
    same = scan == tfprune.sensitivity(model, validation, (0.5, 0.9), verbose=0)
    sys.stdout.write(f"{there} {report.trials} {len(report.failed)} {report.best.drop <= 0.06} {same}\n")


if __name__ == "__main__":  # the other ranks import this program, too
    main()
