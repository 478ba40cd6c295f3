"""From a scenario to its prediction: the composition of placement, memory, costs, the simulated step and the run.

`prediction.evaluate` is read first. `simulate` makes the step, `run_spec` what the whole run needs of it (`degraded`:
steps of a job that lost something), `confidence` the interval; `views`, `heterogeneity` and `outer_reports` look
further into a simulated step.
"""
