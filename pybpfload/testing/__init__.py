"""For testing BPF programs: kernels in virtual machines, generators, a pytest plugin."""
