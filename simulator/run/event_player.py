"""One run in SimPy, from event to event and save by save, with the story of what happened: the reference player."""

from __future__ import annotations

import math

import numpy as np
import simpy

from simulator.run.checkpoints import Saving
from simulator.run.event_effects import events, strike
from simulator.run.event_job import Job, Process
from simulator.run.fault_source import FaultSource, repairs_s, window_s
from simulator.run.faults import JOB
from simulator.run.outcome import Outcome, RunEvent, is_hopeless
from simulator.run.specs import RunSpec
from simulator.run.uncertainty import step_factors


def play_one(spec: RunSpec, saving: Saving, source: FaultSource, run: int = 0) -> tuple[Outcome, tuple[RunEvent, ...]]:
    """Plays run number `run`; gives its outcome, as a batch of one, and its story."""
    env = simpy.Environment()
    step_factor = step_factors(spec.uncertainty, spec.simulation.seed, np.array([run]))[0]
    job = Job(env, spec, saving, float(step_factor))
    job.life = env.process(_live(job))
    env.process(_suffer(job, source, run))
    env.run(until=job.over)
    return job.outcome(), tuple(job.story)


def _live(job: Job) -> Process:
    """Goes from activity to activity until the work is done; whoever changes the state interrupts."""
    while not job.is_complete:
        job.activity, wall_s = job.next_activity()
        try:
            yield job.env.timeout(wall_s)
        except simpy.Interrupt:
            continue
        if job.activity.name == "restart":
            job.tell_resumed()
        job.account(arrived=True)
    job.tell("finished", None, JOB, "")
    job.over.succeed()


def _suffer(job: Job, source: FaultSource, run: int) -> Process:
    """Lets the faults of the run happen, window by window, until the run is over or given up."""
    length_s, start_s = window_s(job.spec), 0.0
    while True:
        end_s = start_s + length_s
        timeline = source(run, (start_s, end_s))
        if start_s == 0:
            job.repairs_s = repairs_s(job.spec, timeline)
        for fault in events(timeline):
            yield job.env.timeout(fault.time_s - job.now_s)
            strike(job, fault)
        yield job.env.timeout(max(end_s - job.now_s, 0.0))
        job.account()
        if _is_given_up(job):
            break
        start_s = end_s
    job.over.succeed()


def _is_given_up(job: Job) -> bool:
    waits_for_ever = job.marks.resume_at_s == math.inf
    return waits_for_ever or bool(is_hopeless(job.spec, job.faults, job.now_s, job.work_s * job.step_factor))
