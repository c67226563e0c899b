#!/usr/bin/env python3
"""T2 and Q of every row of the Tennessee Eastman test runs, by a PCA of d00 alone.

Usage: reference.py FOLDER_WITH_dNN.dat.gz > reference.csv   (numpy is all it needs)

Written from the formulas, apart from the Go code: standardize d00 with its mean and standard deviation (n-1), take the
11 leading right singular vectors, T2 = sum t_k^2 / lambda_k with lambda the variance (n-1) of component k, Q = |z - Pt|^2.
Q is computed from the components that are left out, T2 from an explicit covariance of the scores, so that neither follows
the same path as the code under test.
"""

import gzip
import sys

import numpy as np

COMPONENTS = 11
RUNS = 12  # d00 to d11


def load(path):
    with gzip.open(path, "rt") as f:
        return np.loadtxt(f)


def main(folder):
    train = load(f"{folder}/d00.dat.gz").T  # stored transposed
    assert train.shape == (500, 52), train.shape
    mean, std = train.mean(axis=0), train.std(axis=0, ddof=1)
    z = (train - mean) / std
    _, _, vt = np.linalg.svd(z, full_matrices=True)
    kept, left = vt[:COMPONENTS].T, vt[COMPONENTS:].T
    inverse = np.linalg.inv(np.cov(z @ kept, rowvar=False))
    print("run,row,t2,q")
    for run in range(RUNS):
        z = (load(f"{folder}/d{run:02d}_te.dat.gz") - mean) / std
        t, r = z @ kept, z @ left
        t2 = np.einsum("ij,jk,ik->i", t, inverse, t)
        q = (r * r).sum(axis=1)
        for row in range(len(z)):
            print(f"{run},{row + 1},{t2[row]:.9g},{q[row]:.9g}")


if __name__ == "__main__":
    main(sys.argv[1])
