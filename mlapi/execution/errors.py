"""The exceptions of the runner."""


class AttemptOver(Exception):
    """The attempt has ended or belongs to another runner: nothing more may be sent for it."""


class Rejected(Exception):
    """A request that the server will never accept. The message is the server's reason."""


class Damaged(Exception):
    """A download that does not have the expected size and SHA-256."""


class NoResponse(Exception):
    """A request without a complete response. It may have had its effect."""


class JobFailed(Exception):
    """The job ends as FAILED. The message is the reason, for the user."""


class JobCancelled(Exception):
    """The job ends as CANCELLED."""
