"""How a step may end before it is done; the command line gives each its exit code. Light, so that it starts at once."""


class TrainingInterrupted(Exception):
    """Ctrl-C, SIGTERM or a full disk: the same command goes on from where it stood, as the sentence says."""


class TrainingDiverged(Exception):
    """The loss or a weight is no longer a number; the last good checkpoint stands."""
