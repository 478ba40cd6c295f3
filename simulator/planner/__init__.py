"""The search: every legal parallelism plan of a scenario, exactly priced or excluded by a proven bound.

`planning.plan` is read first. `space` makes the plans, as `columns`, judged by `legality`; `shapes` and `stages` price
what they share (`reads` runs the house's own formulas on many plans), `structures` and `frames` say how often each
schedule runs what; `bounds` weighs all plans, `play` plays those that `search` leaves.
"""
