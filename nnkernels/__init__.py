"""Deep-learning kernels as explicit loops a student can read."""
