"""The whole run: what fails, what is saved, what recovery costs, and when it will be done.

`read.read_run` takes a scenario's policies, `job_facts.run_spec` joins them with the facts of the job to a
`specs.RunSpec`, `montecarlo.simulate` plays it over many seeds (`batch_player`: all runs at once as arrays) and
`summary` sums up (`result.RunResult`). `montecarlo.story` plays one run event by event (`event_player`: SimPy, save by
save); the two players agree to rounding.
"""
