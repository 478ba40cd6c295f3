"""One training step as a discrete-event simulation: schedules as data, a task graph, two players, a timeline.

`play(build_graph(make_schedule(...), StageTimes(...)))` gives a Timeline with the step time and its breakdown.
"""
