"""What all rings share."""

from hypothesis import settings

# No deadline: rings run at once, and in emulated machines everything takes eight times as long.
settings.register_profile("pybpfload", deadline=None)
settings.load_profile("pybpfload")
