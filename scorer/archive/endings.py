"""How a scan can end other than done; each message is a sentence that says how to go on."""


class RunRefused(ValueError):
    """The folder holds a run of another bundle, policy or archive, or no run; the sentence names the difference."""


class RunBroken(ValueError):
    """A run's folder is not what its marks say; the sentence names the file."""


class RunNotReady(Exception):
    """The run is not planned yet; the process of index 0 does that."""


class ArchiveUnavailable(Exception):
    """The archive cannot be read now; what is not committed is not answered."""


class ScanInterrupted(Exception):
    """Somebody stopped the scan; what is committed stays."""


class CannotCommit(OSError):
    """A shard cannot be written: the disk is full, among others."""
