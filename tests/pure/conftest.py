"""Settings of the pure ring."""

from hypothesis import settings

# No deadline: rings run side by side, and a busy machine is no defect.
settings.register_profile("pybpfload", deadline=None)
# tools/test --quick takes this one: people run it between two thoughts.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=10_000)
settings.load_profile("pybpfload")
