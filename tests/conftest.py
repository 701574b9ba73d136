"""One thread for each process of the tests: their networks are so small that a second one only waits for the first."""

import os

import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
