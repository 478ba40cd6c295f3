"""The ranks that measure together, as errors tell of them."""


class PeerLost(Exception):
    """A rank died, did not come or no longer answers; what was measured until then is kept."""
