"""Times of collectives: NCCL's algorithms and choices, expert exchanges, and the bounds that no answer may beat."""

from hardware.collectives.algorithms import ALGORITHMS, OPERATIONS, PROTOCOLS
from hardware.collectives.closed_form import BelowBound, CollectiveTime, collective_s, evidence
from hardware.collectives.dispatchers import DISPATCHERS, combine_s, dispatch_s
from hardware.collectives.experts import ExchangeTime, ExpertExchange, expected_distinct
from hardware.collectives.group import Group, strided_group
from hardware.collectives.links import Links, links_of

__all__ = [
    "ALGORITHMS",
    "DISPATCHERS",
    "OPERATIONS",
    "PROTOCOLS",
    "BelowBound",
    "CollectiveTime",
    "ExchangeTime",
    "ExpertExchange",
    "Group",
    "Links",
    "collective_s",
    "combine_s",
    "dispatch_s",
    "evidence",
    "expected_distinct",
    "links_of",
    "strided_group",
]
