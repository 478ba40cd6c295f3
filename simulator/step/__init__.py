"""One training step as a discrete-event simulation: a task graph, two players, a timeline.

`simulator.schedules` orders the slots, `times` prices them, `build` makes the task `graph`; `player` (SimPy, with
`contention`) and `sweep` (NumPy) play it to a `timeline`. `ranks` plays every GPU, layer by layer (`layer_programs`,
`phases`), with what makes them unequal (`spread`), and `inequality` weighs that. `memory_timeline` says what memory
holds meanwhile.

`play(build_graph(make_schedule(...), StageTimes(...)))` gives a Timeline with the step time and its breakdown.
"""
