"""Write scikit-learn's handwritten digits as a dataset for `train`: `make_digits.py digits.npz`."""

import sys

import numpy as np
from sklearn.datasets import load_digits

if __name__ == "__main__":
    digits = load_digits()
    np.savez(sys.argv[1], images=digits.images, labels=digits.target)
