"""Settings of the pure ring."""

from hypothesis import settings

# No deadline: rings run side by side, and a busy machine is no defect.
settings.register_profile("pybpfload", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=10_000)
settings.load_profile("pybpfload")
